"""Staleness of rows that are due and wait: a breaker is open, or there are not enough places. No call is made for them.

A row that is worked on becomes stale in its work. Of what has waited for WAITING, each pass begins to look at a page of rows, from
the earliest to the last, and begins again after ROUND. The rows are read and not changed, so they stay due. It is a task of its
own, because each case is a transaction, and no pass waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar
from uuid import UUID

import structlog

log = structlog.get_logger(__name__)

WAITING = timedelta(minutes=10)
ROUND = timedelta(minutes=10)
PAGE = 200
_FIRST = UUID(int=0)


class _Row(Protocol):
    @property
    def id(self) -> UUID: ...
    @property
    def next_check_time(self) -> datetime | None: ...


R = TypeVar("R", bound=_Row)


@dataclass(slots=True)
class _Position:
    """`after`: the time and id of the last row of this round; None if the round is over."""

    begun: datetime
    after: tuple[datetime, UUID] | None


class StaleRounds(Generic[R]):
    """`page`: reads rows of an account that are due since a time, after a time and id. `look`: opens a case if it is stale."""

    def __init__(
        self,
        page: Callable[[UUID, datetime, tuple[datetime, UUID], int], Awaitable[Sequence[R]]],
        look: Callable[[R], Awaitable[object]],
    ) -> None:
        self._page = page
        self._look = look
        self._positions: dict[UUID, _Position] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self, due: Mapping[UUID, datetime], now: datetime) -> None:
        """Begin to look at one page of each account, unless the pages of an earlier pass are still looked at."""
        if self._task is None and not self._stopping:
            self._task = asyncio.create_task(self._run(due, now))

    def stop(self) -> None:
        """End after the row that is being looked at."""
        self._stopping = True

    async def settle(self) -> None:
        """Wait until what was begun has ended."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self, due: Mapping[UUID, datetime], now: datetime) -> None:
        try:
            await self.go_on(due, now)
        except Exception:
            # The next pass begins again.
            log.exception("stale_rounds_failed")
        finally:
            self._task = None

    async def go_on(self, due: Mapping[UUID, datetime], now: datetime) -> None:
        """Look at one page of each account. `due`: the accounts that have due rows, with the earliest time."""
        waiting = {account for account, earliest in due.items() if earliest <= now - WAITING}
        self._positions = {account: position for account, position in self._positions.items() if account in waiting}
        for account in waiting:
            position = self._positions.get(account)
            if position is None or (position.after is None and position.begun <= now - ROUND):
                position = self._positions[account] = _Position(now, (due[account], _FIRST))
            if position.after is None:
                continue
            rows = await self._page(account, now - WAITING, position.after, PAGE)
            for row in rows:
                if self._stopping:
                    return
                await self._look(row)
            last = rows[-1] if len(rows) == PAGE else None
            position.after = (last.next_check_time, last.id) if last is not None and last.next_check_time is not None else None
