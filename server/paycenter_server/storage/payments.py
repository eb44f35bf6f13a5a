"""The statement that books a payment: it changes attempt, order and notification together, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.events import Cause, Subject
from paycenter_server.domain.notifications import NotificationType, PayNotification
from paycenter_server.domain.states import (
    ATTEMPT,
    OPEN_ATTEMPT,
    ORDER,
    AttemptEvent,
    OrderEvent,
    OrderState,
    sources,
    target,
)
from paycenter_server.storage.database import Transaction, WriteConnection
from paycenter_server.storage.events import Change, cause_values, named, noting
from paycenter_server.storage.notifications import NOTIFICATIONS, task_values, telling

# The first parameter of the notification, and the parameter of the order's next version, which it reports.
_TASK = 23
_VERSION = NOTIFICATIONS.place("data_version", _TASK)


def paid_event(event: str) -> Change:
    """The event of the attempt `event` (SQL) that pays an order. It stands for the order too: its paid_change is the order's."""
    return Change(Subject.ATTEMPT, event, before="before", after="state", amount="paid_amount", paid="paid_amount")


# The channel is compared in a form that uses no index: without statistics that of the channel looks as good as the primary key.
_SETTLE = f"""
WITH o AS (
  SELECT id FROM pay_order WHERE id = $1 AND state = ANY($2) AND version = {_VERSION} - 1 FOR NO KEY UPDATE
), t AS (
  SELECT a.id, a.state AS before, o.id AS order_id FROM o JOIN pay_attempt a ON a.order_id = o.id
  WHERE a.id = $3 AND a.channel_id IS NOT DISTINCT FROM $4 AND a.amount = $5 AND a.state = ANY($6)
    AND a.cancel_until IS NOT DISTINCT FROM $18 AND (a.cancel_until IS NULL OR a.cancel_until <= $19) FOR NO KEY UPDATE OF a
), attempt AS (
  UPDATE pay_attempt a SET state = $7, paid_amount = $5, channel_order_no = $8, channel_user_id = $9, success_time = $10,
    update_time = $12, next_check_time = NULL
  FROM t WHERE a.id = t.id RETURNING a.id, a.order_id, a.state, a.paid_amount, t.before
), others AS (
  -- Against a second payment: the other open attempts are due now, so that the sync job closes them.
  UPDATE pay_attempt x SET next_check_time = $12 FROM t WHERE x.order_id = t.order_id AND x.id <> t.id AND x.state = ANY($11)
), paid AS (
  UPDATE pay_order p SET state = $13, paid_amount = $5, attempt_id = $3, channel_id = $4, channel_code = $14,
    channel_order_no = $8, channel_user_id = $9, channel_fee_rate_ppm = $15, channel_fee_amount = $16, success_time = $10,
    update_time = $12, next_check_time = NULL, version = {_VERSION}
  FROM t WHERE p.id = t.order_id RETURNING p.id
), {telling(NotificationType.ORDER, _TASK, of="paid")}
, noted AS ({noting("attempt", 20, paid_event("$17"))}
)
SELECT (SELECT count(*) FROM attempt) AS attempts, (SELECT count(*) FROM paid) AS orders
"""


@dataclass(frozen=True, slots=True)
class Booking:
    """The values that are booked. Amounts are in minor units."""

    order_id: UUID
    attempt_id: UUID
    channel_id: UUID
    channel_code: str
    amount: int
    channel_order_no: str
    channel_user_id: str
    success_time: datetime
    fee_rate_ppm: int
    fee_amount: int


@dataclass(frozen=True, slots=True)
class QuerySnapshot:
    """The time of a query to a channel, and the attempt's `cancel_until` before it."""

    at: datetime
    cancel_until: datetime | None

    def counts(self, cancel_until: datetime | None) -> bool:
        """Whether the answer is valid for an attempt that now has this `cancel_until`: no cancellation has begun or ended since
        the query, and the channel cannot execute one any more."""
        return cancel_until == self.cancel_until and (cancel_until is None or cancel_until <= self.at)


async def settle(
    connection: WriteConnection,
    booking: Booking,
    notification: PayNotification,
    now: datetime,
    event: OrderEvent,
    cause: Cause,
    *,
    closed_attempt: bool = False,
    snapshot: QuerySnapshot | None = None,
) -> bool:
    """Book a payment. False, with nothing changed, if the state of the order or of the attempt does not allow it.

    `notification` reports the order's next version; its older open notifications are superseded. False as well if the order has
    another version than the one before it.

    `snapshot`: the query to which the facts are the answer; None if there was no query. `closed_attempt`: the caller has locked
    both rows and has decided that a payment of a closed attempt is valid for the order.
    """
    late = sources(ATTEMPT, AttemptEvent.PAID_LATE) if closed_attempt else []
    row = await connection.fetchrow(
        _SETTLE,
        booking.order_id, sources(ORDER, event), booking.attempt_id, booking.channel_id, booking.amount,
        [*sources(ATTEMPT, AttemptEvent.PAID), *late],
        target(ATTEMPT, AttemptEvent.PAID), booking.channel_order_no, booking.channel_user_id, booking.success_time,
        OPEN_ATTEMPT, now, target(ORDER, event), booking.channel_code, booking.fee_rate_ppm, booking.fee_amount,
        event.value, snapshot.cancel_until if snapshot else None, snapshot.at if snapshot else None,
        *cause_values(cause), *task_values(notification),
    )  # fmt: skip
    return bool(row and row["attempts"] == 1 and row["orders"] == 1)


# The attempt is paid already; its event carries no paid_change, so that of the order does.
_ACCEPTED = Change(
    Subject.ORDER, named(OrderEvent.LATE_PAYMENT_ACCEPTED), order_id="id", before=named(OrderState.CLOSED), after="state",
    amount="paid_amount", paid="paid_amount",
)  # fmt: skip


async def accept_late(transaction: Transaction, booking: Booking, now: datetime, cause: Cause) -> bool:
    """Book a late payment that has been the money of a case: its CLOSED order becomes SUCCESS, in its next version.

    False, with nothing changed, if the state of the order does not allow it. The caller has locked order and attempt.
    """
    event = OrderEvent.LATE_PAYMENT_ACCEPTED
    done = await transaction.fetchval(
        f"""WITH paid AS (
             UPDATE pay_order p SET state = $2, paid_amount = $4, attempt_id = $5, channel_id = $6, channel_code = $7,
               channel_order_no = $8, channel_user_id = $9, channel_fee_rate_ppm = $10, channel_fee_amount = $11,
               success_time = $12, update_time = $13, next_check_time = NULL, version = version + 1
             WHERE p.id = $1 AND p.state = ANY($3) AND EXISTS (
               SELECT 1 FROM pay_attempt a WHERE a.id = $5 AND a.order_id = $1 AND a.state = $14 AND a.paid_amount = $4)
             RETURNING p.id, p.state, p.paid_amount
           ), noted AS ({noting("paid", 15, _ACCEPTED)})
           SELECT id FROM paid""",
        booking.order_id, target(ORDER, event), sources(ORDER, event), booking.amount, booking.attempt_id, booking.channel_id,
        booking.channel_code, booking.channel_order_no, booking.channel_user_id, booking.fee_rate_ppm, booking.fee_amount,
        booking.success_time, now, target(ATTEMPT, AttemptEvent.PAID), *cause_values(cause),
    )  # fmt: skip
    return done is not None
