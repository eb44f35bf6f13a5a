"""Refunds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.ids import Prefix, encode, time_of
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.schedule import FAILED_REFUND, looks
from paycenter_server.domain.states import REFUND, RefundEvent, RefundState, created
from paycenter_server.domain.values import value


@value
class PayRefund:
    """Money that is returned to the payer. `case_id` is set if it is surplus money, which belongs to no order.

    `unclear_send_time`: the last send under the current out_refund_no that may still be carried out: it has no clear answer, is
    being answered now, or was accepted and not decided; None if there is none.

    `known_time`: since then the channel has known it under the current out_refund_no, and has not said that it failed: only facts
    about it, or a person, can end it as failed. None if the channel has not said so.

    `earlier_look_time`: the time of the first look at an earlier out_refund_no that has not been made; None if there is none.

    `notification_url` is empty if notifications go to the app's current URL. `version` counts the changes that were notified.
    """

    id: UUID
    app_id: UUID
    app_key: str
    order_id: UUID
    attempt_id: UUID
    channel_id: UUID
    account_id: UUID
    binding_id: UUID
    channel_code: str
    case_id: UUID | None
    merchant_order_id: str
    merchant_refund_no: str
    out_refund_key: UUID
    earlier_look_time: datetime | None
    amount: int
    total_amount: int
    currency: str
    reason: str
    notification_url: str
    version: int
    state: RefundState
    send_count: int
    unclear_send_time: datetime | None
    known_time: datetime | None
    channel_refund_no: str | None
    channel_error_code: str | None
    channel_error_message: str | None
    success_time: datetime | None
    next_check_time: datetime | None
    check_count: int
    create_time: datetime
    update_time: datetime

    @property
    def number(self) -> str:
        """The id in its printed form."""
        return encode(Prefix.REFUND, self.id)

    @property
    def out_refund_no(self) -> str:
        """The number under which the channel knows the refund."""
        return encode(Prefix.OUT_REFUND, self.out_refund_key)

    @property
    def error(self) -> str:
        """The channel's last error, code and text; empty if there is none."""
        return ": ".join(part for part in (self.channel_error_code, self.channel_error_message) if part)

    @property
    def out_trade_no(self) -> str:
        """The number under which the channel knows the payment."""
        return encode(Prefix.ATTEMPT, self.attempt_id)


@dataclass(frozen=True, slots=True)
class EarlierNumbers:
    """The earlier out_refund_no of a refund, oldest first, with the current one. Each was replaced when the next one was made.

    `since`: the time of the first look that has not been made; None if all have been made.
    """

    keys: Sequence[UUID]
    current: UUID
    since: datetime | None

    def due(self, now: datetime) -> list[UUID]:
        """The numbers that are to be looked at now, those that have been due longest first."""
        return list(dict.fromkeys(key for when, key in self._left() if when <= now))

    def after(self, looked_at: Collection[UUID], now: datetime) -> datetime | None:
        """The time of the first look that is left after these numbers were looked at now; None if there is none."""
        return next((when for when, key in self._left() if when > now or key not in looked_at), None)

    def _left(self) -> list[tuple[datetime, UUID]]:
        since = self.since
        if since is None:
            return []
        replaced = zip(self.keys, (*self.keys[1:], self.current), strict=True)
        times = ((when, key) for key, following in replaced for when in looks(FAILED_REFUND, time_of(following)))
        return sorted(item for item in times if item[0] >= since)


def first_look_at_replaced(following: UUID) -> datetime:
    """The time of the first look at a number that was replaced by this one."""
    return looks(FAILED_REFUND, time_of(following))[0]


def new_refund(
    key: UUID,
    out_refund_key: UUID,
    now: datetime,
    order: PayOrder,
    *,
    attempt: PayAttempt,
    merchant_refund_no: str,
    amount: int,
    total_amount: int,
    currency: str,
    reason: str,
    notification_url: str,
    next_check_time: datetime,
    case_id: UUID | None = None,
) -> PayRefund:
    """Build a refund that has not been sent: `amount` of the `total_amount` that was paid by the attempt, through its account."""
    return PayRefund(
        id=key,
        app_id=order.app_id,
        app_key=order.app_key,
        order_id=order.id,
        attempt_id=attempt.id,
        channel_id=attempt.channel_id,
        account_id=attempt.account_id,
        binding_id=attempt.binding_id,
        channel_code=attempt.channel_code,
        case_id=case_id,
        merchant_order_id=order.merchant_order_id,
        merchant_refund_no=merchant_refund_no,
        out_refund_key=out_refund_key,
        earlier_look_time=None,
        amount=amount,
        total_amount=total_amount,
        currency=currency,
        reason=reason,
        notification_url=notification_url,
        version=0,
        state=created(REFUND, RefundEvent.CREATE),
        send_count=1,
        unclear_send_time=now,
        known_time=None,
        channel_refund_no=None,
        channel_error_code=None,
        channel_error_message=None,
        success_time=None,
        next_check_time=next_check_time,
        check_count=0,
        create_time=now,
        update_time=now,
    )
