"""What the overview reads when nearly everything waits: an endpoint that is down for days, a channel that does not answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from paycenter_server.storage import overview
from plans.examined import Examiner, connection_as_ours
from plans.rules import nodes, rows_of
from support.system import PayCenterSystem

WAITING = 60_000
LOOKED_AT = 6_000
ENDPOINTS = 12


@pytest.fixture
async def connection(system: PayCenterSystem) -> Any:
    """A connection as ours to the database of the system."""
    system.books_are_checked = False  # the copies have no events
    opened = await connection_as_ours(system.database_url)
    yield opened
    await opened.close()


async def copy(connection: asyncpg.Connection, table: str, rows: int, values: Mapping[str, str], *, analyze: bool = True) -> None:
    """Copies of the first row of the table. `values`: expressions over `n`. `analyze`: the statistics know of them."""
    names = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped", table
    )
    columns = [row["attname"] for row in names]
    chosen = ", ".join({"id": "uuidv7()", **values}.get(name, f"s.{name}") for name in columns)
    await connection.execute("SET session_replication_role = replica")  # foreign keys are not checked
    await connection.execute(
        f"""INSERT INTO {table} ({", ".join(columns)})
            SELECT {chosen} FROM generate_series(1, {rows}) n, (SELECT * FROM {table} ORDER BY id LIMIT 1) s"""
    )
    if analyze:
        await connection.execute(f"ANALYZE {table}")


async def rows_read(work: Callable[[], Awaitable[Any]]) -> float:
    """The rows that the scans of its statements read."""
    examiner = Examiner()
    with examiner.installed():
        await work()
    plans = [plan for statement in examiner.statements.values() for plan in statement.plans]
    return sum(rows_of(node) for plan in plans for node, _ in nodes(plan) if node.get("Relation Name"))


async def test_attempts_that_wait_are_read_up_to_a_number(
    system: PayCenterSystem, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "LOOKED_AT", LOOKED_AT)
    await system.submit(await system.order(), "wx_native")
    await copy(connection, "pay_attempt", WAITING, {})
    now = datetime.now(UTC)
    found = await overview.unsettled(connection, now - timedelta(hours=1), now - timedelta(days=1))
    assert found[0].rows == LOOKED_AT
    read = await rows_read(lambda: overview.unsettled(connection, now - timedelta(hours=1), now - timedelta(days=1)))
    assert LOOKED_AT <= read < LOOKED_AT + 10


async def test_notifications_that_wait_are_read_up_to_a_number_of_each_endpoint(
    system: PayCenterSystem, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "LOOKED_AT", LOOKED_AT)
    await system.paid("mock")
    # Three of a hundred were delivered once and wait for another delivery, the others for their first one.
    again = "n % 100 < 3"
    await copy(connection, "pay_notify_task", WAITING, {
        "data_id": "uuidv7()", "endpoint": f"'http://merchant-' || n % {ENDPOINTS}",
        "notify_times": f"CASE WHEN {again} THEN 1 ELSE 0 END",
        "next_notify_time": f"s.next_notify_time + CASE WHEN {again} THEN interval '1 minute' ELSE interval '-1 minute' END",
    })  # fmt: skip
    await connection.execute("DELETE FROM pay_notify_task WHERE endpoint NOT LIKE 'http://merchant-%'")
    read = await rows_read(lambda: overview.failing_endpoints(connection))
    assert LOOKED_AT <= read < LOOKED_AT + 10 * ENDPOINTS


async def test_statistics_that_know_of_no_backlog_do_not_make_it_be_read(
    system: PayCenterSystem, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "ENDPOINT_ROWS", 1000)
    await connection.execute("ALTER TABLE pay_notify_task SET (autovacuum_enabled = false)")
    try:
        await system.paid("mock")
        some = {
            "data_id": "uuidv7()", "notify_times": "1", "endpoint": f"'http://merchant-' || n % {ENDPOINTS}",
            "next_notify_time": "CASE WHEN n % 300 = 0 THEN s.next_notify_time END",
        }  # fmt: skip
        await copy(connection, "pay_notify_task", WAITING, some)
        down = {"data_id": "uuidv7()", "notify_times": "1", "endpoint": "'http://down'"}
        await copy(connection, "pay_notify_task", WAITING // 2, down, analyze=False)
        read = await rows_read(lambda: overview.failing_endpoints(connection))
        assert read < 2 * 1000 + WAITING // 300
    finally:
        await connection.execute("ALTER TABLE pay_notify_task RESET (autovacuum_enabled)")


async def test_an_endpoint_with_many_notifications_leaves_the_others_to_be_found(
    system: PayCenterSystem, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "ENDPOINT_ROWS", 1000)
    await system.paid("mock")
    await copy(connection, "pay_notify_task", 3000, {"data_id": "uuidv7()", "endpoint": "'http://a'"})
    later = "s.next_notify_time + interval '1 minute'"
    for endpoint, rows in (("http://a", 2), ("http://b", 3)):
        values = {"data_id": "uuidv7()", "endpoint": f"'{endpoint}'", "notify_times": "1", "next_notify_time": later}
        await copy(connection, "pay_notify_task", rows, values)
    found = await overview.failing_endpoints(connection)
    assert [(one.endpoint, one.rows, one.more) for one in found] == [("http://b", 3, False), ("http://a", 2, True)]
    # So many are looked at that the second endpoint is reached in part.
    monkeypatch.setattr(overview, "LOOKED_AT", 1002)
    found = await overview.failing_endpoints(connection)
    assert [(one.endpoint, one.rows, one.more) for one in found] == [("http://a", 2, True), ("http://b", 2, True)]
