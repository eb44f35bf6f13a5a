"""Migrations on separate databases: up, comparison with the tables, down, up again, two at once, and the command line."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from paycenter_server.distribution import migrations_folder
from paycenter_server.storage import migrate
from paycenter_server.storage.tables import metadata
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable
from support.databases import in_thread
from support.waiting import eventually

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
TABLES = {table.name for table in metadata.sorted_tables}


def config(url: str) -> Config:
    made = Config()
    made.set_main_option("script_location", str(migrations_folder()))
    made.set_main_option("path_separator", "os")
    made.attributes["url"] = url
    return made


async def query(url: str, text: str, *arguments: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(text, *arguments))
    finally:
        await connection.close()


# Partitions are made while the system runs.
NO_PARTITION = r"!~ '^(pay_event|pay_notify_log)_([0-9]{6}|default)'"


async def tables(url: str) -> set[str]:
    rows = await query(url, f"SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename {NO_PARTITION}")
    return {row["tablename"] for row in rows}


async def shape(url: str) -> list[tuple[Any, ...]]:
    columns = await query(
        url, "SELECT table_name, column_name, data_type, is_nullable, column_default, character_maximum_length "
        f"FROM information_schema.columns WHERE table_schema = 'public' AND table_name {NO_PARTITION} ORDER BY 1, ordinal_position"
    )  # fmt: skip
    indexes = await query(
        url, "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' "
        f"AND tablename {NO_PARTITION} ORDER BY 2"
    )  # fmt: skip
    checks = await query(url, "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
                              "WHERE connamespace = 'public'::regnamespace "
                              f"AND conrelid::regclass::text {NO_PARTITION} ORDER BY 1, 2")  # fmt: skip
    options = await query(
        url, f"SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname {NO_PARTITION} "
        "ORDER BY 1"
    )  # fmt: skip
    # Options come as a list.
    return [tuple(str(value) for value in row) for rows in (columns, indexes, checks, options) for row in rows]


async def test_up_compare_down_and_up_again(fresh: str) -> None:
    assert await migrate.current(fresh) is None
    assert await in_thread(migrate.ensure, fresh) is True
    assert await migrate.current(fresh) == migrate.head()
    assert await tables(fresh) == TABLES | {"alembic_version"}
    assert await in_thread(migrate.ensure, fresh) is False
    first = await shape(fresh)
    # Fails if the tables in the code and the migrations differ.
    await in_thread(command.check, config(fresh))
    await in_thread(command.downgrade, config(fresh), "base")
    assert await tables(fresh) == {"alembic_version"}
    leftover = await query(
        fresh, "SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd')"
    )
    assert leftover == []
    assert await in_thread(migrate.ensure, fresh) is True
    assert await shape(fresh) == first


async def test_the_migrations_make_what_the_tables_say(fresh: str) -> None:
    """Alembic compares neither CHECKs nor storage parameters: a new state without a migration would pass its check."""
    await in_thread(migrate.ensure, fresh)
    migrated = await shape(fresh)
    connection = await asyncpg.connect(fresh)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.execute("CREATE TABLE alembic_version (version_num varchar(32) CONSTRAINT alembic_version_pkc PRIMARY KEY)")
    for table in metadata.sorted_tables:
        await connection.execute(str(CreateTable(table).compile(dialect=DIALECT)))
        for index in sorted(table.indexes, key=lambda item: str(item.name)):
            await connection.execute(str(CreateIndex(index).compile(dialect=DIALECT)))
    await connection.close()

    def unordered(rows: list[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
        return {row for row in rows if "alembic" not in str(row)}

    declared = await shape(fresh)
    assert unordered(migrated) - unordered(declared) == set()
    assert unordered(declared) - unordered(migrated) == set()


async def test_every_step_goes_up_and_down_on_its_own(fresh: str) -> None:
    script = ScriptDirectory.from_config(config(fresh))
    revisions = [revision.revision for revision in script.walk_revisions()][::-1]
    assert revisions[-1] == migrate.head() == script.get_current_head()
    for revision in revisions:
        await in_thread(command.upgrade, config(fresh), revision)
        before = await shape(fresh)
        await in_thread(command.downgrade, config(fresh), "-1")
        await in_thread(command.upgrade, config(fresh), revision)
        assert await shape(fresh) == before, revision


async def test_several_migrators_at_once(fresh: str, master_key_file: Path) -> None:
    results = await asyncio.gather(*(in_thread(paycenter, fresh, master_key_file, "migrate") for _ in range(2)))
    assert [result.returncode for result in results] == [0, 0], [result.stderr for result in results]
    assert await migrate.current(fresh) == migrate.head()
    assert await tables(fresh) == TABLES | {"alembic_version"}


def _result(url: str) -> str:
    try:
        migrate.ensure(url)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


async def test_a_migrator_waits_for_a_long_migration_of_another(fresh: str) -> None:
    """Longer than the lock time-out, which is for tables and not for the queue of migrators."""
    other = await asyncpg.connect(fresh)
    await other.execute("SELECT pg_advisory_lock(7290241103)")
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(_result(fresh)))
    thread.start()

    async def waits_long() -> bool:
        assert thread.is_alive(), results
        waited = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                    AND clock_timestamp() - backend_start > interval '5.2 s'"""
        return bool(await other.fetchval(waited))

    await eventually(waits_long, 20)
    await other.close()
    await in_thread(thread.join, 20)
    assert results == [""]
    assert await migrate.current(fresh) == migrate.head()


