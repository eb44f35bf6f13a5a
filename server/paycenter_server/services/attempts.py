"""Settlement of attempts: they are queried and closed at the channel before they are closed here (rule 6)."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import structlog

from paycenter_server.channels.protocol import AttemptRef, CloseOutcome, CloseStatus, QueryOutcome, QueryStatus
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.events import CLOSE_REQUESTED, QUERIED, Cause, Subject
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.schedule import CLOSED_ATTEMPT, next_look
from paycenter_server.domain.states import AttemptState, OrderState
from paycenter_server.services import channels_errors, orders_errors
from paycenter_server.services import notifications_payloads as payloads
from paycenter_server.services.audit import Act, record
from paycenter_server.services.cases import Cases
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.services.channels_gateway import ChannelGateway
from paycenter_server.services.context import Context
from paycenter_server.services.events import cause, with_verdict
from paycenter_server.services.payments import BeingCancelledError, FactsMismatchError, Payments
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import events as event_rows
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage.payments import QuerySnapshot

log = structlog.get_logger(__name__)
WATCH_AFTER_EXPIRY = timedelta(minutes=1)
LOOK_WHILE_PAYABLE = timedelta(minutes=1)
FACTS_MISMATCH, BEING_CANCELLED = "FACTS_MISMATCH", "BEING_CANCELLED"
# A cancellation is sent within the first time or never, answered within the channel's time-out, and executed within the second.
_SEND_WITHIN, _CARRIED_OUT_WITHIN = timedelta(seconds=20), timedelta(seconds=30)
# For so long after the attempt's expiry a cancellation is repeated if it must be (retry_flag, recall) or got no answer.
_CANCEL_AGAIN_WITHIN = timedelta(minutes=3)
_LOOK_AGAIN = timedelta(seconds=5)
_DEFINITE = (QueryStatus.PAID, QueryStatus.CLOSED, QueryStatus.WAITING)


class SettleResult(StrEnum):
    """The result of settling an open attempt. STILL_PAYABLE: the channel cannot close it. UNCLEAR: the channel gave no clear
    answer. TOO_SOON: the channel requires more time between creation and close, so no close was sent."""

    PAID = "PAID"
    CLOSED = "CLOSED"
    STILL_PAYABLE = "STILL_PAYABLE"
    UNCLEAR = "UNCLEAR"
    TOO_SOON = "TOO_SOON"


def attempt_ref(attempt: PayAttempt) -> AttemptRef:
    """The values that a codec needs to query or close an attempt."""
    return AttemptRef(
        out_trade_no=attempt.out_trade_no,
        amount=attempt.amount,
        currency=attempt.currency,
        create_time=attempt.create_time,
        expire_time=attempt.expire_time,
        extras=attempt.channel_extras,
    )


class AttemptSettlement:
    """Queries and closes attempts, and books those that are found paid."""

    def __init__(self, context: Context, gateway: ChannelGateway, payments: Payments, cases: Cases) -> None:
        self._context = context
        self._gateway = gateway
        self._payments = payments
        self._cases = cases

    async def query(self, attempt: PayAttempt) -> QueryOutcome:
        """Query the channel. A payment is booked before this returns. Facts that do not match make the outcome UNKNOWN."""
        configured = await self._gateway.channels.bound(attempt.binding_id)
        snapshot = QuerySnapshot(self._context.now(), attempt.cancel_until)
        outcome = await self._gateway.perform(configured, lambda codec, context: codec.query(attempt_ref(attempt), context))
        # Only a payment must state its number. A codec may report the other statuses without one.
        unnamed = "" if outcome.status is QueryStatus.PAID else attempt.out_trade_no
        number = outcome.payment.out_trade_no if outcome.payment else unnamed
        if outcome.status in _DEFINITE and number != attempt.out_trade_no:
            log.error("query_answered_another_number", out_trade_no=attempt.out_trade_no)
            return await self._refused(attempt, outcome, FACTS_MISMATCH, "the answer is about another number")
        if outcome.status is QueryStatus.PAID:
            return await self._book(configured, attempt, outcome, snapshot)
        await self.note(attempt, QUERIED, cause(outcome.call))
        return outcome

    async def note(self, attempt: PayAttempt, event: str, because: Cause) -> None:
        """Note in the ledger a call that changed no state."""
        async with self._context.database.connection() as connection:
            await event_rows.insert_event(connection, Subject.ATTEMPT, attempt.id, attempt.order_id, event, because)

    async def attempt_of(self, out_trade_no: str) -> PayAttempt | None:
        """Read the attempt with this out_trade_no; None if there is none."""
        key = decode(Prefix.ATTEMPT, out_trade_no)
        async with self._context.database.connection() as connection:
            return await attempt_rows.get_attempt(connection, key) if key else None

    async def query_number(self, out_trade_no: str) -> QueryOutcome:
        """Query the channel about an attempt by its out_trade_no."""
        attempt = await self.attempt_of(out_trade_no)
        if attempt is None:
            return QueryOutcome(QueryStatus.UNKNOWN, None, FACTS_MISMATCH, "there is no such attempt")
        return await self.query(attempt)

    async def _book(
        self, configured: ConfiguredChannel, attempt: PayAttempt, outcome: QueryOutcome, snapshot: QuerySnapshot
    ) -> QueryOutcome:
        assert outcome.payment is not None
        try:
            await self._payments.book(configured, outcome.payment, cause(outcome.call), snapshot=snapshot)
        except FactsMismatchError as error:
            log.error("query_facts_mismatch", out_trade_no=attempt.out_trade_no, why=str(error))
            return await self._refused(attempt, outcome, FACTS_MISMATCH, str(error))
        except BeingCancelledError as error:
            log.warning("paid_while_being_cancelled", out_trade_no=attempt.out_trade_no)
            await self.look_again(attempt)
            return await self._refused(attempt, outcome, BEING_CANCELLED, str(error))
        return outcome

    async def _refused(self, attempt: PayAttempt, outcome: QueryOutcome, code: str, why: str) -> QueryOutcome:
        """The outcome of a query whose answer is not used. The ledger keeps the answer, and why."""
        await self.note(attempt, QUERIED, with_verdict(cause(outcome.call), why))
        return QueryOutcome(QueryStatus.UNKNOWN, None, code, why)

    async def settle_or_close(self, attempt: PayAttempt) -> SettleResult:
        """Query an attempt, book it if it is paid, else close it at the channel and here."""
        outcome = await self.query(attempt)
        if outcome.status is QueryStatus.PAID:
            return SettleResult.PAID
        if outcome.status is QueryStatus.CLOSED:
            await self._close_here(attempt, outcome.error_code, outcome.error_message, cause())
            return SettleResult.CLOSED
        configured = await self._gateway.channels.bound(attempt.binding_id)
        if outcome.status is QueryStatus.UNKNOWN and not self._to_be_cancelled(configured, attempt, outcome):
            return SettleResult.UNCLEAR
        if self._context.now() < attempt.create_time + configured.spec.close_after:
            return SettleResult.TOO_SOON
        if configured.spec.attempt_life is not None:
            return await self._cancel(configured, attempt)
        return await self._after(attempt, await self._close(configured, attempt))

    async def _close(self, configured: ConfiguredChannel, attempt: PayAttempt, not_after: datetime | None = None) -> CloseOutcome:
        return await self._gateway.perform(
            configured, lambda codec, context: codec.close(attempt_ref(attempt), context), not_after=not_after
        )

    async def _after(self, attempt: PayAttempt, closed: CloseOutcome) -> SettleResult:
        if closed.status is CloseStatus.CLOSED:
            await self._close_here(attempt, closed.error_code, closed.error_message, cause(closed.call))
            return SettleResult.CLOSED
        await self.note(attempt, CLOSE_REQUESTED, cause(closed.call))
        if closed.status is CloseStatus.STILL_PAYABLE:
            return SettleResult.STILL_PAYABLE
        if closed.status is CloseStatus.PAID:
            again = await self.query_number(attempt.out_trade_no)
            return SettleResult.PAID if again.status is QueryStatus.PAID else SettleResult.UNCLEAR
        return SettleResult.UNCLEAR

    async def _cancel(self, configured: ConfiguredChannel, attempt: PayAttempt) -> SettleResult:
        """Cancel at the channel. This refunds what was paid, so it is stored first, and earlier reports are void (rule 1)."""
        now = self._context.now()
        answered = timedelta(seconds=self._context.options.channel_timeout)
        until = now + _SEND_WITHIN + answered + _CARRIED_OUT_WITHIN
        async with self._context.database.connection() as connection:
            cancelling = await attempt_rows.begin_cancel(connection, attempt.id, now, until, cause())
        if cancelling is None:
            return SettleResult.PAID
        closed = await self._close(configured, attempt, not_after=now + _SEND_WITHIN)
        if closed.not_sent or closed.status in (CloseStatus.CLOSED, CloseStatus.PAID):
            # PAID: the channel refused finally, so the money stays there. Not sent: the channel executes nothing.
            decided = self._context.now() if closed.status is CloseStatus.CLOSED else cancelling.before
            async with self._context.database.connection() as connection:
                await attempt_rows.end_cancel(connection, attempt.id, cancelling, decided, cause())
        return await self._after(attempt, closed)

    def _to_be_cancelled(self, configured: ConfiguredChannel, attempt: PayAttempt, outcome: QueryOutcome) -> bool:
        """Whether a bar code attempt is cancelled although the query gave no clear answer: yes after its expiry.

        Not if it was paid with facts that do not match: an operator decides that (a case is opened at once for another amount,
        otherwise after a day). Not if it is paid and could not be cancelled for some minutes: a payment that is reported after the
        last cancellation is booked.
        """
        late = self._context.now() - attempt.expire_time
        if configured.spec.attempt_life is None or late < timedelta(0) or outcome.error_code == FACTS_MISMATCH:
            return False
        return outcome.error_code != BEING_CANCELLED or late < _CANCEL_AGAIN_WITHIN

    async def _close_here(self, attempt: PayAttempt, code: str, message: str, because: Cause) -> None:
        async with self._context.database.connection() as connection:
            if await attempt_rows.close_attempt(
                connection, attempt.id, self._context.now(), because, code=code, message=message, next_look=self.first_look()
            ):
                return
            current = await attempt_rows.get_attempt(connection, attempt.id)
        if current is not None and current.state is AttemptState.SUCCESS:
            # The payment is booked here, but the channel does not have the money any more.
            await self._cases.closed_after_booking(current, because)

    def first_look(self) -> datetime | None:
        """When an attempt that is closed now is looked at again, to verify that it stays closed."""
        now = self._context.now()
        return next_look(CLOSED_ATTEMPT, now, now)

    async def look_again(self, attempt: PayAttempt) -> None:
        """Make an attempt due soon, including a closed one: the channel may have its money, or be refunding it."""
        async with self._context.database.connection() as connection:
            await attempt_rows.look_again(connection, attempt.id, self._context.now() + _LOOK_AGAIN)

    async def give_up_on(self, attempt: PayAttempt) -> None:
        """Close here an attempt that the channel cannot close. It is queried again until its expiry, and after it."""
        now = self._context.now()
        async with self._context.database.connection() as connection:
            await attempt_rows.close_attempt(connection, attempt.id, now, cause(), next_look=now + LOOK_WHILE_PAYABLE)

    async def pending(self, attempt: PayAttempt) -> PayCenterError:
        """The error ATTEMPT_PENDING, with the time after which the attempt may be closed."""
        configured = await self._gateway.channels.bound(attempt.binding_id)
        wait = (attempt.create_time + configured.spec.close_after - self._context.now()).total_seconds()
        return orders_errors.attempt_pending(attempt.channel_code, attempt.out_trade_no, wait)

    async def found_paid(self, order_id: UUID) -> PayCenterError:
        """The error after an attempt was found paid: ORDER_PAID only if the order took the money. ORDER_UNDER_REVIEW if it is held,
        ORDER_CHANGED if it is being refunded, so that the order can be paid again."""
        async with self._context.database.connection() as connection:
            order = await order_rows.get_order(connection, order_id)
            held = await case_rows.held_case(connection, order_id)
        if order is not None and held is not None:
            return orders_errors.order_under_review(order, held)
        paid = order is None or order.state in (OrderState.SUCCESS, OrderState.REFUND)
        return orders_errors.order_paid() if paid else orders_errors.order_changed()

    async def close_all(self, order_id: UUID) -> None:
        """Close every open attempt of an order. ORDER_PAID (or what `found_paid` says) if one is paid, CHANNEL_UNCLEAR or
        ATTEMPT_PENDING if one cannot be decided yet."""
        async with self._context.database.connection() as connection:
            attempts = await attempt_rows.open_attempts(connection, order_id)
        for attempt in attempts:
            settled = await self.settle_or_close(attempt)
            if settled is SettleResult.PAID:
                raise await self.found_paid(order_id)
            if settled is SettleResult.UNCLEAR:
                raise channels_errors.channel_unclear(attempt.channel_code)
            if settled is SettleResult.TOO_SOON:
                raise await self.pending(attempt)
            if settled is SettleResult.STILL_PAYABLE:
                await self.give_up_on(attempt)

    async def close_order(self, order_id: UUID, by: Caller | None = None) -> PayOrder | None:
        """Close a WAITING order and notify the app. None if the order is not WAITING or has an open attempt. `by`: who asks."""
        now = self._context.now()
        async with self._context.database.transaction() as connection:
            if await order_rows.lock_order(connection, order_id) is None:
                return None
            closed = await order_rows.close_order(connection, order_id, now, cause())
            if closed is not None:
                task = payloads.order_closed(closed, self._context.new_key(now), now)
                await notification_rows.insert_notification(connection, task)
                if by is not None:
                    act = Act("PayOrderService/ClosePayOrder", closed.number, closed.app_key)
                    await record(connection, by, act, None, {"amount": closed.amount, "state": closed.state.value})
        if closed is not None:
            self._context.wake_up.send()
        return closed
