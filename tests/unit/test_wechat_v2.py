from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from hypothesis import given
from hypothesis import strategies as st
from paycenter_server.channels.crypto import aes_ecb_decrypt, b64decode
from paycenter_server.channels.protocol import (
    AnswerError,
    CallbackError,
    CallbackRequest,
    CloseStatus,
    HttpResponse,
    PayStatus,
    QueryStatus,
    RefundStatus,
)
from paycenter_server.channels.registry import installed
from paycenter_server.channels.transport import client_context
from paycenter_server.channels.wechatpay.v2_xml import HMAC_SHA256, MD5, build, parse, sign, verify
from paycenter_server.simulator.certificates import private_pem
from support.vectors import VECTORS
from unit.channel_support import ATTEMPT, MOMENT, NOW, NUMBER, PAY, REFUND, REFUND_NUMBER, certificate, keys, wx_config

KEY = "192006250b4c09247ec02edce69f6a2d"
PATH = VECTORS / "wechat_v2.json"
SAMPLES = json.loads(PATH.read_text())["vectors"] if PATH.exists() else []
REFUSED_XML = {"v2-xml-invalid.xxe_injection.sample", "v2-xml-fragment_injection.sample"}


def config(**changes: str) -> dict[str, str]:
    v3 = wx_config()
    made = {name: v3[name] for name in ("appid", "mchid", "private_key", "gateway_url")}
    certificate_pem = certificate("ours").decode()
    return {**made, "api_version": "v2", "mch_key": KEY, "merchant_certificate": certificate_pem, **changes}


def codec(code: str = "wx_native", **changes: str) -> Any:
    spec = installed()[code]
    assert list(spec.check(config(**changes))) == []
    return spec.build(config(**changes))


def answer(kind: str = HMAC_SHA256, **fields: str) -> HttpResponse:
    named = {"return_code": "SUCCESS", "appid": config()["appid"], "mch_id": config()["mchid"], "nonce_str": "n", **fields}
    named["sign"] = sign(named, KEY, kind)
    return HttpResponse(200, {}, build(named))


@pytest.mark.skipif(not SAMPLES, reason="the published vectors are not beside this checkout")
@pytest.mark.parametrize("vector", SAMPLES, ids=[vector["id"] for vector in SAMPLES])
def test_published_vector(vector: dict[str, Any]) -> None:
    if vector["kind"] == "v2-sign":
        fields = {name: str(value) for name, value in vector["params"].items()}
        assert sign(fields, vector["key"], vector["sign_type"]) == vector["sign"]
        assert verify({**fields, "sign": vector["sign"]}, vector["key"])
    elif vector["kind"] == "aes-256-ecb-pkcs7":
        assert aes_ecb_decrypt(vector["key"].encode(), b64decode(vector["ciphertext_b64"])).decode() == vector["plaintext"]
    elif vector["kind"] == "v2-req-info":
        key = hashlib.md5(vector["api_key"].encode()).hexdigest()
        assert key == vector["aes_key"]
        plain = aes_ecb_decrypt(key.encode(), b64decode(vector["req_info_b64"]))
        assert plain.decode() == vector["plaintext"]
        assert parse(plain)["out_refund_no"] == "131811191610442717309"
    elif vector["id"] in REFUSED_XML:
        with pytest.raises(AnswerError):
            parse(vector["xml"].encode())
    else:
        assert vector["kind"] == "xml-sample"
        assert parse(vector["xml"].encode())


@pytest.mark.parametrize(
    "body",
    [
        b'<!DOCTYPE x [<!ENTITY a "b">]><xml><a>&a;</a></xml>', b"<!doctype x><xml/>", b"<xml><a><b>1</b></a></xml>",
        b"<xml><a>1</a><a>2</a></xml>", b"<xml>", b"", b"\xff\xfe<\x00x\x00", b"<xml>&undefined;</xml>", b"not xml",
        "<?xml version='1.0' encoding='utf-16'?><xml/>".encode("utf-16"),
    ],
)  # fmt: skip
def test_xml_that_is_refused(body: bytes) -> None:
    with pytest.raises(AnswerError):
        parse(body)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    try:
        parse(body)
    except AnswerError:
        pass


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=40)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,10}", fullmatch=True), _TEXT, max_size=8))
def test_build_and_parse_are_each_others_reverse(fields: dict[str, str]) -> None:
    assert parse(build(fields)) == fields


def test_the_signature_covers_unknown_fields_and_is_checked_by_its_length() -> None:
    for kind in (MD5, HMAC_SHA256):
        fields = {"a": "1", "new_field": "x"}
        signed = {**fields, "sign": sign(fields, KEY, kind)}
        assert verify(signed, KEY)
        assert verify({**signed, "sign": signed["sign"].lower()}, KEY)
        assert not verify({**signed, "new_field": "y"}, KEY)
        assert not verify({**signed, "more": "z"}, KEY)
        assert not verify({**signed, "sign": signed["sign"][:-1]}, KEY)
    assert not verify({"a": "1"}, KEY)
    assert not verify({"a": "1", "sign": "é" * 32}, KEY)


