"""Decisions of operators about cases: what each does, and what is possible when."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from paycenter_server.channels.protocol import Refunded
from paycenter_server.domain.cases import Decision
from paycenter_server.domain.errors import Reason
from paycenter_server.domain.states import CaseState, OrderState
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
from support.system import CAUSE, PayCenterSystem

# REFUND


async def test_refund_returns_the_money_the_ordinary_way(system: PayCenterSystem) -> None:
    await hold(system)
    order, case = await late(system)
    view = await decide(system, ANNE, case, Decision.REFUND, "the payer called")
    assert (view.case.state, view.case.decision, view.case.decided_by) == (CaseState.REFUNDING, Decision.REFUND, "anne")
    assert view.case.decision_reason == "the payer called"
    assert view.refund is not None
    assert (view.refund.state.value, view.refund.amount, view.refund.case_id) == ("WAITING", 100, case.id)
    await run_refund_job(system)
    after = await case_of(system, case.id)
    assert (after.state, after.resolution, after.version) == (CaseState.RESOLVED, "refunded", 2)
    assert (await system.read(order)).state is OrderState.CLOSED
    told = [post.json for post in await system.deliver()]
    assert [item["type"] for item in told if item["object_id"] == case.number] == ["pay_case.resolved"]
    assert "pay_order.surplus_refunded" in [item["type"] for item in told]


async def test_the_same_decision_again_changes_nothing(system: PayCenterSystem) -> None:
    await hold(system)
    _, case = await late(system)
    for by in (ANNE, ANNE, BEN):
        view = await decide(system, by, case, Decision.REFUND)
        assert (view.case.state, view.case.decided_by) == (CaseState.REFUNDING, "anne")
    await run_refund_job(system)
    assert (await decide(system, BEN, case, Decision.REFUND)).case.state is CaseState.RESOLVED
    assert await refunds_of(system, case) == [("SUCCESS", 100, 1)]
    assert [event for event, _, _ in await events_of(system, case)] == ["LATE_PAYMENT", "refund", "resolve"]


async def test_a_decision_on_a_resolved_case_names_its_state(system: PayCenterSystem) -> None:
    await hold(system)
    _, case = await late(system)
    await decide(system, ANNE, case, Decision.CLOSE, "returned by bank")
    error = await refused(system, BEN, case, Decision.REFUND, names=Reason.CASE_DECISION_NOT_POSSIBLE)
    assert error.metadata | {"pay_case_id": ""} == {"pay_case_id": "", "state": "RESOLVED", "decision": "CLOSE", "possible": ""}
    assert "is RESOLVED" in error.message
    assert await refunds_of(system, case) == []


async def test_a_case_whose_refund_is_in_progress_is_not_decided(system: PayCenterSystem) -> None:
    """Whoever closes it might return the money in another way, and the refund would be sent later."""
    _, case = await late(system)
    assert case.state is CaseState.REFUNDING
    for decision in (Decision.CLOSE, Decision.ACCEPT, Decision.RETRY):
        error = await refused(system, ANNE, case, decision, names=Reason.CASE_DECISION_NOT_POSSIBLE)
        assert "its refund is in progress" in error.message


@pytest.mark.parametrize("decision", [Decision.RETRY, Decision.REFUND])
async def test_a_failed_refund_is_sent_again(system: PayCenterSystem, decision: Decision) -> None:
    _, case = await late(system)
    await refund_fails(system)
    await run_refund_job(system)
    view = await system.services.case_desk.get(ANNE, case.number)
    assert (view.case.state, view.refund and view.refund.error) == (
        CaseState.OPEN, "MOCK_FAILURE: the mock channel was asked to refuse",
    )  # fmt: skip
    view = await decide(system, ANNE, case, decision)
    assert (view.case.state, view.refund and view.refund.state.value) == (CaseState.REFUNDING, "WAITING")
    await refund_fails(system, fails=False)
    await run_refund_job(system)
    assert (await case_of(system, case.id)).state is CaseState.RESOLVED
    assert await refunds_of(system, case) == [("SUCCESS", 100, 2)]


async def test_a_failed_refund_that_succeeded_after_all_is_not_sent_again(system: PayCenterSystem) -> None:
    _, case = await late(system)
    await refund_fails(system)
    await run_refund_job(system)
    await refund_fails(system, fails=False)  # now the channel says that the first number succeeded
    view = await decide(system, ANNE, case, Decision.REFUND)
    assert (view.case.state, view.refund and view.refund.send_count) == (CaseState.RESOLVED, 1)


async def test_money_that_went_back_after_all_is_not_accepted(system: PayCenterSystem) -> None:
    order, case = await late(system)
    await refund_fails(system)
    await run_refund_job(system)
    await refund_fails(system, fails=False)
    error = await refused(system, ANNE, case, Decision.ACCEPT, names=Reason.CASE_DECISION_NOT_POSSIBLE)
    assert "RESOLVED" in error.message
    assert (await system.read(order)).state is OrderState.CLOSED


async def test_retry_needs_something_to_repeat(system: PayCenterSystem) -> None:
    await hold(system)
    _, case = await late(system)
    error = await refused(system, ANNE, case, Decision.RETRY, names=Reason.CASE_DECISION_NOT_POSSIBLE)
    assert error.metadata["possible"] == "REFUND, ACCEPT, CLOSE"


async def test_an_operator_refunds_for_a_disabled_app(system: PayCenterSystem) -> None:
    await hold(system)
    _, case = await late(system)
    order = await system.paid("mock")
    await set_app(system, enabled=False)
    assert (await decide(system, ANNE, case, Decision.REFUND)).case.state is CaseState.REFUNDING
    await run_refund_job(system)
    assert (await case_of(system, case.id)).state is CaseState.RESOLVED
    system.caller = ANNE
    refund = await system.refund(order, 30, app_key="shop")
    assert refund.state.value == "SUCCESS"


async def test_no_refund_over_a_disabled_account(system: PayCenterSystem) -> None:
    await hold(system)
    _, case = await late(system)
    await system.rows("UPDATE pay_account SET enabled = false")
    await refused(system, ANNE, case, Decision.REFUND, names=Reason.ACCOUNT_DISABLED)
    assert (await case_of(system, case.id)).state is CaseState.OPEN


async def test_money_that_may_be_with_the_payer_is_neither_refunded_nor_booked(system: PayCenterSystem) -> None:
    """A late payment of which the channel says that some of it was refunded: two cases, and the conflict comes first."""
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="never")
    await system.services.orders.close(system.caller, order.number)
    await book(system, attempt, refunded=Refunded.SOME)
    first, second = await system.cases()
    assert (first["kind"], first["state"], second["kind"]) == ("LATE_PAYMENT", "OPEN", "REFUND_ELSEWHERE")
    assert await system.value("SELECT count(*) FROM pay_refund") == 0
    payment, conflict = await case_of(system, first["id"]), await case_of(system, second["id"])
    for decision in (Decision.REFUND, Decision.ACCEPT):
        error = await refused(system, ANNE, payment, decision, names=Reason.CASE_DECISION_NOT_POSSIBLE)
        assert conflict.number in error.message
    await decide(system, ANNE, conflict, Decision.CLOSE, "nothing was refunded, the console shows")
    assert (await decide(system, ANNE, payment, Decision.REFUND)).case.state is CaseState.REFUNDING


# ACCEPT


async def test_accept_books_a_late_payment(system: PayCenterSystem) -> None:
    await hold(system)
    order, case = await late(system)
    await system.deliver()
    view = await decide(system, ANNE, case, Decision.ACCEPT)
    assert (view.case.state, view.case.resolution) == (CaseState.RESOLVED, "booked as paid")
    after = await system.read(order)
    assert (after.state, after.paid_amount, after.attempt_id) == (OrderState.SUCCESS, 100, case.attempt_id)
    assert (after.channel_fee_rate_ppm, after.channel_fee_amount) == (6000, 1)
    told = {post.json["type"]: post.json for post in await system.deliver()}
    assert sorted(told) == ["pay_case.resolved", "pay_order.success"]
    assert told["pay_order.success"]["version"] == after.version == 2
    assert (told["pay_case.resolved"]["version"], told["pay_case.resolved"]["data"]["resolution"]) == (2, "booked as paid")
    refund = await system.refund(after, 40)
    assert refund.state.value == "SUCCESS"


async def test_accept_twice_books_once(system: PayCenterSystem) -> None:
    await hold(system)
    order, case = await late(system)
    await asyncio.gather(*(decide(system, by, case, Decision.ACCEPT) for by in (ANNE, BEN, ANNE)))
    assert (await system.read(order)).paid_amount == 100
    assert await system.value("SELECT count(*) FROM pay_notify_task WHERE event = 'pay_order.success'") == 1


async def test_accept_needs_an_order_that_can_take_the_money(system: PayCenterSystem) -> None:
    """Two late payments of one order: the second cannot be booked any more, and nothing is kept silently."""
    await hold(system)
    order = await system.order()
    first = await system.submit(order, "mock", behaviour="never")
    second = await system.submit(order, "wx_native")
    await system.services.orders.close(system.caller, order.number)
    await book(system, first)
    await book(system, second)
    cases = [await case_of(system, row["id"]) for row in await system.cases()]
    await decide(system, ANNE, cases[0], Decision.ACCEPT)
    error = await refused(system, ANNE, cases[1], Decision.ACCEPT, names=Reason.CASE_DECISION_NOT_POSSIBLE)
    assert "its order is SUCCESS" in error.message
    assert (await system.read(order)).paid_amount == 100


@pytest.mark.parametrize("make", [duplicate, wrong_amount])
async def test_accept_keeps_other_money_without_booking(system: PayCenterSystem, make: Any) -> None:
    await hold(system)
    order, case = await make(system)
    view = await decide(system, ANNE, case, Decision.ACCEPT)
    assert (view.case.state, view.case.resolution) == (CaseState.RESOLVED, "kept without booking")
    after = await system.read(order)
    assert (after.state, after.paid_amount) == (order.state, order.paid_amount)
    assert await refunds_of(system, case) == []


@pytest.mark.parametrize("decision", [Decision.ACCEPT, Decision.CLOSE])
async def test_a_refund_that_succeeds_after_its_case_was_decided_otherwise_is_a_conflict(
    system: PayCenterSystem, decision: Decision
) -> None:
    """The failed refund of accepted money is carried out by the channel after all: nobody may overlook that."""
    _, case = await late(system)
    await refund_fails(system)
    await run_refund_job(system)
    await decide(system, ANNE, case, decision, "kept")
    view = await system.services.case_desk.get(ANNE, case.number)
    assert view.refund is not None
    channel = await configured(system, "mock")
    await system.services.refund_settlement.apply(channel, view.refund, refunded(channel, view.refund), CAUSE)
    conflict = await last_case(system)
    assert (conflict.kind.value, conflict.refund_id, conflict.state) == ("REFUND_MISMATCH", view.refund.id, CaseState.OPEN)
    assert case.number in conflict.detail["why"]


# CLOSE


async def test_close_needs_a_reason(system: PayCenterSystem) -> None:
    case = await unknown(system)
    error = await refused(system, ANNE, case, Decision.CLOSE, "", names=Reason.INVALID_FIELD)
    assert [violation.field for violation in error.violations] == ["reason"]
    view = await decide(system, ANNE, case, Decision.CLOSE, "belongs to the old system")
    assert (view.case.state, view.case.resolution) == (CaseState.RESOLVED, "closed by an operator")
    assert await events_of(system, case) == [
        ("UNKNOWN_ORDER", "OPERATOR", "test"), ("close", "OPERATOR", "anne"),
    ]  # fmt: skip


async def test_a_kind_takes_only_its_decisions(system: PayCenterSystem) -> None:
    await hold(system)
    nobodys = await unknown(system)
    _, foreign = await wrong_amount(system, amount=100, currency="USD")
    assert foreign.kind.value == "WRONG_CURRENCY"
    for case, decision, possible in (
        (nobodys, Decision.REFUND, "CLOSE"), (nobodys, Decision.ACCEPT, "CLOSE"), (nobodys, Decision.RETRY, "CLOSE"),
        (foreign, Decision.REFUND, "ACCEPT, CLOSE"),
    ):  # fmt: skip
        error = await refused(system, ANNE, case, decision, names=Reason.CASE_DECISION_NOT_POSSIBLE)
        assert error.metadata["possible"] == possible


async def test_apps_do_not_decide(system: PayCenterSystem) -> None:
    await hold(system)
    _, case = await late(system)
    await refused(system, system.caller, case, Decision.REFUND, names=Reason.PERMISSION_DENIED)


# RETRY of what is not surplus money


async def test_retry_settles_a_stale_attempt(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="timeout")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1, state = 'UNKNOWN', paid_amount = 0", {"behaviour": "timeout"})
    await system.rows("UPDATE pay_order SET state = 'WAITING', paid_amount = 0, version = 0")
    system.books_are_checked = False
    await system.services.cases.stale_attempt(attempt)
    case = await last_case(system)
    view = await decide(system, ANNE, case, Decision.RETRY)
    assert (view.case.state, view.case.resolution, view.case.decided_by) == (CaseState.RESOLVED, "settled", "anne")
    assert (await system.read(order)).state is OrderState.SUCCESS
    assert [event for event, _, _ in await events_of(system, case)] == ["STALE_ATTEMPT", "retried", "resolve"]


async def test_a_retry_that_settles_nothing_leaves_the_case_open(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "timeout"})
    refund = await system.refund(order, 40)
    assert refund.state.value == "WAITING"
    await system.services.cases.stale_refund(refund)
    case = await last_case(system)
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "pending"})
    await system.rows("UPDATE pay_refund SET create_time = create_time + interval '1 day'")
    assert (await decide(system, ANNE, case, Decision.RETRY)).case.state is CaseState.OPEN
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "failure"})
    view = await decide(system, ANNE, case, Decision.RETRY)
    assert (view.case.state, view.refund and view.refund.state.value) == (CaseState.RESOLVED, "FAILURE")


async def test_retry_resends_a_notification_that_was_given_up(system: PayCenterSystem) -> None:
    await system.paid("mock")
    system.sender.answers = [type(system.sender.default)(410, "gone")]
    await system.deliver()
    case = await last_case(system)
    assert (case.kind.value, case.amount, case.version) == ("NOTIFICATION_GIVEN_UP", 100, 1)
    # No notification about it: it would go to the same endpoint, be given up, and open the next case.
    assert await system.value("SELECT count(*) FROM pay_notify_task") == 1
    assert (await decide(system, ANNE, case, Decision.RETRY)).case.state is CaseState.RESOLVED
    assert [post.json["type"] for post in await system.deliver()] == ["pay_order.success"]
    assert await system.value("SELECT state FROM pay_notify_task") == "SUCCESS"
