"""Turns of the calls that read many rows, and of the requests of payers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field

SLOW_SECONDS = 0.5
"""What takes longer waits for the database, and uses no time of the server."""
_LONGEST_PAUSE = 0.1


@dataclass(slots=True)
class _User:
    """The calls of a user: how many have a turn, and those that wait for one."""

    turns: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Turn:
    """`counted`: as one of all. `of_user`: as one of its user. `slow`: ends that."""

    turns: Turns
    key: Hashable
    counted: bool = True
    of_user: bool = True
    slow: asyncio.TimerHandle | None = None

    def pause(self) -> None:
        """As of `limits.Place`, when its call waits for a channel: it gives its turn to others."""
        self.turns._leave(self)

    def resume(self) -> None:
        """It goes on without."""


class Turns:
    """Calls that read many rows: two at the same time, of all apps and so also of each. The others wait, those of an app in the
    order of their arrival, and an app after the other.

    One of them needs as much processor time as fifty creates, and a connection meanwhile. Without turns, those who list would delay
    the calls of all others. While others wait, a turn is free again after a pause as long as the call has taken. So all lists
    together use half of the server's time at most: a server that has no time left accepts no calls of others either.

    A call that has taken SLOW_SECONDS waits for the database. It goes on as one of its app only, so that it does not hold up the
    lists of other apps.
    """

    def __init__(self, most: int = 2, *, slow_seconds: float = SLOW_SECONDS, wholly: bool = False) -> None:
        """`wholly`: what leaves its turn before its end does not count as one of its user either."""
        self._most = most
        self._wholly = wholly
        self._slow_seconds = slow_seconds
        self._counted = 0
        self._users: dict[Hashable, _User] = {}
        self._next: deque[Hashable] = deque()
        """The users of which calls wait, each once."""

    @property
    def idle(self) -> bool:
        """Whether no call has a turn or waits for one."""
        return not self._users and not self._next and not self._counted

    @property
    def waiting(self) -> int:
        """How many calls wait for a turn."""
        return sum(len(user.waiting) for user in self._users.values())

    @asynccontextmanager
    async def of(self, key: Hashable, waiting: Callable[[], AbstractContextManager[None]] = nullcontext) -> AsyncIterator[Turn]:
        """The turn of a call of a user: of an app, of all operators (None), or of an address. `waiting`: around the time
        until it."""
        user = self._users.setdefault(key, _User())
        if user.waiting or not self._is_free(user):
            await self._wait(key, user, waiting)
        else:
            self._take(user)
        loop = asyncio.get_running_loop()
        turn, started = Turn(self, key), loop.time()
        turn.slow = loop.call_later(self._slow_seconds, self._leave, turn)
        try:
            yield turn
        finally:
            if self._next:
                loop.call_later(min(loop.time() - started, _LONGEST_PAUSE), self._end, turn)
            else:
                self._end(turn)

    def _is_free(self, user: _User) -> bool:
        return self._counted < self._most and user.turns < self._most

    def _take(self, user: _User) -> None:
        user.turns += 1
        self._counted += 1

    async def _wait(self, key: Hashable, user: _User, waiting: Callable[[], AbstractContextManager[None]]) -> None:
        turn = asyncio.get_running_loop().create_future()
        user.waiting.append(turn)
        if len(user.waiting) == 1:
            self._next.append(key)
        try:
            with waiting():
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it got its turn as it was cancelled
                self._end(Turn(self, key))
            elif turn in user.waiting:
                user.waiting.remove(turn)
                if not user.waiting:
                    self._next.remove(key)
            self._forget(key, user)
            raise

    def _give(self) -> None:
        """Give the turns that are free to those who wait. A user that has got one is the last of the next."""
        passed = 0
        while self._counted < self._most and passed < len(self._next):
            key = self._next.popleft()
            user = self._users[key]
            while user.waiting and user.waiting[0].done():  # its call was cancelled, and does not know it yet
                user.waiting.popleft()
            given = bool(user.waiting) and self._is_free(user)
            if given:
                self._take(user)
                user.waiting.popleft().set_result(None)
            passed = 0 if given else passed + bool(user.waiting)
            if user.waiting:
                self._next.append(key)

    def _leave(self, turn: Turn) -> None:
        """It counts as one of its user only, or not at all."""
        if turn.counted:
            turn.counted = False
            self._counted -= 1
            if self._wholly:
                self._leave_user(turn)
            self._give()

    def _leave_user(self, turn: Turn) -> None:
        if turn.of_user:
            turn.of_user = False
            user = self._users[turn.key]
            user.turns -= 1
            self._forget(turn.key, user)

    def _end(self, turn: Turn) -> None:
        if turn.slow is not None:
            turn.slow.cancel()
        self._counted -= turn.counted
        turn.counted = False
        self._leave_user(turn)
        self._give()

    def _forget(self, key: Hashable, user: _User) -> None:
        if not user.turns and not user.waiting and self._users.get(key) is user:
            del self._users[key]
