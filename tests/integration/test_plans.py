"""The plans of the statements of the hot paths, on an empty schema without statistics and at ten million rows."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from paycenter_server.services.orders import NewOrder
from paycenter_server.storage import migrate
from support.system import PayCenterSystem
from support.waiting import eventually

ROWS = 10_000_000
# Rows of the large tables; of others there are few, and a plan may read all of them.
LARGE = {
    "pay_order": 1.0, "pay_attempt": 1.1, "pay_refund": 0.1, "pay_case": 0.01, "pay_notify_task": 1.1, "pay_notify_log": 1.2,
    "pay_event": 6.0,
}  # fmt: skip
# The fewest distinct values that make a column a key. `-1` is unique, a positive number is a count.
DISTINCT = {
    "id": -1, "merchant_order_id": -0.99, "merchant_refund_no": -0.99, "out_refund_key": -1, "order_id": -0.9, "attempt_id": -0.9,
    "data_id": -0.9, "subject_id": -0.5, "task_id": -0.9, "app_id": 20, "account_id": 10, "channel_id": 50, "endpoint": 20,
    "state": 4, "channel_order_no": -0.99,
}  # fmt: skip


@asynccontextmanager
async def recorded(system: PayCenterSystem) -> AsyncIterator[set[str]]:
    """The texts of the statements that are executed meanwhile."""
    found: set[str] = set()

    def keep(record: Any) -> None:
        found.add(record.query)

    async with AsyncExitStack() as stack:
        database = system.services.context.database
        connections: list[Any] = [await stack.enter_async_context(database.connection()) for _ in range(8)]
        for connection in connections:
            connection.add_query_logger(keep)
    yield found


async def hot_paths(system: PayCenterSystem) -> set[str]:
    """Create, get, submit, callback, refund, query, close, expire, deliver, list and the claims of the jobs."""
    services = system.services
    async with recorded(system) as found:
        new: NewOrder = system.new_order()
        await services.orders.create(system.caller, new)
        await services.orders.create(system.caller, new)
        await services.orders.read(system.caller, merchant_order_id=new.merchant_order_id)
        order = await system.order()
        attempt = await system.submit(order)
        await system.simulator.pay(attempt.out_trade_no)

        async def paid() -> bool:
            return (await system.read(order)).paid_amount > 0

        await eventually(paid)
        refund = await system.refund(await system.paid("mock"), 10, merchant_refund_no="R1")
        await services.refunds.load_by_merchant_no(system.caller, "", "R1")
        await services.refunds.sync(system.caller, refund)
        unpaid = await system.order()
        await system.submit(unpaid, "mock", behaviour="never")
        await services.orders.sync(system.caller, unpaid.number)
        await services.orders.close(system.caller, unpaid.number)
        for job in ("sync_orders", "expire_orders", "sync_refunds"):
            system.clock.advance(11)
            await getattr(services.jobs, job)()
        await system.deliver()
    return {text for text in found if re.match(r"\s*(SELECT|INSERT|UPDATE|WITH|DELETE)", text) and "pay_" in text}


async def seed_statistics(connection: asyncpg.Connection) -> None:
    """What ANALYZE would find in a system of ROWS orders (pg_restore_relation_stats, PostgreSQL 18)."""
    for table, share in LARGE.items():
        rows = int(ROWS * share)
        names = await connection.fetch(
            "SELECT c.relname, c.relkind FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid "
            "WHERE c.oid = $1::text::regclass OR i.indrelid = $1::text::regclass",
            table,
        )
        for name, kind in names:
            pages = rows // (20 if kind == b"r" else 150)
            await connection.execute(
                "SELECT pg_restore_relation_stats('schemaname', 'public', 'relname', $1::text, 'relpages', $2::int, "
                "'reltuples', $3::real)",
                name, pages, float(rows),
            )  # fmt: skip
        columns = await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped", table
        )
        for (column,) in columns:
            if column in DISTINCT or column.endswith("_time"):
                empty = 0.999 if column in ("next_check_time", "next_notify_time") else 0.0
                await connection.execute(
                    "SELECT pg_restore_attribute_stats('schemaname', 'public', 'relname', $1::text, 'attname', $2::text, "
                    "'inherited', false, 'null_frac', $3::real, 'avg_width', 16, 'n_distinct', $4::real)",
                    table, column, empty, float(DISTINCT.get(column, -0.9)),
                )  # fmt: skip


async def generic_plan(connection: asyncpg.Connection, text: str) -> dict[str, Any]:
    """The plan of a prepared statement for any arguments."""
    await connection.execute(f"PREPARE examined AS {text}")
    arguments = max((int(number) for number in re.findall(r"\$(\d+)", text)), default=0)
    given = f"({', '.join(['NULL'] * arguments)})" if arguments else ""
    plan: dict[str, Any] = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE examined{given}"))[0]["Plan"]
    await connection.execute("DEALLOCATE examined")
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def problems(plan: dict[str, Any]) -> Iterator[str]:
    """What must not be in a plan."""
    for node in nodes(plan):
        table = node.get("Relation Name", "")
        if node["Node Type"] == "Seq Scan" and table in LARGE:
            yield f"a sequential scan of {table}"
        few = re.search(r"\((app_id|account_id|state|endpoint)[^=]*= ", node.get("Index Cond", ""))
        one = re.search(r"\b\w+(_id|_no|_key|id)\)?(::text)? = ", node.get("Filter", ""))
        if "Index" in node["Node Type"] and table in LARGE and few and one:
            # An index of a column with few values, and a filter for the one row that is wanted.
            yield f"{node.get('Index Name')} of {table} with the filter {node['Filter']}"


@pytest.mark.parametrize("statistics", [False, True], ids=["without_statistics", "at_ten_million_rows"])
async def test_plans_of_the_hot_paths(system: PayCenterSystem, statistics: bool) -> None:
    statements = await hot_paths(system)
    assert len(statements) > 30
    url = system.settings.database_url
    name = f"plans_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(url)
    await admin.execute(f"CREATE DATABASE {name}")
    fresh = re.sub(r"/[^/?]+(\?|$)", rf"/{name}\1", url, count=1)
    try:
        await asyncio.to_thread(migrate.ensure, fresh)
        settings = {"enable_seqscan": "off", "jit": "off", "plan_cache_mode": "force_generic_plan"}  # as in storage/database.py
        connection = await asyncpg.connect(fresh, server_settings=settings)
        try:
            if statistics:
                await seed_statistics(connection)
            bad = []
            for text in sorted(statements):
                plan = await generic_plan(connection, text)
                bad += [f"{' '.join(text.split())[:160]}: {problem}" for problem in problems(plan)]
            assert not bad, "\n".join(bad)
        finally:
            await connection.close()
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()
