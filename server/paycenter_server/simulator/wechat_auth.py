"""WeChat Pay APIv3: who may call, and how answers and notifications are signed (channel sheet 2.1 to 2.3)."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from paycenter_server.channels.crypto import rsa_sign, rsa_verify
from paycenter_server.simulator.keys import SimulatorKeys

__all__ = ["PLATFORM", "PUBLIC_KEY", "WechatError", "check_request", "choose_signer", "signature_headers"]

PLATFORM = "platform"
PUBLIC_KEY = "public_key"
SCHEMA = "WECHATPAY2-SHA256-RSA2048"
_WINDOW_SECONDS = 300
_FIELD = re.compile(r'\s*([a-z_]+)="([^"]*)"\s*(?:,|$)')
_REQUIRED = {"mchid", "nonce_str", "timestamp", "serial_no", "signature"}


class WechatError(Exception):
    """An error answer; 4xx and 5xx are never signed."""

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
    """Refuse what WeChat refuses, in its order: headers, window, serial and merchant, signature. raw_path includes the query.

    The signature covers path and body as they came over the wire, because every SDK spaces and escapes JSON its own way.
    """
    if not headers.get("User-Agent") or not headers.get("Accept"):
        raise WechatError(400, "INVALID_REQUEST", "Http头缺少Accept或User-Agent")
    schema, _, rest = headers.get("Authorization", "").partition(" ")
    fields = dict(_FIELD.findall(rest))
    if schema != SCHEMA or not _REQUIRED.issubset(fields):
        raise _sign_error("Http头Authorization值格式错误,请参考微信支付商户REST API签名规则")
    # isdecimal() takes other scripts' digits too, and int() no more than some thousands
    if not re.fullmatch(r"[0-9]{1,15}", fields["timestamp"]) or abs(time.time() - int(fields["timestamp"])) > _WINDOW_SECONDS:
        raise _sign_error("Http头Authorization中的timestamp与发起请求的时间不得超过5分钟")
    if fields["serial_no"].upper() != keys.wechatpay["merchant_serial"]:
        raise _sign_error("商户证书序列号有误。请使用签名私钥匹配的证书序列号")
    if fields["mchid"] != keys.wechatpay["mchid"]:
        raise _sign_error("Http头Authorization中的mchid与商户证书不匹配")
    head = f"{method}\n{raw_path}\n{fields['timestamp']}\n{fields['nonce_str']}\n"
    signed = head.encode("utf-8", "surrogateescape") + body + b"\n"  # raw bytes in a path come as surrogates
    if not rsa_verify(keys.merchant_public_key, signed, fields["signature"]):
        # What was verified, but for the body: whoever writes a signer needs this more than anything.
        told = {
            "method": method,
            "url": raw_path,
            "sign_message_length": len(signed),
            "truncated_sign_message": head.encode("utf-8", "replace").decode(),
        }
        detail = {"field": "signature", "location": "authorization", "issue": "sign not match", "sign_information": told}
        raise WechatError(401, "SIGN_ERROR", "错误的签名,验签失败", detail=detail)


def choose_signer(keys: SimulatorKeys, headers: Mapping[str, str]) -> str:
    """Which key signs the answer: the one that the request's `Wechatpay-Serial` names, the platform certificate by default."""
    serial = headers.get("Wechatpay-Serial", "")
    if serial == keys.wechatpay["public_key_id"]:
        return PUBLIC_KEY
    if not serial or serial.upper() in (keys.wechatpay["platform_serial"], keys.wechatpay["platform_next_serial"]):
        return PLATFORM
    raise WechatError(400, "PARAM_ERROR", "Http头Wechatpay-Serial无效,既不是微信支付公钥ID也不是平台证书序列号")


def signature_headers(keys: SimulatorKeys, signer: str, body: bytes, how: str = "", *, rotated: bool = False) -> dict[str, str]:
    """The `Wechatpay-*` headers over these bytes; how: "", `unsigned`, `bad_signature`, `other_key` or `signtest`.

    rotated: the next platform certificate signs where a platform certificate does.
    """
    if how == "unsigned":
        return {}
    if how == "other_key":
        signer = PLATFORM if signer == PUBLIC_KEY else PUBLIC_KEY
    stamp, nonce = str(int(time.time())), secrets.token_hex(16)
    message = f"{stamp}\n{nonce}\n".encode() + body + b"\n"
    if signer == PUBLIC_KEY:
        key, serial = keys.public_key_private, keys.wechatpay["public_key_id"]
    elif rotated:
        key, serial = keys.platform_next_key, keys.wechatpay["platform_next_serial"]
    else:
        key, serial = keys.platform_key, keys.wechatpay["platform_serial"]
    signature = rsa_sign(key, message + b"tampered" if how == "bad_signature" else message)
    if how == "signtest":
        signature = "WECHATPAY/SIGNTEST/" + signature[len("WECHATPAY/SIGNTEST/") :]
    return {
        "Wechatpay-Timestamp": stamp,
        "Wechatpay-Nonce": nonce,
        "Wechatpay-Signature": signature,
        "Wechatpay-Serial": serial,
        "Wechatpay-Signature-Type": SCHEMA,
    }
