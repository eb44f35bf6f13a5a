"""SamplePay: the outcomes of its codes. A code that is in no table is UNKNOWN."""

from __future__ import annotations

from collections.abc import Mapping

from paycenter_server.channels.protocol import CloseStatus, PayStatus, QueryStatus, RefundStatus

PAY: Mapping[str, PayStatus] = {"WAITING": PayStatus.WAITING, "REFUSED": PayStatus.REFUSED}
QUERY: Mapping[str, QueryStatus] = {
    "WAITING": QueryStatus.WAITING, "PAID": QueryStatus.PAID, "CLOSED": QueryStatus.CLOSED, "NOT_FOUND": QueryStatus.NOT_FOUND,
}  # fmt: skip
CLOSE: Mapping[str, CloseStatus] = {"CLOSED": CloseStatus.CLOSED, "PAID": CloseStatus.PAID}
REFUND: Mapping[str, RefundStatus] = {
    "DONE": RefundStatus.SUCCESS, "REFUSED": RefundStatus.FAILED, "NOT_FOUND": RefundStatus.NOT_FOUND,
}  # fmt: skip
