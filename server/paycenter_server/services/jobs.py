"""The jobs that settle what no callback has settled: order sync, order expire, refund sync.

Each claims due rows in batches (`FOR NO KEY UPDATE SKIP LOCKED`) and moves their next check first, so that a killed worker loses
nothing and two workers do not process the same row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

import structlog

from paycenter_server.channels.protocol import QueryStatus
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.events import Actor, ActorKind, acting
from paycenter_server.domain.ids import time_of
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
from paycenter_server.services.attempts import WATCH_AFTER_EXPIRY, AttemptSettlement, SettleResult
from paycenter_server.services.cases import Cases
from paycenter_server.services.context import Context
from paycenter_server.services.events import cause
from paycenter_server.services.refunds_settlement import RefundSettlement
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage import refunds as refund_rows

log = structlog.get_logger(__name__)
T = TypeVar("T")

_LEASE = timedelta(minutes=2)
_PARALLEL = 8


class Jobs:
    """The jobs. One pass processes everything that is due, and returns the number of rows."""

    def __init__(self, context: Context, attempts: AttemptSettlement, cases: Cases, refunds: RefundSettlement) -> None:
        self._context = context
        self._attempts = attempts
        self._cases = cases
        self._refunds = refunds

    async def _each(self, items: Sequence[T], work: Callable[[T], Awaitable[None]], job: str) -> None:
        limit = asyncio.Semaphore(_PARALLEL)

        async def one(item: T) -> None:
            async with limit:
                try:
                    await work(item)
                except PayCenterError as error:
                    log.warning("job_item_postponed", job=job, reason=error.reason.value, why=error.message)
                except Exception:
                    # A failing row does not stop the others. Its next check is set already.
                    log.exception("job_item_failed", job=job)

        await asyncio.gather(*(one(item) for item in items))

    async def _drain(self, claim: Callable[[], Awaitable[Sequence[T]]], work: Callable[[T], Awaitable[None]], job: str) -> int:
        done = 0
        while True:
            items = await claim()
            with acting(Actor(ActorKind.JOB, job)):
                await self._each(items, work, job)
            done += len(items)
            if len(items) < self._context.options.sync_batch:
                return done

    # Order sync

    async def sync_orders(self) -> int:
        """Query the channels about unsettled attempts. The delays grow but never end."""

        async def claim() -> Sequence[PayAttempt]:
            now = self._context.now()
            async with self._context.database.connection() as connection:
                return await attempt_rows.claim_due(connection, now, now + _LEASE, self._context.options.sync_batch)

        return await self._drain(claim, self._sync_attempt, "pay_order_sync_job")

    async def _sync_attempt(self, attempt: PayAttempt) -> None:
        # By its age and first, because the work below may raise an exception at every attempt (a lost key, a missing codec).
        if attempt.state is AttemptState.CLOSED:
            stale_time = max(attempt.update_time, attempt.expire_time) + VERIFIED_AFTER
        else:
            stale_time = attempt.expire_time + STALE_AFTER
        if self._context.now() > stale_time:
            await self._cases.stale_attempt(attempt)
        async with self._context.database.connection() as connection:
            order = await order_rows.get_order(connection, attempt.order_id)
        if order is None:
            return
        if attempt.state is AttemptState.CLOSED:
            await self._watch(attempt)
            return
        if order.state is not OrderState.WAITING:
            # The order is paid or closed, so this attempt must not stay payable.
            await self._end_of_life(attempt)
            return
        if attempt.expire_time <= self._context.now():
            await self._end_of_life(attempt)
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

    async def _postpone(self, attempt: PayAttempt) -> None:
        now = self._context.now()
        when = due_after(now, ORDER_SYNC_DELAYS, attempt.check_count)
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

    async def expire_orders(self) -> int:
        """Close orders after their expiry. Each attempt is queried and closed at its channel first."""

        async def claim() -> Sequence[UUID]:
            now = self._context.now()
            async with self._context.database.connection() as connection:
                return await order_rows.claim_expired(connection, now, now + _LEASE, self._context.options.sync_batch)

        return await self._drain(claim, self._expire, "pay_order_expire_job")

    async def _expire(self, order_id: UUID) -> None:
        async with self._context.database.connection() as connection:
            attempts = await attempt_rows.open_attempts(connection, order_id)
        now = self._context.now()
        for attempt in attempts:
            settled = await self._attempts.settle_or_close(attempt)
            if settled is SettleResult.PAID:
                return
            if settled is SettleResult.STILL_PAYABLE:
                await self._attempts.give_up_on(attempt)
            if settled in (SettleResult.UNCLEAR, SettleResult.TOO_SOON):
                late = max((now - attempt.expire_time).total_seconds(), 0)
                step = sum(1 for delay in EXPIRE_RETRY_DELAYS if delay < late)
                async with self._context.database.connection() as connection:
                    await order_rows.set_next_check(connection, order_id, due_after(now, EXPIRE_RETRY_DELAYS, step))
                return
        await self._attempts.close_order(order_id)

    # Refund sync

    async def sync_refunds(self) -> int:
        """Query the channels about refunds in progress, and send again those that the channel does not know."""

        async def claim() -> Sequence[PayRefund]:
            now = self._context.now()
            async with self._context.database.connection() as connection:
                return await refund_rows.claim_due(connection, now, now + _LEASE, self._context.options.sync_batch)

        return await self._drain(claim, self._sync_refund, "pay_refund_sync_job")

    async def _sync_refund(self, refund: PayRefund) -> None:
        if refund.state is RefundState.WAITING:
            stale_time = time_of(refund.out_refund_key) + STALE_AFTER  # since it was sent under its current number
        else:
            stale_time = refund.update_time + VERIFIED_AFTER
        if self._context.now() > stale_time:
            await self._cases.stale_refund(refund)
        await self._refunds.check(refund)
