"""The numbers that a refund had before are looked at again: the channel may carry out each of them after all."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from integration.test_second_looks import (
    books,
    current,
    failed_refund,
    job,
    lost_key,
    stale,
    without_callbacks,
)
from paycenter_server.channels.protocol import RefundStatus
from paycenter_server.domain.cases import CaseKind, Decision
from paycenter_server.domain.ids import Prefix, encode, time_of
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import EarlierNumbers, PayRefund, first_look_at_replaced
from paycenter_server.domain.schedule import FAILED_REFUND, VERIFY_DELAYS, looks
from paycenter_server.domain.states import RefundState
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage import refunds_numbers as number_rows
from support.facts import configured, refunded
from support.system import CAUSE, OPERATOR, PayCenterSystem
from support.waiting import eventually

FIRST, SECOND, LAST = VERIFY_DELAYS[FAILED_REFUND]
SOON = 60


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look within the five minutes by which the clock of the channel may differ."""
    monkeypatch.setitem(VERIFY_DELAYS, FAILED_REFUND, (SOON, SECOND, LAST))


async def sent_again(system: PayCenterSystem, state: RefundState) -> tuple[PayOrder, PayRefund, PayRefund]:
    """A refund before and after it was sent again, at a channel that says about every number that it failed."""
    order, first = await failed_refund(system, merchant_refund_no="R1")
    looks_at_failed = system.services.refund_settlement.look_at_failed

    async def and_then(refund: PayRefund) -> PayRefund:
        found = await looks_at_failed(refund)
        await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "timeout"})
        return found

    if state is RefundState.SUCCESS:
        system.services.refund_settlement.look_at_failed = and_then  # type: ignore[method-assign]
    again = await system.refund(order, 40, merchant_refund_no="R1")
    if state is RefundState.SUCCESS:
        # The mock answers about all numbers alike, so the success of the new one comes with a callback.
        await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "failure"})
        channel = await configured(system, "mock")
        await system.services.refund_settlement.receive_callback(channel, refunded(channel, again), CAUSE)
    again = await current(system, again)
    assert (again.state, again.send_count) == (state, 2)
    return order, first, again


async def at_the_channel(system: PayCenterSystem) -> tuple[PayOrder, PayRefund, PayRefund]:
    """A refund that was refused, sent again, and succeeded under the new number."""
    order = await system.paid("wx_native")
    await without_callbacks(system)
    await system.simulator.fault("wx.refund", "decline", code="RULE_LIMIT", times=1)
    first = await system.refund(order, 40, merchant_refund_no="R1")
    assert first.state is RefundState.FAILURE
    again = await system.decided(await system.refund(order, 40, merchant_refund_no="R1"))
    assert again.state is RefundState.SUCCESS
    return order, first, again


async def carry_out(system: PayCenterSystem, refund: PayRefund) -> None:
    """The channel carries this number out after all."""
    channel = await configured(system, "wx_native")
    request = await system.services.refund_settlement._request(refund, channel)
    await system.services.gateway.perform(channel, lambda codec, context: codec.refund(request, context))

    async def done() -> bool:
        outcome = await system.services.gateway.perform(channel, lambda codec, context: codec.query_refund(request, context))
        return outcome.status is RefundStatus.SUCCESS

    await eventually(done)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("how", ["job", "sync"])
async def test_an_earlier_number_that_succeeds_is_found_after_the_refund_succeeded(system: PayCenterSystem, how: str) -> None:
    order, first, again = await at_the_channel(system)
    await carry_out(system, first)
    if how == "job":
        await job(system, SOON + 1)
    else:
        await system.services.refunds.sync(system.caller, again)
    (case,) = await system.cases()
    assert (case["kind"], case["refund_id"], case["amount"]) == (CaseKind.REFUND_MISMATCH, again.id, 40)
    assert case["reference"].endswith(first.out_refund_no)
    assert await books(system, order) == ("REFUND", 100, 0, 40)
    events = await system.rows("SELECT event FROM pay_event WHERE subject_id = $1 ORDER BY id DESC LIMIT 1", again.id)
    assert [row["event"] for row in events] == ["queried"]


async def test_a_callback_for_an_earlier_number_opens_no_second_case(system: PayCenterSystem) -> None:
    _, first, again = await at_the_channel(system)
    await carry_out(system, first)
    await system.services.refunds.sync(system.caller, again)
    channel = await configured(system, "wx_native")
    await system.services.refund_settlement.receive_callback(channel, refunded(channel, first), CAUSE)
    assert len(await system.cases()) == 1


@pytest.mark.usefixtures("soon")
async def test_looks_at_an_earlier_number_send_nothing(system: PayCenterSystem) -> None:
    order, _, again = await at_the_channel(system)
    await job(system, SOON + 1)
    assert await system.cases() == []
    assert (await current(system, again)).send_count == 2
    (attempt,) = await system.services.orders.attempts(order)
    assert (await system.simulator.get(f"/simulator/trades/{attempt.out_trade_no}"))["refunded"] == 40


