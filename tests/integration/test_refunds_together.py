"""Refunds that arrive at the same time share the statements that store their intents and their successes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from paycenter_server.bootstrap import open_services
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.events import Actor, ActorKind, Cause
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund, new_refund
from paycenter_server.domain.states import OrderState, RefundState
from paycenter_server.services import notifications_payloads as payloads
from paycenter_server.services.refunds import NewRefund
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage import refunds_shared as shared
from paycenter_server.storage.database import UniqueViolation
from paycenter_server.storage.refunds_shared import Intent, Success
from support.facts import configured, failed, refunded
from support.locks import transaction, waiting_for_lock
from support.surplus import refund_of_case
from support.system import CAUSE, PayCenterSystem
from support.waiting import ended, eventually

PENDING = {"refund": "pending"}


def cause(number: int) -> Cause:
    return Cause(Actor(ActorKind.APP, f"caller {number}"), {"number": str(number)})


async def paid(system: PayCenterSystem, count: int, **changes: Any) -> list[PayOrder]:
    """Paid orders of 100, at whose channel a refund is not decided."""
    orders = [await system.paid("mock", **changes) for _ in range(count)]
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", PENDING)
    return orders


async def draft(system: PayCenterSystem, order: PayOrder, amount: int = 40, number: int = 0, **changes: Any) -> Intent:
    """A refund that is not stored. `number`: of its cause and of what it has of its own."""
    (attempt,) = await system.services.orders.attempts(order)
    now, context = system.clock.now(), system.services.context
    refund = new_refund(
        context.new_key(now), context.new_key(now), now, order, attempt=attempt, merchant_refund_no=system.next_id("R"),
        amount=amount, total_amount=order.paid_amount, currency=order.currency, reason=f"reason {number}",
        notification_url=f"https://shop.example:8{number}/n" if number else "", next_check_time=now,
    )  # fmt: skip
    return Intent(replace(refund, **changes), cause(number))


async def insert(system: PayCenterSystem, *intents: Intent) -> list[bool]:
    async with system.services.context.database.connection() as connection:
        return await shared.reserve_and_insert_each(connection, intents)


async def stored(system: PayCenterSystem, refund: PayRefund) -> PayRefund | None:
    async with system.services.context.database.connection() as connection:
        return await refund_rows.get_refund(connection, refund.id)


async def amounts(system: PayCenterSystem, order: PayOrder) -> tuple[int, int]:
    """(refunded, reserved)."""
    after = await system.read(order)
    return after.refunded_amount, after.reserved_amount


async def noted(system: PayCenterSystem, refund: PayRefund, event: str) -> list[tuple[Any, ...]]:
    rows = await system.rows(
        """SELECT from_state, to_state, amount, reserved_change, refunded_change, actor, evidence ->> 'number' FROM pay_event
           WHERE subject_id = $1 AND event = $2""",
        refund.id, event,
    )  # fmt: skip
    return [tuple(row) for row in rows]


async def waiting(system: PayCenterSystem, count: int, **changes: Any) -> list[tuple[PayOrder, PayRefund]]:
    """Orders, each with a refund of 40 that the channel has not decided."""
    return [(order, await system.refund(order, 40, **changes)) for order in await paid(system, count)]


def success(system: PayCenterSystem, refund: PayRefund, number: int = 0) -> Success:
    """That it has succeeded. `number`: of its cause and of what it has of its own."""
    now = system.clock.now()
    task = payloads.refund_settled(refund, system.services.context.new_key(now), now, version=refund.version + 1, success_time=now)
    return Success(refund, task, f"C{number}", now, now, cause(number))


async def succeed(system: PayCenterSystem, *successes: Success) -> list[PayRefund | None]:
    async with system.services.context.database.connection() as connection:
        return await shared.succeed_each(connection, successes)


async def done(system: PayCenterSystem, *refunds: PayRefund) -> list[bool]:
    """Which of them the shared statement makes SUCCESS."""
    return [found is not None for found in await succeed(system, *(success(system, refund) for refund in refunds))]


async def settle(system: PayCenterSystem, refund: PayRefund) -> bool:
    """The channel reports that it has succeeded."""
    channel = await configured(system, "mock")
    return await system.services.refund_settlement.apply(channel, refund, refunded(channel, refund), CAUSE)


async def tasks(system: PayCenterSystem, refund: PayRefund) -> list[tuple[Any, ...]]:
    """(event, version, state) of its notifications, oldest first."""
    rows = await system.rows(
        "SELECT event, data_version, state FROM pay_notify_task WHERE data_id = $1 ORDER BY data_version", refund.id
    )
    return [tuple(row) for row in rows]


def reasons(results: Sequence[Any]) -> list[Any]:
    """The reason of each that was refused, and None for each refund."""
    assert all(isinstance(result, (PayRefund, PayCenterError)) for result in results), results
    return [result.reason if isinstance(result, PayCenterError) else None for result in results]


class Paused:
    """A connection whose shared statement waits for a lock of the test after its snapshot, and before it locks a row."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, query: str, *arguments: object) -> Any:
        parts = [part for part in ("AND enabled", "AND num_nulls(r.case_id) = 1") if part in query]
        assert len(parts) == 1, query
        paused = f"{parts[0]} AND (SELECT pg_advisory_xact_lock(7))::text IS NOT NULL"
        return await self._connection.fetch(query.replace(parts[0], paused), *arguments)


