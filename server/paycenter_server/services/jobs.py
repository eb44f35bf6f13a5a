"""The jobs that settle what no callback has settled: order sync, order expire, refund sync.

A pass claims due rows (`FOR NO KEY UPDATE SKIP LOCKED`) and moves their next check first, so that a killed worker loses nothing and
two workers do not process the same row. Attempts and refunds are claimed by account, with the free places of each
(`services/claims.py`), so that an account whose channel hangs delays no other. A pass does not wait for the work that it starts.

The expire job makes no channel calls. It closes orders without open attempts. An open attempt of an expired order is settled by the
order sync job, under the limits of its account; the end of the last one closes the order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from paycenter_server.channels.protocol import QueryStatus
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.events import Actor, ActorKind, acting
from paycenter_server.domain.ids import time_of
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.schedule import (
    CLOSED_ATTEMPT,
    EXPIRE_RETRY_DELAYS,
    ORDER_SYNC_DELAYS,
    POINT_OF_SALE_STEP,
    SHORT_LIFE,
    STALE_AFTER,
    VERIFIED_AFTER,
    due_after,
    next_look,
)
from paycenter_server.domain.states import AttemptState, OrderState, RefundState
from paycenter_server.services.accounts_places import AccountPlaces, RowCalls
from paycenter_server.services.attempts import WATCH_AFTER_EXPIRY, AttemptSettlement, SettleResult
from paycenter_server.services.cases import Cases
from paycenter_server.services.claims import Claims
from paycenter_server.services.context import Context, Options
from paycenter_server.services.events import cause
from paycenter_server.services.jobs_stale import StaleRounds
from paycenter_server.services.places import Places
from paycenter_server.services.refunds_settlement import RefundSettlement
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage.database import retryable_error

log = structlog.get_logger(__name__)

# A row needs up to six calls (a refund: queries of two earlier numbers, query, send, query of its trade, query), and each may wait
# for one fetch of keys.
CALLS_PER_ROW = 12
# What the work on a row may wait for in the process and in the database: connections, locks, signatures.
ROW_WAITS = timedelta(seconds=60)
_PARALLEL = 8
_SYNC, _EXPIRE, _REFUND_SYNC = (
    Actor(ActorKind.JOB, name) for name in ("pay_order_sync_job", "pay_order_expire_job", "pay_refund_sync_job")
)  # fmt: skip


def lease(options: Options) -> timedelta:
    """The time after which a claimed row is due again. It is more than the work on any claimed row takes.

    The work on all claimed attempts and refunds begins at once. Expired orders are closed a few at a time, without calls: a second
    for each order of a batch.
    """
    waits = max(ROW_WAITS, timedelta(seconds=options.sync_batch))
    return CALLS_PER_ROW * timedelta(seconds=options.channel_timeout) + waits


class Jobs:
    """The jobs. `start_…` claims what is due and returns, while the work goes on. The others wait until it has ended."""

    def __init__(
        self, context: Context, attempts: AttemptSettlement, cases: Cases, refunds: RefundSettlement, places: AccountPlaces
    ) -> None:
        self._context = context
        self._attempts = attempts
        self._cases = cases
        self._refunds = refunds
        self._places = places
        self._lease = lease(context.options)
        self._order_sync = Claims[UUID, PayAttempt](
            _SYNC.name, context.clock, places.attempts, due=self._due_attempts, take=self._take_attempts,
            key=lambda attempt: attempt.account_id, work=self._work_on_attempt,
        )  # fmt: skip
        self._refund_sync = Claims[UUID, PayRefund](
            _REFUND_SYNC.name, context.clock, places.refunds, due=self._due_refunds, take=self._take_refunds,
            key=lambda refund: refund.account_id, work=self._work_on_refund,
        )  # fmt: skip
        self._waiting_attempts = StaleRounds[PayAttempt](
            self._page_of_attempts, lambda attempt: self._logged(_SYNC, self._open_if_stale_attempt(attempt))
        )
        self._waiting_refunds = StaleRounds[PayRefund](
            self._page_of_refunds, lambda refund: self._logged(_REFUND_SYNC, self._open_if_stale_refund(refund))
        )
        self._stopping = False

    def stop(self) -> None:
        """Claim nothing more. Work that has begun continues; `settle` waits for it."""
        self._stopping = True
        self._order_sync.stop()
        self._refund_sync.stop()
        self._waiting_attempts.stop()
        self._waiting_refunds.stop()

    async def settle(self) -> None:
        """Wait until the work on all claimed rows has ended."""
        await self._settle_orders()
        await self._settle_refunds()

    async def _settle_orders(self) -> None:
        await self._order_sync.settle()
        await self._waiting_attempts.settle()

    async def _settle_refunds(self) -> None:
        await self._refund_sync.settle()
        await self._waiting_refunds.settle()

    async def _on_row(self, actor: Actor, row: RowCalls, work: Awaitable[None]) -> None:
        """Work on a claimed row, and release its place. Its next check is set already, so a failure is logged only."""
        with row:
            if not await self._logged(actor, work):
                row.failed()

    @staticmethod
    async def _logged(actor: Actor, work: Awaitable[object]) -> bool:
        """Whether the work ended without an error. A failing row does not stop the others."""
        try:
            with acting(actor):
                await work
        except PayCenterError as error:
            log.warning("job_item_postponed", job=actor.name, reason=error.reason.value, why=error.message)
        except Exception as error:
            if (known := retryable_error(error)) is None:
                log.exception("job_item_failed", job=actor.name)
            else:
                why = f"{type(error).__name__}: {error}"[:300]
                log.warning("job_item_postponed", job=actor.name, reason=known.reason.value, why=why)
        else:
            return True
        return False

    def _row(self, places: Places[UUID], account_id: UUID) -> RowCalls:
        return RowCalls(places, account_id, self._context.clock)

    # Order sync

    async def start_order_sync(self) -> int:
        """Query the channels about unsettled attempts. The delays grow but never end. The number of rows that were started."""
        return await self._order_sync.start_due()

    async def sync_orders(self) -> int:
        """The same until nothing is due that may be claimed, and all of it has ended. The number of rows."""
        before = self._order_sync.started
        await self.start_order_sync()
        await self._settle_orders()
        return self._order_sync.started - before

    async def _due_attempts(self) -> list[UUID]:
        now = self._context.now()
        async with self._context.database.connection() as connection:
            due = await attempt_rows.due_accounts(connection, now)
        self._waiting_attempts.start(due, now)
        return sorted(due, key=due.__getitem__)

    async def _take_attempts(self, places: Mapping[UUID, int]) -> list[PayAttempt]:
        now = self._context.now()
        async with self._context.database.connection() as connection:
            return await attempt_rows.claim_due(connection, now, now + self._lease, places)

    async def _page_of_attempts(
        self, account_id: UUID, since: datetime, after: tuple[datetime, UUID], limit: int
    ) -> list[PayAttempt]:
        async with self._context.database.connection() as connection:
            return await attempt_rows.list_waiting(connection, account_id, since, after, limit)

    async def _work_on_attempt(self, attempt: PayAttempt) -> None:
        await self._on_row(_SYNC, self._row(self._places.attempts, attempt.account_id), self._sync_attempt(attempt))

    async def _open_if_stale_attempt(self, attempt: PayAttempt) -> None:
        if attempt.state is AttemptState.CLOSED:
            stale_time = max(attempt.update_time, attempt.expire_time) + VERIFIED_AFTER
        else:
            stale_time = attempt.expire_time + STALE_AFTER
        if self._context.now() > stale_time:
            await self._cases.stale_attempt(attempt)

    async def _sync_attempt(self, attempt: PayAttempt) -> None:
        # By its age and first, because the work below may raise an exception at every attempt (a lost key, a missing codec).
        await self._open_if_stale_attempt(attempt)
        async with self._context.database.connection() as connection:
            order = await order_rows.get_order(connection, attempt.order_id)
        if order is None:
            return
        if attempt.state is AttemptState.CLOSED:
            await self._watch(attempt)
            return
        if order.state is not OrderState.WAITING or attempt.expire_time <= self._context.now():
            # An attempt whose order is paid or closed must not stay payable.
            await self._end_of_life(attempt)
            await self._close_if_expired(order)
            return
        outcome = await self._attempts.query(attempt)
        if outcome.status is QueryStatus.PAID:
            return
        if outcome.status is QueryStatus.CLOSED:
            async with self._context.database.connection() as connection:
                await attempt_rows.close_attempt(
                    connection, attempt.id, self._context.now(), cause(), next_look=self._attempts.first_look()
                )
            return
        await self._postpone(attempt)

    async def _end_of_life(self, attempt: PayAttempt) -> None:
        """Close or cancel an attempt at the channel, then here. A bar code attempt expires before its order."""
        settled = await self._attempts.settle_or_close(attempt)
        if settled is SettleResult.STILL_PAYABLE:
            await self._attempts.give_up_on(attempt)
        elif settled in (SettleResult.UNCLEAR, SettleResult.TOO_SOON):
            await self._postpone(attempt)

    async def _close_if_expired(self, order: PayOrder) -> None:
        """Close an expired order whose last open attempt has ended, for the expire job."""
        if order.state is OrderState.WAITING and order.expire_time <= self._context.now():
            with acting(_EXPIRE):
                await self._attempts.close_order(order.id)

    async def _postpone(self, attempt: PayAttempt) -> None:
        """Until its expiry an attempt is checked with growing delays, then at it and by the schedule of expired orders."""
        now = self._context.now()
        late = (now - attempt.expire_time).total_seconds()
        if late < 0:
            when = min(due_after(now, ORDER_SYNC_DELAYS, attempt.check_count), attempt.expire_time)
        else:
            when = due_after(now, EXPIRE_RETRY_DELAYS, sum(1 for delay in EXPIRE_RETRY_DELAYS if delay < late))
        if attempt.expire_time - attempt.create_time <= SHORT_LIFE and now - attempt.create_time < 5 * SHORT_LIFE:
            # The payer waits at the point of sale: the next check is in a few seconds.
            when = min(when, now + POINT_OF_SALE_STEP)
        async with self._context.database.connection() as connection:
            await attempt_rows.set_next_check(connection, attempt.id, when)

    async def _watch(self, attempt: PayAttempt) -> None:
        """Look again at an attempt that is closed here: as long as the channel gives no clear answer or something is payable there,
        and then by the verification schedule. What is payable (a QR code that was scanned late, a bar code payment that arrived
        late) is closed at the channel, and what was paid is booked as a late payment."""
        settled = await self._attempts.settle_or_close(attempt)
        now = self._context.now()
        ends = attempt.expire_time + WATCH_AFTER_EXPIRY
        if settled in (SettleResult.UNCLEAR, SettleResult.TOO_SOON):
            when: datetime | None = due_after(now, ORDER_SYNC_DELAYS, attempt.check_count)
        elif settled is SettleResult.STILL_PAYABLE and now < ends:
            when = min(due_after(now, ORDER_SYNC_DELAYS, attempt.check_count + 2), ends)
        else:
            stayed_payable = settled is SettleResult.STILL_PAYABLE
            since = max(attempt.update_time, attempt.expire_time) if stayed_payable else attempt.update_time
            when = next_look(CLOSED_ATTEMPT, since, now)
        async with self._context.database.connection() as connection:
            await attempt_rows.set_next_check(connection, attempt.id, when, only_open=False)

    # Order expire

    async def start_order_expiry(self) -> int:
        """Close orders after their expiry. Those that have open attempts are left to the order sync job. The number of orders."""
        done, left = 0, 0
        while not self._stopping:
            now = self._context.now()
            async with self._context.database.connection() as connection:
                claimed = await order_rows.claim_expired(connection, now, now + self._lease, self._context.options.sync_batch)
                have_open = await order_rows.postpone_open(connection, claimed, now, EXPIRE_RETRY_DELAYS)
            left += len(have_open)
            await self._close_each([order_id for order_id in claimed if order_id not in have_open])
            done += len(claimed)
            if len(claimed) < self._context.options.sync_batch:
                break
        if left:
            # Their attempts are due at their expiry.
            await self.start_order_sync()
        return done

    async def expire_orders(self) -> int:
        """The same, and wait until the attempts that may be claimed have ended. The number of orders."""
        done = await self.start_order_expiry()
        await self._settle_orders()
        return done

    async def _close_each(self, orders: Sequence[UUID]) -> None:
        limit = asyncio.Semaphore(_PARALLEL)

        async def close(order_id: UUID) -> None:
            async with limit:
                await self._logged(_EXPIRE, self._attempts.close_order(order_id))

        await asyncio.gather(*(close(order_id) for order_id in orders))

    # Refund sync

    async def start_refund_sync(self) -> int:
        """Query the channels about refunds in progress, and send again those that the channel does not know. The number of rows
        that were started."""
        return await self._refund_sync.start_due()

    async def sync_refunds(self) -> int:
        """The same until nothing is due that may be claimed, and all of it has ended. The number of rows."""
        before = self._refund_sync.started
        await self.start_refund_sync()
        await self._settle_refunds()
        return self._refund_sync.started - before

    async def _due_refunds(self) -> list[UUID]:
        now = self._context.now()
        async with self._context.database.connection() as connection:
            due = await refund_rows.due_accounts(connection, now)
        self._waiting_refunds.start(due, now)
        return sorted(due, key=due.__getitem__)

    async def _take_refunds(self, places: Mapping[UUID, int]) -> list[PayRefund]:
        now = self._context.now()
        async with self._context.database.connection() as connection:
            return await refund_rows.claim_due(connection, now, now + self._lease, places)

    async def _page_of_refunds(
        self, account_id: UUID, since: datetime, after: tuple[datetime, UUID], limit: int
    ) -> list[PayRefund]:
        async with self._context.database.connection() as connection:
            return await refund_rows.list_waiting(connection, account_id, since, after, limit)

    async def _work_on_refund(self, refund: PayRefund) -> None:
        await self._on_row(_REFUND_SYNC, self._row(self._places.refunds, refund.account_id), self._sync_refund(refund))

    async def _open_if_stale_refund(self, refund: PayRefund) -> None:
        if refund.state is RefundState.WAITING:
            stale_time = time_of(refund.out_refund_key) + STALE_AFTER  # since it was sent under its current number
        else:
            stale_time = refund.update_time + VERIFIED_AFTER  # of a SUCCESS its earlier numbers are looked at, or an acceptance
        if self._context.now() > stale_time:
            await self._cases.stale_refund(refund)

    async def _sync_refund(self, refund: PayRefund) -> None:
        # By its age and first, as above.
        await self._open_if_stale_refund(refund)
        await self._refunds.check(refund)
