"""A refund that the channel has said to know: an answer without facts does not end it, and it is not sent under a new number."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from integration.test_second_looks import books, current, failed_refund, job, succeeds_now, told, without_callbacks
from paycenter_server.channels.protocol import RefundOutcome, RefundStatus
from paycenter_server.domain.cases import CaseKind, Decision, PayCase
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.schedule import FAILED_REFUND, REQUEST_LIFE, STALE_AFTER, VERIFIED_AFTER, VERIFY_DELAYS
from paycenter_server.domain.states import CaseState, RefundState
from paycenter_server.services.cases_authority import Work as DecisionWork
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.services.refunds import NewRefund, Work
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage import refunds_numbers as number_rows
from paycenter_server.storage.cases import Decided
from paycenter_server.storage.refunds import Certainty
from support.cases import ANNE, case_of, decide, hold, last_case, late, refund_fails, run_refund_job
from support.cases import refused as not_decided
from support.facts import configured, failed, refund_facts, refunded
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, PayCenterSystem
from support.waiting import ended

PENDING = RefundOutcome(RefundStatus.PENDING)
REFUSAL = RefundOutcome(RefundStatus.FAILED, None, "NO", "no")
REFUSALS = {"wx_native": ("wx.refund", "RULE_LIMIT"), "alipay_qr": ("alipay.trade.refund", "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL")}


async def refuse(system: PayCenterSystem, channel: ConfiguredChannel, refund: PayRefund) -> None:
    """A bare refusal, when no request can be carried out any more."""
    certainty = Certainty(clear_before=system.clock.now() + timedelta(days=9))
    await system.services.refund_settlement.apply(channel, refund, REFUSAL, CAUSE, certainty)


async def known_time(system: PayCenterSystem, refund: PayRefund) -> datetime | None:
    return (await current(system, refund)).known_time


async def accepted(system: PayCenterSystem, code: str = "mock", **more: Any) -> tuple[PayOrder, PayRefund, ConfiguredChannel]:
    """A refund that the channel has accepted."""
    order = await system.paid(code)
    await without_callbacks(system)
    if code == "mock":
        await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "lost"})
    else:
        await system.simulator.fault(REFUSALS[code][0], "refund_pending", seconds=600)
    refund = await system.refund(order, 40, **more)
    assert refund.state is RefundState.WAITING
    return order, refund, await configured(system, code)


async def no_request_is_left(system: PayCenterSystem, refund: PayRefund) -> None:
    """Not the clock: the channel refuses requests that are signed ten minutes from its own time."""
    await system.rows(
        "UPDATE pay_refund SET unclear_send_time = unclear_send_time - $2::interval WHERE id = $1", refund.id, 2 * REQUEST_LIFE
    )


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_what_was_accepted_is_not_ended_by_a_refusal(system: PayCenterSystem, code: str) -> None:
    """The query does not find it for a moment, it is sent again, and that is refused. Then the channel carries it out."""
    order, refund, _ = await accepted(system, code)
    await no_request_is_left(system, refund)
    api, refusal = REFUSALS[code]
    await system.simulator.fault("wx.refund_query", "decline", code="RESOURCE_NOT_EXISTS", times=1)
    await system.simulator.fault(api, "decline", code=refusal, times=1)
    await job(system, 11)
    found = await current(system, refund)
    assert (found.state, found.channel_error_code) == (RefundState.WAITING, refusal)
    assert found.next_check_time is not None
    assert (await books(system, order))[2:] == (40, 0)
    with pytest.raises(PayCenterError):
        await system.refund(order, 61)
    await system.simulator.advance(601)
    assert (await system.decided(refund)).state is RefundState.SUCCESS
    assert await books(system, order) == ("REFUND", 100, 0, 40)
    assert [event for event in await told(system) if "refund" in event] == ["pay_refund.success"]


async def test_what_a_callback_names_is_not_ended_by_a_refusal(system: PayCenterSystem) -> None:
    """The send had no answer. The callback proves nothing, and the query does not find the refund."""
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "reset_before_commit")
    refund = await system.refund(order, 40)
    await no_request_is_left(system, refund)
    await system.simulator.fault("wx.refund", "decline", code="RULE_LIMIT", times=-1)
    channel = await configured(system, "wx_native")
    callback = RefundOutcome(RefundStatus.PENDING, refund_facts(channel, refund))
    await system.services.refund_settlement.receive_callback(channel, callback, CAUSE)
    found = await current(system, refund)
    assert (found.state, found.channel_error_code) == (RefundState.WAITING, "RULE_LIMIT")
    assert (await books(system, order))[2:] == (40, 0)


@pytest.mark.parametrize("says", ["PENDING", "another-amount", "an-unknown-state"])
async def test_what_a_query_names_is_not_ended_by_a_refusal(system: PayCenterSystem, says: str) -> None:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "timeout"})
    refund, channel = await system.refund(order, 40), await configured(system, "mock")
    answer = {
        "PENDING": PENDING,
        "another-amount": refunded(channel, refund, amount=39),
        "an-unknown-state": RefundOutcome(RefundStatus.UNKNOWN, refund_facts(channel, refund), "NEW", ""),
    }[says]
    assert await known_time(system, refund) is None
    await system.services.refund_settlement._apply_or_note(channel, refund, answer, None)
    first = await known_time(system, refund)
    assert first is not None
    await refuse(system, channel, refund)
    found = await current(system, refund)
    assert (found.state, found.known_time) == (RefundState.WAITING, first)
    assert (await books(system, order))[2:] == (40, 0)


async def test_what_was_accepted_stays_known_after_an_answer_that_does_not_say_so(system: PayCenterSystem) -> None:
    order, refund, channel = await accepted(system)
    unclear = RefundOutcome(RefundStatus.UNKNOWN, None, "SYSTEM_ERROR", "")
    await system.services.refund_settlement._apply_or_note(channel, refund, unclear, None)
    await refuse(system, channel, refund)
    assert (await current(system, refund)).state is RefundState.WAITING
    assert (await books(system, order))[2:] == (40, 0)


async def test_an_answer_about_another_number_says_nothing_of_this_one(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "timeout"})
    refund, channel = await system.refund(order, 40), await configured(system, "mock")
    other = RefundOutcome(RefundStatus.PENDING, refund_facts(channel, refund, out_refund_no="R" + "0" * 26))
    await system.services.refund_settlement._apply_or_note(channel, refund, other, None)
    await refuse(system, channel, refund)
    assert (await current(system, refund)).state is RefundState.FAILURE


async def test_facts_end_what_the_channel_knows(system: PayCenterSystem) -> None:
    order, refund, channel = await accepted(system)
    await system.services.refund_settlement.receive_callback(channel, failed(channel, refund), CAUSE)
    found = await current(system, refund)
    assert (found.state, found.known_time) == (RefundState.FAILURE, None)
    assert await books(system, order) == ("SUCCESS", 100, 0, 0)


async def test_what_is_not_found_for_a_day_is_a_case_whose_decision_ends_it(system: PayCenterSystem) -> None:
    """The mock channel does not find it, and accepts each repeated send. A person decides, and then it can be sent again."""
    order, refund, _ = await accepted(system, merchant_refund_no="R1")
    await job(system, STALE_AFTER.total_seconds() + 60)
    case = await last_case(system)
    assert (case.kind, case.state) == (CaseKind.STALE_REFUND, CaseState.OPEN)
    assert case.detail["known_time"] == str(refund.known_time and refund.known_time.isoformat())
    assert (await current(system, refund)).next_check_time is not None
    # The last repeated send was accepted a moment ago.
    await not_decided(system, ANNE, case, Decision.CLOSE, names=Reason.CASE_DECISION_NOT_POSSIBLE)
    await no_request_is_left(system, refund)
    await decide(system, ANNE, case, Decision.CLOSE, "the channel's support has no such refund")
    found = await current(system, refund)
    assert (found.state, found.known_time) == (RefundState.FAILURE, None)
    assert (await books(system, order))[2:] == (0, 0)
    await succeeds_now(system)
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "lost"})
    again = await system.refund(order, 40, merchant_refund_no="R1")
    assert (again.id, again.send_count) == (refund.id, 2)


async def test_an_acceptance_that_is_stored_at_the_same_moment_stops_the_failure(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "timeout"})
    refund, channel = await system.refund(order, 40), await configured(system, "mock")
    now = system.clock.now()
    async with transaction(system) as held:
        assert await refund_rows.note(held, refund, CAUSE, None, code="", message="", next_check=now, now=now, known=True)
        calls = [asyncio.create_task(refuse(system, channel, refund))]
        await waiting_for_lock(system, calls)
    await ended(calls)
    assert (await current(system, refund)).state is RefundState.WAITING
    assert (await books(system, order))[2:] == (40, 0)


# Refunds that failed here


async def refused(system: PayCenterSystem) -> tuple[PayOrder, PayRefund, ConfiguredChannel]:
    """A refund that failed by a bare refusal. The channel does not find it."""
    order = await system.paid("wx_native")
    await without_callbacks(system)
    await system.simulator.fault("wx.refund", "decline", code="RULE_LIMIT")
    refund = await system.refund(order, 40, merchant_refund_no="R1")
    assert (refund.state, refund.known_time) == (RefundState.FAILURE, None)
    return order, refund, await configured(system, "wx_native")


async def under_review(system: PayCenterSystem, order: PayOrder) -> None:
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 40, merchant_refund_no="R1")
    assert caught.value.reason is Reason.REFUND_UNDER_REVIEW
    assert await system.value("SELECT send_count FROM pay_refund") == 1


@pytest.mark.parametrize("how", ["look", "late-answer", "callback", "another-amount"])
async def test_what_failed_and_is_known_is_not_sent_under_a_new_number(system: PayCenterSystem, how: str) -> None:
    """Also if its query does not find it now."""
    order, refund, channel = await refused(system)
    settlement = system.services.refund_settlement
    if how == "look":
        await settlement._second_look(channel, refund, PENDING)
    elif how == "another-amount":
        await settlement._second_look(channel, refund, refunded(channel, refund, amount=39))
    elif how == "late-answer":
        await settlement._apply_or_note(channel, replace(refund, state=RefundState.WAITING), PENDING, None)
    else:
        callback = RefundOutcome(RefundStatus.PENDING, refund_facts(channel, refund))
        await settlement.receive_callback(channel, callback, CAUSE)
    await under_review(system, order)
    found = await current(system, refund)
    assert found.next_check_time is not None
    assert found.next_check_time - system.clock.now() < timedelta(minutes=2), "it is looked at soon, although it is not found"


async def test_a_failed_one_whose_looks_have_ended_is_looked_at_when_the_channel_names_it(system: PayCenterSystem) -> None:
    order, refund, channel = await refused(system)
    await system.rows("UPDATE pay_refund SET next_check_time = NULL")
    callback = RefundOutcome(RefundStatus.PENDING, refund_facts(channel, refund))
    await system.services.refund_settlement.receive_callback(channel, callback, CAUSE)
    assert (await current(system, refund)).next_check_time is not None
    await under_review(system, order)


async def test_facts_let_a_failed_one_be_sent_again(system: PayCenterSystem) -> None:
    order, refund, channel = await refused(system)
    for reported in ("look", "callback"):
        await system.services.refund_settlement._second_look(channel, refund, PENDING)
        await under_review(system, order)
        if reported == "look":
            await system.services.refund_settlement._second_look(channel, refund, failed(channel, refund))
        else:
            await system.services.refund_settlement.receive_callback(channel, failed(channel, refund), CAUSE)
        assert await known_time(system, refund) is None
    assert (await system.refund(order, 40, merchant_refund_no="R1")).send_count == 2


async def test_a_failed_one_that_stays_unclear_is_a_case_whose_decision_lets_it_be_sent(system: PayCenterSystem) -> None:
    order, refund = await failed_refund(system, merchant_refund_no="R1")
    channel = await configured(system, "mock")
    await system.services.refund_settlement._second_look(channel, refund, PENDING)
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "lost"})
    for _ in range(3):
        await job(system, VERIFIED_AFTER.total_seconds() / 2.5)
        assert (await current(system, refund)).next_check_time is not None
    case = await last_case(system)
    assert (case.kind, (await current(system, refund)).state) == (CaseKind.STALE_REFUND, RefundState.FAILURE)
    await under_review(system, order)
    await decide(system, ANNE, case, Decision.CLOSE, "the channel's support has no such refund")
    assert (await system.refund(order, 40, merchant_refund_no="R1")).send_count == 2


async def test_a_decision_about_an_earlier_number_says_nothing_of_this_one(system: PayCenterSystem) -> None:
    _, refund = await failed_refund(system)
    channel = await configured(system, "mock")
    await system.services.cases.stale_refund(refund)
    await system.rows("UPDATE pay_refund SET out_refund_key = app_id")
    again = await current(system, refund)
    await system.services.refund_settlement._second_look(channel, again, PENDING)
    await decide(system, ANNE, await last_case(system), Decision.CLOSE, "why")
    assert await known_time(system, refund) is not None


async def test_a_late_success_without_room_is_held_by_its_case(system: PayCenterSystem) -> None:
    """Not by the looks, which end."""
    order, refund = await failed_refund(system, 60)
    channel = await configured(system, "mock")
    await system.services.refund_settlement._second_look(channel, refund, PENDING)
    await succeeds_now(system)
    await system.refund(order, 50)
    await job(system, VERIFY_DELAYS[FAILED_REFUND][-1] + 60)
    found = await current(system, refund)
    assert (found.state, found.known_time, found.next_check_time) == (RefundState.FAILURE, None, None)
    assert [case["kind"] for case in await system.cases()] == ["REFUND_MISMATCH"]


async def test_what_becomes_known_while_it_is_sent_again_is_not_sent(system: PayCenterSystem) -> None:
    order, refund, _ = await refused(system)
    app = await system.services.identity.app_of(system.caller, "")
    new = NewRefund("", refund.merchant_order_id, refund.merchant_refund_no, refund.amount, refund.reason)
    async with transaction(system) as held:
        await number_rows.set_known(held, refund, True, system.clock.now())
        # The step after the look at the failed refund.
        again = system.services.refunds._reserve_and_send_again(Work(system.caller, app, new, None), refund)
        calls = [asyncio.create_task(again)]
        await waiting_for_lock(system, calls)
    (error,) = await ended(calls)
    assert isinstance(error, PayCenterError)
    assert error.reason is Reason.ORDER_CHANGED
    assert await system.value("SELECT send_count FROM pay_refund") == 1
    assert (await books(system, order))[2:] == (0, 0)


async def case_of_a_known_refund(system: PayCenterSystem) -> tuple[PayCase, PayRefund]:
    """A case of surplus money whose refund failed by a bare refusal, and is known to the channel since."""
    await hold(system)
    _, case = await late(system)
    await refund_fails(system)
    await decide(system, ANNE, case, Decision.REFUND)
    await run_refund_job(system)
    case = await case_of(system, case.id)
    assert case.refund_id is not None
    async with system.services.context.database.connection() as connection:
        refund = await refund_rows.get_refund(connection, case.refund_id)
        assert refund is not None
        assert refund.state is RefundState.FAILURE
        await number_rows.set_known(connection, refund, True, system.clock.now())
    return case, refund


@pytest.mark.parametrize("decision", [Decision.REFUND, Decision.ACCEPT])
async def test_what_becomes_known_while_its_case_is_decided_is_not_decided(system: PayCenterSystem, decision: Decision) -> None:
    case, refund = await case_of_a_known_refund(system)
    decisions, work = system.services.case_decisions, DecisionWork(Decided(decision, "", "anne"), CAUSE)
    with pytest.raises(PayCenterError) as caught:
        await (decisions.refund if decision is Decision.REFUND else decisions.book)(case, work, refund)
    assert caught.value.reason is Reason.CASE_CHANGED
    assert (await case_of(system, case.id)).state is CaseState.OPEN
    assert await system.value("SELECT send_count FROM pay_refund") == 1


async def test_the_case_of_a_known_refund_can_only_be_closed(system: PayCenterSystem) -> None:
    """Its query does not find it."""
    case, _ = await case_of_a_known_refund(system)
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "lost"})
    for decision in (Decision.REFUND, Decision.ACCEPT, Decision.RETRY):
        await not_decided(system, ANNE, case, decision, names=Reason.REFUND_UNDER_REVIEW)
    assert (await decide(system, ANNE, case, Decision.CLOSE, "returned by hand")).case.state is CaseState.RESOLVED
