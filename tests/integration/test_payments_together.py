"""Payments that are reported at the same time share a statement: each caller gets the answer about its own payment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from paycenter_server.domain.states import OrderState
from paycenter_server.services.gathering import ENOUGH, MOST_LEFT_BEHIND, Gathering
from paycenter_server.services.notifications_payloads import order_closed
from paycenter_server.services.payments_direct import DirectPayments
from paycenter_server.storage.database import WriteConnection
from paycenter_server.storage.notifications import insert_notification
from support.direct import together, waiting
from support.facts import payment_of
from support.locks import transaction, waiting_for_lock
from support.system import PayCenterSystem
from support.waiting import ended, eventually, pause


async def test_each_caller_gets_its_own_answer(system: PayCenterSystem) -> None:
    made = [await waiting(system) for _ in range(10)]
    channel = made[0][2]
    payments = [payment_of(channel, attempt, amount=100 if number % 3 else 99) for number, (_, attempt, _) in enumerate(made)]
    results = await ended(await together(system, DirectPayments(system.services.context), payments, channel))
    assert results == [bool(number % 3) for number in range(10)]
    states = [(await system.read(order)).state is OrderState.SUCCESS for order, *_ in made]
    assert states == results
    assert system.wake_up.count == 1, "one for the statement"


async def test_one_payment_that_cannot_be_stored_does_not_fail_the_others(system: PayCenterSystem) -> None:
    made = [await waiting(system) for _ in range(5)]
    channel = made[0][2]
    payments = [payment_of(channel, attempt) for _, attempt, _ in made]
    payments[2] = replace(payments[2], channel_user_id="a\0b")
    results = await ended(await together(system, DirectPayments(system.services.context), payments, channel))
    assert [type(result).__name__ for result in results] == ["bool", "bool", "CharacterNotInRepertoireError", "bool", "bool"]
    assert [(await system.read(order)).state.value for order, *_ in made] == ["SUCCESS", "SUCCESS", "WAITING", "SUCCESS", "SUCCESS"]


async def shared(system: PayCenterSystem, error: Exception | None, count: int) -> tuple[list[int], list[Any]]:
    """The rows of each statement, and the answers, of so many items. Statements with several rows fail with the error."""
    sizes: list[int] = []

    async def statement(connection: WriteConnection, items: Sequence[int]) -> Sequence[int]:
        sizes.append(len(items))
        await connection.fetchval("SELECT 1")
        if len(items) > 1 and error is not None:
            raise error
        return [item * 10 for item in items]

    gathering = Gathering(system.services.context, statement)
    tasks = [asyncio.create_task(gathering.add(item)) for item in range(count)]
    return sizes, await ended(tasks)


async def test_after_a_conflict_each_is_done_again_by_itself(system: PayCenterSystem) -> None:
    for error in (asyncpg.DeadlockDetectedError("deadlock"), asyncpg.SerializationError("serialization")):
        sizes, answers = await shared(system, error, 5)
        assert (sizes, answers) == ([1, 4, 1, 1, 1, 1], [0, 10, 20, 30, 40])


async def test_after_a_lost_connection_nothing_is_done_again(system: PayCenterSystem) -> None:
    sizes, answers = await shared(system, ConnectionResetError("lost"), 5)
    assert (sizes, answers[0]) == ([1, 4], 0)
    assert [type(answer) for answer in answers[1:]] == [ConnectionResetError] * 4


async def test_a_statement_has_at_most_128_rows(system: PayCenterSystem) -> None:
    sizes, answers = await shared(system, None, 300)
    assert (sizes, answers) == ([1, 128, 128, 43], [item * 10 for item in range(300)])


async def waited(system: PayCenterSystem, count: int, seconds: float = 60, most: int = 1) -> tuple[list[int], int]:
    """The rows of each statement, and the number of waits, of so many items. In each wait one more arrives."""
    sizes: list[int] = []
    waits: list[float] = []
    later: list[asyncio.Task[int]] = []

    async def statement(connection: WriteConnection, items: Sequence[int]) -> Sequence[int]:
        sizes.append(len(items))
        await connection.fetchval("SELECT pg_sleep(0.002)")
        return items

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        later.append(asyncio.create_task(gathering.add(1000)))
        await pause(0)

    gathering = Gathering(system.services.context, statement, wait, seconds, waits=most)
    assert await ended([asyncio.create_task(gathering.add(item)) for item in range(count)]) == list(range(count))
    assert [await task for task in later] == [1000] * len(waits)
    assert all(0 < waited <= seconds * number for number, waited in enumerate(waits, 1))
    return sizes, len(waits)


async def test_if_several_have_arrived_a_statement_waits_for_more(system: PayCenterSystem) -> None:
    assert await waited(system, 3) == ([1, 3], 1)
    assert await waited(system, 132) == ([1, 128, 4], 1)


async def test_a_statement_of_few_waits_longer_if_a_channel_is_called(system: PayCenterSystem) -> None:
    assert await waited(system, 3, most=3) == ([1, 5], 3)
    assert await waited(system, ENOUGH, most=3) == ([1, ENOUGH], 1)


async def test_what_arrives_alone_does_not_wait(system: PayCenterSystem) -> None:
    assert await waited(system, 1) == ([1], 0)
    assert await waited(system, 2) == ([1, 1], 0)


async def test_a_full_statement_does_not_wait(system: PayCenterSystem) -> None:
    assert await waited(system, 129) == ([1, 128], 0)


async def test_after_a_long_statement_the_next_does_not_wait(system: PayCenterSystem) -> None:
    assert await waited(system, 3, 0.001) == ([1, 2], 0)


async def test_a_statement_that_takes_long_does_not_hold_up_the_others(system: PayCenterSystem) -> None:
    """But as many as are left behind have a connection each, so the next one does."""
    begun: list[int] = []
    hold = asyncio.Event()

    async def statement(connection: WriteConnection, items: Sequence[int]) -> Sequence[int]:
        begun.extend(items)
        if items[0] < 0:
            await hold.wait()
        await connection.fetchval("SELECT 1")
        return [item * 10 for item in items]

    async def add(item: int) -> asyncio.Task[int]:
        task = asyncio.create_task(gathering.add(item))
        await eventually(lambda: item in begun or task.done())
        return task

    gathering = Gathering(system.services.context, statement, slow_seconds=0.05)
    held = []
    for number in range(1, MOST_LEFT_BEHIND + 1):
        held.append(await add(-number))
        assert await ended([asyncio.create_task(gathering.add(item)) for item in range(3)]) == [0, 10, 20]
        assert gathering._left_behind == number
        await eventually(lambda: gathering._chain is None)
        assert await gathering.add(7) == 70
    held.append(await add(-10))
    held.append(asyncio.create_task(gathering.add(8)))
    await eventually(lambda: asyncio.get_running_loop().time() > gathering._begun + 0.2)
    assert (gathering._left_behind, 8 in begun) == (MOST_LEFT_BEHIND, False)
    hold.set()
    assert await ended(held) == [-10, -20, -30, -100, 80]
    await eventually(lambda: (gathering._left_behind, gathering._chain) == (0, None))


async def test_what_was_left_behind_goes_on_with_nothing_else(system: PayCenterSystem) -> None:
    """Two chains at the same time would share less."""
    begun: list[int] = []
    holds = {number: asyncio.Event() for number in (1, 2, 3)}

    async def statement(connection: WriteConnection, items: Sequence[int]) -> Sequence[int]:
        begun.extend(items)
        if items[0] in holds:
            await holds[items[0]].wait()
        return items

    gathering = Gathering(system.services.context, statement, slow_seconds=0.05)
    tasks = [asyncio.create_task(gathering.add(number)) for number in (1, 2)]
    await eventually(lambda: 1 in begun)
    holds[1].set()
    await eventually(lambda: 2 in begun)
    tasks.append(asyncio.create_task(gathering.add(3)))
    await eventually(lambda: 3 in begun)
    gathering._slow_seconds = 60
    tasks.append(asyncio.create_task(gathering.add(4)))
    holds[2].set()
    await eventually(lambda: gathering._left_behind == 0)
    assert begun == [1, 2, 3]
    holds[3].set()
    assert await ended(tasks) == [1, 2, 3, 4]


async def test_what_a_caller_wanted_that_goes_away_is_not_done_by_itself(system: PayCenterSystem) -> None:
    """The statement of several has failed, and the first of them is being done alone when another caller goes away."""
    done: list[int] = []
    go_on = asyncio.Event()

    async def statement(connection: WriteConnection, items: Sequence[int]) -> Sequence[int]:
        await connection.fetchval("SELECT 1")
        if len(items) > 1:
            raise asyncpg.DeadlockDetectedError("deadlock")
        done.extend(items)
        if items[0] == 1:
            await go_on.wait()
        return items

    gathering = Gathering(system.services.context, statement)
    tasks = [asyncio.create_task(gathering.add(item)) for item in range(4)]
    await eventually(lambda: 1 in done)
    tasks[2].cancel()
    await pause(0)
    go_on.set()
    await asyncio.wait(tasks)
    assert done == [0, 1, 3]


@pytest.mark.parametrize("alone", [False, True])
async def test_a_writer_that_is_cancelled_leaves_nobody_waiting(system: PayCenterSystem, alone: bool) -> None:
    """As when the loop ends. Also while it does each by itself."""
    running, hold = asyncio.Event(), asyncio.Event()

    async def statement(connection: WriteConnection, items: Sequence[int]) -> Sequence[int]:
        await connection.fetchval("SELECT 1")
        if alone and len(items) > 1:
            raise asyncpg.DeadlockDetectedError("deadlock")
        if items[0] == 1:
            running.set()
            await hold.wait()
        return items

    gathering = Gathering(system.services.context, statement)
    tasks = [asyncio.create_task(gathering.add(item)) for item in range(4)]
    await running.wait()
    assert gathering._writer is not None
    gathering._writer.cancel()
    _, waiting_still = await asyncio.wait(tasks, timeout=5)
    for task in waiting_still:
        task.cancel()
    assert not waiting_still
    assert [task.cancelled() for task in tasks] == [False, True, True, True]
    assert await gathering.add(7) == 7


@asynccontextmanager
async def four_that_wait(
    system: PayCenterSystem,
) -> AsyncIterator[tuple[Callable[[], Awaitable[list[asyncio.Task[Any]]]], list[asyncio.Task[Any]]]]:
    """What reports four payments at the same time, and its tasks, whose statement waits for a lock until the block ends."""
    made = [await waiting(system) for _ in range(4)]
    channel, direct = made[0][2], DirectPayments(system.services.context)

    async def report() -> list[asyncio.Task[Any]]:
        return await together(system, direct, [payment_of(channel, attempt) for _, attempt, _ in made], channel)

    async with transaction(system) as held:
        await held.execute("LOCK TABLE pay_notify_task IN EXCLUSIVE MODE")
        tasks = await report()
        await waiting_for_lock(system, tasks, 1)
        yield report, tasks


async def test_a_lost_connection_fails_those_whose_statement_it_was(system: PayCenterSystem) -> None:
    """Whether they are booked is not known, so the statement is not repeated: the channel sends them again."""
    async with four_that_wait(system) as (report, tasks):
        connection = await asyncpg.connect(system.database_url)
        ended_backends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        assert await connection.fetchval(ended_backends) == 1
        await connection.close()
        results = await ended(tasks)
    assert all(isinstance(result, (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)) for result in results), results
    assert await system.value("SELECT count(*) FROM pay_order WHERE state <> 'WAITING'") == 0
    assert await ended(await report()) == [True] * 4


async def test_a_caller_that_goes_away_does_not_end_the_statement_of_the_others(system: PayCenterSystem) -> None:
    async with four_that_wait(system) as (_, tasks):
        tasks[0].cancel()
        await waiting_for_lock(system, tasks[1:], 1)
        tasks[2].cancel()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, False, True, False]
    assert [task.result() for task in tasks if not task.cancelled()] == [True, True]


async def test_what_was_reported_is_booked_although_every_caller_goes_away(system: PayCenterSystem) -> None:
    """A time limit has ended them: the channel sends them again, but perhaps the database is not faster then."""
    made = [await waiting(system) for _ in range(6)]
    channel, direct = made[0][2], DirectPayments(system.services.context)
    payments = [payment_of(channel, attempt) for _, attempt, _ in made]
    async with transaction(system) as held:
        await held.execute("LOCK TABLE pay_notify_task IN EXCLUSIVE MODE")
        tasks = await together(system, direct, payments[:3], channel)
        await waiting_for_lock(system, tasks, 1)
        tasks += await together(system, direct, payments[3:], channel)  # they wait for the statement of the others
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
    await system.services.context.drain(10)
    assert await system.value("SELECT count(*) FROM pay_order WHERE state = 'SUCCESS'") == 6
    assert system.wake_up.count == 2, "one for each statement"


async def test_a_notification_that_is_locked_does_not_hold_up_the_others(system: PayCenterSystem) -> None:
    made = [await waiting(system) for _ in range(4)]
    channel = made[0][2]
    payments = [payment_of(channel, attempt) for _, attempt, _ in made]
    order = made[1][0]
    older = order_closed(order, system.services.context.new_key(system.clock.now()), system.clock.now())
    async with system.services.context.database.connection() as connection:
        assert await insert_notification(connection, replace(older, data_version=0))
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_notify_task WHERE data_id = $1 FOR UPDATE", order.id)
        tasks = await together(system, DirectPayments(system.services.context), payments, channel)
        await eventually(lambda: all(task.done() for task in tasks))
    assert await ended(tasks) == [True, False, True, True], "the one is looked at by itself"