def test_a_request_is_signed_and_holds_what_it_must() -> None:
    call = codec().pay(PAY, MOMENT)
    fields = parse(call.request.body)
    assert verify(fields, KEY)
    local = PAY.expire_time + timedelta(hours=8)
    expected = {
        "total_fee": str(PAY.amount), "out_trade_no": NUMBER, "time_expire": local.strftime("%Y%m%d%H%M%S"),
        "trade_type": "NATIVE", "product_id": NUMBER, "sign_type": "HMAC-SHA256", "notify_url": PAY.callback_url,
    }  # fmt: skip
    assert expected.items() <= fields.items()
    assert call.request.client_certificate is None
    assert parse(codec(sign_type="MD5").pay(PAY, MOMENT).request.body)["sign_type"] == "MD5"


def test_refund_and_reverse_use_mutual_tls_with_one_certificate() -> None:
    made = codec("wx_bar")
    refund, reverse = made.refund(REFUND, MOMENT).request, made.close(ATTEMPT, MOMENT).request
    assert refund.url.endswith("/secapi/pay/refund")
    assert reverse.url.endswith("/secapi/pay/reverse")
    assert refund.client_certificate is not None
    assert refund.client_certificate is reverse.client_certificate
    assert "PRIVATE" not in repr(refund)


def _bare(pem: str) -> str:
    return "".join(pem.strip().splitlines()[1:-1])


@pytest.mark.parametrize(
    "shape",
    [
        str,
        _bare,
        lambda pem: pem.replace("\n", "\r\n"),
        lambda pem: "\n".join("  " + line for line in pem.splitlines()),
        lambda pem: " ".join(pem.split("\n")),
    ],
    ids=["pem", "bare", "crlf", "indented", "one line"],
)
def test_openssl_accepts_every_key_that_the_check_accepts(shape: Any) -> None:
    """Operators paste keys in different forms. An accepted key must not fail at the first refund."""
    key, own = private_pem(keys().platform).decode(), certificate("platform").decode()
    made = codec("wx_bar", private_key=shape(key), merchant_certificate=shape(own))
    used = made.refund(REFUND, MOMENT).request.client_certificate
    assert client_context(used).check_hostname


@pytest.mark.parametrize(
    ("code", "given", "shown"),
    [
        ("wx_native", {"code_url": "weixin://x"}, "weixin://x"),
        (
            "wx_wap",
            {"mweb_url": "https://x/?a=1"},
            "https://x/?a=1&redirect_url=https%3A%2F%2Fshop.example.test%2Fdone%3Fa%3D1%26b%3D2",
        ),
    ],
)
def test_what_is_shown(code: str, given: dict[str, str], shown: str) -> None:
    outcome = codec(code).pay(PAY, MOMENT).parse(answer(result_code="SUCCESS", **given), NOW)
    assert (outcome.status, outcome.display_content) == (PayStatus.WAITING, shown)
    with pytest.raises(AnswerError):
        codec(code).pay(PAY, MOMENT).parse(answer(result_code="SUCCESS"), NOW)


@pytest.mark.parametrize(("code", "name"), [("wx_pub", "paySign"), ("wx_lite", "paySign"), ("wx_app", "sign")])
def test_parameters_for_the_payers_side_are_signed(code: str, name: str) -> None:
    call = codec(code).pay(replace(PAY, extras={"openid": "o1"}), MOMENT)
    outcome = call.parse(answer(result_code="SUCCESS", prepay_id="wx1"), NOW)
    fields = json.loads(outcome.display_content)
    assert sign({key: value for key, value in fields.items() if key != name}, KEY, HMAC_SHA256) == fields[name]
    assert outcome.display_mode == "app"


@pytest.mark.parametrize("operation", ["query", "close"])
def test_an_answer_that_is_not_signed_by_the_key_is_refused(operation: str) -> None:
    call = getattr(codec(), operation)(ATTEMPT, MOMENT)
    good = parse(answer(result_code="SUCCESS", trade_state="SUCCESS", out_trade_no=NUMBER, total_fee="100").body)
    for wrong in ({"total_fee": "1"}, {"sign": ""}, {"sign": "0" * 64}):
        with pytest.raises(AnswerError):
            call.parse(HttpResponse(200, {}, build({**good, **wrong})), NOW)
    unclear = call.parse(HttpResponse(200, {}, build({"return_code": "FAIL", "return_msg": "签名失败"})), NOW)
    assert unclear.status.value == "UNKNOWN"
    assert call.parse(HttpResponse(502, {}, b""), NOW).status.value == "UNKNOWN"


