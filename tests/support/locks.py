"""Deterministic races: another connection holds a row lock until the calls under test wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from support.system import PayCenterSystem
from support.waiting import eventually


@asynccontextmanager
async def transaction(system: PayCenterSystem) -> AsyncIterator[Any]:
    """A connection with an open transaction, committed at the end. The task is not marked as having one, so calls that are
    started inside may reach a channel."""
    async with system.services.context.database.connection() as connection:
        opened: Any = connection
        async with opened.transaction():
            yield opened


async def waiting_for_lock(system: PayCenterSystem, calls: Sequence[asyncio.Task[Any]], count: int | None = None) -> None:
    """Until so many backends (by default one for each call) wait for a lock, or every call has ended without waiting."""

    async def blocked() -> bool:
        waiting = await system.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(waiting >= (len(calls) if count is None else count)) or all(call.done() for call in calls)

    await eventually(blocked)
