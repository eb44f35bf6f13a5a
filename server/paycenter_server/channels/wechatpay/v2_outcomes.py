"""WeChat Pay v2: what its error codes mean to us. Tables, with a test per row; a code in no table is UNKNOWN.

Source: WeChat Pay v2, the error tables of unifiedorder, micropay, orderquery, closeorder, refund and refundquery.
"""

from __future__ import annotations

from collections.abc import Mapping

from paycenter_server.channels.protocol import CloseStatus, PayStatus, QueryStatus, RefundStatus

_DEFINITE = (
    "NOAUTH", "APPID_NOT_EXIST", "MCHID_NOT_EXIST", "APPID_MCHID_NOT_MATCH", "LACK_PARAMS", "XML_FORMAT_ERROR",
    "POST_DATA_EMPTY", "NOT_UTF8", "REQUIRE_POST_METHOD", "SIGNERROR", "PARAM_ERROR",
)  # fmt: skip

# The channel turns us away: the key, or what belongs together.
ALARM_CODES = frozenset({"SIGNERROR", "NOAUTH", "APPID_NOT_EXIST", "MCHID_NOT_EXIST", "APPID_MCHID_NOT_MATCH", "RETURN_FAIL"})

PAY_ERRORS: Mapping[str, PayStatus] = {
    **dict.fromkeys(_DEFINITE, PayStatus.REFUSED),
    "ORDERCLOSED": PayStatus.REFUSED,
    "SYSTEMERROR": PayStatus.UNKNOWN,
    "ORDERPAID": PayStatus.UNKNOWN,
    "OUT_TRADE_NO_USED": PayStatus.UNKNOWN,
}

# Bar codes. WAITING: the payer is asked for a password; the trade is asked about, never sent again.
MICROPAY_ERRORS: Mapping[str, PayStatus] = {
    **dict.fromkeys(_DEFINITE, PayStatus.REFUSED),
    "USERPAYING": PayStatus.WAITING,
    "SYSTEMERROR": PayStatus.UNKNOWN,
    "BANKERROR": PayStatus.UNKNOWN,
    "ORDERPAID": PayStatus.UNKNOWN,
    "OUT_TRADE_NO_USED": PayStatus.REFUSED,
    "AUTHCODEEXPIRE": PayStatus.REFUSED,
    "AUTH_CODE_ERROR": PayStatus.REFUSED,
    "AUTH_CODE_INVALID": PayStatus.REFUSED,
    "NOTENOUGH": PayStatus.REFUSED,
    "NOTSUPORTCARD": PayStatus.REFUSED,
    "ORDERCLOSED": PayStatus.REFUSED,
    "ORDERREVERSED": PayStatus.REFUSED,
    "BUYER_MISMATCH": PayStatus.REFUSED,
}

QUERY_ERRORS: Mapping[str, QueryStatus] = {"ORDERNOTEXIST": QueryStatus.NOT_FOUND, "SYSTEMERROR": QueryStatus.UNKNOWN}

CLOSE_ERRORS: Mapping[str, CloseStatus] = {
    "ORDERCLOSED": CloseStatus.CLOSED,
    "ORDERNOTEXIST": CloseStatus.CLOSED,
    "ORDERPAID": CloseStatus.PAID,
    "SYSTEMERROR": CloseStatus.UNKNOWN,
}

# Bar codes. A payment that never arrived, or has not yet: closed here, and looked at once more after its short life.
REVERSE_ERRORS: Mapping[str, CloseStatus] = {
    "ORDERREVERSED": CloseStatus.CLOSED,
    "ORDERNOTEXIST": CloseStatus.STILL_PAYABLE,
    "SYSTEMERROR": CloseStatus.UNKNOWN,
    "USERPAYING": CloseStatus.UNKNOWN,
    # What was paid cannot be given back any more, or not now: the trade is asked about, and booked.
    "NOTENOUGH": CloseStatus.PAID,
    "REVERSE_EXPIRE": CloseStatus.PAID,
}

REFUND_ERRORS: Mapping[str, RefundStatus] = {
    **dict.fromkeys(_DEFINITE, RefundStatus.FAILED),
    "SIGNERROR": RefundStatus.RETRY_LATER,
    "SYSTEMERROR": RefundStatus.UNKNOWN,
    "BIZERR_NEED_RETRY": RefundStatus.UNKNOWN,
    "NOTENOUGH": RefundStatus.RETRY_LATER,
    "FREQUENCY_LIMITED": RefundStatus.RETRY_LATER,
    "INVALID_REQ_TOO_MUCH": RefundStatus.RETRY_LATER,
    "TRADE_OVERDUE": RefundStatus.FAILED,
    "USER_ACCOUNT_ABNORMAL": RefundStatus.FAILED,
    "REFUND_FEE_MISMATCH": RefundStatus.FAILED,
    "INVALID_TRANSACTIONID": RefundStatus.FAILED,
}

REFUND_QUERY_ERRORS: Mapping[str, RefundStatus] = {
    "REFUNDNOTEXIST": RefundStatus.NOT_FOUND,
    "SYSTEMERROR": RefundStatus.UNKNOWN,
}

REFUND_STATES: Mapping[str, RefundStatus] = {
    "SUCCESS": RefundStatus.SUCCESS,
    "PROCESSING": RefundStatus.PENDING,
    "REFUNDCLOSE": RefundStatus.FAILED,
    # The money is in limbo until someone acts at WeChat; it may still arrive.
    "CHANGE": RefundStatus.PENDING,
}
