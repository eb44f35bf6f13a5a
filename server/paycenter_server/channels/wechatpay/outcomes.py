"""WeChat Pay v3: the outcomes of its states and error codes, as tables with a test per row.

Source: WeChat Pay v3, "trade_state", "Refund status", and the error tables of each API. A code that is in no table is UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Mapping

from paycenter_server.channels.protocol import CloseStatus, PayStatus, QueryStatus, RefundStatus

TRADE_STATES: Mapping[str, QueryStatus] = {
    "NOTPAY": QueryStatus.WAITING,
    "USERPAYING": QueryStatus.WAITING,
    "ACCEPT": QueryStatus.WAITING,
    "PAYERROR": QueryStatus.WAITING,
    "SUCCESS": QueryStatus.PAID,
    "REFUND": QueryStatus.PAID,
    "CLOSED": QueryStatus.CLOSED,
    "REVOKED": QueryStatus.CLOSED,
}

REFUND_STATES: Mapping[str, RefundStatus] = {
    "PROCESSING": RefundStatus.PENDING,
    "SUCCESS": RefundStatus.SUCCESS,
    "CLOSED": RefundStatus.FAILED,
    # The refund waits for an action in WeChat Pay's console and may still succeed, so it is not a failure.
    "ABNORMAL": RefundStatus.PENDING,
}

_DEFINITE = ("PARAM_ERROR", "INVALID_REQUEST", "APPID_MCHID_NOT_MATCH", "MCH_NOT_EXISTS", "NO_AUTH", "RULE_LIMIT")
_UNCLEAR = ("SYSTEM_ERROR", "SERVICE_UNAVAILABLE", "FREQUENCY_LIMITED", "RATELIMIT_EXCEEDED", "BANK_ERROR")

# The channel refuses the configuration: keys, serial number, clock, or binding.
ALARM_CODES = frozenset({"SIGN_ERROR", "APPID_MCHID_NOT_MATCH", "MCH_NOT_EXISTS", "NO_AUTH"})

PAY_ERRORS: Mapping[str, PayStatus] = {
    **dict.fromkeys(_DEFINITE, PayStatus.REFUSED),
    **dict.fromkeys(_UNCLEAR, PayStatus.UNKNOWN),
    "SIGN_ERROR": PayStatus.REFUSED,
    "ORDER_CLOSED": PayStatus.REFUSED,
    "ORDERPAID": PayStatus.UNKNOWN,
    "ORDER_PAID": PayStatus.UNKNOWN,
    "OUT_TRADE_NO_USED": PayStatus.UNKNOWN,
}

# Bar codes. The names are those of v2, where they are documented. A new code needs a new out_trade_no.
CODEPAY_ERRORS: Mapping[str, PayStatus] = {
    **PAY_ERRORS,
    "USERPAYING": PayStatus.WAITING,
    "BANKERROR": PayStatus.UNKNOWN,
    **dict.fromkeys(
        ("AUTHCODEEXPIRE", "AUTH_CODE_ERROR", "AUTH_CODE_INVALID", "NOTENOUGH", "NOT_ENOUGH", "NOTSUPORTCARD", "ORDERREVERSED",
         "BUYER_MISMATCH"),
        PayStatus.REFUSED,
    ),
}  # fmt: skip

QUERY_ERRORS: Mapping[str, QueryStatus] = {
    "ORDER_NOT_EXIST": QueryStatus.NOT_FOUND,
    "ORDERNOTEXIST": QueryStatus.NOT_FOUND,
    **dict.fromkeys((*_DEFINITE, *_UNCLEAR, "SIGN_ERROR", "TRADE_ERROR"), QueryStatus.UNKNOWN),
}

CLOSE_ERRORS: Mapping[str, CloseStatus] = {
    "ORDER_CLOSED": CloseStatus.CLOSED,
    "ORDER_NOT_EXIST": CloseStatus.CLOSED,
    "ORDERNOTEXIST": CloseStatus.CLOSED,
    "ORDERPAID": CloseStatus.PAID,
    "ORDER_PAID": CloseStatus.PAID,
    **dict.fromkeys((*_DEFINITE, *_UNCLEAR, "SIGN_ERROR", "TRADE_ERROR"), CloseStatus.UNKNOWN),
}

# Bar codes. STILL_PAYABLE: the channel does not know the payment, or not yet. It is closed here and queried after its expiry.
REVERSE_ERRORS: Mapping[str, CloseStatus] = {
    **CLOSE_ERRORS,
    **dict.fromkeys(("ORDER_NOT_EXIST", "ORDERNOTEXIST"), CloseStatus.STILL_PAYABLE),
    # The payment cannot be refunded now. The trade is queried and booked.
    "NOT_ENOUGH": CloseStatus.PAID,
    # A reversal refunds a paid order, so these codes only mean that it was not reversed.
    **dict.fromkeys(("ORDERPAID", "ORDER_PAID"), CloseStatus.UNKNOWN),
}

REFUND_ERRORS: Mapping[str, RefundStatus] = {
    **dict.fromkeys(_DEFINITE, RefundStatus.FAILED),
    **dict.fromkeys(_UNCLEAR, RefundStatus.UNKNOWN),
    "SIGN_ERROR": RefundStatus.RETRY_LATER,
    "NOT_ENOUGH": RefundStatus.RETRY_LATER,
    "USER_ACCOUNT_ABNORMAL": RefundStatus.FAILED,
    "TRADE_OVERDUE": RefundStatus.FAILED,
    "REFUND_FEE_MISMATCH": RefundStatus.FAILED,
    "RESOURCE_NOT_EXISTS": RefundStatus.FAILED,
}

REFUND_QUERY_ERRORS: Mapping[str, RefundStatus] = {
    "RESOURCE_NOT_EXISTS": RefundStatus.NOT_FOUND,
    **dict.fromkeys((*_DEFINITE, *_UNCLEAR, "SIGN_ERROR"), RefundStatus.UNKNOWN),
}
