"""Statements that are shared: what several tasks want at the same time is one statement, and so one round trip and one commit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from paycenter_server.domain.values import value
from paycenter_server.services.context import Context
from paycenter_server.storage.database import WriteConnection, is_connection_loss

T = TypeVar("T")
R = TypeVar("R")
MOST_ROWS = 128
BUSY_FROM = 2
"""So many that arrive during a statement show that sharing more would save time."""
WAIT_SECONDS = 0.003
"""The shortest time between the beginnings of two statements then. One that takes longer is followed by the next at once."""
WAITS_OF_CHANNEL_CALLS = 3
"""So many times WAIT_SECONDS for a statement of fewer than ENOUGH items, of calls that wait for a channel too: for tens or hundreds
of milliseconds."""
ENOUGH = 8


@value
class _Waiting(Generic[T, R]):
    item: T
    done: asyncio.Future[R]


class Gathering(Generic[T, R]):
    """One statement is in progress at a time. The first item goes at once; those that arrive meanwhile share the next statement.

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
        to_completion: bool = False,
    ) -> None:
        """`statement`: its results are in the order of its items, of which there is at least one. `seconds`: between the beginnings
        of two statements; `waits`: so many times as long while fewer than ENOUGH items wait. `wait`: for tests.

        `to_completion`: what a caller wanted that is cancelled is done all the same. Otherwise it is not, unless it is in progress
        with that of others.
        """
        self._context = context
        self._statement = statement
        self._wait = wait
        self._seconds = seconds
        self._waits = waits
        self._to_completion = to_completion
        self._waiting: deque[_Waiting[T, R]] = deque()
        self._busy = False
        self._begun = 0.0
        self._writer: asyncio.Task[None] | None = None

    async def add(self, item: T) -> R:
        """The result of an item, which is committed when this returns."""
        if self._busy or self._to_completion:
            waiting: _Waiting[T, R] = _Waiting(item, asyncio.get_running_loop().create_future())
            self._waiting.append(waiting)
            if not self._busy:
                self._busy = True
                self._next()
            return await (asyncio.shield(waiting.done) if self._to_completion else waiting.done)
        self._busy = True
        try:
            return (await self._execute([item]))[0]
        finally:
            self._next()

    async def _execute(self, items: Sequence[T]) -> Sequence[R]:
        self._begun = asyncio.get_running_loop().time()
        async with self._context.database.connection() as connection:
            return await self._statement(connection, items)

    def _next(self) -> None:
        """Start the writer if items are waiting."""
        if self._waiting:
            self._writer = self._context.start(self._write())
        else:
            self._busy = False

    async def _write(self) -> None:
        try:
            while self._waiting:
                if BUSY_FROM <= len(self._waiting) < MOST_ROWS:
                    await self._wait_for_more()
                rows = [self._waiting.popleft() for _ in range(min(MOST_ROWS, len(self._waiting)))]
                try:
                    await self._share(rows)
                finally:
                    for waiting in rows:
                        waiting.done.cancel()  # the writer was cancelled: nothing else would answer those that are left
        finally:
            self._next()

    async def _wait_for_more(self) -> None:
        for number in range(1, self._waits + 1):
            seconds = self._begun + number * self._seconds - asyncio.get_running_loop().time()
            if seconds > 0:
                await self._wait(seconds)
            if len(self._waiting) >= ENOUGH:
                break

    async def _share(self, waiting_rows: Sequence[_Waiting[T, R]]) -> None:
        # What a caller that was cancelled meanwhile wanted is not wanted any more.
        rows = [waiting for waiting in waiting_rows if not waiting.done.done()]
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
