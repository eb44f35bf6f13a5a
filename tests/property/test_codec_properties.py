"""Properties of the codecs' small parts, for any input."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paycenter_server.channels.alipay.amounts import fen, yuan
from paycenter_server.channels.alipay.signature import extract_signed, parse_form, sign_content, verify_answer, verify_callback
from paycenter_server.channels.crypto import (
    CryptoError,
    aes_cbc_decrypt,
    aes_cbc_encrypt,
    aes_gcm_decrypt,
    aes_gcm_encrypt,
    alipay_root_cert_sn,
    b64decode,
    load_certificate,
    load_certificates,
    load_private_key,
    load_public_key,
    rsa_sign,
    rsa_verify,
)
from paycenter_server.channels.protocol import AnswerError, CallbackError
from paycenter_server.channels.texts import text
from paycenter_server.channels.times import alipay, parse_alipay, parse_rfc3339, rfc3339
from paycenter_server.channels.wechatpay.signature import answer_message, request_message
from unit.channel_support import MOMENT, biz, keys, paying, pc, qr, sent

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NAME = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
FIELDS = st.dictionaries(NAME, TEXT, min_size=1, max_size=12)
BYTES = st.binary(max_size=80)
# Alipay's and WeChat's own times are of this century.
MOMENTS = st.timedeltas(timedelta(0), timedelta(days=36_000)).map(lambda age: datetime(2000, 1, 2, tzinfo=UTC) + age)
KEY = keys().alipay


@given(amount=st.integers(0, 10**14 - 1))
def test_amounts_are_exact_both_ways(amount: int) -> None:
    assert fen(yuan(amount)) == amount


@given(value=st.text(max_size=20) | st.text("0123456789.-+eE, ", max_size=14) | st.integers() | st.floats() | st.none())
def test_an_amount_is_read_exactly_or_not_at_all(value: object) -> None:
    amount = fen(value)
    if amount is not None:
        assert isinstance(value, str)
        whole, _, decimals = value.partition(".")
        assert amount == int(whole) * 100 + int(decimals.ljust(2, "0") or "0")


@given(moment=MOMENTS)
def test_times_are_exact_to_the_second(moment: datetime) -> None:
    assert parse_rfc3339(rfc3339(moment)) == moment.replace(microsecond=0)
    assert parse_alipay(alipay(moment)) == moment.replace(microsecond=0)
    assert rfc3339(moment).endswith("+08:00")


@given(value=st.text(max_size=40))
def test_a_time_is_aware_or_none(value: str) -> None:
    for moment in (parse_rfc3339(value), parse_alipay(value)):
        assert moment is None or moment.tzinfo is not None


@given(value=st.text() | st.none() | st.integers())
def test_a_kept_text_can_be_stored(value: object) -> None:
    kept = text(value)
    assert "\0" not in kept
    assert kept.encode() is not None
    if isinstance(value, str) and value.isprintable():
        assert kept == value


@given(
    one=st.tuples(*[TEXT.filter(lambda part: "\n" not in part)] * 4, BYTES),
    other=st.tuples(*[TEXT.filter(lambda part: "\n" not in part)] * 4, BYTES),
)
def test_two_requests_have_two_messages(one: tuple[str, str, str, str, bytes], other: tuple[str, str, str, str, bytes]) -> None:
    assert (request_message(*one) == request_message(*other)) is (one == other)
    assert (answer_message(*one[2:]) == answer_message(*other[2:])) is (one[2:] == other[2:])


@given(fields=FIELDS, subject=TEXT)
def test_a_form_comes_back_and_verifies(fields: dict[str, str], subject: str) -> None:
    fields = {**fields, "subject": subject}
    fields.pop("sign", None)
    signed = {**fields, "sign": rsa_sign(KEY, sign_content(fields, drop=("sign", "sign_type"), keep_empty=True))}
    assert parse_form(urlencode(signed).encode()) == signed
    assert verify_callback(KEY.public_key(), signed)
    assert not verify_callback(KEY.public_key(), {**signed, "subject": subject + "x"})
    assert not verify_callback(KEY.public_key(), {**signed, "one_more": ""})


@given(body=BYTES)
def test_a_form_of_junk(body: bytes) -> None:
    try:
        assert isinstance(parse_form(body), dict)
    except CallbackError:
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=8,
)  # fmt: skip


@given(content=st.dictionaries(st.text(max_size=8), JSON, max_size=5), indent=st.sampled_from([None, 0, 2]), ascii_=st.booleans())
def test_the_signed_substring_is_found(content: dict[str, object], indent: int | None, ascii_: bool) -> None:
    node = json.dumps(content, indent=indent, ensure_ascii=ascii_)
    if '"the_node"' in node:
        return
    for raw in (f'{{"the_node":{node},"sign":"x"}}', f'{{"sign":"x" , "the_node" :\n {node} }}', f'{{"error_response":{node}}}'):
        assert extract_signed(raw, "the_node") == node


@given(raw=st.text(max_size=60) | st.text('{}"\\:,the_no ', max_size=40).map(lambda rest: '{"the_node":' + rest))
def test_extraction_of_junk(raw: str) -> None:
    try:
        found = extract_signed(raw, "the_node")
    except AnswerError:
        return
    assert found in raw
    assert found[0] in '{"'


@given(message=BYTES, other=BYTES, junk=BYTES)
def test_a_signature_is_of_its_bytes_only(message: bytes, other: bytes, junk: bytes) -> None:
    signature = rsa_sign(KEY, message)
    assert rsa_verify(KEY.public_key(), other, signature) is (message == other)
    assert not rsa_verify(keys().wechat.public_key(), message, signature)
    assert not rsa_verify(KEY.public_key(), message, junk.hex())
    assert not verify_answer(KEY.public_key(), "{}", junk.hex())


@given(plain=BYTES, associated=BYTES, key=st.sampled_from([16, 32]).flatmap(lambda size: st.binary(min_size=size, max_size=size)))
def test_ciphers_come_back(plain: bytes, associated: bytes, key: bytes) -> None:
    sealed = aes_gcm_encrypt(key, b"123456789012", plain, associated)
    assert aes_gcm_decrypt(key, b"123456789012", sealed, associated) == plain
    for changed in (sealed[:-1], sealed + b"x", bytes([sealed[0] ^ 1]) + sealed[1:]):
        with pytest.raises(CryptoError):
            aes_gcm_decrypt(key, b"123456789012", changed, associated)
    assert aes_cbc_decrypt(key, aes_cbc_encrypt(key, plain)) == plain


@given(material=BYTES | TEXT)
def test_material_of_junk(material: bytes | str) -> None:
    for load in (load_private_key, load_public_key, load_certificate, b64decode):
        try:
            load(material)
        except CryptoError:
            pass
    assert isinstance(load_certificates(material), list)
    assert isinstance(alipay_root_cert_sn(material), str)


@given(subject=TEXT, body=TEXT, amount=st.integers(1, 10_000_000_000))
def test_requests_hold_what_was_asked_for_and_their_signature_covers_it(subject: str, body: str, amount: int) -> None:
    order = paying(subject=subject, body=body, amount=amount)
    request = qr().pay(order, MOMENT).request
    fields = sent(request)
    assert rsa_verify(keys().ours.public_key(), sign_content(fields), fields["sign"])
    content = biz(request)
    assert (content["subject"], content.get("body", ""), fen(content["total_amount"])) == (subject, body, amount)
    for mode in ("url", "form"):
        assert pc().pay(paying(subject=subject, body=body, display_mode=mode), MOMENT).display_content.isascii() or mode == "form"
