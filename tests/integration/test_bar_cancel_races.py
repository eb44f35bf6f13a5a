"""The cancellation of a bar code payment refunds what was paid: in every race the payment is booked or refunded, never both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from integration.test_bar_codes import KINDS, PointOfSale, make_point_of_sale
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport, NotSentError, TransportUnclearError
from paycenter_server.domain.states import OrderState
from support.system import PayCenterSystem, SystemOn
from support.waiting import eventually


def is_query(request: HttpRequest) -> bool:
    return (
        "orderquery" in request.url
        or "alipay.trade.query" in request.url
        or (request.method == "GET" and "/out-trade-no/" in request.url)
    )


def is_cancel(request: HttpRequest) -> bool:
    return "reverse" in request.url or "alipay.trade.cancel" in request.url


class HookedNetwork:
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
async def cancellation(
    request: pytest.FixtureRequest, system_on: SystemOn
) -> AsyncIterator[tuple[PayCenterSystem, PointOfSale, HookedNetwork]]:
    network = HookedNetwork()
    async with system_on(network) as system:
        yield system, await make_point_of_sale(system, request.param), network


async def waiting(system: PayCenterSystem, pos: PointOfSale) -> tuple[Any, Any]:
    """An order whose payer must enter a password, and its attempt."""
    order = await system.order()
    await system.simulator.fault(pos.api, pos.waits)
    return order, await pos.scan(order)


async def test_booked_by_another_while_the_job_is_about_to_cancel(
    cancellation: tuple[PayCenterSystem, PointOfSale, HookedNetwork],
) -> None:
    system, pos, network = cancellation
    order, attempt = await waiting(system, pos)

    async def confirmed_and_booked() -> None:
        await system.simulator.pay(attempt.out_trade_no, notify=False)
        await system.services.orders.sync(system.caller, order.number)

    network.before, network.lose_next = confirmed_and_booked, True
    await pos.pass_time(61)
    assert (await system.read(order)).state is OrderState.SUCCESS
    assert (await pos.trade(attempt))["refunded"] == 0


async def test_an_answer_from_before_the_cancellation_books_nothing(
    cancellation: tuple[PayCenterSystem, PointOfSale, HookedNetwork],
) -> None:
    """A caller's query has found it paid. Before its answer is read, the job has cancelled it, and it is refunded."""
    system, pos, network = cancellation
    order, attempt = await waiting(system, pos)
    await system.simulator.pay(attempt.out_trade_no, notify=False)

    async def cancelled() -> None:
        network.lose_next = True
        await pos.pass_time(61)

    network.after = cancelled
    await system.services.orders.sync(system.caller, order.number)
    assert (await pos.trade(attempt))["refunded"] == 100
    assert await system.value("SELECT state FROM pay_attempt") == "CLOSED"
    after = await system.read(order)
    assert (after.state, after.paid_amount) == (OrderState.WAITING, 0)
    assert await system.cases() == []


async def test_after_a_refused_cancellation_the_payment_is_booked(
    cancellation: tuple[PayCenterSystem, PointOfSale, HookedNetwork],
) -> None:
    """The payer confirms between the query and the cancellation, which cannot refund it."""
    system, pos, network = cancellation
    order, attempt = await waiting(system, pos)

    async def confirmed() -> None:
        await system.simulator.pay(attempt.out_trade_no, notify=False)

    network.before, network.lose_next = confirmed, True
    await system.simulator.fault(pos.cancel, "not_enough")
    await pos.pass_time(61)
    assert (await system.read(order)).state is OrderState.SUCCESS
    assert (await pos.trade(attempt))["refunded"] == 0
    assert await system.cases() == []


async def test_while_a_cancellation_is_undecided_nothing_is_booked(
    cancellation: tuple[PayCenterSystem, PointOfSale, HookedNetwork],
) -> None:
    """Its answer was lost: the payment may be refunded, so it is not booked. The next cancellation settles it."""
    system, pos, network = cancellation
    order, attempt = await waiting(system, pos)
    network.lose_next = True
    await system.simulator.fault(pos.cancel, "error_before_commit")
    await pos.pass_time(61)
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    await system.services.orders.sync(system.caller, order.number)
    assert (await system.read(order)).state is OrderState.WAITING
    await pos.pass_time(6)
    assert await system.value("SELECT state FROM pay_attempt") == "CLOSED"
    assert (await pos.trade(attempt))["refunded"] == 100
    assert (await system.read(order)).state is OrderState.WAITING


async def test_a_process_that_is_stopped_before_it_cancels(
    cancellation: tuple[PayCenterSystem, PointOfSale, HookedNetwork],
) -> None:
    """It stored the cancellation and sends it a minute later, when another process has booked the payment. This cannot be
    prevented, but a case is opened."""
    system, pos, network = cancellation
    order, attempt = await waiting(system, pos)

    async def confirmed_and_booked() -> None:
        system.clock.advance(61)
        await system.simulator.pay(attempt.out_trade_no, notify=False)
        await system.services.orders.sync(system.caller, order.number)

    network.before_cancel = confirmed_and_booked
    await pos.pass_time(61)
    assert (await system.read(order)).state is OrderState.SUCCESS
    assert (await pos.trade(attempt))["refunded"] == 100
    assert [(case["kind"], case["order_id"]) for case in await system.cases()] == [("REFUND_MISMATCH", order.id)]


