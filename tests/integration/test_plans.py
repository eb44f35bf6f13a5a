"""The plans of all statements of storage/: on an empty schema without statistics, and on the statistics of ten million rows.

`plans` executes every statement on a schema with 20,000 rows in each large table, of which the planner believes that it has ten
million. A statement fails that reads a large table or a whole index, sorts more than a page, or reads more than ten rows for a
row that it returns. A statement that is never executed fails too, unless it is named here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from paycenter_server.services import exports, notifications, paging
from paycenter_server.storage import audit, cases_desk, migrate, overview
from plans import administration, flows, lists, single
from plans.examined import Examiner, Statement, connection_as_ours, executed_plan, generic_plan
from plans.large import COPIES, LARGE, ROWS, estimated_rows, load
from plans.rules import PAGE, reading_problems, shape_problems
from support.system import open_system

PARTS = (
    flows.payments, flows.refunds, flows.jobs, flows.decisions, flows.notifications, lists.orders_and_refunds, lists.notifications,
    lists.cases_and_audit, lists.overview, single.of_orders, single.of_refunds, single.of_others, single.of_administration,
    administration.apps, administration.accounts, administration.operators, administration.approvals,
)  # fmt: skip
# Where a list or a count stops reading, in this test. The real numbers are larger, so that a page is rarely short.
STOP = 1000
STOPS = (
    (paging, "SCANNED"), (exports, "SCANNED"), (exports, "COUNTED"), (notifications, "COUNT_LIMIT"), (cases_desk, "SCANNED"),
    (audit, "SCANNED"), (overview, "LOOKED_AT"), (overview, "COUNTED"),
)  # fmt: skip
WAITING = COPIES // 10
"""The rows of a table that wait for a job."""
# Functions whose statements read more than ten rows for a row, with the most that they may read, and the reason.
BOUNDED = {
    **dict.fromkeys(
        ("keyrange.scan_end", "lists.list_rows", "lists.count_rows", "notifications.list_resendable",
         "notifications.count_resendable", "cases_desk.list_cases", "audit.list_entries"),
        (STOP + 1, "a filter without an index of its own stops at a number of rows, and the next page goes on"),
    ),
    **dict.fromkeys(
        ("overview.unsettled", "overview.failing_endpoints", "overview.queues", "overview.open_cases"),
        (STOP, "a count on the overview stops at a number of rows"),
    ),
    "overview.sum_day": (STOP, "the rows of a day; the sums are kept"),
    "notifications.move_endpoint": (WAITING * 1.1, "an operator changes the URL of an app: the notifications that wait"),
    "accounts.count_unsettled": (WAITING * 1.1, "an operator disables an account: what is not settled over it, and the open cases"),
}  # fmt: skip
# Functions that are not executed here, with the reason.
UNSEEN = {
    "database.read_time": "it reads no table",
    "database._reset": "it reads no table",
    "partitions.lock": "it reads no table",
    "partitions.make": "a definition of a table",
    "partitions.drop": "a definition of a table",
    "partitions.has_rows": "it reads the default partition, which has rows only if a month had no partition",
}


@asynccontextmanager
async def copied(url: str) -> AsyncIterator[str]:
    """A second database with the same schema."""
    source, name = urlsplit(url), f"plans_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(source._replace(path="/postgres").geturl())
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {source.path[1:]}")
        try:
            yield source._replace(path=f"/{name}").geturl()
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


def bound_of(statement: Statement) -> float:
    """The most rows that the statement may read for a few that it returns; 0 if it has no bound of its own."""
    return float(max((BOUNDED[name][0] for name in statement.by if name in BOUNDED), default=0))


async def without_statistics(empty: str, statements: list[Statement]) -> list[str]:
    """The problems of the plans on tables of which nothing is known."""
    connection = await connection_as_ours(empty)
    try:
        return [
            f"without statistics: {statement}\n    {problem}"
            for statement in statements
            for problem in shape_problems(
                await generic_plan(connection, statement.text), sorted_rows=None, whole=bound_of(statement) > 0
            )
        ]
    finally:
        await connection.close()


def of_ten_million(statements: list[Statement]) -> Iterator[str]:
    """The problems of the plans that were executed."""
    for statement in statements:
        bound = bound_of(statement)
        for plan in statement.plans:
            for problem in (*shape_problems(plan, sorted_rows=max(PAGE, bound), whole=bound > 0), *reading_problems(plan, bound)):
                yield f"{statement}\n    {problem}"


async def test_the_plans_of_all_statements(
    fresh: str, redis_url: str, keys_dir: Path, master_key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in STOPS:
        monkeypatch.setattr(module, name, STOP)  # before a statement is executed
    await asyncio.to_thread(migrate.ensure, fresh)
    examiner = Examiner()
    async with copied(fresh) as empty:
        async with open_system(fresh, redis_url, keys_dir, master_key_file) as system:
            system.books_are_checked = False  # the copies have events of other orders
            await flows.seed(system)
            await fill(fresh)
            with examiner.installed():
                for part in PARTS:
                    await part(system)
            await refused_statements(fresh)
        statements = sorted(examiner.statements.values(), key=str)
        bad = [*of_ten_million(statements), *await without_statistics(empty, statements)]
    unseen = [call for call in examiner.missing() if call.partition(",")[0] not in UNSEEN]
    assert not unseen, "no part of `plans` executes these: " + "; ".join(unseen)
    assert not bad, f"{len(bad)} problems:\n" + "\n".join(dict.fromkeys(bad))
    assert not set(UNSEEN) & {name for name, _ in examiner.lines}, "these are executed, so they are not exempt"


async def fill(url: str) -> None:
    """Copies of the rows, and the statistics of ten million."""
    connection = await asyncpg.connect(url)
    try:
        await load(connection)
        for table in LARGE:
            assert await estimated_rows(connection, table) == pytest.approx(ROWS, rel=0.01), table
    finally:
        await connection.close()


async def refused_statements(url: str) -> None:
    """The rules find what they are for."""
    connection = await connection_as_ours(url)
    try:
        for text, problem in (
            ("SELECT id FROM pay_order WHERE user_ip = $1::text", "a sequential scan of pay_order"),
            ("SELECT count(DISTINCT order_id) FROM pay_event", "the whole index"),
            ("SELECT id FROM pay_order WHERE merchant_order_id >= $1::text ORDER BY amount LIMIT 50", "a sort of"),
            ("SELECT id FROM pay_order WHERE state = $1::text ORDER BY id DESC LIMIT 50", "pay_order_pkey of pay_order reads 2"),
        ):
            plan = await executed_plan(connection, type(connection).fetch, text, ("L1",) if "$1" in text else ())
            assert plan is not None
            found = [*shape_problems(plan), *reading_problems(plan)]
            assert any(one.startswith(problem) for one in found), (text, found)
    finally:
        await connection.close()


async def test_a_deletion_finds_what_refers_to_the_row(database_url: str) -> None:
    """Each foreign key of a large table has an index that begins with its columns. Without one, a deletion reads the table."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            """SELECT f.conrelid::regclass::text AS table, f.conname AS name FROM pg_constraint f
               WHERE f.contype = 'f' AND f.conrelid::regclass::text = ANY($1) AND NOT EXISTS (
                 SELECT 1 FROM pg_index i WHERE i.indrelid = f.conrelid AND i.indkey[0] = f.conkey[1]
                 AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) ~ '^\\(\\w+ IS NOT NULL\\)$'))""",
            list(LARGE),
        )
        assert [f"{row['table']}: {row['name']}" for row in rows] == []
    finally:
        await connection.close()
