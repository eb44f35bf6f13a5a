"""Keys, codecs, operations and signed answers for tests of the channel codecs, in memory, created once per process."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from paycenter_server.channels.alipay.page import AlipayPcCodec
from paycenter_server.channels.alipay.qr import AlipayQrCodec
from paycenter_server.channels.alipay.signature import sign_content
from paycenter_server.channels.crypto import (
    RSAPrivateKey,
    aes_gcm_encrypt,
    alipay_cert_sn,
    certificate_serial,
    load_certificate,
    rsa_sign,
)
from paycenter_server.channels.protocol import (
    AttemptRef,
    CallbackRequest,
    HttpRequest,
    HttpResponse,
    PayRequest,
    RefundRequest,
    RequestContext,
)
from paycenter_server.channels.wechatpay.native import WechatNativeCodec
from paycenter_server.channels.wechatpay.signature import answer_message
from paycenter_server.simulator.certificates import CertificateMaker, new_rsa_key, private_pem, public_pem

# The certificates are valid from yesterday on, so the tests' "now" is the day they are made.
NOW = datetime.now(UTC).replace(microsecond=890123)
MOMENT = RequestContext(NOW, "0123456789abcdefghijklmnopqrstuv")
WX_GATEWAY = "https://wx.example.test"
ALI_GATEWAY = "https://ali.example.test/gateway.do"
PUBLIC_KEY_ID = "PUB_KEY_ID_0114232134912410000000000000"
API_V3_KEY = "0123456789abcdef0123456789ABCDEF"
NUMBER, REFUND_NUMBER = "P01JN2E3F4G5H6J7K8M9N0P1Q2R", "R01JN2E3F4G5H6J7K8M9N0P1Q2R"

PAY = PayRequest(
    out_trade_no=NUMBER, subject="一杯咖啡", body="", amount=1_000_000_000, currency="CNY",
    expire_time=NOW + timedelta(hours=2), callback_url="https://pay.example.test/callback/order/C1",
    return_url="https://shop.example.test/done?a=1&b=2", user_ip="203.0.113.9", extras={}, display_mode="",
)  # fmt: skip
ATTEMPT = AttemptRef(NUMBER, 1_000_000_000, "CNY", NOW - timedelta(minutes=5), NOW + timedelta(hours=2))
REFUND = RefundRequest(
    out_trade_no=NUMBER, out_refund_no=REFUND_NUMBER, amount=123_456_789, total=1_000_000_000, currency="CNY",
    reason="退货", callback_url="https://pay.example.test/callback/refund/C1", create_time=NOW - timedelta(minutes=1),
)  # fmt: skip


@dataclass(frozen=True)
class Keys:
    """Ours and the channels', with the certificates of two authorities of which only the first is trusted."""

    ours: RSAPrivateKey
    wechat: RSAPrivateKey
    platform: RSAPrivateKey
    alipay: RSAPrivateKey
    following: RSAPrivateKey
    authority: CertificateMaker
    stranger: CertificateMaker


@functools.cache
def keys() -> Keys:
    name = ("Ant Financial Certification Authority R1", "Certification Authority", "Ant Financial")
    wechat, platform, alipay, following = (new_rsa_key() for _ in range(4))
    # Loading a private key checks its primes: 52 ms for 2048 bits, 8 ms for 1024, at each of a hundred configurations.
    ours = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    return Keys(ours, wechat, platform, alipay, following, CertificateMaker(*name), CertificateMaker(*name))


@functools.cache
def certificate(owner: str) -> bytes:
    """PEM of a leaf under the trusted authority."""
    return keys().authority.issue(owner, getattr(keys(), owner))


def sm2_root() -> bytes:
    """Like the SM2 root of Alipay's bundle: it is readable, but neither its key nor its hash algorithm is."""
    der = load_certificate(CertificateMaker.elliptic_root("SM2 Root")).public_bytes(Encoding.DER)
    p256, sm2 = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a811ccf5501822d")
    ecdsa, sm3 = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a811ccf55018375")
    text = base64.encodebytes(der.replace(p256, sm2).replace(ecdsa, sm3))
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


def platform_serial() -> str:
    return certificate_serial(load_certificate(certificate("platform")))


