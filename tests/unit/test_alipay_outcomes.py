"""Alipay: every row of the outcome tables, through the codec; expectations from the error tables of Alipay Open API."""

from __future__ import annotations

from typing import Any

import pytest
from paycenter_server.channels.alipay import outcomes
from paycenter_server.channels.protocol import AnswerError, Call, CloseStatus, HttpResponse, PayStatus, QueryStatus, RefundStatus
from paycenter_server.channels.registry import installed
from unit.channel_support import (
    ATTEMPT,
    MOMENT,
    NOW,
    NUMBER,
    PAY,
    REFUND,
    REFUND_NUMBER,
    ali_bad,
    ali_callback,
    ali_config,
    ali_form,
    ali_good,
    ali_signed,
    ali_trade,
    ali_unsigned,
    qr,
)

# sub_code, and its outcome at create, query, close, refund, refund query. None: there is no row, so it decides nothing.
CODES: list[tuple[str, str | None, str | None, str | None, str | None, str | None]] = [
    ("20000", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN"),
    ("40005", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN"),
    ("ACQ.SYSTEM_ERROR", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN"),
    ("SYSTEM_ERROR", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN"),
    ("isp.unknow-error", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN"),
    ("aop.unknow-error", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN"),
    ("isv.app-call-limited", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN"),
    ("ACQ.TRADE_HAS_SUCCESS", "UNKNOWN", None, None, None, None),
    ("ACQ.CONTEXT_INCONSISTENT", "UNKNOWN", None, None, None, None),
    ("ACQ.TRADE_HAS_CLOSE", "REFUSED", None, "CLOSED", None, None),
    ("ACQ.INVALID_PARAMETER", "REFUSED", None, None, None, None),
    ("ACQ.ACCESS_FORBIDDEN", "REFUSED", None, None, None, None),
    ("ACQ.PARTNER_ERROR", "REFUSED", None, None, None, None),
    ("ACQ.TOTAL_FEE_EXCEED", "REFUSED", None, None, None, None),
    ("ACQ.PAYMENT_FAIL", "REFUSED", None, None, None, None),
    ("ACQ.PAYMENT_AUTH_CODE_INVALID", "REFUSED", None, None, None, None),
    ("ACQ.BUYER_BALANCE_NOT_ENOUGH", "REFUSED", None, None, None, None),
    ("ACQ.BUYER_BANKCARD_BALANCE_NOT_ENOUGH", "REFUSED", None, None, None, None),
    ("ACQ.ERROR_BALANCE_PAYMENT_DISABLE", "REFUSED", None, None, None, None),
    ("ACQ.TRADE_NOT_EXIST", None, "NOT_FOUND", "STILL_PAYABLE", None, "UNKNOWN"),
    ("ACQ.TRADE_STATUS_ERROR", None, None, "UNKNOWN", "TRADE_DECIDES", None),
    ("ACQ.REASON_TRADE_STATUS_INVALID", None, None, "UNKNOWN", None, None),
    ("ACQ.SELLER_BALANCE_NOT_ENOUGH", None, None, None, "RETRY_LATER", None),
    ("ACQ.TRADE_HAS_FINISHED", None, None, None, "FAILED", None),
    ("ACQ.REASON_TRADE_REFUND_FEE_ERR", None, None, None, "FAILED", None),
    ("ACQ.REFUND_AMT_NOT_EQUAL_TOTAL", None, None, None, "FAILED", None),
    ("ACQ.TRADE_NOT_ALLOW_REFUND", None, None, None, "FAILED", None),
    ("ACQ.DISCORDANT_REPEAT_REQUEST", None, None, None, "FAILED", None),
    ("ACQ.A_CODE_OF_TOMORROW", None, None, None, None, None),
]
TABLES = (
    outcomes.PAY_ERRORS, outcomes.QUERY_ERRORS, outcomes.CLOSE_ERRORS, outcomes.REFUND_ERRORS, outcomes.REFUND_QUERY_ERRORS,
)  # fmt: skip
CALLS = (
    qr().pay(PAY, MOMENT), qr().query(ATTEMPT, MOMENT), qr().close(ATTEMPT, MOMENT), qr().refund(REFUND, MOMENT),
    qr().query_refund(REFUND, MOMENT),
)  # fmt: skip
GOOD = (
    ali_good(qr_code="https://qr.alipay.com/bax1", out_trade_no=NUMBER),
    ali_good(**ali_trade()),
    ali_good(out_trade_no=NUMBER, trade_no="1"),
    ali_good(out_trade_no=NUMBER, fund_change="Y", refund_fee="1234567.89", gmt_refund_pay="2026-03-04 13:06:07"),
    ali_good(
        out_trade_no=NUMBER, out_request_no=REFUND_NUMBER, refund_status="REFUND_SUCCESS", refund_amount="1234567.89",
        gmt_refund_pay="2026-03-04 13:06:07",
    ),
)  # fmt: skip
GOOD_STATUS = ("WAITING", "PAID", "CLOSED", "SUCCESS", "SUCCESS")
NAMES = ("pay", "query", "close", "refund", "query_refund")
each_call = pytest.mark.parametrize("index", range(5), ids=NAMES)


def _parse(index: int, response: HttpResponse) -> Any:
    return CALLS[index].parse(response, NOW)


def _signed(index: int, content: dict[str, Any], **how: Any) -> Any:
    return _parse(index, ali_signed(CALLS[index].api, content, **how))


def test_the_expectations_cover_every_row() -> None:
    for index, table in enumerate(TABLES):
        assert set(table) == {row[0] for row in CODES if row[index + 1] is not None}, NAMES[index]
    assert {"40001", "40002", "40006"} == outcomes.CONFIGURATION_CODES


@each_call
@pytest.mark.parametrize("row", CODES, ids=[row[0] for row in CODES])
def test_sub_code(row: tuple[str, str | None], index: int) -> None:
    outcome = _signed(index, ali_bad(row[0]))
    assert (outcome.status, outcome.error_code, outcome.error_message) == (row[index + 1] or "UNKNOWN", row[0], "出错了")


@each_call
@pytest.mark.parametrize("row", CODES, ids=[row[0] for row in CODES])
def test_a_failure_without_a_signature_is_never_definite(row: tuple[str, str | None], index: int) -> None:
    assert _parse(index, ali_unsigned(CALLS[index].api, ali_bad(row[0]))).status == "UNKNOWN"


@each_call
@pytest.mark.parametrize("code", ["40001", "40002", "40006"])
def test_configuration_codes_are_definite_only_when_signed(code: str, index: int) -> None:
    expected = ("REFUSED", "UNKNOWN", "UNKNOWN", "RETRY_LATER", "UNKNOWN")[index]
    for sub_code in ("isv.invalid-signature", "isv.missing-signature-key", ""):
        assert _signed(index, ali_bad(sub_code, code)).status == expected
        assert _parse(index, ali_unsigned(CALLS[index].api, ali_bad(sub_code, code))).status == "UNKNOWN"


@each_call
@pytest.mark.parametrize("code", ["20000", "20001", "40003", "40004", "40005", "10003", "", "x"])
def test_other_codes_decide_nothing(code: str, index: int) -> None:
    outcome = _signed(index, {"code": code, "msg": "m"})
    assert (outcome.status, outcome.error_code, outcome.error_message) == ("UNKNOWN", code, "m")


@each_call
def test_success(index: int) -> None:
    assert _signed(index, GOOD[index]).status == GOOD_STATUS[index]


@each_call
def test_success_without_a_signature_is_refused(index: int) -> None:
    with pytest.raises(AnswerError, match="without a signature"):
        _parse(index, ali_unsigned(CALLS[index].api, GOOD[index]))


@each_call
@pytest.mark.parametrize("status", [100, 201, 202, 204, 301, 400, 403, 404, 429, 500, 502, 503])
def test_only_http_200_is_an_answer(index: int, status: int) -> None:
    with pytest.raises(AnswerError):
        _parse(index, HttpResponse(status, {}, ali_signed(CALLS[index].api, GOOD[index]).body))


@each_call
def test_an_answer_about_another_trade_decides_nothing(index: int) -> None:
    content = {**GOOD[index], "out_trade_no": "P" + "0" * 26}
    if index in (0, 2):
        with pytest.raises(AnswerError):
            _signed(index, content)
    elif index == 3:
        assert _signed(index, content).status is RefundStatus.PENDING
    else:
        facts = _signed(index, content).payment if index == 1 else _signed(index, content).facts
        assert facts.out_trade_no == "P" + "0" * 26


def test_a_refund_answer_states_the_number_of_another_refund() -> None:
    outcome = _signed(4, {**GOOD[4], "out_request_no": "R2"})
    assert outcome.facts.out_refund_no == "R2"
    assert _signed(4, {name: value for name, value in GOOD[4].items() if name != "out_request_no"}).facts.out_refund_no == ""


def test_precreate_answers_the_code() -> None:
    outcome = _signed(0, GOOD[0])
    assert (outcome.display_mode, outcome.display_content) == ("qr_code", "https://qr.alipay.com/bax1")
    for content in (ali_good(), ali_good(qr_code="", out_trade_no=NUMBER), ali_good(qr_code="https://x")):
        with pytest.raises(AnswerError):
            _signed(0, content)


TRADES = [
    ("WAIT_BUYER_PAY", {}, "WAITING"),
    ("TRADE_SUCCESS", {}, "PAID"),
    ("TRADE_FINISHED", {}, "PAID"),
    ("TRADE_CLOSED", {}, "CLOSED"),
    ("TRADE_CLOSED", {"refund_fee": "0.00"}, "CLOSED"),
    ("TRADE_CLOSED", {"refund_fee": "0.01"}, "PAID"),
    ("TRADE_CLOSED", {"gmt_refund": "2026-03-04 13:06:07.123"}, "PAID"),
    ("TRADE_CLOSED", {"PAID_AT": "2026-03-04 13:06:07"}, "PAID"),
    ("TRADE_OF_TOMORROW", {}, "UNKNOWN"),
    ("", {}, "UNKNOWN"),
]


@pytest.mark.parametrize(("state", "more", "expected"), TRADES)
def test_trade_status_in_answers_and_callbacks(state: str, more: dict[str, str], expected: str) -> None:
    asked = {name.replace("PAID_AT", "send_pay_date"): value for name, value in more.items()}
    assert _signed(1, ali_good(**ali_trade(state, **asked))).status == expected
    told = {name.replace("PAID_AT", "gmt_payment"): value for name, value in more.items()}
    fields = ali_callback(state, **{"gmt_payment": "-", **told})
    payment = qr().parse_callback(ali_form(fields), NOW).payment
    assert payment is not None
    assert payment.status == expected


def test_the_facts_of_a_query() -> None:
    outcome = _signed(1, ali_good(**ali_trade(send_pay_date="2026-03-04 13:06:07")))
    payment = outcome.payment
    assert outcome.status is QueryStatus.PAID
    assert (payment.out_trade_no, payment.channel_order_no, payment.amount, payment.currency) == (
        NUMBER, "20260304", 1_000_000_000, "CNY",
    )  # fmt: skip
    assert (payment.account, payment.channel_user_id) == (qr().account, "2088999")
    assert payment.success_time.isoformat() == "2026-03-04T13:06:07+08:00"


@pytest.mark.parametrize(
    "amount", ["", None, "1.0E7", "1e2", "-1.00", "+1", "1.001", "1,000.00", " 1", "1 ", 100, 1.5, "NaN", "１"]
)
def test_an_amount_that_is_not_plain_is_missing(amount: object) -> None:
    assert _signed(1, ali_good(**ali_trade(total_amount=amount))).payment.amount is None
    assert _signed(4, {**GOOD[4], "refund_amount": amount}).facts.amount is None


@pytest.mark.parametrize("fund_change", ["N", "", None, "y", True])
def test_a_refund_that_moved_no_money_is_queried(fund_change: object) -> None:
    assert _signed(3, {**GOOD[3], "fund_change": fund_change}).status is RefundStatus.PENDING


@pytest.mark.parametrize("refund_fee", ["1234567.88", "0.00", "", None, "1.23456789E6"])
def test_a_refund_total_below_this_refund_is_queried(refund_fee: object) -> None:
    assert _signed(3, {**GOOD[3], "refund_fee": refund_fee}).status is RefundStatus.PENDING


def test_refund_fee_is_cumulative() -> None:
    outcome = _signed(3, {**GOOD[3], "refund_fee": "9999999.99"})
    assert outcome.status is RefundStatus.SUCCESS
    assert (outcome.facts.out_refund_no, outcome.facts.amount) == (REFUND_NUMBER, 123_456_789)
    assert outcome.facts.success_time.isoformat() == "2026-03-04T13:06:07+08:00"


def test_an_empty_success_means_that_the_refund_does_not_exist() -> None:
    assert _signed(4, ali_good()).status is RefundStatus.NOT_FOUND
    assert _signed(4, ali_good(refund_amount="1.00")).status is RefundStatus.PENDING
    assert _signed(4, {**GOOD[4], "refund_status": "REFUND_PROCESSING"}).status is RefundStatus.PENDING


def test_the_facts_of_a_refund_query() -> None:
    facts = _signed(4, GOOD[4]).facts
    assert (facts.out_refund_no, facts.out_trade_no, facts.amount) == (REFUND_NUMBER, NUMBER, 123_456_789)
    assert facts.account == qr().account


def test_what_is_not_scanned_stays_payable() -> None:
    assert _signed(2, ali_bad("ACQ.TRADE_NOT_EXIST")).status is CloseStatus.STILL_PAYABLE
    assert _signed(0, GOOD[0]).status is PayStatus.WAITING


def test_a_number_with_a_nul_is_not_ours() -> None:
    outcome = _signed(1, ali_good(**ali_trade(out_trade_no=NUMBER + "\0")))
    assert outcome.payment.out_trade_no == NUMBER + "\ufffd"


CANCELS = {
    **{row[0]: "UNKNOWN" for row in CODES[:7]}, "ACQ.TRADE_HAS_FINISHED": "PAID", "ACQ.SELLER_BALANCE_NOT_ENOUGH": "PAID",
    "ACQ.TRADE_CANCEL_TIME_OUT": "PAID",
}  # fmt: skip


@pytest.mark.parametrize(("code", "expected"), [*CANCELS.items(), ("ACQ.A_CODE_OF_TOMORROW", "UNKNOWN")])
def test_a_cancellation_that_failed(code: str, expected: str) -> None:
    assert set(outcomes.CANCEL_ERRORS) == set(CANCELS)
    call = installed()["alipay_bar"].build(ali_config()).close(ATTEMPT, MOMENT)
    assert isinstance(call, Call)
    outcome = call.parse(ali_signed(call.api, ali_bad(code)), NOW)
    assert (outcome.status, outcome.error_code) == (expected, code)
    assert call.parse(ali_unsigned(call.api, ali_bad(code)), NOW).status == "UNKNOWN"


@pytest.mark.parametrize(("flag", "action", "expected"), [
    ("N", "close", "CLOSED"), ("N", "refund", "CLOSED"), ("N", None, "STILL_PAYABLE"),
    ("Y", "close", "UNKNOWN"), (None, None, "UNKNOWN"),
])  # fmt: skip
def test_a_cancellation(flag: str | None, action: str | None, expected: str) -> None:
    call = installed()["alipay_bar"].build(ali_config()).close(ATTEMPT, MOMENT)
    assert isinstance(call, Call)
    given = {"out_trade_no": NUMBER, "retry_flag": flag, "action": action}
    outcome = call.parse(ali_signed(call.api, ali_good(**{name: value for name, value in given.items() if value})), NOW)
    assert (outcome.status, outcome.error_code == "CANCEL_REFUNDED") == (expected, (flag, action) == ("N", "refund"))