async def late(
    system: PayCenterSystem, statement: Callable[[Any, Any], Awaitable[list[Any]]], items: Any, change: Callable[[], Awaitable[Any]]
) -> Any:
    """The result of a shared statement, or its error, if this changes between its snapshot and its locks."""

    async def execute() -> list[Any]:
        async with system.services.context.database.connection() as connection:
            return await statement(Paused(connection), items)

    async with transaction(system) as held:
        await held.execute("SELECT pg_advisory_xact_lock(7)")
        calls = [asyncio.create_task(execute())]
        await waiting_for_lock(system, calls)
        await change()
        assert not calls[0].done()
    (found,) = await ended(calls)
    return found


async def test_what_is_left_is_that_of_the_locked_order(system: PayCenterSystem) -> None:
    """Not that of the snapshot: other refunds were stored in between."""
    order, other = await paid(system, 2)
    intents = [await draft(system, order, 60), await draft(system, other, 60)]

    async def change() -> None:
        await system.refund(order, 50)
        await system.refund(other, 40)

    assert await late(system, shared.reserve_and_insert_each, intents, change) == [False, True]
    assert (await amounts(system, order), await amounts(system, other)) == ((0, 50), (0, 100))


async def test_a_number_that_was_used_since_the_snapshot_changes_nothing(system: PayCenterSystem) -> None:
    order, other = await paid(system, 2)
    intents = [await draft(system, order, 40), await draft(system, other, 40)]

    async def change() -> None:
        await system.refund(order, 10, merchant_refund_no=intents[0].refund.merchant_refund_no)

    assert isinstance(await late(system, shared.reserve_and_insert_each, intents, change), UniqueViolation)
    assert (await amounts(system, order), await amounts(system, other)) == ((0, 10), (0, 0))


async def test_a_success_is_compared_with_the_locked_refund(system: PayCenterSystem) -> None:
    """One has failed since the snapshot, of one another refund of its order was booked, and one was booked itself."""
    (order, refund), (other, beside), (third, booked) = await waiting(system, 3)
    channel = await configured(system, "mock")

    async def change() -> None:
        assert await system.services.refund_settlement.apply(channel, refund, failed(channel, refund), CAUSE)
        await settle(system, await system.refund(other, 50))
        await settle(system, booked)

    successes = [success(system, one) for one in (refund, beside, booked)]
    found = await late(system, shared.succeed_each, successes, change)
    assert isinstance(found, list), found
    assert [one is not None for one in found] == [False, True, False]
    assert [await amounts(system, one) for one in (order, other, third)] == [(0, 0), (90, 0), (40, 0)]
    assert await tasks(system, refund) == [("pay_refund.failure", 1, "WAITING")]
    assert await tasks(system, booked) == [("pay_refund.success", 1, "WAITING")]


