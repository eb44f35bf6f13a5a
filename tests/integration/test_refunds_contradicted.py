"""Reports that contradict our refunds: one that succeeded did not go back after all, or more went back than ours."""

from __future__ import annotations

from dataclasses import replace

import pytest
from integration.test_second_looks import books, current, told, without_callbacks
from paycenter_server.channels.protocol import (
    Callback,
    CallbackRequest,
    QueryOutcome,
    QueryStatus,
    Refunded,
    RefundOutcome,
    RefundStatus,
)
from paycenter_server.domain.cases import Decision
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.states import RefundState
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.services.payments import FactsMismatchError
from paycenter_server.services.refunds_numbers import UndecidedError
from support.cases import ANNE, decide, last_case
from support.facts import configured, failed, payment_of, refunded
from support.system import CAUSE, PayCenterSystem
from support.waiting import eventually

STATES = ("CLOSED", "ABNORMAL")


async def succeeded(system: PayCenterSystem, says: str) -> tuple[PayOrder, PayRefund, ConfiguredChannel]:
    """A refund that is SUCCESS here by a callback. When it is queried, the channel says this state."""
    order = await system.paid("wx_native")
    await without_callbacks(system)
    if says in STATES:
        await system.simulator.fault("wx.refund", f"refund_{says.lower()}")
    refund = await system.refund(order, 40)

    async def decided() -> bool:
        (trade,) = await system.simulator.get("/simulator/trades")
        return [one["state"] for one in trade["refunds"]] == [says]

    await eventually(decided)
    channel = await configured(system, "wx_native")
    await system.services.refund_settlement.receive_callback(channel, refunded(channel, refund), CAUSE)
    assert (await current(system, refund)).state is RefundState.SUCCESS
    return order, refund, channel


async def report(system: PayCenterSystem, channel: ConfiguredChannel, refund: PayRefund, state: str) -> None:
    """The callback of WeChat Pay with this state."""
    status = RefundStatus.FAILED if state == "CLOSED" else RefundStatus.PENDING
    outcome: RefundOutcome = replace(failed(channel, refund), status=status, error_code=state)
    await system.services.refund_settlement.receive_callback(channel, outcome, CAUSE)


@pytest.mark.parametrize("state", STATES)
async def test_what_did_not_go_back_after_all_is_a_conflict(system: PayCenterSystem, state: str) -> None:
    order, refund, channel = await succeeded(system, state)
    for _ in range(2):
        await report(system, channel, refund, state)
    assert [case["kind"] for case in await system.cases()] == ["REFUND_MISMATCH"]
    assert (await told(system))[-1] == "pay_case.opened"
    assert await books(system, order) == ("REFUND", 100, 0, 40)


@pytest.mark.parametrize("state", STATES)
async def test_a_callback_about_an_earlier_state_is_no_conflict(system: PayCenterSystem, state: str) -> None:
    order, refund, channel = await succeeded(system, "SUCCESS")
    await report(system, channel, refund, state)
    assert await system.cases() == []
    assert await books(system, order) == ("REFUND", 100, 0, 40)


@pytest.mark.parametrize("state", STATES)
async def test_without_a_clear_answer_it_is_not_acknowledged(system: PayCenterSystem, state: str) -> None:
    _, refund, channel = await succeeded(system, state)
    await system.simulator.fault("wx.refund_query", "http_502")
    with pytest.raises(UndecidedError):
        await report(system, channel, refund, state)
    assert await system.cases() == []


async def test_an_answer_about_another_amount_decides_nothing(system: PayCenterSystem) -> None:
    _, refund, channel = await succeeded(system, "CLOSED")
    await system.simulator.fault("wx.refund_query", "wrong_amount")
    with pytest.raises(FactsMismatchError):
        await report(system, channel, refund, "CLOSED")
    assert await system.cases() == []


async def without_number(system: PayCenterSystem, order: PayOrder, back: Refunded, total: int | None = None) -> None:
    """The callback of a booked payment of which something went back. It names no refund (Alipay's `out_biz_no` is optional)."""
    (attempt,) = await system.services.orders.attempts(order)
    channel = await configured(system, "mock")
    outcome = QueryOutcome(QueryStatus.PAID, payment_of(channel, attempt, refunded=back, refunded_amount=total))
    callbacks, candidates = system.services.callbacks, await system.services.gateway.channels.all_of(channel.channel.id)
    await callbacks._store(channel.channel.id, candidates, CallbackRequest({}, b""), Callback(outcome))


@pytest.mark.parametrize("back", [Refunded.SOME, Refunded.ALL])
async def test_what_went_back_without_a_refund_is_a_case(system: PayCenterSystem, back: Refunded) -> None:
    order = await system.paid("mock")
    for _ in range(2):
        await without_number(system, order, back)
    assert [case["kind"] for case in await system.cases()] == ["REFUND_ELSEWHERE"]
    assert (await told(system))[-1] == "pay_case.opened"
    assert await books(system, order) == ("SUCCESS", 100, 0, 0)


async def test_what_our_refunds_explain_is_none(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.refund(order, 40)
    await without_number(system, order, Refunded.SOME)
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "pending"})
    await system.refund(order, 60)
    await without_number(system, order, Refunded.ALL)
    assert await system.cases() == []


async def test_all_went_back_and_ours_are_less(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.refund(order, 40)
    await without_number(system, order, Refunded.ALL)
    assert [case["kind"] for case in await system.cases()] == ["REFUND_ELSEWHERE"]


async def test_a_refund_that_failed_explains_nothing(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "failure"})
    await system.refund(order, 40)
    await without_number(system, order, Refunded.SOME)
    assert [case["kind"] for case in await system.cases()] == ["REFUND_ELSEWHERE"]


async def test_a_part_that_ours_do_not_explain_is_a_case(system: PayCenterSystem) -> None:
    """With the difference. When it was decided, only still more is a case."""
    order = await system.paid("mock")
    await system.refund(order, 40)
    for total in (40, 70, 70):
        await without_number(system, order, Refunded.SOME, total)
    assert [(case["kind"], case["amount"]) for case in await system.cases()] == [("REFUND_ELSEWHERE", 30)]
    await decide(system, ANNE, await last_case(system), Decision.CLOSE, "made in the console")
    await without_number(system, order, Refunded.SOME, 70)
    await system.refund(order, 20)
    await without_number(system, order, Refunded.SOME, 90)
    assert len(await system.cases()) == 1
    for back, total in ((Refunded.SOME, 95), (Refunded.ALL, 100)):
        await without_number(system, order, back, total)
        await decide(system, ANNE, await last_case(system), Decision.CLOSE, "made in the console")
    assert [case["amount"] for case in await system.cases()] == [30, 5, 5]
    await without_number(system, order, Refunded.ALL, 100)
    assert len(await system.cases()) == 3


async def test_a_part_that_is_in_progress_here_is_explained(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "pending"})
    await system.refund(order, 40)
    await without_number(system, order, Refunded.SOME, 40)
    assert await system.cases() == []


async def test_one_that_failed_is_not_queried(system: PayCenterSystem) -> None:
    """It is FAILURE here too, so the callback is a repetition."""
    order = await system.paid("wx_native")
    await without_callbacks(system)
    await system.simulator.fault("wx.refund", "decline", code="RULE_LIMIT")
    refund = await system.refund(order, 40)
    channel = await configured(system, "wx_native")
    await system.simulator.fault("wx.refund_query", "http_502", times=-1)
    await report(system, channel, refund, "CLOSED")
    assert (await current(system, refund)).state is RefundState.FAILURE
