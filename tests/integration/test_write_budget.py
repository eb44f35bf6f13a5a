"""What a whole life of an order writes to PostgreSQL: bytes of the write-ahead log, and rows. More is a change of the cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
from paycenter_server.domain.states import RefundState
from support.system import PayCenterSystem
from support.waiting import eventually

TABLES = ("pay_order", "pay_attempt", "pay_refund", "pay_case", "pay_notify_task", "pay_notify_log", "pay_event")
LIVES = 8


async def paid(system: PayCenterSystem) -> None:
    """Created, submitted, paid by a callback, and notified."""
    await system.paid()
    await system.deliver()


async def refunded(system: PayCenterSystem) -> None:
    """The same, and a refund that the channel makes at once by a callback, which is notified too."""
    order = await system.paid()
    await system.deliver()
    refund = await system.refund(order, 10)

    async def booked() -> bool:  # by the callback; a query of the channel would be in the ledger too
        return (await system.services.refunds.load(system.caller, refund.number)).state is RefundState.SUCCESS

    await eventually(booked)
    await system.deliver()


async def counters(system: PayCenterSystem) -> list[int]:
    """The end of the write-ahead log in bytes, and the rows of each table."""
    connection = await asyncpg.connect(system.database_url)
    try:
        wal = await connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
        return [wal, *[await connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES]]
    finally:
        await connection.close()


async def least(system: PayCenterSystem, life: Callable[[PayCenterSystem], Awaitable[None]]) -> dict[str, int]:
    """The fewest bytes and rows of some lives: a checkpoint makes the next change of a page write the whole page, and a slow
    machine a second query of the channel."""
    found = []
    for _ in range(LIVES):
        before = await counters(system)
        await life(system)
        found.append([now - then for now, then in zip(await counters(system), before, strict=True)])
    return {name: least for name, least in zip(("wal", *TABLES), map(min, zip(*found, strict=True)), strict=True) if least}


async def test_a_payment(system: PayCenterSystem) -> None:
    await paid(system)
    found = await least(system, paid)
    print(found)
    assert found.pop("wal") <= 11_000
    assert found == {"pay_order": 1, "pay_attempt": 1, "pay_notify_task": 1, "pay_notify_log": 1, "pay_event": 5}


async def test_a_payment_and_a_refund(system: PayCenterSystem) -> None:
    await refunded(system)
    found = await least(system, refunded)
    print(found)
    assert found.pop("wal") <= 27_000
    assert found == {
        "pay_order": 1, "pay_attempt": 1, "pay_refund": 1, "pay_notify_task": 2, "pay_notify_log": 2, "pay_event": 9
    }  # fmt: skip
