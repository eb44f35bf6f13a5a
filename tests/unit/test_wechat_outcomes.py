"""WeChat Pay v3: every row of the outcome tables, through the codec; expectations from the error tables of WeChat Pay v3."""

from __future__ import annotations

from typing import Any

import pytest
from paycenter_server.channels.protocol import AnswerError, Call, CloseStatus, HttpResponse, PayStatus, QueryStatus, RefundStatus
from paycenter_server.channels.registry import installed
from paycenter_server.channels.wechatpay import outcomes
from unit.channel_support import ATTEMPT, MOMENT, NOW, PAY, REFUND, wx, wx_config, wx_error, wx_refund, wx_signed, wx_transaction

TRADE_STATES = {
    "NOTPAY": "WAITING", "USERPAYING": "WAITING", "ACCEPT": "WAITING", "PAYERROR": "WAITING", "SUCCESS": "PAID",
    "REFUND": "PAID", "CLOSED": "CLOSED", "REVOKED": "CLOSED",
}  # fmt: skip
REFUND_STATES = {"PROCESSING": "PENDING", "SUCCESS": "SUCCESS", "CLOSED": "FAILED", "ABNORMAL": "PENDING"}

# code, its documented HTTP status, and its outcome at create, query, close, refund, refund query.
# None: there is no row, so it decides nothing.
CODES: list[tuple[str, int, str | None, str | None, str | None, str | None, str | None]] = [
    ("PARAM_ERROR", 400, "REFUSED", "UNKNOWN", "UNKNOWN", "FAILED", "UNKNOWN"),
    ("INVALID_REQUEST", 400, "REFUSED", "UNKNOWN", "UNKNOWN", "FAILED", "UNKNOWN"),
    ("APPID_MCHID_NOT_MATCH", 400, "REFUSED", "UNKNOWN", "UNKNOWN", "FAILED", "UNKNOWN"),
    ("MCH_NOT_EXISTS", 400, "REFUSED", "UNKNOWN", "UNKNOWN", "FAILED", "UNKNOWN"),
    ("NO_AUTH", 403, "REFUSED", "UNKNOWN", "UNKNOWN", "FAILED", "UNKNOWN"),
    ("RULE_LIMIT", 403, "REFUSED", "UNKNOWN", "UNKNOWN", "FAILED", "UNKNOWN"),
    ("SYSTEM_ERROR", 500, "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN"),
    ("SERVICE_UNAVAILABLE", 503, "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN"),
    ("FREQUENCY_LIMITED", 429, "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN"),
    ("RATELIMIT_EXCEEDED", 429, "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN"),
    ("BANK_ERROR", 500, "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN"),
    ("SIGN_ERROR", 401, "REFUSED", "UNKNOWN", "UNKNOWN", "RETRY_LATER", "UNKNOWN"),
    ("ORDER_CLOSED", 400, "REFUSED", None, "CLOSED", None, None),
    ("ORDERPAID", 400, "UNKNOWN", None, "PAID", None, None),
    ("ORDER_PAID", 400, "UNKNOWN", None, "PAID", None, None),
    ("OUT_TRADE_NO_USED", 403, "UNKNOWN", None, None, None, None),
    ("ORDER_NOT_EXIST", 404, None, "NOT_FOUND", "CLOSED", None, None),
    ("ORDERNOTEXIST", 404, None, "NOT_FOUND", "CLOSED", None, None),
    ("TRADE_ERROR", 403, None, "UNKNOWN", "UNKNOWN", None, None),
    ("NOT_ENOUGH", 403, None, None, None, "RETRY_LATER", None),
    ("USER_ACCOUNT_ABNORMAL", 403, None, None, None, "FAILED", None),
    ("TRADE_OVERDUE", 403, None, None, None, "FAILED", None),
    ("REFUND_FEE_MISMATCH", 403, None, None, None, "FAILED", None),
    ("RESOURCE_NOT_EXISTS", 404, None, None, None, "FAILED", "NOT_FOUND"),
    ("A_CODE_OF_TOMORROW", 400, None, None, None, None, None),
]  # fmt: skip
TABLES = (
    outcomes.PAY_ERRORS, outcomes.QUERY_ERRORS, outcomes.CLOSE_ERRORS, outcomes.REFUND_ERRORS, outcomes.REFUND_QUERY_ERRORS,
)  # fmt: skip
CALLS = (
    wx().pay(PAY, MOMENT), wx().query(ATTEMPT, MOMENT), wx().close(ATTEMPT, MOMENT), wx().refund(REFUND, MOMENT),
    wx().query_refund(REFUND, MOMENT),
)  # fmt: skip
NAMES = ("pay", "query", "close", "refund", "query_refund")
GOOD: tuple[dict[str, Any], ...] = ({"code_url": "weixin://x"}, wx_transaction(), {}, wx_refund(), wx_refund())
each_call = pytest.mark.parametrize("index", range(5), ids=NAMES)