def test_reverse_and_its_recall() -> None:
    call = codec("wx_bar").close(ATTEMPT, MOMENT)
    assert call.parse(answer(result_code="SUCCESS", recall="N"), NOW).status is CloseStatus.CLOSED
    assert call.parse(answer(result_code="SUCCESS", recall="Y"), NOW).status is CloseStatus.UNKNOWN
    assert call.parse(answer(result_code="FAIL", err_code="SYSTEMERROR", recall="Y"), NOW).status is CloseStatus.UNKNOWN


def encrypted(plain: bytes) -> str:
    key = hashlib.md5(KEY.encode()).hexdigest().encode()
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    padded = padder.update(plain) + padder.finalize()
    return base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()


@pytest.mark.parametrize(("configured", "used", "accepted"), [
    ("HMAC-SHA256", "MD5", False), ("MD5", "HMAC-SHA256", False), ("MD5", "MD5", True), ("HMAC-SHA256", "HMAC-SHA256", True),
])  # fmt: skip
def test_a_callback_is_signed_in_the_way_that_is_configured(configured: str, used: str, accepted: bool) -> None:
    """Otherwise an attacker who can forge the weaker method could choose it."""
    fields = {
        "return_code": "SUCCESS", "result_code": "SUCCESS", "appid": config()["appid"], "mch_id": config()["mchid"],
        "out_trade_no": NUMBER, "transaction_id": "4200", "total_fee": "100", "fee_type": "CNY", "nonce_str": "n",
        "time_end": "20261125120000", "openid": "o",
    }  # fmt: skip
    body = build({**fields, "sign": sign(fields, KEY, used)})
    made = codec(sign_type=configured)
    if accepted:
        assert made.parse_callback(CallbackRequest({}, body), NOW).payment is not None
        return
    with pytest.raises(CallbackError, match="signature"):
        made.parse_callback(CallbackRequest({}, body), NOW)


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_refund_callback_decides_nothing_by_itself(version: str) -> None:
    fields = {"out_refund_no": REFUND_NUMBER, "out_trade_no": NUMBER, "refund_fee": "10", "refund_status": "SUCCESS"}
    envelope = {
        "return_code": "SUCCESS", "appid": config()["appid"], "mch_id": config()["mchid"],
        "req_info": encrypted(build(fields).replace(b"xml>", b"root>")),
    }  # fmt: skip
    made = codec() if version == "v2" else installed()["wx_native"].build(wx_config(mch_key=KEY))
    for before in (b"\xef\xbb\xbf", b'<?xml version="1.0" encoding="UTF-8"?>\n', b"\r\n "):
        assert made.parse_callback(CallbackRequest({}, before.lstrip() + build(envelope)), NOW).refund is not None
    callback = made.parse_callback(CallbackRequest({}, build(envelope)), NOW)
    assert callback.refund is not None
    assert callback.refund.facts is not None
    assert callback.answer is not None
    assert callback.refund.status is RefundStatus.PENDING
    assert callback.refund.facts.out_refund_no == REFUND_NUMBER
    assert b"SUCCESS" in callback.answer.body
    for wrong in ({"mch_id": "1"}, {"req_info": "AAAA"}, {"req_info": encrypted(b"x")}, {"return_code": "FAIL"}):
        with pytest.raises(CallbackError):
            made.parse_callback(CallbackRequest({}, build({**envelope, **wrong})), NOW)


def test_a_payment_callback_is_verified_and_answered_in_xml() -> None:
    made = codec()
    good = parse(answer(result_code="SUCCESS", out_trade_no=NUMBER, total_fee="100", transaction_id="42", openid="o1").body)
    parsed = made.parse_callback(CallbackRequest({}, build(good)), NOW)
    assert parsed.payment.status is QueryStatus.PAID
    assert parsed.payment.payment.amount == 100
    for wrong in ({"total_fee": "1"}, {"sign": "0" * 32}):
        with pytest.raises(CallbackError):
            made.parse_callback(CallbackRequest({}, build({**good, **wrong})), NOW)
    yes, no = made.acknowledge(True, ""), made.acknowledge(False, "later")
    assert (yes.status, parse(yes.body)["return_code"]) == (200, "SUCCESS")
    assert (no.status, parse(no.body)["return_code"]) == (500, "FAIL")


def test_the_certificate_of_another_key_is_reported() -> None:
    wrong = installed()["wx_native"].check(config(merchant_certificate=certificate("platform").decode()))
    assert [(one.field, one.description) for one in wrong] == [("merchant_certificate", "does not belong to the private key")]


def test_every_wrong_field_is_named() -> None:
    spec = installed()["wx_bar"]
    wrong = spec.check({"api_version": "v2", "sign_type": "SHA1", "gateway_url": "http://example.test"})
    assert {violation.field for violation in wrong} == {
        "appid", "mchid", "gateway_url", "mch_key", "sign_type", "private_key", "merchant_certificate",
    }  # fmt: skip
