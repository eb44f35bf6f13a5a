"""The monthly partitions of the ledger and of the log of deliveries: made ahead, dropped by the retention, and never in the way."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from paycenter_server.services.books import check_books, compared_since
from paycenter_server.services.partitions import PAUSE_AFTER_FAILURE
from paycenter_server.storage import migrate
from paycenter_server.storage.partitions import TABLES, months_before, name_of, next_month
from support.databases import in_thread
from support.system import PayCenterSystem, open_system


@pytest.fixture
async def own(fresh: str, redis_url: str, keys_dir: Path, master_key_file: Path) -> Any:
    """A system over a database of its own, with a retention if one is given."""
    await in_thread(migrate.ensure, fresh)

    @asynccontextmanager
    async def opened(**more: Any) -> AsyncIterator[PayCenterSystem]:
        async with open_system(fresh, redis_url, keys_dir, master_key_file, **more) as system:
            yield system

    return opened


async def names(system: PayCenterSystem) -> list[str]:
    return [one.name for one in await system.services.partitions.list()]


def test_months() -> None:
    assert next_month(datetime(2026, 12, 31, 23, tzinfo=UTC)) == datetime(2027, 1, 1, tzinfo=UTC)
    assert months_before(datetime(2026, 3, 31, tzinfo=UTC), 3) == datetime(2025, 12, 1, tzinfo=UTC)
    assert months_before(datetime(2026, 11, 30, tzinfo=UTC), -2) == datetime(2027, 1, 1, tzinfo=UTC)


async def test_a_new_database_has_this_month_and_the_next_three(own: Any) -> None:
    async with own() as system:
        now = await system.value("SELECT now()")
        wanted = [name_of(table, months_before(now, -n)) for table in TABLES for n in range(4)]
        assert await names(system) == sorted([*wanted, *(f"{table}_default" for table in TABLES)])
        assert await system.services.partitions.run() == 0


async def test_time_goes_on_and_partitions_are_made_once(own: Any) -> None:
    """Two workers at once, while orders are paid, and a payment in the new month."""
    async with own() as system:
        system.clock.offset = timedelta(days=31)
        before = await names(system)
        paid, *_ = await asyncio.gather(
            system.paid("mock"), system.services.partitions.maintain(), system.services.partitions.maintain()
        )
        assert paid.paid_amount == 100
        made = set(await names(system)) - set(before)
        now = await system.value("SELECT now()")
        assert made == {name_of(table, months_before(now + timedelta(days=31), -3)) for table in TABLES}
        (new,) = [name for name in made if name.startswith("pay_event")]
        month = months_before(now + timedelta(days=31), -3)
        await insert(system, month + timedelta(days=3))
        assert await system.value(f"SELECT count(*) FROM {new}") == 1


async def insert(system: PayCenterSystem, time: datetime) -> None:
    """An event of that time."""
    await system.rows(
        """INSERT INTO pay_event (create_time, subject, subject_id, event, paid_change, reserved_change, refunded_change,
             actor_kind, actor) VALUES ($1, 'CASE', gen_random_uuid(), 'x', 0, 0, 0, 'SYSTEM', '')""",
        time,
    )


@pytest.mark.parametrize(
    "statement", ["UPDATE {} SET amount = 1", "DELETE FROM {}", "TRUNCATE {}"], ids=["update", "delete", "truncate"]
)
@pytest.mark.parametrize("which", ["present", "later", "default"])
async def test_every_partition_is_append_only(own: Any, statement: str, which: str) -> None:
    async with own() as system:
        now = await system.value("SELECT now()")
        if which == "later":
            system.clock.offset = timedelta(days=31)
            await system.services.partitions.maintain()
        time = {"present": now, "later": months_before(now + timedelta(days=31), -3), "default": now + timedelta(days=4000)}
        await insert(system, time[which])
        name = "pay_event_default" if which == "default" else name_of("pay_event", time[which])
        assert await system.value(f"SELECT count(*) FROM {name}") >= 1
        with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
            await system.rows(statement.format(name))


async def test_a_month_that_nobody_made_is_in_the_default_partition_and_said(own: Any) -> None:
    """No worker ran for months: the inserts go on, and the months after are made."""
    async with own() as system:
        now = await system.value("SELECT now()")
        late = months_before(now, -5)
        await insert(system, late + timedelta(days=2))
        system.clock.offset = late - now + timedelta(days=2)
        done = await system.services.partitions.maintain()
        assert name_of("pay_event", late) not in done.made
        assert name_of("pay_notify_log", late) in done.made
        assert name_of("pay_event", next_month(late)) in done.made
        assert [problem for problem in done.problems if f"{late:%Y-%m}" in problem]
        assert await system.value("SELECT count(*) FROM pay_event_default") == 1


async def test_the_retention_drops_whole_months_and_the_books_are_checked_from_then_on(own: Any) -> None:
    async with own(event_retention_months=3, notification_log_retention_months=0) as system:
        system.books_are_checked = False  # of all orders, also of those without events
        old = await system.paid("mock")
        now = await system.value("SELECT now()")
        this, later = months_before(now, 0), months_before(now, -4)
        system.clock.offset = later - now + timedelta(days=1)
        await insert(system, later + timedelta(days=1))
        await system.services.partitions.maintain()
        assert name_of("pay_event", this) not in await names(system)
        assert name_of("pay_event", next_month(this)) in await names(system)
        assert name_of("pay_notify_log", this) in await names(system)
        assert await system.value("SELECT count(*) FROM pay_event WHERE order_id = $1", old.id) == 0
        since = await compared_since(system.services.context.database)
        assert since is not None
        assert since.replace(hour=0) == next_month(this)
        found = [one async for one in check_books(system.services.context.database)]
        assert sum(one.orders for one in found) == 0
        assert not await system.value("SELECT count(*) FROM pay_case")


@pytest.mark.parametrize("wrong", ["process", "database"])
async def test_a_clock_that_is_wrong_drops_nothing(own: Any, wrong: str) -> None:
    """That of one worker, or that of the database."""
    async with own(event_retention_months=3, notification_log_retention_months=3) as system:
        await system.paid("mock")
        this = months_before(await system.value("SELECT now()"), 0)
        if wrong == "process":
            system.clock.offset = timedelta(days=3000)
        else:
            await insert(system, this + timedelta(days=3000))
        done = await system.services.partitions.maintain()
        assert done.dropped == []
        assert {name_of(table, this) for table in TABLES} <= set(await names(system))


async def test_a_clock_that_is_behind_makes_what_is_missing_and_no_earlier_month(own: Any) -> None:
    async with own() as system:
        now = await system.value("SELECT now()")
        next_one = name_of("pay_event", months_before(now, -1))
        await system.rows(f"DROP TABLE {next_one}")
        system.clock.offset = timedelta(days=-40)
        assert (await system.services.partitions.maintain()).made == [next_one]


async def test_a_partition_under_another_name_is_left_alone(own: Any) -> None:
    async with own(event_retention_months=3) as system:
        await system.rows(
            "CREATE TABLE pay_event_archive PARTITION OF pay_event FOR VALUES FROM ('2040-01-01Z') TO ('2041-01-01Z')"
        )
        await system.services.partitions.maintain()
        assert "pay_event_archive" not in await names(system)
        assert await compared_since(system.services.context.database) is None


async def test_a_drop_that_has_to_wait_does_not_hinder_the_next_months(own: Any) -> None:
    """A backup reads the ledger."""
    async with own(event_retention_months=3) as system:
        now = await system.value("SELECT now()")
        later = months_before(now, -4)
        system.clock.offset = later - now + timedelta(days=1)
        await insert(system, now)
        await insert(system, later + timedelta(days=1))
        other = await asyncpg.connect(system.database_url)
        async with other.transaction():
            await other.execute("LOCK TABLE pay_notify_task IN ACCESS SHARE MODE")
            await other.execute("LOCK TABLE ONLY pay_event IN ACCESS SHARE MODE")
            done = await asyncio.wait_for(system.services.partitions.maintain(), 8)
        await other.close()
        assert done.dropped == []
        (sentence,) = done.locked
        assert name_of("pay_event", months_before(now, 0)) in sentence
        assert "Run `paycenter partitions` again" in sentence
        assert name_of("pay_event", next_month(later)) in await names(system)
        assert (await system.services.partitions.maintain()).dropped == [name_of("pay_event", months_before(now, 0))]


async def test_without_a_retention_nothing_is_dropped(own: Any) -> None:
    async with own() as system:
        now = await system.value("SELECT now()")
        system.clock.offset = timedelta(days=3000)
        await insert(system, now + timedelta(days=3000))
        await system.services.partitions.maintain()
        assert name_of("pay_event", months_before(now, 0)) in await names(system)
        assert await compared_since(system.services.context.database) is None


async def test_a_table_that_stays_locked_is_left_for_later(own: Any) -> None:
    """Whoever waits for the lock of a table makes everybody behind it wait too."""
    async with own() as system:
        system.clock.offset = timedelta(days=31)
        other = await asyncpg.connect(system.database_url)
        async with other.transaction():
            await other.execute("LOCK TABLE pay_event IN ACCESS EXCLUSIVE MODE")
            done = await asyncio.wait_for(system.services.partitions.maintain(), 8)
        await other.close()
        assert (done.made, len(done.locked)) == ([], 1)
        assert await system.services.partitions.run() == len(TABLES)


async def test_the_job_pauses_after_a_table_was_locked(own: Any) -> None:
    """A backup takes hours, and each try makes calls wait. A clock that is set back does not make the pause longer."""
    async with own() as system:
        partitions = system.services.partitions
        system.clock.offset = timedelta(days=31)
        other = await asyncpg.connect(system.database_url)
        async with other.transaction():
            await other.execute("LOCK TABLE pay_event IN ACCESS EXCLUSIVE MODE")
            assert await partitions.run() == 0
        await other.close()
        system.clock.offset += PAUSE_AFTER_FAILURE - timedelta(seconds=30)
        assert await partitions.run() == 0
        system.clock.offset -= PAUSE_AFTER_FAILURE
        assert await partitions.run() == len(TABLES)
        system.clock.offset = timedelta(days=62)
        assert await partitions.run() == len(TABLES)


async def test_a_partition_that_waits_holds_no_lock_of_another_one(own: Any) -> None:
    """What was made and dropped before it stays so."""
    async with own(event_retention_months=3, notification_log_retention_months=3) as system:
        now = await system.value("SELECT now()")
        later = months_before(now, -4)
        system.clock.offset = later - now + timedelta(days=1)
        await insert(system, later + timedelta(days=1))
        made, old = months_before(later, -3), months_before(now, 0)
        other = await asyncpg.connect(system.database_url)
        async with other.transaction():
            await other.execute("LOCK TABLE pay_notify_log IN ACCESS SHARE MODE")
            done = await system.services.partitions.maintain()
        await other.close()
        assert name_of("pay_event", made) in done.made
        assert name_of("pay_notify_log", made) not in done.made
        assert done.dropped == [name_of("pay_event", old)]
        assert [name_of("pay_notify_log", month) in sentence for month, sentence in zip((made, old), done.locked, strict=True)] == [
            True, True,
        ]  # fmt: skip
        again = await system.services.partitions.maintain()
        assert (again.dropped, again.locked) == ([name_of("pay_notify_log", old)], [])


async def test_an_upgrade_keeps_events_and_deliveries(fresh: str) -> None:
    """From a database with both as plain tables, and back."""
    await in_thread(migrate.upgrade, fresh, "0008")
    connection = await asyncpg.connect(fresh)
    await connection.execute(
        """INSERT INTO pay_event (create_time, subject, subject_id, event, paid_change, reserved_change, refunded_change,
             actor_kind, actor)
           SELECT timestamptz '2020-01-01Z' + n * interval '100 days', 'CASE', gen_random_uuid(), 'x', n, 0, 0, 'SYSTEM', ''
           FROM generate_series(1, 20) n"""
    )
    before = await connection.fetch("SELECT * FROM pay_event ORDER BY id")
    await in_thread(migrate.upgrade, fresh)
    assert await connection.fetch("SELECT * FROM pay_event ORDER BY id") == before
    last = await connection.fetchval(
        """INSERT INTO pay_event (subject, subject_id, event, paid_change, reserved_change, refunded_change, actor_kind, actor)
           VALUES ('CASE', gen_random_uuid(), 'x', 0, 0, 0, 'SYSTEM', '') RETURNING id"""
    )
    assert last == 21
    await connection.close()


async def test_a_role_that_may_only_use_the_tables_may_use_them_after_the_upgrade(fresh: str) -> None:
    await in_thread(migrate.upgrade, fresh, "0008")
    connection = await asyncpg.connect(fresh)
    role = f"Servers {uuid4().hex}"
    await connection.execute(f'CREATE ROLE "{role}"')
    try:
        for table in TABLES:
            await connection.execute(f'GRANT SELECT, INSERT ON {table} TO "{role}"')
        await in_thread(migrate.upgrade, fresh)
        await connection.execute(f'SET ROLE "{role}"')
        await connection.execute(
            """INSERT INTO pay_event (subject, subject_id, event, paid_change, reserved_change, refunded_change, actor_kind, actor)
               VALUES ('CASE', gen_random_uuid(), 'x', 0, 0, 0, 'SYSTEM', '')"""
        )
        assert [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES] == [1, 0]
    finally:
        await connection.execute(f'RESET ROLE; DROP OWNED BY "{role}"; DROP ROLE "{role}"')
        await connection.close()


async def test_the_command_says_what_is_locked_and_ends_with_1(own: Any, master_key_file: Path) -> None:
    async with own() as system:
        now = await system.value("SELECT now()")
        missing = name_of("pay_notify_log", months_before(now, -3))
        await system.rows(f"DROP TABLE {missing}")
        environment = {
            **os.environ, "PAYCENTER_MODE": "development", "PAYCENTER_DATABASE_URL": system.database_url,
            "PAYCENTER_MASTER_KEY_FILE": str(master_key_file), "PAYCENTER_ORDER_CALLBACK_URL": system.settings.order_callback_url,
            "PAYCENTER_REFUND_CALLBACK_URL": system.settings.refund_callback_url,
        }  # fmt: skip

        async def typed() -> subprocess.CompletedProcess[str]:
            words = [sys.executable, "-m", "paycenter_server.cli", "partitions"]
            return await asyncio.to_thread(
                subprocess.run, words, env=environment, capture_output=True, text=True, timeout=60, check=False
            )

        other = await asyncpg.connect(system.database_url)
        async with other.transaction():
            await other.execute("LOCK TABLE pay_notify_log IN ACCESS SHARE MODE")
            said = await typed()
        await other.close()
        assert said.returncode == 1
        assert said.stderr.startswith(f"Not made, because another transaction has locked a table: {missing}.")
        assert "again after it has ended" in said.stderr
        again = await typed()
        assert (again.returncode, again.stderr) == (0, "")
        assert f"{missing} " in again.stdout