async def test_each_intent_is_stored_with_its_own_values(system: PayCenterSystem) -> None:
    orders = await paid(system, 3)
    intents = [await draft(system, order, 40 + number, number) for number, order in enumerate(orders)]
    assert await insert(system, *intents) == [True] * 3
    for number, (order, intent) in enumerate(zip(orders, intents, strict=True)):
        assert await stored(system, intent.refund) == intent.refund
        assert await system.read(order) == replace(order, reserved_amount=40 + number, update_time=intent.refund.create_time)
        assert await noted(system, intent.refund, "create") == [
            (None, "WAITING", 40 + number, 40 + number, 0, f"caller {number}", str(number))
        ]
    assert await insert(system, *intents) == [False] * 3


async def test_of_two_intents_of_an_order_the_first_is_stored(system: PayCenterSystem) -> None:
    (order,) = await paid(system, 1)
    first, second = await draft(system, order, 30), await draft(system, order, 20)
    assert await insert(system, first, second) == [True, False]
    assert (await stored(system, second.refund), await amounts(system, order)) == (None, (0, 30))


async def test_of_two_intents_with_a_number_the_first_is_stored(system: PayCenterSystem) -> None:
    """The order of the other one is free for a third."""
    order, other = await paid(system, 2)
    first = await draft(system, order)
    second = await draft(system, other, merchant_refund_no=first.refund.merchant_refund_no)
    assert await insert(system, first, second, await draft(system, other, 20)) == [True, False, True]
    assert (await amounts(system, order), await amounts(system, other)) == ((0, 40), (0, 20))


async def test_a_number_that_is_used_does_not_fail_the_others(system: PayCenterSystem) -> None:
    order, other, third = await paid(system, 3)
    used = await system.refund(order, 40)
    again = await draft(system, other, merchant_refund_no=used.merchant_refund_no)
    assert await insert(system, again, await draft(system, third)) == [False, True]
    assert [await amounts(system, one) for one in (order, other, third)] == [(0, 40), (0, 0), (0, 40)]


async def test_another_app_may_use_the_same_number(system: PayCenterSystem) -> None:
    (order,) = await paid(system, 1)
    used = await system.refund(order, 40)
    system.caller = await system.add_app("other", codes=("mock",))
    (other,) = await paid(system, 1)
    assert await insert(system, await draft(system, other, merchant_refund_no=used.merchant_refund_no)) == [True]


async def test_too_little_that_is_left_does_not_fail_the_others(system: PayCenterSystem) -> None:
    """What is refunded and what is reserved both count. Exactly what is left is enough."""
    order, exact, other = await paid(system, 3)
    for one in (order, exact):
        await settle(system, await system.refund(one, 30))
        await system.refund(one, 50)
    intents = [await draft(system, order, 21), await draft(system, exact, 20), await draft(system, other, 100)]
    assert await insert(system, *intents) == [False, True, True]
    assert await stored(system, intents[0].refund) is None
    assert [await amounts(system, one) for one in (order, exact, other)] == [(30, 50), (30, 70), (0, 100)]


async def test_nothing_is_begun_over_a_disabled_account(system: PayCenterSystem) -> None:
    (order,) = await paid(system, 1)
    intent = await draft(system, order)
    await system.rows("UPDATE pay_account SET enabled = false WHERE family = 'mock'")
    assert await insert(system, intent) == [False]
    assert (await stored(system, intent.refund), await amounts(system, order)) == (None, (0, 0))
    assert reasons(await ended([asyncio.create_task(system.refund(order, 40))])) == [Reason.ACCOUNT_DISABLED]


