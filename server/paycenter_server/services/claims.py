"""Claims of due rows by key: by the endpoint of a notification, or by the account of an attempt or refund.

A claim takes no more than the free places of a key (`services/places.py`), so that a key that hangs delays no other. The work on
each claimed row begins at once. A pass ends when nothing more can be claimed, not when the work is done; while a key has more due
than places, one task claims for it as places become free.

Of a key that answers quickly, more may be claimed ahead. It waits in memory, and each place of the key that becomes free takes the
next row, without waiting for a claim.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Generic, TypeVar

import structlog

from paycenter_server.services.context import Clock
from paycenter_server.services.places import K, Places

T = TypeVar("T")
log = structlog.get_logger(__name__)

# Completions within this time share a claim, unless half of the places of a key are free before.
_GATHER_SECONDS = 0.01
# What was claimed ahead and has not got a place within this time is left to its lease, of which enough must be left for the work.
AHEAD_TIME = timedelta(seconds=5)
# After a stop, what was claimed ahead is begun for so long: a delivery of ten seconds ends before the worker does (runner.py).
AHEAD_AFTER_STOP = timedelta(seconds=1.5)
AHEAD_ROWS = 512
"""The most rows of a job that wait in memory."""
BACKLOG_KEYS = 1024
"""The most keys of the backlog, without those that are fast. Each claim for the backlog looks at all of them."""
SHARE_FIRST, SHARE_LONGEST = timedelta(seconds=0.03), timedelta(seconds=2)
"""The pauses after which others are told again that there is more: a worker may have heard its own wake-up."""
SHARE_FORGOTTEN = timedelta(seconds=10)
"""After so long without more the pauses begin anew."""
_SHARES_KEPT = 1000
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class _Ahead(Generic[K, T]):
    """Rows that were claimed ahead of their places, by key, each with the time before its claim. The oldest is the first.

    `coming`: how many more of each key the claims in progress may bring.
    """

    def __init__(self) -> None:
        self._rows: dict[K, deque[tuple[datetime, T]]] = {}
        self.count = 0
        self.coming: Counter[K] = Counter()

    def keys(self) -> Collection[K]:
        """The keys that have rows."""
        return self._rows.keys()

    def of(self, key: K) -> int:
        """The number of rows of a key."""
        rows = self._rows.get(key)
        return len(rows) if rows is not None else 0

    def expected(self, key: K) -> int:
        """The number of rows of a key, with those that the claims in progress may bring."""
        return self.of(key) + self.coming[key]

    def oldest(self, key: K) -> datetime:
        """When the first row of a key, of which there is one, was claimed."""
        return self._rows[key][0][0]

    def add(self, key: K, claimed: datetime, row: T) -> None:
        """Add a row."""
        self._rows.setdefault(key, deque()).append((claimed, row))
        self.count += 1

    def pop(self, key: K) -> T | None:
        """Remove the first row of a key and return it; None if there is none."""
        rows = self._rows.get(key)
        if rows is None:
            return None
        self.count -= 1
        _, row = rows.popleft()
        if not rows:
            del self._rows[key]
        return row

    def drop(self, key: K) -> int:
        """Remove all rows of a key. Their number."""
        dropped = len(self._rows.pop(key, ()))
        self.count -= dropped
        return dropped

    def drop_old(self, since: datetime) -> int:
        """Remove what was claimed before `since`. The number."""
        before = self.count
        for key in list(self._rows):
            while self.of(key) and self.oldest(key) < since:
                self.pop(key)
        return before - self.count


class Claims(Generic[K, T]):
    """The claims of one job. Several may run at once, in one process or in many.

    `due`: keys that have due rows, the most urgent first; the next call may bring others. `take`: claims up to so many rows of
    each key, moves their time by the lease, and returns them; the lease is longer than AHEAD_TIME and the work. `key`: the key
    under which a row was claimed. `work`: the work on a row, which releases its place. `share`: called when a claim got all that it
    asked for, so that others take part in what is left.
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
        share: Callable[[], None] | None = None,
    ) -> None:
        self._job = job
        self._clock = clock
        self._places = places
        self._due = due
        self._take = take
        self._key = key
        self._work = work
        self._share = share
        self._shares: dict[K, tuple[datetime, timedelta]] = {}
        """Of each key when others may be told again, and the pause before."""
        self._working: set[asyncio.Task[None]] = set()
        self._backlog: dict[K, None] = {}
        """The keys that may have more, in the order in which they were due."""
        self._more_due = False
        """Whether the backlog did not have room for all of them."""
        self._ahead = _Ahead[K, T]()
        self._freed = asyncio.Event()
        self._mostly_free = asyncio.Event()
        self._claimer: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()
        self._wanted = False
        self._stopping = False
        self._last_begin: datetime | None = None
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
        """Claim for the free places of these keys, and ahead of them, and start the work. Those that may have more are the backlog.

        What was claimed ahead gets a place before anything else is claimed.
        """
        due, now = list(keys), self._clock.now()
        self._left_to_lease(self._ahead.drop_old(now - AHEAD_TIME))
        free = self._places.reserve([*due, *self._ahead.keys()], now)
        rows: Sequence[T] = []
        try:
            for key in free:
                while free[key] and (waiting := self._ahead.pop(key)) is not None:
                    free[key] -= 1
                    self._start(key, waiting)
            more = self._more(due)
            asked = Counter[K](free) + more  # without the keys of which nothing is asked
            rows = await self._take_all(asked, more)
            left = Counter(asked)
            for row in rows:
                key = self._key(row)
                left[key] -= 1
                if free.get(key):
                    free[key] -= 1
                    self._start(key, row)
                else:
                    self._ahead.add(key, now, row)
        finally:
            for key, unused in free.items():
                if unused:
                    self._places.give_back(key, unused)
        self.started += len(rows)
        self._share_rest([key for key in due if asked[key] and not left[key] and not self._places.breakers.is_open(key)], now)
        for key in due:
            # Places may have become free during the statement.
            while (waiting := self._next(key)) is not None:
                self._start(key, waiting)
            if left[key] or self._places.breakers.is_open(key):
                self._backlog.pop(key, None)
            elif key in self._backlog or len(self._backlog) < BACKLOG_KEYS or self._places.is_fast(key):
                self._backlog[key] = None
            else:
                self._more_due = True
        if (self._backlog or self._ahead.count) and self._claimer is None and not self._stopping:
            self._claimer = asyncio.create_task(self._claim_backlog())
        return len(rows)

    def _share_rest(self, keys: Iterable[K], now: datetime) -> None:
        """Let others take part in what is left of these keys: of each the first time at once, and then less and less often, because
        they know by then."""
        if self._share is None:
            return
        told = False
        for key in keys:
            time, pause = self._shares.get(key, (_LONG_AGO, SHARE_FIRST))
            if now < time <= now + SHARE_LONGEST:  # a later time is one of a clock that has gone back
                continue
            pause = min(2 * pause, SHARE_LONGEST) if now < time + SHARE_FORGOTTEN else SHARE_FIRST
            self._shares[key] = (now + pause, pause)
            told = True
        if told:
            self._share()
        if len(self._shares) > _SHARES_KEPT:
            self._shares = {key: kept for key, kept in self._shares.items() if now < kept[0] + SHARE_FORGOTTEN}

    async def _take_all(self, asked: Counter[K], more: Counter[K]) -> Sequence[T]:
        self._ahead.coming += more
        try:
            return await self._take(asked) if asked else []
        finally:
            self._ahead.coming -= more  # which removes the keys of which nothing comes

    def _more(self, due: Iterable[K]) -> Counter[K]:
        """How many rows of each key to claim ahead: of those of which little waits in memory."""
        more, room = Counter[K](), AHEAD_ROWS - self._ahead.count - self._ahead.coming.total()
        for key in due:
            if self._is_low(key):
                more[key] = max(min(self._places.ahead(key) - self._ahead.expected(key), room), 0)
                room -= more[key]
        return more

    def _is_low(self, key: K) -> bool:
        """Whether it is time to claim of a key."""
        ahead = self._places.ahead(key)
        if not ahead:
            return self._places.mostly_free((key,))
        return 2 * self._ahead.expected(key) <= ahead

    def _start(self, key: K, row: T) -> None:
        task = asyncio.create_task(self._work_on(key, row))
        self._working.add(task)
        task.add_done_callback(partial(self._ended, key))

    async def _work_on(self, key: K, row: T | None) -> None:
        """The work on a row, and then on those that were claimed ahead. A task for each of them would cost more."""
        while row is not None:
            try:
                await self._work(row)
            except Exception as error:
                log.error("claimed_row_failed", job=self._job, exc_info=error)
            row = self._next(key)
            if row is not None and self._is_low(key):
                self._freed.set()
                self._mostly_free.set()

    def _next(self, key: K) -> T | None:
        """A row that was claimed ahead, with a place. None if there is none, or if the key has to wait for a claim."""
        if not self._ahead.of(key):
            return None
        late = self._last_begin is not None and self._clock.now() > self._last_begin
        if late or self._places.breakers.is_open(key):
            self._left_to_lease(self._ahead.drop(key))
            return None
        if self._ahead.oldest(key) < self._clock.now() - AHEAD_TIME or not self._places.reserve_again(key):
            return None
        return self._ahead.pop(key)

    def _left_to_lease(self, rows: int) -> None:
        if rows:
            log.info("claimed_rows_left_to_their_lease", job=self._job, rows=rows)

    def _ended(self, key: K, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._freed.set()
        if self._is_low(key):
            self._mostly_free.set()

    async def _claim_backlog(self) -> None:
        """Claim as places become free, until no key has more due than places. Completions share claims."""
        try:
            while (self._backlog or self._ahead.count) and not self._stopping:
                seconds = self._places.seconds_to_token(self._backlog, self._clock.now())
                if self._working or seconds is not None:
                    # Not wait_for: on Python 3.11 it loses a cancellation that comes together with the event.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(seconds):
                            await self._freed.wait()
                self._freed.clear()
                self._mostly_free.clear()
                if not any(map(self._is_low, self._places.may_get(self._backlog))):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_GATHER_SECONDS):
                            await self._mostly_free.wait()
                keys = self._places.may_get(self._backlog)
                if not self._stopping and not await self._claim(keys) and self._backlog and not self._working:
                    # Nothing is worked on, and yet no place is free: a claim in progress has reserved them. Without an await here
                    # it would never end.
                    await asyncio.sleep(_GATHER_SECONDS)
                if self._more_due and 2 * len(self._backlog) <= BACKLOG_KEYS:
                    # Until nothing is found: each look may be at other keys.
                    self._more_due = False
                    self._more_due = await self.start_due() > 0 or self._more_due
        except Exception as error:
            # The next pass looks at everything again.
            log.warning("claim_failed", job=self._job, why=f"{type(error).__name__}: {error}")
        finally:
            self._backlog.clear()
            self._claimer = None

    def stop(self) -> None:
        """Claim nothing more. Work that has begun continues, and `settle` waits for it. What was claimed ahead is begun for
        AHEAD_AFTER_STOP, and then left to its lease."""
        self._stopping = True
        self._last_begin = self._clock.now() + AHEAD_AFTER_STOP
        self._freed.set()
        self._mostly_free.set()

    async def settle(self) -> None:
        """Wait for the present pass and until the work on all claimed rows, and on the backlog, has ended."""
        async with self._looking:
            pass
        while waiting := {*self._working, *([self._claimer] if self._claimer is not None else [])}:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
