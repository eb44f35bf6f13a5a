"""Guards of orders and attempts: create, submit, close, change the price. `make mutants` removes each of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from paycenter_server.channels.protocol import QueryOutcome, QueryStatus
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.cases import CaseKind, new_case
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import AttemptState, OrderState
from paycenter_server.services.attempts import attempt_ref
from paycenter_server.services.attempts_submission import NewSubmission
from paycenter_server.services.payments import Booked
from paycenter_server.storage import attempts_submission as submission_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import orders as order_rows
from support.facts import configured, payment_of
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, OPERATOR, PayCenterSystem
from support.waiting import ended

NEVER = {"behaviour": "never"}


def reason(result: Any) -> Any:
    """The reason of an error; anything else unchanged."""
    return result.reason if isinstance(result, PayCenterError) else result


async def lock_order(connection: Any, order: PayOrder) -> None:
    await connection.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)


async def submit_beside(system: PayCenterSystem, connection: Any, order: PayOrder, model: PayAttempt) -> PayAttempt:
    """The effect of a submit in another process under the lock of the order: an open attempt like the model."""
    made = replace(model, id=system.services.context.new_key(system.clock.now()), order_id=order.id, state=AttemptState.WAITING)
    assert await submission_rows.insert_attempt(connection, made, order, CAUSE)
    return made


async def model_attempt(system: PayCenterSystem) -> PayAttempt:
    """An attempt of another order."""
    made = await system.submit(await system.order(), "mock", behaviour="never", of="another order")
    assert isinstance(made, PayAttempt)
    return made


# Close, and the price


async def test_close_order_refuses_while_an_attempt_is_open(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    assert await system.services.attempts.close_order(order.id) is None
    assert (await system.read(order)).state is OrderState.WAITING
    await system.rows("UPDATE pay_attempt SET state = 'CLOSED' WHERE id = $1", attempt.id)
    assert await system.services.attempts.close_order(order.id) is not None
    assert [post.json["type"] for post in await system.deliver()] == ["pay_order.closed"]


async def test_close_order_refuses_what_is_paid_or_closed(system: PayCenterSystem) -> None:
    for state in ("paid", "closed"):
        order = await system.order()
        if state == "paid":
            await system.submit(order, "mock")
        else:
            await system.services.orders.close(system.caller, order.number)
        before = await system.read(order)
        assert await system.services.attempts.close_order(order.id) is None
        assert await system.read(order) == before


async def test_close_order_locks_the_order(system: PayCenterSystem) -> None:
    """A submit has the order's lock and commits an attempt: the close that waited for it sees that attempt."""
    order, model = await system.order(), await model_attempt(system)
    async with transaction(system) as held:
        await lock_order(held, order)
        await submit_beside(system, held, order, model)
        calls = [asyncio.create_task(system.services.attempts.close_order(order.id))]
        await waiting_for_lock(system, calls)
    assert await ended(calls) == [None]
    assert (await system.read(order)).state is OrderState.WAITING


async def test_update_price_refuses_while_an_attempt_is_open(system: PayCenterSystem) -> None:
    order = await system.order(amount=100)
    await system.submit(order, "mock", **NEVER)
    async with system.services.context.database.transaction() as connection:
        assert not await order_rows.update_price(connection, order.id, 100, 80, system.clock.now(), CAUSE)
    assert (await system.read(order)).amount == 100


async def test_update_price_locks_the_order(system: PayCenterSystem) -> None:
    """A submit at the old price has the order's lock: the change that waited for it sees the attempt, and is refused."""
    order, model = await system.order(amount=100), await model_attempt(system)
    async with transaction(system) as held:
        await lock_order(held, order)
        await submit_beside(system, held, order, model)
        calls = [asyncio.create_task(system.services.orders.update_price(system.caller, order.number, 80))]
        await waiting_for_lock(system, calls)
    assert [reason(result) for result in await ended(calls)] == [Reason.ORDER_CHANGED]
    assert (await system.read(order)).amount == 100


async def test_update_price_compares_the_old_price(system: PayCenterSystem) -> None:
    """Two changes from 100 at once: one succeeds, and the other is ORDER_CHANGED."""
    order = await system.order(amount=100)
    async with transaction(system) as held:
        await lock_order(held, order)
        calls = [asyncio.create_task(system.services.orders.update_price(system.caller, order.number, new)) for new in (80, 90)]
        await waiting_for_lock(system, calls)
    results = await ended(calls)
    assert [reason(result) for result in results].count(Reason.ORDER_CHANGED) == 1
    assert (await system.read(order)).amount == next(result.amount for result in results if isinstance(result, PayOrder))