@pytest.mark.parametrize("locked", ["order", "account"])
async def test_what_is_locked_does_not_hold_up_the_others(system: PayCenterSystem, locked: str) -> None:
    """The refund of a locked order waits by itself. That of an account whose change is not committed yet too."""
    order, other = await paid(system, 2)
    wechat = await system.paid()
    async with transaction(system) as held:
        if locked == "order":
            await held.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
        else:
            await held.execute("SELECT 1 FROM pay_account WHERE family = 'mock' FOR NO KEY UPDATE")
        intents = [await draft(system, one, 10) for one in (order, other, wechat)]
        (found,) = await ended([asyncio.create_task(insert(system, *intents))])
        assert found == ([False, True, True] if locked == "order" else [False, False, True])
        first = asyncio.create_task(system.refund(order, 40))
        await waiting_for_lock(system, [first])
        assert not first.done()
        (beside,) = await ended([asyncio.create_task(system.refund(other if locked == "order" else wechat, 40))])
        assert isinstance(beside, PayRefund), beside
    (refund,) = await ended([first])
    assert isinstance(refund, PayRefund), refund
    assert (refund.order_id, await amounts(system, order)) == (order.id, (0, 40))


async def test_a_number_that_is_not_committed_does_not_hold_up_the_others(system: PayCenterSystem) -> None:
    """As of an operator's transaction. Who uses the same number waits for it, and it alone."""
    orders = await paid(system, 5)
    intent = await draft(system, orders[0], reason="退货")
    async with transaction(system) as held:
        await refund_rows.insert_refund(held, intent.refund, CAUSE)
        first = asyncio.create_task(system.refund(orders[1], 10))
        same = asyncio.create_task(system.refund(orders[0], 40, merchant_refund_no=intent.refund.merchant_refund_no))
        others = [asyncio.create_task(system.refund(order, 10)) for order in orders[2:]]
        await eventually(lambda: all(task.done() for task in (first, *others)))
        await waiting_for_lock(system, [same])
        assert not same.done()
        # The transaction needs the order too, which nobody who waits for the number has locked.
        assert await refund_rows.reserve(held, orders[0].id, 40, system.clock.now())
    assert reasons(await ended([first, *others])) == [None] * 4
    assert ((await same).id, await amounts(system, orders[0])) == (intent.refund.id, (0, 40))


async def test_many_refunds_of_an_order_at_once(system: PayCenterSystem) -> None:
    """All that fits is stored, and no more than was paid."""
    fits, exceeds = await paid(system, 2)
    calls = [asyncio.create_task(system.refund(fits, 10)) for _ in range(10)]
    calls += [asyncio.create_task(system.refund(exceeds, 30)) for _ in range(10)]
    found = reasons(await ended(calls))
    assert found[:10] == [None] * 10
    assert sorted(found[10:], key=str) == [None] * 3 + [Reason.REFUND_EXCEEDS_PAID] * 7
    assert (await amounts(system, fits), await amounts(system, exceeds)) == ((0, 100), (0, 90))
    assert await system.value("SELECT count(*) FROM pay_refund") == 13


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("same", [True, False])
async def test_a_number_from_two_callers_at_once_is_one_refund(system: PayCenterSystem, processes: int, same: bool) -> None:
    """With other content the second one is REFUND_CONFLICT. `processes`: each has a pool, and shares statements of its own."""
    orders = await paid(system, 12)
    async with open_services(system.settings, clock=system.clock, wake_up=system.wake_up) as other:
        services = [system.services, other if processes == 2 else system.services]
        calls = [
            asyncio.create_task(
                of_process.refunds.create(
                    system.caller, NewRefund("", order.merchant_order_id, f"N{number}", 40 if same or first else 30, "why")
                )
            )
            for number, order in enumerate(orders)
            for first, of_process in enumerate(services)
        ]
        results = await ended(calls)
    for number, order in enumerate(orders):
        pair = results[2 * number : 2 * number + 2]
        (row,) = await system.rows("SELECT id, amount FROM pay_refund WHERE order_id = $1", order.id)
        assert [one.id for one in pair if isinstance(one, PayRefund)] == [row["id"]] * (2 if same else 1), pair
        if not same:
            assert sorted(map(str, reasons(pair))) == sorted(map(str, (None, Reason.REFUND_CONFLICT)))
        assert await amounts(system, order) == (0, row["amount"])


