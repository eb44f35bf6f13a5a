"""Decisions about cases by two operators: above the limit of the app, and at the same moment; and stale cases."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from integration.test_second_looks import lost_key
from paycenter_server.channels.protocol import Refunded, RefundFacts
from paycenter_server.domain.cases import Decision, PayCase
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.schedule import STALE_AFTER
from paycenter_server.domain.states import CaseEvent, CaseState, OrderState
from paycenter_server.services.cases_authority import Work
from paycenter_server.services.identity import Caller
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import payments as payment_rows
from paycenter_server.storage.cases import Decided
from paycenter_server.storage.payments import Booking
from support.cases import (
    ANNE,
    BEN,
    book,
    case_of,
    decide,
    duplicate,
    events_of,
    hold,
    last_case,
    late,
    refund_fails,
    refunds_of,
    refused,
    run_refund_job,
    set_app,
    unknown,
    wrong_amount,
)
from support.facts import configured, refunded
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, PayCenterSystem
from support.waiting import ended

# The second operator


async def test_an_amount_above_the_limit_needs_a_second_operator(system: PayCenterSystem) -> None:
    await hold(system)
    await set_app(system, case_decision_limit=99)
    _, case = await late(system)
    assert (await system.services.case_desk.get(ANNE, case.number)).second
    view = await decide(system, ANNE, case, Decision.REFUND, "the payer called")
    assert (view.case.state, view.case.proposed_decision, view.case.proposed_by) == (CaseState.OPEN, "REFUND", "anne")
    error = await refused(system, ANNE, case, Decision.REFUND, names=Reason.CASE_NEEDS_SECOND_OPERATOR)
    assert error.metadata["proposed_by"] == "anne"
    assert "another operator" in error.message
    assert await refunds_of(system, case) == []
    view = await decide(system, BEN, case, Decision.REFUND, "seen")
    assert (view.case.state, view.case.decided_by, view.case.proposed_by) == (CaseState.REFUNDING, "ben", "")
    assert await refunds_of(system, case) == [("WAITING", 100, 1)]
    assert await events_of(system, case) == [
        ("LATE_PAYMENT", "OPERATOR", "test"), ("proposed", "OPERATOR", "anne"), ("refund", "OPERATOR", "ben"),
    ]  # fmt: skip
    evidence = await system.value("SELECT evidence FROM pay_event WHERE subject_id = $1 AND event = 'refund'", case.id)
    assert evidence == {"decision": "REFUND", "reason": "seen", "proposed_by": "anne"}


async def test_another_decision_replaces_the_proposal(system: PayCenterSystem) -> None:
    await hold(system)
    await set_app(system, case_decision_limit=0)
    _, case = await late(system)
    await decide(system, ANNE, case, Decision.REFUND)
    view = await decide(system, BEN, case, Decision.CLOSE, "no")
    assert (view.case.state, view.case.proposed_decision, view.case.proposed_by) == (CaseState.OPEN, "CLOSE", "ben")
    view = await decide(system, ANNE, case, Decision.REFUND)  # not the confirmation of her own earlier proposal
    assert (view.case.state, view.case.proposed_by) == (CaseState.OPEN, "anne")
    assert await refunds_of(system, case) == []


async def test_an_amount_within_the_limit_needs_one_operator(system: PayCenterSystem) -> None:
    await hold(system)
    await set_app(system, case_decision_limit=100)
    _, case = await late(system)
    assert (await decide(system, ANNE, case, Decision.REFUND)).case.state is CaseState.REFUNDING


async def test_an_amount_that_is_not_known_needs_a_second_operator(system: PayCenterSystem) -> None:
    """It fails closed, also for another currency, which the limit does not count."""
    await hold(system)
    await set_app(system, case_decision_limit=10_000)
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="never")
    await book(system, attempt, refunded=Refunded.SOME)
    elsewhere = await last_case(system)
    _, foreign = await wrong_amount(system, currency="USD")
    assert (elsewhere.kind.value, elsewhere.amount, foreign.amount) == ("REFUND_ELSEWHERE", None, 1)
    for case in (elsewhere, foreign):
        assert (await decide(system, ANNE, case, Decision.CLOSE, "seen")).case.state is CaseState.OPEN
        assert (await decide(system, BEN, case, Decision.CLOSE, "seen too")).case.state is CaseState.RESOLVED


async def test_a_change_of_the_state_ends_the_proposal(system: PayCenterSystem) -> None:
    """What was proposed before the refund failed is not what is decided after it."""
    await hold(system)
    await set_app(system, case_decision_limit=0)
    _, case = await late(system)
    await decide(system, ANNE, case, Decision.REFUND)
    await decide(system, BEN, case, Decision.REFUND)
    await refund_fails(system)
    await run_refund_job(system)
    assert (await case_of(system, case.id)).state is CaseState.OPEN
    view = await decide(system, BEN, case, Decision.REFUND)
    assert (view.case.state, view.case.proposed_by) == (CaseState.OPEN, "ben")
    assert await refunds_of(system, case) == [("FAILURE", 100, 1)]


# At the same moment


async def at_once(system: PayCenterSystem, case: PayCase, *calls: tuple[Caller, Decision]) -> list[Any]:
    """The results of decisions all of which have begun before one is carried out."""
    # The notifications of a case are locked before it. Without them the lock of the case alone decides.
    await system.rows("DELETE FROM pay_notify_task")
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_case WHERE id = $1 FOR NO KEY UPDATE", case.id)
        tasks = [asyncio.create_task(decide(system, by, case, decision, "x")) for by, decision in calls]
        await waiting_for_lock(system, tasks)
    return await ended(tasks)


async def test_two_operators_at_the_same_moment_make_one_refund(system: PayCenterSystem) -> None:
    await hold(system)
    _, case = await late(system)
    views = await at_once(system, case, (ANNE, Decision.REFUND), (BEN, Decision.REFUND))
    assert [view for view in views if isinstance(view, Exception)] == []
    assert {view.case.state for view in views} == {CaseState.REFUNDING}
    assert len({view.case.decided_by for view in views}) == 1
    assert await refunds_of(system, case) == [("WAITING", 100, 1)]


async def test_two_different_decisions_at_the_same_moment_carry_one_out(system: PayCenterSystem) -> None:
    await hold(system)
    order, case = await late(system)
    results = await at_once(system, case, (ANNE, Decision.REFUND), (BEN, Decision.CLOSE))
    errors = [item for item in results if isinstance(item, PayCenterError)]
    assert [error.reason for error in errors] == [Reason.CASE_DECISION_NOT_POSSIBLE]
    after = await case_of(system, case.id)
    expected = [("WAITING", 100, 1)] if after.decision == Decision.REFUND else []
    assert await refunds_of(system, case) == expected
    assert (await system.read(order)).state is OrderState.CLOSED


async def test_two_decisions_that_move_no_money_at_the_same_moment(system: PayCenterSystem) -> None:
    """Nothing but the case itself is locked by these."""
    await hold(system)
    _, case = await duplicate(system)
    results = await at_once(system, case, (ANNE, Decision.ACCEPT), (BEN, Decision.CLOSE))
    errors = [item for item in results if isinstance(item, PayCenterError)]
    assert [error.reason for error in errors] == [Reason.CASE_DECISION_NOT_POSSIBLE]


async def test_two_proposals_at_the_same_moment_decide_nothing_by_one_operator(system: PayCenterSystem) -> None:
    await set_app(system, case_decision_limit=0)
    case = await unknown(system)
    results = await at_once(system, case, (ANNE, Decision.CLOSE), (ANNE, Decision.CLOSE))
    assert [item.reason for item in results if isinstance(item, PayCenterError)] == [Reason.CASE_NEEDS_SECOND_OPERATOR]
    assert (await case_of(system, case.id)).state is CaseState.OPEN


async def test_two_operators_at_the_same_moment_send_a_failed_refund_again_once(system: PayCenterSystem) -> None:
    _, case = await late(system)
    await refund_fails(system)
    await run_refund_job(system)
    results = await at_once(system, case, (ANNE, Decision.RETRY), (BEN, Decision.REFUND))
    assert await refunds_of(system, case) == [("WAITING", 100, 2)]
    errors = [item for item in results if isinstance(item, PayCenterError)]
    assert all(error.reason in (Reason.CASE_DECISION_NOT_POSSIBLE, Reason.CASE_CHANGED) for error in errors)


async def test_a_decision_while_a_callback_settles_the_refund(system: PayCenterSystem) -> None:
    """The failed refund succeeds late in the moment in which an operator sends it again: it is not sent again."""
    _, case = await late(system)
    await refund_fails(system)
    await run_refund_job(system)
    view = await system.services.case_desk.get(ANNE, case.number)
    assert view.refund is not None
    channel = await configured(system, "mock")
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_refund WHERE id = $1 FOR NO KEY UPDATE", view.refund.id)
        callback = system.services.refund_settlement.apply(channel, view.refund, refunded(channel, view.refund), CAUSE)
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(callback)]
        await waiting_for_lock(system, tasks)
        tasks.append(asyncio.create_task(decide(system, ANNE, case, Decision.REFUND)))
        await waiting_for_lock(system, tasks)
    _, decided = await ended(tasks)
    assert (decided.case.state, decided.case.resolution) == (CaseState.RESOLVED, "refunded")
    assert await refunds_of(system, case) == [("SUCCESS", 100, 1)]
    assert (await case_of(system, case.id)).state is CaseState.RESOLVED


@pytest.mark.parametrize("decision", [Decision.REFUND, Decision.ACCEPT])
async def test_a_refund_that_changed_after_the_query_stops_the_decision(system: PayCenterSystem, decision: Decision) -> None:
    """The same, but the callback comes between the query and the transaction of the decision."""
    order, case = await late(system)
    await refund_fails(system)
    await run_refund_job(system)
    view = await system.services.case_desk.get(ANNE, case.number)
    assert view.refund is not None
    channel = await configured(system, "mock")
    await system.services.refund_settlement.apply(channel, view.refund, refunded(channel, view.refund), CAUSE)
    await system.rows("UPDATE pay_case SET state = 'OPEN', resolve_time = NULL")  # the decision has read it before the callback
    decisions = system.services.case_decisions
    carry_out = decisions.refund if decision is Decision.REFUND else decisions.book
    with pytest.raises(PayCenterError) as caught:
        await carry_out(case, Work(Decided(decision, "", "anne"), CAUSE), view.refund)
    assert caught.value.reason is Reason.CASE_CHANGED
    assert await refunds_of(system, case) == [("SUCCESS", 100, 1)]
    assert (await system.read(order)).paid_amount == 0


@pytest.mark.parametrize("decision", [Decision.REFUND, Decision.ACCEPT])
async def test_a_refund_that_failed_since_the_case_was_read_stops_the_decision(system: PayCenterSystem, decision: Decision) -> None:
    """Another operator refunded meanwhile, and that failed: it may succeed after all, so the channel must be queried first."""
    await hold(system)
    order, read = await late(system)
    await decide(system, BEN, read, Decision.REFUND)
    await refund_fails(system)
    await run_refund_job(system)
    decisions = system.services.case_decisions
    carry_out = decisions.refund if decision is Decision.REFUND else decisions.book
    with pytest.raises(PayCenterError) as caught:
        await carry_out(read, Work(Decided(decision, "", "anne"), CAUSE), None)
    assert caught.value.reason is Reason.CASE_CHANGED
    assert await refunds_of(system, read) == [("FAILURE", 100, 1)]
    assert (await system.read(order)).state is OrderState.CLOSED


async def test_a_conflict_that_is_opened_at_the_same_moment_stops_the_refund(system: PayCenterSystem) -> None:
    await hold(system)
    order, case = await late(system)
    (attempt,) = await system.services.orders.attempts(order)
    channel = await configured(system, "mock")
    facts = RefundFacts("console-1", attempt.out_trade_no, 40, dict(channel.codec.account))
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_attempt WHERE id = $1 FOR NO KEY UPDATE", attempt.id)
        await system.services.cases.unknown_refund(held, channel.channel, channel.account, facts, attempt, CAUSE)
        task = asyncio.create_task(decide(system, ANNE, case, Decision.REFUND))
        await waiting_for_lock(system, [task])
    (result,) = await ended([task])
    assert isinstance(result, PayCenterError), result
    assert result.reason is Reason.CASE_DECISION_NOT_POSSIBLE
    assert await refunds_of(system, case) == []


async def test_only_the_amount_that_the_operator_saw_is_refunded(system: PayCenterSystem) -> None:
    await hold(system)
    _, case = await late(system)
    await system.rows("UPDATE pay_case SET amount = 99")
    await refused(system, ANNE, case, Decision.REFUND, names=Reason.CASE_CHANGED)
    assert await refunds_of(system, case) == []


async def test_the_statement_books_a_late_payment_once_and_only_what_was_paid(system: PayCenterSystem) -> None:
    await hold(system)
    order, case = await late(system)
    (attempt,) = await system.services.orders.attempts(order)
    now = system.clock.now()
    booking = Booking(order.id, attempt.id, attempt.channel_id, "mock", 100, "C", "", now, 0, 0)
    async with system.services.context.database.transaction() as held:
        assert not await payment_rows.accept_late(held, replace(booking, amount=99), now, CAUSE)
        assert await payment_rows.accept_late(held, booking, now, CAUSE)
        assert not await payment_rows.accept_late(held, booking, now, CAUSE)
    assert (await system.read(order)).paid_amount == 100
    assert (await case_of(system, case.id)).state is CaseState.OPEN


async def test_a_decision_waits_for_a_settlement_and_sees_it(system: PayCenterSystem) -> None:
    await hold(system)
    _, case = await late(system)
    async with transaction(system) as held:
        assert await case_rows.move_case(held, case.id, CaseEvent.CLOSE, system.clock.now(), CAUSE)
        task = asyncio.create_task(decide(system, ANNE, case, Decision.REFUND))
        await waiting_for_lock(system, [task])
    (result,) = await ended([task])
    assert isinstance(result, PayCenterError)
    assert result.reason is Reason.CASE_DECISION_NOT_POSSIBLE


# Stale


async def test_a_case_whose_refund_only_raises_exceptions_is_stale_by_its_age(system: PayCenterSystem) -> None:
    """A lost key: every check of the refund raises an exception, and the case shows it. There is no second case."""
    _, case = await late(system)
    await lost_key(system)
    system.clock.advance(STALE_AFTER.total_seconds() - 60)
    await system.services.jobs.sync_refunds()
    assert (await case_of(system, case.id)).stale_time is None
    for _ in range(2):
        system.clock.advance(300)
        await system.services.jobs.sync_refunds()
    after = await case_of(system, case.id)
    assert (after.state, after.stale_time is not None) == (CaseState.REFUNDING, True)
    assert [event for event, _, _ in await events_of(system, case)] == ["LATE_PAYMENT", "stale"]
    assert len(await system.cases()) == 1


async def test_a_stale_case_is_not_stale_any_more_when_its_refund_is_decided(system: PayCenterSystem) -> None:
    _, case = await late(system)
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "pending"})
    await system.rows("UPDATE pay_refund SET create_time = create_time + interval '9 days'")
    system.clock.advance(STALE_AFTER.total_seconds() + 60)
    await system.services.jobs.sync_refunds()
    assert (await case_of(system, case.id)).stale_time is not None
    await refund_fails(system)
    system.clock.advance(120)
    await run_refund_job(system)
    after = await case_of(system, case.id)
    assert (after.state, after.stale_time) == (CaseState.OPEN, None)
