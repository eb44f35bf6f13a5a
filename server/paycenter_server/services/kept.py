"""Rows that were read within the last second, so that a call does not read them each time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from time import monotonic
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_FRESH_SECONDS = 1.0
_MAX_KEPT = 10_000


class Kept(Generic[K, V]):
    """Values by their keys. A change is seen at once by the process that makes it, and within a second by the others."""

    def __init__(self, read: Callable[[K], Awaitable[V | None]]) -> None:
        self._read = read
        self._known: dict[K, tuple[float, V]] = {}
        self._reading: dict[K, asyncio.Task[V | None]] = {}
        self._changes = 0

    def known(self, key: K) -> V | None:
        """The value if it was read within the last second."""
        known = self._known.get(key)
        return known[1] if known is not None and monotonic() - known[0] < _FRESH_SECONDS else None

    async def get(self, key: K) -> V | None:
        """The value as it was at most a second ago; None if there is none. What does not exist is read each time."""
        if (known := self.known(key)) is not None:
            return known
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = asyncio.ensure_future(self._load(key))
            reading.add_done_callback(lambda done: self._reading.pop(key, None) if self._reading.get(key) is done else None)
        return await asyncio.shield(reading)

    async def _load(self, key: K) -> V | None:
        """Read once for all calls that wait for it."""
        now, changes = monotonic(), self._changes
        value = await self._read(key)
        if value is not None and changes == self._changes:  # what was read before a change is not kept
            if len(self._known) >= _MAX_KEPT:
                self._known.clear()
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
