"""WeChat Pay v2 on the wire: XML in and out, and its signatures (channel sheet 3)."""

from __future__ import annotations

import hashlib
import hmac
import re
import xml.etree.ElementTree as ElementTree

from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.ledger import random_text

__all__ = ["HMAC", "MD5", "V2Error", "check_request", "glance", "nonce", "parse_xml", "render_xml", "sign_fields", "signed_fields"]

MD5, HMAC = "MD5", "HMAC-SHA256"
_DECLARATION = re.compile(r"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_CONTROL = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NUMBERS = re.compile(rb"<(out_trade_no|transaction_id|out_refund_no)>\s*(?:<!\[CDATA\[)?([0-9A-Za-z_\-|*@]{1,64})[\s<\]]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class V2Error(Exception):
    """A failed call. With an empty code the failure is of the transport: return_code FAIL, and no signature; otherwise
    result_code FAIL with `err_code`, signed. more: further fields of the answer, such as `recall`."""

    def __init__(self, code: str, text: str, **more: str) -> None:
        super().__init__(f"{code} {text}".strip())
        self.code, self.text, self.more = code, text, more


def parse_xml(raw: bytes) -> dict[str, str]:
    """Fields of a flat `<xml>`. V2Error if it is anything else; declarations are refused before any parser sees them."""
    try:
        text = raw.decode()
        if _DECLARATION.search(text):
            raise V2Error("", "XML格式错误")
        root = ElementTree.fromstring(text)  # noqa: S314  (no declaration, so no entity, can be in it)
    except (UnicodeDecodeError, ElementTree.ParseError, ValueError) as error:
        raise V2Error("", "XML格式错误") from error
    fields = {child.tag: (child.text or "").strip() for child in root}
    if root.tag != "xml" or len(fields) != len(root) or any(len(child) for child in root):
        raise V2Error("", "XML格式错误")
    return fields


def glance(raw: bytes) -> dict[str, str]:
    """The numbers in a body, even in one that is not what it should be, for the log."""
    try:
        return parse_xml(raw)
    except V2Error:
        return {name.decode(): value.decode() for name, value in _NUMBERS.findall(raw)}


def render_xml(fields: dict[str, str], root: str = "xml") -> bytes:
    """Every value in CDATA, as WeChat writes them."""
    inside = "".join(f"<{name}><![CDATA[{value.replace(']]>', ']]]]><![CDATA[>')}]]></{name}>\n" for name, value in fields.items())
    assert all(_NAME.fullmatch(name) for name in fields)
    return f"<{root}>{inside}</{root}>".encode()


def sign_fields(key: str, fields: dict[str, str], kind: str) -> str:
    """Upper hexadecimal MD5 or HMAC-SHA256 over the sorted fields, without empty ones and `sign`, and the key."""
    source = "&".join(f"{name}={value}" for name, value in sorted(fields.items()) if value and name != "sign") + f"&key={key}"
    if kind == HMAC:
        return hmac.new(key.encode(), source.encode(), hashlib.sha256).hexdigest().upper()
    return hashlib.md5(source.encode(), usedforsecurity=False).hexdigest().upper()


def signed_fields(keys: SimulatorKeys, fields: dict[str, str], kind: str, how: str = "") -> dict[str, str]:
    """An answer or notification with its signature; how: "", `unsigned` or `bad_signature`."""
    # What XML cannot carry unchanged must not be signed either.
    told = {name: _CONTROL.sub("", value) for name, value in fields.items()}
    if how == "unsigned":
        return told
    return told | {"sign": sign_fields(keys.wechatpay["apiv2_key"] + ("x" if how == "bad_signature" else ""), told, kind)}


def check_request(keys: SimulatorKeys, fields: dict[str, str]) -> str:
    """Refuse what WeChat refuses, and say how the request is signed; all these failures are of the transport."""
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
    if not hmac.compare_digest(sign_fields(ids["apiv2_key"], fields, kind).encode(), fields["sign"].encode()):
        raise V2Error("", "签名错误")
    return kind


def nonce() -> str:
    """A fresh `nonce_str`."""
    return random_text(32)
