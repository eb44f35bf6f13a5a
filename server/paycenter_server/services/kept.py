"""What was read lately, so that a call does not read it each time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from time import monotonic
from typing import Generic, TypeVar

from paycenter_server.domain.errors import PayCenterError
from paycenter_server.services.context import Context

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_FRESH_SECONDS = 1.0
_MOST = 10_000


class Kept(Generic[K, V]):
    """Values by their keys. A change is seen at once by the process that makes it, and after `seconds` by the others."""

    def __init__(
        self,
        context: Context,
        read: Callable[[K], Awaitable[V | None]],
        *,
        seconds: float = _FRESH_SECONDS,
        most: int = _MOST,
        keeps: Callable[[K], object] | None = None,
    ) -> None:
        """`read`: the value of a key; None, or a PayCenterError, if there is none. `most`: beyond it the oldest is forgotten.
        `keeps`: whether the value of a key is kept; None if all are."""
        self._context = context
        self._read = read
        self._seconds = seconds
        self._most = most
        self._keeps = keeps
        self._known: dict[K, tuple[float, V]] = {}
        """In the order in which they were read."""
        self._reading: dict[K, asyncio.Task[V | None]] = {}
        self._changes = 0

    def known(self, key: K) -> V | None:
        """The value if it was read within the last `seconds`."""
        known = self._known.get(key)
        return known[1] if known is not None and monotonic() - known[0] < self._seconds else None

    def last_known(self, key: K) -> V | None:
        """The value when it was last read, whenever that was. It proves nothing now."""
        known = self._known.get(key)
        return known[1] if known is not None else None

    async def get(self, key: K) -> V | None:
        """The value as it was at most `seconds` ago; None if there is none. What does not exist is read each time."""
        if (known := self.known(key)) is not None:
            return known
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = self._context.start(self._load(key))
            reading.add_done_callback(lambda done: self._reading.pop(key, None) if self._reading.get(key) is done else None)
        return await asyncio.shield(reading)

    async def _load(self, key: K) -> V | None:
        """Read once for all calls that wait for it."""
        now, changes = monotonic(), self._changes
        try:
            value = await self._read(key)
        except PayCenterError:
            self._known.pop(key, None)
            raise
        if changes != self._changes:
            return value  # what was read before a change is not kept
        self._known.pop(key, None)  # it becomes the youngest
        if value is not None and (self._keeps is None or self._keeps(key)):
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[key] = (now, value)
        return value

    def forget(self, key: K) -> None:
        """Read it again at its next use in this process, because it has changed."""
        self._changes += 1
        self._known.pop(key, None)
        self._reading.pop(key, None)

    def forget_all(self) -> None:
        """Read everything again at its next use in this process."""
        self._changes += 1
        self._known.clear()
        self._reading.clear()

    def forget_those(self, changed: Callable[[V], bool]) -> None:
        """Read again, at the next use in this process, what has changed. What is being read now may have changed too."""
        self._changes += 1
        self._reading.clear()
        for key in [key for key, (_, value) in self._known.items() if changed(value)]:
            del self._known[key]
