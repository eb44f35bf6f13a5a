"""Making attempts unpayable: the channel is asked first, and told to close, before anything is closed here (rule 6)."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import structlog

from paycenter_server.channels.protocol import AttemptRef, CloseOutcome, CloseStatus, QueryOutcome, QueryStatus
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import AttemptState
from paycenter_server.services import errors
from paycenter_server.services import notifications_payloads as payloads
from paycenter_server.services.cases import Cases
from paycenter_server.services.channels_gateway import ChannelGateway, ConfiguredChannel
from paycenter_server.services.context import Context
from paycenter_server.services.payments import BeingCancelledError, FactsMismatchError, Payments
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage.payments import QuerySnapshot

log = structlog.get_logger(__name__)
WATCH_AFTER_EXPIRY = timedelta(minutes=1)
FACTS_MISMATCH, BEING_CANCELLED = "FACTS_MISMATCH", "BEING_CANCELLED"
# A cancellation is sent within this or not at all, answered within the channel's time-out, and carried out soon after.
_SEND_WITHIN, _CARRIED_OUT_WITHIN = timedelta(seconds=20), timedelta(seconds=30)
# QuerySnapshot to come again (retry_flag, recall), or not answered: for so long after the attempt's end.
_CANCEL_AGAIN_WITHIN = timedelta(minutes=3)
_LOOK_AGAIN = timedelta(seconds=5)
_DEFINITE = (QueryStatus.PAID, QueryStatus.CLOSED, QueryStatus.WAITING)


class SettleResult(StrEnum):
    """How an open attempt ended up. STILL_PAYABLE: the channel cannot close it. UNCLEAR: the channel did not say. TOO_SOON: the
    channel wants more time between creating and closing, so it was not told to close."""

    PAID = "PAID"
    CLOSED = "CLOSED"
    STILL_PAYABLE = "STILL_PAYABLE"
    UNCLEAR = "UNCLEAR"
    TOO_SOON = "TOO_SOON"


def attempt_ref(attempt: PayAttempt) -> AttemptRef:
    """What a codec needs to ask about an attempt."""
    return AttemptRef(
        out_trade_no=attempt.out_trade_no,
        amount=attempt.amount,
        currency=attempt.currency,
        create_time=attempt.create_time,
        expire_time=attempt.expire_time,
        extras=attempt.channel_extras,
    )


class AttemptSettlement:
    """Queries, closes, and books what turns out to be paid."""

    def __init__(self, context: Context, gateway: ChannelGateway, payments: Payments, cases: Cases) -> None:
        self._context = context
        self._gateway = gateway
        self._payments = payments
        self._cases = cases

    async def query(self, attempt: PayAttempt) -> QueryOutcome:
        """Ask the channel; a payment is booked before this returns. Facts that are not ours make it UNKNOWN."""
        configured = await self._gateway.get(attempt.channel_id)
        asked = QuerySnapshot(self._context.now(), attempt.cancel_until)
        outcome = await self._gateway.perform(configured, lambda codec, moment: codec.query(attempt_ref(attempt), moment))
        # Only a payment has to name its number; a codec may say the rest without one.
        unnamed = "" if outcome.status is QueryStatus.PAID else attempt.out_trade_no
        number = outcome.payment.out_trade_no if outcome.payment else unnamed
        if outcome.status in _DEFINITE and number != attempt.out_trade_no:
            log.error("query_answered_another_number", out_trade_no=attempt.out_trade_no)
            return QueryOutcome(QueryStatus.UNKNOWN, None, FACTS_MISMATCH, "the answer is about another number")
        if outcome.status is QueryStatus.PAID:
            return await self._book(configured, attempt, outcome, asked)
        return outcome

    async def attempt_of(self, out_trade_no: str) -> PayAttempt | None:
        """The attempt that the channel knows by this number, as it is now; None if it is not ours."""
        key = decode(Prefix.ATTEMPT, out_trade_no)
        async with self._context.database.connection() as connection:
            return await attempt_rows.get_attempt(connection, key) if key else None

    async def query_number(self, out_trade_no: str) -> QueryOutcome:
        """The same by the channel's number of an attempt of ours."""
        attempt = await self.attempt_of(out_trade_no)
        if attempt is None:
            return QueryOutcome(QueryStatus.UNKNOWN, None, FACTS_MISMATCH, "there is no such attempt")
        return await self.query(attempt)

    async def _book(
        self, configured: ConfiguredChannel, attempt: PayAttempt, outcome: QueryOutcome, asked: QuerySnapshot
    ) -> QueryOutcome:
        assert outcome.payment is not None
        try:
            await self._payments.book(configured, outcome.payment, raw="", asked=asked)
        except FactsMismatchError as error:
            log.error("query_facts_mismatch", out_trade_no=attempt.out_trade_no, why=str(error))
            return QueryOutcome(QueryStatus.UNKNOWN, None, FACTS_MISMATCH, str(error))
        except BeingCancelledError as error:
            log.warning("paid_while_being_cancelled", out_trade_no=attempt.out_trade_no)
            await self.look_again(attempt)
            return QueryOutcome(QueryStatus.UNKNOWN, None, BEING_CANCELLED, str(error))
        return outcome

    async def settle_or_close(self, attempt: PayAttempt) -> SettleResult:
        """Query, book if paid, else close at the channel and here."""
        outcome = await self.query(attempt)
        if outcome.status is QueryStatus.PAID:
            return SettleResult.PAID
        if outcome.status is QueryStatus.CLOSED:
            await self._close_here(attempt, outcome.error_code, outcome.error_message)
            return SettleResult.CLOSED
        configured = await self._gateway.get(attempt.channel_id)
        if outcome.status is QueryStatus.UNKNOWN and not self._to_be_cancelled(configured, attempt, outcome):
            return SettleResult.UNCLEAR
        if self._context.now() < attempt.create_time + configured.spec.close_after:
            return SettleResult.TOO_SOON
        if configured.spec.attempt_life is not None:
            return await self._cancel(configured, attempt)
        return await self._after(attempt, await self._close(configured, attempt))

    async def _close(self, configured: ConfiguredChannel, attempt: PayAttempt, not_after: datetime | None = None) -> CloseOutcome:
        return await self._gateway.perform(
            configured, lambda codec, moment: codec.close(attempt_ref(attempt), moment), not_after=not_after
        )

    async def _after(self, attempt: PayAttempt, closed: CloseOutcome) -> SettleResult:
        if closed.status is CloseStatus.CLOSED:
            await self._close_here(attempt, closed.error_code, closed.error_message)
            return SettleResult.CLOSED
        if closed.status is CloseStatus.STILL_PAYABLE:
            return SettleResult.STILL_PAYABLE
        if closed.status is CloseStatus.PAID:
            again = await self.query_number(attempt.out_trade_no)
            return SettleResult.PAID if again.status is QueryStatus.PAID else SettleResult.UNCLEAR
        return SettleResult.UNCLEAR

    async def _cancel(self, configured: ConfiguredChannel, attempt: PayAttempt) -> SettleResult:
        """Cancelling gives back what was paid, so nothing may be booked from before it: that is written down first (rule 1)."""
        now = self._context.now()
        answered = timedelta(seconds=self._context.options.channel_timeout)
        until = now + _SEND_WITHIN + answered + _CARRIED_OUT_WITHIN
        async with self._context.database.connection() as connection:
            cancelling = await attempt_rows.begin_cancel(connection, attempt.id, now, until)
        if cancelling is None:
            return SettleResult.PAID
        closed = await self._close(configured, attempt, not_after=now + _SEND_WITHIN)
        if closed.not_sent or closed.status in (CloseStatus.CLOSED, CloseStatus.PAID):
            # PAID: refused for good, so the money is there, and stays. Not sent: nothing is carried out.
            decided = self._context.now() if closed.status is CloseStatus.CLOSED else cancelling.before
            async with self._context.database.connection() as connection:
                await attempt_rows.end_cancel(connection, attempt.id, cancelling, decided)
        return await self._after(attempt, closed)

    def _to_be_cancelled(self, configured: ConfiguredChannel, attempt: PayAttempt, outcome: QueryOutcome) -> bool:
        """A bar code whose time is over is cancelled even if the query says nothing: cancelling gives back what was paid.

        Not if it was paid with facts that are not ours: that is for a person (a case at once for another amount, in a day
        otherwise). Nor, after some minutes, what is paid and could not be cancelled: then the last cancellation is waited for, and
        what is still paid after it is booked.
        """
        late = self._context.now() - attempt.expire_time
        if configured.spec.attempt_life is None or late < timedelta(0) or outcome.error_code == FACTS_MISMATCH:
            return False
        return outcome.error_code != BEING_CANCELLED or late < _CANCEL_AGAIN_WITHIN

    async def _close_here(self, attempt: PayAttempt, code: str, message: str) -> None:
        async with self._context.database.connection() as connection:
            if await attempt_rows.close_attempt(
                connection, attempt.id, self._context.now(), code=code, message=message, watch_until=None
            ):
                return
            current = await attempt_rows.get_attempt(connection, attempt.id)
        if current is not None and current.state is AttemptState.SUCCESS:
            # However it came about: money that is booked here is not at the channel any more.
            await self._cases.closed_after_booking(current)

    async def look_again(self, attempt: PayAttempt) -> None:
        """Soon, also if it is closed: its money may be there, or on its way back."""
        async with self._context.database.connection() as connection:
            await attempt_rows.look_again(connection, attempt.id, self._context.now() + _LOOK_AGAIN)

    async def give_up_on(self, attempt: PayAttempt) -> None:
        """Close here what the channel cannot close; it is asked once more after its expiry, for a late payment."""
        now = self._context.now()
        watch_until = max(now, attempt.expire_time) + WATCH_AFTER_EXPIRY
        async with self._context.database.connection() as connection:
            await attempt_rows.close_attempt(connection, attempt.id, now, watch_until=watch_until)

    async def pending(self, attempt: PayAttempt) -> PayCenterError:
        """ATTEMPT_PENDING, to be repeated when the channel may be told to close."""
        configured = await self._gateway.get(attempt.channel_id)
        wait = (attempt.create_time + configured.spec.close_after - self._context.now()).total_seconds()
        return errors.attempt_pending(attempt.channel_code, attempt.out_trade_no, wait)

    async def close_all(self, order_id: UUID) -> None:
        """Every open attempt of an order; ORDER_PAID if one turns out to be paid, CHANNEL_UNCLEAR or ATTEMPT_PENDING if one cannot
        be decided (yet)."""
        async with self._context.database.connection() as connection:
            attempts = await attempt_rows.open_attempts(connection, order_id)
        for attempt in attempts:
            settled = await self.settle_or_close(attempt)
            if settled is SettleResult.PAID:
                raise errors.order_paid()
            if settled is SettleResult.UNCLEAR:
                raise errors.channel_unclear(attempt.channel_code)
            if settled is SettleResult.TOO_SOON:
                raise await self.pending(attempt)
            if settled is SettleResult.STILL_PAYABLE:
                await self.give_up_on(attempt)

    async def close_order(self, order_id: UUID) -> PayOrder | None:
        """Close an order whose attempts are closed, and tell the app; None if it has moved on or has an open attempt."""
        now = self._context.now()
        async with self._context.database.transaction() as connection:
            if await order_rows.lock_order(connection, order_id) is None:
                return None
            closed = await order_rows.close_order(connection, order_id, now)
            if closed is not None:
                task = payloads.order_closed(closed, self._context.new_key(now), now)
                await notification_rows.insert_notification(connection, task)
        if closed is not None:
            self._context.wake_up.send()
        return closed
