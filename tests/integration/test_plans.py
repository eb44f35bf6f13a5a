"""The plans of the statements of the hot paths, on an empty schema without statistics, and on one that is filled and analyzed."""

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

COPIES = 20_000
# The large tables, in the order in which they are filled. Of others there are few rows, and a plan may read all of them.
LARGE = ("pay_order", "pay_attempt", "pay_refund", "pay_case", "pay_notify_task", "pay_notify_log", "pay_event")
SMALL = ("pay_app", "pay_account", "pay_channel", "pay_binding")
# What differs between the copies of a row. The key of an order is that of its attempt, refund and notification too.
COPIED = {
    "id": "k.id", "order_id": "k.id", "attempt_id": "k.id", "data_id": "k.id", "subject_id": "k.id", "out_refund_key": "k.id",
    "task_id": "k.id", "merchant_order_id": "'M' || k.n", "merchant_refund_no": "'R' || k.n", "channel_order_no": "'C' || k.n",
    "next_check_time": "CASE WHEN k.n % 1000 = 0 THEN now() END", "next_notify_time": "CASE WHEN k.n % 1000 = 0 THEN now() END",
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


async def load(system: PayCenterSystem, connection: asyncpg.Connection) -> set[str]:
    """Fill an empty schema with copies of the rows of the system, and analyze it. The tables that have many rows now."""
    filled = set()
    await connection.execute("SET session_replication_role = replica")  # foreign keys are not checked
    for table in SMALL:
        for row in await system.rows(f"SELECT to_jsonb(t) AS row FROM {table} t"):
            await connection.execute(
                f"INSERT INTO {table} SELECT * FROM jsonb_populate_record(NULL::{table}, $1)", _json(row["row"])
            )
    await connection.execute(f"CREATE TEMP TABLE k AS SELECT n, uuidv7() AS id FROM generate_series(1, {COPIES}) n")
    for table in LARGE:
        found = await system.rows(f"SELECT to_jsonb(t) AS row FROM {table} t LIMIT 1")
        if not found:
            continue
        filled.add(table)
        names = await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped "
            "AND NOT (attname = 'id' AND atttypid = 'bigint'::regtype)",
            table,
        )
        columns = [row["attname"] for row in names]
        chosen = ", ".join(COPIED.get(name, f"s.{name}") for name in columns)
        await connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {chosen} FROM k, jsonb_populate_record(NULL::{table}, $1) s",
            _json(found[0]["row"]),
        )
    await connection.execute("ANALYZE")
    return filled


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


async def generic_plan(connection: asyncpg.Connection, text: str) -> dict[str, Any]:
    """The plan of a prepared statement for any arguments."""
    await connection.execute(f"PREPARE examined AS {text}")
    arguments = max((int(number) for number in re.findall(r"\$(\d+)", text)), default=0)
    given = f"({', '.join(['NULL'] * arguments)})" if arguments else ""
    plan: dict[str, Any] = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE examined{given}"))[0]["Plan"]
    await connection.execute("DEALLOCATE examined")
    return plan


def nodes(plan: dict[str, Any], limited: bool = False) -> Iterator[tuple[dict[str, Any], bool]]:
    """Each node, and whether a LIMIT is directly above it."""
    yield plan, limited
    for below in plan.get("Plans", ()):
        yield from nodes(below, plan["Node Type"] == "Limit")


def problems(plan: dict[str, Any], large: set[str]) -> Iterator[str]:
    """What must not be in a plan."""
    for node, limited in nodes(plan):
        table = node.get("Relation Name", "")
        if node["Node Type"] == "Seq Scan" and table in large:
            yield f"a sequential scan of {table}"
        if "Index" in node["Node Type"] and table in large and "Index Cond" not in node and not limited:
            yield f"the whole index {node.get('Index Name')} of {table}"
        few = re.search(r"\((app_id|account_id|channel_id|state|endpoint)[^=]*= ", node.get("Index Cond", ""))
        one = re.search(r"\b(\w+(_id|_no|_key)|id)\)?(::text)? = ", node.get("Filter", ""))
        if "Index" in node["Node Type"] and table in large and few and one:
            # An index of a column with few values, and a filter for the one row that is wanted.
            yield f"{node.get('Index Name')} of {table} with the filter {node['Filter']}"


@pytest.mark.parametrize("loaded", [False, True], ids=["without_statistics", "loaded"])
async def test_plans_of_the_hot_paths(system: PayCenterSystem, loaded: bool) -> None:
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
            large = await load(system, connection) if loaded else set(LARGE)
            bad = []
            for text in sorted(statements):
                plan = await generic_plan(connection, text)
                bad += [f"{' '.join(text.split())[:160]}: {problem}" for problem in problems(plan, large)]
            assert not bad, "\n".join(bad)
        finally:
            await connection.close()
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()
