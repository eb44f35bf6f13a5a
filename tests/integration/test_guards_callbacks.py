"""Guards of the callbacks: the answer to the channel (rule 5). `make mutants` removes each of them.

An acknowledgement ends the channel's own schedule, so one too many loses the message for good.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from paycenter_server.channels.protocol import (
    Callback,
    CallbackRequest,
    Payment,
    QueryOutcome,
    QueryStatus,
    Refunded,
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


async def receive_all(system: PayCenterSystem, code: str, payments: list[Payment]) -> list[int]:
    """The statuses of the answers to verified callbacks about these payments, which arrive at the same time."""
    channel = await configured(system, code)
    codec, channel.codec = channel.codec, SaysOf(channel.codec, payments)
    requests = [CallbackRequest({}, str(number).encode()) for number in range(len(payments))]
    try:
        receive = system.services.callbacks.receive
        answers = await asyncio.gather(*(receive(system.channels[code], request) for request in requests))
    finally:
        channel.codec = codec
    return [answer.status for answer in answers]


class SaysOf(Says):
    """A codec that reads the number of one of the payments of the test."""

    def __init__(self, inner: Any, payments: list[Payment]) -> None:
        self._inner, self._payments = inner, payments

    def parse_callback(self, request: CallbackRequest, now: Any) -> Callback:
        return Callback(QueryOutcome(QueryStatus.PAID, self._payments[int(request.body)]), message_id=request.body.decode())


async def test_callbacks_at_the_same_time_are_each_what_they_are_alone(system: PayCenterSystem) -> None:
    """Good ones, repeated ones, wrong amounts and currencies, closed orders, unknown numbers, refunded ones, no amount."""
    channel = await configured(system, "mock")
    orders = [await system.order() for _ in range(9)]
    attempts = [await system.submit(order, "mock", behaviour="late_after_close", late_seconds="80000") for order in orders]
    payments = [payment_of(channel, attempt) for attempt in attempts]
    payments[1] = replace(payments[1], amount=1)
    payments[2] = replace(payments[2], currency="USD")
    payments[3] = replace(payments[3], refunded=Refunded.SOME)
    await system.services.orders.close(OPERATOR, orders[4].number)
    payments[5] = replace(payments[5], out_trade_no="P" + "0" * 26)
    payments[6] = replace(payments[6], amount=None)
    payments[7] = replace(payments[7], account={"merchant": "another"})
    statuses = await receive_all(system, "mock", [*payments, payments[0], payments[8], payments[0], payments[4]])
    assert [status < 300 for status in statuses] == [True] * 6 + [False, False] + [True] * 5
    states = [(await system.read(order)).state.value for order in orders]
    assert states == ["SUCCESS", "WAITING", "WAITING", "SUCCESS", "CLOSED", "WAITING", "WAITING", "WAITING", "SUCCESS"]
    kinds = sorted(case["kind"] for case in await system.cases())
    assert kinds == ["LATE_PAYMENT", "REFUND_ELSEWHERE", "UNKNOWN_ORDER", "WRONG_AMOUNT", "WRONG_CURRENCY"]
    rows = await system.rows(
        "SELECT order_id, count(*) AS number FROM pay_event WHERE event = 'callback repeated' AND order_id = ANY($1) GROUP BY 1",
        [order.id for order in orders],
    )
    assert {row["order_id"]: row["number"] for row in rows} == {orders[0].id: 2, orders[8].id: 1, orders[4].id: 1}
    assert await system.value("SELECT count(*) FROM pay_event WHERE order_id = $1 AND event = 'paid'", orders[0].id) == 1


async def test_a_disabled_channel_still_books(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order)
    await system.services.channels.update(OPERATOR, system.channels["wx_native"], {"enabled": False}, "", None)
    await system.simulator.pay(attempt.out_trade_no)
    assert await first_answer(system, attempt)
    assert (await system.read(order)).state is OrderState.SUCCESS
