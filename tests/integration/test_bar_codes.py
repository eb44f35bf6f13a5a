"""Bar codes: the payer stands at the till. Paid at once, after a password, never, or nobody knows; by v2, v3 and Alipay."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import pytest
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport, TransportUnclearError
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.states import OrderState
from paycenter_server.services.context import deadline
from support.world import OPERATOR, World, WorldOn

KINDS = {
    "alipay": (
        "alipay_bar", "281234567890123456", "alipay.trade.pay", "alipay.trade.query", "in_process", "alipay.trade.cancel",
        "retry_flag",
    ),
    "v2": ("wx_bar", "134567890123456789", "wx2.micropay", "wx2.orderquery", "user_paying", "wx2.reverse", "recall"),
    "v3": ("wx_bar", "134567890123456789", "wx.codepay", "wx.query", "user_paying", "wx.reverse", "recall"),
}  # fmt: skip


@pytest.fixture(params=list(KINDS))
async def till(world: World, request: pytest.FixtureRequest) -> Till:
    return await make_till(world, request.param)


async def make_till(world: World, kind: str) -> Till:
    if kind == "v3":
        family, config = world.configs["wx_native"]
        world.configs["wx_bar"] = family, {**config, "use_codepay": "true"}
    made = Till(world, *KINDS[kind])
    await world.add_channel(made.code)
    return made


@dataclass
class Till:
    world: World
    code: str
    auth_code: str
    api: str
    query: str
    waits: str
    cancel: str
    again: str

    async def scan(self, order: Any, seconds: float = 1.0) -> Any:
        """The cashier's call, by a service that waits so many seconds."""
        deadline.set(asyncio.get_running_loop().time() + seconds)
        try:
            return await self.world.submit(order, self.code, auth_code=self.auth_code)
        finally:
            deadline.set(None)

    async def pass_time(self, seconds: float) -> None:
        self.world.clock.advance(seconds)
        await self.world.services.jobs.sync_orders()

    async def trade(self, attempt: Any) -> Any:
        return await self.world.simulator.get(f"/simulator/trades/{attempt.out_trade_no}")


async def test_paid_at_once(world: World, till: Till) -> None:
    order = await world.order()
    attempt = await till.scan(order)
    assert attempt.state.value == "SUCCESS"
    paid = await world.read(order)
    assert (paid.state, paid.paid_amount, paid.channel_code) == (OrderState.SUCCESS, 100, till.code)
    refund = await world.refund(paid, 30)
    async with asyncio.timeout(5):
        while refund.state.value != "SUCCESS":
            await asyncio.sleep(0.05)
            refund = await world.services.refunds.sync(world.caller, refund)
    assert (await world.read(order)).refunded_amount == 30


async def test_paid_while_the_caller_waits(world: World, till: Till) -> None:
    order = await world.order()
    await world.simulator.fault(till.api, till.waits, queries=0)
    attempt = await till.scan(order, seconds=9)
    assert attempt.state.value == "SUCCESS"
    assert (await world.read(order)).state is OrderState.SUCCESS


async def test_an_unclear_answer_is_waited_for_like_a_password(world: World, till: Till) -> None:
    """SYSTEMERROR, BANKERROR and silence: the waiting call asks on, and is answered with the payment."""
    for fault in ("error_after_commit", *(["bank_error"] if till.api == "wx2.micropay" else [])):
        order = await world.order()
        await world.simulator.fault(till.api, fault, queries=0)
        attempt = await till.scan(order, seconds=9)
        assert attempt.state.value == "SUCCESS"
        assert (await world.read(order)).state is OrderState.SUCCESS


async def test_the_caller_comes_back_with_the_same_code(world: World, till: Till) -> None:
    order = await world.order()
    await world.simulator.fault(till.api, till.waits, queries=0)
    first = await till.scan(order)
    assert first.state.value in ("WAITING", "UNKNOWN")
    second = await till.scan(order)
    assert (second.id, second.state.value) == (first.id, "SUCCESS")
    assert await world.value("SELECT count(*) FROM pay_attempt") == 1


async def test_the_job_finishes_what_the_caller_left(world: World, till: Till) -> None:
    order = await world.order()
    await world.simulator.fault(till.api, till.waits, queries=1)
    await till.scan(order)
    await till.pass_time(6)
    await till.pass_time(6)
    assert (await world.read(order)).state is OrderState.SUCCESS


async def test_never_confirmed_is_cancelled_at_the_channel(world: World, till: Till) -> None:
    order = await world.order()
    await world.simulator.fault(till.api, till.waits)
    await world.simulator.fault(till.cancel, till.again)
    attempt = await till.scan(order)
    await till.pass_time(61)
    # Asked to come again: not closed yet, and due again within seconds.
    assert await world.value("SELECT state FROM pay_attempt") in ("WAITING", "UNKNOWN")
    await till.pass_time(6)
    assert await world.value("SELECT state FROM pay_attempt") == "CLOSED"
    assert (await till.trade(attempt))["state"] in ("CLOSED", "REVOKED")
    assert (await world.read(order)).state is OrderState.WAITING
    # The payer takes out another code: a new number.
    till.auth_code = till.auth_code[:-1] + "0"
    again = await till.scan(order)
    assert again.id != attempt.id
    assert (await world.read(order)).state is OrderState.SUCCESS


@pytest.mark.parametrize("fault", ["error_after_commit", "reset", "bad_signature"])
async def test_unknown_then_found_paid(world: World, till: Till, fault: str) -> None:
    order = await world.order()
    await world.simulator.fault(till.api, fault)
    # Unclear at first, or already cleared up by the query that follows: both are right.
    with contextlib.suppress(PayCenterError):
        await till.scan(order)
    await till.pass_time(6)
    assert (await world.read(order)).state is OrderState.SUCCESS
    assert await world.value("SELECT count(*) FROM pay_attempt") == 1
    assert await world.cases() == []


