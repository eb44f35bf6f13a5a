"""Alipay's optional encryption of the contents: AES-CBC, zero IV, PKCS#7, base64 (channel sheet 1.4)."""

from __future__ import annotations

import base64
from typing import Any

from paycenter_server.channels.crypto import CryptoError, aes_cbc_decrypt, aes_cbc_encrypt, b64decode
from paycenter_server.simulator.alipay_call import AlipayError
from paycenter_server.simulator.inputs import read_json
from paycenter_server.simulator.keys import SimulatorKeys

__all__ = ["read_content", "seal_content"]


def _key(keys: SimulatorKeys) -> bytes:
    return base64.b64decode(keys.alipay["aes_key"])


def _invalid(code: str, text: str) -> AlipayError:
    return AlipayError("40002", "Invalid Arguments", code, text)


def read_content(keys: SimulatorKeys, params: dict[str, str]) -> dict[str, Any]:
    """`biz_content` as a document, decrypted if `encrypt_type` says so; numbers that are not whole as their text."""
    text = params.get("biz_content") or ""
    kind = params.get("encrypt_type", "")
    if kind not in ("", "AES"):
        raise _invalid("isv.invalid-encrypt-type", "无效的加密类型")
    if kind and text:
        try:
            text = aes_cbc_decrypt(_key(keys), b64decode(text)).decode()
        except (CryptoError, UnicodeDecodeError) as error:
            raise _invalid("isv.decryption-error-unknown", "解密出错,未知异常") from error
    try:
        document = read_json(text or "{}", exact=True)
    except ValueError as error:
        raise _invalid("isv.invalid-parameter", "biz_content不是有效的JSON") from error
    if not isinstance(document, dict):
        raise _invalid("isv.invalid-parameter", "biz_content不是JSON对象")
    return document


def seal_content(keys: SimulatorKeys, text: str) -> str:
    """The node of an encrypted answer: a JSON string with its quotes, whose slashes are not escaped (SDKs cut it out raw)."""
    return '"' + base64.b64encode(aes_cbc_encrypt(_key(keys), text.encode())).decode() + '"'
