"""Cancelling a bar code gives back what was paid: whatever happens at that moment, money is booked or given back, never both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from integration.test_bar_codes import KINDS, Till, make_till
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport, TransportUnclearError
from paycenter_server.domain.states import OrderState
from support.world import World, WorldOn


def is_query(request: HttpRequest) -> bool:
    return (
        "orderquery" in request.url
        or "alipay.trade.query" in request.url
        or (request.method == "GET" and "/out-trade-no/" in request.url)
    )


def is_cancel(request: HttpRequest) -> bool:
    return "reverse" in request.url or "alipay.trade.cancel" in request.url


class Staged:
    """A network on which something happens before or after the next query, or before the next cancellation."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.before: Callable[[], Awaitable[None]] | None = None
        self.after: Callable[[], Awaitable[None]] | None = None
        self.before_cancel: Callable[[], Awaitable[None]] | None = None
        self.lose_next = False
        self.cancels = 0

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if is_cancel(request):
            self.cancels += 1
            hook, self.before_cancel = self.before_cancel, None
            if hook:
                await hook()
        if not is_query(request):
            return await self.inner.send(request, seconds)
        before, self.before = self.before, None
        lose, self.lose_next = self.lose_next, False
        if before:
            await before()
        if lose:
            raise TransportUnclearError("no answer")
        after, self.after = self.after, None
        answer = await self.inner.send(request, seconds)
        if after:
            await after()
        return answer


@pytest.fixture(params=list(KINDS))
async def stage(request: pytest.FixtureRequest, world_on: WorldOn) -> AsyncIterator[tuple[World, Till, Staged]]:
    network = Staged()
    async with world_on(network) as world:
        yield world, await make_till(world, request.param), network


async def waiting(world: World, till: Till) -> tuple[Any, Any]:
    """An order whose payer has been asked for a password, and its attempt."""
    order = await world.order()
    await world.simulator.fault(till.api, till.waits)
    return order, await till.scan(order)


async def test_booked_by_another_while_the_job_is_about_to_cancel(stage: tuple[World, Till, Staged]) -> None:
    world, till, network = stage
    order, attempt = await waiting(world, till)

    async def confirmed_and_booked() -> None:
        await world.simulator.pay(attempt.out_trade_no, notify=False)
        await world.services.orders.sync(world.caller, order.number)

    network.before, network.lose_next = confirmed_and_booked, True
    await till.pass_time(61)
    assert (await world.read(order)).state is OrderState.SUCCESS
    assert (await till.trade(attempt))["refunded"] == 0


async def test_an_answer_from_before_the_cancellation_books_nothing(stage: tuple[World, Till, Staged]) -> None:
    """A caller's query has found it paid; before its answer is read, the job has cancelled, and the money is back."""
    world, till, network = stage
    order, attempt = await waiting(world, till)
    await world.simulator.pay(attempt.out_trade_no, notify=False)

    async def cancelled() -> None:
        network.lose_next = True
        await till.pass_time(61)

    network.after = cancelled
    await world.services.orders.sync(world.caller, order.number)
    assert (await till.trade(attempt))["refunded"] == 100
    assert await world.value("SELECT state FROM pay_attempt") == "CLOSED"
    after = await world.read(order)
    assert (after.state, after.paid_amount) == (OrderState.WAITING, 0)
    assert await world.cases() == []


async def test_a_refused_cancellation_leaves_the_money_booked(stage: tuple[World, Till, Staged]) -> None:
    """Confirmed between the query and the cancellation, which cannot give it back."""
    world, till, network = stage
    order, attempt = await waiting(world, till)

    async def confirmed() -> None:
        await world.simulator.pay(attempt.out_trade_no, notify=False)

    network.before, network.lose_next = confirmed, True
    await world.simulator.fault(till.cancel, "not_enough")
    await till.pass_time(61)
    assert (await world.read(order)).state is OrderState.SUCCESS
    assert (await till.trade(attempt))["refunded"] == 0
    assert await world.cases() == []


async def test_while_a_cancellation_is_undecided_nothing_is_booked(stage: tuple[World, Till, Staged]) -> None:
    """Its answer was lost: the money may be on its way back, so the order is not paid; the next cancellation settles it."""
    world, till, network = stage
    order, attempt = await waiting(world, till)
    network.lose_next = True
    await world.simulator.fault(till.cancel, "error_before_commit")
    await till.pass_time(61)
    await world.simulator.pay(attempt.out_trade_no, notify=False)
    await world.services.orders.sync(world.caller, order.number)
    assert (await world.read(order)).state is OrderState.WAITING
    await till.pass_time(6)
    assert await world.value("SELECT state FROM pay_attempt") == "CLOSED"
    assert (await till.trade(attempt))["refunded"] == 100
    assert (await world.read(order)).state is OrderState.WAITING


async def test_a_process_that_stands_still_before_it_cancels(stage: tuple[World, Till, Staged]) -> None:
    """It wrote down that it will cancel, and sends that a minute later, when another has booked: nobody can prevent that any more,
    but a person is told."""
    world, till, network = stage
    order, attempt = await waiting(world, till)

    async def confirmed_and_booked() -> None:
        world.clock.advance(61)
        await world.simulator.pay(attempt.out_trade_no, notify=False)
        await world.services.orders.sync(world.caller, order.number)

    network.before_cancel = confirmed_and_booked
    await till.pass_time(61)
    assert (await world.read(order)).state is OrderState.SUCCESS
    assert (await till.trade(attempt))["refunded"] == 100
    assert [(case["kind"], case["order_id"]) for case in await world.cases()] == [("REFUND_CONFLICT", order.id)]