@pytest.mark.parametrize("fault", ["error_before_commit", "reset_before_commit"])
async def test_unknown_then_never_arrived(world: World, till: Till, fault: str) -> None:
    order = await world.order()
    await world.simulator.fault(till.api, fault)
    with pytest.raises(PayCenterError) as caught:
        await till.scan(order)
    assert caught.value.reason is Reason.CHANNEL_UNCLEAR
    for _ in range(4):
        await till.pass_time(61)
    assert (await world.read(order)).state is OrderState.WAITING
    assert await world.value("SELECT paid_amount FROM pay_attempt") == 0


async def test_declined_says_why(world: World, till: Till) -> None:
    order = await world.order()
    words = {"alipay_bar": "ACQ.BUYER_BALANCE_NOT_ENOUGH", "wx_bar": "NOTENOUGH"}
    await world.simulator.fault(till.api, "decline", code=words[till.code])
    with pytest.raises(PayCenterError) as caught:
        await till.scan(order)
    assert caught.value.reason is Reason.CHANNEL_REFUSED
    assert caught.value.metadata["channel_error_code"] == words[till.code]
    till.auth_code = till.auth_code[:-1] + "1"
    await till.scan(order)
    assert (await world.read(order)).state is OrderState.SUCCESS


async def test_close_while_the_payer_thinks(world: World, till: Till) -> None:
    order = await world.order()
    await world.simulator.fault(till.api, till.waits)
    attempt = await till.scan(order)
    if till.code == "wx_bar":
        # WeChat asks for 15 s between payment and reversal: until then nothing is sent, and the caller is told when.
        till.auth_code = till.auth_code[:-1] + "1"
        for call in (lambda: world.services.orders.close(world.caller, order.number), lambda: till.scan(order)):
            with pytest.raises(PayCenterError) as caught:
                await call()
            assert caught.value.reason is Reason.ATTEMPT_PENDING
            assert caught.value.retry_after is not None
            assert 10 < caught.value.retry_after <= 15
        assert (await till.trade(attempt))["state"] == "USERPAYING"
        world.clock.advance(15)
    closed = await world.services.orders.close(world.caller, order.number)
    assert closed.state is OrderState.CLOSED
    assert (await till.trade(attempt))["state"] in ("CLOSED", "REVOKED")


@pytest.mark.parametrize("fault", ["error_before_commit", "unsigned"])
async def test_a_query_that_says_nothing_does_not_keep_the_till_from_cancelling(world: World, till: Till, fault: str) -> None:
    """ "Still unknown: cancel at once after the last query." """
    order = await world.order()
    await world.simulator.fault(till.api, till.waits)
    attempt = await till.scan(order)
    await world.simulator.fault(till.query, fault, times=-1)
    await till.pass_time(31)
    assert (await till.trade(attempt))["state"] == "USERPAYING"
    await till.pass_time(31)
    assert await world.value("SELECT state FROM pay_attempt") == "CLOSED"
    assert (await till.trade(attempt))["state"] in ("CLOSED", "REVOKED")


async def test_what_is_a_case_is_not_cancelled(world: World, till: Till) -> None:
    """Paid with another amount: a person decides, so the money stays where it is."""
    order = await world.order()
    await world.simulator.fault(till.api, till.waits)
    attempt = await till.scan(order)
    await world.simulator.post(f"/simulator/pay/{attempt.out_trade_no}", {"amount": 1})
    await till.pass_time(6)
    await till.pass_time(61)
    assert [case["kind"] for case in await world.cases()] == ["WRONG_AMOUNT"]
    assert (await till.trade(attempt))["refunded"] == 0


class Slow:
    """A network that keeps one payment for as long as a test wants."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.kept: list[HttpRequest] = []

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if request.url.endswith(("/pay/micropay", "/codepay")) and not self.kept:
            self.kept.append(request)
            raise TransportUnclearError("on its way")
        return await self.inner.send(request, seconds)


@pytest.mark.parametrize("kind", ["v2", "v3"])
@pytest.mark.parametrize("then", ["user_paying", ""], ids=["waits", "pays"])
async def test_a_code_that_arrives_after_its_reversal(kind: str, then: str, world_on: WorldOn) -> None:
    """WeChat does not know the number when it is reversed, so it is looked at once more: reversed then, or booked."""
    transport = Slow()
    async with world_on(transport) as world:
        till = await make_till(world, kind)
        order = await world.order()
        with pytest.raises(PayCenterError):
            await till.scan(order)
        await till.pass_time(61)
        assert await world.value("SELECT state FROM pay_attempt") == "CLOSED"
        if then:
            await world.simulator.fault(till.api, then)
        await transport.inner.send(transport.kept[0], 5)
        (attempt,) = await world.services.orders.attempts(order)
        await till.pass_time(61)
        if then:
            assert (await till.trade(attempt))["state"] == "REVOKED"
            assert await world.value("SELECT next_check_time FROM pay_attempt") is None
        else:
            # Nobody had closed the order, so it is paid after all.
            assert (await world.read(order)).state is OrderState.SUCCESS


async def test_the_code_is_needed(world: World, till: Till) -> None:
    order = await world.order()
    with pytest.raises(PayCenterError) as caught:
        await world.submit(order, till.code)
    assert [violation.field for violation in caught.value.violations] == ["channel_extras.auth_code"]
    assert OPERATOR.is_operator
