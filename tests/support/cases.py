"""Cases of every kind of surplus money, made by booking payments at the mock channel."""

from __future__ import annotations

from typing import Any

import pytest
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.cases import Decision, PayCase
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.orders import PayOrder
from paycenter_server.services.cases_desk import CaseView
from paycenter_server.services.identity import Caller
from paycenter_server.storage import cases as case_rows

from support.facts import configured, payment_of
from support.system import CAUSE, OPERATOR, PayCenterSystem

ANNE, BEN = Caller("anne", None, ""), Caller("ben", None, "")
NEVER = {"behaviour": "never"}
STAYS_PAYABLE = {"behaviour": "late_after_close", "late_seconds": "80000"}


async def set_app(system: PayCenterSystem, **changes: Any) -> None:
    await system.services.apps.update(OPERATOR, "shop", changes)


async def hold(system: PayCenterSystem) -> None:
    """Every case of the app waits for an operator."""
    await set_app(system, surplus_policy="HOLD")


async def book(system: PayCenterSystem, attempt: PayAttempt, **changes: Any) -> None:
    channel = await configured(system, attempt.channel_code)
    await system.services.payments.book(channel, payment_of(channel, attempt, **changes), CAUSE)


async def late(system: PayCenterSystem, *, amount: int = 100, **extras: str) -> tuple[PayOrder, PayCase]:
    """An order that was closed and then paid. `extras`: the behaviour of the mock channel."""
    order = await system.order(amount=amount)
    attempt = await system.submit(order, "mock", **{**NEVER, **extras})
    await system.services.orders.close(system.caller, order.number)
    await book(system, attempt)
    return await system.read(order), await last_case(system)


async def duplicate(system: PayCenterSystem) -> tuple[PayOrder, PayCase]:
    """An order that was paid twice."""
    order = await system.order()
    first = await system.submit(order, "mock", **STAYS_PAYABLE)
    second = await system.submit(order, "mock", **NEVER, more="1")
    await book(system, first)
    await book(system, second)
    return await system.read(order), await last_case(system)


async def wrong_amount(system: PayCenterSystem, **changes: Any) -> tuple[PayOrder, PayCase]:
    """An order of which another amount was paid."""
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    await book(system, attempt, **{"amount": 1, **changes})
    return await system.read(order), await last_case(system)


async def unknown(system: PayCenterSystem, amount: int = 100) -> PayCase:
    """A payment under a number that is not known here."""
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    await book(system, attempt, out_trade_no=f"NOT-OURS-{amount}", amount=amount)
    return await last_case(system)


async def last_case(system: PayCenterSystem) -> PayCase:
    return await case_of(system, await system.value("SELECT id FROM pay_case ORDER BY id DESC LIMIT 1"))


async def case_of(system: PayCenterSystem, key: Any) -> PayCase:
    async with system.services.context.database.connection() as connection:
        found = await case_rows.get_case(connection, key)
    assert found is not None
    return found


async def decide(system: PayCenterSystem, by: Caller, case: PayCase, decision: Decision, reason: str = "") -> CaseView:
    return await system.services.case_decisions.decide(by, case.number, decision, reason)


async def refund_fails(system: PayCenterSystem, *, fails: bool = True) -> None:
    """From now on the mock channel refuses refunds, or makes them."""
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {**NEVER, "refund": "failure" if fails else "success"})


async def run_refund_job(system: PayCenterSystem) -> None:
    system.clock.advance(11)
    await system.services.jobs.sync_refunds()


async def refunds_of(system: PayCenterSystem, case: PayCase) -> list[tuple[str, int, int]]:
    """State, amount and number of sends of the refunds of a case."""
    rows = await system.rows("SELECT state, amount, send_count FROM pay_refund WHERE case_id = $1", case.id)
    return [(row["state"], row["amount"], row["send_count"]) for row in rows]


async def events_of(system: PayCenterSystem, case: PayCase) -> list[tuple[str, str, str]]:
    """Event, kind of actor and actor of the ledger's rows about a case, oldest first."""
    rows = await system.rows("SELECT event, actor_kind, actor FROM pay_event WHERE subject_id = $1 ORDER BY id", case.id)
    return [(row["event"], row["actor_kind"], row["actor"]) for row in rows]


async def refused(
    system: PayCenterSystem, by: Caller, case: PayCase, decision: Decision, reason: str = "why", *, names: Reason
) -> PayCenterError:
    """The error of a decision, which must have this reason."""
    with pytest.raises(PayCenterError) as caught:
        await decide(system, by, case, decision, reason)
    assert caught.value.reason is names, caught.value
    return caught.value
