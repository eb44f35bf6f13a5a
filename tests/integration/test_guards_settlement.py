"""Guards of the booking of a payment: the statement (`storage/payments.py`), and `services/payments.py` around it.

Each is taken out by `make mutants`.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from paycenter_server.channels.protocol import Payment, RefundFacts, RefundOutcome, RefundStatus
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import AttemptState, OrderEvent, OrderState
from paycenter_server.services import notifications_payloads as payloads
from paycenter_server.services.payments import BeingCancelledError, Booked
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import payments as payment_rows
from paycenter_server.storage.payments import Booking, QuerySnapshot
from support.facts import configured, payment_of
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, OPERATOR, PayCenterSystem
from support.waiting import ended

NEVER = {"behaviour": "never"}
STAYS_PAYABLE = {"behaviour": "late_after_close", "late_seconds": "80000"}


async def two_open(system: PayCenterSystem) -> tuple[PayOrder, PayAttempt, PayAttempt]:
    """An order with two attempts that can both be paid: at mock, which cannot close it, and at WeChat Pay."""
    order = await system.order()
    first = await system.submit(order, "mock", **STAYS_PAYABLE)
    second = await system.submit(order, "wx_native")
    return order, first, second


async def book(system: PayCenterSystem, attempt: PayAttempt, snapshot: QuerySnapshot | None = None, **changes: Any) -> Booked:
    channel = await configured(system, attempt.channel_code)
    return await system.services.payments.book(channel, payment_of(channel, attempt, **changes), CAUSE, snapshot)


async def test_what_is_known_of_another_number_books_nothing(system: PayCenterSystem) -> None:
    """The rows that the caller has read must be those of the payment."""
    order, other = [await system.order() for _ in range(2)]
    attempt, another = [await system.submit(one, "mock", **NEVER) for one in (order, other)]
    channel, payments = await configured(system, "mock"), system.services.payments
    known = await payments.known(another.out_trade_no)
    assert await payments.book(channel, payment_of(channel, attempt), CAUSE, known=known) is Booked.BOOKED
    assert (await system.read(order)).state is OrderState.SUCCESS
    assert (await system.read(other)).state is OrderState.WAITING


async def test_what_is_known_may_have_changed_since(system: PayCenterSystem) -> None:
    """Booked by another call, closed by another call, or with another version: the rows are read again under lock."""
    channel, payments = await configured(system, "mock"), system.services.payments
    attempts = [await system.submit(await system.order(), "mock", **NEVER) for _ in range(3)]
    known = [await payments.known(attempt.out_trade_no) for attempt in attempts]
    await book(system, attempts[0])
    await system.rows("UPDATE pay_attempt SET state = 'CLOSED', next_check_time = NULL WHERE id = $1", attempts[1].id)
    await system.rows("UPDATE pay_order SET version = 4 WHERE id = $1", attempts[2].order_id)
    results = [
        await payments.book(channel, payment_of(channel, one), CAUSE, known=rows) for one, rows in zip(attempts, known, strict=True)
    ]
    assert results == [Booked.ALREADY, Booked.BOOKED, Booked.BOOKED]
    versions = await system.rows("SELECT version FROM pay_order ORDER BY id")
    assert [row["version"] for row in versions] == [1, 1, 5]
    assert await system.cases() == []


async def settle(
    system: PayCenterSystem,
    order: PayOrder,
    attempt: PayAttempt,
    *,
    snapshot: QuerySnapshot | None = None,
    closed_attempt: bool = False,
    **changes: Any,
) -> bool:
    """The statement alone, with a booking that matches except for the changes."""
    now = system.clock.now()
    values: dict[str, Any] = {
        "order_id": order.id, "attempt_id": attempt.id, "channel_id": attempt.channel_id, "channel_code": attempt.channel_code,
        "amount": attempt.amount, "channel_order_no": "C1", "channel_user_id": "", "success_time": now, "fee_rate_ppm": 0,
        "fee_amount": 0, **changes,
    }  # fmt: skip
    booking = Booking(**values)
    task = payloads.order_paid(
        order, system.services.context.new_key(now), now, amount=booking.amount, channel_code=booking.channel_code,
        out_trade_no=attempt.out_trade_no, channel_order_no="C1", success_time=now,
    )  # fmt: skip
    async with system.services.context.database.connection() as connection:
        return await payment_rows.settle(
            connection, booking, task, now, OrderEvent.PAID, CAUSE, closed_attempt=closed_attempt, snapshot=snapshot
        )


async def unpaid(system: PayCenterSystem, order: PayOrder, attempt: PayAttempt) -> bool:
    """Nothing was changed."""
    row = (await system.rows("SELECT state, paid_amount FROM pay_attempt WHERE id = $1", attempt.id))[0]
    current = await system.read(order)
    tasks = await system.value("SELECT count(*) FROM pay_notify_task WHERE event = 'pay_order.success'")
    return (current.paid_amount, tasks) == (0, 0) and (row["paid_amount"] == 0 or row["state"] == "SUCCESS")


async def test_settle_locks_the_order_so_that_two_payments_book_one(system: PayCenterSystem) -> None:
    """Both statements have begun before either changes the order: the second finds it paid, and its money becomes a case."""
    order, first, second = await two_open(system)
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
        calls = [asyncio.create_task(book(system, attempt)) for attempt in (first, second)]
        await waiting_for_lock(system, calls)
    results = await ended(calls)
    assert sorted(map(str, results)) == [Booked.BOOKED, Booked.SURPLUS]
    booked, surplus = (first, second) if results[0] is Booked.BOOKED else (second, first)
    after = await system.read(order)
    assert (after.attempt_id, after.channel_code, after.paid_amount) == (booked.id, booked.channel_code, 100)
    assert [(case["kind"], case["attempt_id"]) for case in await system.cases()] == [("DUPLICATE_PAYMENT", surplus.id)]


async def test_settle_refuses_an_order_that_is_not_waiting(system: PayCenterSystem) -> None:
    order, first, second = await two_open(system)
    assert await settle(system, order, first)
    # Of the version that is booked, so that the state alone decides.
    assert not await settle(system, await system.read(order), second)
    after = await system.read(order)
    assert (after.attempt_id, after.channel_code) == (first.id, "mock")


async def test_settle_compares_the_channel(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    other = await configured(system, "wx_native")
    assert not await settle(system, order, attempt, channel_id=other.channel.id)
    assert await unpaid(system, order, attempt)
    assert await settle(system, order, attempt)


async def test_settle_compares_the_amount(system: PayCenterSystem) -> None:
    order = await system.order(amount=100)
    attempt = await system.submit(order, "mock", **NEVER)
    for amount in (1, 99, 101):
        assert not await settle(system, order, attempt, amount=amount)
    assert await unpaid(system, order, attempt)
    assert await settle(system, order, attempt)


async def test_settle_refuses_an_attempt_that_is_settled(system: PayCenterSystem) -> None:
    """Closed (then it is decided under lock), or its payment has a case already (of another amount, so the order is WAITING)."""
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    assert await book(system, attempt, amount=99) is Booked.SURPLUS
    assert not await settle(system, order, attempt)
    assert (await system.read(order)).state is OrderState.WAITING
    closed = await system.submit(order, "mock", behaviour="never", more="1")
    await system.rows("UPDATE pay_attempt SET state = 'CLOSED' WHERE id = $1", closed.id)
    assert not await settle(system, order, closed)
    assert await unpaid(system, order, closed)
    assert await settle(system, order, closed, closed_attempt=True)


async def test_settle_books_nothing_that_may_be_older_than_a_cancellation(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    until = system.clock.now() + timedelta(seconds=60)
    await system.rows("UPDATE pay_attempt SET cancel_until = $1", until)
    # Without a query; queried before the cancellation; queried while the channel may still execute it.
    assert not await settle(system, order, attempt)
    assert not await settle(system, order, attempt, snapshot=QuerySnapshot(until + timedelta(seconds=1), None))
    assert await unpaid(system, order, attempt)
    assert await settle(system, order, attempt, snapshot=QuerySnapshot(until + timedelta(seconds=1), until))


async def test_settle_books_nothing_while_a_cancellation_may_be_carried_out(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    until = system.clock.now() + timedelta(seconds=60)
    await system.rows("UPDATE pay_attempt SET cancel_until = $1", until)
    assert not await settle(system, order, attempt, snapshot=QuerySnapshot(until - timedelta(seconds=1), until))
    assert await unpaid(system, order, attempt)


async def test_settle_locks_the_attempt_against_a_cancellation_that_begins(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    async with transaction(system) as held:
        now = system.clock.now()
        assert await attempt_rows.begin_cancel(held, attempt.id, now, now + timedelta(seconds=60), CAUSE)
        calls = [asyncio.create_task(book(system, attempt))]
        await waiting_for_lock(system, calls)
    assert isinstance((await ended(calls))[0], BeingCancelledError)
    assert await unpaid(system, order, attempt)


async def test_a_payment_wakes_the_other_open_attempts(system: PayCenterSystem) -> None:
    """Against a second payment: the sync job closes the other open attempts at once, and not at their next check."""
    order, first, second = await two_open(system)
    await system.rows("UPDATE pay_attempt SET next_check_time = now() + interval '1 day'")
    assert await book(system, second) is Booked.BOOKED
    due = {row["id"]: row["next_check_time"] for row in await system.rows("SELECT id, next_check_time FROM pay_attempt")}
    assert due[second.id] is None
    assert due[first.id] is not None
    assert due[first.id] <= system.clock.now()
    assert await system.services.jobs.sync_orders() == 1
    assert await system.value("SELECT state FROM pay_attempt WHERE id = $1", first.id) == "CLOSED"
    assert (await system.read(order)).attempt_id == second.id


async def test_a_payment_wakes_no_settled_attempt(system: PayCenterSystem) -> None:
    order = await system.order()
    closed = await system.submit(order, "mock", behaviour="never", try_="1")
    paid = await system.submit(order, "mock", behaviour="never", try_="2")
    assert await system.value("SELECT state FROM pay_attempt WHERE id = $1", closed.id) == "CLOSED"
    assert await book(system, paid) is Booked.BOOKED
    # The closed one keeps the time of its next look.
    soon = system.clock.now() + timedelta(minutes=4)
    assert await system.value("SELECT count(*) FROM pay_attempt WHERE next_check_time < $1", soon) == 0


async def test_another_currency_is_not_booked(system: PayCenterSystem) -> None:
    """100 in another currency is no payment of the order, and cannot be refunded automatically, so an operator decides."""
    order = await system.order(amount=100)
    attempt = await system.submit(order, "mock", **NEVER)
    assert await book(system, attempt, currency="USD") is Booked.SURPLUS
    after = await system.read(order)
    assert (after.state, after.paid_amount) == (OrderState.WAITING, 0)
    (case,) = await system.cases()
    assert (case["kind"], case["state"], case["amount"], case["currency"]) == ("WRONG_CURRENCY", "OPEN", 100, "USD")
    assert await system.value("SELECT count(*) FROM pay_refund") == 0


async def test_another_amount_is_not_booked(system: PayCenterSystem) -> None:
    order = await system.order(amount=100)
    attempt = await system.submit(order, "mock", **NEVER)
    assert await book(system, attempt, amount=1) is Booked.SURPLUS
    assert (await system.read(order)).state is OrderState.WAITING
    (case,) = await system.cases()
    assert (case["kind"], case["state"], case["amount"]) == ("WRONG_AMOUNT", "REFUNDING", 1)


async def test_a_payment_at_an_old_price_is_not_booked(system: PayCenterSystem) -> None:
    """The amount of the attempt was paid, but it is not the amount of the order any more."""
    order = await system.order(amount=100)
    attempt = await system.submit(order, "mock", **STAYS_PAYABLE)
    await system.services.orders.update_price(system.caller, order.number, 80)
    assert await book(system, attempt) is Booked.SURPLUS
    after = await system.read(order)
    assert (after.state, after.paid_amount) == (OrderState.WAITING, 0)
    assert [(case["kind"], case["amount"]) for case in await system.cases()] == [("WRONG_AMOUNT", 100)]


async def test_a_second_payment_of_a_paid_order_is_a_duplicate(system: PayCenterSystem) -> None:
    order, first, second = await two_open(system)
    assert await book(system, first) is Booked.BOOKED
    assert await book(system, second) is Booked.SURPLUS
    assert [case["kind"] for case in await system.cases()] == ["DUPLICATE_PAYMENT"]
    assert (await system.read(order)).attempt_id == first.id


async def test_a_late_payment_is_accepted_only_by_policy(system: PayCenterSystem) -> None:
    order, first, _ = await two_open(system)
    await system.services.orders.close(system.caller, order.number)
    assert await book(system, first) is Booked.SURPLUS
    assert (await system.read(order)).state is OrderState.CLOSED
    assert [(case["kind"], case["state"]) for case in await system.cases()] == [("LATE_PAYMENT", "REFUNDING")]


async def test_surplus_locks_the_order(system: PayCenterSystem) -> None:
    """Two late payments of an order whose app accepts them: one is accepted, and the other is a duplicate."""
    await system.services.apps.update(OPERATOR, "shop", {"surplus_policy": "ACCEPT"})
    order, first, second = await two_open(system)
    await system.services.orders.close(system.caller, order.number)
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
        calls = [asyncio.create_task(book(system, attempt)) for attempt in (first, second)]
        await waiting_for_lock(system, calls)
    assert sorted(map(str, await ended(calls))) == [Booked.BOOKED, Booked.SURPLUS]
    assert [case["kind"] for case in await system.cases()] == ["DUPLICATE_PAYMENT"]
    assert (await system.read(order)).paid_amount == 100


async def test_surplus_locks_the_attempt(system: PayCenterSystem) -> None:
    """A late payment whose cancellation begins at the same time: the channel may refund it, so PayCenter must not."""
    order = await system.order()
    attempt = await system.submit(order, "mock", **STAYS_PAYABLE)
    await system.services.orders.close(system.caller, order.number)
    async with transaction(system) as held:
        now = system.clock.now()
        assert await attempt_rows.begin_cancel(held, attempt.id, now, now + timedelta(seconds=60), CAUSE)
        calls = [asyncio.create_task(book(system, attempt))]
        await waiting_for_lock(system, calls)
    assert isinstance((await ended(calls))[0], BeingCancelledError)
    assert await system.cases() == []
    assert await system.value("SELECT count(*) FROM pay_refund") == 0


async def test_a_late_payment_that_is_being_cancelled_is_not_refunded(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", **STAYS_PAYABLE)
    await system.services.orders.close(system.caller, order.number)
    until = system.clock.now() + timedelta(seconds=60)
    await system.rows("UPDATE pay_attempt SET cancel_until = $1", until)
    with pytest.raises(BeingCancelledError):
        await book(system, attempt)
    with pytest.raises(BeingCancelledError):
        await book(system, attempt, QuerySnapshot(system.clock.now(), until))
    assert await system.cases() == []
    assert await book(system, attempt, QuerySnapshot(until, until)) is Booked.SURPLUS


async def test_the_same_payment_reported_twice_at_once_is_booked_once(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
        calls = [asyncio.create_task(book(system, attempt)) for _ in range(2)]
        await waiting_for_lock(system, calls)
    assert sorted(map(str, await ended(calls))) == [Booked.ALREADY, Booked.BOOKED]
    assert await system.cases() == []


async def test_pay_late_leaves_a_paid_attempt_alone(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    assert await book(system, attempt) is Booked.BOOKED
    async with system.services.context.database.connection() as connection:
        now = system.clock.now()
        assert not await attempt_rows.pay_late(
            connection, attempt.id, CAUSE, amount=1, channel_order_no="x", channel_user_id="", success_time=now, now=now
        )
    (row,) = await system.rows("SELECT paid_amount, channel_order_no FROM pay_attempt")
    assert (row["paid_amount"], row["channel_order_no"]) == (100, f"C-{attempt.out_trade_no}")


async def console_refund(system: PayCenterSystem, attempt: PayAttempt) -> None:
    """A callback about a refund that was not made by PayCenter."""
    channel = await configured(system, attempt.channel_code)
    facts = RefundFacts("console-1", attempt.out_trade_no, 40, dict(channel.codec.account))
    await system.services.refund_settlement.receive_callback(channel, RefundOutcome(RefundStatus.SUCCESS, facts), CAUSE)


@pytest.mark.parametrize("closed_first", [True, False])
async def test_two_reports_of_the_same_conflict_make_one_case(system: PayCenterSystem, closed_first: bool) -> None:
    """A closed trade and a refund of it: both search for a case under the lock of the attempt before they open one."""
    order = await system.order()
    await system.submit(order, "mock")
    (attempt,) = await system.services.orders.attempts(order)
    assert attempt.state is AttemptState.SUCCESS
    reports = [system.services.cases.closed_after_booking(attempt, CAUSE), console_refund(system, attempt)]
    async with transaction(system) as held:
        # The first has found no case and waits to insert its own when the second begins.
        await held.execute("LOCK TABLE pay_case IN SHARE MODE")
        calls: list[asyncio.Task[None]] = []
        for report in reports if closed_first else reversed(reports):
            calls.append(asyncio.create_task(report))
            await waiting_for_lock(system, calls)
    assert await ended(calls) == [None, None]
    assert [case["kind"] for case in await system.cases()] == ["REFUND_MISMATCH" if closed_first else "REFUND_ELSEWHERE"]


async def test_a_payment_of_another_accounts_number_is_not_booked(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "alipay_qr")
    channel = await configured(system, "wx_native")
    assert await system.services.payments.book(channel, payment_of(channel, attempt), CAUSE) is Booked.SURPLUS
    assert (await system.read(order)).state is OrderState.WAITING
    assert [(case["kind"], case["state"], case["attempt_id"]) for case in await system.cases()] == [("UNKNOWN_ORDER", "OPEN", None)]


async def test_two_payments_under_one_unknown_number_are_two_cases(system: PayCenterSystem) -> None:
    """The case's reference holds the channel's own number too; the same payment again makes no second case."""
    channel = await configured(system, "mock")
    for channel_order_no in ("4200-1", "4200-2", "4200-1"):
        payment = Payment("NOT-OURS", channel_order_no, 100, "CNY", dict(channel.codec.account))
        assert await system.services.payments.book(channel, payment, CAUSE) is Booked.SURPLUS
    cases = await system.cases()
    assert [(case["kind"], case["detail"]["channel_order_no"]) for case in cases] == [
        ("UNKNOWN_ORDER", "4200-1"), ("UNKNOWN_ORDER", "4200-2"),
    ]  # fmt: skip
