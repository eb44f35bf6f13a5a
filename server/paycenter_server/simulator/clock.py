"""The simulator's clock, which is the real time plus an offset, and the scheduler that runs jobs by it.

Expiry, the completion of refunds and the retry schedules of notifications follow the clock. Time stamps of signatures use the real
time, because the other side compares them with its own clock.
"""

from __future__ import annotations

import asyncio
import datetime
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

__all__ = ["CHINA", "MAX_SHIFT", "Clock", "Scheduler", "china_time", "parse_china_time", "parse_rfc3339", "rfc3339"]

CHINA = datetime.timezone(datetime.timedelta(hours=8))
MAX_SHIFT = 100 * 366 * 86400.0
"""The largest number of seconds by which one call can move the clock. Clock.checked limits the result."""
_EARLIEST = datetime.datetime(2000, 1, 1, tzinfo=CHINA).timestamp()
_LATEST = datetime.datetime(2100, 1, 1, tzinfo=CHINA).timestamp()


class Clock:
    """Seconds since the epoch plus an offset. `changed` is called after each change of the offset."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.changed: Callable[[], None] = lambda: None

    def now(self) -> float:
        """The simulated time."""
        return time.time() + self.offset

    def checked(self, offset: float) -> float:
        """The offset, if the resulting time is between 2000 and 2100, which every format can represent; ValueError otherwise."""
        # The comparison is also false for nan.
        if not _EARLIEST <= time.time() + offset <= _LATEST:
            raise ValueError("the clock must stay between 2000-01-01 and 2100-01-01, China time")
        return offset

    def shift(self, offset: float) -> None:
        """Set the offset from real time, in seconds."""
        self.offset = offset
        self.changed()


def rfc3339(moment: float) -> str:
    """The format of WeChat Pay APIv3, `2026-01-02T03:04:05+08:00`."""
    return datetime.datetime.fromtimestamp(int(moment), CHINA).isoformat()


def china_time(moment: float) -> str:
    """The format of Alipay, `2026-01-02 03:04:05`, always at +08:00."""
    return datetime.datetime.fromtimestamp(int(moment), CHINA).strftime("%Y-%m-%d %H:%M:%S")


def parse_china_time(text: str) -> float:
    """The inverse of china_time. The older format without seconds is accepted too. ValueError otherwise."""
    form = "%Y-%m-%d %H:%M" if text.count(":") == 1 else "%Y-%m-%d %H:%M:%S"
    return _timestamp(datetime.datetime.strptime(text, form).replace(tzinfo=CHINA))


def parse_rfc3339(text: str) -> float:
    """The inverse of rfc3339. ValueError if the text is anything else or has no zone."""
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return _timestamp(moment)


def _timestamp(moment: datetime.datetime) -> float:
    try:
        return moment.timestamp()
    except OverflowError as error:
        raise ValueError("outside the calendar") from error


_log = logging.getLogger(__name__)
Job = Callable[[], Awaitable[None]]


class Scheduler:
    """Runs each job in its own task when the clock reaches its time. A change of the clock takes effect at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._wake = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        clock.changed = self._wake.set

    def schedule(self, due: float, job: Job) -> None:
        """Run `job` when the clock reaches `due`, or at once if `due` is in the past."""
        heapq.heappush(self._heap, (due, next(self._order), job))
        self._wake.set()

    def clear(self) -> None:
        """Remove all jobs that have not started."""
        self._heap.clear()

    async def run(self) -> None:
        """Run jobs until cancelled."""
        try:
            while True:
                self._wake.clear()
                now = self._clock.now()
                while self._heap and self._heap[0][0] <= now:
                    self._start(heapq.heappop(self._heap)[2])
                wait = max(self._heap[0][0] - now, 0.001) if self._heap else None
                # Not wait_for: on Python 3.11 it loses a cancellation that comes together with the event, and `run` would go on.
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no job is due or running, at most `seconds`. Returns whether that state was reached."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self._running or (self._heap and self._heap[0][0] <= self._clock.now()):
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.005)
        return True

    def _start(self, job: Job) -> None:
        task = asyncio.ensure_future(self._guard(job))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    @staticmethod
    async def _guard(job: Job) -> None:
        try:
            await job()
        except Exception:
            _log.exception("a scheduled job of the simulator failed")
