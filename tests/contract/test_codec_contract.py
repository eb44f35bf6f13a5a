"""The contract of every registered codec."""

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
from contract.codec_junk import ANSWERS, CALLBACKS, JUNK_CALLBACKS, PLAIN
from hypothesis import given, settings
from hypothesis import strategies as st
from paycenter_server.channels.protocol import (
    AnswerError,
    Call,
    Callback,
    CallbackError,
    CallbackRequest,
    CallbackResponse,
    CloseOutcome,
    Codec,
    HttpRequest,
    HttpResponse,
    PayOutcome,
    QueryOutcome,
    RefundOutcome,
    RequestContext,
    UnknownKeyError,
)
from paycenter_server.channels.registry import installed
from paycenter_server.channels.specs import ChannelSpec
from paycenter_server.http_cashier.texts import LANGUAGES
from unit.channel_support import (
    API_V3_KEY,
    ATTEMPT,
    MOMENT,
    NOW,
    PAY,
    REFUND,
    ali_cert_config,
    ali_config,
    certificate,
    compact,
    wx_config,
)
from unit.test_wechat_v2 import config as v2_config

SPECS = installed()
# A configuration of each family; a codec of a new family adds its own here.
CONFIGS: dict[str, Callable[[], dict[str, str]]] = {
    "wechatpay": lambda: wx_config(
        platform_certificates=certificate("platform").decode(), use_codepay="true", mch_key="0123456789abcdef0123456789abcdef"
    ),
    "alipay": ali_config,
    "mock": dict,
}
# The names of fields that must be secret.
SECRETIVE = re.compile(r"key$|secret|token|password|private")
OUTCOMES: dict[str, type[Any]] = {
    "pay": PayOutcome, "query": QueryOutcome, "close": CloseOutcome, "refund": RefundOutcome, "query_refund": RefundOutcome,
}  # fmt: skip
SUBJECTS: dict[str, Any] = {"pay": PAY, "query": ATTEMPT, "close": ATTEMPT, "refund": REFUND, "query_refund": REFUND}

# WeChat's v2 is a configuration of the same codes.
CODES = [*SPECS, *(f"{code}@v2" for code, made in SPECS.items() if made.family == "wechatpay")]
each_code = pytest.mark.parametrize("code", CODES)
each_operation = pytest.mark.parametrize("operation", list(OUTCOMES))


def spec(code: str) -> ChannelSpec:
    return SPECS[code.partition("@")[0]]


def config(code: str) -> dict[str, str]:
    if code.endswith("@v2"):
        return v2_config()
    family = spec(code).family
    if family not in CONFIGS:
        pytest.skip(f"CONFIGS has no configuration of the family {family!r} (see CONTRIBUTING, adding a channel)")
    return CONFIGS[family]()


@functools.cache
def codec(code: str) -> Codec:
    return spec(code).build(config(code))


def perform(code: str, operation: str, moment: RequestContext = MOMENT, **changes: Any) -> Any:
    return getattr(codec(code), operation)(replace(SUBJECTS[operation], **changes), moment)


def text_of(request: HttpRequest) -> str:
    return unquote_plus(request.url) + unquote_plus(request.body.decode())


# The specification


@each_code
def test_the_spec_is_complete(code: str) -> None:
    its = spec(code)
    assert re.fullmatch(r"[a-z0-9_]{2,32}", its.code)
    assert its.code == code.partition("@")[0] == codec(code).code
    assert its.title
    assert re.fullmatch(r"[a-z0-9_]{2,32}", its.family)
    assert its.display_modes
    assert len({field.name for field in its.config_fields}) == len(its.config_fields)
    assert its.content_minutes > 0
    assert its.mode_field in ("", *(field.name for field in its.config_fields))
    assert its.cashier is None or (its.cashier.browsers and its.cashier.titles.keys() == set(LANGUAGES))
    assert set(config(code)) <= {field.name for field in its.config_fields}
    assert list(its.check(config(code))) == []


@each_code
def test_private_material_is_declared_secret(code: str) -> None:
    names = {field.name for field in spec(code).config_fields}
    private = {name for name in names if SECRETIVE.search(name) and "public" not in name}
    assert private <= spec(code).secret_fields


