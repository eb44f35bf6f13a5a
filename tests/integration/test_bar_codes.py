"""Bar code payments: paid at once, after a password, never, or unknown; with v2, v3 and Alipay."""

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
from support.system import OPERATOR, PayCenterSystem, SystemOn
from support.waiting import eventually

KINDS = {
    "alipay": (
        "alipay_bar", "281234567890123456", "alipay.trade.pay", "alipay.trade.query", "in_process", "alipay.trade.cancel",
        "retry_flag",
    ),
    "v2": ("wx_bar", "134567890123456789", "wx2.micropay", "wx2.orderquery", "user_paying", "wx2.reverse", "recall"),
    "v3": ("wx_bar", "134567890123456789", "wx.codepay", "wx.query", "user_paying", "wx.reverse", "recall"),
}  # fmt: skip


@pytest.fixture(params=list(KINDS))
async def pos(system: PayCenterSystem, request: pytest.FixtureRequest) -> PointOfSale:
    return await make_point_of_sale(system, request.param)


async def make_point_of_sale(system: PayCenterSystem, kind: str) -> PointOfSale:
    if kind == "v3":
        family, config = system.configs["wx_native"]
        system.configs["wx_bar"] = family, {**config, "use_codepay": "true"}
    made = PointOfSale(system, *KINDS[kind])
    await system.add_channel(made.code)
    return made


@dataclass
class PointOfSale:
    system: PayCenterSystem
    code: str
    auth_code: str
    api: str
    query: str
    waits: str
    cancel: str
    again: str

    async def scan(self, order: Any, seconds: float = 6.0) -> Any:
        """The submit of a service that waits this many seconds. With 6 s, two steps, it returns after the first answer."""
        deadline.set(asyncio.get_running_loop().time() + seconds)
        try:
            return await self.system.submit(order, self.code, auth_code=self.auth_code)
        finally:
            deadline.set(None)

    async def pass_time(self, seconds: float) -> None:
        self.system.clock.advance(seconds)
        await self.system.services.jobs.sync_orders()

    async def trade(self, attempt: Any) -> Any:
        return await self.system.simulator.get(f"/simulator/trades/{attempt.out_trade_no}")


async def test_paid_at_once(system: PayCenterSystem, pos: PointOfSale) -> None:
    order = await system.order()
    attempt = await pos.scan(order)
    assert attempt.state.value == "SUCCESS"
    paid = await system.read(order)
    assert (paid.state, paid.paid_amount, paid.channel_code) == (OrderState.SUCCESS, 100, pos.code)
    refund = await system.refund(paid, 30)
    assert (await system.decided(refund)).state.value == "SUCCESS"
    assert (await system.read(order)).refunded_amount == 30


async def test_paid_while_the_caller_waits(system: PayCenterSystem, pos: PointOfSale) -> None:
    order = await system.order()
    await system.simulator.fault(pos.api, pos.waits, queries=0)
    attempt = await pos.scan(order, seconds=9)
    assert attempt.state.value == "SUCCESS"
    assert (await system.read(order)).state is OrderState.SUCCESS


async def test_an_unclear_answer_is_waited_for_like_a_password(system: PayCenterSystem, pos: PointOfSale) -> None:
    """SYSTEMERROR, BANKERROR and no answer: the waiting call continues to query, and returns the payment."""
    for fault in ("error_after_commit", *(["bank_error"] if pos.api == "wx2.micropay" else [])):
        order = await system.order()
        await system.simulator.fault(pos.api, fault, queries=0)
        attempt = await pos.scan(order, seconds=9)
        assert attempt.state.value == "SUCCESS"
        assert (await system.read(order)).state is OrderState.SUCCESS


async def test_the_caller_repeats_the_call_with_the_same_code(system: PayCenterSystem, pos: PointOfSale) -> None:
    order = await system.order()
    await system.simulator.fault(pos.api, pos.waits, queries=0)
    first = await pos.scan(order)
    assert first.state.value in ("WAITING", "UNKNOWN")
    second = await pos.scan(order)
    assert (second.id, second.state.value) == (first.id, "SUCCESS")
    assert await system.value("SELECT count(*) FROM pay_attempt") == 1


async def test_the_job_finishes_what_the_caller_left(system: PayCenterSystem, pos: PointOfSale) -> None:
    order = await system.order()
    await system.simulator.fault(pos.api, pos.waits, queries=1)
    await pos.scan(order)
    await pos.pass_time(6)
    await pos.pass_time(6)
    assert (await system.read(order)).state is OrderState.SUCCESS


async def test_never_confirmed_is_cancelled_at_the_channel(system: PayCenterSystem, pos: PointOfSale) -> None:
    order = await system.order()
    await system.simulator.fault(pos.api, pos.waits)
    await system.simulator.fault(pos.cancel, pos.again)
    attempt = await pos.scan(order)
    await pos.pass_time(61)
    # A repetition is required: not closed yet, and due again within seconds.
    assert await system.value("SELECT state FROM pay_attempt") in ("WAITING", "UNKNOWN")
    await pos.pass_time(6)
    assert await system.value("SELECT state FROM pay_attempt") == "CLOSED"
    assert (await pos.trade(attempt))["state"] in ("CLOSED", "REVOKED")
    assert (await system.read(order)).state is OrderState.WAITING
    # The payer shows another code: a new number.
    pos.auth_code = pos.auth_code[:-1] + "0"
    again = await pos.scan(order)
    assert again.id != attempt.id
    assert (await system.read(order)).state is OrderState.SUCCESS


