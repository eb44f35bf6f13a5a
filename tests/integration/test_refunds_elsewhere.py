"""Refunds that we did not make (the channel's own console), or learn of by a notice that proves nothing by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from integration.test_bar_codes import make_till
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport, TransportUnclearError
from paycenter_server.domain.states import OrderState, RefundState
from support.world import OPERATOR, World, WorldOn

WAYS = ["wx_native-v3", "wx_native-v2", "alipay_qr"]


@pytest.fixture(params=WAYS)
async def way(world: World, request: pytest.FixtureRequest) -> str:
    if request.param == "wx_native-v2":
        world.configs["wx_native"] = world.configs["wx_bar"]
        await world.services.channels.update(OPERATOR, world.channels["wx_native"], {}, *world.configs["wx_native"])
    return str(request.param)


async def paid(world: World, way: str, *, known: bool = True) -> tuple[Any, str]:
    """An order that is paid at the channel, and (unless not `known`) here; and its number there."""
    order = await world.order()
    code = way.partition("-")[0]
    attempt = await world.submit(order, code)
    if code == "alipay_qr":
        await world.session.get(f"{world.simulator.base}/cashier/{attempt.out_trade_no}")
    await world.simulator.pay(attempt.out_trade_no, notify=known)
    if known:
        await world.until(order, "SUCCESS")
    return order, attempt.out_trade_no


async def refund_in_the_console(world: World, way: str, number: str, amount: int) -> None:
    code = way.partition("-")[0]
    notify_url = "" if code == "alipay_qr" else f"{world.sidecar}/notify/refund/{world.channels[code]}"
    await world.simulator.post(f"/simulator/refund/{number}", {"amount": amount, "notify_url": notify_url})


async def sends(world: World, number: str, count: int) -> list[bool]:
    """Whether each send of the refund's notification was accepted, once there are so many."""
    async with asyncio.timeout(5):
        while True:
            notifications = (await world.simulator.get(f"/simulator/trades/{number}"))["notifications"]
            if len(notifications) == 2 and len(notifications[1]["attempts"]) >= count:
                return [item["accepted"] for item in notifications[1]["attempts"]]
            await asyncio.sleep(0.02)


async def test_a_refund_made_in_the_console_becomes_a_case(world: World, way: str) -> None:
    order, number = await paid(world, way)
    await refund_in_the_console(world, way, number, 40)
    async with asyncio.timeout(5):
        while not (cases := await world.cases()):
            await asyncio.sleep(0.02)
    assert [(case["kind"], case["amount"], case["order_id"]) for case in cases] == [("REFUND_CONFLICT", 40, order.id)]
    assert (await world.read(order)).refunded_amount == 0
    # Told once more: the same case.
    await world.simulator.post(f"/simulator/resend/{number}")
    await asyncio.sleep(0.1)
    assert len(await world.cases()) == 1


async def test_a_notice_that_cannot_be_confirmed_now_is_wanted_again(world: World, way: str) -> None:
    if way == "wx_native-v3":
        await world.simulator.fault("wx.refund_query", "error_before_commit")
    elif way == "wx_native-v2":
        await world.simulator.fault("wx2.refundquery", "error_before_commit")
    else:
        await world.simulator.fault("alipay.trade.fastpay.refund.query", "error_before_commit")
    _, number = await paid(world, way)
    await refund_in_the_console(world, way, number, 40)
    assert await sends(world, number, 1) == [False]
    assert await world.cases() == []
    await world.simulator.advance(241)
    assert (await sends(world, number, 2))[-1]
    assert [case["kind"] for case in await world.cases()] == ["REFUND_CONFLICT"]


async def test_paid_and_refunded_before_we_knew(world: World, way: str) -> None:
    """The payment is booked, and a person is told that some of it has gone back already."""
    order, number = await paid(world, way, known=False)
    await world.simulator.post(f"/simulator/refund/{number}", {"amount": 100 if way == "alipay_qr" else 40})
    await asyncio.sleep(0.1)
    await world.services.orders.sync(world.caller, order.number)
    after = await world.read(order)
    assert (after.state, after.paid_amount, after.refunded_amount) == (OrderState.SUCCESS, 100, 0)
    # The refund is told too; one case is enough.
    await world.simulator.post(f"/simulator/resend/{number}", {"every": True})
    await asyncio.sleep(0.2)
    assert [case["kind"] for case in await world.cases()] == ["REFUND_CONFLICT"]
    assert [post.json["type"] for post in await world.deliver()] == ["pay_order.success"]


async def test_a_refund_of_what_has_all_gone_back_fails(world: World) -> None:
    """ "Not in a state for it": the trade is asked about, and says that nothing is left."""
    order, number = await paid(world, "alipay_qr")
    await refund_in_the_console(world, "alipay_qr", number, 100)
    await world.simulator.fault("alipay.trade.refund", "decline", code="ACQ.TRADE_STATUS_ERROR", times=2)
    refund = await world.refund(order, 40)
    assert refund.state is RefundState.WAITING
    refund = await world.services.refunds.sync(world.caller, refund)
    assert (refund.state, refund.channel_error_code) == (RefundState.FAILURE, "ACQ.TRADE_STATUS_ERROR")
    assert (await world.read(order)).reserved_amount == 0