@pytest.mark.parametrize("state", [RefundState.SUCCESS, RefundState.FAILURE])
async def test_an_earlier_number_is_looked_at_in_minutes_an_hour_and_a_day(system: PayCenterSystem, state: RefundState) -> None:
    _, _, again = await sent_again(system, state)
    replaced = time_of(again.out_refund_key)
    found = []
    for _ in range(12):
        now = await current(system, again)
        if now.next_check_time is None:
            break
        if now.earlier_look_time is not None:
            found.append((now.earlier_look_time - replaced).total_seconds())
        await job(system, (now.next_check_time - system.clock.now()).total_seconds() + 1)
    assert sorted(set(found)) == [FIRST, SECOND, LAST]
    assert (await current(system, again)).state is state
    assert await system.cases() == []


@pytest.mark.usefixtures("soon")
async def test_an_unclear_look_at_an_earlier_number_is_repeated_soon(system: PayCenterSystem) -> None:
    _, _, again = await at_the_channel(system)
    await system.simulator.fault("wx.refund_query", "error_before_commit", times=1)
    await job(system, SOON + 1)
    found = await current(system, again)
    assert found.next_check_time is not None
    assert found.next_check_time - system.clock.now() < timedelta(minutes=2)
    assert found.earlier_look_time == first_look_at_replaced(again.out_refund_key)


async def test_an_unclear_look_at_an_earlier_number_of_a_failed_refund_is_not_repeated_at_once(system: PayCenterSystem) -> None:
    _, _, again = await sent_again(system, RefundState.FAILURE)
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "pending"})
    await system.rows("UPDATE pay_refund SET create_time = now() + interval '1 day'")  # the mock answers by its age
    await job(system, FIRST + 1)
    found = await current(system, again)
    assert found.next_check_time is not None
    assert timedelta() < found.next_check_time - system.clock.now() < timedelta(minutes=2)
    assert found.earlier_look_time == first_look_at_replaced(again.out_refund_key)


async def test_looks_at_an_earlier_number_without_an_answer_become_stale(system: PayCenterSystem) -> None:
    _, _, again = await sent_again(system, RefundState.SUCCESS)
    await lost_key(system)
    await job(system, LAST + 86_000)
    assert await stale(system) == []
    await job(system, 1_000)
    assert await stale(system) == ["STALE_REFUND"]
    assert (await current(system, again)).state is RefundState.SUCCESS


async def test_a_retry_of_a_stale_look_at_an_earlier_number_settles_it(system: PayCenterSystem) -> None:
    _, _, again = await sent_again(system, RefundState.SUCCESS)
    system.clock.advance(LAST + 90_000)
    await system.services.cases.stale_refund(again)
    (case,) = await system.cases()
    await system.services.case_decisions.decide(OPERATOR, encode(Prefix.CASE, case["id"]), Decision.RETRY, "")
    assert [case["state"] for case in await system.cases()] == ["RESOLVED"]


async def sent_again_in_vain(system: PayCenterSystem) -> tuple[PayOrder, PayRefund, PayRefund]:
    """A refund of WeChat Pay before and after it was sent again: the first number was refused, the new one never arrived."""
    order = await system.paid("wx_native")
    await without_callbacks(system)
    await system.simulator.fault("wx.refund", "decline", code="RULE_LIMIT", times=1)
    first = await system.refund(order, 40, merchant_refund_no="R1")
    await system.simulator.fault("wx.refund", "error_before_commit", times=1)
    again = await system.refund(order, 40, merchant_refund_no="R1")
    return order, first, again


@pytest.mark.usefixtures("soon")
async def test_a_refund_is_not_sent_again_after_an_earlier_number_succeeded(system: PayCenterSystem) -> None:
    """The new number never arrived, and the earlier one is carried out: sending the new one would refund twice."""
    order, first, again = await sent_again_in_vain(system)
    assert again.state is RefundState.WAITING
    await carry_out(system, first)
    await job(system, SOON + 1)
    await job(system, 61)
    assert (await current(system, again)).state is RefundState.WAITING
    assert await books(system, order) == ("SUCCESS", 100, 40, 0)
    (attempt,) = await system.services.orders.attempts(order)
    assert (await system.simulator.get(f"/simulator/trades/{attempt.out_trade_no}"))["refunded"] == 40
    assert [case["kind"] for case in await system.cases()] == ["REFUND_MISMATCH"]


