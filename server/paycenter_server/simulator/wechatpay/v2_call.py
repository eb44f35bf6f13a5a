"""One call of APIv2: XML, signatures, checked parameters and errors.

Source: WeChat Pay APIv2, interface rules; signature algorithm.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

from paycenter_server.simulator.clock import CHINA
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.state import Simulator
from paycenter_server.simulator.trades import WECHATPAY_V3, Trade, random_text

__all__ = [
    "HMAC",
    "MD5",
    "V2Call",
    "V2Error",
    "check_request",
    "compact_time",
    "nonce",
    "order_missing",
    "parse_xml",
    "partial_fields",
    "render_xml",
    "sign_fields",
    "signed_fields",
]

MD5, HMAC = "MD5", "HMAC-SHA256"
_DECLARATION = re.compile(r"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_CONTROL = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NUMBERS = re.compile(rb"<(out_trade_no|transaction_id|out_refund_no)>\s*(?:<!\[CDATA\[)?([0-9A-Za-z_\-|*@]{1,64})[\s<\]]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class V2Error(Exception):
    """A failed call. With an empty code the answer has return_code FAIL and no signature. Otherwise it has result_code FAIL
    and `err_code`, and is signed. more: further fields of the answer, such as `recall`."""

    def __init__(self, code: str, text: str, **more: str) -> None:
        super().__init__(f"{code} {text}".strip())
        self.code, self.text, self.more = code, text, more


def parse_xml(raw: bytes) -> dict[str, str]:
    """Fields of a flat `<xml>`. V2Error if it is anything else. Declarations are refused before parsing."""
    try:
        text = raw.decode()
        if _DECLARATION.search(text):
            raise V2Error("", "XML格式错误")
        root = ElementTree.fromstring(text)  # noqa: S314  (declarations, and so entities, are refused above)
    except (UnicodeDecodeError, ElementTree.ParseError, ValueError) as error:
        raise V2Error("", "XML格式错误") from error
    fields = {child.tag: (child.text or "").strip() for child in root}
    if root.tag != "xml" or len(fields) != len(root) or any(len(child) for child in root):
        raise V2Error("", "XML格式错误")
    return fields


def partial_fields(raw: bytes) -> dict[str, str]:
    """The numbers in a body, even if it is not valid XML, for the log."""
    try:
        return parse_xml(raw)
    except V2Error:
        return {name.decode(): value.decode() for name, value in _NUMBERS.findall(raw)}


def render_xml(fields: dict[str, str], root: str = "xml") -> bytes:
    """XML with every value in CDATA, as WeChat Pay formats it."""
    inside = "".join(f"<{name}><![CDATA[{value.replace(']]>', ']]]]><![CDATA[>')}]]></{name}>\n" for name, value in fields.items())
    assert all(_NAME.fullmatch(name) for name in fields)
    return f"<{root}>{inside}</{root}>".encode()


def sign_fields(key: str, fields: dict[str, str], kind: str) -> str:
    """Upper hexadecimal MD5 or HMAC-SHA256 over the sorted fields, without empty ones and `sign`, and the key."""
    source = "&".join(f"{name}={value}" for name, value in sorted(fields.items()) if value and name != "sign") + f"&key={key}"
    if kind == HMAC:
        return hmac.new(key.encode(), source.encode(), hashlib.sha256).hexdigest().upper()
    return hashlib.md5(source.encode(), usedforsecurity=False).hexdigest().upper()


def signed_fields(keys: SimulatorKeys, fields: dict[str, str], kind: str, signature_fault: str = "") -> dict[str, str]:
    """An answer or notification with its signature; signature_fault: "", `unsigned` or `bad_signature`."""
    # Characters that XML cannot represent are removed before signing.
    sent = {name: _CONTROL.sub("", value) for name, value in fields.items()}
    if signature_fault == "unsigned":
        return sent
    return sent | {
        "sign": sign_fields(keys.merchant.secrets("apiv2_key")[0] + ("x" if signature_fault == "bad_signature" else ""), sent, kind)
    }


def check_request(keys: SimulatorKeys, fields: dict[str, str]) -> str:
    """Check the common fields and the signature. Returns the signature type. All errors have return_code FAIL."""
    ids = keys.wechatpay
    for name in ("appid", "mch_id", "nonce_str", "sign"):
        if not fields.get(name):
            raise V2Error("", f"缺少参数{name}")
    if len(fields["nonce_str"]) > 32:
        raise V2Error("", "nonce_str不能超过32个字符")
    kind = fields.get("sign_type") or MD5
    if kind not in (MD5, HMAC):
        raise V2Error("", "签名类型错误")
    if fields["mch_id"] != ids["mchid"]:
        raise V2Error("", "商户号mch_id不存在")
    if fields["appid"] != ids["appid"]:
        raise V2Error("", "appid和mch_id不匹配")
    signs = [sign_fields(key, fields, kind).encode() for key in keys.merchant.secrets("apiv2_key")]
    if not any(hmac.compare_digest(sign, fields["sign"].encode()) for sign in signs):
        raise V2Error("", "签名错误")
    return kind


def nonce() -> str:
    """A fresh `nonce_str`."""
    return random_text(32)


_MAX_FEN = 10**10


def order_missing() -> V2Error:
    """The error for an unknown trade."""
    return V2Error("ORDERNOTEXIST", "订单不存在")


def compact_time(moment: float) -> str:
    """The format of APIv2, `20260102030405`, always at +08:00."""
    return datetime.datetime.fromtimestamp(int(moment), CHINA).strftime("%Y%m%d%H%M%S")


@dataclass
class V2Call:
    """The input of an operation. api: the name in fault rules (`wx2.unifiedorder`). kind: the signature type of the request."""

    simulator: Simulator
    api: str
    kind: str
    fields: dict[str, str]
    rule: FaultRule | None = None
    note: str = ""
    """A note for the log about a call that WeChat Pay accepts but does not recommend."""

    @property
    def fault(self) -> str:
        """The fault of this call, or ""."""
        return self.rule.fault if self.rule else ""

    @property
    def trade(self) -> Trade | None:
        """The trade of the call. v2 and v3 share their trades."""
        trades = self.simulator.trades
        number, transaction = self.optional("out_trade_no"), self.optional("transaction_id")
        if number or transaction:
            return trades.get(WECHATPAY_V3, "" if transaction else number, transaction)
        refund = self.optional("out_refund_no")
        return trades.by_refund(WECHATPAY_V3, refund) if refund else None

    @property
    def number(self) -> str:
        """The number of the trade, for the log."""
        trade = self.trade
        return trade.number if trade else self.optional("out_trade_no")

    @property
    def numbers(self) -> set[str]:
        """All numbers by which a fault rule can refer to this call."""
        return {self.number, self.optional("out_refund_no")} - {""}

    def required_trade(self) -> Trade:
        """The trade, or ORDERNOTEXIST."""
        if not self.optional("out_trade_no") and not self.optional("transaction_id"):
            raise V2Error("", "缺少参数out_trade_no或transaction_id")
        trade = self.trade
        if trade is None:
            raise order_missing()
        return trade

    def optional(self, field: str) -> str:
        """A field; "" if absent."""
        return self.fields.get(field, "")

    def text(self, field: str, limit: int) -> str:
        """A required field of at most `limit` characters."""
        value = self.optional(field)
        if not value:
            raise V2Error("", f"缺少参数{field}")
        if len(value) > limit:
            raise V2Error("PARAM_ERROR", f"{field}长度超过限制")
        return value

    def fen(self, field: str) -> int:
        """A required amount in fen, at least one."""
        value = self.text(field, 11)
        if not (value.isascii() and value.isdecimal()) or not 1 <= int(value) <= _MAX_FEN:
            raise V2Error("", f"invalid {field}")
        return int(value)

    def expiry(self, max_seconds: float) -> float:
        """The end of the time to pay, from time_expire. The minimum is one minute."""
        now, value = self.simulator.clock.now(), self.optional("time_expire")
        if not value:
            return now + max_seconds
        try:
            moment = datetime.datetime.strptime(value, "%Y%m%d%H%M%S").replace(tzinfo=CHINA).timestamp()
        except (ValueError, OverflowError) as error:
            raise V2Error("PARAM_ERROR", "time_expire格式错误") from error
        if moment > now + max_seconds + 60:
            raise V2Error("PARAM_ERROR", "time_expire超过最长支付时间")
        return max(moment, now + 60)
