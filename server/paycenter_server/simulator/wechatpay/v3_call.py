"""One call of APIv3: verification, checked parameters, errors, and signatures.

Sources: WeChat Pay APIv3, request signature; response and notification verification; public key mode.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paycenter_server.channels.crypto import rsa_sign, rsa_verify
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.state import Simulator
from paycenter_server.simulator.trades import WECHATPAY_V3, Trade

__all__ = ["PLATFORM", "PUBLIC_KEY", "WechatCall", "WechatError", "check_request", "choose_signer", "invalid", "signature_headers"]

PLATFORM = "platform"
PUBLIC_KEY = "public_key"
SCHEMA = "WECHATPAY2-SHA256-RSA2048"
_WINDOW_SECONDS = 300
_FIELD = re.compile(r'\s*([a-z_]+)="([^"]*)"\s*(?:,|$)')
_REQUIRED = {"mchid", "nonce_str", "timestamp", "serial_no", "signature"}


class WechatError(Exception):
    """An error answer. Answers with 4xx and 5xx have no signature."""

    def __init__(self, status: int, code: str, message: str, field: str = "", detail: dict[str, Any] | None = None) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message = status, code, message
        self.detail = {"location": "body", "field": field, "issue": message} if field and detail is None else detail

    def document(self) -> dict[str, Any]:
        """The JSON body."""
        document: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.detail:
            document["detail"] = self.detail
        return document


def _sign_error(message: str) -> WechatError:
    return WechatError(401, "SIGN_ERROR", message)


def check_request(keys: SimulatorKeys, method: str, raw_path: str, headers: Mapping[str, str], body: bytes) -> None:
    """Check headers, time stamp, serial, merchant and signature, in the order of WeChat Pay. raw_path includes the query.

    The signature covers the exact bytes of path and body, because SDKs format and escape JSON differently.
    """
    if not headers.get("User-Agent") or not headers.get("Accept"):
        raise WechatError(400, "INVALID_REQUEST", "Http头缺少Accept或User-Agent")
    schema, _, rest = headers.get("Authorization", "").partition(" ")
    fields = dict(_FIELD.findall(rest))
    if schema != SCHEMA or not _REQUIRED.issubset(fields):
        raise _sign_error("Http头Authorization值格式错误,请参考微信支付商户REST API签名规则")
    # isdecimal() accepts the digits of other scripts, and int() has a length limit
    if not re.fullmatch(r"[0-9]{1,15}", fields["timestamp"]) or abs(time.time() - int(fields["timestamp"])) > _WINDOW_SECONDS:
        raise _sign_error("Http头Authorization中的timestamp与发起请求的时间不得超过5分钟")
    merchant_key = keys.merchant.wechatpay(fields["serial_no"].upper())
    if merchant_key is None:
        raise _sign_error("商户证书序列号有误。请使用签名私钥匹配的证书序列号")
    if fields["mchid"] != keys.wechatpay["mchid"]:
        raise _sign_error("Http头Authorization中的mchid与商户证书不匹配")
    head = f"{method}\n{raw_path}\n{fields['timestamp']}\n{fields['nonce_str']}\n"
    signed = head.encode("utf-8", "surrogateescape") + body + b"\n"  # aiohttp represents raw bytes as surrogates
    if not rsa_verify(merchant_key, signed, fields["signature"]):
        # The verified text without the body, for the developer of the client.
        information = {
            "method": method,
            "url": raw_path,
            "sign_message_length": len(signed),
            "truncated_sign_message": head.encode("utf-8", "replace").decode(),
        }
        detail = {"field": "signature", "location": "authorization", "issue": "sign not match", "sign_information": information}
        raise WechatError(401, "SIGN_ERROR", "错误的签名,验签失败", detail=detail)


def choose_signer(keys: SimulatorKeys, headers: Mapping[str, str]) -> str:
    """The key that signs the answer: that of the request's `Wechatpay-Serial`, or the platform certificate."""
    serial = headers.get("Wechatpay-Serial", "")
    if serial == keys.wechatpay["public_key_id"]:
        return PUBLIC_KEY
    if not serial or serial.upper() in (keys.wechatpay["platform_serial"], keys.wechatpay["platform_next_serial"]):
        return PLATFORM
    raise WechatError(400, "PARAM_ERROR", "Http头Wechatpay-Serial无效,既不是微信支付公钥ID也不是平台证书序列号")


