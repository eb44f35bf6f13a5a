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
from contract.test_scenarios_ways import AMOUNT, LIFE, WAYS, Stage, Way
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


async def success(stage: Stage) -> None:
    paid = await stage.paid()
    assert (paid.paid_amount, paid.channel_code) == (AMOUNT, stage.way.code)
    assert paid.channel_order_no
    assert paid.channel_user_id
    if stage.way.code != "mock":
        shown = await stage.at_channel(await stage.number())
        assert (paid.channel_user_id, paid.channel_order_no) == (shown["payer"], shown["transaction_id"])
        assert paid.success_time == datetime.fromisoformat(shown["paid_at"])
    assert [post.json["type"] for post in await stage.system.deliver()] == ["pay_order.success"]
    assert await stage.system.cases() == []
    with pytest.raises(PayCenterError) as caught:
        await stage.submit()
    assert caught.value.reason is Reason.ORDER_PAID


async def decline(stage: Stage) -> None:
    way = stage.way
    if way.pay_api:
        await stage.fault(way.pay_api, "decline", code=way.decline)
    with pytest.raises(PayCenterError) as caught:
        await stage.submit(**({} if way.pay_api else {"behaviour": "failure"}))
    assert caught.value.reason is Reason.CHANNEL_REFUSED
    assert caught.value.metadata["channel_error_code"] == way.decline
    assert await stage.system.value("SELECT state FROM pay_attempt") == "CLOSED"
    # The payer tries again: a new number, and the order is paid.
    await stage.paid()
    assert await stage.system.value("SELECT count(*) FROM pay_attempt") == 2


async def unknown_then_paid(stage: Stage) -> None:
    way, system = stage.way, stage.system
    if way.code == "mock":
        await stage.submit(behaviour="timeout")
    elif way.pay_api:
        await stage.fault(way.pay_api, "error_after_commit")
        with contextlib.suppress(PayCenterError):  # the caller at a point of sale may find the payment in the same call
            await stage.submit()
        if not way.at_the_till:
            assert await system.value("SELECT state FROM pay_attempt") == "UNKNOWN"
            await system.simulator.pay(await stage.number(), notify=False)
    else:
        await stage.pay(notify=False)
        await stage.fault(way.query_api, "error_after_commit")
        await stage.pass_time(6)
        assert await stage.state() is OrderState.WAITING
    await stage.pass_time(31)
    assert await stage.state() is OrderState.SUCCESS
    assert await system.value("SELECT count(*) FROM pay_attempt") == 1
    assert await system.cases() == []


async def unknown_then_not_paid(stage: Stage) -> None:
    way, system = stage.way, stage.system
    if way.pay_api or way.code == "mock":
        if way.pay_api:
            await stage.fault(way.pay_api, "error_before_commit")
        with pytest.raises(PayCenterError) as caught:
            await stage.submit(**({} if way.pay_api else {"behaviour": "lost"}))
        assert caught.value.reason is Reason.CHANNEL_UNCLEAR
        assert await system.value("SELECT state FROM pay_attempt") == "UNKNOWN"
    else:
        await stage.open(await stage.submit())
        await stage.fault(way.query_api, "error_before_commit")
    await stage.pass_time(6)
    # It is not known to be unpaid, so nothing is closed before its expiry.
    assert await stage.state() is OrderState.WAITING
    await stage.pass_time(LIFE)
    await stage.pass_time(31)
    assert await stage.state() is OrderState.CLOSED
    assert await system.value("SELECT sum(paid_amount) FROM pay_attempt") == 0
    assert [post.json["type"] for post in await system.deliver()] == ["pay_order.closed"]


async def _closed(stage: Stage) -> str:
    """The app closes the order while the payer confirms. Returns the number."""
    way = stage.way
    if way.at_the_till:
        await stage.fault(way.pay_api, way.waits)
    attempt = await stage.submit(**({"behaviour": "late_after_close", "late_seconds": "60"} if way.code == "mock" else {}))
    number = await stage.open(attempt)
    if way.code == "wx_bar":
        stage.system.clock.advance(15)  # WeChat Pay requires this time between a payment and its reversal
    closed = await stage.system.services.orders.close(stage.system.caller, stage.order.number)
    assert closed.state is OrderState.CLOSED
    assert await stage.system.value("SELECT state FROM pay_attempt") == AttemptState.CLOSED.value
    return number


