"""A worker is killed at each await of a bar code's cancellation: the payment is booked or refunded, never both."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from faults.test_kill_at_every_await import STEP, close_all, fresh, invariants, kill
from integration.test_bar_codes import KINDS, make_point_of_sale
from paycenter_server.domain.states import OrderState
from support.system import PayCenterSystem


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_cancellation_killed_anywhere(system: PayCenterSystem, kind: str) -> None:
    pos = await make_point_of_sale(system, kind)
    ends = set()
    at = 1
    while True:
        order = await system.order()
        await system.simulator.fault(pos.api, pos.waits)
        attempt = await pos.scan(order)
        # Paid at the last moment, and the job's query gives no clear answer.
        await system.simulator.pay(attempt.out_trade_no, notify=False)
        await system.simulator.fault(pos.query, "error_before_commit", out_trade_no=attempt.out_trade_no)
        system.clock.advance(61)
        services = await fresh(system)
        (claimed,) = await system.services.orders.attempts(order)
        # What the job does with what it has claimed; its own loop runs this in a task, whose awaits could not be counted.
        killed = await kill(services, lambda one, claimed=claimed: one.jobs._sync_attempt(claimed), at)  # type: ignore[misc]
        async with asyncio.timeout(8):
            while await system.value("SELECT state FROM pay_attempt WHERE id = $1", attempt.id) not in ("SUCCESS", "CLOSED"):
                await system.rows(
                    "UPDATE pay_attempt SET next_check_time = now() - interval '1 s' WHERE next_check_time IS NOT NULL"
                )
                await system.services.jobs.sync_orders()
        after, trade = await system.read(order), await pos.trade(attempt)
        end = (after.state, after.paid_amount, trade["refunded"])
        assert end in {(OrderState.SUCCESS, 100, 0), (OrderState.WAITING, 0, 100)}, at
        ends.add(end)
        # Later messages do not change it.
        await system.services.orders.sync(system.caller, order.number)
        assert (await system.read(order)).state is after.state
        await system.rows("UPDATE pay_attempt SET next_check_time = NULL")
        system.clock.offset = timedelta()
        await close_all(system)
        if not killed:
            break
        at += STEP
    assert at > STEP
    assert len(ends) == 2 or STEP > 1
    assert await system.cases() == []
    await invariants(system)