def _parse(index: int, response: HttpResponse) -> object:
    return CALLS[index].parse(response, NOW)


def test_the_expectations_cover_every_row() -> None:
    for index, table in enumerate(TABLES):
        assert set(table) == {row[0] for row in CODES if row[index + 2] is not None}, NAMES[index]
    assert set(outcomes.TRADE_STATES) == set(TRADE_STATES)
    assert set(outcomes.REFUND_STATES) == set(REFUND_STATES)


@each_call
@pytest.mark.parametrize("row", CODES, ids=[row[0] for row in CODES])
def test_error_code(row: tuple[str, int, str | None], index: int) -> None:
    expected = row[index + 2] or "UNKNOWN"
    outcome = _parse(index, wx_error(row[1], row[0], "说明"))
    assert (outcome.status, outcome.error_code, outcome.error_message) == (expected, row[0], "说明")  # type: ignore[attr-defined]


@each_call
@pytest.mark.parametrize("row", CODES, ids=[row[0] for row in CODES])
def test_a_code_means_the_same_under_another_4xx_status_and_nothing_under_5xx_or_429(row: tuple[str, ...], index: int) -> None:
    expected = row[index + 2] or "UNKNOWN"
    assert _parse(index, wx_error(409, row[0])).status == expected  # type: ignore[attr-defined]
    for status in (429, 500, 502, 503, 504):
        assert _parse(index, wx_error(status, row[0])).status == "UNKNOWN"  # type: ignore[attr-defined]


@each_call
@pytest.mark.parametrize("status", [301, 302, 400, 401, 403, 404, 405, 413, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b"[]", b"\xff", b'"SUCCESS"', b'{"code": 5}'])
def test_an_error_that_cannot_be_read_decides_nothing(index: int, status: int, body: bytes) -> None:
    outcome = _parse(index, HttpResponse(status, {}, body))
    assert (outcome.status, outcome.error_code) == ("UNKNOWN", f"HTTP_{status}")  # type: ignore[attr-defined]


@each_call
def test_an_error_with_a_byte_order_mark_is_read(index: int) -> None:
    plain = wx_error(400, "PARAM_ERROR")
    assert _parse(index, HttpResponse(400, {}, b"\xef\xbb\xbf" + plain.body)) == _parse(index, plain)


@each_call
def test_an_error_with_a_surrogate_is_read(index: int) -> None:
    """As three bytes, which is not UTF-8: an emoji of a text of the merchant, encoded twice."""
    plain = wx_error(400, "PARAM_ERROR", "?")
    assert _parse(index, HttpResponse(400, {}, plain.body.replace(b"?", b"\xed\xa0\xbd"))).error_code == "PARAM_ERROR"  # type: ignore[attr-defined]


@each_call
def test_202_is_not_an_answer_even_signed(index: int) -> None:
    for response in (HttpResponse(202, {}, b""), wx_signed(GOOD[index], 202)):
        assert _parse(index, response).status == "UNKNOWN"  # type: ignore[attr-defined]


@each_call
@pytest.mark.parametrize("status", [200, 201, 204, 206])
def test_2xx_without_a_signature_is_refused(index: int, status: int) -> None:
    with pytest.raises(AnswerError, match="not signed"):
        _parse(index, HttpResponse(status, {}, wx_signed(GOOD[index]).body))


@pytest.mark.parametrize(("state", "expected"), TRADE_STATES.items())
def test_trade_state(state: str, expected: str) -> None:
    outcome = wx().query(ATTEMPT, MOMENT).parse(wx_signed(wx_transaction(state)), NOW)
    assert outcome.status == expected
    assert outcome.error_code == ""
    assert outcome.payment is not None
    assert outcome.payment.amount == 1_000_000_000
    assert outcome.payment.currency == "CNY"
    assert outcome.payment.account == wx().account
    if expected == "PAID":
        assert (outcome.payment.channel_order_no, outcome.payment.channel_user_id) == ("4200002", "oUser")
        assert outcome.payment.success_time is not None
        assert outcome.payment.success_time.isoformat() == "2026-03-04T13:06:07+08:00"


@pytest.mark.parametrize("document", [{}, wx_transaction("TOMORROW"), {"trade_state": 7}, {"trade_state": None}])
def test_a_state_that_is_not_known_decides_nothing(document: dict[str, object]) -> None:
    assert wx().query(ATTEMPT, MOMENT).parse(wx_signed(document), NOW).status is QueryStatus.UNKNOWN


@pytest.mark.parametrize("total", [None, "100", 100.0, True, [100], {"a": 1}])
def test_an_amount_that_is_no_whole_number_is_missing(total: object) -> None:
    outcome = wx().query(ATTEMPT, MOMENT).parse(wx_signed(wx_transaction(amount={"total": total})), NOW)
    assert outcome.payment is not None
    assert (outcome.payment.amount, outcome.payment.currency) == (None, None)