async def test_hosts_whose_clocks_differ(cancellation: tuple[PayCenterSystem, PointOfSale, HookedNetwork]) -> None:
    """The clock of the querying host is ahead of that of the cancelling host. An earlier query does not count as later."""
    system, pos, network = cancellation
    order, attempt = await waiting(system, pos)
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    system.clock.advance(65)

    async def cancelled() -> None:
        system.clock.advance(-2)
        network.lose_next = True
        await pos.pass_time(0)
        system.clock.advance(2)

    network.after = cancelled
    await system.services.orders.sync(system.caller, order.number)
    assert (await pos.trade(attempt))["refunded"] == 100
    after = await system.read(order)
    assert (after.state, after.paid_amount) == (OrderState.WAITING, 0)


async def test_what_cannot_be_cancelled_is_booked_in_minutes(
    cancellation: tuple[PayCenterSystem, PointOfSale, HookedNetwork],
) -> None:
    """Every cancellation fails, and the payer confirms after the expiry: the payment is booked after some minutes."""
    system, pos, network = cancellation
    order, attempt = await waiting(system, pos)
    await system.simulator.fault(pos.cancel, "error_before_commit", times=-1)
    await pos.pass_time(61)
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    # The channels check signatures by real time, so the times of the attempt are moved, not the clock.
    for _ in range(100):
        await system.rows(
            """UPDATE pay_attempt SET next_check_time = next_check_time - $1::interval, cancel_until = cancel_until - $1,
               expire_time = expire_time - $1, create_time = create_time - $1""",
            timedelta(seconds=4),
        )
        await pos.pass_time(0)
        if (await system.read(order)).state is OrderState.SUCCESS:
            break
    assert (await system.read(order)).state is OrderState.SUCCESS
    assert network.cancels < 60
    assert await system.cases() == []


class OnItsWay:
    """A network on which a payment reaches Alipay late."""

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
async def test_alipay_pays_after_the_cancellation_found_nothing(answered: bool, system_on: SystemOn) -> None:
    """The order is closed, or the attempt expires, before the payment arrives, and there is no callback."""
    network = OnItsWay()
    network.answered = answered
    async with system_on(network) as system:
        pos = await make_point_of_sale(system, "alipay")
        await system.simulator.fault("alipay.notify", "drop", times=-1)
        order = await system.order()
        scan = asyncio.create_task(pos.scan(order, 9 if answered else 1))
        await network.sent.wait()
        if answered:
            await system.services.orders.close(system.caller, order.number)
            network.arrives.set()
            await asyncio.wait([scan])
        else:
            await asyncio.wait([scan])
            await pos.pass_time(61)
            assert network.kept is not None
            await network.inner.send(network.kept, 5)
        assert scan.exception() is not None
        (attempt,) = await system.services.orders.attempts(order)
        async with asyncio.timeout(5):
            while True:
                await system.rows(
                    """UPDATE pay_attempt SET next_check_time = now() - interval '1 s',
                       cancel_until = cancel_until - interval '61 s' WHERE next_check_time IS NOT NULL"""
                )
                await system.services.jobs.sync_orders()
                booked = [case["kind"] for case in await system.cases()] == ["LATE_PAYMENT"] if answered else False
                if booked or (await pos.trade(attempt))["refunded"] or (await system.read(order)).state is OrderState.SUCCESS:
                    break


@pytest.mark.parametrize("policy", ["REFUND", "ACCEPT"])
async def test_a_late_callback_of_a_refunded_payment(system: PayCenterSystem, policy: str) -> None:
    """Alipay sends callbacks for bar code payments. A callback of a payment that our cancellation has refunded books nothing."""
    pos = await make_point_of_sale(system, "alipay")
    await system.rows(f"UPDATE pay_app SET surplus_policy = '{policy}'")
    order, attempt = await waiting(system, pos)
    await system.simulator.pay(attempt.out_trade_no, delay_seconds=600)
    await system.simulator.fault(pos.query, "error_before_commit")
    await pos.pass_time(61)
    assert await system.value("SELECT channel_error_code FROM pay_attempt") == "CANCEL_REFUNDED"
    await system.simulator.advance(700)

    async def all_done() -> bool:
        return all(item["state"] == "DONE" for item in (await pos.trade(attempt))["notifications"])

    await eventually(all_done)
    assert (await pos.trade(attempt))["refunded"] == 100
    after = await system.read(order)
    assert (after.state, after.paid_amount) == (OrderState.WAITING, 0)
    assert await system.cases() == []


async def test_a_cancellation_that_was_not_sent_is_over(cancellation: tuple[PayCenterSystem, PointOfSale, HookedNetwork]) -> None:
    """Nothing is carried out at the channel, so an answer that was asked for before it still counts."""
    system, pos, network = cancellation
    order, _ = await waiting(system, pos)

    async def refused() -> None:
        raise NotSentError("connection refused")

    network.before_cancel = refused
    await pos.pass_time(61)
    assert network.cancels == 1
    (row,) = await system.rows("SELECT state, cancel_until FROM pay_attempt WHERE order_id = $1", order.id)
    assert row["state"] in ("WAITING", "UNKNOWN")
    assert row["cancel_until"] is None