async def test_a_number_for_two_orders_at_once_is_one_refund(system: PayCenterSystem) -> None:
    orders = await paid(system, 12)
    pairs = list(zip(orders[::2], orders[1::2], strict=True))
    async with open_services(system.settings, clock=system.clock, wake_up=system.wake_up) as other:
        # The two processes see the numbers in different orders.
        wanted = [(system.services, one, n) for n, (one, _) in enumerate(pairs)]
        wanted += [(other, one, n) for n, (_, one) in reversed(list(enumerate(pairs)))]
        calls = [
            asyncio.create_task(of.refunds.create(system.caller, NewRefund("", order.merchant_order_id, f"N{number}", 40, "why")))
            for of, order, number in wanted
        ]
        found = reasons(await ended(calls))
    assert sorted(found, key=str) == [None] * 6 + [Reason.REFUND_CONFLICT] * 6
    for one, two in pairs:
        assert sorted([await amounts(system, one), await amounts(system, two)]) == [(0, 0), (0, 40)]


async def test_each_success_is_stored_with_its_own_values(system: PayCenterSystem) -> None:
    made = await waiting(system, 2)
    (order,) = await paid(system, 1)
    made.append((order, await system.refund(order, 30, notification_url="https://shop.example:8443/n")))
    successes = [success(system, refund, number) for number, (_, refund) in enumerate(made)]
    found = await succeed(system, *successes)
    for number, ((order, refund), one) in enumerate(zip(made, successes, strict=True)):
        assert found[number] == await stored(system, refund) == replace(
            refund, state=RefundState.SUCCESS, version=1, channel_refund_no=f"C{number}", success_time=one.now, update_time=one.now,
            next_check_time=None, channel_error_code=None, channel_error_message=None,
        )  # fmt: skip
        after = await system.read(order)
        assert (after.state, after.update_time) == (OrderState.REFUND, one.now)
        assert await amounts(system, order) == (refund.amount, 0)
        assert await noted(system, refund, "succeed") == [
            ("WAITING", "SUCCESS", refund.amount, -refund.amount, refund.amount, f"caller {number}", str(number))
        ]
        (task,) = await system.rows("SELECT * FROM pay_notify_task WHERE data_id = $1", refund.id)
        own = dict(task)
        endpoint = "https://shop.example:8443" if refund.notification_url else "http://merchant.test:80"
        assert (own.pop("endpoint"), own["app_id"]) == (endpoint, refund.app_id)
        assert own == {name: getattr(one.task, name) for name in own}
        assert json.loads(own["payload"])["data"]["pay_refund_id"] == refund.number
    assert await succeed(system, *successes) == [None] * 3
    assert await system.value("SELECT count(*) FROM pay_notify_task WHERE event = 'pay_refund.success'") == 3


async def test_of_two_successes_of_an_order_the_first_is_stored(system: PayCenterSystem) -> None:
    ((order, refund),) = await waiting(system, 1)
    second = await system.refund(order, 50)
    assert await done(system, refund, second, refund) == [True, False, False]
    assert await amounts(system, order) == (40, 50)
    assert await done(system, second) == [True]
    assert await amounts(system, order) == (90, 0)


async def test_successes_of_an_order_and_of_others_at_once(system: PayCenterSystem) -> None:
    """Those that the shared statement leaves out are stored by themselves: all are booked, and reported once."""
    (order,), made = await paid(system, 1), await waiting(system, 5)
    made += [(order, await system.refund(order, 10)) for _ in range(10)]
    assert await ended([asyncio.create_task(settle(system, refund)) for _, refund in made]) == [True] * 15
    assert await ended([asyncio.create_task(settle(system, refund)) for _, refund in made]) == [False] * 15
    assert await amounts(system, order) == (100, 0)
    for _, refund in made:
        assert await tasks(system, refund) == [("pay_refund.success", 1, "WAITING")]


