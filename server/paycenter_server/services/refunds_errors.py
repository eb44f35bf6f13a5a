"""The errors about refunds (see `services/errors.py`)."""

from __future__ import annotations

from collections.abc import Sequence

from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.states import OrderState


def refund_not_found() -> PayCenterError:
    """There is no such refund, or it belongs to another app."""
    return PayCenterError(Reason.REFUND_NOT_FOUND, "There is no such refund of this app; check the number.")


def refund_conflict(existing: PayRefund, differing: Sequence[str]) -> PayCenterError:
    """A refund with other content has the merchant_refund_no."""
    return PayCenterError(
        Reason.REFUND_CONFLICT,
        f"merchant_refund_no {existing.merchant_refund_no!r} is taken by refund {existing.number} with another "
        f"{', '.join(differing) or 'origin'}; use a new merchant_refund_no, or send the same content.",
        metadata={
            "pay_refund_id": existing.number,
            "merchant_refund_no": existing.merchant_refund_no,
            "differing_fields": ",".join(differing),
        },
    )


def refund_under_review(refund: PayRefund, case: str) -> PayCenterError:
    """The refund failed here, but its money may be with the payer, so it is not sent again. `case`: the open case, "" if none."""
    reason = (
        f"case {case} about refunds of the same payment is open"
        if case
        else "the channel may still carry it out under its old number"
    )
    return PayCenterError(
        Reason.REFUND_UNDER_REVIEW,
        f"Refund {refund.number} is not sent again, because {reason}; read the refund later, or ask an operator.",
        metadata={"pay_refund_id": refund.number, "pay_case_id": case},
    )


def refund_of_no_order(merchant_order_id: str) -> PayCenterError:
    """The order to refund does not exist."""
    return PayCenterError(Reason.ORDER_NOT_FOUND, f"The app has no order {merchant_order_id!r}; check merchant_order_id.")


def not_refundable(order: PayOrder) -> PayCenterError:
    """The order was not paid."""
    return PayCenterError(
        Reason.ORDER_NOT_REFUNDABLE,
        f"The order is {order.state.value} and was never paid, so there is nothing to refund.",
        metadata={"pay_order_id": order.number, "state": order.state.value},
    )


def refund_exceeds_paid(order: PayOrder) -> PayCenterError:
    """The amount is more than what remains of the paid amount."""
    if order.state not in (OrderState.SUCCESS, OrderState.REFUND):
        return not_refundable(order)
    left = order.paid_amount - order.refunded_amount - order.reserved_amount
    return PayCenterError(
        Reason.REFUND_EXCEEDS_PAID,
        f"Only {left} minor units of the {order.paid_amount} paid are left to refund; {order.refunded_amount} are refunded "
        f"and {order.reserved_amount} are reserved by refunds that are not settled yet. Ask for {left} at most.",
        metadata={"pay_order_id": order.number, "refundable_amount": str(left)},
    )
