"""The connections of a process: kept for the next task, given in the order of asking, and replaced if they broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.storage.database import Database, retryable_error
from support.system import PayCenterSystem
from support.waiting import ended, eventually, pause


@pytest.fixture
async def database(system: PayCenterSystem) -> AsyncIterator[Database]:
    """Two connections."""
    made = Database(system.settings.database_url, size=2)
    await made.open()
    yield made
    await made.close()


async def pid(database: Database) -> int:
    async with database.connection() as connection:
        found = await connection.fetchval("SELECT pg_backend_pid()")
    assert isinstance(found, int)
    return found


async def test_a_connection_is_used_again(database: Database) -> None:
    assert len({await pid(database) for _ in range(5)}) == 1


async def test_also_after_a_statement_that_was_refused_or_an_error_of_ours(database: Database) -> None:
    first = await pid(database)
    with pytest.raises(asyncpg.PostgresError):
        async with database.connection() as connection:
            await connection.fetchval("SELECT 1 / 0")
    with pytest.raises(PayCenterError):
        async with database.transaction():
            raise PayCenterError(Reason.ORDER_NOT_FOUND, "none")
    assert await pid(database) == first


async def test_waiting_tasks_get_one_in_the_order_in_which_they_asked(database: Database) -> None:
    order: list[int] = []
    release = asyncio.Event()

    async def hold(number: int) -> None:
        async with database.connection():
            order.append(number)
            await release.wait()

    tasks = [asyncio.ensure_future(hold(number)) for number in range(2)]
    await eventually(lambda: len(order) == 2)
    for number in range(2, 8):
        tasks.append(asyncio.ensure_future(hold(number)))
        await pause(0)
    release.set()
    await ended(tasks)
    assert order == list(range(8))


async def test_a_task_that_is_cancelled_while_it_waits_takes_none_away(database: Database) -> None:
    release = asyncio.Event()

    async def hold() -> None:
        async with database.connection():
            await release.wait()

    tasks = [asyncio.ensure_future(hold()) for _ in range(6)]
    await pause(0)
    for task in (tasks[3], tasks[4]):
        task.cancel()
    release.set()
    await asyncio.wait(tasks)
    # Both connections are there: two tasks have one at the same time.
    async with database.connection(), database.connection():
        pass


async def test_one_is_not_lost_if_a_task_is_cancelled_as_it_gets_it(database: Database) -> None:
    for _ in range(20):
        async with database.connection(), database.connection():
            waiting = asyncio.ensure_future(pid(database))
            await pause(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    async with database.connection(), database.connection():
        pass


async def test_no_transaction_is_left_open_wherever_its_task_is_cancelled(system: PayCenterSystem) -> None:
    """Otherwise the next task's statements would be in it, and never be committed. Cancelled at each step of the event loop."""
    database = Database(system.settings.database_url, size=1)
    await database.open()

    async def change() -> None:
        async with database.transaction() as connection:
            await connection.execute("SELECT 1")

    try:
        done = False
        steps = 0
        while not done:
            task = asyncio.ensure_future(change())
            for _ in range(steps):
                await pause(0)
            done = task.done()
            task.cancel()
            await asyncio.wait([task])
            async with database.connection() as connection:
                after: Any = connection
                await after.fetchval("SELECT 1")
                assert not after.is_in_transaction(), steps
            steps += 1
        assert steps > 5
    finally:
        await database.close()


@pytest.mark.parametrize("where", ["idle", "in use"])
async def test_a_connection_that_the_server_ended_is_replaced(database: Database, system: PayCenterSystem, where: str) -> None:
    async def kill(number: int) -> None:
        await system.rows("SELECT pg_terminate_backend($1)", number)

    async def once() -> None:
        async with database.connection() as connection:
            number: Any = await connection.fetchval("SELECT pg_backend_pid()")
            if where == "in use":
                await kill(number)
                with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
                    await connection.fetchval("SELECT pg_sleep(5)")
                return
        await kill(number)

        def noticed() -> bool:
            try:
                return bool(connection.is_closed())  # type: ignore[attr-defined]
            except asyncpg.InterfaceError:
                return True

        await eventually(noticed)

    for _ in range(4):
        await once()
    assert len(set(await ended([asyncio.ensure_future(pid(database)) for _ in range(2)]))) >= 1
    async with database.connection() as first, database.connection() as second:
        assert await first.fetchval("SELECT 1") == await second.fetchval("SELECT 1")


async def test_a_transaction_that_does_nothing_does_not_hold_its_locks_for_ever(system: PayCenterSystem) -> None:
    """Its process may be frozen."""
    frozen = Database(system.settings.database_url, size=1, idle_in_transaction=0.2)
    await frozen.open()
    order = await system.order()
    lock, taken = "SELECT id FROM pay_order WHERE id = $1 FOR UPDATE", []

    async def work() -> None:
        async with frozen.transaction() as transaction:
            await transaction.execute(lock, order.id)
            async with asyncio.timeout(5):
                taken.extend(await system.rows(lock, order.id))  # it waits until PostgreSQL has ended the transaction
            await transaction.execute("SELECT 1")

    with pytest.raises(Exception) as caught:
        await work()
    assert taken
    error = retryable_error(caught.value)
    assert error is not None
    assert error.reason is Reason.DATABASE_UNAVAILABLE
    await frozen.close()


async def test_close_waits_for_no_statement_for_long(system: PayCenterSystem) -> None:
    made = Database(system.settings.database_url, size=2)
    await made.open()
    await pid(made)
    await made.close()
    with pytest.raises(asyncpg.InterfaceError):
        await pid(made)


async def test_a_lost_connection_holds_up_nobody_after_the_time_out(system: PayCenterSystem) -> None:
    """asyncpg waits for the cancellation of its statement, which takes as long again."""
    parts, lost = urlsplit(system.settings.database_url), asyncio.Event()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if lost.is_set():
                await asyncio.Event().wait()  # a firewall has forgotten the connection: nobody is told
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            from_server, to_server = await asyncio.open_connection(parts.hostname, parts.port)
            await asyncio.gather(copy(reader, to_server), copy(from_server, writer))

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    place = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    database = Database(urlunsplit(parts._replace(netloc=place)), size=1, command_timeout=0.2)
    await database.open()
    lost.set()
    with pytest.raises(TimeoutError):
        await pid(database)
    assert database._connections is not None
    assert database._connections._giving_back
    await database.close()
    proxy.close()
