"""Every published WeChat v3 vector goes through our own code."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from contract.vector_files import WECHAT_FILES, Vector, cases, load, needs_vectors
from paycenter_server.channels.crypto import (
    CryptoError,
    RSAPublicKey,
    aes_gcm_decrypt,
    aes_gcm_encrypt,
    b64decode,
    certificate_public_key,
    certificate_serial,
    load_certificate,
    load_private_key,
    load_public_key,
    rsa_sign,
    rsa_verify,
)
from paycenter_server.channels.protocol import AnswerError, CallbackError, CallbackRequest, UnknownKeyError
from paycenter_server.channels.wechatpay.native import WechatNativeCodec
from paycenter_server.channels.wechatpay.signature import (
    Verifier,
    answer_message,
    decrypt_resource,
    read_certificates,
    request_message,
)
from unit.channel_support import wx_config


def _key(vector: Vector) -> RSAPublicKey:
    if "public_key_pem" in vector:
        return load_public_key(vector["public_key_pem"])
    return certificate_public_key(load_certificate(vector.get("cert_pem") or vector["platform_cert_pem"]))


def _at(seconds: int | str) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def _sign(vector: Vector) -> None:
    message = vector["message"].encode()
    parts = message.split(b"\n", 4)
    if vector["message"].startswith(("POST\n", "GET\n")):
        method, target, timestamp, nonce = (part.decode() for part in parts[:4])
        assert request_message(method, target, timestamp, nonce, parts[4].removesuffix(b"\n")) == message
    assert rsa_verify(_key(vector), message, vector["signature_b64"])
    assert not rsa_verify(_key(vector), message + b"\n", vector["signature_b64"])
    if "private_key_pem" in vector:
        assert rsa_sign(load_private_key(vector["private_key_pem"]), message) == vector["signature_b64"]
    if "serial_no" in vector:
        _serial(vector)


def _verify(vector: Vector) -> None:
    headers = {name.lower(): value for name, value in vector["headers"].items()}
    headers.setdefault("wechatpay-serial", "PUB_KEY_ID_OF_THE_PAGE")
    body, now = vector["body"].encode(), _at(headers["wechatpay-timestamp"])
    assert answer_message(headers["wechatpay-timestamp"], headers["wechatpay-nonce"], body).decode() == vector["message"]
    verifier = Verifier({headers["wechatpay-serial"]: _key(vector)})
    for seconds in (-300, 0, 300):
        verifier.verify(headers, body, now + timedelta(seconds=seconds))
    for seconds in (-301, 301):
        with pytest.raises(AnswerError, match="5 minutes"):
            verifier.verify(headers, body, now + timedelta(seconds=seconds))
    with pytest.raises(AnswerError, match="does not verify"):
        verifier.verify(headers, body + b" ", now)
    with pytest.raises(UnknownKeyError):
        verifier.verify({**headers, "wechatpay-serial": "ANOTHER"}, body, now)


def _verify_negative(vector: Vector) -> None:
    assert not rsa_verify(_key(vector), vector["message"].encode(), vector["signature_b64"])


def _shape(vector: Vector) -> None:
    timestamp, nonce, rest = vector["message"].split("\n", 2)
    assert rest == "\n"
    assert answer_message(timestamp, nonce, b"").decode() == vector["message"]


def _serial(vector: Vector) -> None:
    certificate = load_certificate(vector["cert_pem"])
    assert certificate_serial(certificate) == vector["serial_no"]
    key = certificate_public_key(certificate)
    if "public_key_pem" in vector:
        assert key.public_numbers() == load_public_key(vector["public_key_pem"]).public_numbers()
    if "signature_b64" in vector:
        assert rsa_verify(key, vector["message"].encode(), vector["signature_b64"])


def _notify(vector: Vector) -> None:
    headers = {name.lower(): value for name, value in vector["headers"].items()}
    body, now = vector["body"].encode(), _at(vector["fixed_now"])
    Verifier({headers["wechatpay-serial"]: _key(vector)}).verify(headers, body, now)
    plain = decrypt_resource(vector["apiv3_key"].encode(), json.loads(body)["resource"])
    assert plain.decode() == vector["plaintext"]
    config = wx_config(api_v3_key=vector["apiv3_key"], platform_certificates=vector["platform_cert_pem"])
    codec = WechatNativeCodec(config)
    parsed = codec.parse_callback(CallbackRequest(headers, body), now)
    assert (parsed.payment, parsed.refund, parsed.raw) == (None, None, vector["plaintext"])
    with pytest.raises(CallbackError):
        codec.parse_callback(CallbackRequest(headers, body.replace("签约".encode(), "解约".encode())), now)
    with pytest.raises(CallbackError):
        codec.parse_callback(CallbackRequest(headers, body), now + timedelta(seconds=301))


def _certificates(vector: Vector) -> None:
    found = read_certificates(vector["apiv3_key"].encode(), vector["body"].encode())
    assert found == {one["serial_no"]: load_certificate(one["pem"]) for one in vector["certs"]}
    with pytest.raises(AnswerError):
        read_certificates(b"x" * len(vector["apiv3_key"]), vector["body"].encode())


def _aes_gcm(vector: Vector) -> None:
    key, nonce, associated = (vector[name].encode() for name in ("apiv3_key", "nonce", "associated_data"))
    ciphertext, plain = b64decode(vector["ciphertext_b64"]), vector["plaintext"].encode()
    assert aes_gcm_decrypt(key, nonce, ciphertext, associated) == plain
    assert aes_gcm_encrypt(key, nonce, plain, associated) == ciphertext
    resource = {"algorithm": "AEAD_AES_256_GCM", "nonce": vector["nonce"], "ciphertext": vector["ciphertext_b64"]}
    assert decrypt_resource(key, {**resource, "associated_data": vector["associated_data"]}) == plain
    with pytest.raises(CryptoError):
        decrypt_resource(key, {**resource, "associated_data": "other"})
    with pytest.raises(CryptoError):
        aes_gcm_decrypt(key, nonce, ciphertext[:-1] + bytes([ciphertext[-1] ^ 1]), associated)
    if "serial_no" in vector:
        assert certificate_serial(load_certificate(plain)) == vector["serial_no"]


HANDLERS: dict[str, Callable[[Vector], None]] = {
    "rsa-sha256-sign": _sign,
    "rsa-sha256-verify": _verify,
    "rsa-sha256-verify-negative": _verify_negative,
    "message-shape": _shape,
    "cert-serial": _serial,
    "notify": _notify,
    "certificates": _certificates,
    "aes-gcm": _aes_gcm,
}


@needs_vectors
@pytest.mark.parametrize("vector", cases(WECHAT_FILES))
def test_vector(vector: Vector) -> None:
    HANDLERS[vector["kind"]](vector)


@needs_vectors
def test_every_vector_is_exercised() -> None:
    vectors = load(WECHAT_FILES)
    assert len({vector["id"] for vector in vectors}) == len(vectors) == 18
    assert {vector["kind"] for vector in vectors} == set(HANDLERS)
