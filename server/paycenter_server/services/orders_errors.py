"""The errors about orders and their attempts (see `services/errors.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from paycenter_server.domain.attempts import MOST_ATTEMPTS
from paycenter_server.domain.cases import PayCase
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.orders import PayOrder
from paycenter_server.services.errors import ASK_AGAIN_SECONDS


def order_not_found() -> PayCenterError:
    """There is no such order, or it belongs to another app."""
    return PayCenterError(Reason.ORDER_NOT_FOUND, "There is no such pay order of this app; check the number.")


def order_conflict(existing: PayOrder, differing: Sequence[str]) -> PayCenterError:
    """An order with other content has the merchant_order_id."""
    return PayCenterError(
        Reason.ORDER_CONFLICT,
        f"merchant_order_id {existing.merchant_order_id!r} is taken by order {existing.number} with another "
        f"{', '.join(differing)}; use a new merchant_order_id, or send the same content.",
        metadata={
            "pay_order_id": existing.number,
            "merchant_order_id": existing.merchant_order_id,
            "differing_fields": ",".join(differing),
        },
    )


def order_closed() -> PayCenterError:
    """The order was closed before it expired."""
    return PayCenterError(Reason.ORDER_CLOSED, "The order is closed; create a new one under a new merchant_order_id.")


def order_expired() -> PayCenterError:
    """The order has expired. It may be closed already."""
    return PayCenterError(Reason.ORDER_EXPIRED, "The order has expired; create a new one under a new merchant_order_id.")


def order_ended(order: PayOrder, now: datetime) -> PayCenterError:
    """ORDER_EXPIRED for an order that has expired, closed or not; else ORDER_CLOSED."""
    return order_expired() if order.expire_time <= now else order_closed()


def order_paid() -> PayCenterError:
    """The order is paid."""
    return PayCenterError(Reason.ORDER_PAID, "The order is already paid; read it to see by which payment.")


def order_changed() -> PayCenterError:
    """Another call has changed the order."""
    return PayCenterError(
        Reason.ORDER_CHANGED, "The order changed while this call was running; read it and decide again.", retry_after=0.5
    )


def order_under_review(order: PayOrder, case: PayCase) -> PayCenterError:
    """Money of the order waits for the decision of an operator."""
    return PayCenterError(
        Reason.ORDER_UNDER_REVIEW,
        f"The order is {order.state.value}, and case {case.number} about its money ({case.kind.value}) is open; do not let "
        "it be paid again, and wait for pay_case.resolved, or ask an operator.",
        metadata={"pay_order_id": order.number, "state": order.state.value, "pay_case_id": case.number, "kind": case.kind.value},
    )


def attempt_pending(channel_code: str, out_trade_no: str, seconds: float) -> PayCenterError:
    """An earlier attempt cannot be closed yet. The call may be repeated after `seconds`."""
    return PayCenterError(
        Reason.ATTEMPT_PENDING,
        f"An earlier submit to {channel_code!r} is still being decided there; repeat the call in a moment.",
        metadata={"out_trade_no": out_trade_no},
        retry_after=max(seconds, ASK_AGAIN_SECONDS),
    )


def too_many_attempts(order: PayOrder) -> PayCenterError:
    """The order has had MOST_ATTEMPTS. It must be closed: an attempt of it may be open, and be paid beside the new order."""
    return PayCenterError(
        Reason.TOO_MANY_ATTEMPTS,
        f"The order has had {MOST_ATTEMPTS} attempts, which is the most; close it, and create a new one under a new "
        "merchant_order_id.",
        metadata={"pay_order_id": order.number},
    )
