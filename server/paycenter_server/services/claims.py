"""Claims of due rows by key: by the endpoint of a notification, or by the account of an attempt or refund.

A claim takes no more than the free places of a key (`services/places.py`), so that a key that hangs delays no other. The work on
each claimed row is a task that begins at once. A pass ends when nothing more can be claimed, not when the work is done; while a key
has more due than places, one task claims for it as places become free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

import structlog

from paycenter_server.services.context import Clock
from paycenter_server.services.places import K, Places

T = TypeVar("T")
log = structlog.get_logger(__name__)

# Completions within this time share a claim, unless half of the places of a key are free before.
_GATHER_SECONDS = 0.01


class Claims(Generic[K, T]):
    """The claims of one job. Several may run at once, in one process or in many.

    `due`: the keys that have due rows. `take`: claims up to so many rows of each key, moves their time by the lease, and returns
    them. `key`: the key under which a row was claimed. `work`: the work on a row, which releases its place.
    """

    def __init__(
        self,
        job: str,
        clock: Clock,
        places: Places[K],
        *,
        due: Callable[[], Awaitable[Collection[K]]],
        take: Callable[[Mapping[K, int]], Awaitable[Sequence[T]]],
        key: Callable[[T], K],
        work: Callable[[T], Coroutine[Any, Any, None]],
    ) -> None:
        self._job = job
        self._clock = clock
        self._places = places
        self._due = due
        self._take = take
        self._key = key
        self._work = work
        self._working: set[asyncio.Task[None]] = set()
        self._backlog: set[K] = set()
        self._freed = asyncio.Event()
        self._mostly_free = asyncio.Event()
        self._claimer: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()
        self._wanted = False
        self._stopping = False
        self.started = 0

    async def start_due(self) -> int:
        """Start the work on what is due, as far as there are places, and return the number of rows. The rest follows as places
        become free.

        If another call is looking, this call only makes it look once more.
        """
        self._wanted = True
        if self._looking.locked():
            return 0
        started = 0
        async with self._looking:
            while self._wanted and not self._stopping:
                self._wanted = False
                started += await self._claim(await self._due())
        return started

    async def _claim(self, keys: Iterable[K]) -> int:
        """Claim for the free places of these keys, and start the work. Those that may have more are the backlog."""
        wanted = list(keys)
        places = self._places.reserve(wanted, self._clock.now())
        left = dict(places)
        try:
            rows = await self._take(places) if places else []
            for row in rows:
                left[self._key(row)] -= 1
                task = asyncio.create_task(self._work(row))
                self._working.add(task)
                task.add_done_callback(partial(self._ended, self._key(row)))
        finally:
            for key, unused in left.items():
                self._places.give_back(key, unused)
        self.started += len(rows)
        for key in wanted:
            if left.get(key, 0) == 0 and not self._places.breakers.is_open(key):
                self._backlog.add(key)
            else:
                self._backlog.discard(key)
        if self._backlog and self._claimer is None and not self._stopping:
            self._claimer = asyncio.create_task(self._claim_backlog())
        return len(rows)

    def _ended(self, key: K, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._freed.set()
        if self._places.mostly_free((key,)):
            self._mostly_free.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("claimed_row_failed", job=self._job, exc_info=error)

    async def _claim_backlog(self) -> None:
        """Claim as places become free, until no key has more due than places. Completions share claims."""
        try:
            while self._backlog and not self._stopping:
                seconds = self._places.seconds_to_token(self._backlog, self._clock.now())
                if self._working or seconds is not None:
                    # Not wait_for: on Python 3.11 it loses a cancellation that comes together with the event.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(seconds):
                            await self._freed.wait()
                self._freed.clear()
                self._mostly_free.clear()
                if not self._places.mostly_free(self._backlog):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_GATHER_SECONDS):
                            await self._mostly_free.wait()
                if not self._stopping and not await self._claim(self._backlog) and self._backlog and not self._working:
                    # Nothing is worked on, and yet no place is free: a claim in progress has reserved them. Without an await here
                    # it would never end.
                    await asyncio.sleep(_GATHER_SECONDS)
        except Exception as error:
            # The next pass looks at everything again.
            log.warning("claim_failed", job=self._job, why=f"{type(error).__name__}: {error}")
        finally:
            self._backlog.clear()
            self._claimer = None

    def stop(self) -> None:
        """Claim nothing more. Work that has begun continues; `settle` waits for it."""
        self._stopping = True
        self._freed.set()
        self._mostly_free.set()

    async def settle(self) -> None:
        """Wait for the present pass and until the work on all claimed rows, and on the backlog, has ended."""
        async with self._looking:
            pass
        while waiting := {*self._working, *([self._claimer] if self._claimer is not None else [])}:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