@pytest.mark.parametrize("fault", ["error_after_commit", "reset", "bad_signature"])
async def test_unknown_then_found_paid(system: PayCenterSystem, pos: PointOfSale, fault: str) -> None:
    order = await system.order()
    await system.simulator.fault(pos.api, fault)
    # Unclear at first, or decided by the following query: both are valid.
    with contextlib.suppress(PayCenterError):
        await pos.scan(order)
    await pos.pass_time(6)
    assert (await system.read(order)).state is OrderState.SUCCESS
    assert await system.value("SELECT count(*) FROM pay_attempt") == 1
    assert await system.cases() == []


@pytest.mark.parametrize("fault", ["error_before_commit", "reset_before_commit"])
async def test_unknown_then_not_found(system: PayCenterSystem, pos: PointOfSale, fault: str) -> None:
    order = await system.order()
    await system.simulator.fault(pos.api, fault)
    with pytest.raises(PayCenterError) as caught:
        await pos.scan(order)
    assert caught.value.reason is Reason.CHANNEL_UNCLEAR
    for _ in range(4):
        await pos.pass_time(61)
    assert (await system.read(order)).state is OrderState.WAITING
    assert await system.value("SELECT paid_amount FROM pay_attempt") == 0


async def test_a_decline_has_its_reason(system: PayCenterSystem, pos: PointOfSale) -> None:
    order = await system.order()
    words = {"alipay_bar": "ACQ.BUYER_BALANCE_NOT_ENOUGH", "wx_bar": "NOTENOUGH"}
    await system.simulator.fault(pos.api, "decline", code=words[pos.code])
    with pytest.raises(PayCenterError) as caught:
        await pos.scan(order)
    assert caught.value.reason is Reason.CHANNEL_REFUSED
    assert caught.value.metadata["channel_error_code"] == words[pos.code]
    pos.auth_code = pos.auth_code[:-1] + "1"
    await pos.scan(order)
    assert (await system.read(order)).state is OrderState.SUCCESS


async def test_close_while_the_payer_confirms(system: PayCenterSystem, pos: PointOfSale) -> None:
    order = await system.order()
    await system.simulator.fault(pos.api, pos.waits)
    attempt = await pos.scan(order)
    if pos.code == "wx_bar":
        # WeChat Pay requires 15 s between payment and reversal. Until then nothing is sent, and the error has the waiting time.
        pos.auth_code = pos.auth_code[:-1] + "1"
        for call in (lambda: system.services.orders.close(system.caller, order.number), lambda: pos.scan(order)):
            with pytest.raises(PayCenterError) as caught:
                await call()
            assert caught.value.reason is Reason.ATTEMPT_PENDING
            assert caught.value.retry_after is not None
            assert 10 < caught.value.retry_after <= 15
        assert (await pos.trade(attempt))["state"] == "USERPAYING"
        system.clock.advance(15)
    closed = await system.services.orders.close(system.caller, order.number)
    assert closed.state is OrderState.CLOSED
    assert (await pos.trade(attempt))["state"] in ("CLOSED", "REVOKED")


@pytest.mark.parametrize("fault", ["error_before_commit", "unsigned"])
async def test_a_query_without_a_clear_answer_does_not_prevent_the_cancellation(
    system: PayCenterSystem, pos: PointOfSale, fault: str
) -> None:
    """ "Still unknown: cancel at once after the last query." """
    order = await system.order()
    await system.simulator.fault(pos.api, pos.waits)
    attempt = await pos.scan(order)
    await system.simulator.fault(pos.query, fault, times=-1)
    await pos.pass_time(31)
    assert (await pos.trade(attempt))["state"] == "USERPAYING"
    await pos.pass_time(31)
    assert await system.value("SELECT state FROM pay_attempt") == "CLOSED"
    assert (await pos.trade(attempt))["state"] in ("CLOSED", "REVOKED")


async def test_what_is_a_case_is_not_cancelled(system: PayCenterSystem, pos: PointOfSale) -> None:
    """Paid with another amount: an operator decides, so the payment is not cancelled."""
    order = await system.order()
    await system.simulator.fault(pos.api, pos.waits)
    attempt = await pos.scan(order)
    await system.simulator.post(f"/simulator/pay/{attempt.out_trade_no}", {"amount": 1})
    await pos.pass_time(6)
    await pos.pass_time(61)
    await eventually(system.cases)
    assert [case["kind"] for case in await system.cases()] == ["WRONG_AMOUNT"]
    assert (await pos.trade(attempt))["refunded"] == 0


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
async def test_a_code_that_arrives_after_its_reversal(kind: str, then: str, system_on: SystemOn) -> None:
    """WeChat Pay does not know the number at the reversal, so it is queried again, and then reversed or booked."""
    transport = Slow()
    async with system_on(transport) as system:
        pos = await make_point_of_sale(system, kind)
        order = await system.order()
        with pytest.raises(PayCenterError):
            await pos.scan(order)
        await pos.pass_time(61)
        assert await system.value("SELECT state FROM pay_attempt") == "CLOSED"
        if then:
            await system.simulator.fault(pos.api, then)
        await transport.inner.send(transport.kept[0], 5)
        (attempt,) = await system.services.orders.attempts(order)
        await pos.pass_time(61)
        if then:
            assert (await pos.trade(attempt))["state"] == "REVOKED"
            # It is looked at again by the verification schedule only.
            assert await system.value("SELECT next_check_time - update_time > interval '3 min' FROM pay_attempt")
        else:
            # The order was not closed, so it is paid.
            assert (await system.read(order)).state is OrderState.SUCCESS


async def test_the_code_is_needed(system: PayCenterSystem, pos: PointOfSale) -> None:
    order = await system.order()
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, pos.code)
    assert [violation.field for violation in caught.value.violations] == ["channel_extras.auth_code"]
    assert OPERATOR.is_operator
