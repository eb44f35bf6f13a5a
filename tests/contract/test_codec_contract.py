"""What every registered codec must keep to, whoever wrote it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paycenter_server.channels.protocol import (
    AnswerError,
    Call,
    ChannelSpec,
    CloseOutcome,
    Codec,
    HttpRequest,
    HttpResponse,
    Moment,
    Notification,
    NotifyAnswer,
    NotifyError,
    NotifyRequest,
    PayOutcome,
    QueryOutcome,
    RefundOutcome,
    UnknownKeyError,
)
from paycenter_server.channels.registry import installed
from unit.channel_support import (
    API_V3_KEY,
    ATTEMPT,
    MOMENT,
    NOW,
    PAY,
    REFUND,
    ali_cert_config,
    ali_config,
    ali_form,
    ali_raw,
    certificate,
    compact,
    wx_config,
    wx_headers,
    wx_notice,
)

SPECS = installed()
# A configuration of each family; a codec of a new family adds its own here.
CONFIGS: dict[str, Callable[[], dict[str, str]]] = {
    # v3 for every code; v2 has tests of its own (tests/unit/test_wechat_v2*.py).
    "wechatpay": lambda: wx_config(
        platform_certificates=certificate("platform").decode(), use_codepay="true", mch_key="0123456789abcdef0123456789abcdef"
    ),
    "alipay": ali_config,
    "mock": dict,
}
OUTCOMES: dict[str, type[Any]] = {
    "pay": PayOutcome, "query": QueryOutcome, "close": CloseOutcome, "refund": RefundOutcome, "query_refund": RefundOutcome,
}  # fmt: skip
SUBJECTS: dict[str, Any] = {"pay": PAY, "query": ATTEMPT, "close": ATTEMPT, "refund": REFUND, "query_refund": REFUND}

each_code = pytest.mark.parametrize("code", list(SPECS))
each_operation = pytest.mark.parametrize("operation", list(OUTCOMES))


@functools.cache
def codec(code: str) -> Codec:
    return SPECS[code].build(CONFIGS[SPECS[code].family]())


def perform(code: str, operation: str, moment: Moment = MOMENT, **changes: Any) -> Any:
    return getattr(codec(code), operation)(replace(SUBJECTS[operation], **changes), moment)


def text_of(request: HttpRequest) -> str:
    return unquote_plus(request.url) + unquote_plus(request.body.decode())


# The specification


@each_code
def test_the_spec_is_complete(code: str) -> None:
    spec: ChannelSpec = SPECS[code]
    assert re.fullmatch(r"[a-z0-9_]{2,32}", spec.code)
    assert spec.code == code == codec(code).code
    assert spec.title
    assert re.fullmatch(r"[a-z0-9_]{2,32}", spec.family)
    assert spec.display_modes
    assert len({field.name for field in spec.config_fields}) == len(spec.config_fields)
    assert spec.content_minutes > 0
    assert set(CONFIGS[spec.family]()) <= {field.name for field in spec.config_fields}
    assert list(spec.check(CONFIGS[spec.family]())) == []


@each_code
def test_private_material_is_declared_secret(code: str) -> None:
    names = {field.name for field in SPECS[code].config_fields}
    assert {name for name in names if name in ("private_key", "api_v3_key", "mch_key", "encrypt_key")} == SPECS[code].secret_fields


@each_code
def test_a_mode_that_is_offered_is_answered(code: str) -> None:
    for mode in SPECS[code].display_modes:
        made = perform(code, "pay", display_mode=mode)
        if not isinstance(made, Call) and made.display_content:
            assert made.display_mode == mode


@each_code
def test_the_account_is_set(code: str) -> None:
    account = codec(code).account
    assert account
    assert all(isinstance(value, str) and value for value in account.values())


# Requests


@each_code
@each_operation
def test_an_operation_gives_a_call_or_an_outcome(code: str, operation: str) -> None:
    made = perform(code, operation)
    if not isinstance(made, Call):
        assert isinstance(made, OUTCOMES[operation])
        return
    assert made.api
    assert made.request.method in ("GET", "POST")
    assert isinstance(made.request.body, bytes)
    assert made.request.url.isascii()
    for name, value in made.request.headers:
        assert "\n" not in name + value
        assert "\r" not in name + value


@each_code
@each_operation
def test_no_usable_answer_is_unknown_and_never_a_failure(code: str, operation: str) -> None:
    made = perform(code, operation)
    if isinstance(made, Call):
        outcome = made.unclear("ConnectionResetError: the channel hung up")
        assert isinstance(outcome, OUTCOMES[operation])
        assert (outcome.status, outcome.error_message) == ("UNKNOWN", "ConnectionResetError: the channel hung up")


@each_code
@each_operation
def test_requests_are_deterministic(code: str, operation: str) -> None:
    first, second = perform(code, operation), perform(code, operation)
    if not isinstance(first, Call):
        assert first == second
        return
    assert first.request == second.request
    assert (
        first.request == getattr(SPECS[code].build(CONFIGS[SPECS[code].family]()), operation)(SUBJECTS[operation], MOMENT).request
    )


@each_code
@each_operation
def test_requests_go_to_the_configured_gateway(code: str, operation: str) -> None:
    made = perform(code, operation)
    gateway = CONFIGS[SPECS[code].family]().get("gateway_url", "")
    if isinstance(made, Call):
        assert made.request.url.startswith(gateway + "/" if "gateway.do" not in gateway else gateway + "?")
    elif isinstance(made, PayOutcome) and made.display_mode in ("url", "form"):
        assert gateway + "?" in made.display_content


@each_code
@pytest.mark.parametrize(
    ("operation", "amount"), [("pay", 123_456_789), ("pay", 1), ("refund", 98_765_432), ("refund", 1_000_000_000)]
)
def test_the_request_holds_the_exact_amount(code: str, operation: str, amount: int) -> None:
    made = perform(code, operation, amount=amount)
    text = text_of(made.request) if isinstance(made, Call) else unquote_plus(getattr(made, "display_content", ""))
    if text:
        assert re.search(rf'[:"]({amount}|{amount // 100}\.{amount % 100:02d})[,"}}]', text)
        assert not re.search(r'[:"][0-9.]+[eE][+-]?[0-9]+[,"}]', text)


@each_code
@each_operation
def test_numbers_reach_the_channel_unchanged(code: str, operation: str) -> None:
    made = perform(code, operation)
    if isinstance(made, Call):
        assert (REFUND.out_refund_no if operation == "query_refund" else ATTEMPT.out_trade_no) in text_of(made.request)


@each_code
@each_operation
def test_keys_are_in_no_repr_and_in_no_request(code: str, operation: str) -> None:
    config = CONFIGS[SPECS[code].family]()
    made = perform(code, operation)
    shown = repr(codec(code)) + str(codec(code)) + repr(made)
    for name in SPECS[code].secret_fields:
        lines = [line for line in config.get(name, "").splitlines() if line and "-----" not in line]
        assert lines or name == "encrypt_key"  # an option that the plain configuration leaves out
        assert not [line for line in lines if line in shown]


# Answers

KNOWN = [
    "code", "sub_code", "msg", "sub_msg", "message", "trade_state", "trade_status", "status", "refund_status", "amount", "total",
    "refund", "currency", "payer", "openid", "success_time", "send_pay_date", "total_amount", "refund_amount", "refund_fee",
    "fund_change", "out_trade_no", "out_refund_no", "out_request_no", "transaction_id", "trade_no", "code_url", "qr_code", "data",
    "resource", "event_type", "algorithm", "nonce", "ciphertext", "associated_data", "mchid", "appid", "gmt_refund",
    "encrypt_certificate", "serial_no", "alipay_cert_content", "notify_type", "sign", "alipay_cert_sn", "charset",
]  # fmt: skip
TELLING = st.sampled_from(
    [
        "10000", "40004", "SUCCESS", "TRADE_SUCCESS", "TRADE_CLOSED", "CLOSED", "PROCESSING", "Y", "N", "REFUND_SUCCESS", "1.00",
        "-1", "1e5", "CNY", "TRANSACTION.SUCCESS", "REFUND.SUCCESS", "trade_status_sync", "AEAD_AES_256_GCM", "\x00", "\ud800",
        "2026-03-04T13:06:07+08:00", "2026-03-04 13:06:07", "0001-01-01T00:00:00+08:00", PAY.out_trade_no, "ACQ.TRADE_NOT_EXIST",
    ]
)  # fmt: skip
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | TELLING
JSON = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KNOWN), inner, max_size=6), max_leaves=12
)
OBJECT = st.dictionaries(st.sampled_from(KNOWN), JSON, max_size=8)
STATUS = st.sampled_from([100, 200, 201, 202, 204, 301, 400, 401, 403, 404, 429, 500, 502, 503, 599])
HEADER_NAMES = ["content-type", *wx_headers(b"")]
HEADERS = st.dictionaries(
    st.sampled_from(HEADER_NAMES), st.text(max_size=30) | st.sampled_from(list(wx_headers(b"{}").values())), max_size=6
)
RAW = (
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.text(max_size=50).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
NODES = [perform("alipay_qr", operation).api.replace(".", "_") + "_response" for operation in OUTCOMES]


@st.composite
def wechat_answers(draw: st.DrawFn) -> HttpResponse:
    """Junk that is properly signed."""
    body = draw(RAW | OBJECT.map(lambda value: json.dumps(value).encode()))
    return HttpResponse(draw(STATUS), wx_headers(body), body)


@st.composite
def alipay_answers(draw: st.DrawFn) -> HttpResponse:
    content = draw(OBJECT)
    node = draw(st.sampled_from(NODES))
    sign = draw(st.sampled_from([None, None, "", "junk"]))
    return HttpResponse(200, {}, ali_raw(node.removesuffix("_response"), json.dumps({"code": "10000", **content}), sign=sign))


PLAIN = st.builds(HttpResponse, STATUS, HEADERS, RAW | OBJECT.map(lambda value: json.dumps(dict.fromkeys(NODES, value)).encode()))
ANSWERS = {"wechatpay": PLAIN | wechat_answers(), "alipay": PLAIN | alipay_answers()}


def _can_be_stored(outcome: Any) -> None:
    """Texts hold neither NUL nor unpaired surrogates, amounts are whole, times are aware."""
    for field in fields(outcome):
        value = getattr(outcome, field.name)
        for text in value.values() if isinstance(value, Mapping) else [value]:
            assert not isinstance(text, str) or ("\0" not in text and text.encode() is not None)
        assert not isinstance(value, datetime) or value.tzinfo is not None
        assert field.name != "amount" or value is None or type(value) is int


@each_code
@each_operation
@given(data=st.data())
@settings(max_examples=40)
def test_an_answer_of_junk_is_refused_or_an_outcome(code: str, operation: str, data: st.DataObject) -> None:
    made = perform(code, operation)
    if not isinstance(made, Call):
        return
    response = data.draw(ANSWERS.get(SPECS[code].family, PLAIN))
    try:
        outcome = made.parse(response, NOW)
    except (AnswerError, UnknownKeyError):
        return
    assert isinstance(outcome, OUTCOMES[operation])
    for value in (outcome, getattr(outcome, "payment", None), getattr(outcome, "facts", None)):
        if value is not None:
            _can_be_stored(value)


@each_code
@given(response=PLAIN)
@settings(max_examples=40)
def test_an_unsigned_answer_moves_no_money(code: str, response: HttpResponse) -> None:
    for operation in OUTCOMES:
        made = perform(code, operation)
        if isinstance(made, Call):
            try:
                status = made.parse(response, NOW).status
            except (AnswerError, UnknownKeyError):
                continue
            assert status not in ("PAID", "SUCCESS", "WAITING", "PENDING")


@each_code
@given(data=st.data())
@settings(max_examples=40)
def test_fetched_keys_of_junk_are_refused(code: str, data: st.DataObject) -> None:
    configs = [CONFIGS[SPECS[code].family]()]
    if SPECS[code].family == "wechatpay":
        configs = [configs[0] | {"use_platform_certificates": "true"}]
    elif SPECS[code].family == "alipay":
        configs = [ali_cert_config()]
    call = _fetching(code, tuple(sorted(configs[0].items())))
    if call is None:
        return
    assert call.unclear("time-out") is False
    try:
        assert call.parse(data.draw(ANSWERS.get(SPECS[code].family, PLAIN)), NOW) is False
    except (AnswerError, UnknownKeyError):
        pass


@functools.cache
def _fetching(code: str, config: tuple[tuple[str, str], ...]) -> Call[bool] | None:
    return SPECS[code].build(dict(config)).fetch_keys("f" * 32, MOMENT)


# Callbacks


@st.composite
def wechat_notices(draw: st.DrawFn) -> NotifyRequest:
    content = draw(RAW | OBJECT.map(lambda value: json.dumps(value).encode()))
    sealed = wx_notice(draw(st.sampled_from(["TRANSACTION.SUCCESS", "REFUND.SUCCESS", "X", ""])), content)
    if draw(st.booleans()):
        return sealed
    body = json.dumps({"event_type": "TRANSACTION.SUCCESS", "resource": draw(JSON), **draw(OBJECT)}).encode()
    return NotifyRequest(wx_headers(body), body)


FIELD = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FORMS = st.dictionaries(st.sampled_from(KNOWN), FIELD | st.sampled_from(["trade_status_sync", "TRADE_SUCCESS", "1.00"]), max_size=8)
ALIPAY_NOTICES = FORMS.map(
    lambda fields: ali_form({name: value for name, value in fields.items() if name not in ("sign", "charset")})
)
JUNK_NOTICES = st.builds(NotifyRequest, HEADERS, RAW, st.text(max_size=20))
NOTICES = {"wechatpay": JUNK_NOTICES | wechat_notices(), "alipay": JUNK_NOTICES | ALIPAY_NOTICES}


@each_code
@given(data=st.data())
@settings(max_examples=80)
def test_a_callback_of_junk_is_refused_or_read(code: str, data: st.DataObject) -> None:
    request = data.draw(NOTICES.get(SPECS[code].family, JUNK_NOTICES))
    try:
        notification = codec(code).parse_notify(request, NOW)
    except (NotifyError, UnknownKeyError) as error:
        answer = codec(code).acknowledge(False, str(error))
    else:
        answer = NotifyAnswer(500)
        assert isinstance(notification, Notification)
    assert answer.status >= 400


@each_code
@given(request=JUNK_NOTICES)
@settings(max_examples=40)
def test_an_unsigned_callback_is_refused(code: str, request: NotifyRequest) -> None:
    with pytest.raises((NotifyError, UnknownKeyError)):
        codec(code).parse_notify(request, NOW)


@each_code
@given(message=st.text(max_size=50))
@settings(max_examples=30)
def test_only_what_is_stored_is_acknowledged(code: str, message: str) -> None:
    yes, no = codec(code).acknowledge(True, message), codec(code).acknowledge(False, message)
    assert 200 <= yes.status < 300
    assert not 200 <= no.status < 400
    if SPECS[code].family == "alipay":
        assert (yes.status, yes.body) == (200, b"success")
        assert no.body != b"success"
    if SPECS[code].family == "wechatpay":
        assert (yes.status, yes.body) == (204, b"")
        assert json.loads(no.body)["code"] == "FAIL"


@each_code
def test_keys_are_not_due_without_a_reason(code: str) -> None:
    assert codec(code).keys_due(NOW) is False


def test_the_test_key_is_a_real_one() -> None:
    assert len(API_V3_KEY) == 32
    assert compact({"茶": 1}) == '{"茶":1}'.encode()
