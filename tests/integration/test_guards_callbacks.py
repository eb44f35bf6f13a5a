"""Guards of the callbacks: the answer to the channel (rule 5). `make mutants` removes each of them.

An acknowledgement ends the channel's own schedule, so one too many loses the message for good.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from paycenter_server.channels.protocol import (
    Callback,
    CallbackRequest,
    QueryOutcome,
    QueryStatus,
    RefundFacts,
    RefundOutcome,
    RefundStatus,
)
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.states import OrderState
from support.facts import configured, failed, payment_of, refunded
from support.system import OPERATOR, PayCenterSystem
from support.waiting import eventually

CODES = ["wx_native", "alipay_qr"]


async def first_answer(system: PayCenterSystem, attempt: PayAttempt) -> bool:
    """Whether the channel's first callback of this trade was acknowledged."""

    async def sent() -> list[Any]:
        (callback, *_) = (await system.simulator.get(f"/simulator/trades/{attempt.out_trade_no}"))["notifications"] or [{}]
        answered: list[Any] = [send for send in callback.get("attempts", []) if "accepted" in send]
        return answered

    return bool((await eventually(sent))[0]["accepted"])


@pytest.mark.parametrize("code", CODES)
async def test_a_message_of_another_account_is_not_acknowledged(system: PayCenterSystem, code: str) -> None:
    """Genuine and signed, but of another merchant or application: nothing is booked or acknowledged."""
    attempt = await system.submit(await system.order(), code)
    channel = await configured(system, code)
    name = sorted(channel.codec.account)[0]
    channel.codec.account = {**channel.codec.account, name: "another"}
    await system.simulator.pay(attempt.out_trade_no)
    assert not await first_answer(system, attempt)
    assert await system.value("SELECT state FROM pay_order") == "WAITING"


@pytest.mark.parametrize("code", CODES)
async def test_a_message_that_is_stored_is_acknowledged(system: PayCenterSystem, code: str) -> None:
    attempt = await system.submit(await system.order(), code)
    await system.simulator.pay(attempt.out_trade_no)
    assert await first_answer(system, attempt)
    assert await system.value("SELECT state FROM pay_order") == "SUCCESS"


@pytest.mark.parametrize("code", CODES)
async def test_a_message_that_cannot_be_stored_is_not_acknowledged(system: PayCenterSystem, code: str) -> None:
    attempt = await system.submit(await system.order(), code)
    await system.rows("ALTER TABLE pay_notify_task ADD CONSTRAINT broken CHECK (false) NOT VALID")
    try:
        await system.simulator.pay(attempt.out_trade_no)
        assert not await first_answer(system, attempt)
    finally:
        await system.rows("ALTER TABLE pay_notify_task DROP CONSTRAINT broken")
    assert await system.value("SELECT state FROM pay_order") == "WAITING"


@pytest.mark.parametrize("code", CODES)
async def test_a_message_that_does_not_verify_is_not_acknowledged(system: PayCenterSystem, code: str) -> None:
    attempt = await system.submit(await system.order(), code)
    await system.simulator.pay(attempt.out_trade_no, bad_signature=True)
    assert not await first_answer(system, attempt)
    assert await system.value("SELECT state FROM pay_order") == "WAITING"


class Says:
    """A codec with callbacks of the test; everything else is unchanged."""

    def __init__(self, inner: Any, callback: Callback) -> None:
        self._inner, self._notification = inner, callback

    def parse_callback(self, request: CallbackRequest, now: Any) -> Callback:
        return self._notification

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def say(system: PayCenterSystem, callback: Callback, code: str = "mock") -> int:
    """The status of the answer to a verified callback with this content."""
    channel = await configured(system, code)
    codec, channel.codec = channel.codec, Says(channel.codec, callback)
    try:
        status, _ = await system.call_back(code, json.dumps({}).encode(), {})
    finally:
        channel.codec = codec
    return status


async def test_paid_without_a_payment_is_not_acknowledged(system: PayCenterSystem) -> None:
    assert await say(system, Callback(QueryOutcome(QueryStatus.PAID))) >= 400
    assert await say(system, Callback(QueryOutcome(QueryStatus.WAITING))) == 200


async def test_only_a_payment_that_is_paid_is_booked(system: PayCenterSystem) -> None:
    """A message may contain the payment of a trade that is not paid yet, or was closed."""
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="never")
    channel = await configured(system, "mock")
    for status in (QueryStatus.WAITING, QueryStatus.CLOSED, QueryStatus.UNKNOWN):
        assert await say(system, Callback(QueryOutcome(status, payment_of(channel, attempt)))) == 200
        assert (await system.read(order)).state is OrderState.WAITING


async def test_a_message_about_a_payment_and_a_refund_is_stored_whole(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="never")
    channel = await configured(system, "mock")
    refund = RefundOutcome(RefundStatus.SUCCESS, RefundFacts("console-1", attempt.out_trade_no, 40, dict(channel.codec.account)))
    assert await say(system, Callback(QueryOutcome(QueryStatus.PAID, payment_of(channel, attempt)), refund)) == 200
    assert (await system.read(order)).state is OrderState.SUCCESS
    assert [case["kind"] for case in await system.cases()] == ["REFUND_ELSEWHERE"]


async def test_a_refund_with_other_facts_is_not_acknowledged(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows('UPDATE pay_attempt SET channel_extras = \'{"refund": "pending"}\'')
    refund = await system.refund(order, 40)
    channel = await configured(system, "mock")
    assert await say(system, Callback(refund=refunded(channel, refund, amount=39))) >= 400
    assert await say(system, Callback(refund=failed(channel, refund, amount=39))) >= 400
    assert (await system.read(order)).reserved_amount == 40
    assert await say(system, Callback(refund=refunded(channel, refund))) == 200
    assert (await system.read(order)).refunded_amount == 40


async def test_while_a_cancellation_is_undecided_a_message_is_not_acknowledged(system: PayCenterSystem) -> None:
    """The payment may be refunded, which the channel has not decided: it must send the callback again."""
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="never")
    await system.rows("UPDATE pay_attempt SET cancel_until = now() + interval '1 minute'")
    channel = await configured(system, "mock")
    assert await say(system, Callback(QueryOutcome(QueryStatus.PAID, payment_of(channel, attempt)))) >= 400
    assert (await system.read(order)).state is OrderState.WAITING


async def test_a_disabled_channel_still_books(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order)
    await system.services.channels.update(OPERATOR, system.channels["wx_native"], {"enabled": False}, "", None)
    await system.simulator.pay(attempt.out_trade_no)
    assert await first_answer(system, attempt)
    assert (await system.read(order)).state is OrderState.SUCCESS
