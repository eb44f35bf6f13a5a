"""The process dies at each await of a money path in turn; whoever comes after finishes the work exactly once.

The coroutine is stepped by hand and ended at its n-th suspension, without the shield that a cancelled caller has: what was
under way is gone, as after `kill -9`. Then a fresh set of services goes on with what is in the database.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest
from paycenter_server.bootstrap import Services, open_services
from paycenter_server.channels.protocol import NotifyRequest
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.states import OrderState, RefundState
from support.world import World

# Every await with FAULTS=all (`make faults`); each third one otherwise.
STEP = 1 if os.environ.get("FAULTS") == "all" else 3


class Killable:
    """Awaits a coroutine and ends it at its n-th suspension."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int) -> None:
        self._work = work
        self._at = at
        self.killed = False

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        count = 0
        try:
            waiting = steps.send(None)
            while True:
                count += 1
                if count == self._at:
                    self.killed = True
                    waiting = steps.throw(asyncio.CancelledError())
                try:
                    sent = yield waiting
                except BaseException as error:
                    waiting = steps.throw(error)
                else:
                    waiting = steps.send(sent)
        except StopIteration as stop:
            return stop.value


async def kill(services: Services, work: Callable[[Services], Coroutine[Any, Any, Any]], at: int) -> bool:
    """Whether it was killed before it ended."""

    async def unshielded(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return await coroutine

    services.context.to_the_end = unshielded  # type: ignore[method-assign]
    killable = Killable(work(services), at)
    try:
        await asyncio.wait_for(_run(killable), 20)
    except PayCenterError:
        pass
    except BaseException:
        if not killable.killed:
            raise
    if killable.killed:
        # The sockets of a killed process are closed by the system, in the middle of whatever they were at.
        services.context.database._pool.terminate()
    return killable.killed


async def _run(killable: Killable) -> Any:
    return await killable


async def fresh(world: World) -> Services:
    """Services of a process that is killed later on: their own connections, never closed in order."""
    stack = open_services(world.settings, clock=world.clock, bell=world.bell)
    services = await stack.__aenter__()
    world._stacks = [*getattr(world, "_stacks", []), stack]  # type: ignore[attr-defined]
    return services


async def close_all(world: World) -> None:
    for stack in getattr(world, "_stacks", []):
        await stack.__aexit__(None, None, None)
    world._stacks = []  # type: ignore[attr-defined]


async def invariants(world: World) -> None:
    over = await world.value("SELECT count(*) FROM pay_order WHERE refunded_amount + reserved_amount > paid_amount")
    assert over == 0
    mismatched = await world.value(
        """SELECT count(*) FROM pay_order o WHERE o.reserved_amount <> coalesce((SELECT sum(amount) FROM pay_refund r
           WHERE r.order_id = o.id AND r.state = 'WAITING' AND r.case_id IS NULL), 0)
           OR o.refunded_amount <> coalesce((SELECT sum(amount) FROM pay_refund r
           WHERE r.order_id = o.id AND r.state = 'SUCCESS' AND r.case_id IS NULL), 0)"""
    )
    assert mismatched == 0


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_submit_killed_anywhere(world: World, code: str) -> None:
    at = 1
    while True:
        order = await world.order()
        from paycenter_server.services.submit import NewSubmit

        new = NewSubmit(order.number, code, {}, "", "", "")
        services = await fresh(world)
        killed = await kill(services, lambda one, new=new: one.submit.submit(world.caller, new), at)  # type: ignore[misc]
        attempt = await world.submit(order, code)
        assert await world.value("SELECT count(*) FROM pay_attempt WHERE order_id = $1", order.id) == 1
        await world.simulator.pay(attempt.out_trade_no)
        await world.until(order, "SUCCESS")
        await close_all(world)
        if not killed:
            break
        at += STEP
    assert at > STEP
    assert await world.cases() == []
    await invariants(world)


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_callback_killed_anywhere(world: World, code: str) -> None:
    """The callback is taken from the wire of a dropped one, handled and killed; the channel sends it again."""
    caught: list[NotifyRequest] = []
    receive = world.services.callbacks.receive
    at = 1
    while True:
        order = await world.order()
        attempt = await world.submit(order, code)

        async def catch(number: str, request: NotifyRequest) -> Any:
            caught.append(request)
            from paycenter_server.services.callbacks import UNAVAILABLE

            return UNAVAILABLE

        world.services.callbacks.receive = catch  # type: ignore[method-assign]
        await world.simulator.pay(attempt.out_trade_no)
        async with asyncio.timeout(5):
            while not caught:
                await asyncio.sleep(0.005)
        world.services.callbacks.receive = receive  # type: ignore[method-assign]
        request = caught.pop()
        services = await fresh(world)
        killed = await kill(services, lambda one, request=request: one.callbacks.receive(world.channels[code], request), at)  # type: ignore[misc]
        answer = await world.services.callbacks.receive(world.channels[code], request)
        assert answer.status < 300
        assert (await world.read(order)).state is OrderState.SUCCESS
        assert await world.value("SELECT count(*) FROM pay_notify_task WHERE data_id = $1", order.id) == 1
        await close_all(world)
        if not killed:
            break
        at += STEP
    assert at > STEP
    assert await world.cases() == []


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_refund_killed_anywhere(world: World, code: str) -> None:
    at = 1
    while True:
        order = await world.paid(code)
        from paycenter_server.services.refunds import NewRefund

        number = world.next_id("R")
        new = NewRefund("", order.merchant_order_id, number, 40, "退货")
        services = await fresh(world)
        killed = await kill(services, lambda one, new=new: one.refunds.create(world.caller, new), at)  # type: ignore[misc]
        await invariants(world)
        refund = await world.services.refunds.create(world.caller, new)
        async with asyncio.timeout(8):
            while refund.state is not RefundState.SUCCESS:
                await asyncio.sleep(0.02)
                refund = await world.services.refunds.sync(world.caller, refund)
        after = await world.read(order)
        assert (after.refunded_amount, after.reserved_amount) == (40, 0)
        trade = await world.simulator.get(f"/simulator/trades/{refund.out_trade_no}")
        assert sum(item["amount"] for item in trade["refunds"]) == 40
        assert await world.value("SELECT count(*) FROM pay_notify_task WHERE data_id = $1", refund.id) == 1
        await close_all(world)
        if not killed:
            break
        at += STEP
    assert at > STEP
    await invariants(world)


@pytest.mark.parametrize("job", ["sync_orders", "expire_orders", "sync_refunds"])
async def test_jobs_killed_anywhere(world: World, job: str) -> None:
    """A worker dies in its pass; the next pass, after the lease, finishes what it had claimed."""
    from datetime import timedelta

    at = 1
    while True:
        if job == "sync_refunds":
            order = await world.paid("wx_native")
            await world.simulator.fault("wx.refund", "reset_before_commit")
            await world.refund(order, 40)
            world.clock.advance(12)
        else:
            order = await world.order(expire_time=world.clock.now() + timedelta(seconds=60))
            attempt = await world.submit(order)
            await world.simulator.pay(attempt.out_trade_no, notify=False)
            world.clock.advance(61)
        services = await fresh(world)
        killed = await kill(services, lambda one: getattr(one.jobs, job)(), at)
        # Our clock goes back to real time between rounds: channels refuse signatures five minutes off.
        await world.rows("UPDATE pay_attempt SET next_check_time = now() - interval '1 s' WHERE next_check_time IS NOT NULL")
        await world.rows("UPDATE pay_order SET next_check_time = now() - interval '1 s' WHERE next_check_time IS NOT NULL")
        await world.rows("UPDATE pay_refund SET next_check_time = now() - interval '1 s' WHERE next_check_time IS NOT NULL")
        async with asyncio.timeout(8):
            while True:
                await getattr(world.services.jobs, job)()
                after = await world.read(order)
                if after.state is OrderState.SUCCESS and job != "sync_refunds":
                    break
                if after.refunded_amount == 40:
                    break
                await world.rows("UPDATE pay_refund SET next_check_time = now() - interval '1 s' WHERE next_check_time IS NOT NULL")
                await asyncio.sleep(0.05)
        assert await world.value("SELECT count(*) FROM pay_notify_task WHERE data_id = $1", order.id) == 1
        world.clock.offset = timedelta()
        await close_all(world)
        if not killed:
            break
        at += STEP
    assert at > STEP
    assert await world.cases() == []
    await invariants(world)
