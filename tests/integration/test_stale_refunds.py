"""Decisions about refunds of which the channel says nothing: it went back, or it did not. They are stated, never guessed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from integration.test_second_looks import books, current, job, lost_key, told
from paycenter_server.domain.cases import CaseKind, Decision, PayCase
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.schedule import FAILED_REFUND, REQUEST_LIFE, STALE_AFTER, VERIFIED_AFTER, VERIFY_DELAYS
from paycenter_server.domain.states import CaseState, RefundState
from paycenter_server.services.cases_authority import Work
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.storage.cases import Decided
from support.cases import ANNE, BEN, case_of, decide, last_case, late, refused, set_app
from support.facts import configured, failed, refunded
from support.system import CAUSE, PayCenterSystem

DAY = STALE_AFTER.total_seconds()


async def stale(system: PayCenterSystem) -> tuple[PayOrder, PayRefund, PayCase]:
    """A refund that has been WAITING for a day, because every call raises an exception."""
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "timeout"})
    refund = await system.refund(order, 40)
    await lost_key(system)
    await job(system, DAY + 60)
    case = await last_case(system)
    assert (case.kind, refund.state) == (CaseKind.STALE_REFUND, RefundState.WAITING)
    return order, refund, case


async def stale_case(system: PayCenterSystem) -> tuple[PayOrder, PayCase]:
    """A case whose refund has been WAITING for a day."""
    order, case = await late(system)
    await lost_key(system)
    await job(system, DAY + 60)
    case = await case_of(system, case.id)
    assert (case.state, case.stale_time is not None) == (CaseState.REFUNDING, True)
    return order, case


async def test_a_stale_refund_that_went_back_is_booked(system: PayCenterSystem) -> None:
    order, refund, case = await stale(system)
    view = await decide(system, ANNE, case, Decision.ACCEPT, "seen in the channel's console")
    assert (view.case.state, view.case.resolution) == (CaseState.RESOLVED, "booked as refunded")
    assert (await current(system, refund)).state is RefundState.SUCCESS
    assert await books(system, order) == ("REFUND", 100, 0, 40)
    assert (await told(system))[-2:] == ["pay_refund.success", "pay_case.resolved"]
    (event,) = await system.rows("SELECT * FROM pay_event WHERE subject_id = $1 AND event = 'succeed'", refund.id)
    assert (event["actor"], event["evidence"]["reason"]) == ("anne", "seen in the channel's console")


async def test_a_stale_refund_that_did_not_go_back_is_released(system: PayCenterSystem) -> None:
    order, refund, case = await stale(system)
    view = await decide(system, ANNE, case, Decision.CLOSE, "the channel's support has no such refund")
    assert view.case.state is CaseState.RESOLVED
    found = await current(system, refund)
    assert (found.state, found.channel_error_code) == (RefundState.FAILURE, "CLOSED_BY_OPERATOR")
    assert found.next_check_time is not None
    assert await books(system, order) == ("SUCCESS", 100, 0, 0)
    assert (await told(system))[-2:] == ["pay_refund.failure", "pay_case.resolved"]


@pytest.mark.parametrize("decision", [Decision.ACCEPT, Decision.CLOSE])
async def test_a_decision_about_a_stale_refund_needs_a_reason(system: PayCenterSystem, decision: Decision) -> None:
    order, _, case = await stale(system)
    with pytest.raises(PayCenterError) as caught:
        await decide(system, ANNE, case, decision, "")
    assert caught.value.reason is Reason.INVALID_FIELD
    assert await books(system, order) == ("SUCCESS", 100, 40, 0)


@pytest.mark.parametrize("decision", [Decision.ACCEPT, Decision.CLOSE])
async def test_a_stale_refund_above_the_limit_needs_a_second_operator(system: PayCenterSystem, decision: Decision) -> None:
    order, _, case = await stale(system)
    await set_app(system, case_decision_limit=10)
    await decide(system, ANNE, case, decision, "why")
    assert await books(system, order) == ("SUCCESS", 100, 40, 0)
    assert (await decide(system, BEN, case, decision, "why")).case.state is CaseState.RESOLVED
    assert (await books(system, order))[2] == 0


@pytest.mark.parametrize("decision", [Decision.ACCEPT, Decision.CLOSE])
async def test_a_refund_that_was_sent_a_moment_ago_is_not_decided(system: PayCenterSystem, decision: Decision) -> None:
    """The channel may still carry it out."""
    order, refund, case = await stale(system)
    sent = system.clock.now() - REQUEST_LIFE / 2
    await system.rows("UPDATE pay_refund SET unclear_send_time = $2 WHERE id = $1", refund.id, sent)
    error = await refused(system, ANNE, case, decision, names=Reason.CASE_DECISION_NOT_POSSIBLE)
    assert "in the last ten minutes" in error.message
    assert await books(system, order) == ("SUCCESS", 100, 40, 0)


@pytest.mark.parametrize(("decision", "possible"), [(Decision.ACCEPT, False), (Decision.CLOSE, True)])
async def test_a_decision_about_an_earlier_number_moves_nothing(
    system: PayCenterSystem, decision: Decision, *, possible: bool
) -> None:
    order, refund, case = await stale(system)
    await system.rows("UPDATE pay_refund SET out_refund_key = app_id WHERE id = $1", refund.id)
    if possible:
        assert (await decide(system, ANNE, case, decision, "why")).case.state is CaseState.RESOLVED
    else:
        await refused(system, ANNE, case, decision, names=Reason.CASE_DECISION_NOT_POSSIBLE)
    assert (await current(system, refund)).state is RefundState.WAITING
    assert await books(system, order) == ("SUCCESS", 100, 40, 0)


async def test_a_refund_that_fails_after_it_was_accepted_is_a_conflict(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "lost"})
    refund = await system.refund(order, 40)
    channel = await configured(system, "mock")
    system.clock.advance(DAY + 60)
    await system.services.cases.stale_refund(refund)
    await decide(system, ANNE, await last_case(system), Decision.ACCEPT, "why")
    for _ in range(2):
        await system.services.refund_settlement.receive_callback(channel, failed(channel, refund), CAUSE)
    assert [case["kind"] for case in await system.cases()] == ["STALE_REFUND", "REFUND_MISMATCH"]
    assert await books(system, order) == ("REFUND", 100, 0, 40)


async def test_a_failure_after_a_success_that_the_channel_reported_is_no_conflict(system: PayCenterSystem) -> None:
    """A repeated callback about an earlier state."""
    order = await system.paid("mock")
    refund = await system.refund(order, 40)
    channel = await configured(system, "mock")
    await system.services.refund_settlement.receive_callback(channel, failed(channel, refund), CAUSE)
    assert await system.cases() == []


async def test_a_released_refund_that_succeeds_after_all_is_booked(system: PayCenterSystem) -> None:
    order, refund, case = await stale(system)
    channel = await configured_again(system)
    await decide(system, ANNE, case, Decision.CLOSE, "why")
    await system.services.refund_settlement.receive_callback(channel, refunded(channel, refund), CAUSE)
    assert await books(system, order) == ("REFUND", 100, 0, 40)


async def accepted(system: PayCenterSystem, says: str) -> tuple[PayOrder, PayRefund]:
    """A refund that an operator has stated to have gone back. Then the channel answers again, and says this about it."""
    order, refund, case = await stale(system)
    await decide(system, ANNE, case, Decision.ACCEPT, "why")
    await configured_again(system)
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": says})
    return order, await current(system, refund)


@pytest.mark.parametrize("how", ["job", "sync"])
@pytest.mark.parametrize("says", ["failure", "lost"])
async def test_an_accepted_refund_that_did_not_go_back_is_found_by_a_look(system: PayCenterSystem, says: str, how: str) -> None:
    """No callback comes. `lost`: the channel has no such refund."""
    order, refund = await accepted(system, says)
    if how == "job":
        await job(system, VERIFY_DELAYS[FAILED_REFUND][0] + 1)
    else:
        await system.services.refunds.sync(system.caller, refund)
    assert [case["kind"] for case in await system.cases()] == ["STALE_REFUND", "REFUND_MISMATCH"]
    assert (await told(system))[-1] == "pay_case.opened"
    assert await books(system, order) == ("REFUND", 100, 0, 40)


@pytest.mark.parametrize(("says", "cases"), [("success", 1), ("failure", 2)])
async def test_an_accepted_refund_is_looked_at_in_minutes_an_hour_and_a_day(system: PayCenterSystem, says: str, cases: int) -> None:
    order, refund = await accepted(system, says)
    looks = []
    for _ in range(5):
        found = await current(system, refund)
        if found.next_check_time is None:
            break
        looks.append((found.next_check_time - found.update_time).total_seconds())
        await job(system, (found.next_check_time - system.clock.now()).total_seconds() + 1)
    assert looks == list(VERIFY_DELAYS[FAILED_REFUND])
    assert (await current(system, refund)).state is RefundState.SUCCESS
    assert len(await system.cases()) == cases
    assert await books(system, order) == ("REFUND", 100, 0, 40)


async def test_an_unclear_look_at_an_accepted_refund_is_repeated_soon(system: PayCenterSystem) -> None:
    _, refund = await accepted(system, "pending")
    await system.rows("UPDATE pay_refund SET create_time = now() + interval '9 days'")  # the mock answers by its age
    await job(system, VERIFY_DELAYS[FAILED_REFUND][0] + 1)
    found = await current(system, refund)
    assert found.next_check_time is not None
    assert found.next_check_time - system.clock.now() < timedelta(minutes=2)
    assert len(await system.cases()) == 1


async def test_a_look_at_an_accepted_refund_with_other_facts_decides_nothing(system: PayCenterSystem) -> None:
    _, refund = await accepted(system, "failure")
    channel = await configured(system, "mock")
    for answer in (failed(channel, refund, amount=39), refunded(channel, refund, amount=39)):
        await system.services.refund_settlement._second_look(channel, refund, answer)
    assert len(await system.cases()) == 1


async def test_looks_at_an_accepted_refund_without_an_answer_become_stale(system: PayCenterSystem) -> None:
    _, refund, case = await stale(system)
    await decide(system, ANNE, case, Decision.ACCEPT, "why")
    await job(system, VERIFIED_AFTER.total_seconds() - 60)
    assert len(await system.cases()) == 1
    await job(system, 3700)
    assert [(case["kind"], case["state"]) for case in await system.cases()] == [
        ("STALE_REFUND", "RESOLVED"),
        ("STALE_REFUND", "OPEN"),
    ]
    assert (await current(system, refund)).state is RefundState.SUCCESS


async def configured_again(system: PayCenterSystem) -> ConfiguredChannel:
    await system.rows("UPDATE pay_channel SET code = 'mock', version = version + 1 WHERE code = 'not_installed'")
    await system.rows("UPDATE pay_account SET version = version + 1")
    return await configured(system, "mock")


# Cases whose refund is stale


async def test_a_stale_case_takes_retry_and_close(system: PayCenterSystem) -> None:
    _, case = await stale_case(system)
    assert case.possible == (Decision.RETRY, Decision.CLOSE)
    for decision in (Decision.REFUND, Decision.ACCEPT):
        error = await refused(system, ANNE, case, decision, names=Reason.CASE_DECISION_NOT_POSSIBLE)
        assert "has not been decided for a day; it takes RETRY, CLOSE now" in error.message


async def test_a_retry_of_a_stale_case_queries_and_sends_its_refund(system: PayCenterSystem) -> None:
    _, case = await stale_case(system)
    await configured_again(system)
    view = await decide(system, ANNE, case, Decision.RETRY)
    assert (view.case.state, view.refund and view.refund.state) == (CaseState.RESOLVED, RefundState.SUCCESS)


async def test_a_stale_case_that_is_closed_sends_nothing_any_more(system: PayCenterSystem) -> None:
    """The operator has refunded it outside. The channel can be called again, and gets no refund."""
    _, case = await stale_case(system)
    view = await decide(system, ANNE, case, Decision.CLOSE, "refunded by hand")
    assert (view.case.state, view.refund and view.refund.state) == (CaseState.RESOLVED, RefundState.FAILURE)
    await configured_again(system)
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "lost"})
    await job(system, 400)
    assert view.refund is not None
    assert (await current(system, view.refund)).send_count == 1
    assert (await current(system, view.refund)).state is RefundState.FAILURE


async def test_a_refund_that_succeeds_after_its_stale_case_was_closed_is_a_conflict(system: PayCenterSystem) -> None:
    _, case = await stale_case(system)
    view = await decide(system, ANNE, case, Decision.CLOSE, "refunded by hand")
    channel = await configured_again(system)
    assert view.refund is not None
    await system.services.refund_settlement.receive_callback(channel, refunded(channel, view.refund), CAUSE)
    assert [case["kind"] for case in await system.cases()] == ["LATE_PAYMENT", "REFUND_MISMATCH"]


async def test_a_case_that_became_stale_since_it_was_read_is_not_closed_alone(system: PayCenterSystem) -> None:
    """Its refund was in progress again, and would be sent all the same."""
    _, case = await stale_case(system)
    as_read = replace(case, state=CaseState.OPEN)
    work = Work(Decided(Decision.CLOSE, "why", "anne"), CAUSE)
    with pytest.raises(PayCenterError) as caught:
        await system.services.case_decisions._decide(as_read, work)
    assert caught.value.reason is Reason.CASE_CHANGED
    assert (await case_of(system, case.id)).state is CaseState.REFUNDING