@pytest.mark.parametrize("paid", [True, False])
async def test_update_price_refuses_what_is_paid_or_closed(system: PayCenterSystem, paid: bool) -> None:
    order = await system.order(amount=100)
    if paid:
        await system.submit(order, "mock")
    else:
        await system.services.orders.close(system.caller, order.number)
    async with system.services.context.database.transaction() as connection:
        assert not await order_rows.update_price(connection, order.id, 100, 80, system.clock.now(), CAUSE)
    assert (await system.read(order)).amount == 100


# Submitting


async def submit_after(system: PayCenterSystem, order: PayOrder, change: str, *arguments: Any) -> Any:
    """The result of a submit that has read the order, and then waits for its lock while another call changes it."""
    async with transaction(system) as held:
        await lock_order(held, order)
        calls = [asyncio.create_task(system.submit(order, "mock", **NEVER))]
        await waiting_for_lock(system, calls)
        await held.execute(change, *arguments)
    return reason((await ended(calls))[0])


async def test_intent_locks_the_order(system: PayCenterSystem) -> None:
    """Two equal submits at once: one number."""
    order = await system.order()
    async with transaction(system) as held:
        await lock_order(held, order)
        calls = [asyncio.create_task(system.submit(order, "mock", **NEVER)) for _ in range(2)]
        await waiting_for_lock(system, calls)
    first, second = await ended(calls)
    assert first.out_trade_no == second.out_trade_no
    assert await system.value("SELECT count(*) FROM pay_attempt") == 1


async def test_intent_checks_the_price_again(system: PayCenterSystem) -> None:
    order = await system.order(amount=100)
    changed = await submit_after(system, order, "UPDATE pay_order SET amount = 90 WHERE id = $1", order.id)
    assert changed is Reason.ORDER_CHANGED
    assert await system.value("SELECT count(*) FROM pay_attempt") == 0


async def test_intent_checks_the_state_again(system: PayCenterSystem) -> None:
    order = await system.order()
    closed = await submit_after(system, order, "UPDATE pay_order SET state = 'CLOSED' WHERE id = $1", order.id)
    assert closed is Reason.ORDER_CLOSED
    assert await system.value("SELECT count(*) FROM pay_attempt") == 0


async def test_intent_checks_the_other_attempts_again(system: PayCenterSystem) -> None:
    """An attempt that was not there when the others were closed is not left open beside the new one."""
    order, model = await system.order(), await model_attempt(system)
    async with transaction(system) as held:
        await lock_order(held, order)
        calls = [asyncio.create_task(system.submit(order, "mock", **NEVER))]
        await waiting_for_lock(system, calls)
        await submit_beside(system, held, order, model)
    assert [reason(result) for result in await ended(calls)] == [Reason.ORDER_CHANGED]
    assert await system.value("SELECT count(*) FROM pay_attempt WHERE order_id = $1", order.id) == 1


async def stored_after(system: PayCenterSystem, order: PayOrder, seen: PayOrder | None = None, **changes: Any) -> bool:
    """The statement alone: whether it stores an attempt of the order, for a submit that has seen it so."""
    model = await model_attempt(system)
    key = system.services.context.new_key(system.clock.now())
    draft = replace(model, id=key, order_id=order.id, amount=order.amount, **changes)
    async with system.services.context.database.connection() as connection:
        stored = await submission_rows.insert_attempt(connection, draft, seen or order, CAUSE)
    assert await system.value("SELECT count(*) FROM pay_attempt WHERE order_id = $1", order.id) == int(stored)
    assert (await system.read(order)).submit_version == order.submit_version + int(stored)
    return stored


async def test_intent_needs_an_order_that_has_not_expired(system: PayCenterSystem) -> None:
    """It expired after it was read."""
    order = await system.order()
    assert not await stored_after(system, order, create_time=order.expire_time)
    assert await stored_after(system, order, create_time=order.expire_time - timedelta(seconds=1))


async def test_intent_needs_an_order_whose_money_is_not_held(system: PayCenterSystem) -> None:
    """A conflict, which is opened without the lock of the order, after the order was read."""
    order = await system.order()
    case = new_case(
        system.services.context.new_key(system.clock.now()), system.clock.now(), CaseKind.REFUND_ELSEWHERE, "c",
        app_id=order.app_id, order_id=order.id,
    )  # fmt: skip
    async with system.services.context.database.connection() as connection:
        assert await case_rows.insert_case(connection, case, CAUSE)
    assert not await stored_after(system, order)
    await system.rows("UPDATE pay_case SET state = 'RESOLVED', resolve_time = now()")
    assert await stored_after(system, order)


