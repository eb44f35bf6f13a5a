"""No tests: what the tests of the bookings without a read share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.orders import PayOrder
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.services.payments_direct import DirectPayments
from paycenter_server.storage import payments_direct as direct_rows
from paycenter_server.storage.payments_direct import DirectBooking

from support.facts import configured, payment_of
from support.system import CAUSE, PayCenterSystem
from support.waiting import pause

NEVER = {"behaviour": "never"}
STAYS_PAYABLE = {"behaviour": "late_after_close", "late_seconds": "80000"}


async def waiting(system: PayCenterSystem, **changes: Any) -> tuple[PayOrder, PayAttempt, ConfiguredChannel]:
    """An order with an open attempt at mock."""
    order = await system.order(**changes)
    return order, await system.submit(order, "mock", **STAYS_PAYABLE), await configured(system, "mock")


async def book(system: PayCenterSystem, channel: ConfiguredChannel, attempt: PayAttempt, **changes: Any) -> bool:
    return await DirectPayments(system.services.context).book(channel, payment_of(channel, attempt, **changes), CAUSE)


def booking_of(
    system: PayCenterSystem, channel: ConfiguredChannel, attempt: PayAttempt, facts: dict[str, Any] | None = None, **changes: Any
) -> DirectBooking:
    """What the statement is given for a payment that matches the attempt, except for these facts and changes."""
    booking = DirectPayments(system.services.context).booking(channel, payment_of(channel, attempt, **(facts or {})), CAUSE)
    assert booking is not None
    return replace(booking, **changes)


async def book_rows(system: PayCenterSystem, bookings: Sequence[DirectBooking]) -> list[bool]:
    async with system.services.context.database.connection() as connection:
        return await direct_rows.book(connection, bookings)


async def stored(system: PayCenterSystem) -> Any:
    """Everything that a booking may change."""
    tables = ("pay_order", "pay_attempt", "pay_notify_task", "pay_case")
    return [[tuple(row) for row in await system.rows(f"SELECT * FROM {table} ORDER BY id")] for table in tables]


async def together(
    system: PayCenterSystem, direct: DirectPayments, payments: Sequence[Any], channel: Any
) -> list[asyncio.Task[Any]]:
    """Report payments, which share a statement."""
    tasks = [asyncio.create_task(direct.book(channel, payment, CAUSE)) for payment in payments]
    await pause(0)
    return tasks
