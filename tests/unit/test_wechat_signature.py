"""WeChat Pay v3: refused signatures, callbacks, and the platform certificates."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from paycenter_server.channels.crypto import aes_gcm_encrypt, certificate_serial, load_certificate
from paycenter_server.channels.protocol import (
    AnswerError,
    CallbackError,
    CallbackRequest,
    HttpResponse,
    QueryStatus,
    RefundStatus,
    UnknownKeyError,
)
from paycenter_server.channels.wechatpay.native import WechatNativeCodec
from unit.channel_support import (
    API_V3_KEY,
    ATTEMPT,
    MOMENT,
    NOW,
    PUBLIC_KEY_ID,
    certificate,
    compact,
    keys,
    platform_serial,
    wx,
    wx_callback,
    wx_config,
    wx_headers,
    wx_refund,
    wx_sealed,
    wx_signed,
    wx_transaction,
)

BODY = compact(wx_transaction())


def _ask(response: HttpResponse, now: datetime = NOW, codec: WechatNativeCodec | None = None) -> QueryStatus:
    return (codec or wx()).query(ATTEMPT, MOMENT).parse(response, now).status


def _altered(**headers: str) -> HttpResponse:
    changed = {"wechatpay-" + name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(200, {**wx_headers(BODY), **changed}, BODY)


def test_both_key_modes_at_once() -> None:
    assert _ask(wx_signed(BODY)) is QueryStatus.PAID
    assert _ask(wx_signed(BODY, serial=platform_serial(), key=keys().platform)) is QueryStatus.PAID


@pytest.mark.parametrize(
    ("serial", "owner"), [(PUBLIC_KEY_ID, "platform"), ("platform", "wechat"), (PUBLIC_KEY_ID, "ours"), ("platform", "alipay")]
)
def test_the_key_is_the_one_that_the_serial_names(serial: str, owner: str) -> None:
    named = platform_serial() if serial == "platform" else serial
    with pytest.raises(AnswerError, match="does not verify"):
        _ask(wx_signed(BODY, serial=named, key=getattr(keys(), owner)))


def test_an_unknown_serial_has_its_own_error() -> None:
    for serial in ("5F1C72E2A8931B72", PUBLIC_KEY_ID.lower(), PUBLIC_KEY_ID + " "):
        with pytest.raises(UnknownKeyError) as caught:
            _ask(wx_signed(BODY, serial=serial))
        assert caught.value.serial == serial
    with pytest.raises(UnknownKeyError) as caught:
        _ask(wx_signed(BODY, serial="x" * 5000))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("seconds", "fresh"), [(-301, False), (-300, True), (299, True), (301, False), (86400, False)])
def test_the_window_is_five_minutes(seconds: int, fresh: bool) -> None:
    at = NOW.replace(microsecond=0)
    response = wx_signed(BODY, at=at)
    if fresh:
        assert _ask(response, at + timedelta(seconds=seconds)) is QueryStatus.PAID
    else:
        with pytest.raises(AnswerError, match="5 minutes"):
            _ask(response, at + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "headers",
    [
        {"signature": ""}, {"nonce": ""}, {"serial": ""}, {"timestamp": ""}, {"timestamp": "abc"}, {"timestamp": "-1"},
        {"timestamp": "1" * 400}, {"timestamp": "١٢٣"}, {"timestamp": "1e9"}, {"nonce": "other"}, {"signature": "!!"},
        {"signature": "c2ln"}, {"signature_type": "WECHATPAY2-SM2-WITH-SM3"}, {"nonce": "\udcff"}, {"signature": "\udcff"},
        {"serial": "\udcff"}, {"timestamp": "\udcff"}, {"signature_type": "\udcff"},
    ],
)  # fmt: skip
def test_a_header_that_is_wrong(headers: dict[str, str]) -> None:
    with pytest.raises((AnswerError, UnknownKeyError)):
        _ask(_altered(**headers))
    altered = _altered(**headers)
    with pytest.raises((CallbackError, UnknownKeyError)):
        wx().parse_callback(CallbackRequest(altered.headers, altered.body), NOW)


def test_an_absent_signature_type_is_rsa() -> None:
    headers = {name: value for name, value in wx_headers(BODY).items() if name != "wechatpay-signature-type"}
    assert _ask(HttpResponse(200, headers, BODY)) is QueryStatus.PAID


@pytest.mark.parametrize("body", [BODY + b"\n", BODY + b" ", BODY[:-1], b" " + BODY, BODY.replace(b"SUCCESS", b"NOTPAY "), b""])
def test_a_changed_body(body: bytes) -> None:
    with pytest.raises(AnswerError, match="does not verify"):
        _ask(HttpResponse(200, wx_headers(BODY), body))


def test_signtest_probes_fail() -> None:
    callback = wx_callback("TRANSACTION.SUCCESS", wx_transaction())
    signature = "WECHATPAY/SIGNTEST/" + callback.headers["wechatpay-signature"][19:]
    with pytest.raises(CallbackError):
        wx().parse_callback(CallbackRequest({**callback.headers, "wechatpay-signature": signature}, callback.body), NOW)
    with pytest.raises(AnswerError):
        _ask(_altered(signature=signature))


@pytest.mark.parametrize("body", [b"not json", b"[]", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_a_signed_answer_that_is_no_object(body: bytes) -> None:
    with pytest.raises(AnswerError):
        _ask(wx_signed(body))
    with pytest.raises(CallbackError):
        wx().parse_callback(CallbackRequest(wx_headers(body), body), NOW)


# Callbacks


def test_a_payment_callback() -> None:
    parsed = wx().parse_callback(wx_callback("TRANSACTION.SUCCESS", wx_transaction()), NOW)
    assert parsed.refund is None
    assert parsed.payment is not None
    assert parsed.payment.status is QueryStatus.PAID
    assert parsed.payment.payment is not None
    assert parsed.payment.payment.amount == 1_000_000_000
    assert parsed.raw.encode() == BODY


@pytest.mark.parametrize(("state", "expected"), [("SUCCESS", "SUCCESS"), ("CLOSED", "FAILED"), ("ABNORMAL", "PENDING")])
def test_a_refund_callback(state: str, expected: str) -> None:
    parsed = wx().parse_callback(wx_callback(f"REFUND.{state}", wx_refund(state, "refund_status")), NOW)
    assert parsed.payment is None
    assert parsed.refund is not None
    assert parsed.refund.status == expected
    assert parsed.refund.facts is not None
    assert parsed.refund.facts.account == wx().account


def test_a_refund_callback_of_another_merchant_has_its_account() -> None:
    callback = wx_callback("REFUND.SUCCESS", wx_refund("SUCCESS", "refund_status", mchid="1900000002"))
    refund = wx().parse_callback(callback, NOW).refund
    assert refund is not None
    assert refund.facts is not None
    assert refund.facts.account["mchid"] == "1900000002"


def test_a_refund_callback_without_a_status_is_unknown() -> None:
    refund = wx().parse_callback(wx_callback("REFUND.SUCCESS", wx_refund("SUCCESS", "status")), NOW).refund
    assert refund is not None
    assert refund.status is RefundStatus.UNKNOWN


def test_other_events_need_no_action() -> None:
    parsed = wx().parse_callback(wx_callback("COUPON.USE", {"a": 1}), NOW)
    assert (parsed.payment, parsed.refund, parsed.raw) == (None, None, '{"a":1}')


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "AES"}, {"algorithm": None}, {"nonce": ""}, {"nonce": "short"}, {"nonce": "n" * 500}, {"nonce": 7},
        {"ciphertext": "!!"}, {"ciphertext": ""}, {"ciphertext": 7}, {"ciphertext": "QUJD"}, {"associated_data": "other"},
        {"associated_data": None}, {"associated_data": []}, {"nonce": "\ud800"}, {"associated_data": "\ud800"},
    ],
)  # fmt: skip
def test_a_resource_that_is_not_ours(changes: dict[str, Any]) -> None:
    resource = {**wx_sealed(BODY), **changes}
    text = json.dumps({"event_type": "TRANSACTION.X", "resource": resource}).encode()
    with pytest.raises(CallbackError):
        wx().parse_callback(CallbackRequest(wx_headers(text), text), NOW)


def test_associated_data_may_be_empty() -> None:
    body = compact({"event_type": "TRANSACTION.SUCCESS", "resource": wx_sealed(BODY, associated="")})
    assert wx().parse_callback(CallbackRequest(wx_headers(body), body), NOW).payment is not None


@pytest.mark.parametrize("resource", [None, [], "x", 7, {}])
def test_no_resource(resource: object) -> None:
    body = compact({"event_type": "TRANSACTION.SUCCESS", "resource": resource})
    with pytest.raises(CallbackError):
        wx().parse_callback(CallbackRequest(wx_headers(body), body), NOW)


def test_a_v2_xml_callback_is_refused() -> None:
    with pytest.raises(CallbackError):
        wx().parse_callback(CallbackRequest({}, b"<xml><return_code>SUCCESS</return_code></xml>"), NOW)


# Platform certificates


def _listed(*owners: str, serial: str = "") -> bytes:
    data = []
    for owner in owners:
        pem = certificate(owner)
        sealed = aes_gcm_encrypt(API_V3_KEY.encode(), b"123456789012", pem, b"certificate")
        data.append({
            "serial_no": serial or certificate_serial(load_certificate(pem)),
            "encrypt_certificate": {
                "algorithm": "AEAD_AES_256_GCM", "nonce": "123456789012", "associated_data": "certificate",
                "ciphertext": base64.b64encode(sealed).decode(),
            },
        })  # fmt: skip
    return compact({"data": data})


def _downloading() -> WechatNativeCodec:
    config = wx_config(use_platform_certificates="true")
    return WechatNativeCodec({name: value for name, value in config.items() if not name.startswith("public_key")})


def test_platform_certificates_are_fetched_before_first_use_and_every_eleven_hours() -> None:
    codec = _downloading()
    assert codec.keys_due(NOW)
    call = codec.fetch_keys(None, MOMENT)
    assert call is not None
    assert call.request.url.endswith("/v3/certificates")
    assert "Wechatpay-Serial" not in dict(call.request.headers)
    assert call.parse(wx_signed(_listed("platform"), serial=platform_serial(), key=keys().platform), NOW)
    assert not codec.keys_due(NOW + timedelta(hours=11))
    assert codec.keys_due(NOW + timedelta(hours=11, seconds=1))
    assert _ask(wx_signed(BODY, serial=platform_serial(), key=keys().platform), codec=codec) is QueryStatus.PAID


def test_a_rotated_certificate_joins_the_old_one() -> None:
    codec = _downloading()
    call = codec.fetch_keys("NEW", MOMENT)
    assert call is not None
    body = _listed("platform", "following")
    following = certificate_serial(load_certificate(certificate("following")))
    assert call.parse(wx_signed(body, serial=following, key=keys().following), NOW)
    for serial, key in ((platform_serial(), keys().platform), (following, keys().following)):
        assert _ask(wx_signed(BODY, serial=serial, key=key), codec=codec) is QueryStatus.PAID


@pytest.mark.parametrize("fetched", [True, False], ids=["fetched", "configured"])
def test_a_certificate_is_trusted_until_it_expires(fetched: bool) -> None:
    codec = _downloading()
    if fetched:
        call = codec.fetch_keys(None, MOMENT)
        assert call is not None
        assert call.parse(wx_signed(_listed("platform"), serial=platform_serial(), key=keys().platform), NOW)
    else:
        codec = WechatNativeCodec(wx_config(platform_certificates=certificate("platform").decode()))
    ends = load_certificate(certificate("platform")).not_valid_after_utc
    for moment, good in ((ends, True), (ends + timedelta(seconds=1), False)):
        answer = wx_signed(BODY, serial=platform_serial(), key=keys().platform, at=moment)
        if good:
            assert codec.query(ATTEMPT, MOMENT).parse(answer, moment).status is QueryStatus.PAID
        else:
            with pytest.raises(AnswerError, match="expired"):
                codec.query(ATTEMPT, MOMENT).parse(answer, moment)


def test_public_key_mode_fetches_nothing() -> None:
    assert not wx().keys_due(NOW)
    assert wx().fetch_keys(None, MOMENT) is None


def test_certificates_of_another_merchant() -> None:
    codec = _downloading()
    call = codec.fetch_keys(None, MOMENT)
    assert call is not None
    good = _listed("platform")
    for response in (
        HttpResponse(200, {}, good),
        HttpResponse(404, {}, b"{}"),
        HttpResponse(401, {}, b'{"code":"SIGN_ERROR"}'),
        wx_signed(good, serial=platform_serial(), key=keys().ours),
        wx_signed(good, serial=platform_serial(), key=keys().platform, at=NOW - timedelta(hours=1)),
        wx_signed(_listed("platform", serial="ABC"), serial="ABC", key=keys().platform),
        wx_signed(good.replace(b"certificate\"", b"other\""), serial=platform_serial(), key=keys().platform),
        wx_signed({"data": []}, serial=platform_serial(), key=keys().platform),
        wx_signed({"data": {}}), wx_signed({"data": 7}), wx_signed([]), wx_signed(b"x"), wx_signed(b"[" * 100_000),
    ):  # fmt: skip
        with pytest.raises((AnswerError, UnknownKeyError)):
            call.parse(response, NOW)
    assert call.unclear("time-out") is False
    assert codec.keys_due(NOW)
    with pytest.raises(UnknownKeyError):
        _ask(wx_signed(BODY, serial=platform_serial(), key=keys().platform), codec=codec)


def test_times_are_aware() -> None:
    assert NOW.tzinfo is UTC
