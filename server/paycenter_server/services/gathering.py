"""Statements that are shared: what several tasks want at the same time is one statement, and so one round trip and one commit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from paycenter_server.domain.values import value
from paycenter_server.services.context import Context
from paycenter_server.storage.database import WriteConnection, is_connection_loss

T = TypeVar("T")
R = TypeVar("R")
log = structlog.get_logger(__name__)
MOST_ROWS = 128
BUSY_FROM = 2
"""So many that arrive during a statement show that sharing more would save time."""
WAIT_SECONDS = 0.003
"""The shortest time between the beginnings of two statements then. One that takes longer is followed by the next at once."""
WAITS_OF_CHANNEL_CALLS = 3
"""So many times WAIT_SECONDS for a statement of fewer than ENOUGH items, of calls that wait for a channel too: for tens or hundreds
of milliseconds."""
ENOUGH = 8
SLOW_SECONDS = 0.5
"""After so long a statement is left behind: it waits for a lock, or its connection is lost and nobody knows it yet."""
MOST_LEFT_BEHIND = 3
"""Each uses a connection, of which a process has 8 by default."""


@value
class _Waiting(Generic[T, R]):
    item: T
    done: asyncio.Future[R]


class Gathering(Generic[T, R]):
    """One statement is in progress at a time, and those that were left behind because they take long. The first item goes at once;
    those that arrive meanwhile share the next statement.

    If several have arrived, the next statement begins WAIT_SECONDS after the last one, or later while they are few, so that more
    share it. A statement costs far more than a row of it: under load each caller has its answer earlier with the wait than without.
    """

    def __init__(
        self,
        context: Context,
        statement: Callable[[WriteConnection, Sequence[T]], Awaitable[Sequence[R]]],
        wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
        seconds: float = WAIT_SECONDS,
        *,
        waits: int = 1,
        slow_seconds: float = SLOW_SECONDS,
        to_completion: bool = False,
    ) -> None:
        """`statement`: its results are in the order of its items, of which there is at least one. `seconds`: between the beginnings
        of two statements; `waits`: so many times as long while fewer than ENOUGH items wait. `wait`, `slow_seconds`: for tests.

        `to_completion`: what a caller wanted that is cancelled is done all the same. Otherwise it is not, unless it is in progress
        with that of others.
        """
        self._context = context
        self._statement = statement
        self._wait = wait
        self._seconds = seconds
        self._waits = waits
        self._to_completion = to_completion
        self._slow_seconds = slow_seconds
        self._waiting: deque[_Waiting[T, R]] = deque()
        self._chain: object | None = None
        self._left_behind = 0
        self._timer: asyncio.TimerHandle | None = None
        self._begun = 0.0
        self._since = 0.0
        self._writer: asyncio.Task[None] | None = None

    async def add(self, item: T) -> R:
        """The result of an item, which is committed when this returns."""
        if self._chain is not None or self._to_completion:
            waiting: _Waiting[T, R] = _Waiting(item, asyncio.get_running_loop().create_future())
            self._waiting.append(waiting)
            if self._chain is None:
                self._start()
            elif self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._slow_seconds, self._look)
            return await waiting.done
        chain = self._chain = object()
        try:
            return (await self._execute([item]))[0]
        finally:
            self._ended(chain)

    def _start(self) -> None:
        """Start the statements of what waits, one after the other: a chain of them."""
        self._since = asyncio.get_running_loop().time()
        chain = self._chain = object()
        self._writer = self._context.start(self._write(chain))

    def _ended(self, chain: object) -> None:
        """A chain has ended. What waits is for the next one, unless this one was left behind."""
        if chain is not self._chain:
            self._left_behind -= 1
        elif self._waiting:
            self._start()
        else:
            self._chain = None

    def _look(self) -> None:
        """Leave a statement behind that others have waited for too long."""
        loop = asyncio.get_running_loop()
        self._timer = None
        if not self._waiting:
            return
        if loop.time() - self._since >= self._slow_seconds and self._left_behind < MOST_LEFT_BEHIND:
            log.warning(
                "shared_statement_left_behind", statement=getattr(self._statement, "__name__", ""), waiting=len(self._waiting)
            )
            self._left_behind += 1
            self._start()
        self._timer = loop.call_later(self._slow_seconds, self._look)

    async def _execute(self, items: Sequence[T]) -> Sequence[R]:
        self._begun = self._since = asyncio.get_running_loop().time()
        async with self._context.database.connection() as connection:
            return await self._statement(connection, items)

    async def _write(self, chain: object) -> None:
        try:
            while self._waiting and chain is self._chain:
                if BUSY_FROM <= len(self._waiting) < MOST_ROWS:
                    await self._wait_for_more()
                rows = [self._waiting.popleft() for _ in range(min(MOST_ROWS, len(self._waiting)))]
                try:
                    await self._share(rows)
                finally:
                    for waiting in rows:
                        waiting.done.cancel()  # the writer was cancelled: nothing else would answer those that are left
        finally:
            self._ended(chain)

    async def _wait_for_more(self) -> None:
        for number in range(1, self._waits + 1):
            seconds = self._begun + number * self._seconds - asyncio.get_running_loop().time()
            if seconds > 0:
                await self._wait(seconds)
            if len(self._waiting) >= ENOUGH:
                break

    async def _share(self, waiting_rows: Sequence[_Waiting[T, R]]) -> None:
        # What a caller that was cancelled meanwhile wanted is not wanted any more, unless it is to be completed.
        rows = [waiting for waiting in waiting_rows if self._to_completion or not waiting.done.done()]
        if not rows:
            return
        try:
            results = await self._execute([waiting.item for waiting in rows])
        except Exception as error:
            if len(rows) > 1 and not is_connection_loss(error):
                # The others must not fail because of one of them.
                for waiting in rows:
                    await self._share([waiting])
                return
            for waiting in rows:
                if not waiting.done.done():
                    waiting.done.set_exception(error)
            return
        for waiting, result in zip(rows, results, strict=True):
            if not waiting.done.done():
                waiting.done.set_result(result)