def cert_sn(owner: str) -> str:
    return alipay_cert_sn(load_certificate(certificate(owner)))


@functools.cache
def _pem(name: str) -> str:
    return private_pem(keys().ours).decode() if name == "ours" else public_pem(getattr(keys(), name)).decode()


def wx_config(**changes: str) -> dict[str, str]:
    config = {
        "appid": "wx1234567890abcdef", "mchid": "1900000001", "private_key": _pem("ours"),
        "merchant_serial_no": "5F1C72E2A8931B72A2E13AF8DEE92471EB397115", "api_v3_key": API_V3_KEY,
        "public_key_id": PUBLIC_KEY_ID, "public_key": _pem("wechat"), "gateway_url": WX_GATEWAY,
    }  # fmt: skip
    return {**config, **changes}


def ali_config(**changes: str) -> dict[str, str]:
    config = {
        "app_id": "2021000000000001", "seller_id": "2088000000000001", "mode": "key", "private_key": _pem("ours"),
        "alipay_public_key": _pem("alipay"), "gateway_url": ALI_GATEWAY,
    }  # fmt: skip
    return {**config, **changes}


@functools.cache
def root_bundle() -> bytes:
    """Like Alipay's: an SM2 root, the RSA root, and one on another curve."""
    return b"\n".join((sm2_root(), keys().authority.root_pem(), CertificateMaker.elliptic_root("EC Root")))


def ali_cert_config(**changes: str) -> dict[str, str]:
    material = {
        "mode": "certificate", "app_cert": certificate("ours").decode(), "alipay_cert": certificate("alipay").decode(),
        "root_cert": root_bundle().decode(),
    }  # fmt: skip
    config = ali_config(**material, **changes)
    del config["alipay_public_key"]
    return config


@functools.cache
def wx() -> WechatNativeCodec:
    """Both key modes at once: WeChat's public key and a platform certificate."""
    return WechatNativeCodec(wx_config(platform_certificates=certificate("platform").decode()))


@functools.cache
def qr() -> AlipayQrCodec:
    return AlipayQrCodec(ali_config())


@functools.cache
def pc() -> AlipayPcCodec:
    return AlipayPcCodec(ali_config())


def cert_qr() -> AlipayQrCodec:
    """Certificate mode; a new codec each time, because it stores fetched keys."""
    return AlipayQrCodec(ali_cert_config())