async def expiry(stage: Stage) -> None:
    """The channel got the expiry of the attempt, exact to the second."""
    way = stage.way
    if way.at_the_till:
        await stage.fault(way.pay_api, way.waits)
    attempt = await stage.submit()
    shown = datetime.fromisoformat((await stage.at_channel(await stage.open(attempt)))["expires"])
    if way.at_the_till:
        # Channels accept one minute or more. The attempt expires before that, and is then cancelled there.
        assert timedelta(0) <= shown - attempt.expire_time <= timedelta(seconds=30)
    else:
        assert shown == attempt.expire_time == stage.order.expire_time


async def closed(stage: Stage) -> None:
    number = await _closed(stage)
    if stage.way.code != "mock":
        assert (await stage.at_channel(number))["state"] in ("CLOSED", "REVOKED")
        with pytest.raises(AssertionError, match="409"):
            await stage.system.simulator.pay(number)
    with pytest.raises(PayCenterError) as caught:
        await stage.submit()
    assert caught.value.reason is Reason.ORDER_CLOSED
    assert [post.json["type"] for post in await stage.system.deliver()] == ["pay_order.closed"]


async def late(stage: Stage) -> None:
    number = await _closed(stage)
    if stage.way.code == "mock":
        await stage.pass_time(LIFE + 61)
    else:
        await stage.system.simulator.pay(number, force=True)
    await stage.surplus_is_refunded("LATE_PAYMENT")
    assert await stage.state() is OrderState.CLOSED


async def same_notification_again(stage: Stage) -> None:
    await stage.pay(**({} if stage.way.at_the_till else {"times": 3}))
    await stage.system.until(stage.order, "SUCCESS")
    number = await stage.number()
    for _ in range(3):
        await stage.system.simulator.post(f"/simulator/resend/{number}")

    async def sends() -> bool:
        notifications = (await stage.at_channel(number))["notifications"]
        return len([send for item in notifications for send in item["attempts"] if "accepted" in send]) >= 4

    await eventually(sends)
    assert [post.json["type"] for post in await stage.system.deliver()] == ["pay_order.success"]
    assert (await stage.system.read(stage.order)).paid_amount == AMOUNT
    assert await stage.system.cases() == []


async def reordered(stage: Stage) -> None:
    """The refund is reported before its payment, which a query has found."""
    system = stage.system
    await stage.fault("notify", "reordered", seconds=3600)
    await stage.pay()
    await stage.pass_time(6)
    await system.until(stage.order, "SUCCESS")
    refund = await stage.settled(await system.refund(stage.order, 40))
    assert refund.state is RefundState.SUCCESS
    number = await stage.number()

    async def both_done() -> bool:
        return [item["state"] for item in (await stage.at_channel(number))["notifications"]] == ["DONE", "DONE"]

    await eventually(both_done)
    payment, refunded = (await stage.at_channel(number))["notifications"]
    assert refunded["attempts"][0]["time"] < payment["attempts"][-1]["time"]
    after = await system.read(stage.order)
    assert (after.paid_amount, after.refunded_amount, after.reserved_amount) == (AMOUNT, 40, 0)
    assert sorted(post.json["type"] for post in await system.deliver()) == ["pay_order.success", "pay_refund.success"]
    assert await system.cases() == []


async def second_payment(stage: Stage) -> None:
    system, way = stage.system, stage.way
    if way.notified and not way.at_the_till:
        # First a submit in this way, then in another way that is paid at once, and then the payer pays in this way too.
        number, booked = await stage.open(await stage.submit()), "mock"
        await system.submit(stage.order, booked)
    else:
        # An Alipay QR code that was not scanned cannot be closed, and is paid after this way.
        number, booked = (await system.submit(stage.order, "alipay_qr")).out_trade_no, way.code
        await stage.pay()
    await system.until(stage.order, "SUCCESS")
    await system.simulator.pay(number, force=True)
    await stage.surplus_is_refunded("DUPLICATE_PAYMENT")
    after = await system.read(stage.order)
    assert (after.state, after.channel_code, after.refunded_amount) == (OrderState.SUCCESS, booked, 0)


