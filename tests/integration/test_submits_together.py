"""Submits that arrive at the same time share the statements that store their intents and the answers of the channel."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from paycenter_server.channels.protocol import PayOutcome, PayStatus
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.events import Actor, ActorKind, Cause
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import ATTEMPT, AttemptEvent, AttemptState, created
from paycenter_server.services.attempts_statements import SubmitStatements
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import attempts_submission as submission_rows
from paycenter_server.storage.attempts_submission import Answer, Intent
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, PayCenterSystem
from support.waiting import ended, eventually

NEVER = {"behaviour": "never"}
NEW = created(ATTEMPT, AttemptEvent.CREATE)


def cause(number: int) -> Cause:
    return Cause(Actor(ActorKind.APP, f"caller {number}"), {"number": str(number)})


async def drafts(system: PayCenterSystem, count: int) -> list[tuple[PayOrder, PayAttempt]]:
    """Orders, each with an attempt that is not stored, and that has other values than the others."""
    model = await system.submit(await system.order(), "mock", **NEVER)
    assert isinstance(model, PayAttempt)
    made = []
    for number in range(count):
        order, now = await system.order(amount=100 + number), system.clock.now()
        attempt = replace(
            model, id=system.services.context.new_key(now), order_id=order.id, amount=order.amount, create_time=now,
            update_time=now, state=NEW, return_url=f"https://shop.example/{number}", user_ip=f"203.0.113.{number}",
            channel_extras={"number": str(number)}, wanted_mode="url" if number else "", fee_rate_ppm=number or None,
        )  # fmt: skip
        made.append((order, attempt))
    return made


async def insert(system: PayCenterSystem, intents: list[Intent]) -> list[bool]:
    async with system.services.context.database.connection() as connection:
        return await submission_rows.insert_attempts(connection, intents)


async def answer(system: PayCenterSystem, answers: list[Answer]) -> list[bool]:
    async with system.services.context.database.connection() as connection:
        return [stored is not None for stored in await submission_rows.store_answers(connection, answers)]


async def stored(system: PayCenterSystem, attempt: PayAttempt) -> PayAttempt | None:
    async with system.services.context.database.connection() as connection:
        return await attempt_rows.get_attempt(connection, attempt.id)


async def noted(system: PayCenterSystem, attempt: PayAttempt, event: str) -> list[tuple[Any, ...]]:
    rows = await system.rows(
        "SELECT from_state, to_state, amount, actor, evidence ->> 'number' FROM pay_event WHERE subject_id = $1 AND event = $2",
        attempt.id, event,
    )  # fmt: skip
    return [tuple(row) for row in rows]


async def test_each_intent_and_each_answer_is_stored_with_its_own_values(system: PayCenterSystem) -> None:
    made = await drafts(system, 3)
    assert await insert(system, [Intent(attempt, 0, cause(number)) for number, (_, attempt) in enumerate(made)]) == [True] * 3
    for number, (order, attempt) in enumerate(made):
        assert await stored(system, attempt) == attempt
        assert (await system.read(order)).submit_version == 1
        assert await noted(system, attempt, "create") == [(None, NEW.value, 100 + number, f"caller {number}", str(number))]
    now, last = system.clock.now(), made[-1][1]
    answers = [
        Answer(attempt.id, "qr_code", f"weixin://{number}", now, attempt.expire_time, cause(number + 10))
        for number, (_, attempt) in enumerate(made)
    ]
    unknown = replace(answers[0], attempt_id=system.services.context.new_key(now))
    assert await answer(system, [unknown, *answers]) == [False, True, True, True]
    assert await stored(system, last) == replace(
        last, state=AttemptState.WAITING, display_mode="qr_code", display_content="weixin://2", update_time=now,
        next_check_time=last.expire_time,
    )  # fmt: skip
    for number, (_, attempt) in enumerate(made):
        assert await noted(system, attempt, "answered") == [
            (NEW.value, "WAITING", 100 + number, f"caller {number + 10}", str(number + 10))
        ]


async def test_of_two_intents_of_an_order_the_first_is_stored(system: PayCenterSystem) -> None:
    ((order, attempt),) = await drafts(system, 1)
    second = replace(attempt, id=system.services.context.new_key(system.clock.now()))
    assert await insert(system, [Intent(attempt, 0, CAUSE), Intent(second, 0, CAUSE)]) == [True, False]
    assert (await stored(system, second), (await system.read(order)).submit_version) == (None, 1)


async def test_of_two_answers_of_an_attempt_the_first_is_stored(system: PayCenterSystem) -> None:
    ((_, attempt),) = await drafts(system, 1)
    await insert(system, [Intent(attempt, 0, CAUSE)])
    first = Answer(attempt.id, "qr_code", "weixin://1", system.clock.now(), attempt.expire_time, cause(1))
    assert await answer(system, [first, replace(first, content="weixin://2", cause=cause(2))]) == [True, False]
    assert len(await noted(system, attempt, "answered")) == 1
    found = await stored(system, attempt)
    assert found is not None
    assert found.display_content == "weixin://1"


@pytest.mark.parametrize("locked", ["order", "account"])
async def test_what_is_locked_does_not_hold_up_the_others(system: PayCenterSystem, locked: str) -> None:
    """The submit of a locked order waits by itself. That of an account whose change is not committed yet too, with all of it."""
    order, other = await system.order(), await system.order()
    system.services.submission._statements._intents._slow_seconds = 60  # it is not left behind either
    async with transaction(system) as held:
        if locked == "order":
            await held.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
        else:
            await held.execute("SELECT 1 FROM pay_account WHERE family = 'mock' FOR NO KEY UPDATE")
        first = asyncio.create_task(system.submit(order, "mock", **NEVER))
        await waiting_for_lock(system, [first])
        assert not first.done()
        beside = system.submit(other, "mock", **NEVER) if locked == "order" else system.submit(other, "wx_native")
        (attempt,) = await ended([asyncio.create_task(beside)])
        assert isinstance(attempt, PayAttempt), attempt
    (attempt,) = await ended([first])
    assert isinstance(attempt, PayAttempt), attempt
    assert attempt.order_id == order.id


async def test_an_answer_waits_for_nobody_but_by_itself(system: PayCenterSystem) -> None:
    """An attempt that is being paid: the shared statement leaves its answer out, and that of its own waits, and changes nothing."""
    (order, attempt), (_, other) = await drafts(system, 2)
    await insert(system, [Intent(attempt, 0, CAUSE), Intent(other, 0, CAUSE)])
    statements, now = SubmitStatements(system.services.context), system.clock.now()
    outcome = PayOutcome(PayStatus.WAITING, "qr_code", "weixin://1")
    async with transaction(system) as held:
        assert await attempt_rows.pay_late(
            held, attempt.id, CAUSE, amount=100, channel_order_no="1", channel_user_id="", success_time=now, now=now
        )
        answers = [Answer(one.id, "qr_code", "weixin://1", now, now, CAUSE) for one in (attempt, other)]
        (left,) = await ended([asyncio.create_task(answer(system, answers))])
        assert left == [False, True]
        waiting = asyncio.create_task(statements.answered(order, attempt, outcome, now, now, CAUSE))
        await waiting_for_lock(system, [waiting])
    assert await ended([waiting]) == [(False, None)]
    found = await stored(system, attempt)
    assert found is not None
    assert (found.state, found.display_content) == (AttemptState.SUCCESS, "")


CHANGES = (
    "state = 'CLOSED'", "amount = amount + 1", "version = version + 1", "submit_version = submit_version + 1",
    "update_time = now() + interval '1 hour'",
)  # fmt: skip


async def answered_after(system: PayCenterSystem, change: str) -> tuple[PayOrder, PayAttempt, tuple[PayOrder, PayAttempt] | None]:
    """What is shown of an answer that is stored after a change of the order, with the order as it was before, and the attempt."""
    ((order, attempt),) = await drafts(system, 1)
    await insert(system, [Intent(attempt, 0, CAUSE)])
    await system.rows(f"UPDATE pay_order SET {change} WHERE id = $1", order.id)
    statements, now = SubmitStatements(system.services.context), system.clock.now()
    outcome = PayOutcome(PayStatus.WAITING, "qr_code", "weixin://1")
    done, shown = await statements.answered(order, attempt, outcome, now, attempt.expire_time, CAUSE)
    assert done
    return order, attempt, shown


async def test_an_order_that_has_not_changed_is_not_read_again(system: PayCenterSystem) -> None:
    order, attempt, shown = await answered_after(system, "subject = subject")
    assert shown == (order, await stored(system, attempt))
    assert await system.read(order) == replace(order, submit_version=1)


@pytest.mark.parametrize("change", CHANGES)
async def test_an_order_that_has_changed_meanwhile_is_read_again(system: PayCenterSystem, change: str) -> None:
    assert (await answered_after(system, change))[2] is None


async def test_many_submits_at_once(system: PayCenterSystem) -> None:
    orders = [await system.order() for _ in range(20)]
    submits = [asyncio.create_task(system.submit(order, "wx_native")) for order in orders for _ in range(2)]
    attempts = await ended(submits)
    assert [attempt.order_id for attempt in attempts] == [order.id for order in orders for _ in range(2)]
    assert all(attempt.display_content.startswith("weixin://") for attempt in attempts)

    async def one_of_each() -> bool:
        return bool(await system.value("SELECT count(*) = 20 AND count(DISTINCT order_id) = 20 FROM pay_attempt"))

    assert await eventually(one_of_each)


async def test_what_is_shown_of_a_repeated_submit_is_what_is_stored(system: PayCenterSystem) -> None:
    """The attempt was unclear, and another submit of the order counts in between, so that the order looks as after this one."""
    ((order, attempt),) = await drafts(system, 1)
    await insert(system, [Intent(attempt, 0, CAUSE)])
    now = system.clock.now()
    async with system.services.context.database.connection() as connection:
        await attempt_rows.unclear(connection, attempt.id, "UNCLEAR", "no answer", now, now, CAUSE)
    seen, order = await stored(system, attempt), await system.read(order)
    assert seen is not None
    assert seen.channel_error_code == "UNCLEAR"
    await system.rows("UPDATE pay_order SET submit_version = submit_version + 1 WHERE id = $1", order.id)
    statements, outcome = SubmitStatements(system.services.context), PayOutcome(PayStatus.WAITING, "qr_code", "weixin://x")
    done, shown = await statements.answered(order, seen, outcome, now, now, CAUSE)
    assert done
    assert shown is not None
    assert shown[1] == await stored(system, attempt)
