"""Refunds that PayCenter did not make (the channel's console), or that a callback without proof reports."""

from __future__ import annotations

from typing import Any

import pytest
from integration.test_bar_codes import make_point_of_sale
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport, TransportUnclearError
from paycenter_server.domain.cases import Decision
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.states import OrderState, RefundState
from support.cases import ANNE, decide, last_case
from support.system import OPERATOR, PayCenterSystem, SystemOn
from support.waiting import eventually

WAYS = ["wx_native-v3", "wx_native-v2", "alipay_qr"]


@pytest.fixture(params=WAYS)
async def way(system: PayCenterSystem, request: pytest.FixtureRequest) -> str:
    if request.param == "wx_native-v2":
        system.configs["wx_native"] = system.configs["wx_bar"]
        await system.services.channels.update(OPERATOR, system.channels["wx_native"], {}, *system.configs["wx_native"])
    return str(request.param)


async def paid(system: PayCenterSystem, way: str, *, known: bool = True) -> tuple[Any, str]:
    """An order that is paid at the channel, and (unless not `known`) here; and its number there."""
    order = await system.order()
    code = way.partition("-")[0]
    attempt = await system.submit(order, code)
    if code == "alipay_qr":
        await system.session.get(f"{system.simulator.base}/cashier/{attempt.out_trade_no}")
    await system.simulator.pay(attempt.out_trade_no, notify=known)
    if known:
        await system.until(order, "SUCCESS")
    return order, attempt.out_trade_no


async def refund_in_the_console(system: PayCenterSystem, way: str, number: str, amount: int) -> None:
    code = way.partition("-")[0]
    notification_url = "" if code == "alipay_qr" else f"{system.sidecar}/callback/refund/{system.channels[code]}"
    await system.simulator.post(f"/simulator/refund/{number}", {"amount": amount, "notify_url": notification_url})


async def sends(system: PayCenterSystem, number: str, count: int) -> list[bool]:
    """Whether each send of the refund's callback was accepted, once there are this many."""

    async def answered() -> list[bool]:
        notifications = (await system.simulator.get(f"/simulator/trades/{number}"))["notifications"]
        found = [item["accepted"] for item in notifications[1]["attempts"] if "accepted" in item] if len(notifications) == 2 else []
        return found if len(found) >= count else []

    return await eventually(answered)


async def all_answered(system: PayCenterSystem, number: str, sends: int) -> None:
    """Every callback of a trade was sent and answered: this many sends in all."""

    async def answered() -> bool:
        notifications = (await system.simulator.get(f"/simulator/trades/{number}"))["notifications"]
        return len([send for item in notifications for send in item["attempts"] if "accepted" in send]) >= sends

    await eventually(answered)


async def sends_so_far(system: PayCenterSystem, number: str) -> int:
    notifications = (await system.simulator.get(f"/simulator/trades/{number}"))["notifications"]
    return sum(len(item["attempts"]) for item in notifications)


async def test_a_refund_made_in_the_console_becomes_a_case(system: PayCenterSystem, way: str) -> None:
    order, number = await paid(system, way)
    await refund_in_the_console(system, way, number, 40)
    cases = await eventually(system.cases)
    assert [(case["kind"], case["amount"], case["order_id"]) for case in cases] == [("REFUND_ELSEWHERE", 40, order.id)]
    assert (await system.read(order)).refunded_amount == 0
    # Reported again: the same case.
    before = await sends_so_far(system, number)
    await system.simulator.post(f"/simulator/resend/{number}")
    await all_answered(system, number, before + 1)
    assert len(await system.cases()) == 1


async def test_a_callback_that_cannot_be_confirmed_is_not_acknowledged(system: PayCenterSystem, way: str) -> None:
    if way == "wx_native-v3":
        await system.simulator.fault("wx.refund_query", "error_before_commit")
    elif way == "wx_native-v2":
        await system.simulator.fault("wx2.refundquery", "error_before_commit")
    else:
        await system.simulator.fault("alipay.trade.fastpay.refund.query", "error_before_commit")
    _, number = await paid(system, way)
    await refund_in_the_console(system, way, number, 40)
    assert await sends(system, number, 1) == [False]
    assert await system.cases() == []
    await system.simulator.advance(241)
    assert (await sends(system, number, 2))[-1]
    assert [case["kind"] for case in await system.cases()] == ["REFUND_ELSEWHERE"]