async def test_intent_compares_what_was_read(system: PayCenterSystem) -> None:
    """Another attempt was stored since, and is closed already."""
    order, model = await system.order(), await model_attempt(system)
    async with transaction(system) as held:
        first = await submit_beside(system, held, order, model)
    await system.rows("DELETE FROM pay_attempt WHERE id = $1", first.id)
    current = await system.read(order)
    assert not await stored_after(system, current, order)
    assert await stored_after(system, current)


async def test_intent_waits_for_a_payment_that_becomes_a_case(system: PayCenterSystem) -> None:
    """The case is opened under the lock for which the submit waits, so it sees that money of the order is held."""
    await system.services.apps.update(OPERATOR, "shop", {"surplus_policy": "HOLD"})
    order = await system.order()
    first = await system.submit(order, "mock", **NEVER)
    await system.rows("UPDATE pay_attempt SET state = 'CLOSED', next_check_time = NULL WHERE id = $1", first.id)
    channel = await configured(system, "mock")
    async with transaction(system) as held:
        await lock_order(held, order)
        booking = asyncio.create_task(system.services.payments.book(channel, payment_of(channel, first, amount=1), CAUSE))
        await waiting_for_lock(system, [booking])
        submit = asyncio.create_task(system.submit(order, "mock", **NEVER))
        await waiting_for_lock(system, [booking, submit])
    booked, refused = await ended([booking, submit])
    assert (booked, reason(refused)) == (Booked.SURPLUS, Reason.ORDER_UNDER_REVIEW)
    assert await system.value("SELECT count(*) FROM pay_attempt") == 1


async def test_a_submit_is_stored_although_the_order_has_changed_in_what_does_not_concern_it(system: PayCenterSystem) -> None:
    """Another submit was refused and closed while this one waited for the order."""
    order, model = await system.order(), await model_attempt(system)
    async with transaction(system) as held:
        await lock_order(held, order)
        calls = [asyncio.create_task(system.submit(order, "mock", **NEVER))]
        await waiting_for_lock(system, calls)
        beside = await submit_beside(system, held, order, model)
        await held.execute("UPDATE pay_attempt SET state = 'CLOSED', next_check_time = NULL WHERE id = $1", beside.id)
    (attempt,) = await ended(calls)
    assert isinstance(attempt, PayAttempt), attempt
    assert (attempt.state, attempt.order_id) == (AttemptState.WAITING, order.id)


@pytest.mark.parametrize("state", ["SUCCESS", "CLOSED", "EXPIRED"])
async def test_submit_refuses_what_cannot_be_paid(system: PayCenterSystem, state: str) -> None:
    order = await system.order()
    if state == "SUCCESS":
        await system.submit(order, "mock")
    elif state == "CLOSED":
        await system.services.orders.close(system.caller, order.number)
    else:
        system.clock.advance(7201)
    before = await system.value("SELECT count(*) FROM pay_attempt")
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, "wx_native")
    expected = {"SUCCESS": Reason.ORDER_PAID, "CLOSED": Reason.ORDER_CLOSED, "EXPIRED": Reason.ORDER_EXPIRED}
    assert caught.value.reason is expected[state]
    assert await system.value("SELECT count(*) FROM pay_attempt") == before


async def submit_with(system: PayCenterSystem, order: PayOrder, **changes: Any) -> PayAttempt:
    values: dict[str, Any] = {
        "order_number": order.number, "channel_code": "alipay_pc", "extras": {}, "display_mode": "", "return_url": "",
        "user_ip": "", **changes,
    }  # fmt: skip
    _, attempt = await system.services.submission.submit(system.caller, NewSubmission(**values))
    return attempt


@pytest.mark.parametrize(
    "changes", [{"display_mode": "form"}, {"return_url": "https://shop.test/other"}, {"extras": {"qr_pay_mode": "1"}}]
)
async def test_another_content_gets_another_number(system: PayCenterSystem, changes: dict[str, Any]) -> None:
    """Channels are idempotent by number and content, so the number of an attempt never gets another content."""
    order = await system.order()
    first = await submit_with(system, order)
    assert (await submit_with(system, order)).out_trade_no == first.out_trade_no
    assert (await submit_with(system, order, **changes)).out_trade_no != first.out_trade_no


async def test_another_channel_gets_another_number(system: PayCenterSystem) -> None:
    order = await system.order()
    first = await submit_with(system, order)
    assert (await submit_with(system, order, channel_code="alipay_qr")).out_trade_no != first.out_trade_no


