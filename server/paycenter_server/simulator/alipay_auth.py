"""Alipay gateway: who may call, and how answers, returns and notifications are signed (channel sheet 1.2, 1.3, 1.9)."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from paycenter_server.channels.crypto import rsa_sign, rsa_verify
from paycenter_server.simulator.alipay_call import AlipayError
from paycenter_server.simulator.alipay_content import seal_content
from paycenter_server.simulator.clock import parse_alipay_time
from paycenter_server.simulator.keys import SimulatorKeys

__all__ = ["answer_body", "check_request", "read_params", "sign_params"]

_TOLD = 2000
_REQUIRED = {"method": "method", "app_id": "app-id", "sign_type": "signature-type", "sign": "signature", "timestamp": "timestamp"}


def read_params(query: str, body: bytes) -> dict[str, str]:
    """All parameters, decoded once, whether they came in the query string or in a form body."""
    # Raw bytes in a query string come as surrogates, which nothing could sign or store.
    texts = (query.encode("utf-8", "surrogateescape"), body)
    params: dict[str, str] = {}
    for text in texts:
        params.update(parse_qsl(text.decode("utf-8", "replace"), keep_blank_values=True))
    return params


def _source(params: dict[str, str], *, without: tuple[str, ...], keep_empty: bool) -> bytes:
    items = sorted((name, value) for name, value in params.items() if name not in without and (value or keep_empty))
    return "&".join(f"{name}={value}" for name, value in items).encode()


def _missing(name: str) -> AlipayError:
    return AlipayError("40001", "Missing Required Arguments", f"isv.missing-{name}", f"缺少{name}参数")


def _invalid(code: str, text: str) -> AlipayError:
    return AlipayError("40002", "Invalid Arguments", code, text)


def check_request(keys: SimulatorKeys, params: dict[str, str]) -> None:
    """Refuse what the gateway refuses. The signature covers all parameters but `sign`; SDKs differ on empty ones, so both pass."""
    for name, spelt in _REQUIRED.items():
        if not params.get(name):
            raise _missing(spelt)
    if params["app_id"] != keys.alipay["app_id"]:
        raise _invalid("isv.invalid-app-id", "无效的AppID参数")
    if params["sign_type"] != "RSA2":
        raise _invalid("isv.invalid-signature-type", "无效签名类型")
    sources = [_source(params, without=("sign",), keep_empty=keep) for keep in (False, True)]
    if not any(rsa_verify(keys.app_public_key, source, params["sign"]) for source in sources):
        told = sources[0].decode("utf-8", "replace")[:_TOLD]
        text = "验签出错,建议检查签名字符串或签名私钥与应用公钥是否匹配,网关生成的验签字符串为:"
        raise _invalid("isv.invalid-signature", text + told)
    _check_certificates(keys, params)
    if params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise _invalid("isv.invalid-charset", "字符集错误")
    if params.get("format", "JSON").upper() != "JSON":
        raise _invalid("isv.invalid-format", "无效的数据格式")
    try:
        parse_alipay_time(params["timestamp"])
    except ValueError as error:
        raise _invalid("isv.invalid-timestamp", "时间戳参数无效") from error


def _check_certificates(keys: SimulatorKeys, params: dict[str, str]) -> None:
    if not params.get("app_cert_sn"):
        return
    if params["app_cert_sn"] != keys.alipay["app_cert_sn"]:
        raise _invalid("isv.invalid-app-cert-sn", "应用公钥证书SN与开放平台不匹配")
    if params.get("alipay_root_cert_sn") != keys.alipay["alipay_root_cert_sn"]:
        raise _invalid("isv.invalid-alipay-root-cert-sn", "支付宝根证书SN不匹配")


def answer_body(
    keys: SimulatorKeys,
    node: str,
    document: dict[str, Any],
    *,
    certificate_mode: bool,
    how: str,
    rotated: bool,
    sealed: bool = False,
) -> bytes:
    """The JSON text around a node, signed over the node's exact characters, slashes escaped as the gateway does.

    how: "", `unsigned`, `bad_signature`, or `slash` (signed before the slashes were escaped, which some answers are). rotated: in
    certificate mode the next certificate signs. sealed: the node is encrypted.
    """
    plain = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    content = seal_content(keys, plain) if sealed else plain.replace("/", "\\/")
    plain = content if sealed else plain
    text = f'{{"{node}":{content}'
    if certificate_mode:
        text += f',"alipay_cert_sn":"{keys.alipay["alipay_next_cert_sn" if rotated else "alipay_cert_sn"]}"'
    if how != "unsigned":
        signed = {"slash": plain, "bad_signature": content + " "}.get(how, content)
        key = keys.alipay_next_key if certificate_mode and rotated else keys.alipay_key
        text += f',"sign":"{rsa_sign(key, signed.encode())}"'
    return (text + "}").encode()


def sign_params(keys: SimulatorKeys, params: dict[str, str], how: str = "", *, rotated: bool = False) -> dict[str, str]:
    """A notification or return: signed over everything but `sign` and `sign_type`, empty values included."""
    source = _source(params, without=("sign", "sign_type"), keep_empty=True)
    if how == "bad_signature":
        source += b"&tampered=1"
    signed = dict(params, sign_type="RSA2")
    if how != "unsigned":
        signed["sign"] = rsa_sign(keys.alipay_next_key if rotated else keys.alipay_key, source)
    return signed