async def test_a_lost_callback_of_alipays_console_is_seen_with_the_next(system: PayCenterSystem) -> None:
    """The callback about our own refund states the total of both."""
    order, number = await paid(system, "alipay_qr")
    await system.simulator.fault("alipay.notify", "drop")
    await refund_in_the_console(system, "alipay_qr", number, 30)

    async def given_back() -> bool:
        return bool((await system.simulator.get(f"/simulator/trades/{number}"))["refunded"])

    await eventually(given_back)
    assert await system.cases() == []
    await system.refund(order, 40)
    cases = await eventually(system.cases)
    assert [(case["kind"], case["amount"], case["order_id"]) for case in cases] == [("REFUND_ELSEWHERE", 30, order.id)]
    assert (await system.read(order)).refunded_amount == 40


async def test_a_refund_in_alipays_console_is_one_case(system: PayCenterSystem) -> None:
    """Also when its case was decided, and the callback about our own refund states the total of both."""
    order, number = await paid(system, "alipay_qr")
    await refund_in_the_console(system, "alipay_qr", number, 30)
    await eventually(system.cases)
    await decide(system, ANNE, await last_case(system), Decision.CLOSE, "made in the console")
    before = await sends_so_far(system, number)
    await system.refund(order, 40)
    await all_answered(system, number, before + 1)
    assert len(await system.cases()) == 1


async def test_refunds_of_parts_over_alipay_are_no_case(system: PayCenterSystem) -> None:
    order, number = await paid(system, "alipay_qr")
    before = await sends_so_far(system, number)
    for count, amount in enumerate((40, 30, 30), 1):
        await system.refund(order, amount)
        await all_answered(system, number, before + count)
    assert await system.cases() == []
    assert (await system.read(order)).refunded_amount == 100


async def test_paid_and_refunded_before_the_first_report(system: PayCenterSystem, way: str) -> None:
    """The payment is booked, and a case reports that some of it was refunded already."""
    order, number = await paid(system, way, known=False)
    await system.simulator.post(f"/simulator/refund/{number}", {"amount": 100 if way == "alipay_qr" else 40})

    async def given_back() -> bool:
        return bool((await system.simulator.get(f"/simulator/trades/{number}"))["refunded"])

    await eventually(given_back)
    await system.services.orders.sync(system.caller, order.number)
    after = await system.read(order)
    assert (after.state, after.paid_amount, after.refunded_amount) == (OrderState.SUCCESS, 100, 0)
    # The refund is reported too; there is one case.
    before = await sends_so_far(system, number)
    resent = await system.simulator.post(f"/simulator/resend/{number}", {"every": True})
    await all_answered(system, number, before + (1 if resent else 0))
    assert [case["kind"] for case in await system.cases()] == ["REFUND_ELSEWHERE"]
    # The app is told "paid" only together with the refund, and both are of one commit.
    assert await system.value("SELECT count(DISTINCT xmin::text) FROM pay_notify_task") == 1
    told = {post.json["type"]: post.json["data"] for post in await system.deliver()}
    assert sorted(told) == ["pay_case.opened", "pay_order.success"]
    case = told["pay_case.opened"]
    assert (case["kind"], case["merchant_order_id"]) == ("REFUND_ELSEWHERE", order.merchant_order_id)
    assert case["why"] == "refunded at the channel before the payment was known here"


async def test_a_refund_of_a_fully_refunded_trade_fails(system: PayCenterSystem) -> None:
    """The state of the trade does not allow it: the trade is queried, and is fully refunded."""
    order, number = await paid(system, "alipay_qr")
    await refund_in_the_console(system, "alipay_qr", number, 100)
    await system.simulator.fault("alipay.trade.refund", "decline", code="ACQ.TRADE_STATUS_ERROR", times=2)
    refund = await system.refund(order, 40)
    assert refund.state is RefundState.WAITING
    refund = await system.services.refunds.sync(system.caller, refund)
    assert (refund.state, refund.channel_error_code) == (RefundState.FAILURE, "ACQ.TRADE_STATUS_ERROR")
    assert (await system.read(order)).reserved_amount == 0


async def test_a_refund_of_a_trade_with_money_left_waits(system: PayCenterSystem) -> None:
    order, _ = await paid(system, "alipay_qr")
    await system.simulator.fault("alipay.trade.refund", "decline", code="ACQ.TRADE_STATUS_ERROR", times=2)
    refund = await system.services.refunds.sync(system.caller, await system.refund(order, 40))
    assert refund.state is RefundState.WAITING
    assert (await system.services.refunds.sync(system.caller, refund)).state is RefundState.SUCCESS


