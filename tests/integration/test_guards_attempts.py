"""Guards of attempts: every change compares the state. `make mutants` removes each of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.orders import PayOrder
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import attempts_submission as submission_rows
from paycenter_server.storage import orders as order_rows
from support.facts import configured, payment_of
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, PayCenterSystem
from support.waiting import ended

NEVER = {"behaviour": "never"}


async def an_attempt(system: PayCenterSystem, order: PayOrder, state: str) -> PayAttempt:
    """An attempt in this state; SUCCESS means that it is booked."""
    attempt = await system.submit(order, "mock", **NEVER)
    if state == "SUCCESS":
        channel = await configured(system, "mock")
        await system.services.payments.book(channel, payment_of(channel, attempt), CAUSE)
    else:
        await system.rows("UPDATE pay_attempt SET state = $2, next_check_time = NULL WHERE id = $1", attempt.id, state)
    assert isinstance(attempt, PayAttempt)
    return attempt


async def attempt_row(system: PayCenterSystem, attempt: PayAttempt) -> dict[str, Any]:
    return dict((await system.rows("SELECT * FROM pay_attempt WHERE id = $1", attempt.id))[0])


@pytest.mark.parametrize("state", ["SUCCESS", "CLOSED"])
async def test_answered_leaves_a_settled_attempt_alone(system: PayCenterSystem, state: str) -> None:
    attempt = await an_attempt(system, await system.order(), state)
    before = await attempt_row(system, attempt)
    async with system.services.context.database.connection() as connection:
        now = system.clock.now()
        assert not await submission_rows.answered(connection, attempt.id, "qr", "weixin://x", now, now, CAUSE)
    assert await attempt_row(system, attempt) == before


@pytest.mark.parametrize("state", ["SUCCESS", "CLOSED"])
async def test_unclear_leaves_a_settled_attempt_alone(system: PayCenterSystem, state: str) -> None:
    attempt = await an_attempt(system, await system.order(), state)
    before = await attempt_row(system, attempt)
    async with system.services.context.database.connection() as connection:
        now = system.clock.now()
        assert not await attempt_rows.unclear(connection, attempt.id, "E", "e", now, now, CAUSE)
    assert await attempt_row(system, attempt) == before


@pytest.mark.parametrize("state", ["SUCCESS", "CLOSED"])
async def test_close_attempt_leaves_a_settled_attempt_alone(system: PayCenterSystem, state: str) -> None:
    attempt = await an_attempt(system, await system.order(), state)
    before = await attempt_row(system, attempt)
    async with system.services.context.database.connection() as connection:
        now = system.clock.now()
        assert not await attempt_rows.close_attempt(connection, attempt.id, now, CAUSE, next_look=now)
    assert await attempt_row(system, attempt) == before


async def test_a_refusal_closes_only_an_attempt_without_display_content(system: PayCenterSystem) -> None:
    attempt = await system.submit(await system.order(), "wx_native")
    async with system.services.context.database.connection() as connection:
        now = system.clock.now()
        assert not await attempt_rows.close_attempt(connection, attempt.id, now, CAUSE, next_look=None, unshown=True)
        assert (await attempt_row(system, attempt))["state"] == "WAITING"
        assert await attempt_rows.close_attempt(connection, attempt.id, now, CAUSE, next_look=None)


async def test_set_next_check_of_an_attempt_leaves_settled_ones_alone(system: PayCenterSystem) -> None:
    """A CLOSED attempt is checked only on request, a paid one never."""
    async with system.services.context.database.connection() as connection:
        when = system.clock.now() + timedelta(seconds=7)
        closed = await an_attempt(system, await system.order(), "CLOSED")
        await attempt_rows.set_next_check(connection, closed.id, when)
        assert (await attempt_row(system, closed))["next_check_time"] is None
        await attempt_rows.set_next_check(connection, closed.id, when, only_open=False)
        assert (await attempt_row(system, closed))["next_check_time"] == when
        paid = await an_attempt(system, await system.order(), "SUCCESS")
        for only_open in (True, False):
            await attempt_rows.set_next_check(connection, paid.id, when, only_open=only_open)
        assert (await attempt_row(system, paid))["next_check_time"] is None


async def test_set_next_check_of_an_order_leaves_settled_ones_alone(system: PayCenterSystem) -> None:
    async with system.services.context.database.connection() as connection:
        when = system.clock.now() + timedelta(seconds=7)
        waiting, paid = await system.order(), await system.order()
        await system.submit(paid, "mock")
        for order in (waiting, paid):
            await order_rows.set_next_check(connection, order.id, when)
        assert await system.value("SELECT next_check_time FROM pay_order WHERE id = $1", waiting.id) == when
        assert await system.value("SELECT next_check_time FROM pay_order WHERE id = $1", paid.id) is None
        # Both have an open attempt.
        await system.submit(waiting, "mock", **NEVER)
        await system.rows("UPDATE pay_attempt SET order_id = $1 WHERE order_id = $2", paid.id, waiting.id)
        await system.submit(waiting, "mock", **NEVER)
        both = [waiting.id, paid.id]
        assert await order_rows.postpone_open(connection, both, waiting.expire_time, [5, 9]) == {waiting.id}
        later = waiting.expire_time + timedelta(seconds=5)
        assert await system.value("SELECT next_check_time FROM pay_order WHERE id = $1", waiting.id) == later
        assert await order_rows.postpone_open(connection, both, later, [5, 9]) == {waiting.id}
        assert await order_rows.postpone_open(connection, both, later + timedelta(seconds=10), [5, 9]) == {waiting.id}
        later += timedelta(seconds=10 + 9)
        assert await system.value("SELECT next_check_time FROM pay_order WHERE id = $1", waiting.id) == later
        assert await system.value("SELECT next_check_time FROM pay_order WHERE id = $1", paid.id) is None


async def test_look_again_leaves_a_paid_attempt_alone(system: PayCenterSystem) -> None:
    async with system.services.context.database.connection() as connection:
        when = system.clock.now() + timedelta(seconds=7)
        for state, expected in (("SUCCESS", None), ("CLOSED", when)):
            attempt = await an_attempt(system, await system.order(), state)
            await attempt_rows.look_again(connection, attempt.id, when)
            assert (await attempt_row(system, attempt))["next_check_time"] == expected


async def test_begin_cancel_refuses_a_paid_attempt(system: PayCenterSystem) -> None:
    attempt = await an_attempt(system, await system.order(), "SUCCESS")
    async with system.services.context.database.connection() as connection:
        now = system.clock.now()
        assert await attempt_rows.begin_cancel(connection, attempt.id, now, now + timedelta(seconds=60), CAUSE) is None
    assert (await attempt_row(system, attempt))["cancel_until"] is None


async def test_begin_cancel_waits_for_a_booking(system: PayCenterSystem) -> None:
    """Booked at the moment of the cancellation: then no cancellation is sent to the channel."""
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)

    async def begin() -> Any:
        async with system.services.context.database.connection() as connection:
            now = system.clock.now()
            return await attempt_rows.begin_cancel(connection, attempt.id, now, now + timedelta(seconds=60), CAUSE)

    async with transaction(system) as held:
        now = system.clock.now()
        assert await attempt_rows.pay_late(
            held, attempt.id, CAUSE, amount=100, channel_order_no="1", channel_user_id="", success_time=now, now=now
        )
        calls = [asyncio.create_task(begin())]
        await waiting_for_lock(system, calls)
    assert await ended(calls) == [None]
    assert (await attempt_row(system, attempt))["cancel_until"] is None


async def test_a_change_of_an_attempt_waits_for_a_booking(system: PayCenterSystem) -> None:
    """Booked at the moment in which it is closed: it stays paid."""
    attempt = await system.submit(await system.order(), "mock", **NEVER)

    async def close() -> bool:
        async with system.services.context.database.connection() as connection:
            return await attempt_rows.close_attempt(connection, attempt.id, system.clock.now(), CAUSE, next_look=None)

    async with transaction(system) as held:
        now = system.clock.now()
        assert await attempt_rows.pay_late(
            held, attempt.id, CAUSE, amount=100, channel_order_no="1", channel_user_id="", success_time=now, now=now
        )
        calls = [asyncio.create_task(close())]
        await waiting_for_lock(system, calls)
    assert await ended(calls) == [False]
    assert (await attempt_row(system, attempt))["state"] == "SUCCESS"


async def test_end_cancel_leaves_another_cancellation_alone(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    async with system.services.context.database.connection() as connection:
        now = system.clock.now()
        first = await attempt_rows.begin_cancel(connection, attempt.id, now, now + timedelta(seconds=60), CAUSE)
        second = await attempt_rows.begin_cancel(connection, attempt.id, now, now + timedelta(seconds=70), CAUSE)
        assert first is not None
        assert second is not None
        await attempt_rows.end_cancel(connection, attempt.id, first, now, CAUSE)
        assert (await attempt_row(system, attempt))["cancel_until"] == second.until
        await attempt_rows.end_cancel(connection, attempt.id, second, now, CAUSE)
        assert (await attempt_row(system, attempt))["cancel_until"] == now


# Claiming due rows


async def test_claimed_attempts_are_due_and_not_claimed_by_another(system: PayCenterSystem) -> None:
    due, later = [await system.submit(await system.order(), "mock", **NEVER) for _ in range(2)]
    now = system.clock.now() + timedelta(seconds=60)
    await system.rows("UPDATE pay_attempt SET next_check_time = $1", now)
    await system.rows("UPDATE pay_attempt SET next_check_time = $2 WHERE id = $1", later.id, now + timedelta(seconds=1))

    async def claim() -> list[Any]:
        async with system.services.context.database.connection() as connection:
            return [
                row.id for row in await attempt_rows.claim_due(connection, now, now + timedelta(seconds=120), {due.account_id: 10})
            ]

    async with transaction(system) as held:
        first = await attempt_rows.claim_due(held, now, now + timedelta(seconds=120), {due.account_id: 10})
        assert [row.id for row in first] == [due.id]
        other = asyncio.create_task(claim())
        await waiting_for_lock(system, [other])
        assert other.done(), "a claim must pass over rows that another worker holds, not wait for them"
        assert other.result() == []
    assert await claim() == []


async def test_claimed_orders_are_due_and_not_claimed_by_another(system: PayCenterSystem) -> None:
    now = system.clock.now()
    due, later = (
        await system.order(expire_time=now + timedelta(seconds=60)), await system.order(expire_time=now + timedelta(seconds=90)),
    )  # fmt: skip
    now += timedelta(seconds=60)

    async def claim() -> list[Any]:
        async with system.services.context.database.connection() as connection:
            return await order_rows.claim_expired(connection, now, now + timedelta(seconds=120), 10)

    async with transaction(system) as held:
        assert await order_rows.claim_expired(held, now, now + timedelta(seconds=120), 10) == [due.id]
        other = asyncio.create_task(claim())
        await waiting_for_lock(system, [other])
        assert other.done(), "a claim must pass over rows that another worker holds, not wait for them"
        assert other.result() == []
    assert await claim() == []
    assert later.id != due.id
