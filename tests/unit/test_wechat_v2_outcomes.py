"""WeChat Pay v2: every row of the outcome tables, through the codec; expectations from the error tables of WeChat Pay v2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from paycenter_server.channels.protocol import Call
from paycenter_server.channels.wechatpay import v2_outcomes
from unit.channel_support import ATTEMPT, MOMENT, NOW, NUMBER, PAY, REFUND, REFUND_NUMBER
from unit.test_wechat_v2 import answer, codec

# Nothing was created, and nothing will be, because the request is invalid.
DEFINITE = (
    "NOAUTH", "APPID_NOT_EXIST", "MCHID_NOT_EXIST", "APPID_MCHID_NOT_MATCH", "LACK_PARAMS", "XML_FORMAT_ERROR", "POST_DATA_EMPTY",
    "NOT_UTF8", "REQUIRE_POST_METHOD", "SIGNERROR", "PARAM_ERROR",
)  # fmt: skip
PAY_CODES = {
    **dict.fromkeys(DEFINITE, "REFUSED"),
    "ORDERCLOSED": "REFUSED", "SYSTEMERROR": "UNKNOWN", "ORDERPAID": "UNKNOWN", "OUT_TRADE_NO_USED": "UNKNOWN",
}  # fmt: skip
MICROPAY_CODES = {
    **dict.fromkeys(DEFINITE, "REFUSED"),
    "USERPAYING": "WAITING", "SYSTEMERROR": "UNKNOWN", "BANKERROR": "UNKNOWN", "ORDERPAID": "UNKNOWN",
    "AUTHCODEEXPIRE": "REFUSED", "AUTH_CODE_ERROR": "REFUSED", "AUTH_CODE_INVALID": "REFUSED", "NOTENOUGH": "REFUSED",
    "NOTSUPORTCARD": "REFUSED", "ORDERCLOSED": "REFUSED", "ORDERREVERSED": "REFUSED", "OUT_TRADE_NO_USED": "REFUSED",
    "BUYER_MISMATCH": "REFUSED",
}  # fmt: skip
QUERY_CODES = {"ORDERNOTEXIST": "NOT_FOUND", "SYSTEMERROR": "UNKNOWN"}
CLOSE_CODES = {"ORDERCLOSED": "CLOSED", "ORDERNOTEXIST": "CLOSED", "ORDERPAID": "PAID", "SYSTEMERROR": "UNKNOWN"}
# An unknown bar code payment may still arrive. A payment in progress was not reversed.
REVERSE_CODES = {
    "ORDERREVERSED": "CLOSED", "ORDERNOTEXIST": "STILL_PAYABLE", "SYSTEMERROR": "UNKNOWN", "USERPAYING": "UNKNOWN",
    "NOTENOUGH": "PAID", "REVERSE_EXPIRE": "PAID",
}  # fmt: skip
REFUND_CODES = {
    **dict.fromkeys(DEFINITE, "FAILED"),
    "SIGNERROR": "RETRY_LATER", "SYSTEMERROR": "UNKNOWN", "BIZERR_NEED_RETRY": "UNKNOWN", "NOTENOUGH": "RETRY_LATER",
    "FREQUENCY_LIMITED": "RETRY_LATER", "INVALID_REQ_TOO_MUCH": "RETRY_LATER", "TRADE_OVERDUE": "FAILED",
    "USER_ACCOUNT_ABNORMAL": "FAILED", "REFUND_FEE_MISMATCH": "FAILED", "INVALID_TRANSACTIONID": "FAILED",
}  # fmt: skip
REFUND_QUERY_CODES = {"REFUNDNOTEXIST": "NOT_FOUND", "SYSTEMERROR": "UNKNOWN"}
REFUND_STATES = {"SUCCESS": "SUCCESS", "PROCESSING": "PENDING", "REFUNDCLOSE": "FAILED", "CHANGE": "PENDING"}
TRADE_STATES = {
    "SUCCESS": "PAID", "REFUND": "PAID", "NOTPAY": "WAITING", "USERPAYING": "WAITING", "ACCEPT": "WAITING", "PAYERROR": "WAITING",
    "CLOSED": "CLOSED", "REVOKED": "CLOSED",
}  # fmt: skip
CALLS: dict[str, tuple[Call[Any], Mapping[str, Any], dict[str, str]]] = {
    "pay": (codec().pay(PAY, MOMENT), v2_outcomes.PAY_ERRORS, PAY_CODES),
    "micropay": (codec("wx_bar").pay(PAY, MOMENT), v2_outcomes.MICROPAY_ERRORS, MICROPAY_CODES),
    "query": (codec().query(ATTEMPT, MOMENT), v2_outcomes.QUERY_ERRORS, QUERY_CODES),
    "close": (codec().close(ATTEMPT, MOMENT), v2_outcomes.CLOSE_ERRORS, CLOSE_CODES),
    "reverse": (codec("wx_bar").close(ATTEMPT, MOMENT), v2_outcomes.REVERSE_ERRORS, REVERSE_CODES),
    "refund": (codec().refund(REFUND, MOMENT), v2_outcomes.REFUND_ERRORS, REFUND_CODES),
    "query_refund": (codec().query_refund(REFUND, MOMENT), v2_outcomes.REFUND_QUERY_ERRORS, REFUND_QUERY_CODES),
}
ROWS = [
    pytest.param(name, code, status, id=f"{name}-{code}")
    for name, (_, _, codes) in CALLS.items()
    for code, status in [*codes.items(), ("A_CODE_OF_TOMORROW", "UNKNOWN")]
]


@pytest.mark.parametrize("name", CALLS)
def test_the_expectations_cover_every_row(name: str) -> None:
    _, table, codes = CALLS[name]
    assert set(table) == set(codes)


@pytest.mark.parametrize(("name", "code", "status"), ROWS)
def test_error_code(name: str, code: str, status: str) -> None:
    outcome = CALLS[name][0].parse(answer(result_code="FAIL", err_code=code, err_code_des="说明"), NOW)
    assert (outcome.status, outcome.error_code, outcome.error_message) == (status, code, "说明")


@pytest.mark.parametrize("recall", ["Y", "N"])
@pytest.mark.parametrize(("result", "code"), [("SUCCESS", ""), ("FAIL", "SYSTEMERROR"), ("FAIL", "A_CODE_OF_TOMORROW")])
def test_recall_requires_a_repetition(recall: str, result: str, code: str) -> None:
    more = {"err_code": code} if code else {}
    outcome = CALLS["reverse"][0].parse(answer(result_code=result, recall=recall, **more), NOW)
    assert outcome.status == ("CLOSED" if (result, recall) == ("SUCCESS", "N") else "UNKNOWN")


@pytest.mark.parametrize(("code", "status"), [*REFUND_STATES.items(), ("TOMORROW", "UNKNOWN")])
def test_refund_state(code: str, status: str) -> None:
    assert set(v2_outcomes.REFUND_STATES) == set(REFUND_STATES)
    given = answer(
        result_code="SUCCESS", refund_status_0=code, out_refund_no_0=REFUND_NUMBER, out_trade_no=NUMBER,
        refund_fee_0=str(REFUND.amount), refund_id_0="5000", refund_success_time_0="2026-01-02 03:04:05",
    )  # fmt: skip
    outcome = CALLS["query_refund"][0].parse(given, NOW)
    assert outcome.status == status
    assert outcome.facts.amount == REFUND.amount


@pytest.mark.parametrize(("state", "status"), [*TRADE_STATES.items(), ("TOMORROW", "UNKNOWN")])
def test_trade_state(state: str, status: str) -> None:
    given = answer(result_code="SUCCESS", trade_state=state, out_trade_no=NUMBER, total_fee="100", time_end="20260102030405")
    outcome = CALLS["query"][0].parse(given, NOW)
    assert outcome.status == status
    assert (outcome.payment.amount, outcome.payment.currency) == (100, "CNY")
    assert outcome.payment.success_time.isoformat() == "2026-01-02T03:04:05+08:00"