@each_code
def test_a_mode_that_is_offered_is_answered(code: str) -> None:
    for mode in spec(code).display_modes:
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
    other = getattr(spec(code).build(config(code)), operation)(SUBJECTS[operation], MOMENT).request
    # A client certificate is compared by identity: each codec has one of its own.
    assert (other.client_certificate is None) is (first.request.client_certificate is None)
    assert replace(first.request, client_certificate=None) == replace(other, client_certificate=None)


@each_code
@each_operation
def test_requests_go_to_the_configured_gateway(code: str, operation: str) -> None:
    made = perform(code, operation)
    gateway = config(code).get("gateway_url")
    if gateway is None:
        return  # a fixed address, or one that the channel names in its own way
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
        assert re.search(rf'[:"[=]({amount}|{amount // 100}\.{amount % 100:02d})([],"}}&]|$)', text)
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
    configured = config(code)
    made = perform(code, operation)
    shown = repr(codec(code)) + str(codec(code)) + repr(made)
    for name in spec(code).secret_fields:
        lines = [line for line in configured.get(name, "").splitlines() if line and "-----" not in line]
        assert lines or name in ("encrypt_key", "api_v3_key")  # options that the configuration leaves out, or v2 does not have
        assert not [line for line in lines if line in shown]


def answers(code: str) -> st.SearchStrategy[HttpResponse]:
    return ANSWERS.get("wechatpay_v2" if code.endswith("@v2") else spec(code).family, PLAIN)


def callbacks(code: str) -> st.SearchStrategy[CallbackRequest]:
    return CALLBACKS.get("wechatpay_v2" if code.endswith("@v2") else spec(code).family, JUNK_CALLBACKS)


# Answers


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
    response = data.draw(answers(code))
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
    fetching = config(code)
    if spec(code).family == "wechatpay":
        fetching |= {"use_platform_certificates": "true"}
    elif spec(code).family == "alipay":
        fetching = ali_cert_config()
    call = _fetching(code, tuple(sorted(fetching.items())))
    if call is None:
        return
    assert call.unclear("time-out") is False
    try:
        assert call.parse(data.draw(answers(code)), NOW) is False
    except (AnswerError, UnknownKeyError):
        pass


@functools.cache
def _fetching(code: str, config: tuple[tuple[str, str], ...]) -> Call[bool] | None:
    return spec(code).build(dict(config)).fetch_keys("f" * 32, MOMENT)


# Callbacks


@each_code
@given(data=st.data())
@settings(max_examples=80)
def test_a_callback_of_junk_is_refused_or_read(code: str, data: st.DataObject) -> None:
    request = data.draw(callbacks(code))
    try:
        parsed = codec(code).parse_callback(request, NOW)
    except (CallbackError, UnknownKeyError) as error:
        answer = codec(code).acknowledge(False, str(error))
    else:
        answer = CallbackResponse(500)
        assert isinstance(parsed, Callback)
    assert answer.status >= 400


@each_code
@given(request=JUNK_CALLBACKS)
@settings(max_examples=40)
def test_an_unsigned_callback_is_refused(code: str, request: CallbackRequest) -> None:
    with pytest.raises((CallbackError, UnknownKeyError)):
        codec(code).parse_callback(request, NOW)


@each_code
@given(message=st.text(max_size=50))
@settings(max_examples=30)
def test_only_what_is_stored_is_acknowledged(code: str, message: str) -> None:
    yes, no = codec(code).acknowledge(True, message), codec(code).acknowledge(False, message)
    assert 200 <= yes.status < 300
    assert not 200 <= no.status < 400
    if spec(code).family == "alipay":
        assert (yes.status, yes.body) == (200, b"success")
        assert no.body != b"success"
    if code.endswith("@v2"):
        assert (yes.status, b"<return_code><![CDATA[SUCCESS]]></return_code>" in yes.body) == (200, True)
        assert b"<return_code><![CDATA[FAIL]]></return_code>" in no.body
    elif spec(code).family == "wechatpay":
        assert (yes.status, yes.body) == (204, b"")
        assert json.loads(no.body)["code"] == "FAIL"


@each_code
def test_keys_are_not_due_without_a_reason(code: str) -> None:
    assert codec(code).keys_due(NOW) is False


def test_the_test_key_is_a_real_one() -> None:
    assert len(API_V3_KEY) == 32
    assert compact({"茶": 1}) == '{"茶":1}'.encode()
