"""Things to do at a time of the simulator's clock."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable

from paycenter_server.simulator.clock import Clock

__all__ = ["Agenda"]

_log = logging.getLogger(__name__)
Job = Callable[[], Awaitable[None]]


class Agenda:
    """Runs each job, as a task of its own, once the clock has reached its time; wakes up when the clock is set."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._wake = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        clock.changed = self._wake.set

    def at(self, due: float, job: Job) -> None:
        """Run `job` when the clock passes `due`; at once if it has."""
        heapq.heappush(self._heap, (due, next(self._order), job))
        self._wake.set()

    def clear(self) -> None:
        """Forget all that has not begun."""
        self._heap.clear()

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            while True:
                self._wake.clear()
                now = self._clock.now()
                while self._heap and self._heap[0][0] <= now:
                    self._start(heapq.heappop(self._heap)[2])
                wait = max(self._heap[0][0] - now, 0.001) if self._heap else None
                try:
                    await asyncio.wait_for(self._wake.wait(), wait)
                except TimeoutError:
                    continue
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def settle(self, seconds: float) -> bool:
        """Wait until nothing is due or running, at most `seconds`; whether that was reached."""
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
            _log.exception("a scheduled step of the simulator failed")
