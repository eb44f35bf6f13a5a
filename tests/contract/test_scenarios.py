"""The same scenarios for every way to pay, against the simulator: the results for a merchant must not depend on the channel.

`WAYS` (test_scenarios_ways.py) are all channel codes, in each protocol version; `SCENARIOS` what happens to each;
`NOT_APPLICABLE` which pairs cannot happen, and why. `SAMPLED` are pairs that another version
of the same code stands for. Every other pair is a test of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from contract.test_scenarios_ways import AMOUNT, LIFE, WAYS, ScenarioContext, Way
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.states import AttemptState, OrderState, RefundState
from support.system import PayCenterSystem
from support.waiting import eventually

_PAGES = ("alipay_pc", "alipay_wap", "alipay_app")
_NEVER_NOTIFIED = "WeChat never notifies bar payments, and a reversed one cannot be paid"
_NO_CALLBACKS = "the mock channel has no other side: it sends no callbacks and echoes the amount it was asked for"
NOT_APPLICABLE: dict[tuple[str, str], str] = {
    **{("decline", name): "made by the payer's side: Alipay tells the payer, and no call of ours is refused" for name in _PAGES},
    **{
        (scenario, name): _NEVER_NOTIFIED
        for scenario in ("late", "same_notification_again", "reordered")
        for name in ("wx_bar-v2", "wx_bar-codepay")
    },
    ("expiry", "wx_bar-codepay"): "codepay takes no expiry: the attempt is reversed after its 45 s",
    ("expiry", "mock"): "the mock channel has no other side",
    ("same_notification_again", "mock"): _NO_CALLBACKS,
    ("reordered", "mock"): _NO_CALLBACKS,
    ("wrong_amount", "mock"): _NO_CALLBACKS,
}
# The refunds of these five share their code in each version, so half of the pairs are enough.
_REFUNDS = ("partial_refunds", "refund_refused", "refund_retried")
_V3_ONLY, _V2_ONLY = ("wx_native", "wx_lite", "wx_wap"), ("wx_pub", "wx_app")
SAMPLED = {
    *((scenario, f"{code}-v2") for scenario in _REFUNDS for code in _V3_ONLY),
    *((scenario, f"{code}-v3") for scenario in _REFUNDS for code in _V2_ONLY),
}


async def success(context: ScenarioContext) -> None:
    paid = await context.paid()
    assert (paid.paid_amount, paid.channel_code) == (AMOUNT, context.way.code)
    assert paid.channel_order_no
    assert paid.channel_user_id
    if context.way.code != "mock":
        shown = await context.at_channel(await context.number())
        assert (paid.channel_user_id, paid.channel_order_no) == (shown["payer"], shown["transaction_id"])
        assert paid.success_time == datetime.fromisoformat(shown["paid_at"])
    assert [post.json["type"] for post in await context.system.deliver()] == ["pay_order.success"]
    assert await context.system.cases() == []
    with pytest.raises(PayCenterError) as caught:
        await context.submit()
    assert caught.value.reason is Reason.ORDER_PAID


async def decline(context: ScenarioContext) -> None:
    way = context.way
    if way.pay_api:
        await context.fault(way.pay_api, "decline", code=way.decline)
    with pytest.raises(PayCenterError) as caught:
        await context.submit(**({} if way.pay_api else {"behaviour": "failure"}))
    assert caught.value.reason is Reason.CHANNEL_REFUSED
    assert caught.value.metadata["channel_error_code"] == way.decline
    assert await context.system.value("SELECT state FROM pay_attempt") == "CLOSED"
    # The payer tries again: a new number, and the order is paid.
    await context.paid()
    assert await context.system.value("SELECT count(*) FROM pay_attempt") == 2


async def unknown_then_paid(context: ScenarioContext) -> None:
    way, system = context.way, context.system
    if way.code == "mock":
        await context.submit(behaviour="timeout")
    elif way.pay_api:
        await context.fault(way.pay_api, "error_after_commit")
        with contextlib.suppress(PayCenterError):  # the caller at a point of sale may find the payment in the same call
            await context.submit()
        if not way.at_point_of_sale:
            assert await system.value("SELECT state FROM pay_attempt") == "UNKNOWN"
            await system.simulator.pay(await context.number(), notify=False)
    else:
        await context.pay(notify=False)
        await context.fault(way.query_api, "error_after_commit")
        await context.pass_time(6)
        assert await context.state() is OrderState.WAITING
    await context.pass_time(31)
    assert await context.state() is OrderState.SUCCESS
    assert await system.value("SELECT count(*) FROM pay_attempt") == 1
    assert await system.cases() == []


async def unknown_then_not_paid(context: ScenarioContext) -> None:
    way, system = context.way, context.system
    if way.pay_api or way.code == "mock":
        if way.pay_api:
            await context.fault(way.pay_api, "error_before_commit")
        with pytest.raises(PayCenterError) as caught:
            await context.submit(**({} if way.pay_api else {"behaviour": "lost"}))
        assert caught.value.reason is Reason.CHANNEL_UNCLEAR
        assert await system.value("SELECT state FROM pay_attempt") == "UNKNOWN"
    else:
        await context.open(await context.submit())
        await context.fault(way.query_api, "error_before_commit")
    await context.pass_time(6)
    # It is not known to be unpaid, so nothing is closed before its expiry.
    assert await context.state() is OrderState.WAITING
    await context.pass_time(LIFE)
    await context.pass_time(31)
    assert await context.state() is OrderState.CLOSED
    assert await system.value("SELECT sum(paid_amount) FROM pay_attempt") == 0
    assert [post.json["type"] for post in await system.deliver()] == ["pay_order.closed"]


async def _closed(context: ScenarioContext) -> str:
    """The app closes the order while the payer confirms. Returns the number."""
    way = context.way
    if way.at_point_of_sale:
        await context.fault(way.pay_api, way.waits)
    attempt = await context.submit(**({"behaviour": "late_after_close", "late_seconds": "60"} if way.code == "mock" else {}))
    number = await context.open(attempt)
    if way.code == "wx_bar":
        context.system.clock.advance(15)  # WeChat Pay requires this time between a payment and its reversal
    closed = await context.system.services.orders.close(context.system.caller, context.order.number)
    assert closed.state is OrderState.CLOSED
    assert await context.system.value("SELECT state FROM pay_attempt") == AttemptState.CLOSED.value
    return number


async def expiry(context: ScenarioContext) -> None:
    """The channel got the expiry of the attempt, exact to the second."""
    way = context.way
    if way.at_point_of_sale:
        await context.fault(way.pay_api, way.waits)
    attempt = await context.submit()
    shown = datetime.fromisoformat((await context.at_channel(await context.open(attempt)))["expires"])
    if way.at_point_of_sale:
        # Channels accept one minute or more. The attempt expires before that, and is then cancelled there.
        assert timedelta(0) <= shown - attempt.expire_time <= timedelta(seconds=30)
    else:
        assert shown == attempt.expire_time == context.order.expire_time


async def closed(context: ScenarioContext) -> None:
    number = await _closed(context)
    if context.way.code != "mock":
        assert (await context.at_channel(number))["state"] in ("CLOSED", "REVOKED")
        with pytest.raises(AssertionError, match="409"):
            await context.system.simulator.pay(number)
    with pytest.raises(PayCenterError) as caught:
        await context.submit()
    assert caught.value.reason is Reason.ORDER_CLOSED
    assert [post.json["type"] for post in await context.system.deliver()] == ["pay_order.closed"]


async def late(context: ScenarioContext) -> None:
    number = await _closed(context)
    if context.way.code == "mock":
        await context.pass_time(LIFE + 61)
    else:
        await context.system.simulator.pay(number, force=True)
    await context.surplus_is_refunded("LATE_PAYMENT")
    assert await context.state() is OrderState.CLOSED


async def same_notification_again(context: ScenarioContext) -> None:
    await context.pay(**({} if context.way.at_point_of_sale else {"times": 3}))
    await context.system.until(context.order, "SUCCESS")
    number = await context.number()
    for _ in range(3):
        await context.system.simulator.post(f"/simulator/resend/{number}")

    async def sends() -> bool:
        notifications = (await context.at_channel(number))["notifications"]
        return len([send for item in notifications for send in item["attempts"] if "accepted" in send]) >= 4

    await eventually(sends)
    assert [post.json["type"] for post in await context.system.deliver()] == ["pay_order.success"]
    assert (await context.system.read(context.order)).paid_amount == AMOUNT
    assert await context.system.cases() == []


async def reordered(context: ScenarioContext) -> None:
    """The refund is reported before its payment, which a query has found."""
    system = context.system
    await context.fault("notify", "reordered", seconds=3600)
    await context.pay()
    await context.pass_time(6)
    await system.until(context.order, "SUCCESS")
    refund = await context.system.decided(await system.refund(context.order, 40))
    assert refund.state is RefundState.SUCCESS
    number = await context.number()

    async def both_done() -> bool:
        return [item["state"] for item in (await context.at_channel(number))["notifications"]] == ["DONE", "DONE"]

    await eventually(both_done)
    payment, refunded = (await context.at_channel(number))["notifications"]
    assert refunded["attempts"][0]["time"] < payment["attempts"][-1]["time"]
    after = await system.read(context.order)
    assert (after.paid_amount, after.refunded_amount, after.reserved_amount) == (AMOUNT, 40, 0)
    assert sorted(post.json["type"] for post in await system.deliver()) == ["pay_order.success", "pay_refund.success"]
    assert await system.cases() == []


async def second_payment(context: ScenarioContext) -> None:
    system, way = context.system, context.way
    if way.notified and not way.at_point_of_sale:
        # First a submit in this way, then in another way that is paid at once, and then the payer pays in this way too.
        number, booked = await context.open(await context.submit()), "mock"
        await system.submit(context.order, booked)
    else:
        # An Alipay QR code that was not scanned cannot be closed, and is paid after this way.
        number, booked = (await system.submit(context.order, "alipay_qr")).out_trade_no, way.code
        await context.pay()
    await system.until(context.order, "SUCCESS")
    await system.simulator.pay(number, force=True)
    await context.surplus_is_refunded("DUPLICATE_PAYMENT")
    after = await system.read(context.order)
    assert (after.state, after.channel_code, after.refunded_amount) == (OrderState.SUCCESS, booked, 0)


async def wrong_amount(context: ScenarioContext) -> None:
    if context.way.at_point_of_sale:
        await context.fault(context.way.pay_api, "wrong_amount", amount=1)
        # Only the answer has the wrong amount: Alipay's notification of the same trade has the right one, and may be faster.
        await context.fault("alipay.notify" if context.way.code == "alipay_bar" else "wx.notify", "drop", times=-1)
        with contextlib.suppress(PayCenterError):
            await context.submit()
    else:
        await context.pay(amount=1)
    case = await context.case()
    assert (case["kind"], case["amount"]) == ("WRONG_AMOUNT", 1)
    assert await context.state() is OrderState.WAITING


async def partial_refunds(context: ScenarioContext) -> None:
    system, order = context.system, await context.paid()
    for amount in (33, 33, 33, 1):
        refund = await context.system.decided(await system.refund(order, amount))
        assert refund.state is RefundState.SUCCESS
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 1)
    assert caught.value.reason is Reason.REFUND_EXCEEDS_PAID
    after = await system.read(order)
    assert (after.state, after.refunded_amount, after.reserved_amount) == (OrderState.REFUND, AMOUNT, 0)
    if context.way.code != "mock":
        assert [item["amount"] for item in (await context.at_channel(await context.number()))["refunds"]] == [33, 33, 33, 1]
    events = [post.json["type"] for post in await system.deliver()]
    assert sorted(events) == ["pay_order.success", *["pay_refund.success"] * 4]
    assert await system.cases() == []


async def _refused(context: ScenarioContext) -> Any:
    """A paid order with a refund that the channel refused, under the number AFTERSALE."""
    order = await context.paid(**({"refund": "failure"} if context.way.code == "mock" else {}))
    if context.way.refund_api:
        await context.fault(context.way.refund_api, "decline", code=context.way.refuse_refund)
    refund = await context.system.decided(await context.system.refund(order, 40, merchant_refund_no="AFTERSALE"))
    assert (refund.state, refund.channel_error_code) == (RefundState.FAILURE, context.way.refuse_refund)
    return refund


async def refund_refused(context: ScenarioContext) -> None:
    await _refused(context)
    after = await context.system.read(context.order)
    assert (after.state, after.refunded_amount, after.reserved_amount) == (OrderState.SUCCESS, 0, 0)
    events = [post.json["type"] for post in await context.system.deliver()]
    assert sorted(events) == ["pay_order.success", "pay_refund.failure"]


async def refund_retried(context: ScenarioContext) -> None:
    system, refused = context.system, await _refused(context)
    if context.way.code == "mock":
        await system.rows('UPDATE pay_attempt SET channel_extras = \'{"refund": "lost"}\'')
    else:
        # Sent again under a new number; the answer is lost, and the app repeats its call.
        await context.fault(context.way.refund_api, "error_after_commit")
    first = await system.refund(context.order, 40, merchant_refund_no="AFTERSALE")
    if context.way.code == "mock":
        await system.rows('UPDATE pay_attempt SET channel_extras = \'{"refund": "success"}\'')
    again = await context.system.decided(await system.refund(context.order, 40, merchant_refund_no="AFTERSALE"))
    assert (again.id, again.out_refund_no, again.state) == (refused.id, first.out_refund_no, RefundState.SUCCESS)
    assert again.out_refund_no != refused.out_refund_no
    assert (await system.read(context.order)).refunded_amount == 40
    if context.way.code != "mock":
        assert [item["amount"] for item in (await context.at_channel(await context.number()))["refunds"]] == [40]


SCENARIOS: tuple[Callable[[ScenarioContext], Awaitable[None]], ...] = (
    success, decline, unknown_then_paid, unknown_then_not_paid, expiry, closed, late, same_notification_again, reordered,
    second_payment, wrong_amount, partial_refunds, refund_refused, refund_retried,
)  # fmt: skip
PAIRS = [
    pytest.param(scenario, way, id=f"{scenario.__name__}-{way.name}")
    for scenario in SCENARIOS
    for way in WAYS
    if (scenario.__name__, way.name) not in {*NOT_APPLICABLE, *SAMPLED}
]


@pytest.mark.parametrize(("scenario", "way"), PAIRS)
async def test_scenario(system: PayCenterSystem, scenario: Callable[[ScenarioContext], Awaitable[None]], way: Way) -> None:
    context = ScenarioContext(system, way)
    await context.set_up()
    await scenario(context)


def test_what_is_left_out_exists() -> None:
    assert {(scenario.__name__, way.name) for scenario in SCENARIOS for way in WAYS} > {*NOT_APPLICABLE, *SAMPLED}
