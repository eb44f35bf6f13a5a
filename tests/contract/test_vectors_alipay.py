"""Every published Alipay vector goes through our own code."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit

import pytest
from contract.vector_files import ALIPAY_FILES, ELSEWHERE, WECHAT_FILES, Vector, cases, load, needs_vectors
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from paycenter_server.channels.alipay.config import check
from paycenter_server.channels.alipay.qr import AlipayQrCodec
from paycenter_server.channels.alipay.signature import (
    extract_signed,
    parse_form,
    sign_content,
    verify_answer,
    verify_callback,
)
from paycenter_server.channels.crypto import (
    CryptoError,
    RSAPublicKey,
    aes_cbc_decrypt,
    aes_cbc_encrypt,
    alipay_cert_sn,
    alipay_root_cert_sn,
    b64decode,
    certificate_public_key,
    load_certificate,
    load_certificates,
    load_public_key,
)
from paycenter_server.channels.protocol import AnswerError, CallbackError, CallbackRequest, HttpResponse, QueryStatus
from support.vectors import VECTORS
from unit.channel_support import MOMENT, ali_cert_config, ali_config, ali_good, ali_signed, cert_sn, certificate

# parse_callback has no time window; the time does not matter.
NOW = datetime(2024, 1, 1, tzinfo=UTC)


def _key(vector: Vector) -> RSAPublicKey:
    if "alipay_public_cert_pem" in vector:
        return certificate_public_key(load_certificate(vector["alipay_public_cert_pem"]))
    return load_public_key(vector.get("alipay_public_key_pem") or vector["alipay_public_key"])


def _codec(vector: Vector) -> AlipayQrCodec:
    pem = _key(vector).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return AlipayQrCodec(ali_config(alipay_public_key=pem))


def _sync(vector: Vector) -> None:
    node = vector.get("response_key") or vector["method"].replace(".", "_") + "_response"
    source, signature = vector["sign_source"], vector["sign_b64"]
    raw = vector.get("raw") or f'{{"{node}":{source},"sign":"{signature}"}}'
    assert extract_signed(raw, node) == source
    assert verify_answer(_key(vector), source, signature)
    assert not verify_answer(_key(vector), source.replace("10000", "10001"), signature)
    gateway = _codec(vector).gateway
    answer = gateway.read(vector["method"], HttpResponse(200, {}, raw.encode()))
    assert answer.signed
    assert answer.content == json.loads(source)
    with pytest.raises(AnswerError, match="does not verify"):
        gateway.read(vector["method"], HttpResponse(200, {}, raw.replace("Success", "success").encode()))


def _extract(vector: Vector) -> None:
    assert extract_signed(vector["raw"], vector["response_key"]) == vector["sign_source"]


def _dropped(vector: Vector) -> tuple[str, ...]:
    return ("sign",) if "KEEP sign_type" in vector.get("rule", "") else ("sign", "sign_type")


def _notify(vector: Vector) -> None:
    params = vector["params"]
    body = urlencode(params).encode()
    assert parse_form(body) == params
    assert sign_content(params, drop=_dropped(vector), keep_empty=True).decode() == vector["sign_content"]
    assert verify_callback(_key(vector), params)
    outcome = _codec(vector).parse_callback(CallbackRequest({}, body), NOW)
    assert json.loads(outcome.raw) == params
    if params["notify_type"] != "trade_status_sync":
        assert outcome.payment is None
        return
    assert outcome.payment is not None
    assert outcome.payment.status is QueryStatus.PAID
    payment = outcome.payment.payment
    assert payment is not None
    assert payment.account == {"app_id": params["app_id"], "seller_id": params["seller_id"]}
    assert (payment.out_trade_no, payment.channel_order_no) == (params["out_trade_no"], params["trade_no"])
    assert payment.amount == {"0.10": 10, "0.01": 1}[params["total_amount"]]
    assert payment.channel_user_id == params["buyer_id"]
    assert payment.success_time == datetime.fromisoformat(params["gmt_payment"] + "+08:00")
    decoded_twice = urlencode({**params, "subject": params["subject"].replace("+", " ")}).encode()
    if "+" in params["subject"]:
        with pytest.raises(CallbackError):
            _codec(vector).parse_callback(CallbackRequest({}, decoded_twice), NOW)


def _notify_negative(vector: Vector) -> None:
    assert not verify_callback(_key(vector), vector["params"])
    with pytest.raises(CallbackError, match="does not verify"):
        _codec(vector).parse_callback(CallbackRequest({}, urlencode(vector["params"]).encode()), NOW)


def _return(vector: Vector) -> None:
    params = parse_form(urlsplit(vector["url"]).query.encode())
    assert params == vector["params"]
    assert sign_content(params, drop=("sign", "sign_type"), keep_empty=True).decode() == vector["sign_content"]
    assert verify_callback(_key(vector), params)
    assert not verify_callback(_key(vector), {**params, "total_amount": "0.02"})


def _cert_sn(vector: Vector) -> None:
    certificate = load_certificate(vector["cert_pem"])
    assert alipay_cert_sn(certificate) == vector["sn"]
    if "issuer_rfc2253" in vector:
        assert certificate.issuer.rfc4514_string() == vector["issuer_rfc2253"]
        assert str(certificate.serial_number) == vector["serial_decimal"]


def _root_cert_sn(vector: Vector) -> None:
    assert alipay_root_cert_sn(vector["cert_pem"]) == vector["sn"]
    assert vector["cert_pem"].count("BEGIN CERTIFICATE") > len(load_certificates(vector["cert_pem"])) >= 2


def _aes_cbc(vector: Vector) -> None:
    key, ciphertext = b64decode(vector["key_b64"]), b64decode(vector["ciphertext_b64"])
    assert aes_cbc_decrypt(key, ciphertext).decode() == vector["plaintext"]
    assert aes_cbc_encrypt(key, vector["plaintext"].encode()) == ciphertext
    with pytest.raises(CryptoError):
        aes_cbc_decrypt(key, ciphertext[:-1])


HANDLERS: dict[str, Callable[[Vector], None]] = {
    "alipay-sync-response": _sync,
    "alipay-extract": _extract,
    "alipay-notify": _notify,
    "alipay-notify-negative": _notify_negative,
    "alipay-return": _return,
    "alipay-cert-sn": _cert_sn,
    "alipay-root-cert-sn": _root_cert_sn,
    "alipay-aes-cbc-pkcs7-zero-iv": _aes_cbc,
}


@needs_vectors
@pytest.mark.parametrize("vector", cases(ALIPAY_FILES))
def test_vector(vector: Vector) -> None:
    HANDLERS[vector["kind"]](vector)


@needs_vectors
def test_the_real_root_bundle_does_not_stand_in_the_way_of_a_rotation() -> None:
    bundle = next(vector["cert_pem"] for vector in load(ALIPAY_FILES) if vector["kind"] == "alipay-root-cert-sn")
    config = ali_cert_config() | {"root_cert": bundle + "\n" + ali_cert_config()["root_cert"]}
    assert check(config) == []
    codec = AlipayQrCodec(config)
    call = codec.fetch_keys(cert_sn("following"), MOMENT)
    assert call is not None
    content = ali_good(alipay_cert_content=base64.b64encode(certificate("following")).decode())
    assert call.parse(ali_signed("alipay.open.app.alipaycert.download", content), MOMENT.now)
    for number in range(bundle.count("-----BEGIN CERTIFICATE-----")):
        member = "-----BEGIN CERTIFICATE-----" + bundle.split("-----BEGIN CERTIFICATE-----")[number + 1]
        assert {one.field for one in check(config | {"app_cert": member})} == {"app_cert"}


@needs_vectors
def test_every_vector_is_exercised() -> None:
    vectors = load(ALIPAY_FILES)
    assert len({vector["id"] for vector in vectors}) == len(vectors) == 16
    assert {vector["kind"] for vector in vectors} == set(HANDLERS)


@needs_vectors
def test_every_file_is_exercised_or_named() -> None:
    assert {file.name for file in VECTORS.iterdir()} == {*WECHAT_FILES, *ALIPAY_FILES, *ELSEWHERE}
