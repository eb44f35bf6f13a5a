"""The order of the locks on notifications: recording deliveries and notifying of several objects never wait in a circle."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from paycenter_server.domain.cases import Decision, PayCase
from paycenter_server.domain.ids import Prefix, encode
from support.cases import ANNE, case_of, decide, hold, late, refund_fails, run_refund_job
from support.facts import configured, failed, refunded
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, PayCenterSystem


async def notifications_about(system: PayCenterSystem, *keys: Any) -> list[Any]:
    rows = await system.rows(
        "SELECT id FROM pay_notify_task WHERE data_id = ANY($1) AND next_notify_time IS NOT NULL ORDER BY id", keys
    )
    return [row["id"] for row in rows]


async def in_the_order_of_keys(system: PayCenterSystem, call: Any, tasks: list[Any]) -> None:
    """A worker that records its deliveries holds the first of these notifications, and then gets the last without waiting."""
    first, last = tasks[0], tasks[-1]
    lock = "SELECT FROM pay_notify_task WHERE id = $1 FOR NO KEY UPDATE"
    async with transaction(system) as worker:
        await worker.execute(lock, first)
        other = asyncio.create_task(call)
        await waiting_for_lock(system, [other])
        assert not other.done()
        try:
            await worker.execute(f"{lock} NOWAIT", last)
        except asyncpg.LockNotAvailableError:
            other.cancel()
            pytest.fail("the other transaction holds a later notification while it waits for an earlier one")
    await other


async def failed_refund(system: PayCenterSystem) -> tuple[PayCase, Any]:
    """A case and its failed refund, which both have notifications that were not received yet."""
    _, case = await late(system)
    await refund_fails(system)
    await run_refund_job(system)
    return case, await system.value("SELECT id FROM pay_refund")


@pytest.mark.parametrize("how", ["succeeds", "succeeds late", "fails again"])
async def test_the_refund_of_a_case(system: PayCenterSystem, how: str) -> None:
    case, key = await failed_refund(system)
    if how != "succeeds late":
        await decide(system, ANNE, case, Decision.RETRY)
    tasks = await notifications_about(system, key, case.id)
    assert len(tasks) == 2
    channel = await configured(system, "mock")
    refund = await system.services.refunds.load(ANNE, encode(Prefix.REFUND, key))
    outcome = failed(channel, refund) if how == "fails again" else refunded(channel, refund)
    settle = system.services.refund_settlement.receive_callback(channel, outcome, CAUSE)
    await in_the_order_of_keys(system, settle, tasks)
    assert await notifications_about(system, key, case.id) != tasks


async def test_a_late_payment_that_is_accepted(system: PayCenterSystem) -> None:
    await hold(system)
    order, case = await late(system)
    closed, opened = await notifications_about(system, order.id, case.id)
    # The case's notification first: the ids say only in which order the rows were made.
    await system.rows("UPDATE pay_notify_task SET data_id = CASE id WHEN $1 THEN $3::uuid ELSE $4 END WHERE id IN ($1, $2)",
                      closed, opened, case.id, order.id)  # fmt: skip
    await in_the_order_of_keys(system, decide(system, ANNE, case, Decision.ACCEPT), [closed, opened])
    assert (await case_of(system, case.id)).resolution == "booked as paid"
