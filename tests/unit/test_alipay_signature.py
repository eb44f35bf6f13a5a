"""Alipay: refused signatures, callbacks, and certificate mode with its rotation."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from paycenter_server.channels.alipay.qr import AlipayQrCodec
from paycenter_server.channels.alipay.signature import extract_signed
from paycenter_server.channels.crypto import aes_cbc_encrypt, alipay_cert_sn, alipay_root_cert_sn, load_certificate, rsa_sign
from paycenter_server.channels.protocol import (
    AnswerError,
    Call,
    CallbackError,
    CallbackRequest,
    HttpResponse,
    QueryStatus,
    UnknownKeyError,
)
from unit.channel_support import (
    ATTEMPT,
    MOMENT,
    NOW,
    ali_callback,
    ali_cert_config,
    ali_form,
    ali_good,
    ali_raw,
    ali_signed,
    ali_trade,
    cert_qr,
    cert_sn,
    certificate,
    compact,
    keys,
    qr,
    sent,
)

QUERY = "alipay.trade.query"
CONTENT = ali_good(**ali_trade())
DOWNLOAD = "alipay.open.app.alipaycert.download"


def _ask(body: bytes, codec: AlipayQrCodec | None = None) -> QueryStatus:
    return (codec or qr()).query(ATTEMPT, MOMENT).parse(HttpResponse(200, {}, body), NOW).status


def test_only_the_signed_substring_is_verified() -> None:
    source = '{ "code" : "10000" ,\n"trade_status":"TRADE_SUCCESS", "subject":"} \\" { 茶" }'
    assert _ask(ali_raw(QUERY, source)) is QueryStatus.PAID
    with pytest.raises(AnswerError, match="does not verify"):
        _ask(ali_raw(QUERY, source).replace(b"} \\", b"}  \\"))


@pytest.mark.parametrize("owner", ["ours", "wechat", "following"])
def test_another_key(owner: str) -> None:
    with pytest.raises(AnswerError, match="does not verify"):
        _ask(ali_signed(QUERY, CONTENT, key=getattr(keys(), owner)).body)


def test_a_duplicated_node_is_refused() -> None:
    good, forged = compact(CONTENT).decode(), compact(ali_good(trade_status="WAIT_BUYER_PAY")).decode()
    sign = rsa_sign(keys().alipay, good.encode())
    node = '"alipay_trade_query_response":'
    for body in (f'{{{node}{good},{node}{forged},"sign":"{sign}"}}', f'{{{node}{forged},{node}{good},"sign":"{sign}"}}'):
        with pytest.raises(AnswerError, match="twice"):
            _ask(body.encode())


def test_an_escaped_slash_is_read_both_ways() -> None:
    source = '{"code":"10000","trade_status":"TRADE_SUCCESS","url":"http:\\/\\/a"}'
    assert _ask(ali_raw(QUERY, source)) is QueryStatus.PAID
    sign = rsa_sign(keys().alipay, source.replace("\\/", "/").encode())
    assert _ask(ali_raw(QUERY, source, sign=sign)) is QueryStatus.PAID
    other = rsa_sign(keys().alipay, source.replace("\\/", "|").encode())
    with pytest.raises(AnswerError):
        _ask(ali_raw(QUERY, source, sign=other))


def test_an_error_response() -> None:
    source = '{"code":"40004","sub_code":"ACQ.TRADE_NOT_EXIST"}'
    sign = rsa_sign(keys().alipay, source.encode())
    assert _ask(f'{{"error_response":{source},"sign":"{sign}"}}'.encode()) is QueryStatus.NOT_FOUND
    assert _ask(f'{{"error_response":{source}}}'.encode()) is QueryStatus.UNKNOWN


@pytest.mark.parametrize(
    "body",
    [
        b"", b"x", b"[]", b"7", b"{}", b"null", b"\xff", b'{"sign":"x"}', b"\xef\xbb\xbf{}", b"[" * 100_000,
        b'{"alipay_trade_query_response":7}', b'{"alipay_trade_query_response":"AES"}', b'{"alipay_trade_query_response":[]}',
        b'{"x":"alipay_trade_query_response"}', b'{"alipay_trade_query_response"', b'{"alipay_trade_query_response":',
        b'{"alipay_trade_query_response":{"a":"', b'{"alipay_trade_query_response":{}', b'{"alipay_trade_close_response":{}}',
        b'{"alipay_trade_query_response":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    ],
)  # fmt: skip
def test_invalid_answers(body: bytes) -> None:
    with pytest.raises(AnswerError):
        _ask(body)


@pytest.mark.parametrize("sign", ["!!", "c2ln", " ", "\\ud800"])
def test_invalid_signatures(sign: str) -> None:
    with pytest.raises(AnswerError):
        _ask(ali_raw(QUERY, compact(CONTENT).decode(), sign=sign))


def test_a_sign_that_is_not_a_text_is_missing() -> None:
    with pytest.raises(AnswerError, match="without a signature"):
        _ask(b'{"alipay_trade_query_response":{"code":"10000"},"sign":7}')


def test_encrypted_content_is_taken_with_its_quotes() -> None:
    assert extract_signed('{"n" : "aGVs\\"bG8=" ,"sign":"x"}', "n") == '"aGVs\\"bG8="'


# Callbacks


def test_a_callback_with_text_that_needs_escaping() -> None:
    subject = '100% 一杯 "咖啡" & +😀=;'
    callback = ali_form(ali_callback(subject=subject, refund_fee=""))
    parsed = qr().parse_callback(callback, NOW)
    assert json.loads(parsed.raw)["subject"] == subject
    payment = parsed.payment
    assert payment is not None
    assert payment.payment is not None
    assert payment.payment.amount == 1_000_000_000
    assert payment.payment.account == qr().account


def test_a_gbk_callback() -> None:
    fields = ali_callback(charset="GBK", subject="一杯咖啡")
    parsed = qr().parse_callback(ali_form(fields, charset="gbk"), NOW)
    assert json.loads(parsed.raw)["subject"] == "一杯咖啡"


def test_a_callback_without_the_account_has_empty_values() -> None:
    payment = qr().parse_callback(ali_form(ali_callback(app_id="-", seller_id="-")), NOW).payment
    assert payment is not None
    assert payment.payment is not None
    assert payment.payment.account == {"app_id": "", "seller_id": ""}


@pytest.mark.parametrize("name", [*ali_callback(), "sign_type_", "extra"])
def test_every_field_is_covered(name: str) -> None:
    callback = ali_form(ali_callback())
    body = callback.body + b"&extra=1" if name == "extra" else callback.body.replace(name.encode() + b"=", name.encode() + b"=x")
    if body == callback.body:
        return
    with pytest.raises(CallbackError):
        qr().parse_callback(CallbackRequest({}, body), NOW)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"a", b"=", b"&", b"a=1&a=1", b"\xff=1", b"a=%ff", b"{}", b"sign=", b"sign=x", b"x=1&sign=c2ln",
        b"&".join(b"a%d=1" % number for number in range(500)), b"charset=gbk&a=%81", b"a=%ED%A0%80&sign=x",
    ],
)  # fmt: skip
def test_invalid_callbacks(body: bytes) -> None:
    with pytest.raises(CallbackError):
        qr().parse_callback(CallbackRequest({}, body), NOW)


def test_a_duplicate_field_is_refused_whichever_value_is_signed() -> None:
    body = ali_form(ali_callback()).body
    for doubled in (b"total_amount=0.01&" + body, body + b"&total_amount=0.01", body + b"&" + body):
        with pytest.raises(CallbackError, match="twice"):
            qr().parse_callback(CallbackRequest({}, doubled), NOW)


def test_parameters_of_the_address_are_never_read() -> None:
    callback = ali_form(ali_callback())
    with pytest.raises(CallbackError):
        qr().parse_callback(CallbackRequest({}, b"", callback.body.decode()), NOW)


def test_a_return_url_is_not_a_callback() -> None:
    fields = {name: value for name, value in ali_callback().items() if name != "notify_type"}
    assert qr().parse_callback(ali_form(fields), NOW).payment is None


# Certificate mode


def test_requests_name_the_certificates() -> None:
    fields = sent(cert_qr().query(ATTEMPT, MOMENT).request)
    assert fields["app_cert_sn"] == cert_sn("ours")
    assert fields["alipay_root_cert_sn"] == alipay_root_cert_sn(ali_cert_config()["root_cert"])
    assert "_" not in fields["alipay_root_cert_sn"]
    assert "app_cert_sn" not in sent(qr().query(ATTEMPT, MOMENT).request)


def test_the_answer_names_its_certificate() -> None:
    codec = cert_qr()
    body = ali_signed(QUERY, CONTENT, alipay_cert_sn=cert_sn("alipay")).body
    assert _ask(body, codec) is QueryStatus.PAID
    with pytest.raises(UnknownKeyError):
        _ask(ali_signed(QUERY, CONTENT).body, codec)
    with pytest.raises(UnknownKeyError) as caught:
        _ask(ali_signed(QUERY, CONTENT, key=keys().following, alipay_cert_sn=cert_sn("following")).body, codec)
    assert caught.value.serial == cert_sn("following")


def test_a_callback_in_certificate_mode() -> None:
    codec = cert_qr()
    assert codec.parse_callback(ali_form(ali_callback()), NOW).payment is not None
    assert codec.parse_callback(ali_form(ali_callback(alipay_cert_sn=cert_sn("alipay"))), NOW).payment is not None
    with pytest.raises(CallbackError):
        codec.parse_callback(ali_form(ali_callback(), keys().following), NOW)
    with pytest.raises(UnknownKeyError):
        codec.parse_callback(ali_form(ali_callback(alipay_cert_sn=cert_sn("following")), keys().following), NOW)


def _download(codec: AlipayQrCodec, serial: str) -> Call[bool]:
    call = codec.fetch_keys(serial, MOMENT)
    assert call is not None
    return call


def _offered(material: bytes) -> HttpResponse:
    return ali_signed(DOWNLOAD, ali_good(alipay_cert_content=base64.b64encode(material).decode()))


def _leaf(issuer: bytes, signer: Any, days: int = 10) -> bytes:
    """A certificate of the `following` key that `signer` signed in the name of the issuer's certificate."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(load_certificate(certificate("alipay")).subject).issuer_name(load_certificate(issuer).subject)
        .serial_number(4711).not_valid_before(NOW - timedelta(days=5)).not_valid_after(NOW + timedelta(days=days))
        .public_key(keys().following.public_key())
    )  # fmt: skip
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_rotated_certificate_is_fetched_by_its_sn() -> None:
    codec, serial = cert_qr(), cert_sn("following")
    call = _download(codec, serial)
    fields = sent(call.request)
    assert (fields["method"], json.loads(fields["biz_content"])) == (DOWNLOAD, {"alipay_cert_sn": serial})
    assert call.parse(_offered(certificate("following")), NOW)
    for owner in ("alipay", "following"):
        assert codec.parse_callback(ali_form(ali_callback(), getattr(keys(), owner)), NOW).payment is not None
        answer = ali_signed(QUERY, CONTENT, key=getattr(keys(), owner), alipay_cert_sn=cert_sn(owner))
        assert _ask(answer.body, codec) is QueryStatus.PAID


