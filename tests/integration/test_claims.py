"""The cost of the claims: the rows that they read are those that they take, whatever is due beside them and whatever the statistics
say. Plans are generic, as those of a statement that has been used often."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from paycenter_server.domain.addresses import endpoint_of
from paycenter_server.domain.schedule import EXPIRE_RETRY_DELAYS
from paycenter_server.services.jobs import lease
from paycenter_server.services.notifications_delivery import LEASE
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import notifications_delivery as delivery_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage import refunds as refund_rows
from support.copies import accounts, copies
from support.notifications import fill
from support.plans import cost
from support.system import PayCenterSystem

DEAD, ALIVE = "http://dead.test/notifications", "http://alive.test/notifications"
TABLES = "pay_order, pay_attempt, pay_refund, pay_notify_task"


@pytest.mark.parametrize("backlog", [10, 20_000])
async def test_a_claim_of_notifications_reads_the_rows_that_it_takes(system: PayCenterSystem, backlog: int) -> None:
    await system.rows("TRUNCATE pay_notify_task, pay_notify_log")
    await fill(system, DEAD, backlog, 3600)
    await fill(system, ALIVE, 10)
    now = system.clock.now()
    places = {endpoint_of(DEAD): 5, endpoint_of(ALIVE): 5}
    taken = await cost(system, lambda spy: delivery_rows.claim_due(spy, now, now + LEASE, places))
    looked = await cost(system, lambda spy: delivery_rows.due_endpoints(spy, now, "", 100))
    fast = await cost(system, lambda spy: delivery_rows.due_of_endpoints(spy, now, list(places)))
    print(f"backlog {backlog}: a claim of 10 reads {taken} rows, the due endpoints {looked}")
    assert taken <= 100
    assert looked <= 10
    assert fast <= 10


async def no_statistics(system: PayCenterSystem, fill: Callable[[], Awaitable[None]]) -> None:
    """As in a fresh installation."""
    await system.rows("DELETE FROM pg_statistic WHERE starelid = ANY(ARRAY['pay_order', 'pay_attempt', 'pay_refund']::regclass[])")
    await fill()


async def statistics_when_empty(system: PayCenterSystem, fill: Callable[[], Awaitable[None]]) -> None:
    """Taken before there was anything in the tables beside what the test needs."""
    await system.rows(f"ANALYZE {TABLES}")
    await fill()


async def statistics_when_nothing_was_due(system: PayCenterSystem, fill: Callable[[], Awaitable[None]]) -> None:
    """As in the long run: ANALYZE sees settled rows only, and then a channel fails."""
    await fill()
    for table in ("pay_order", "pay_attempt", "pay_refund"):
        await system.rows(f"CREATE TABLE kept AS SELECT id, next_check_time FROM {table}")
        await system.rows(f"UPDATE {table} SET next_check_time = NULL")
        await system.rows(f"ANALYZE {table}")
        await system.rows(f"UPDATE {table} t SET next_check_time = kept.next_check_time FROM kept WHERE kept.id = t.id")
        await system.rows("DROP TABLE kept")


async def present_statistics(system: PayCenterSystem, fill: Callable[[], Awaitable[None]]) -> None:
    await fill()
    await system.rows(f"ANALYZE {TABLES}")


async def statistics_of_10_million_rows(system: PayCenterSystem, fill: Callable[[], Awaitable[None]]) -> None:
    """What the planner takes for the size of large tables."""
    await present_statistics(system, fill)
    await system.rows(
        "UPDATE pg_class SET reltuples = 10000000 WHERE oid = ANY(ARRAY['pay_order', 'pay_attempt', 'pay_refund']::regclass[])"
    )


STATISTICS = pytest.mark.parametrize(
    ("backlog", "statistics"),
    [
        (10, no_statistics),
        (10, statistics_when_nothing_was_due),
        (4_000, no_statistics),
        (4_000, statistics_when_empty),
        (4_000, statistics_when_nothing_was_due),
        (4_000, present_statistics),
        (4_000, statistics_of_10_million_rows),
    ],
)


@STATISTICS
@pytest.mark.parametrize("table", ["pay_attempt", "pay_refund"])
async def test_a_claim_by_account_reads_the_rows_that_it_takes(
    system: PayCenterSystem, table: str, backlog: int, statistics: Callable[..., Awaitable[None]]
) -> None:
    """10 of one account, beside a backlog of another one."""
    system.books_are_checked = False
    await system.refund(await system.paid("mock"), 10)
    quick, slow = await accounts(system)

    async def fill() -> None:
        await copies(system, table, backlog, slow)
        await copies(system, table, 10, quick)

    await statistics(system, fill)
    now, until = system.clock.now(), system.clock.now() + lease(system.services.context.options)
    rows: Any = attempt_rows if table == "pay_attempt" else refund_rows
    taken = await cost(system, lambda spy: rows.claim_due(spy, now, until, {slow: 5, quick: 5}))
    looked = await cost(system, lambda spy: rows.due_accounts(spy, now))
    page = await cost(system, lambda spy: rows.list_waiting(spy, slow, now, (now - timedelta(minutes=61), UUID(int=0)), 20))
    print(f"{table}, backlog {backlog}: a claim of 10 reads {taken} rows, the due accounts {looked}, a page of 20 {page}")
    assert taken <= 100
    assert looked <= 10
    assert page <= 100


@STATISTICS
async def test_a_claim_of_expired_orders_reads_the_rows_that_it_takes(
    system: PayCenterSystem, backlog: int, statistics: Callable[..., Awaitable[None]]
) -> None:
    system.books_are_checked = False
    await system.submit(await system.order(), "mock", behaviour="never")
    await statistics(system, lambda: copies(system, "pay_order", backlog))
    order = await system.value("SELECT order_id FROM pay_attempt")
    await copies(system, "pay_attempt", 20, order_id=f"'{order}'")
    ids = [row["id"] for row in await system.rows("SELECT id FROM pay_order ORDER BY id LIMIT 10")]
    now, until = system.clock.now(), system.clock.now() + lease(system.services.context.options)
    taken = await cost(system, lambda spy: order_rows.claim_expired(spy, now, until, 10))
    postponed = await cost(system, lambda spy: order_rows.postpone_open(spy, ids, now, EXPIRE_RETRY_DELAYS))
    print(f"backlog {backlog}: a claim of 10 reads {taken} rows, postponing 10 reads {postponed}")
    assert taken <= 100
    assert postponed <= 100