@pytest.mark.parametrize("operation", ["refund", "query_refund"])
@pytest.mark.parametrize(("state", "expected"), [*REFUND_STATES.items(), ("TOMORROW", "UNKNOWN")])
def test_refund_state(operation: str, state: str, expected: str) -> None:
    outcome = getattr(wx(), operation)(REFUND, MOMENT).parse(wx_signed(wx_refund(state)), NOW)
    assert outcome.status == expected
    assert outcome.error_code == ("" if state in ("SUCCESS", "PROCESSING") else state)
    facts = outcome.facts
    assert (facts.out_refund_no, facts.out_trade_no) == (REFUND.out_refund_no, REFUND.out_trade_no)
    assert (facts.amount, facts.channel_refund_no) == (123_456_789, "5030001")


def test_the_state_field_of_a_callback_is_not_read_from_an_answer() -> None:
    outcome = wx().query_refund(REFUND, MOMENT).parse(wx_signed(wx_refund("SUCCESS", "refund_status")), NOW)
    assert outcome.status is RefundStatus.UNKNOWN


def test_create_answers_the_code_url() -> None:
    outcome = wx().pay(PAY, MOMENT).parse(wx_signed({"code_url": "weixin://wxpay/bizpayurl?pr=1"}), NOW)
    assert (outcome.status, outcome.display_mode) == (PayStatus.WAITING, "qr_code")
    assert outcome.display_content == "weixin://wxpay/bizpayurl?pr=1"


@pytest.mark.parametrize("document", [{}, {"code_url": ""}, {"code_url": 1}, {"prepay_id": "wx"}])
def test_create_without_a_code_url_is_refused(document: object) -> None:
    with pytest.raises(AnswerError, match="code_url"):
        wx().pay(PAY, MOMENT).parse(wx_signed(document), NOW)


def test_close_is_answered_by_a_signed_204() -> None:
    assert wx().close(ATTEMPT, MOMENT).parse(wx_signed(b"", 204), NOW).status is CloseStatus.CLOSED
    with pytest.raises(AnswerError):
        wx().close(ATTEMPT, MOMENT).parse(HttpResponse(204, {}, b""), NOW)


def test_a_text_that_no_database_accepts_is_replaced() -> None:
    body = b'{"code":"PARAM_ERROR","message":"a\\u0000b\\ud800c"}'
    outcome = wx().pay(PAY, MOMENT).parse(HttpResponse(400, {}, body), NOW)
    assert (outcome.error_code, outcome.error_message) == ("PARAM_ERROR", "a\ufffdb?c")


# Bar codes: the codes of a close for paid and unknown orders have other outcomes at a reversal.
REVERSALS = {
    **{row[0]: row[4] for row in CODES if row[4] is not None}, "ORDERPAID": "UNKNOWN", "ORDER_PAID": "UNKNOWN",
    "ORDER_NOT_EXIST": "STILL_PAYABLE", "ORDERNOTEXIST": "STILL_PAYABLE", "NOT_ENOUGH": "PAID",
}  # fmt: skip


@pytest.mark.parametrize(("code", "expected"), [*REVERSALS.items(), ("A_CODE_OF_TOMORROW", "UNKNOWN")])
def test_a_reversal_that_failed(code: str, expected: str) -> None:
    assert set(outcomes.REVERSE_ERRORS) == set(REVERSALS)
    call = installed()["wx_bar"].build(wx_config(use_codepay="true")).close(ATTEMPT, MOMENT)
    assert isinstance(call, Call)
    outcome = call.parse(wx_error(400, code), NOW)
    assert (outcome.status, outcome.error_code) == (expected, code)


CODEPAY = {
    **{row[0]: row[2] for row in CODES if row[2] is not None}, "USERPAYING": "WAITING", "BANKERROR": "UNKNOWN",
    "AUTHCODEEXPIRE": "REFUSED", "AUTH_CODE_ERROR": "REFUSED", "AUTH_CODE_INVALID": "REFUSED", "NOTENOUGH": "REFUSED",
    "NOT_ENOUGH": "REFUSED", "NOTSUPORTCARD": "REFUSED", "ORDERREVERSED": "REFUSED", "BUYER_MISMATCH": "REFUSED",
}  # fmt: skip


@pytest.mark.parametrize(("code", "expected"), [*CODEPAY.items(), ("A_CODE_OF_TOMORROW", "UNKNOWN")])
def test_a_bar_code_that_was_not_charged(code: str, expected: str) -> None:
    assert set(outcomes.CODEPAY_ERRORS) == set(CODEPAY)
    call = installed()["wx_bar"].build(wx_config(use_codepay="true")).pay(PAY, MOMENT)
    assert isinstance(call, Call)
    outcome = call.parse(wx_error(400, code), NOW)
    assert (outcome.status, outcome.error_code) == (expected, code)