async def wrong_amount(stage: Stage) -> None:
    if stage.way.at_the_till:
        await stage.fault(stage.way.pay_api, "wrong_amount", amount=1)
        # Only the answer has the wrong amount: Alipay's notification of the same trade has the right one, and may be faster.
        await stage.fault("alipay.notify" if stage.way.code == "alipay_bar" else "wx.notify", "drop", times=-1)
        with contextlib.suppress(PayCenterError):
            await stage.submit()
    else:
        await stage.pay(amount=1)
    case = await stage.case()
    assert (case["kind"], case["amount"]) == ("WRONG_AMOUNT", 1)
    assert await stage.state() is OrderState.WAITING


async def partial_refunds(stage: Stage) -> None:
    system, order = stage.system, await stage.paid()
    for amount in (33, 33, 33, 1):
        refund = await stage.settled(await system.refund(order, amount))
        assert refund.state is RefundState.SUCCESS
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 1)
    assert caught.value.reason is Reason.REFUND_EXCEEDS_PAID
    after = await system.read(order)
    assert (after.state, after.refunded_amount, after.reserved_amount) == (OrderState.REFUND, AMOUNT, 0)
    if stage.way.code != "mock":
        assert [item["amount"] for item in (await stage.at_channel(await stage.number()))["refunds"]] == [33, 33, 33, 1]
    events = [post.json["type"] for post in await system.deliver()]
    assert sorted(events) == ["pay_order.success", *["pay_refund.success"] * 4]
    assert await system.cases() == []


async def _refused(stage: Stage) -> Any:
    """A paid order with a refund that the channel refused, under the number AFTERSALE."""
    order = await stage.paid(**({"refund": "failure"} if stage.way.code == "mock" else {}))
    if stage.way.refund_api:
        await stage.fault(stage.way.refund_api, "decline", code=stage.way.refuse_refund)
    refund = await stage.settled(await stage.system.refund(order, 40, merchant_refund_no="AFTERSALE"))
    assert (refund.state, refund.channel_error_code) == (RefundState.FAILURE, stage.way.refuse_refund)
    return refund


async def refund_refused(stage: Stage) -> None:
    await _refused(stage)
    after = await stage.system.read(stage.order)
    assert (after.state, after.refunded_amount, after.reserved_amount) == (OrderState.SUCCESS, 0, 0)
    events = [post.json["type"] for post in await stage.system.deliver()]
    assert sorted(events) == ["pay_order.success", "pay_refund.failure"]


async def refund_retried(stage: Stage) -> None:
    system, refused = stage.system, await _refused(stage)
    if stage.way.code == "mock":
        await system.rows('UPDATE pay_attempt SET channel_extras = \'{"refund": "success"}\'')
    else:
        # Sent again under a new number; the answer is lost, and the app repeats its call.
        await stage.fault(stage.way.refund_api, "error_after_commit")
    first = await system.refund(stage.order, 40, merchant_refund_no="AFTERSALE")
    again = await stage.settled(await system.refund(stage.order, 40, merchant_refund_no="AFTERSALE"))
    assert (again.id, again.out_refund_no, again.state) == (refused.id, first.out_refund_no, RefundState.SUCCESS)
    assert again.out_refund_no != refused.out_refund_no
    assert (await system.read(stage.order)).refunded_amount == 40
    if stage.way.code != "mock":
        assert [item["amount"] for item in (await stage.at_channel(await stage.number()))["refunds"]] == [40]


SCENARIOS: tuple[Callable[[Stage], Awaitable[None]], ...] = (
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
async def test_scenario(system: PayCenterSystem, scenario: Callable[[Stage], Awaitable[None]], way: Way) -> None:
    stage = Stage(system, way)
    await stage.set_up()
    await scenario(stage)


def test_what_is_left_out_exists() -> None:
    assert {(scenario.__name__, way.name) for scenario in SCENARIOS for way in WAYS} > {*NOT_APPLICABLE, *SAMPLED}
