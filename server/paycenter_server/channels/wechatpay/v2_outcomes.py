"""WeChat Pay v2: the outcomes of its error codes, as tables with a test per row. A code that is in no table is UNKNOWN.

Source: WeChat Pay v2, the error tables of unifiedorder, micropay, orderquery, closeorder, refund and refundquery.
"""

from __future__ import annotations

from collections.abc import Mapping

from paycenter_server.channels.protocol import CloseStatus, PayStatus, QueryStatus, RefundStatus

_DEFINITE = (
    "NOAUTH", "APPID_NOT_EXIST", "MCHID_NOT_EXIST", "APPID_MCHID_NOT_MATCH", "LACK_PARAMS", "XML_FORMAT_ERROR",
    "POST_DATA_EMPTY", "NOT_UTF8", "REQUIRE_POST_METHOD", "SIGNERROR", "PARAM_ERROR",
)  # fmt: skip

# The channel refuses the configuration: the key, or the binding.
ALARM_CODES = frozenset({"SIGNERROR", "NOAUTH", "APPID_NOT_EXIST", "MCHID_NOT_EXIST", "APPID_MCHID_NOT_MATCH", "RETURN_FAIL"})

PAY_ERRORS: Mapping[str, PayStatus] = {
    **dict.fromkeys(_DEFINITE, PayStatus.REFUSED),
    "ORDERCLOSED": PayStatus.REFUSED,
    "SYSTEMERROR": PayStatus.UNKNOWN,
    "ORDERPAID": PayStatus.UNKNOWN,
    "OUT_TRADE_NO_USED": PayStatus.UNKNOWN,
}

# Bar codes. WAITING: the payer must enter a password. The trade is queried, and not sent again.
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

# Bar codes. STILL_PAYABLE: the channel does not know the payment, or not yet. It is closed here and queried after its expiry.
REVERSE_ERRORS: Mapping[str, CloseStatus] = {
    "ORDERREVERSED": CloseStatus.CLOSED,
    "ORDERNOTEXIST": CloseStatus.STILL_PAYABLE,
    "SYSTEMERROR": CloseStatus.UNKNOWN,
    "USERPAYING": CloseStatus.UNKNOWN,
    # The payment cannot be refunded now or any more. The trade is queried and booked.
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
    # The refund waits for an action in WeChat Pay's console and may still succeed.
    "CHANGE": RefundStatus.PENDING,
}
