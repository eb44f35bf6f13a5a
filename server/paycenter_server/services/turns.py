"""Turns of the calls that read many rows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from uuid import UUID

SLOW_SECONDS = 0.5
"""What takes longer waits for the database, and uses no time of the server."""
_LONGEST_PAUSE = 0.1


@dataclass(slots=True)
class _App:
    """The calls of an app, or of all operators: how many have a turn, and those that wait for one."""

    turns: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class _Turn:
    """`counted`: as one of all. `slow`: ends that."""

    app_id: UUID | None
    counted: bool = True
    slow: asyncio.TimerHandle | None = None


class Turns:
    """Calls that read many rows: two at the same time, of all apps and so also of each. The others wait, those of an app in the
    order of their arrival, and an app after the other.

    One of them needs as much processor time as fifty creates, and a connection meanwhile. Without turns, those who list would delay
    the calls of all others. While others wait, a turn is free again after a pause as long as the call has taken. So all lists
    together use half of the server's time at most: a server that has no time left accepts no calls of others either.

    A call that has taken SLOW_SECONDS waits for the database. It goes on as one of its app only, so that it does not hold up the
    lists of other apps.
    """

    def __init__(self, most: int = 2, *, slow_seconds: float = SLOW_SECONDS) -> None:
        self._most = most
        self._slow_seconds = slow_seconds
        self._counted = 0
        self._apps: dict[UUID | None, _App] = {}
        self._next: deque[UUID | None] = deque()
        """The apps of which calls wait, each once."""

    @property
    def idle(self) -> bool:
        """Whether no call has a turn or waits for one."""
        return not self._apps and not self._next and not self._counted

    @property
    def waiting(self) -> int:
        """How many calls wait for a turn."""
        return sum(len(app.waiting) for app in self._apps.values())

    @asynccontextmanager
    async def of(
        self, app_id: UUID | None, waiting: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> AsyncIterator[None]:
        """The turn of a call of an app; all operators (None) share theirs. `waiting`: around the time until it."""
        app = self._apps.setdefault(app_id, _App())
        if app.waiting or not self._is_free(app):
            await self._wait(app_id, app, waiting)
        else:
            self._take(app)
        loop = asyncio.get_running_loop()
        turn, started = _Turn(app_id), loop.time()
        turn.slow = loop.call_later(self._slow_seconds, self._leave, turn)
        try:
            yield
        finally:
            if self._next:
                loop.call_later(min(loop.time() - started, _LONGEST_PAUSE), self._end, turn)
            else:
                self._end(turn)

    def _is_free(self, app: _App) -> bool:
        return self._counted < self._most and app.turns < self._most

    def _take(self, app: _App) -> None:
        app.turns += 1
        self._counted += 1

    async def _wait(self, app_id: UUID | None, app: _App, waiting: Callable[[], AbstractContextManager[None]]) -> None:
        turn = asyncio.get_running_loop().create_future()
        app.waiting.append(turn)
        if len(app.waiting) == 1:
            self._next.append(app_id)
        try:
            with waiting():
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it got its turn as it was cancelled
                self._end(_Turn(app_id))
            elif turn in app.waiting:
                app.waiting.remove(turn)
                if not app.waiting:
                    self._next.remove(app_id)
            self._forget(app_id, app)
            raise

    def _give(self) -> None:
        """Give the turns that are free to those who wait. An app that has got one is the last of the next."""
        passed = 0
        while self._counted < self._most and passed < len(self._next):
            app_id = self._next.popleft()
            app = self._apps[app_id]
            while app.waiting and app.waiting[0].done():  # its call was cancelled, and does not know it yet
                app.waiting.popleft()
            given = bool(app.waiting) and self._is_free(app)
            if given:
                self._take(app)
                app.waiting.popleft().set_result(None)
            passed = 0 if given else passed + bool(app.waiting)
            if app.waiting:
                self._next.append(app_id)

    def _leave(self, turn: _Turn) -> None:
        """It counts as one of its app only."""
        if turn.counted:
            turn.counted = False
            self._counted -= 1
            self._give()

    def _end(self, turn: _Turn) -> None:
        if turn.slow is not None:
            turn.slow.cancel()
        app = self._apps[turn.app_id]
        app.turns -= 1
        self._counted -= turn.counted
        turn.counted = False
        self._forget(turn.app_id, app)
        self._give()

    def _forget(self, app_id: UUID | None, app: _App) -> None:
        if not app.turns and not app.waiting and self._apps.get(app_id) is app:
            del self._apps[app_id]