def compact(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


# The side of WeChat Pay


def wx_headers(
    body: bytes, *, at: datetime = NOW, serial: str = PUBLIC_KEY_ID, key: RSAPrivateKey | None = None, nonce: str = "n0nce"
) -> dict[str, str]:
    timestamp = str(int(at.timestamp()))
    signature = rsa_sign(key or keys().wechat, answer_message(timestamp, nonce, body))
    return {
        "wechatpay-timestamp": timestamp, "wechatpay-nonce": nonce, "wechatpay-serial": serial,
        "wechatpay-signature": signature, "wechatpay-signature-type": "WECHATPAY2-SHA256-RSA2048",
    }  # fmt: skip


def wx_signed(document: object, status: int = 200, **how: Any) -> HttpResponse:
    body = document if isinstance(document, bytes) else compact(document)
    return HttpResponse(status, wx_headers(body, **how), body)


def wx_error(status: int, code: str, message: str = "出错了") -> HttpResponse:
    """An error answer of WeChat Pay, which has no signature."""
    return HttpResponse(status, {}, compact({"code": code, "message": message}))


def wx_transaction(state: str = "SUCCESS", **changes: Any) -> dict[str, Any]:
    paid = {"transaction_id": "4200002", "success_time": "2026-03-04T13:06:07+08:00", "payer": {"openid": "oUser"}}
    return {
        "appid": "wx1234567890abcdef", "mchid": "1900000001", "out_trade_no": NUMBER, "trade_state": state,
        "amount": {"total": 1_000_000_000, "currency": "CNY"}, **(paid if state in ("SUCCESS", "REFUND") else {}), **changes,
    }  # fmt: skip


def wx_refund(state: str = "SUCCESS", field: str = "status", **changes: Any) -> dict[str, Any]:
    return {
        "out_refund_no": REFUND_NUMBER, "out_trade_no": NUMBER, "refund_id": "5030001", field: state, "mchid": "1900000001",
        "success_time": "2026-03-04T13:06:07+08:00", "amount": {"refund": 123_456_789, "total": 1_000_000_000}, **changes,
    }  # fmt: skip


def wx_sealed(plain: bytes, associated: str = "transaction", nonce: str = "123456789012") -> dict[str, str]:
    sealed = aes_gcm_encrypt(API_V3_KEY.encode(), nonce.encode(), plain, associated.encode())
    return {
        "algorithm": "AEAD_AES_256_GCM", "ciphertext": base64.b64encode(sealed).decode(),
        "associated_data": associated, "nonce": nonce, "original_type": "transaction",
    }  # fmt: skip


def wx_callback(event: str, content: object, **how: Any) -> CallbackRequest:
    plain = content if isinstance(content, bytes) else compact(content)
    body = compact({"id": "1", "event_type": event, "resource_type": "encrypt-resource", "resource": wx_sealed(plain)})
    return CallbackRequest(wx_headers(body, **how), body)


# The side of Alipay


def ali_raw(method: str, source: str, *, key: RSAPrivateKey | None = None, sign: str | None = None, **more: str) -> bytes:
    """An envelope around exactly this text of a content."""
    fields = {**more, "sign": rsa_sign(key or keys().alipay, source.encode()) if sign is None else sign}
    rest = "".join(f',"{name}":{json.dumps(value)}' for name, value in fields.items() if value)
    return f'{{"{method.replace(".", "_")}_response":{source}{rest}}}'.encode()


def ali_signed(method: str, content: Mapping[str, Any], **how: Any) -> HttpResponse:
    return HttpResponse(200, {"content-type": "text/html;charset=utf-8"}, ali_raw(method, compact(content).decode(), **how))


def ali_unsigned(method: str, content: Mapping[str, Any]) -> HttpResponse:
    return ali_signed(method, content, sign="")


def ali_good(**content: Any) -> dict[str, Any]:
    return {"code": "10000", "msg": "Success", **content}


def ali_bad(sub_code: str, code: str = "40004") -> dict[str, str]:
    return {"code": code, "msg": "Business Failed", "sub_code": sub_code, "sub_msg": "出错了"}


def ali_trade(status: str = "TRADE_SUCCESS", **changes: Any) -> dict[str, Any]:
    trade = {"out_trade_no": NUMBER, "trade_no": "20260304", "trade_status": status, "total_amount": "10000000.00"}
    return {**trade, "buyer_user_id": "2088999", **changes}


def ali_form(
    fields: Mapping[str, str], key: RSAPrivateKey | None = None, charset: str = "utf-8", **headers: str
) -> CallbackRequest:
    """A callback, signed as Alipay does: without `sign` and `sign_type`, with empty values."""
    content = sign_content(fields, drop=("sign", "sign_type"), keep_empty=True).decode().encode(charset)
    signed = {**fields, "sign": rsa_sign(key or keys().alipay, content), "sign_type": "RSA2"}
    return CallbackRequest({**headers}, urlencode(signed, encoding=charset).encode())


def ali_callback(status: str = "TRADE_SUCCESS", **changes: str) -> dict[str, str]:
    fields = {
        "notify_type": "trade_status_sync", "notify_id": "n1", "charset": "utf-8", "app_id": "2021000000000001",
        "seller_id": "2088000000000001", "out_trade_no": NUMBER, "trade_no": "20260304", "trade_status": status,
        "total_amount": "10000000.00", "buyer_id": "2088999", "gmt_payment": "2026-03-04 13:06:07", "passback_params": "",
    }  # fmt: skip
    return {name: value for name, value in {**fields, **changes}.items() if value != "-"}


def sent(request: HttpRequest) -> dict[str, str]:
    """All parameters of an Alipay request, decoded once."""
    return {**dict(parse_qsl(urlsplit(request.url).query)), **dict(parse_qsl(request.body.decode()))}


def biz(request: HttpRequest) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(sent(request)["biz_content"])
    return document


def paying(**changes: Any) -> PayRequest:
    return replace(PAY, **changes)


def encoded(text: str) -> str:
    return quote(text, safe="")
