"""The clocks behind the port that services use."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class SystemClock:
    """Aware UTC time of this machine."""

    def now(self) -> datetime:
        """Now."""
        return datetime.now(UTC)


class DatabaseClock:
    """The time of the database, continued by the monotonic clock of this process.

    All processes share it, so a machine whose clock is wrong neither claims early nor stores times that others reach late. Before
    the first `set` it is the time of this machine. `wall` and `monotonic` are for tests.
    """

    def __init__(
        self, wall: Callable[[], datetime] = lambda: datetime.now(UTC), monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._set: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        """Now."""
        if self._set is None:
            return self._wall()
        at, since = self._set
        return at + timedelta(0, 0, int((self._monotonic() - since) * 1_000_000))

    def begin(self) -> float:
        """To be called before the database is asked for its time; the argument of `set`."""
        return self._monotonic()

    def set(self, database_time: datetime, begun: float) -> None:
        """Take over the database's time, which it read in the middle between `begin` and now."""
        self._set = (database_time.astimezone(UTC), (begun + self._monotonic()) / 2)
