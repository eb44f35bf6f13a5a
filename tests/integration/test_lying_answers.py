"""Answers that are the channel's, signed and all, but about something else; and two equal calls that are answered differently."""

from __future__ import annotations

import asyncio

import pytest
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import AttemptState
from structlog.testing import capture_logs
from support.world import World, WorldOn


class Replaying:
    """A network that answers a query with the answer to an earlier one."""

    def __init__(self, mark: str) -> None:
        self.inner, self.mark = AiohttpTransport(), mark
        self.kept: HttpResponse | None = None
        self.replay = False

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if self.mark in request.url and self.replay and self.kept is not None:
            return self.kept
        answer = await self.inner.send(request, seconds)
        if self.mark in request.url:
            self.kept = answer
        return answer


@pytest.mark.parametrize(("code", "mark"), [("alipay_qr", "alipay.trade.query"), ("wx_native", "?mchid=")])
async def test_an_answer_about_another_trade_closes_nothing(code: str, mark: str, world_on: WorldOn) -> None:
    network = Replaying(mark)
    async with world_on(network) as world:
        closed, order = await world.order(), await world.order()
        for one in (closed, order):
            attempt = await world.submit(one, code)
            await world.session.get(f"{world.simulator.base}/cashier/{attempt.out_trade_no}")
            if one is closed:
                await world.simulator.post(f"/simulator/close/{attempt.out_trade_no}")
        await world.services.orders.sync(world.caller, closed.number)
        network.replay = True
        await world.services.orders.sync(world.caller, order.number)
        (attempt,) = await world.services.orders.attempts(order)
        assert attempt.state in (AttemptState.WAITING, AttemptState.UNKNOWN)
        assert attempt.next_check_time is not None


class Beside:
    """A network that lets the second of two equal payments wait for the first one's answer, and then has it refused."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.world: World | None = None
        self.calls = 0
        self.answered = asyncio.Event()

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if not request.url.endswith("/native"):
            return await self.inner.send(request, seconds)
        self.calls += 1
        if self.calls == 1:
            return await self.inner.send(request, seconds)
        await self.answered.wait()
        assert self.world is not None
        await self.world.simulator.fault("wx.native", "decline", code="RULE_LIMIT")
        return await self.inner.send(request, seconds)


async def test_a_refusal_beside_an_acceptance_closes_nothing(world_on: WorldOn) -> None:
    network = Beside()
    async with world_on(network) as world:
        network.world = world
        order = await world.order()
        # Both read the attempt before either is answered.
        first = asyncio.create_task(world.submit(order))
        while not network.calls:
            await asyncio.sleep(0)
        second = asyncio.create_task(world.submit(order))
        shown = await first
        network.answered.set()
        again = await second
        assert shown.display_content
        assert (again.id, again.state, again.display_content) == (shown.id, AttemptState.WAITING, shown.display_content)
        await world.simulator.pay(shown.out_trade_no)
        await world.until(order, "SUCCESS")


class BesideAndFirst(Beside):
    """The other order: the second of two equal payments is refused while the first one's acceptance is on its way back."""

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if not request.url.endswith("/native"):
            return await self.inner.send(request, seconds)
        self.calls += 1
        if self.calls == 1:
            answer = await self.inner.send(request, seconds)
            await self.answered.wait()
            return answer
        if self.calls == 2 and self.world is not None:
            await self.world.simulator.fault("wx.native", "decline", code="RULE_LIMIT")
        return await self.inner.send(request, seconds)


async def test_an_acceptance_that_comes_after_its_refusal_leaves_nothing_payable(world_on: WorldOn) -> None:
    network = BesideAndFirst()
    async with world_on(network) as world:
        network.world = world
        order = await world.order()
        first = asyncio.create_task(world.submit(order))
        while not network.calls:
            await asyncio.sleep(0)
        with pytest.raises(PayCenterError) as refused:
            await world.submit(order)
        assert refused.value.reason is Reason.CHANNEL_REFUSED
        network.answered.set()
        with pytest.raises(PayCenterError) as changed:
            await first
        assert changed.value.reason is Reason.ORDER_CHANGED
        (attempt,) = await world.services.orders.attempts(order)
        assert (await world.simulator.get(f"/simulator/trades/{attempt.out_trade_no}"))["state"] == "CLOSED"
        # Repeated, as the error says.
        await world.simulator.pay((await world.submit(order)).out_trade_no)
        await world.until(order, "SUCCESS")


class PaidMeanwhile(Beside):
    """A network on which the payer pays while the shop asks for the code once more."""

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if request.url.endswith("/native"):
            self.calls += 1
            if self.calls == 2 and self.world is not None:
                (row,) = await self.world.rows("SELECT id, order_id FROM pay_attempt")
                await self.world.simulator.pay(encode(Prefix.ATTEMPT, row["id"]))
                while await self.world.value("SELECT state FROM pay_order") != "SUCCESS":
                    await asyncio.sleep(0.01)
                await self.world.simulator.fault("wx.native", "decline", code="RULE_LIMIT")
        return await self.inner.send(request, seconds)


async def test_a_repeat_that_is_refused_because_it_was_paid(world_on: WorldOn) -> None:
    network = PaidMeanwhile()
    async with world_on(network) as world:
        network.world = world
        order = await world.order()
        await world.submit(order)
        # What was shown is too old to be shown again without asking.
        await world.rows("UPDATE pay_attempt SET update_time = update_time - interval '61 minutes'")
        assert (await world.submit(order)).state is AttemptState.SUCCESS


async def test_being_turned_away_is_an_error_in_the_log(world: World) -> None:
    """A rotated key or a wrong clock makes every query fail: somebody has to hear of it, whatever the HTTP status was."""
    for code, api, error in (
        ("wx_native", "wx.query", "SIGN_ERROR"),
        ("alipay_qr", "alipay.trade.query", "isv.invalid-signature"),
    ):
        order = await world.order()
        await world.submit(order, code)
        await world.simulator.fault(api, "decline", code=error)
        with capture_logs() as logs:
            await world.services.orders.sync(world.caller, order.number)
        turned = [entry for entry in logs if entry["event"] == "channel_turns_us_away"]
        assert [(entry["log_level"], entry["code"]) for entry in turned] == [("error", error)]
