"""The process is killed at each await of a payment or refund in turn. Another process finishes the work exactly once.

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
from paycenter_server.channels.protocol import CallbackRequest
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.states import OrderState, RefundState
from support.system import PayCenterSystem
from support.waiting import eventually

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

    services.context.run_to_completion = unshielded  # type: ignore[assignment,method-assign]
    killable = Killable(work(services), at)
    try:
        await asyncio.wait_for(_run(killable), 20)
    except PayCenterError:
        pass
    except BaseException:
        if not killable.killed:
            raise
    if killable.killed:
        # The system closes the sockets of a killed process, during any operation.
        services.context.database._pool.terminate()
    return killable.killed


async def _run(killable: Killable) -> Any:
    return await killable


async def fresh(system: PayCenterSystem) -> Services:
    """Services of a process that is killed later on: their own connections, never closed in order."""
    stack = open_services(system.settings, clock=system.clock, wake_up=system.wake_up)
    services = await stack.__aenter__()
    system._stacks = [*getattr(system, "_stacks", []), stack]  # type: ignore[attr-defined]
    return services


async def close_all(system: PayCenterSystem) -> None:
    for stack in getattr(system, "_stacks", []):
        await stack.__aexit__(None, None, None)
    system._stacks = []  # type: ignore[attr-defined]


async def invariants(system: PayCenterSystem) -> None:
    over = await system.value("SELECT count(*) FROM pay_order WHERE refunded_amount + reserved_amount > paid_amount")
    assert over == 0
    mismatched = await system.value(
        """SELECT count(*) FROM pay_order o WHERE o.reserved_amount <> coalesce((SELECT sum(amount) FROM pay_refund r
           WHERE r.order_id = o.id AND r.state = 'WAITING' AND r.case_id IS NULL), 0)
           OR o.refunded_amount <> coalesce((SELECT sum(amount) FROM pay_refund r
           WHERE r.order_id = o.id AND r.state = 'SUCCESS' AND r.case_id IS NULL), 0)"""
    )
    assert mismatched == 0


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_submit_killed_anywhere(system: PayCenterSystem, code: str) -> None:
    at = 1
    while True:
        order = await system.order()
        from paycenter_server.services.attempts_submission import NewSubmission

        new = NewSubmission(order.number, code, {}, "", "", "")
        services = await fresh(system)
        killed = await kill(services, lambda one, new=new: one.submission.submit(system.caller, new), at)  # type: ignore[misc]
        attempt = await system.submit(order, code)
        assert await system.value("SELECT count(*) FROM pay_attempt WHERE order_id = $1", order.id) == 1
        await system.simulator.pay(attempt.out_trade_no)
        await system.until(order, "SUCCESS")
        await close_all(system)
        if not killed:
            break
        at += STEP
    assert at > STEP
    assert await system.cases() == []
    await invariants(system)


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_callback_killed_anywhere(system: PayCenterSystem, code: str) -> None:
    """The callback is taken from the wire of a dropped one, handled and killed; the channel sends it again."""
    caught: list[CallbackRequest] = []
    receive = system.services.callbacks.receive
    at = 1
    while True:
        order = await system.order()
        attempt = await system.submit(order, code)

        async def catch(number: str, request: CallbackRequest) -> Any:
            caught.append(request)
            from paycenter_server.services.callbacks import UNAVAILABLE

            return UNAVAILABLE

        system.services.callbacks.receive = catch  # type: ignore[assignment,method-assign]
        await system.simulator.pay(attempt.out_trade_no)
        await eventually(lambda: caught)
        system.services.callbacks.receive = receive  # type: ignore[method-assign]
        request = caught.pop()
        services = await fresh(system)
        killed = await kill(services, lambda one, request=request: one.callbacks.receive(system.channels[code], request), at)  # type: ignore[misc]
        answer = await system.services.callbacks.receive(system.channels[code], request)
        assert answer.status < 300
        assert (await system.read(order)).state is OrderState.SUCCESS
        assert await system.value("SELECT count(*) FROM pay_notify_task WHERE data_id = $1", order.id) == 1
        await close_all(system)
        if not killed:
            break
        at += STEP
    assert at > STEP
    assert await system.cases() == []


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_refund_killed_anywhere(system: PayCenterSystem, code: str) -> None:
    at = 1
    while True:
        order = await system.paid(code)
        from paycenter_server.services.refunds import NewRefund

        number = system.next_id("R")
        new = NewRefund("", order.merchant_order_id, number, 40, "退货")
        services = await fresh(system)
        killed = await kill(services, lambda one, new=new: one.refunds.create(system.caller, new), at)  # type: ignore[misc]
        await invariants(system)
        refund = await system.decided(await system.services.refunds.create(system.caller, new))
        assert refund.state is RefundState.SUCCESS
        after = await system.read(order)
        assert (after.refunded_amount, after.reserved_amount) == (40, 0)
        trade = await system.simulator.get(f"/simulator/trades/{refund.out_trade_no}")
        assert sum(item["amount"] for item in trade["refunds"]) == 40
        assert await system.value("SELECT count(*) FROM pay_notify_task WHERE data_id = $1", refund.id) == 1
        await close_all(system)
        if not killed:
            break
        at += STEP
    assert at > STEP
    await invariants(system)


@pytest.mark.parametrize("job", ["sync_orders", "expire_orders", "sync_refunds"])
async def test_jobs_killed_anywhere(system: PayCenterSystem, job: str) -> None:
    """A worker is killed in its pass. The next pass, after the lease, finishes what it had claimed."""
    from datetime import timedelta

    at = 1
    while True:
        if job == "sync_refunds":
            order = await system.paid("wx_native")
            await system.simulator.fault("wx.refund", "reset_before_commit")
            await system.refund(order, 40)
            system.clock.advance(12)
        else:
            order = await system.order(expire_time=system.clock.now() + timedelta(seconds=60))
            attempt = await system.submit(order)
            await system.simulator.pay(attempt.out_trade_no, notify=False)
            system.clock.advance(61)
        services = await fresh(system)
        killed = await kill(services, lambda one: getattr(one.jobs, job)(), at)

        async def finished(order: Any = order) -> bool:
            # Each time, not once: the server may commit the claim of the killed worker after its socket was closed.
            # Our clock goes back to real time between rounds: channels refuse signatures five minutes off.
            for table in ("pay_attempt", "pay_order", "pay_refund"):
                await system.rows(f"UPDATE {table} SET next_check_time = now() - interval '1 s' WHERE next_check_time IS NOT NULL")
            await getattr(system.services.jobs, job)()
            after = await system.read(order)
            return (after.state is OrderState.SUCCESS and job != "sync_refunds") or after.refunded_amount == 40

        await eventually(finished)
        assert await system.value("SELECT count(*) FROM pay_notify_task WHERE data_id = $1", order.id) == 1
        system.clock.offset = timedelta()
        await close_all(system)
        if not killed:
            break
        at += STEP
    assert at > STEP
    assert await system.cases() == []
    await invariants(system)