CHANGES = {
    "number": "out_refund_key = gen_random_uuid()", "failed": "state = 'FAILURE'", "succeeded": "state = 'SUCCESS'",
    "version": "version = version + 1",
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_refund_that_has_changed_is_left_out(system: PayCenterSystem, change: str) -> None:
    (order, refund), (_, other) = await waiting(system, 2)
    await system.rows(f"UPDATE pay_refund SET {change} WHERE id = $1", refund.id)
    before = await stored(system, refund)
    assert await done(system, refund, other) == [False, True]
    assert (await stored(system, refund), await amounts(system, order), await tasks(system, refund)) == (before, (0, 40), [])


async def test_a_refund_of_a_case_is_left_out(system: PayCenterSystem) -> None:
    order, surplus = await refund_of_case(system)
    # An order that could take it, so that only the case decides.
    await system.rows("UPDATE pay_order SET state = 'SUCCESS', paid_amount = 100, reserved_amount = 100 WHERE id = $1", order.id)
    system.books_are_checked = False
    assert await done(system, surplus) == [False]
    assert await stored(system, surplus) == surplus


@pytest.mark.parametrize("table", ["refund", "order"])
async def test_a_success_waits_for_nobody_but_by_itself(system: PayCenterSystem, table: str) -> None:
    """What another transaction has locked is left out, and its own statement waits."""
    (order, refund), (_, other), (_, third) = await waiting(system, 3)
    async with transaction(system) as held:
        key = refund.id if table == "refund" else order.id
        await held.execute(f"SELECT 1 FROM pay_{table} WHERE id = $1 FOR NO KEY UPDATE", key)
        assert await ended([asyncio.create_task(done(system, refund, other))]) == [[False, True]]
        first = asyncio.create_task(settle(system, refund))
        await waiting_for_lock(system, [first])
        assert not first.done()
        assert await ended([asyncio.create_task(settle(system, third))]) == [True]
    assert await ended([first]) == [True]
    assert await amounts(system, order) == (40, 0)
    assert await tasks(system, refund) == [("pay_refund.success", 1, "WAITING")]


async def test_a_success_supersedes_the_older_notifications_of_its_refund(system: PayCenterSystem) -> None:
    """They reported the failure of the first try. One that was received stays, and that of a refund beside it."""
    made, channel = await waiting(system, 3), await configured(system, "mock")
    for _, refund in made:
        assert await system.services.refund_settlement.apply(channel, refund, failed(channel, refund), CAUSE)
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "lost"})
    again = [await system.refund(order, 40, merchant_refund_no=refund.merchant_refund_no) for order, refund in made[:2]]
    assert [(refund.state, refund.version) for refund in again] == [(RefundState.WAITING, 1)] * 2
    async with system.services.context.database.connection() as connection:
        received = replace(success(system, again[0]).task, event="pay_refund.received", data_version=0)
        assert await notification_rows.insert_notification(connection, received)
    await system.rows("UPDATE pay_notify_task SET state = 'SUCCESS', next_notify_time = NULL WHERE id = $1", received.id)
    found = await succeed(system, *(success(system, refund, number) for number, refund in enumerate(again)))
    assert [refund.version if refund else 0 for refund in found] == [2, 2]
    assert (await tasks(system, again[0])).pop(0) == ("pay_refund.received", 0, "SUCCESS")
    for number, refund in enumerate(again):
        reported = [("pay_refund.failure", 1, "SUPERSEDED"), ("pay_refund.success", 2, "WAITING")]
        assert (await tasks(system, refund))[-2:] == reported
        rows = await system.rows(
            """SELECT e.order_id, e.from_state, e.to_state, e.actor, e.evidence FROM pay_event e JOIN pay_notify_task n
               ON n.id = e.subject_id WHERE n.data_id = $1 AND e.event = 'supersede'""",
            refund.id,
        )
        assert [tuple(row) for row in rows] == [(refund.order_id, "WAITING", "SUPERSEDED", f"caller {number}", None)]
    assert await tasks(system, made[2][1]) == [("pay_refund.failure", 1, "WAITING")]