async def test_hosts_whose_clocks_differ(stage: tuple[World, Till, Staged]) -> None:
    """The one that asks is ahead of the one that cancels: what was asked before is not the later for it."""
    world, till, network = stage
    order, attempt = await waiting(world, till)
    await world.simulator.pay(attempt.out_trade_no, notify=False)
    world.clock.advance(65)

    async def cancelled() -> None:
        world.clock.advance(-2)
        network.lose_next = True
        await till.pass_time(0)
        world.clock.advance(2)

    network.after = cancelled
    await world.services.orders.sync(world.caller, order.number)
    assert (await till.trade(attempt))["refunded"] == 100
    after = await world.read(order)
    assert (after.state, after.paid_amount) == (OrderState.WAITING, 0)


async def test_what_cannot_be_cancelled_is_booked_in_minutes(stage: tuple[World, Till, Staged]) -> None:
    """Cancelling never works, and the payer confirms after the end: not cancelled for ever, nor kept from being booked."""
    world, till, network = stage
    order, attempt = await waiting(world, till)
    await world.simulator.fault(till.cancel, "error_before_commit", times=-1)
    await till.pass_time(61)
    await world.simulator.pay(attempt.out_trade_no, notify=False)
    # The channels check signatures by real time, so the attempt is made old, not the clock new.
    for _ in range(100):
        await world.rows(
            """UPDATE pay_attempt SET next_check_time = next_check_time - $1::interval, cancel_until = cancel_until - $1,
               expire_time = expire_time - $1, create_time = create_time - $1""",
            timedelta(seconds=4),
        )
        await till.pass_time(0)
        if (await world.read(order)).state is OrderState.SUCCESS:
            break
    assert (await world.read(order)).state is OrderState.SUCCESS
    assert network.cancels < 60
    assert await world.cases() == []


class OnItsWay:
    """A network on which a payment takes its time to get to Alipay."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.sent, self.arrives = asyncio.Event(), asyncio.Event()
        self.kept: HttpRequest | None = None
        self.answered = True

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if "method=alipay.trade.pay&" in request.url and self.kept is None:
            self.kept = request
            self.sent.set()
            if not self.answered:
                raise TransportUnclearError("no answer")
            await self.arrives.wait()
        return await self.inner.send(request, seconds)


@pytest.mark.parametrize("answered", [True, False])
async def test_alipay_pays_after_the_cancellation_found_nothing(answered: bool, world_on: WorldOn) -> None:
    """The order is closed, or the till's time is over, while the payment is on its way; and no notice ever comes."""
    network = OnItsWay()
    network.answered = answered
    async with world_on(network) as world:
        till = await make_till(world, "alipay")
        await world.simulator.fault("alipay.notify", "drop", times=-1)
        order = await world.order()
        scan = asyncio.create_task(till.scan(order, 9 if answered else 1))
        await network.sent.wait()
        if answered:
            await world.services.orders.close(world.caller, order.number)
            network.arrives.set()
            await asyncio.wait([scan])
        else:
            await asyncio.wait([scan])
            await till.pass_time(61)
            assert network.kept is not None
            await network.inner.send(network.kept, 5)
        assert scan.exception() is not None
        (attempt,) = await world.services.orders.attempts(order)
        async with asyncio.timeout(5):
            while True:
                await world.rows(
                    """UPDATE pay_attempt SET next_check_time = now() - interval '1 s',
                       cancel_until = cancel_until - interval '61 s' WHERE next_check_time IS NOT NULL"""
                )
                await world.services.jobs.sync_orders()
                booked = [case["kind"] for case in await world.cases()] == ["LATE_PAYMENT"] if answered else False
                if booked or (await till.trade(attempt))["refunded"] or (await world.read(order)).state is OrderState.SUCCESS:
                    break


@pytest.mark.parametrize("policy", ["REFUND", "ACCEPT"])
async def test_a_late_notice_of_what_was_given_back(world: World, policy: str) -> None:
    """Alipay tells of bar payments: the notice of a payment that our own cancellation has given back books nothing."""
    till = await make_till(world, "alipay")
    await world.rows(f"UPDATE pay_app SET surplus_policy = '{policy}'")
    order, attempt = await waiting(world, till)
    await world.simulator.pay(attempt.out_trade_no, delay_seconds=600)
    await world.simulator.fault(till.query, "error_before_commit")
    await till.pass_time(61)
    assert await world.value("SELECT channel_error_code FROM pay_attempt") == "CANCEL_REFUNDED"
    await world.simulator.advance(700)
    async with asyncio.timeout(5):
        while any(item["state"] != "DONE" for item in (await till.trade(attempt))["notifications"]):
            await asyncio.sleep(0.02)
    assert (await till.trade(attempt))["refunded"] == 100
    after = await world.read(order)
    assert (after.state, after.paid_amount) == (OrderState.WAITING, 0)
    assert await world.cases() == []
