"""Guards of refunds: reserve, send again, book the result. `make mutants` removes each of them."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from paycenter_server.channels.protocol import RefundOutcome, RefundStatus
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.states import CaseEvent, OrderState, RefundState
from paycenter_server.services import notifications_payloads as payloads
from paycenter_server.services.payments import FactsMismatchError
from paycenter_server.services.refunds import NewRefund, Work
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import refunds as refund_rows
from support.facts import configured, failed, payment_of, refund_facts, refunded
from support.locks import transaction, waiting_for_lock
from support.surplus import refund_of_case
from support.system import CAUSE, OPERATOR, PayCenterSystem
from support.waiting import ended


async def pending(system: PayCenterSystem, amount: int = 40, **changes: Any) -> tuple[PayOrder, PayRefund]:
    """A paid order of 100, and a refund of it that the channel has not decided."""
    order = await system.paid("mock")
    await behave(system, "pending")
    return order, await system.refund(order, amount, **changes)


async def behave(system: PayCenterSystem, how: str) -> None:
    """The behaviour of the mock channel for refunds from now on."""
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": how})


async def second_try(system: PayCenterSystem) -> tuple[PayOrder, PayRefund, PayRefund]:
    """A refund that has failed once and was sent again: as it was at its first try, and as it is at its second."""
    order, first = await pending(system)
    channel = await configured(system, "mock")
    await system.services.refund_settlement.apply(channel, first, failed(channel, first), CAUSE)
    assert (await row(system, first))["state"] == "FAILURE"
    await behave(system, "lost")
    second = await system.refund(order, first.amount, merchant_refund_no=first.merchant_refund_no)
    assert (second.id, second.state, second.send_count) == (first.id, RefundState.WAITING, 2)
    assert second.out_refund_no != first.out_refund_no
    return order, first, second


async def row(system: PayCenterSystem, refund: PayRefund) -> dict[str, Any]:
    return dict((await system.rows("SELECT * FROM pay_refund WHERE id = $1", refund.id))[0])


async def amounts(system: PayCenterSystem, order: PayOrder) -> tuple[int, int]:
    """(refunded, reserved)."""
    after = await system.read(order)
    return after.refunded_amount, after.reserved_amount


async def looked_at(system: PayCenterSystem) -> tuple[PayOrder, PayRefund, Work]:
    """A failed refund that was looked at; what sends it again next. A whole call would look at it again."""
    order, refund = await pending(system)
    channel = await configured(system, "mock")
    await system.services.refund_settlement.apply(channel, refund, failed(channel, refund), CAUSE)
    await behave(system, "lost")
    app = await system.services.identity.app_of(system.caller, "")
    new = NewRefund("", refund.merchant_order_id, refund.merchant_refund_no, refund.amount, refund.reason)
    return order, refund, Work(system.caller, app, new, None)


async def test_send_again_happens_once_of_two_calls(system: PayCenterSystem) -> None:
    """Both have read FAILURE: one sends it again, and the other must not reserve and send a third time."""
    order, refund, work = await looked_at(system)
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_refund WHERE id = $1 FOR UPDATE", refund.id)
        # The step after both have looked at the failed refund: a whole call may also see there that the other one has sent it.
        calls = [asyncio.create_task(system.services.refunds._reserve_and_send_again(work, refund)) for _ in range(2)]
        await waiting_for_lock(system, calls)
    results = await ended(calls)
    refused = [result.reason for result in results if isinstance(result, PayCenterError)]
    assert refused == [Reason.ORDER_CHANGED]
    assert (await row(system, refund))["send_count"] == 2
    assert await amounts(system, order) == (0, 40)


async def test_what_was_sent_again_since_the_look_is_not_sent_a_third_time(system: PayCenterSystem) -> None:
    """It failed again, and nobody has looked at its new number."""
    order, refund, work = await looked_at(system)
    channel = await configured(system, "mock")
    again = await system.services.refunds._reserve_and_send_again(work, refund)
    await system.services.refund_settlement.apply(channel, again, failed(channel, again), CAUSE)
    with pytest.raises(PayCenterError) as caught:
        await system.services.refunds._reserve_and_send_again(work, refund)
    assert caught.value.reason is Reason.ORDER_CHANGED
    assert (await row(system, refund))["send_count"] == 2
    assert await amounts(system, order) == (0, 0)


async def test_a_conflict_that_is_opened_since_the_look_stops_the_refund(system: PayCenterSystem) -> None:
    """It is being opened by a transaction that holds the attempt."""
    order, refund, work = await looked_at(system)
    (attempt,) = await system.services.orders.attempts(order)
    async with transaction(system) as held:
        await system.services.cases.refunded_elsewhere(held, attempt, 40, CAUSE)
        calls = [asyncio.create_task(system.services.refunds._reserve_and_send_again(work, refund))]
        await waiting_for_lock(system, calls)
    (error,) = await ended(calls)
    assert isinstance(error, PayCenterError)
    assert error.reason is Reason.REFUND_UNDER_REVIEW
    assert (await row(system, refund))["send_count"] == 1
    assert await amounts(system, order) == (0, 0)


@pytest.mark.parametrize("state", ["WAITING", "SUCCESS"])
async def test_a_refund_that_has_not_failed_is_not_sent_again(system: PayCenterSystem, state: str) -> None:
    order, refund = await pending(system)
    channel = await configured(system, "mock")
    if state == "SUCCESS":
        await system.services.refund_settlement.apply(channel, refund, refunded(channel, refund), CAUSE)
    again = await system.refund(order, 40, merchant_refund_no=refund.merchant_refund_no)
    assert (again.state.value, again.out_refund_no, again.send_count) == (state, refund.out_refund_no, 1)


async def test_a_late_success_of_the_first_try_settles_not_the_second(system: PayCenterSystem) -> None:
    order, first, second = await second_try(system)
    channel = await configured(system, "mock")
    await system.services.refund_settlement.apply(channel, first, refunded(channel, first), CAUSE)
    assert ((await row(system, first))["state"], await amounts(system, order)) == ("WAITING", (0, 40))
    assert [(case["kind"], case["refund_id"]) for case in await system.cases()] == [("REFUND_MISMATCH", first.id)]
    await system.services.refund_settlement.apply(channel, second, refunded(channel, second), CAUSE)
    assert await amounts(system, order) == (40, 0)


async def test_a_late_failure_of_the_first_try_fails_not_the_second(system: PayCenterSystem) -> None:
    order, first, _ = await second_try(system)
    channel = await configured(system, "mock")
    await system.services.refund_settlement.apply(channel, first, failed(channel, first), CAUSE)
    assert ((await row(system, first))["state"], await amounts(system, order)) == ("WAITING", (0, 40))


async def test_a_late_answer_of_the_first_try_is_not_noted_with_the_second(system: PayCenterSystem) -> None:
    _, first, second = await second_try(system)
    channel = await configured(system, "mock")
    due = (await row(system, second))["next_check_time"]
    system.clock.advance(5)
    await system.services.refund_settlement.apply(channel, first, RefundOutcome(RefundStatus.UNKNOWN, None, "LATE", "late"), CAUSE)
    after = await row(system, second)
    assert (after["channel_error_code"], after["next_check_time"]) == (None, due)


async def test_succeed_counts_once(system: PayCenterSystem) -> None:
    order, refund = await pending(system)
    channel = await configured(system, "mock")
    await pending_refund_beside(system, order)
    for _ in range(2):
        await system.services.refund_settlement.apply(channel, refund, refunded(channel, refund), CAUSE)
    assert await amounts(system, order) == (40, 50)
    assert await system.value("SELECT count(*) FROM pay_notify_task WHERE event = 'pay_refund.success'") == 1


async def test_a_success_is_reported_in_the_version_that_it_makes(system: PayCenterSystem) -> None:
    """Another change was notified since the refund was read."""
    order, refund = await pending(system)
    channel = await configured(system, "mock")
    await system.rows("UPDATE pay_refund SET version = 5")
    await system.services.refund_settlement.apply(channel, refund, refunded(channel, refund), CAUSE)
    (task,) = await system.rows("SELECT data_version, payload FROM pay_notify_task WHERE data_id = $1", refund.id)
    assert (task["data_version"], json.loads(task["payload"])["version"], (await row(system, refund))["version"]) == (6, 6, 6)
    assert await amounts(system, order) == (40, 0)


async def succeed_and_tell(system: PayCenterSystem, refund: PayRefund, version: int) -> int:
    """The statement of a success and its notification alone."""
    now = system.clock.now()
    key = system.services.context.new_key(now)
    task = payloads.refund_settled(refund, key, now, version=version, success_time=now)
    async with system.services.context.database.connection() as connection:
        return await refund_rows.succeed(connection, refund, CAUSE, task, channel_refund_no="", success_time=now, now=now)


async def test_a_success_that_is_not_booked_is_not_reported(system: PayCenterSystem) -> None:
    """Neither is an older notification of the refund superseded."""
    _, refund = await pending(system)
    channel = await configured(system, "mock")
    await system.services.refund_settlement.apply(channel, refund, failed(channel, refund), CAUSE)
    assert (await row(system, refund))["version"] == 1
    assert await succeed_and_tell(system, refund, 2) == 0
    tasks = await system.rows("SELECT event, state FROM pay_notify_task WHERE data_id = $1", refund.id)
    assert [(task["event"], task["state"]) for task in tasks] == [("pay_refund.failure", "WAITING")]


async def test_a_refund_of_a_case_succeeds_with_its_case_only(system: PayCenterSystem) -> None:
    _, surplus = await refund_of_case(system)
    assert await succeed_and_tell(system, surplus, 1) == 0
    assert (await row(system, surplus))["state"] == "WAITING"


@pytest.mark.parametrize("operator_first", [True, False])
async def test_an_app_and_an_operator_create_the_same_refund_at_once(system: PayCenterSystem, operator_first: bool) -> None:
    """One statement and one transaction, which take the number before they lock the order: no deadlock, and one refund."""
    order = await system.paid("mock")
    app, operator = [NewRefund(key, order.merchant_order_id, "R1", 60, "why") for key in ("", "shop")]
    works = [(system.caller, app), (OPERATOR, operator)]
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
        calls: list[asyncio.Task[Any]] = []
        for caller, new in reversed(works) if operator_first else works:
            calls.append(asyncio.create_task(system.services.refunds.create(caller, new)))
            await waiting_for_lock(system, calls)
    first, second = await ended(calls)
    assert (first.id, first.merchant_refund_no) == (second.id, "R1")
    assert await system.value("SELECT count(*) FROM pay_refund") == 1
    after = await system.read(order)
    assert after.refunded_amount + after.reserved_amount == 60


async def pending_refund_beside(system: PayCenterSystem, order: PayOrder) -> PayRefund:
    """Another of 50, so that a wrong change of the reserved amount meets no CHECK."""
    beside = await system.refund(order, 50)
    assert isinstance(beside, PayRefund)
    return beside


async def test_fail_does_not_undo_a_success(system: PayCenterSystem) -> None:
    order, refund = await pending(system)
    channel = await configured(system, "mock")
    await pending_refund_beside(system, order)
    await system.services.refund_settlement.apply(channel, refund, refunded(channel, refund), CAUSE)
    await system.services.refund_settlement.apply(channel, refund, failed(channel, refund), CAUSE)
    assert ((await row(system, refund))["state"], await amounts(system, order)) == ("SUCCESS", (40, 50))


async def test_a_success_after_a_failure_is_booked_if_there_is_room(system: PayCenterSystem) -> None:
    """The reserved amount was released. If another refund uses it, the order does not change, and an operator decides."""
    order, refund = await pending(system)
    channel = await configured(system, "mock")
    await system.services.refund_settlement.apply(channel, refund, failed(channel, refund), CAUSE)
    beside = await system.refund(order, 70)
    await system.services.refund_settlement.apply(channel, refund, refunded(channel, refund), CAUSE)
    assert ((await row(system, refund))["state"], await amounts(system, order)) == ("FAILURE", (0, 70))
    assert [(case["kind"], case["refund_id"]) for case in await system.cases()] == [("REFUND_MISMATCH", refund.id)]
    await system.services.refund_settlement.apply(channel, beside, failed(channel, beside), CAUSE)
    await system.services.refund_settlement.apply(channel, refund, refunded(channel, refund), CAUSE)
    assert ((await row(system, refund))["state"], await amounts(system, order)) == ("SUCCESS", (40, 0))


async def test_note_leaves_a_settled_refund_alone(system: PayCenterSystem) -> None:
    _, refund = await pending(system)
    channel = await configured(system, "mock")
    await system.services.refund_settlement.apply(channel, refund, refunded(channel, refund), CAUSE)
    before = await row(system, refund)
    await system.services.refund_settlement.apply(channel, refund, RefundOutcome(RefundStatus.UNKNOWN, None, "E", "e"), CAUSE)
    assert await row(system, refund) == before


@pytest.mark.parametrize("outcome", ["succeed", "fail"])
async def test_a_refund_of_surplus_changes_no_order(system: PayCenterSystem, outcome: str) -> None:
    """It refunds money of the attempt, which does not belong to the order. The reserved amount is that of another refund."""
    order = await system.order()
    second = await system.submit(order, "mock", behaviour="late_after_close", late_seconds="80000")
    first = await system.submit(order, "alipay_qr")
    for attempt, code in ((first, "alipay_qr"), (second, "mock")):
        channel = await configured(system, code)
        await system.services.payments.book(channel, payment_of(channel, attempt), CAUSE)
    await system.simulator.fault("alipay.trade.refund", "error_before_commit")
    await system.refund(await system.read(order), 100)
    assert await amounts(system, order) == (0, 100)
    (case,) = await system.cases()
    async with system.services.context.database.connection() as connection:
        surplus = await refund_rows.get_refund(connection, case["refund_id"])
    assert surplus is not None
    channel = await configured(system, "mock")
    answer = refunded(channel, surplus) if outcome == "succeed" else failed(channel, surplus)
    await system.services.refund_settlement.apply(channel, surplus, answer, CAUSE)
    assert await amounts(system, order) == (0, 100)
    assert (await system.read(order)).state is OrderState.SUCCESS
    assert (await system.cases())[0]["state"] == ("RESOLVED" if outcome == "succeed" else "OPEN")


async def test_two_refunds_that_succeed_at_once_are_both_counted(system: PayCenterSystem) -> None:
    order, first = await pending(system)
    second = await pending_refund_beside(system, order)
    channel = await configured(system, "mock")
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
        calls = [
            asyncio.create_task(system.services.refund_settlement.apply(channel, one, refunded(channel, one), CAUSE))
            for one in (first, second)
        ]
        await waiting_for_lock(system, calls)
    assert await ended(calls) == [True, True]
    assert await amounts(system, order) == (90, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": None},
        {"amount": 39},
        {"out_refund_no": "R" + "0" * 26},
        {"out_trade_no": "P" + "0" * 26},
        {"account": {}},
        {"account": {"mock": "another"}},
    ],
)
async def test_a_success_with_other_facts_is_not_booked(system: PayCenterSystem, wrong: dict[str, Any]) -> None:
    order, refund = await pending(system)
    channel = await configured(system, "mock")
    with pytest.raises(FactsMismatchError):
        await system.services.refund_settlement.apply(channel, refund, refunded(channel, refund, **wrong), CAUSE)
    assert ((await row(system, refund))["state"], await amounts(system, order)) == ("WAITING", (0, 40))


@pytest.mark.parametrize("wrong", [{"amount": 39}, {"out_refund_no": "R" + "0" * 26}, {"out_trade_no": "P" + "0" * 26}])
async def test_a_failure_with_other_facts_frees_nothing(system: PayCenterSystem, wrong: dict[str, Any]) -> None:
    order, refund = await pending(system)
    channel = await configured(system, "mock")
    with pytest.raises(FactsMismatchError):
        await system.services.refund_settlement.apply(channel, refund, failed(channel, refund, **wrong), CAUSE)
    assert ((await row(system, refund))["state"], await amounts(system, order)) == ("WAITING", (0, 40))


async def test_a_callback_settles_only_refunds_of_its_own_account(system: PayCenterSystem) -> None:
    """The number alone decides nothing: the account that signed must be that of the refund."""
    order, refund = await pending(system)
    channel = await configured(system, "alipay_qr")
    outcome = RefundOutcome(RefundStatus.SUCCESS, refund_facts(channel, refund))
    await system.services.refund_settlement.receive_callback(channel, outcome, CAUSE)
    assert ((await row(system, refund))["state"], await amounts(system, order)) == ("WAITING", (0, 40))
    assert [(case["kind"], case["channel_id"]) for case in await system.cases()] == [("REFUND_MISMATCH", channel.channel.id)]


async def test_more_than_was_paid_is_refused(system: PayCenterSystem) -> None:
    order = await system.paid("mock", amount=100)
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 101)
    assert (caught.value.reason, caught.value.metadata["refundable_amount"]) == (Reason.REFUND_EXCEEDS_PAID, "100")
    assert await system.value("SELECT count(*) FROM pay_refund") == 0


async def test_reserve_counts_what_is_refunded_and_what_is_reserved(system: PayCenterSystem) -> None:
    order, refund = await pending(system, 40)
    channel = await configured(system, "mock")
    await system.services.refund_settlement.apply(channel, refund, refunded(channel, refund), CAUSE)
    await system.refund(order, 50)
    assert await amounts(system, order) == (40, 50)
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 11)
    assert caught.value.reason is Reason.REFUND_EXCEEDS_PAID
    assert caught.value.metadata["refundable_amount"] == "10"
    assert await amounts(system, order) == (40, 50)


async def test_sending_again_reserves_again(system: PayCenterSystem) -> None:
    """The amount of a failed refund was released, and another refund has reserved it."""
    order, refund = await pending(system, 60)
    channel = await configured(system, "mock")
    await system.services.refund_settlement.apply(channel, refund, failed(channel, refund), CAUSE)
    await behave(system, "lost")
    await pending_refund_beside(system, order)
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 60, merchant_refund_no=refund.merchant_refund_no)
    assert caught.value.reason is Reason.REFUND_EXCEEDS_PAID
    assert (await row(system, refund))["state"] == "FAILURE"
    assert await amounts(system, order) == (0, 50)


async def test_the_number_of_a_surplus_refund_is_taken(system: PayCenterSystem) -> None:
    """An app that uses that number gets neither a second refund nor the first one."""
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="late_after_close", late_seconds="80000")
    await system.services.orders.close(system.caller, order.number)
    channel = await configured(system, "mock")
    await system.services.payments.book(channel, payment_of(channel, attempt), CAUSE)
    (surplus,) = await system.rows("SELECT merchant_refund_no, reason FROM pay_refund")
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 100, merchant_refund_no=surplus["merchant_refund_no"], reason=surplus["reason"])
    assert caught.value.reason is Reason.REFUND_CONFLICT


async def test_a_resolved_case_stays_so(system: PayCenterSystem) -> None:
    """A case changes by compare-and-set too: a late failure does not open a resolved case."""
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="never")
    channel = await configured(system, "mock")
    await system.services.payments.book(channel, payment_of(channel, attempt, amount=1), CAUSE)
    (case,) = await system.cases()
    async with system.services.context.database.connection() as connection:
        now = system.clock.now()
        assert await case_rows.move_case(connection, case["id"], CaseEvent.RESOLVE, now, CAUSE)
        assert not await case_rows.move_case(connection, case["id"], CaseEvent.REFUND_FAILED, now, CAUSE)
    assert (await system.cases())[0]["state"] == "RESOLVED"


async def test_a_case_is_changed_once_of_two_calls(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="never")
    channel = await configured(system, "mock")
    await system.services.payments.book(channel, payment_of(channel, attempt, amount=1), CAUSE)
    (case,) = await system.cases()

    async def resolve() -> bool:
        async with system.services.context.database.connection() as connection:
            return bool(await case_rows.move_case(connection, case["id"], CaseEvent.RESOLVE, system.clock.now(), CAUSE))

    async with transaction(system) as held:
        assert await case_rows.move_case(held, case["id"], CaseEvent.RESOLVE, system.clock.now(), CAUSE)
        calls = [asyncio.create_task(resolve())]
        await waiting_for_lock(system, calls)
    assert await ended(calls) == [False]
    assert await system.value("SELECT count(*) FROM pay_event WHERE subject_id = $1 AND to_state = 'RESOLVED'", case["id"]) == 1


async def test_claimed_refunds_are_due_and_not_claimed_by_another(system: PayCenterSystem) -> None:
    order, refund = await pending(system)
    await pending_refund_beside(system, order)
    now = system.clock.now() + timedelta(seconds=60)
    await system.rows("UPDATE pay_refund SET next_check_time = $1", now + timedelta(seconds=1))
    await system.rows("UPDATE pay_refund SET next_check_time = $2 WHERE id = $1", refund.id, now)

    async def claim() -> list[Any]:
        async with system.services.context.database.connection() as connection:
            return [
                claimed.id
                for claimed in await refund_rows.claim_due(connection, now, now + timedelta(seconds=120), {refund.account_id: 10})
            ]

    async with transaction(system) as held:
        first = await refund_rows.claim_due(held, now, now + timedelta(seconds=120), {refund.account_id: 10})
        assert [claimed.id for claimed in first] == [refund.id]
        other = asyncio.create_task(claim())
        await waiting_for_lock(system, [other])
        assert other.done(), "a claim must pass over rows that another worker holds, not wait for them"
        assert other.result() == []
    assert await claim() == []
