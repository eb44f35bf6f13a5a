"""A refund that is SUCCESS here and did not go back, as the channel says, is taken back: its amount can be refunded again."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from integration.test_refunds_contradicted import report, succeeded
from integration.test_second_looks import books, current, failed_refund, job, succeeds_now, told
from integration.test_stale_refunds import accepted
from paycenter_server.domain.cases import CaseKind, Decision, PayCase
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.schedule import FAILED_REFUND, VERIFY_DELAYS
from paycenter_server.domain.states import CaseState, RefundState
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.storage import refunds as refund_rows
from support.cases import ANNE, BEN, decide, duplicate, last_case, refused, run_refund_job, set_app
from support.facts import refunded
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, PayCenterSystem
from support.waiting import ended

WHY = "the channel's support has confirmed it"


async def contradicted(system: PayCenterSystem, state: str = "CLOSED") -> tuple[PayOrder, PayRefund, ConfiguredChannel, PayCase]:
    """A refund that is SUCCESS here, of which the channel says this, and its case."""
    order, refund, channel = await succeeded(system, state)
    await report(system, channel, refund, state)
    case = await last_case(system)
    assert (case.kind, case.possible) == (CaseKind.REFUND_MISMATCH, (Decision.ACCEPT, Decision.CLOSE))
    return order, await current(system, refund), channel, case


async def test_its_amount_can_be_refunded_again(system: PayCenterSystem) -> None:
    order, refund, _, case = await contradicted(system)
    view = await decide(system, ANNE, case, Decision.ACCEPT, WHY)
    assert (view.case.state, view.case.resolution) == (CaseState.RESOLVED, "booked as not refunded")
    assert await books(system, order) == ("SUCCESS", 100, 0, 0)
    found = await current(system, refund)
    assert (found.state, found.success_time, found.channel_error_code) == (RefundState.FAILURE, None, "CLOSED")
    assert (found.version, found.known_time, found.unclear_send_time) == (refund.version + 1, None, None)
    assert found.next_check_time is not None
    assert (await told(system))[-2:] == ["pay_refund.failure", "pay_case.resolved"]
    (event,) = await system.rows("SELECT * FROM pay_event WHERE subject_id = $1 AND event = 'take back'", refund.id)
    assert (event["actor"], event["refunded_change"], event["evidence"]["reason"]) == ("anne", -40, WHY)
    assert await system.value("SELECT after ->> 'decision' FROM pay_audit ORDER BY id DESC LIMIT 1") == "ACCEPT"
    again = await system.refund(order, 40, merchant_refund_no=refund.merchant_refund_no)
    assert (again.id, again.send_count) == (refund.id, 2)
    assert (await system.decided(again)).state is RefundState.SUCCESS
    assert await books(system, order) == ("REFUND", 100, 0, 40)


async def test_the_others_of_its_order_stay(system: PayCenterSystem) -> None:
    order, _, channel, case = await contradicted(system)
    other = await system.refund(order, 30)
    await system.services.refund_settlement.receive_callback(channel, refunded(channel, other), CAUSE)
    await decide(system, ANNE, case, Decision.ACCEPT, WHY)
    assert await books(system, order) == ("REFUND", 100, 0, 30)


async def test_one_that_is_stuck_at_the_channel_is_not_sent_again(system: PayCenterSystem) -> None:
    """It may still be carried out there. Its amount can be refunded by another refund, and a late success is booked if it fits."""
    order, refund, channel, case = await contradicted(system, "ABNORMAL")
    await decide(system, ANNE, case, Decision.ACCEPT, WHY)
    assert await books(system, order) == ("SUCCESS", 100, 0, 0)
    await system.simulator.fault("wx.refund_query", "decline", code="RESOURCE_NOT_EXISTS", times=1)
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 40, merchant_refund_no=refund.merchant_refund_no)
    assert caught.value.reason is Reason.REFUND_UNDER_REVIEW
    await system.services.refund_settlement.receive_callback(channel, refunded(channel, refund), CAUSE)
    assert await books(system, order) == ("REFUND", 100, 0, 40)
    assert (await told(system))[-1] == "pay_refund.success"


async def test_a_late_success_without_room_is_a_conflict(system: PayCenterSystem) -> None:
    order, refund, channel, case = await contradicted(system)
    await decide(system, ANNE, case, Decision.ACCEPT, WHY)
    other = await system.refund(order, 100)
    await system.services.refund_settlement.receive_callback(channel, refunded(channel, other), CAUSE)
    await system.services.refund_settlement.receive_callback(channel, refunded(channel, refund), CAUSE)
    assert await books(system, order) == ("REFUND", 100, 0, 100)
    assert [(case["kind"], case["state"]) for case in await system.cases()] == [
        ("REFUND_MISMATCH", "RESOLVED"),
        ("REFUND_MISMATCH", "OPEN"),
    ]
    assert (await last_case(system)).possible == (Decision.CLOSE,)


async def test_a_success_that_comes_again_can_be_contradicted_again(system: PayCenterSystem) -> None:
    order, refund, channel, case = await contradicted(system)
    await decide(system, ANNE, case, Decision.ACCEPT, WHY)
    await system.services.refund_settlement.receive_callback(channel, refunded(channel, refund), CAUSE)
    assert await books(system, order) == ("REFUND", 100, 0, 40)
    for _ in range(2):
        await report(system, channel, refund, "CLOSED")
    second = await last_case(system)
    assert second.id != case.id
    assert len(await system.cases()) == 2
    await decide(system, ANNE, case, Decision.ACCEPT, WHY)  # the first one, which is resolved
    assert await books(system, order) == ("REFUND", 100, 0, 40)
    await decide(system, ANNE, second, Decision.ACCEPT, WHY)
    assert await books(system, order) == ("SUCCESS", 100, 0, 0)


async def test_it_needs_a_reason_and_above_the_limit_a_second_operator(system: PayCenterSystem) -> None:
    order, _, _, case = await contradicted(system)
    await refused(system, ANNE, case, Decision.ACCEPT, "", names=Reason.INVALID_FIELD)
    await set_app(system, case_decision_limit=10)
    await decide(system, ANNE, case, Decision.ACCEPT, WHY)
    await refused(system, ANNE, case, Decision.ACCEPT, WHY, names=Reason.CASE_NEEDS_SECOND_OPERATOR)
    assert await books(system, order) == ("REFUND", 100, 0, 40)
    await decide(system, BEN, case, Decision.ACCEPT, WHY)
    assert await books(system, order) == ("SUCCESS", 100, 0, 0)


async def test_another_conflict_about_the_payment_is_decided_first(system: PayCenterSystem) -> None:
    """Its money may have gone back in another way."""
    order, _, _, case = await contradicted(system)
    (attempt,) = await system.services.orders.attempts(order)
    await system.services.cases.another_amount(attempt, 90, CAUSE)
    await refused(system, ANNE, case, Decision.ACCEPT, WHY, names=Reason.CASE_DECISION_NOT_POSSIBLE)
    assert await books(system, order) == ("REFUND", 100, 0, 40)
    await decide(system, ANNE, await last_case(system), Decision.CLOSE, WHY)
    await decide(system, ANNE, case, Decision.ACCEPT, WHY)
    assert await books(system, order) == ("SUCCESS", 100, 0, 0)


async def test_it_is_taken_back_once(system: PayCenterSystem) -> None:
    order, refund, channel, case = await contradicted(system)
    other = await system.refund(order, 60)
    await system.services.refund_settlement.receive_callback(channel, refunded(channel, other), CAUSE)
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_refund WHERE id = $1 FOR UPDATE", refund.id)
        calls = [asyncio.create_task(decide(system, by, case, Decision.ACCEPT, WHY)) for by in (ANNE, BEN)]
        await waiting_for_lock(system, calls)
    await ended(calls)
    await decide(system, ANNE, case, Decision.ACCEPT, WHY)
    assert await books(system, order) == ("REFUND", 100, 0, 60)
    assert await system.value("SELECT count(*) FROM pay_event WHERE event = 'take back' AND subject_id = $1", refund.id) == 1


async def test_the_statement_takes_back_only_what_was_read(system: PayCenterSystem) -> None:
    order, refund, channel, _ = await contradicted(system)
    other = await system.refund(order, 60)
    await system.services.refund_settlement.receive_callback(channel, refunded(channel, other), CAUSE)
    now = system.clock.now()
    async with system.services.context.database.transaction() as connection:
        for wrong in (replace(refund, version=refund.version - 1), replace(refund, out_refund_key=refund.id)):
            assert not await refund_rows.take_back(
                connection, wrong, CAUSE, code="", message="", known=False, now=now, next_look=None
            )
    assert await books(system, order) == ("REFUND", 100, 0, 100)


@pytest.mark.parametrize("wrong", ["pay_refund", "pay_order"])
async def test_the_statement_takes_back_only_a_success_of_an_order_with_refunds(system: PayCenterSystem, wrong: str) -> None:
    _, refund, _, _ = await contradicted(system)
    await system.rows(f"UPDATE {wrong} SET state = $1", "WAITING" if wrong == "pay_refund" else "SUCCESS")
    async with system.services.context.database.transaction() as connection:
        assert not await refund_rows.take_back(
            connection, refund, CAUSE, code="", message="", known=False, now=system.clock.now(), next_look=None
        )
    assert await system.value("SELECT refunded_amount FROM pay_order") == 40


async def test_only_the_success_that_the_case_is_about_is_taken_back(system: PayCenterSystem) -> None:
    order, _, _, case = await contradicted(system)
    await system.rows("UPDATE pay_refund SET version = version + 2")
    await refused(system, ANNE, case, Decision.ACCEPT, WHY, names=Reason.CASE_DECISION_NOT_POSSIBLE)
    assert await books(system, order) == ("REFUND", 100, 0, 40)


@pytest.mark.parametrize("says", ["SUCCESS", "PENDING"])
async def test_what_goes_back_after_all_is_not_taken_back(system: PayCenterSystem, says: str) -> None:
    """When it is decided the channel says so."""
    if says == "PENDING":
        await system.simulator.fault("wx.refund", "refund_pending", seconds=600)
    order, refund, _ = await succeeded(system, "SUCCESS" if says == "SUCCESS" else "PROCESSING")
    async with system.services.context.database.transaction() as connection:
        await system.services.cases.failed_after_success(connection, await current(system, refund), CAUSE)
    await refused(system, ANNE, await last_case(system), Decision.ACCEPT, WHY, names=Reason.CASE_DECISION_NOT_POSSIBLE)
    assert await books(system, order) == ("REFUND", 100, 0, 40)


@pytest.mark.parametrize("fault", ["http_502", "wrong_amount"])
async def test_without_a_clear_answer_it_is_not_taken_back(system: PayCenterSystem, fault: str) -> None:
    order, _, _, case = await contradicted(system)
    await system.simulator.fault("wx.refund_query", fault)
    await refused(system, ANNE, case, Decision.ACCEPT, WHY, names=Reason.CHANNEL_UNCLEAR)
    assert await books(system, order) == ("REFUND", 100, 0, 40)


async def test_one_that_an_operator_had_accepted_is_taken_back(system: PayCenterSystem) -> None:
    """The channel has no such refund."""
    order, refund = await accepted(system, "lost")
    await job(system, VERIFY_DELAYS[FAILED_REFUND][0] + 1)
    case = await last_case(system)
    assert case.kind is CaseKind.REFUND_MISMATCH
    await decide(system, ANNE, case, Decision.ACCEPT, WHY)
    found = await current(system, refund)
    assert (found.state, found.channel_error_code) == (RefundState.FAILURE, "NOT_RETURNED")
    assert await books(system, order) == ("SUCCESS", 100, 0, 0)


async def test_other_contradictions_take_close_only(system: PayCenterSystem) -> None:
    _, refund = await failed_refund(system, 60)
    order = await system.services.orders.load_by_merchant_id(system.caller, "", refund.merchant_order_id)
    await succeeds_now(system)
    await system.refund(order, 50)
    await system.services.refunds.sync(system.caller, refund)  # it succeeded, and there is no room for it
    case = await last_case(system)
    assert (case.kind, case.possible) == (CaseKind.REFUND_MISMATCH, (Decision.CLOSE,))
    await refused(system, ANNE, case, Decision.ACCEPT, WHY, names=Reason.CASE_DECISION_NOT_POSSIBLE)


async def test_a_refund_of_surplus_money_is_not_taken_back(system: PayCenterSystem) -> None:
    """Its case is resolved, and would not refund it again. What was refunded of the order stays."""
    order, case = await duplicate(system)
    await run_refund_job(system)
    await system.refund(order, 100)
    assert await books(system, order) == ("REFUND", 100, 0, 100)
    async with system.services.context.database.transaction() as connection:
        found = await refund_rows.get_refund(connection, case.refund_id or case.id)
        assert found is not None
        assert found.state is RefundState.SUCCESS
        await system.services.cases.failed_after_success(connection, found, CAUSE)
        taken = await refund_rows.take_back(
            connection, found, CAUSE, code="", message="", known=False, now=system.clock.now(), next_look=None
        )
    assert taken == 0
    assert (await last_case(system)).possible == (Decision.CLOSE,)
    assert await books(system, order) == ("REFUND", 100, 0, 100)
