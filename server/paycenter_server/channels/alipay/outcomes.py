"""Alipay: the outcomes of its states and codes, as tables with a test per row.

Source: Alipay Open API, "Public error codes" and the error tables of each API. A code that is in no table is UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Mapping

from paycenter_server.channels.protocol import CloseStatus, PayStatus, QueryStatus, RefundStatus

SUCCESS = "10000"
IN_PROCESS = "10003"

# The gateway refused the request before it reached a trade. This is definite only if the answer is signed.
CONFIGURATION_CODES = frozenset({"40001", "40002", "40006"})

# The gateway refuses the configuration: the key, the clock, or the application.
ALARM_CODES = CONFIGURATION_CODES | {
    "isv.invalid-signature", "isv.missing-signature-key", "isv.invalid-app-id", "isv.invalid-timestamp",
    "isv.insufficient-isv-permissions", "isv.invalid-app-cert-sn", "isv.invalid-alipay-root-cert-sn",
}  # fmt: skip

# 20000 and 40005 are the codes of answers without a sub_code.
_UNCLEAR = (
    "20000", "40005", "ACQ.SYSTEM_ERROR", "SYSTEM_ERROR", "isp.unknow-error", "aop.unknow-error", "isv.app-call-limited",
)  # fmt: skip

PAY_ERRORS: Mapping[str, PayStatus] = {
    **dict.fromkeys(_UNCLEAR, PayStatus.UNKNOWN),
    "ACQ.TRADE_HAS_SUCCESS": PayStatus.UNKNOWN,
    "ACQ.CONTEXT_INCONSISTENT": PayStatus.UNKNOWN,
    "ACQ.TRADE_HAS_CLOSE": PayStatus.REFUSED,
    "ACQ.INVALID_PARAMETER": PayStatus.REFUSED,
    "ACQ.ACCESS_FORBIDDEN": PayStatus.REFUSED,
    "ACQ.PARTNER_ERROR": PayStatus.REFUSED,
    "ACQ.TOTAL_FEE_EXCEED": PayStatus.REFUSED,
    # Bar codes: the payment failed finally. Another code needs another out_trade_no.
    "ACQ.PAYMENT_FAIL": PayStatus.REFUSED,
    "ACQ.PAYMENT_AUTH_CODE_INVALID": PayStatus.REFUSED,
    "ACQ.BUYER_BALANCE_NOT_ENOUGH": PayStatus.REFUSED,
    "ACQ.BUYER_BANKCARD_BALANCE_NOT_ENOUGH": PayStatus.REFUSED,
    "ACQ.ERROR_BALANCE_PAYMENT_DISABLE": PayStatus.REFUSED,
}

CLOSE_ERRORS: Mapping[str, CloseStatus] = {
    **dict.fromkeys(_UNCLEAR, CloseStatus.UNKNOWN),
    "ACQ.TRADE_NOT_EXIST": CloseStatus.STILL_PAYABLE,
    "ACQ.TRADE_HAS_CLOSE": CloseStatus.CLOSED,
    "ACQ.TRADE_STATUS_ERROR": CloseStatus.UNKNOWN,
    "ACQ.REASON_TRADE_STATUS_INVALID": CloseStatus.UNKNOWN,
}

# Bar codes. PAID: the payment cannot be refunded now or any more. The trade is queried and booked.
CANCEL_ERRORS: Mapping[str, CloseStatus] = {
    **dict.fromkeys(_UNCLEAR, CloseStatus.UNKNOWN),
    "ACQ.TRADE_HAS_FINISHED": CloseStatus.PAID,
    "ACQ.SELLER_BALANCE_NOT_ENOUGH": CloseStatus.PAID,
    "ACQ.TRADE_CANCEL_TIME_OUT": CloseStatus.PAID,
}

QUERY_ERRORS: Mapping[str, QueryStatus] = {
    **dict.fromkeys(_UNCLEAR, QueryStatus.UNKNOWN),
    "ACQ.TRADE_NOT_EXIST": QueryStatus.NOT_FOUND,
}

REFUND_ERRORS: Mapping[str, RefundStatus] = {
    **dict.fromkeys(_UNCLEAR, RefundStatus.UNKNOWN),
    "ACQ.TRADE_STATUS_ERROR": RefundStatus.TRADE_DECIDES,
    "ACQ.SELLER_BALANCE_NOT_ENOUGH": RefundStatus.RETRY_LATER,
    "ACQ.TRADE_HAS_FINISHED": RefundStatus.FAILED,
    "ACQ.REASON_TRADE_REFUND_FEE_ERR": RefundStatus.FAILED,
    "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL": RefundStatus.FAILED,
    "ACQ.TRADE_NOT_ALLOW_REFUND": RefundStatus.FAILED,
    "ACQ.DISCORDANT_REPEAT_REQUEST": RefundStatus.FAILED,
}

REFUND_QUERY_ERRORS: Mapping[str, RefundStatus] = {
    **dict.fromkeys(_UNCLEAR, RefundStatus.UNKNOWN),
    # The trade is booked as paid, so an answer that it does not exist is wrong and decides nothing.
    "ACQ.TRADE_NOT_EXIST": RefundStatus.UNKNOWN,
}