@pytest.mark.parametrize("by", ["shared", "alone"])
async def test_a_success_is_due_for_the_looks_at_earlier_numbers(system: PayCenterSystem, by: str) -> None:
    ((_, refund),) = await waiting(system, 1)
    changed = "UPDATE pay_refund SET earlier_look_time = now() + interval '1 hour' WHERE id = $1 RETURNING earlier_look_time AS at"
    (row,) = await system.rows(changed, refund.id)
    if by == "shared":
        assert await done(system, refund) == [True]
    else:
        now = system.clock.now()
        async with system.services.context.database.connection() as connection:
            assert await refund_rows.succeed(connection, refund, CAUSE, channel_refund_no="", success_time=now, now=now) == 1
    found = await stored(system, refund)
    assert found is not None
    assert found.next_check_time == row["at"]


async def test_a_notification_that_is_locked_does_not_hold_up_the_others(system: PayCenterSystem) -> None:
    orders = await paid(system, 4)
    refunds = [await system.refund(order, 40) for order in orders]
    channel = await configured(system, "mock")
    older = payloads.refund_settled(
        refunds[1], system.services.context.new_key(system.clock.now()), system.clock.now(), version=0, success_time=None
    )
    async with system.services.context.database.connection() as connection:
        assert await notification_rows.insert_notification(connection, older)
    settle = system.services.refund_settlement.apply
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_notify_task WHERE data_id = $1 FOR UPDATE", refunds[1].id)
        tasks = [asyncio.create_task(settle(channel, refund, refunded(channel, refund), CAUSE)) for refund in refunds]
        await eventually(lambda: sum(task.done() for task in tasks) == 3)
        await waiting_for_lock(system, [tasks[1]])
        assert not tasks[1].done()
    assert await ended(tasks) == [True] * 4


async def test_a_newer_notification_is_not_superseded(system: PayCenterSystem) -> None:
    """None is known; it would be that of a change that this one has not seen."""
    ((_, refund),) = await waiting(system, 1)
    one = success(system, refund)
    async with system.services.context.database.connection() as connection:
        newer = replace(one.task, id=refund.id, data_version=2)
        assert await notification_rows.insert_notification(connection, newer)
    assert await done(system, refund) == [True]
    assert await tasks(system, refund) == [("pay_refund.success", 1, "WAITING"), ("pay_refund.success", 2, "WAITING")]


async def test_a_notification_that_is_stored_already_is_not_stored_twice(system: PayCenterSystem) -> None:
    ((_, refund),) = await waiting(system, 1)
    one = success(system, refund)
    async with system.services.context.database.connection() as connection:
        assert await notification_rows.insert_notification(connection, replace(one.task, id=one.refund.id))
    assert await done(system, refund) == [True]
    assert await tasks(system, refund) == [("pay_refund.success", 1, "WAITING")]


async def test_many_refunds_of_many_orders_at_once(system: PayCenterSystem) -> None:
    """Each answer is the refund as it is stored, and each is reported once."""
    orders = [await system.paid("mock") for _ in range(30)]
    refunds = await ended([asyncio.create_task(system.refund(order, 10 + number)) for number, order in enumerate(orders)])
    for number, (order, refund) in enumerate(zip(orders, refunds, strict=True)):
        assert (refund.state, refund.order_id, refund.amount) == (RefundState.SUCCESS, order.id, 10 + number)
        assert await stored(system, refund) == refund
        assert await amounts(system, order) == (10 + number, 0)
        assert await tasks(system, refund) == [("pay_refund.success", 1, "WAITING")]