@pytest.mark.usefixtures("soon")
async def test_a_refund_is_not_sent_again_while_an_earlier_number_is_in_progress(system: PayCenterSystem) -> None:
    """The new number never arrived. It is not sent before the earlier one has ended, also if the look at that is repeated."""
    order, first, again = await sent_again_in_vain(system)
    await system.simulator.fault("wx.refund", "refund_pending", seconds=600)
    channel = await configured(system, "wx_native")
    request = await system.services.refund_settlement._request(first, channel)
    await system.services.gateway.perform(channel, lambda codec, context: codec.refund(request, context))
    for seconds in (SOON + 1, 61):
        await job(system, seconds)
        found = await current(system, again)
        assert (found.state, found.channel_error_code) == (RefundState.WAITING, "REFUND_UNDER_REVIEW")
    await system.simulator.advance(601)
    await system.services.refunds.sync(system.caller, again)
    assert await books(system, order) == ("SUCCESS", 100, 40, 0)
    (attempt,) = await system.services.orders.attempts(order)
    assert (await system.simulator.get(f"/simulator/trades/{attempt.out_trade_no}"))["refunded"] == 40
    assert [case["kind"] for case in await system.cases()] == ["REFUND_MISMATCH"]


async def test_a_look_at_another_amount_books_nothing(system: PayCenterSystem) -> None:
    _, first, again = await at_the_channel(system)
    await carry_out(system, first)
    await system.rows("UPDATE pay_refund SET amount = 39, total_amount = 100 WHERE id = $1", again.id)
    await system.services.refunds.sync(system.caller, await current(system, again))
    assert await system.cases() == []


async def test_a_late_success_keeps_the_looks_at_earlier_numbers(system: PayCenterSystem) -> None:
    _, _, again = await sent_again(system, RefundState.FAILURE)
    channel = await configured(system, "mock")
    await system.services.refund_settlement.receive_callback(channel, refunded(channel, again), CAUSE)
    found = await current(system, again)
    assert (found.state, found.next_check_time) == (RefundState.SUCCESS, first_look_at_replaced(again.out_refund_key))


async def test_the_last_look_at_a_failed_refund_leaves_those_at_earlier_numbers(system: PayCenterSystem) -> None:
    _, _, again = await sent_again(system, RefundState.FAILURE)
    async with system.services.context.database.connection() as connection:
        await refund_rows.set_next_look(connection, again, None, system.clock.now())
    assert (await current(system, again)).next_check_time == again.earlier_look_time


async def test_looks_are_not_stored_over_those_of_a_newer_number(system: PayCenterSystem) -> None:
    _, first, again = await sent_again(system, RefundState.FAILURE)
    now = system.clock.now()
    keys = [first.out_refund_key]
    assert again.earlier_look_time is not None
    for looked in (
        EarlierNumbers(keys, first.out_refund_key, again.earlier_look_time),
        EarlierNumbers(keys, again.out_refund_key, now),
    ):
        async with system.services.context.database.connection() as connection:
            await number_rows.set_earlier_look(connection, again.id, looked, None, None, now)
        assert (await current(system, again)).earlier_look_time == again.earlier_look_time


def key_at(seconds: float) -> UUID:
    return UUID(int=(int(seconds * 1000) << 80) | 0x7 << 76 | 0b10 << 62)


def test_numbers_are_due_by_the_time_at_which_they_were_replaced() -> None:
    one, two, three = key_at(0), key_at(1000), key_at(2000)
    start = first_look_at_replaced(two)
    numbers = EarlierNumbers([one, two], three, start)
    assert numbers.due(start - timedelta(seconds=1)) == []
    assert numbers.due(start) == [one]
    second = start + timedelta(seconds=1000)
    assert numbers.due(second) == [one, two]
    assert numbers.after({one}, second) == first_look_at_replaced(three)
    assert numbers.after({two}, second) == start
    assert numbers.after({one, two}, second) == looks(FAILED_REFUND, time_of(two))[1]
    late = looks(FAILED_REFUND, time_of(three))[-1]
    assert numbers.after({one, two}, late) is None
    assert EarlierNumbers([one], two, None).due(late) == []


async def test_two_earlier_numbers_are_looked_at_at_once_and_the_others_follow(system: PayCenterSystem) -> None:
    _, _, again = await sent_again(system, RefundState.SUCCESS)
    earlier = [str(key_at(at)) for at in range(1, 6)]
    await system.rows("UPDATE pay_refund SET earlier_out_refund_keys = $1, earlier_look_time = to_timestamp(0)", earlier)
    before = await queries(system, again)
    await system.services.refund_settlement.check(await current(system, again))
    assert await queries(system, again) == before + 2
    for _ in range(10):
        await job(system, 0)
    assert (await current(system, again)).earlier_look_time == first_look_at_replaced(again.out_refund_key)


async def queries(system: PayCenterSystem, refund: PayRefund) -> int:
    return int(await system.value("SELECT count(*) FROM pay_event WHERE subject_id = $1 AND event = 'queried'", refund.id))