async def test_an_expired_attempt_is_followed_by_another(system: PayCenterSystem) -> None:
    order = await system.order()
    first = await submit_with(system, order)
    await system.rows("UPDATE pay_attempt SET expire_time = $1", system.clock.now() - timedelta(seconds=1))
    assert (await submit_with(system, order)).out_trade_no != first.out_trade_no


async def test_a_new_price_gets_another_number(system: PayCenterSystem) -> None:
    """An attempt at the old price that no channel could close is not shown again."""
    order = await system.order(amount=100)
    first = await submit_with(system, order, channel_code="mock", extras={"behaviour": "never"})
    await system.rows("UPDATE pay_order SET amount = 80")
    second = await submit_with(system, await system.read(order), channel_code="mock", extras={"behaviour": "never"})
    assert (first.amount, second.amount) == (100, 80)
    assert second.out_trade_no != first.out_trade_no


# Creating


CHANGES: dict[str, Any] = {"subject": "x", "body": "x", "amount": 101, "user_id": "x", "return_url": "https://x.test/"}


async def test_another_content_is_a_conflict_field_by_field(system: PayCenterSystem) -> None:
    new = system.new_order()
    order = await system.services.orders.create(system.caller, new)
    for name, value in CHANGES.items():
        changed: Any = {name: value}
        with pytest.raises(PayCenterError) as caught:
            await system.services.orders.create(system.caller, replace(new, **changed))
        assert caught.value.metadata["differing_fields"] == name
    assert (await system.services.orders.create(system.caller, replace(new, user_ip="203.0.113.1"))).id == order.id


# Answers of channels, and the time of requests


class Answers:
    """A codec whose query has the outcome of the test; everything else is unchanged."""

    def __init__(self, inner: Any, outcome: QueryOutcome) -> None:
        self._inner, self._outcome = inner, outcome

    def query(self, attempt: Any, moment: Any) -> QueryOutcome:
        return self._outcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("status", [QueryStatus.PAID, QueryStatus.CLOSED, QueryStatus.WAITING])
async def test_an_answer_about_another_number_decides_nothing(system: PayCenterSystem, status: QueryStatus) -> None:
    """Neither about the queried attempt, nor about the one that it names."""
    asked, other = [await system.submit(await system.order(), "mock", **NEVER) for _ in range(2)]
    channel = await configured(system, "mock")
    inner = channel.codec
    channel.codec = Answers(inner, QueryOutcome(status, payment_of(channel, other)))
    try:
        assert (await system.services.attempts.query(asked)).status is QueryStatus.UNKNOWN
        assert (await system.services.attempts.settle_or_close(asked)).value == "UNCLEAR"
    finally:
        channel.codec = inner
    assert {row["state"] for row in await system.rows("SELECT state FROM pay_attempt")} == {"WAITING"}
    assert {row["state"] for row in await system.rows("SELECT state FROM pay_order")} == {"WAITING"}


async def test_what_would_come_too_late_is_not_sent(system: PayCenterSystem) -> None:
    """A cancellation that could not be sent in time, because another process may have booked the payment."""
    attempt = await system.submit(await system.order(), "wx_native")
    channel = await configured(system, "wx_native")

    async def close(not_after: datetime) -> str:
        outcome = await system.services.gateway.perform(
            channel, lambda codec, moment: codec.close(attempt_ref(attempt), moment), not_after=not_after
        )
        return outcome.status.value

    async def at_channel() -> str:
        return str((await system.simulator.get(f"/simulator/trades/{attempt.out_trade_no}"))["state"])

    assert await close(system.clock.now() - timedelta(seconds=1)) == "UNKNOWN"
    assert await at_channel() != "CLOSED"
    assert await close(system.clock.now() + timedelta(seconds=60)) == "CLOSED"
    assert await at_channel() == "CLOSED"


async def test_two_operators_do_not_overwrite_each_other(system: PayCenterSystem) -> None:
    """Both have read version 1 of a channel: one changes it, and the other is CHANNEL_CHANGED."""
    number = system.channels["mock"]
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_channel WHERE code = 'mock' FOR UPDATE")
        calls = [
            asyncio.create_task(system.services.channels.update(OPERATOR, number, {"remark": remark}, "", None))
            for remark in ("one", "other")
        ]
        await waiting_for_lock(system, calls)
    assert [reason(result) for result in await ended(calls)].count(Reason.CHANNEL_CHANGED) == 1
    assert await system.value("SELECT version FROM pay_channel WHERE code = 'mock'") == 2