def signature_headers(
    keys: SimulatorKeys, signer: str, body: bytes, signature_fault: str = "", *, rotated: bool = False
) -> dict[str, str]:
    """The `Wechatpay-*` headers over these bytes; signature_fault: "", `unsigned`, `bad_signature`, `other_key` or `signtest`.

    rotated: the next platform certificate signs instead of the current one.
    """
    if signature_fault == "unsigned":
        return {}
    if signature_fault == "other_key":
        signer = PLATFORM if signer == PUBLIC_KEY else PUBLIC_KEY
    stamp, nonce = str(int(time.time())), secrets.token_hex(16)
    message = f"{stamp}\n{nonce}\n".encode() + body + b"\n"
    if signer == PUBLIC_KEY:
        key, serial = keys.public_key_private, keys.wechatpay["public_key_id"]
    elif rotated:
        key, serial = keys.platform_next_key, keys.wechatpay["platform_next_serial"]
    else:
        key, serial = keys.platform_key, keys.wechatpay["platform_serial"]
    signature = rsa_sign(key, message + b"tampered" if signature_fault == "bad_signature" else message)
    if signature_fault == "signtest":
        signature = "WECHATPAY/SIGNTEST/" + signature[len("WECHATPAY/SIGNTEST/") :]
    return {
        "Wechatpay-Timestamp": stamp,
        "Wechatpay-Nonce": nonce,
        "Wechatpay-Signature": signature,
        "Wechatpay-Serial": serial,
        "Wechatpay-Signature-Type": SCHEMA,
    }


def invalid(field: str, message: str) -> WechatError:
    """A 400 PARAM_ERROR about one field."""
    return WechatError(400, "PARAM_ERROR", message, field)


@dataclass
class WechatCall:
    """The input of an operation. api: the name in fault rules (`wx.native`). signer: the key mode of the request. origin: scheme,
    host and port of the request."""

    simulator: Simulator
    api: str
    signer: str
    body: dict[str, Any]
    path: dict[str, str]
    query: dict[str, str]
    rule: FaultRule | None = None
    origin: str = ""
    note: str = ""
    """A note for the log about a call that WeChat Pay accepts but does not recommend."""

    @property
    def fault(self) -> str:
        """The fault of this call, or ""."""
        return self.rule.fault if self.rule else ""

    def _value(self, name: str) -> str:
        value = self.path.get(name) or self.body.get(name) or ""
        return value if isinstance(value, str) else ""

    @property
    def trade(self) -> Trade | None:
        """The trade of the call, found by any of its numbers."""
        trades = self.simulator.trades
        number, transaction = self._value("out_trade_no"), self._value("transaction_id")
        if number or transaction:
            return trades.get(WECHATPAY_V3, number, transaction)
        refund = self._value("out_refund_no")
        return trades.by_refund(WECHATPAY_V3, refund) if refund else None

    @property
    def number(self) -> str:
        """The number of the trade, for the log."""
        trade = self.trade
        return trade.number if trade else self._value("out_trade_no")

    @property
    def numbers(self) -> set[str]:
        """All numbers by which a fault rule can refer to this call."""
        return {self.number, self._value("out_refund_no")} - {""}

    def text(self, field: str, limit: int, *, required: bool = True) -> str:
        """A string of the body, at most `limit` characters."""
        value = self.body.get(field, "")
        if not isinstance(value, str) or len(value) > limit:
            raise invalid(field, f"输入源“/body/{field}”映射到值字段“{field}”字符串规则校验失败")
        if required and not value:
            raise invalid(field, f"缺少必填参数{field}")
        return value

    def part(self, field: str) -> dict[str, Any]:
        """An object of the body; {} if absent."""
        value = self.body.get(field, {})
        if not isinstance(value, dict):
            raise invalid(field, f"{field}必须是对象")
        return value

    def check_merchant(self, given: object) -> None:
        """Check that the merchant in body or query is the one of the signature."""
        if given != self.simulator.keys.wechatpay["mchid"]:
            raise invalid("mchid", "mchid与Http头Authorization中的mchid不一致")