async def test_a_migration_that_waits_for_a_payment_does_not_hold_up_its_next_step(fresh: str) -> None:
    """A transaction has written to the order and goes on with the attempt, while 0010 waits for the order."""
    await in_thread(command.upgrade, config(fresh), "0009")
    payment, other = await asyncpg.connect(fresh), await asyncpg.connect(fresh)
    async with payment.transaction():
        await payment.execute("SET lock_timeout = '500ms'")
        await payment.execute("UPDATE pay_order SET version = 1")
        upgrade = asyncio.ensure_future(in_thread(command.upgrade, config(fresh), "0010"))
        waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'pay_order'::regclass AND NOT granted"
        await eventually(lambda: other.fetchval(waiting))
        await payment.execute("UPDATE pay_attempt SET check_count = 1")
        await payment.execute("UPDATE pay_refund SET check_count = 1")
    await upgrade
    await payment.close()
    await other.close()


async def test_an_index_that_is_built_beside_writers_waits_for_an_old_transaction(fresh: str) -> None:
    """Longer than the lock time-out: nobody waits for the index, and a dump of the database takes hours."""
    await in_thread(command.upgrade, config(fresh), "0009")
    dump, other = await asyncpg.connect(fresh), await asyncpg.connect(fresh)
    async with dump.transaction(isolation="repeatable_read"):
        await dump.execute("SELECT FROM pay_audit_head")
        upgrade = asyncio.ensure_future(in_thread(command.upgrade, config(fresh), "0010"))

        async def waits_long() -> bool:
            assert not upgrade.done(), upgrade.exception()
            waited = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                        AND query LIKE '%INDEX CONCURRENTLY%' AND clock_timestamp() - query_start > interval '5.2 s'"""
            return bool(await other.fetchval(waited))

        await eventually(waits_long, 20)
    await upgrade
    await dump.close()
    await other.close()


async def test_a_migration_that_fails_leaves_nothing_behind(fresh: str) -> None:
    connection = await asyncpg.connect(fresh)
    await connection.execute("CREATE TABLE pay_refund (id int)")
    assert "pay_refund" in _first_line(await in_thread(_result, fresh))
    assert await tables(fresh) <= {"pay_refund", "alembic_version"}
    await connection.execute("DROP TABLE pay_refund")
    await connection.close()
    assert await in_thread(migrate.ensure, fresh) is True


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


async def test_everything_has_the_name_of_the_convention(fresh: str) -> None:
    await in_thread(migrate.ensure, fresh)
    rows = await query(
        fresh, "SELECT c.conrelid::regclass::text AS table, c.conname AS name, c.contype::text AS type, "
        "array(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k(n, i) "
        "JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY k.i) AS columns "
        "FROM pg_constraint c WHERE c.connamespace = 'public'::regnamespace AND c.contype IN ('p', 'u', 'f', 'c')"
    )  # fmt: skip
    mine = [row for row in rows if row["table"] in TABLES]
    assert {row["type"] for row in mine} == {"p", "u", "f", "c"}
    for row in mine:
        table, joined = row["table"], "_".join(row["columns"])
        wanted = {"p": f"{table}_pkey", "u": f"{table}_{joined}_key", "f": f"{table}_{row['columns'][0]}_fkey"}
        if row["type"] == "c":
            assert re.fullmatch(rf"{table}_\w+_check", row["name"]), row["name"]
        else:
            assert row["name"] == wanted[row["type"]]
    indexes = await query(fresh, "SELECT tablename, indexname FROM pg_indexes WHERE schemaname = 'public'")
    for row in indexes:
        if row["tablename"] in TABLES:
            assert re.fullmatch(rf"{row['tablename']}_\w*(pkey|key|idx)", row["indexname"]), row["indexname"]


async def test_natural_keys_are_unique(fresh: str) -> None:
    await in_thread(migrate.ensure, fresh)
    rows = await query(
        fresh, "SELECT c.conrelid::regclass::text || '(' || string_agg(a.attname, ',' ORDER BY k.i) || ')' AS key "
        "FROM pg_constraint c, unnest(c.conkey) WITH ORDINALITY k(n, i) JOIN pg_attribute a ON true "
        "WHERE c.contype = 'u' AND a.attrelid = c.conrelid AND a.attnum = k.n GROUP BY c.oid"
    )  # fmt: skip
    found = {row["key"] for row in rows}
    assert found >= {
        "pay_app(app_key)", "pay_channel(app_id,code)", "pay_order(merchant_order_id,app_id)",
        "pay_refund(merchant_refund_no,app_id)", "pay_refund(out_refund_key)", "pay_notify_task(data_id,event,data_version)",
        "pay_case(kind,reference,occurrence)",
    }  # fmt: skip


# Their references follow from those to the order or to the attempt. Checking them at a deletion would read the whole table.
IMPLIED = [("pay_attempt", "app_id"), ("pay_order", "channel_id"), ("pay_refund", "channel_id")]


async def test_no_state_is_in_an_index_and_every_reference_has_its_key(fresh: str) -> None:
    """A state in an index key or predicate would turn off HOT updates. Those of notifications are none: they move the next time."""
    await in_thread(migrate.ensure, fresh)
    for row in await query(fresh, "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"):
        if row["indexname"] == "pay_notify_task_failure_idx":
            continue
        assert not re.search(r"\bstate\b", row["indexdef"].split(" USING ")[1]), row["indexname"]
    missing = await query(
        fresh, "SELECT table_name, column_name FROM information_schema.columns c WHERE table_schema = 'public' "
        # The ledger has none.
        "AND table_name !~ '^pay_event' AND column_name IN ('app_id', 'order_id', 'channel_id', 'task_id') "
        "AND NOT EXISTS (SELECT 1 FROM pg_constraint f "
        "JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = ANY(f.conkey) WHERE f.contype = 'f' "
        "AND f.conrelid = format('%I', c.table_name)::regclass AND a.attname = c.column_name)"
    )  # fmt: skip
    assert sorted(tuple(row) for row in missing) == IMPLIED


def paycenter(url: str, key_file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")},
        "PAYCENTER_DATABASE_URL": url, "PAYCENTER_MASTER_KEY_FILE": str(key_file), "PAYCENTER_MODE": "development",
        "PAYCENTER_ORDER_CALLBACK_URL": "http://127.0.0.1/o", "PAYCENTER_REFUND_CALLBACK_URL": "http://127.0.0.1/r",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "paycenter_server.cli", *arguments], env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


async def test_the_command(fresh: str, master_key_file: Path) -> None:
    async def run(*arguments: str, url: str = fresh) -> subprocess.CompletedProcess[str]:
        return await in_thread(paycenter, url, master_key_file, *arguments)  # type: ignore[no-any-return]

    dead = urlsplit(fresh)._replace(netloc="u:secret@127.0.0.1:1").geturl()
    missing = urlsplit(fresh)._replace(path="/no_such_database").geturl()
    done, away, absent = await asyncio.gather(
        run("migrate", "--check"), run("migrate", "--check", url=dead), run("migrate", "--check", url=missing)
    )
    assert done.returncode == 1
    assert "nothing" in done.stdout
    assert migrate.head() in done.stdout
    # "Cannot be determined" is not "must be migrated". It is one line without the password.
    for result in (away, absent):
        assert result.returncode == 2, result.stderr
        assert "Traceback" not in result.stderr
        assert "secret" not in result.stderr
        assert "database" in result.stderr.lower()
    assert await tables(fresh) == set()
    # A URL as SQLAlchemy's users write it works too, and so does a parameter that is libpq's.
    done = await run("migrate", url=fresh.replace("postgresql://", "postgresql+asyncpg://") + "?sslmode=prefer")
    assert (done.returncode, done.stdout) == (0, f"Migrated to {migrate.head()}.\n"), done.stderr
    again, checked, failed = await asyncio.gather(
        run("migrate"), run("migrate", "--check", url=fresh.replace("postgresql://", "postgres://")), run("migrate", url=dead)
    )
    assert (again.returncode, again.stdout) == (0, f"Already at {migrate.head()}.\n")
    assert checked.returncode == 0, checked.stderr
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("statement", ["UPDATE pay_event SET amount = 1", "DELETE FROM pay_event", "TRUNCATE pay_event"])
async def test_a_new_database_refuses_changes_of_events(fresh: str, statement: str) -> None:
    """Of the superuser too. A database of its own, because that of the other tests may be older than this tree."""
    await in_thread(migrate.upgrade, fresh)
    event = (
        "INSERT INTO pay_event (subject, subject_id, event, paid_change, reserved_change, refunded_change, actor_kind, actor) "
        "VALUES ('ORDER', gen_random_uuid(), 'create', 0, 0, 0, 'SYSTEM', '')"
    )
    await query(fresh, event)
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await query(fresh, statement)
    assert len(await query(fresh, "SELECT FROM pay_event WHERE amount IS NULL")) == 1