def test_forged_certificates_are_not_trusted() -> None:
    codec = cert_qr()
    forged = keys().stranger.issue("following", keys().following)
    # The certificates of all merchants chain to the same roots, but must not sign for Alipay.
    merchants = keys().authority.issue("following", keys().following, "Some Merchant Ltd.")
    self_made = _leaf(certificate("ours"), keys().ours)
    expired = _leaf(keys().authority.root_pem(), keys().stranger._key, days=-1)
    for material in (
        forged, forged + keys().stranger.root_pem(), merchants, self_made, self_made + certificate("ours"), expired,
        keys().stranger.root_pem(),
        b"", b"x", b"-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----",
    ):  # fmt: skip
        try:
            serial = alipay_cert_sn(load_certificate(material))
        except ValueError:
            serial = "f" * 32
        assert _download(codec, serial).parse(_offered(material), NOW) is False, material
        with pytest.raises(UnknownKeyError):
            _ask(ali_signed(QUERY, CONTENT, key=keys().following, alipay_cert_sn=serial).body, codec)


def test_a_certificate_is_fetched_with_content_encryption_too() -> None:
    key = b"0123456789abcdef"
    codec = AlipayQrCodec({**ali_cert_config(), "encrypt_key": base64.b64encode(key).decode()})
    serial = cert_sn("following")
    call = _download(codec, serial)
    assert "encrypt_type" not in sent(call.request)
    content = ali_good(alipay_cert_content=base64.b64encode(certificate("following")).decode())
    sealed = json.dumps(base64.b64encode(aes_cbc_encrypt(key, compact(content))).decode())
    answer = ali_signed(QUERY, CONTENT, key=keys().following, alipay_cert_sn=serial)
    with pytest.raises(UnknownKeyError):
        _ask(answer.body, codec)
    assert call.parse(HttpResponse(200, {}, ali_raw(DOWNLOAD, sealed, key=keys().following)), NOW) is True
    assert _ask(answer.body, codec) is QueryStatus.PAID


def test_a_certificate_with_another_sn_or_out_of_date() -> None:
    codec = cert_qr()
    assert _download(codec, "f" * 32).parse(_offered(certificate("following")), NOW) is False
    for days in (-3, 4000):
        call = _download(codec, cert_sn("following"))
        assert call.parse(_offered(certificate("following")), NOW + timedelta(days=days)) is False


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b"{}", b"[" * 100_000, b'{"alipay_open_app_alipaycert_download_response":[]}'])
def test_a_download_that_cannot_be_read(body: bytes) -> None:
    call = _download(cert_qr(), "f" * 32)
    assert call.parse(HttpResponse(200, {}, body), NOW) is False
    assert call.unclear("time-out") is False


def test_there_is_nothing_to_fetch_without_certificates_or_an_sn() -> None:
    assert qr().fetch_keys("f" * 32, MOMENT) is None
    assert cert_qr().fetch_keys(None, MOMENT) is None
    assert not cert_qr().keys_due(NOW)