async def test_a_refund_of_a_trade_that_still_holds_the_money_waits(world: World) -> None:
    order, _ = await paid(world, "alipay_qr")
    await world.simulator.fault("alipay.trade.refund", "decline", code="ACQ.TRADE_STATUS_ERROR", times=2)
    refund = await world.services.refunds.sync(world.caller, await world.refund(order, 40))
    assert refund.state is RefundState.WAITING
    assert (await world.services.refunds.sync(world.caller, refund)).state is RefundState.SUCCESS


async def test_a_refund_told_before_its_payment(world: World, way: str) -> None:
    """The payment's notice is late: the payment is asked for, booked, and a person hears of the refund, once."""
    order = await world.order()
    code = way.partition("-")[0]
    number = (await world.submit(order, code)).out_trade_no
    if code == "alipay_qr":
        await world.session.get(f"{world.simulator.base}/cashier/{number}")
    await world.simulator.pay(number, delay_seconds=3600)
    await refund_in_the_console(world, way, number, 40)
    async with asyncio.timeout(5):
        while not await world.cases():
            await asyncio.sleep(0.02)
    await world.simulator.advance(3601)
    await asyncio.sleep(0.2)
    after = await world.read(order)
    assert (after.state, after.paid_amount, after.refunded_amount) == (OrderState.SUCCESS, 100, 0)
    assert [case["kind"] for case in await world.cases()] == ["REFUND_CONFLICT"]


async def test_a_notice_of_success_after_a_failure(world: World, way: str) -> None:
    """Failed here, and went through there: a person hears of it, in whatever form it is told."""
    order, number = await paid(world, way)
    refund = await world.refund(order, 40)
    async with asyncio.timeout(5):
        while refund.state is RefundState.WAITING:
            refund = await world.services.refunds.sync(world.caller, refund)
            await asyncio.sleep(0.02)
    await world.rows("UPDATE pay_refund SET state = 'FAILURE', success_time = NULL")
    await world.rows("UPDATE pay_order SET state = 'SUCCESS', refunded_amount = 0")
    await world.simulator.post(f"/simulator/resend/{number}", {"every": True})
    async with asyncio.timeout(5):
        while not (cases := await world.cases()):
            await asyncio.sleep(0.02)
    assert [(case["kind"], case["refund_id"]) for case in cases] == [("REFUND_CONFLICT", refund.id)]


async def test_a_refund_of_a_bar_code_that_has_all_gone_back_fails(world: World) -> None:
    till = await make_till(world, "alipay")
    order = await world.order()
    attempt = await till.scan(order)
    await refund_in_the_console(world, "alipay_qr", attempt.out_trade_no, 100)
    await world.simulator.fault("alipay.trade.refund", "decline", code="ACQ.TRADE_STATUS_ERROR", times=2)
    refund = await world.services.refunds.sync(world.caller, await world.refund(await world.read(order), 40))
    assert refund.state is RefundState.FAILURE


class LateFirst:
    """A network on which the first send of a refund arrives just before the second one."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.world: World | None = None
        self.kept: HttpRequest | None = None

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if "method=alipay.trade.refund&" in request.url:
            if self.kept is None:
                self.kept = request
                raise TransportUnclearError("on its way")
            assert self.world is not None
            await self.inner.send(self.kept, seconds)
            await self.world.simulator.fault("alipay.trade.refund", "decline", code="ACQ.TRADE_STATUS_ERROR")
        return await self.inner.send(request, seconds)


async def test_what_all_went_back_by_this_very_refund_is_a_success(world_on: WorldOn) -> None:
    network = LateFirst()
    async with world_on(network) as world:
        network.world = world
        order, number = await paid(world, "alipay_qr")
        await world.simulator.fault("alipay.notify", "drop", times=-1)
        refund = await world.services.refunds.sync(world.caller, await world.refund(order, 100))
        assert refund.state is RefundState.SUCCESS
        assert (await world.simulator.get(f"/simulator/trades/{number}"))["refunded"] == 100
        assert (await world.read(order)).refunded_amount == 100


async def test_alipays_notice_settles_a_refund_whose_answer_was_lost(world: World) -> None:
    order, _ = await paid(world, "alipay_qr")
    await world.simulator.fault("alipay.trade.refund", "error_after_commit")
    refund = await world.refund(order, 40)
    async with asyncio.timeout(5):
        while refund.state is RefundState.WAITING:
            refund = await world.services.refunds.load(world.caller, refund.number)
            await asyncio.sleep(0.02)
    assert refund.state is RefundState.SUCCESS
    assert (await world.read(order)).refunded_amount == 40
    assert await world.cases() == []
