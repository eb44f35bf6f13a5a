"""Bar codes: the payer stands at the till. Paid at once, after a password, never, or nobody knows; by v2, v3 and Alipay."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.states import OrderState
from paycenter_server.services.context import deadline
from support.world import OPERATOR, World

KINDS = {
    "alipay": ("alipay_bar", "281234567890123456", "alipay.trade.pay", "in_process", "alipay.trade.cancel", "retry_flag"),
    "v2": ("wx_bar", "134567890123456789", "wx2.micropay", "user_paying", "wx2.reverse", "recall"),
    "v3": ("wx_bar", "134567890123456789", "wx.codepay", "user_paying", "wx.reverse", "recall"),
}


@pytest.fixture(params=list(KINDS))
async def till(world: World, request: pytest.FixtureRequest) -> Till:
    code, auth_code, api, waits, cancel, again = KINDS[request.param]
    if request.param == "v3":
        family, config = world.configs["wx_native"]
        world.configs["wx_bar"] = family, {**config, "use_codepay": "true"}
    await world.add_channel(code)
    return Till(world, code, auth_code, api, waits, cancel, again)


class Till:
    def __init__(self, world: World, code: str, auth_code: str, api: str, waits: str, cancel: str, again: str) -> None:
        self.world, self.code, self.auth_code = world, code, auth_code
        self.api, self.waits, self.cancel, self.again = api, waits, cancel, again

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
    words = {"alipay_bar": "ACQ.BUYER_BALANCE_NOT_ENOUGH", "wx_bar": "NOTENOUGH" if till.api == "wx2.micropay" else "NO_AUTH"}
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
    closed = await world.services.orders.close(world.caller, order.number)
    assert closed.state is OrderState.CLOSED
    assert (await till.trade(attempt))["state"] in ("CLOSED", "REVOKED")


async def test_the_code_is_needed(world: World, till: Till) -> None:
    order = await world.order()
    with pytest.raises(PayCenterError) as caught:
        await world.submit(order, till.code)
    assert [violation.field for violation in caught.value.violations] == ["channel_extras.auth_code"]
    assert OPERATOR.is_operator
