"""Payments that are booked without a read before: the statement books what it should, and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from paycenter_server.channels.protocol import Refunded
from paycenter_server.domain.addresses import endpoint_of
from paycenter_server.domain.events import Actor, ActorKind, Cause
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.money import MAX_AMOUNT, fee
from paycenter_server.domain.states import OrderState
from paycenter_server.services import notifications_payloads as payloads
from paycenter_server.services.payments_direct import DirectPayments
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import payments_direct as direct_rows
from support.direct import NEVER, STAYS_PAYABLE, book, book_rows, booking_of, stored, together, waiting
from support.facts import configured, payment_of
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, OPERATOR, PayCenterSystem
from support.waiting import ended, eventually

HOSTILE = (
    "subject", '"subject"', "$user_id", '"', '\\"', "\\", "\\u0001subject\\u0001", "\x01", "\x01subject\x01", '","version":9,"a":"',
    "\b\f\n\r\t\x0b\x1f", "\x7f\x80\x9f", "\u2028\u2029\ufeff", "\U0001f9cb\u0301", "</script>&<>'%s{}/", "",
)  # fmt: skip


# The same as the other statement


async def test_it_stores_what_the_other_statement_stores(system: PayCenterSystem) -> None:
    """Every column of order, attempt, notification and event, of two orders that differ in their numbers only."""
    now = system.clock.now()
    system.clock.now = lambda: now  # type: ignore[method-assign]
    found = []
    for direct in (True, False):
        order, attempt, channel = await waiting(system, user_id="user-1", notification_url="http://own.test/hook?a=1")
        other = await system.submit(order, "wx_native")
        payment = payment_of(
            channel, attempt, channel_order_no="C1", channel_user_id="openid", success_time=datetime(2026, 1, 2, tzinfo=UTC)
        )
        if direct:
            assert await DirectPayments(system.services.context).book(channel, payment, CAUSE)
        else:
            await system.services.payments.book(channel, payment, CAUSE)
        rows = [dict(row) for row in await system.rows("SELECT * FROM pay_order WHERE id = $1", order.id)]
        rows += [dict(row) for row in await system.rows("SELECT * FROM pay_attempt WHERE order_id = $1 ORDER BY id", order.id)]
        rows += [dict(row) for row in await system.rows("SELECT * FROM pay_notify_task WHERE data_id = $1", order.id)]
        rows += [dict(row) for row in await system.rows("SELECT * FROM pay_event WHERE order_id = $1 AND event = 'paid'", order.id)]
        names = {str(order.id): "order", str(attempt.id): "attempt", str(other.id): "other", order.number: "order"}
        names |= {order.merchant_order_id: "merchant's", attempt.out_trade_no: "attempt"}
        rows = [{name: value for name, value in row.items() if name != "display_content"} for row in rows]
        text = json.dumps(rows, default=str, ensure_ascii=False)
        for name, value in names.items():
            text = text.replace(name, value)
        comparable = json.loads(text)
        comparable[3]["id"] = ""  # of the notification
        comparable[4] |= {"id": 0, "create_time": ""}
        found.append(comparable)
    assert found[0] == found[1]
    assert found[0][3]["endpoint"] == "http://own.test:80"


@pytest.mark.parametrize("text", HOSTILE)
async def test_the_payload_is_byte_for_byte_that_of_the_order(system: PayCenterSystem, text: str) -> None:
    """Whatever order and channel say, also what looks like a gap of the payload or like its JSON."""
    order, attempt, channel = await waiting(system, amount=7)
    merchant_order_id = f"{order.merchant_order_id} {text}"
    await system.rows(
        "UPDATE pay_order SET subject = $2, user_id = $2, merchant_order_id = $3, version = 11 WHERE id = $1",
        order.id, text, merchant_order_id,
    )  # fmt: skip
    order = await system.read(order)
    assert await book(system, channel, attempt, channel_order_no=text)
    (task,) = await system.rows("SELECT * FROM pay_notify_task WHERE data_id = $1", order.id)
    (after,) = await system.rows("SELECT success_time FROM pay_order WHERE id = $1", order.id)
    wanted = payloads.order_paid(
        order, task["id"], task["create_time"], amount=7, channel_code="mock", out_trade_no=attempt.out_trade_no,
        channel_order_no=text, success_time=after["success_time"],
    )  # fmt: skip
    assert task["payload"] == wanted.payload
    assert json.loads(task["payload"])["data"]["subject"] == text
    assert (task["data_version"], task["merchant_order_id"]) == (12, merchant_order_id)


async def test_the_number_in_sql_is_that_of_the_domain(system: PayCenterSystem) -> None:
    keys = [UUID(int=value) for value in (0, 1, 2**128 - 1, 2**127, 0x5555 << 112 | 0x1234)] + [
        UUID(int=1 << n) for n in range(128)
    ]
    keys += [uuid4() for _ in range(500)]
    number = direct_rows.number_sql(Prefix.ORDER, "k.bytes")
    rows = await system.rows(f"SELECT {number} AS number FROM (SELECT uuid_send(u) AS bytes FROM unnest($1::uuid[]) u) k", keys)
    assert [row["number"] for row in rows] == [encode(Prefix.ORDER, key) for key in keys]


async def test_the_fee_in_sql_is_that_of_the_domain(system: PayCenterSystem) -> None:
    chosen = random.Random(1)
    cases = [(amount, rate) for amount in (1, 50, 83, 10_000, MAX_AMOUNT) for rate in (0, 1, 6_000, 10_000, 999_999, 1_000_000)]
    cases += [(chosen.randint(1, 10_000), chosen.randint(0, 20_000)) for _ in range(2000)]
    text = f"SELECT {direct_rows.fee_sql('a', 'r')} AS fee FROM unnest($1::bigint[], $2::bigint[]) g (a, r)"
    rows = await system.rows(text, [amount for amount, _ in cases], [rate for _, rate in cases])
    assert [row["fee"] for row in rows] == [fee(*case) for case in cases]


async def test_the_endpoint_in_sql_is_that_of_the_domain_or_none(system: PayCenterSystem) -> None:
    """A URL in another form than the plain one is left to Python."""
    plain = [
        "http://a.test", "https://a.test/", "https://a.test:443/x?y#z", "http://a.test:8080", "http://10.0.0.1?x", "https://a-b.c#f",
        "http://a.test:80/a@b:9/",
    ]  # fmt: skip
    others = [
        "http://A.test/", "HTTP://a.test", "http://u:p@a.test/", "http://a.test:080/", "http://[::1]:8/", "http://a.test:80@b.test/",
        "http://a.test\\@b.test/", "http://a.test\n/", "http://\u00fc.test/", "http://a.test:8\t0/", "http://a_b.test/",
    ]  # fmt: skip
    rows = await system.rows(f"SELECT {direct_rows.endpoint_sql('u')} AS endpoint FROM unnest($1::text[]) u", plain + others + [""])
    assert [row["endpoint"] for row in rows] == [endpoint_of(url) for url in plain] + [None] * len(others) + [""]


async def test_an_order_with_an_unusual_address_is_left_to_the_other_statement(system: PayCenterSystem) -> None:
    order, attempt, channel = await waiting(system, notification_url="http://Own.test/hook")
    assert not await book(system, channel, attempt)
    assert (await system.services.payments.book(channel, payment_of(channel, attempt), CAUSE)).value == "BOOKED"
    assert await system.value("SELECT endpoint FROM pay_notify_task WHERE data_id = $1", order.id) == "http://own.test:80"


async def test_the_fee_rate_is_that_of_the_attempt_or_of_now(system: PayCenterSystem) -> None:
    rates = []
    for stored_rate in (6000, None):
        order, attempt, channel = await waiting(system, amount=10_000)
        await system.rows("UPDATE pay_attempt SET fee_rate_ppm = $2 WHERE id = $1", attempt.id, stored_rate)
        channel = replace(channel, channel=replace(channel.channel, fee_rate_ppm=20_000))
        assert await book(system, channel, attempt)
        paid = await system.read(order)
        rates.append((paid.channel_fee_rate_ppm, paid.channel_fee_amount))
    assert rates == [(6000, 60), (20_000, 200)]


# What it must not book


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("account_id", UUID(int=1)), ("binding_id", UUID(int=1)), ("amount", 99), ("amount", 101), ("currency", "USD"),
        ("currency", "cny"), ("attempt_id", UUID(int=1)),
    ],
    ids=["account", "binding", "less", "more", "currency", "lower-case", "unknown"],
)  # fmt: skip
async def test_other_facts_book_nothing(system: PayCenterSystem, name: str, value: Any) -> None:
    _, attempt, channel = await waiting(system)
    before = await stored(system)
    assert await book_rows(system, [booking_of(system, channel, attempt, **{name: value})]) == [False]
    assert await stored(system) == before
    assert await book_rows(system, [booking_of(system, channel, attempt)]) == [True]


@pytest.mark.parametrize(
    "change",
    [
        "pay_attempt SET state = 'CLOSED'", "pay_attempt SET state = 'SUCCESS', paid_amount = 100",
        "pay_order SET state = 'CLOSED'", "pay_order SET state = 'SUCCESS', paid_amount = 100",
        "pay_attempt SET cancel_until = now() - interval '1 day'", "pay_attempt SET cancel_until = now()",
    ],
    ids=["closed-attempt", "paid-attempt", "closed-order", "paid-order", "cancelled", "cancelling"],
)  # fmt: skip
async def test_other_states_book_nothing(system: PayCenterSystem, change: str) -> None:
    _, attempt, channel = await waiting(system)
    await system.rows(f"UPDATE {change}")
    before = await stored(system)
    assert not await book(system, channel, attempt)
    assert await stored(system) == before
    system.books_are_checked = False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("amount", None), ("amount", 0), ("amount", -100), ("amount", MAX_AMOUNT + 1), ("amount", 2**70), ("currency", None),
        ("currency", ""), ("out_trade_no", ""), ("out_trade_no", "P"), ("account", {}), ("account", {"merchant": "another"}),
        ("refunded", Refunded.SOME), ("refunded", Refunded.ALL),
    ],
)  # fmt: skip
async def test_odd_facts_are_not_given_to_the_statement(system: PayCenterSystem, name: str, value: Any) -> None:
    _, attempt, channel = await waiting(system)
    assert channel.codec.account
    before = await stored(system)
    assert DirectPayments(system.services.context).booking(channel, payment_of(channel, attempt, **{name: value}), CAUSE) is None
    assert not await book(system, channel, attempt, **{name: value})
    assert await stored(system) == before


# Payments in one statement


async def test_of_the_same_payment_twice_the_first_counts(system: PayCenterSystem) -> None:
    order, attempt, channel = await waiting(system)
    _, another, _ = await waiting(system)
    one = booking_of(system, channel, attempt, {"channel_user_id": "first"})
    wrong, again = replace(one, amount=1), booking_of(system, channel, attempt, {"channel_user_id": "second"})
    assert await book_rows(system, [wrong, one, again, booking_of(system, channel, another)]) == [False, True, False, True]
    after = await system.read(order)
    assert (after.paid_amount, after.version, after.channel_user_id) == (100, 1, "first")
    assert await system.value("SELECT count(*) FROM pay_event WHERE order_id = $1 AND event = 'paid'", order.id) == 1
    assert await system.value("SELECT count(*) FROM pay_notify_task WHERE data_id = $1", order.id) == 1


@pytest.mark.parametrize("first", [0, 1])
async def test_of_two_attempts_of_one_order_the_first_is_booked(system: PayCenterSystem, first: int) -> None:
    order, *_ = await waiting(system)
    await system.submit(order, "wx_native")
    attempts = await system.services.orders.attempts(order)
    bookings = [booking_of(system, await configured(system, one.channel_code), one) for one in attempts]
    given = [bookings[first], bookings[1 - first]]
    assert await book_rows(system, given) == [True, False]
    after = await system.read(order)
    assert (after.attempt_id, after.channel_code) == (attempts[first].id, attempts[first].channel_code)
    states = {row["id"]: row["state"] for row in await system.rows("SELECT id, state FROM pay_attempt")}
    assert states == {attempts[first].id: "SUCCESS", attempts[1 - first].id: "WAITING"}
    other = attempts[1 - first]
    channel = await configured(system, other.channel_code)
    assert (await system.services.payments.book(channel, payment_of(channel, other), CAUSE)).value == "SURPLUS"
    assert [case["kind"] for case in await system.cases()] == ["DUPLICATE_PAYMENT"]


async def test_each_payment_has_its_own_values(system: PayCenterSystem) -> None:
    """The cause, the texts and the times of a payment are not those of another one of the statement."""
    made = [await waiting(system, amount=100 + number, subject=f"S{number}") for number in range(7)]
    wanted = []
    for number, (order, attempt, channel) in enumerate(made):
        cause = Cause(Actor(ActorKind.CALLBACK, f"C{number}"), {"callback": {"id": f"E{number}"}})
        at = datetime(2026, 1, 1 + number, tzinfo=UTC)
        facts = {"channel_order_no": f"N{number}", "channel_user_id": f"U{number}", "success_time": at}
        wanted.append((order, attempt, booking_of(system, channel, attempt, facts, at=at, cause=cause)))
    random.Random(4).shuffle(wanted)
    assert await book_rows(system, [booking for *_, booking in wanted]) == [True] * 7
    for order, attempt, booking in wanted:
        paid = await system.read(order)
        assert (paid.attempt_id, paid.paid_amount, paid.channel_order_no) == (attempt.id, order.amount, booking.channel_order_no)
        assert (paid.channel_user_id, paid.success_time, paid.update_time) == (booking.channel_user_id, booking.at, booking.at)
        (event,) = await system.rows("SELECT * FROM pay_event WHERE order_id = $1 AND event = 'paid'", order.id)
        assert (event["actor"], event["evidence"]) == (booking.cause.actor.name, booking.cause.evidence)
        assert (event["subject_id"], event["amount"], event["paid_change"]) == (attempt.id, order.amount, order.amount)
        (task,) = await system.rows("SELECT * FROM pay_notify_task WHERE data_id = $1", order.id)
        data = json.loads(task["payload"])["data"]
        assert (data["subject"], data["amount"], data["channel_order_no"]) == (
            order.subject,
            order.amount,
            booking.channel_order_no,
        )
        assert (task["id"], task["next_notify_time"], task["app_id"]) == (booking.notification_id, booking.at, order.app_id)


async def test_the_other_open_attempts_are_due_and_closed_ones_are_not(system: PayCenterSystem) -> None:
    order = await system.order()
    closed = await system.submit(order, "mock", behaviour="never", try_="1")
    attempt = await system.submit(order, "mock", **STAYS_PAYABLE)
    other = await system.submit(order, "wx_native")
    _, stranger, _ = await waiting(system)
    await system.rows("UPDATE pay_attempt SET next_check_time = now() + interval '1 day'")
    assert await book(system, await configured(system, "mock"), attempt)
    now = system.clock.now()
    due = {row["id"]: row["next_check_time"] for row in await system.rows("SELECT id, next_check_time FROM pay_attempt")}
    assert due[attempt.id] is None
    assert due[other.id] <= now
    assert due[closed.id] > now
    assert due[stranger.id] > now


async def test_older_open_notifications_of_the_order_are_superseded_and_noted(system: PayCenterSystem) -> None:
    order, attempt, channel = await waiting(system)
    await system.rows("UPDATE pay_order SET version = 3 WHERE id = $1", order.id)
    columns = (
        "app_id, type, merchant_order_id, merchant_refund_no, notification_url, endpoint, payload, notify_times, "
        "schedule_start_time, schedule_start_times, create_time, update_time"
    )
    for event, version, state in (("older", 3, "REQUEST_FAILURE"), ("done", 2, "SUCCESS"), ("newer", 5, "WAITING")):
        await system.rows(
            f"""INSERT INTO pay_notify_task (id, data_id, event, data_version, state, {columns})
                SELECT gen_random_uuid(), $1, $2, $3, $4, app_id, 'ORDER', '', '', '', '', '', 0, now(), 0, now(), now()
                FROM pay_order WHERE id = $1""",
            order.id, event, version, state,
        )  # fmt: skip
    cause = Cause(Actor(ActorKind.CALLBACK, "C7"), {"callback": {}})
    assert await book_rows(system, [booking_of(system, channel, attempt, cause=cause)]) == [True]
    rows = await system.rows("SELECT event, data_version, state FROM pay_notify_task")
    assert {(row["event"], row["data_version"], row["state"]) for row in rows} == {
        ("older", 3, "SUPERSEDED"), ("done", 2, "SUCCESS"), ("newer", 5, "WAITING"), ("pay_order.success", 4, "WAITING"),
    }  # fmt: skip
    (noted,) = await system.rows("SELECT * FROM pay_event WHERE order_id = $1 AND event = 'supersede'", order.id)
    assert (noted["from_state"], noted["actor_kind"], noted["actor"], noted["evidence"]) == (
        "REQUEST_FAILURE", "CALLBACK", "C7", None,
    )  # fmt: skip


# Locks


async def test_an_order_that_is_locked_holds_nothing_up(system: PayCenterSystem) -> None:
    """It is being closed: the payment is not booked, and the others of the statement are, without a wait."""
    order, attempt, channel = await waiting(system)
    _, other, _ = await waiting(system)
    async with transaction(system) as held:
        await held.execute("UPDATE pay_order SET state = 'CLOSED' WHERE id = $1", order.id)
        call = asyncio.create_task(book_rows(system, [booking_of(system, channel, attempt), booking_of(system, channel, other)]))
        await waiting_for_lock(system, [call])
        done = call.done()
    assert (await ended([call]), done) == ([[False, True]], True)
    assert (await system.read(order)).state is OrderState.CLOSED


async def test_an_attempt_that_is_locked_is_not_booked(system: PayCenterSystem) -> None:
    """Its cancellation begins."""
    order, attempt, channel = await waiting(system)
    async with transaction(system) as held:
        now = system.clock.now()
        assert await attempt_rows.begin_cancel(held, attempt.id, now, now + timedelta(seconds=60), CAUSE)
        call = asyncio.create_task(book(system, channel, attempt))
        await waiting_for_lock(system, [call])
        done = call.done()
    assert (await ended([call]), done) == ([False], True)
    assert (await system.read(order)).state is OrderState.WAITING


async def test_the_other_attempts_are_locked_in_the_order_of_their_keys(system: PayCenterSystem) -> None:
    """While the first one is locked, the second one is not locked yet."""
    order = await system.order()
    first = await system.submit(order, "wx_native")
    second = await system.submit(order, "alipay_qr")
    attempt = await system.submit(order, "mock", **NEVER)
    await system.rows("UPDATE pay_attempt SET state = 'WAITING'")
    async with transaction(system) as held:
        await held.execute("SELECT FROM pay_attempt WHERE id = $1 FOR UPDATE", first.id)
        call = asyncio.create_task(book(system, await configured(system, "mock"), attempt))
        await waiting_for_lock(system, [call])
        free = await system.rows("SELECT id FROM pay_attempt WHERE id = $1 FOR UPDATE SKIP LOCKED", second.id)
    assert (await ended([call]), len(free)) == ([True], 1)


async def test_statements_with_the_same_orders_do_not_wait_for_each_other_in_a_circle(system: PayCenterSystem) -> None:
    made = [await waiting(system) for _ in range(12)]
    for _, _, channel in made[:1]:
        bookings = [booking_of(system, channel, attempt) for _, attempt, _ in made]
    chosen = random.Random(7)
    results = await ended([asyncio.create_task(book_rows(system, chosen.sample(bookings, len(bookings)))) for _ in range(6)])
    assert not [result for result in results if isinstance(result, BaseException)]
    assert sum(sum(result) for result in results) <= 12
    for _, attempt, channel in made:
        await system.services.payments.book(channel, payment_of(channel, attempt), CAUSE)
    assert await system.value("SELECT count(*) FROM pay_order WHERE state = 'SUCCESS' AND version = 1") == 12
    assert await system.value("SELECT count(*) FROM pay_notify_task") == 12


async def test_a_change_of_the_order_at_the_same_time_is_seen(system: PayCenterSystem) -> None:
    """Many payments against the closes of their orders: each order is paid once or closed, and no money is lost."""
    made = [await waiting(system) for _ in range(8)]
    channel, direct = made[0][2], DirectPayments(system.services.context)
    closes = [asyncio.create_task(system.services.orders.close(OPERATOR, order.number)) for order, *_ in made]
    tasks = await together(system, direct, [payment_of(channel, attempt) for _, attempt, _ in made], channel)
    await ended([*closes, *tasks])
    for (order, attempt, _), task in zip(made, tasks, strict=True):
        if not task.result():
            await system.services.payments.book(channel, payment_of(channel, attempt), CAUSE)
        after = await system.read(order)
        attempt_state = await system.value("SELECT state FROM pay_attempt WHERE id = $1", attempt.id)
        cases = [case["kind"] for case in await system.cases() if case["order_id"] == order.id]
        assert attempt_state == "SUCCESS"
        assert (after.state, cases) in ((OrderState.SUCCESS, []), (OrderState.CLOSED, ["LATE_PAYMENT"]))
        assert after.paid_amount == (100 if after.state is OrderState.SUCCESS else 0)


LATE_CHANGES = {
    "UPDATE pay_order SET version = version + 3, subject = 'late', notification_url = 'http://late.test/x' WHERE id = $1": True,
    "UPDATE pay_attempt SET fee_rate_ppm = 7777, state = 'UNKNOWN' WHERE order_id = $1": True,
    "UPDATE pay_attempt SET cancel_until = now() WHERE order_id = $1": False,
    "UPDATE pay_attempt SET state = 'CLOSED' WHERE order_id = $1": False,
    "UPDATE pay_attempt SET amount = 99 WHERE order_id = $1": False,
    "UPDATE pay_order SET state = 'CLOSED' WHERE id = $1": False,
}


@pytest.mark.parametrize(("change", "booked"), LATE_CHANGES.items())
async def test_a_row_that_changes_between_the_snapshot_and_the_lock_is_as_it_is_when_it_is_locked(
    system: PayCenterSystem, monkeypatch: pytest.MonkeyPatch, change: str, booked: bool
) -> None:
    order, attempt, channel = await waiting(system)
    other, beside, _ = await waiting(system)
    read = "SELECT order_id FROM pay_attempt WHERE"
    assert read in direct_rows._BOOK
    # It has its snapshot, and has locked nothing yet.
    slow = direct_rows._BOOK.replace(read, "SELECT order_id FROM pay_attempt, (SELECT pg_sleep(0.5) OFFSET 0) s WHERE", 1)
    monkeypatch.setattr(direct_rows, "_BOOK", slow)
    booking = asyncio.create_task(book_rows(system, [booking_of(system, channel, attempt), booking_of(system, channel, beside)]))
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    await eventually(lambda: system.value(sleeping))
    await system.rows(change, order.id)
    assert await booking == [booked, True]
    assert (await system.read(other)).state is OrderState.SUCCESS
    after = await system.read(order)
    told = await system.rows("SELECT * FROM pay_notify_task WHERE data_id = $1", order.id)
    events = await system.rows("SELECT * FROM pay_event WHERE order_id = $1 AND event = 'paid'", order.id)
    assert (after.paid_amount, len(told), len(events)) == ((100, 1, 1) if booked else (0, 0, 0))
    for row in told:
        payload = json.loads(row["payload"])
        assert after.version == row["data_version"] == payload["version"] == (4 if "version" in change else 1)
        assert payload["data"]["subject"] == after.subject
        assert row["endpoint"] == endpoint_of(after.notification_url or "http://merchant.test/shop/order")
        assert after.channel_fee_rate_ppm == (7777 if "7777" in change else 6000)