async def test_a_refund_reported_before_its_payment(system: PayCenterSystem, way: str) -> None:
    """The payment's callback is late: the payment is queried and booked, and the refund becomes one case."""
    order = await system.order()
    code = way.partition("-")[0]
    number = (await system.submit(order, code)).out_trade_no
    if code == "alipay_qr":
        await system.session.get(f"{system.simulator.base}/cashier/{number}")
    await system.simulator.pay(number, delay_seconds=3600)
    await refund_in_the_console(system, way, number, 40)
    await eventually(system.cases)
    before = await sends_so_far(system, number)
    await system.simulator.advance(3601)
    await all_answered(system, number, before + 1)
    after = await system.read(order)
    assert (after.state, after.paid_amount, after.refunded_amount) == (OrderState.SUCCESS, 100, 0)
    assert [case["kind"] for case in await system.cases()] == ["REFUND_ELSEWHERE"]


async def test_a_callback_of_success_after_a_failure(system: PayCenterSystem, way: str) -> None:
    """Failed here, and succeeded at the channel: it is booked late, with every form of callback."""
    system.books_are_checked = False
    order, number = await paid(system, way)
    refund = await system.decided(await system.refund(order, 40))
    await all_answered(system, number, 2)  # those of the payment and of the refund
    await system.rows(
        """WITH failed AS (UPDATE pay_refund SET state = 'FAILURE', success_time = NULL RETURNING order_id)
           UPDATE pay_order o SET state = 'SUCCESS', refunded_amount = 0 FROM failed WHERE o.id = failed.order_id"""
    )
    await system.simulator.post(f"/simulator/resend/{number}", {"every": True})
    assert await eventually(lambda: booked(system, refund)) is not None
    assert (await system.read(order)).refunded_amount == 40
    assert await system.cases() == []


async def booked(system: PayCenterSystem, refund: PayRefund) -> PayRefund | None:
    found = await system.services.refunds.load(system.caller, refund.number)
    return found if found.state is RefundState.SUCCESS else None


async def test_a_refund_of_a_fully_refunded_bar_code_payment_fails(system: PayCenterSystem) -> None:
    pos = await make_point_of_sale(system, "alipay")
    order = await system.order()
    attempt = await pos.scan(order)
    await refund_in_the_console(system, "alipay_qr", attempt.out_trade_no, 100)
    await system.simulator.fault("alipay.trade.refund", "decline", code="ACQ.TRADE_STATUS_ERROR", times=2)
    refund = await system.services.refunds.sync(system.caller, await system.refund(await system.read(order), 40))
    assert refund.state is RefundState.FAILURE


class LateFirst:
    """A network on which the first send of a refund arrives just before the second one."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.system: PayCenterSystem | None = None
        self.kept: HttpRequest | None = None

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if "method=alipay.trade.refund&" in request.url:
            if self.kept is None:
                self.kept = request
                raise TransportUnclearError("on its way")
            assert self.system is not None
            await self.inner.send(self.kept, seconds)
            await self.system.simulator.fault("alipay.trade.refund", "decline", code="ACQ.TRADE_STATUS_ERROR")
        return await self.inner.send(request, seconds)


async def test_a_trade_that_this_refund_has_fully_refunded_is_a_success(system_on: SystemOn) -> None:
    network = LateFirst()
    async with system_on(network) as system:
        network.system = system
        order, number = await paid(system, "alipay_qr")
        await system.simulator.fault("alipay.notify", "drop", times=-1)
        refund = await system.services.refunds.sync(system.caller, await system.refund(order, 100))
        assert refund.state is RefundState.SUCCESS
        assert (await system.simulator.get(f"/simulator/trades/{number}"))["refunded"] == 100
        assert (await system.read(order)).refunded_amount == 100


async def test_alipays_callback_settles_a_refund_whose_answer_was_lost(system: PayCenterSystem) -> None:
    order, _ = await paid(system, "alipay_qr")
    await system.simulator.fault("alipay.trade.refund", "error_after_commit")
    refund = await system.refund(order, 40)

    async def settled() -> bool:
        return (await system.services.refunds.load(system.caller, refund.number)).state is not RefundState.WAITING

    await eventually(settled)
    refund = await system.services.refunds.load(system.caller, refund.number)
    assert refund.state is RefundState.SUCCESS
    assert (await system.read(order)).refunded_amount == 40
    assert await system.cases() == []
