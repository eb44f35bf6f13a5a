"""How much may be in progress for each key: an endpoint of notifications, or an account at a channel.

In memory: each process has its own view. Four limits apply to what is claimed:

- Places: a new key gets `first` of them; each answer adds one, up to `each`, and each call without an answer halves them. Keys
  that have not answered within `fast_seconds` lately share `slow` of all `total` places, so that keys that hang cannot take the
  places of those that answer. Of these, keys whose last call had no answer get what the others leave, in turn, and half at most.
  The last quarter is for keys with few places, so that many new keys are tried at once.
- Tokens, if there is a `rate`: each place that is reserved takes one. There are up to `burst`, and `rate` more each second.
- Work that is claimed ahead of its place (`ahead`), so that a place that becomes free is taken at once: for keys that answer
  quickly, while at least half of all places are free. Nobody has to wait for a key that takes its own places again then.
- A breaker: after `failures` calls in a row without an answer a key is open. Then one trial at a time is let through, at the ends
  of pauses that grow from `first_pause` to `longest_pause`; its first answer closes the breaker.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_FEW = 2
"""The most places of a key that has not answered, while only the last quarter of the slow places is free."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of all keys. `rate`: calls a second, None if they are not limited. `remembered`: how many keys are kept.

    `ahead`: how much may be claimed ahead of its place, as a multiple of the places of the key. It needs a key without `rate`.
    """

    total: int
    slow: int
    each: int
    first: int
    fast_seconds: float
    failures: int
    first_pause: timedelta
    longest_pause: timedelta
    rate: float | None = None
    burst: int = 0
    remembered: int = 10_000
    ahead: int = 0


@dataclass(slots=True)
class _Breaker:
    """`in_progress`: the places that are taken for the key, in all Places that share this breaker. `turn`: the number of its last
    call without an answer, counted over all keys. A number, because a clock may go back."""

    pause: timedelta
    in_progress: int = 0
    failures: int = 0
    turn: int = 0
    open_since: datetime | None = None
    trial_time: datetime | None = None


class Breakers(Generic[K]):
    """The breaker of each key. Several Places may share them.

    Kept are those of keys with places in progress, and those of keys whose last call had no answer. Of the latter, those that
    nobody has looked at for longest are forgotten beyond the limit, the open ones too: such a key is tried once more.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: OrderedDict[K, _Breaker] = OrderedDict()
        """In the order in which they were looked at."""
        self._turns = 0

    def look(self, key: K, now: datetime) -> _Breaker | None:
        """The breaker of a key; None if it is closed, and nothing is known of the key.

        Times that cannot be are those of a clock that has gone back since. They would keep the key from being tried for as long as
        the clock was ahead.
        """
        found = self._known.get(key)
        if found is None:
            return None
        self._known.move_to_end(key)
        if found.trial_time is not None:
            found.trial_time = min(found.trial_time, now + self._limits.longest_pause)
        if found.open_since is not None:
            found.open_since = min(found.open_since, now)
        return found

    def get(self, key: K) -> _Breaker:
        """The breaker of a key, closed if it is new."""
        found = self._known.get(key)
        if found is None:
            self._make_room()
            found = self._known[key] = _Breaker(self._limits.first_pause)
        return found

    def take(self, key: K, places: int) -> None:
        """Count places that are reserved, or released if it is negative."""
        breaker = self.get(key)
        breaker.in_progress += places
        self._forget_new(key, breaker)

    def answered(self, key: K) -> bool:
        """Close the breaker. Whether it was open."""
        breaker = self._known.get(key)
        if breaker is None:
            return False
        was_open = breaker.trial_time is not None
        if was_open:
            breaker.pause = self._limits.first_pause
        breaker.failures, breaker.open_since, breaker.trial_time = 0, None, None
        self._forget_new(key, breaker)
        return was_open

    def unanswered(self, key: K, now: datetime, *, trial: bool = True) -> bool:
        """Count a call without an answer. Whether that has opened the breaker.

        `trial`: the call had a place. One that had none never postpones the next trial: there may be such calls all the time.
        """
        breaker = self.get(key)
        if breaker.open_since is not None and not trial:
            return False
        breaker.failures += 1
        self._turns += 1
        breaker.turn = self._turns
        if breaker.failures < self._limits.failures:
            return False
        opened = breaker.open_since is None
        if opened:
            breaker.open_since = now
        elif breaker.trial_time is not None and breaker.trial_time <= now:
            breaker.pause = min(breaker.pause * 2, self._limits.longest_pause)
        breaker.trial_time = now + breaker.pause
        return opened

    def has_failed(self, key: K) -> bool:
        """Whether the last call of a key had no answer."""
        breaker = self._known.get(key)
        return breaker is not None and breaker.failures > 0

    def is_open(self, key: K) -> bool:
        """Whether the breaker of a key is open."""
        return self.open_since(key) is not None

    def open_since(self, key: K) -> datetime | None:
        """When the breaker of a key was opened; None if it is closed."""
        breaker = self._known.get(key)
        return breaker.open_since if breaker is not None else None

    def _forget_new(self, key: K, breaker: _Breaker) -> None:
        """Forget a breaker that is as a new one."""
        if not breaker.in_progress and not breaker.failures:
            del self._known[key]

    def _make_room(self) -> None:
        """Forget the one that nobody has looked at for longest. One in progress is kept, and gets to the end, so that it is not
        passed over each time: there are never more than there are places."""
        for _ in range(len(self._known)):
            if len(self._known) < self._limits.remembered:
                return
            key, oldest = self._known.popitem(last=False)
            if oldest.in_progress:
                self._known[key] = oldest


@dataclass(slots=True)
class _Key:
    """`tokens` is below 0 after calls for which no token was left. `answers`: the last call was answered. `failed`: it was not. A
    new key has neither."""

    places: int
    tokens: float
    filled: datetime
    in_progress: int = 0
    fast: bool = False
    answers: bool = False
    failed: bool = False


class Places(Generic[K]):
    """The places of each key. Places are reserved before a claim, and each is released or given back once."""

    def __init__(self, limits: Limits, breakers: Breakers[K] | None = None) -> None:
        self._limits = limits
        self.breakers = breakers if breakers is not None else Breakers[K](limits)
        self._known: OrderedDict[K, _Key] = OrderedDict()
        """Those that have had a place, in the order in which they were looked at."""
        self._fast = 0
        self._in_progress = 0
        self._slow_in_progress = 0
        self._failed_in_progress = 0

    def reserve(self, wanted: Iterable[K], now: datetime) -> dict[K, int]:
        """Reserve the free places of the wanted keys and return them, without keys that have none. `wanted`: the most urgent first.

        Where places are short each key gets one before any gets more: those with the fewest in progress first, and keys whose last
        call had no answer after all others, the one that was tried longest ago first.
        """
        limits = self._limits
        total, slow = limits.total - self._in_progress, limits.slow - self._slow_in_progress
        failed = limits.slow - limits.slow // 2 - self._failed_in_progress
        keys, free, turns = dict[K, _Key](), dict[K, int](), dict[K, tuple[bool, int]]()
        for key in dict.fromkeys(wanted):
            known = self._look(key, now)
            if slow <= 0 and not known.fast:
                continue
            breaker = self.breakers.look(key, now)
            if (count := self._free(known, breaker, now)) > 0:
                keys[key], free[key] = known, count
                turns[key] = (True, breaker.turn if breaker is not None else 0) if known.failed else (False, known.in_progress)
        order = sorted(keys, key=turns.__getitem__)
        given = dict.fromkeys(order, 0)
        for most in (1, _FEW, limits.each):
            for key in order:
                known = keys[key]
                more = min(free[key], most) - given[key]
                more = min(more, total) if known.fast else min(more, total, slow)
                if known.failed:
                    more = min(more, failed)
                if most > _FEW and not known.answers:
                    more = min(more, slow - limits.slow // 4)
                if more > 0:
                    given[key] += more
                    total -= more
                    slow -= 0 if known.fast else more
                    failed -= more if known.failed else 0
        given = {key: places for key, places in given.items() if places}
        for key, places in given.items():
            self._known[key] = keys[key]
            self._take(key, places)
            keys[key].tokens -= places
        self._make_room()
        return given

    def ahead(self, key: K) -> int:
        """How much may be claimed of a key ahead of its places."""
        known = self._known.get(key)
        return self._limits.ahead * known.places if known is not None and self._may_repeat(known) else 0

    def reserve_again(self, key: K) -> bool:
        """Reserve a place for what was claimed ahead, if nobody else has to wait for it. Otherwise `reserve` decides."""
        known = self._known.get(key)
        if known is None or known.in_progress >= known.places or not self._may_repeat(known):
            return False
        self._take(key, 1)
        return True

    def _may_repeat(self, known: _Key) -> bool:
        # A key whose last call was not answered is not fast.
        return known.fast and 2 * self._in_progress <= self._limits.total

    def is_fast(self, key: K) -> bool:
        """Whether a key has answered within `fast_seconds` lately."""
        known = self._known.get(key)
        return known is not None and known.fast

    def may_get(self, keys: Iterable[K]) -> list[K]:
        """Those of the keys that may get places now: without slow ones while all slow places are in use."""
        return [key for key in keys if self.is_fast(key)] if self._slow_in_progress >= self._limits.slow else list(keys)

    def fast(self, most: int) -> list[K]:
        """The keys that have answered within `fast_seconds` lately, of which so many at most, those looked at last."""
        return list(islice((key for key in reversed(self._known) if self._known[key].fast), most))

    def _free(self, known: _Key, breaker: _Breaker | None, now: datetime) -> int:
        if breaker is not None and breaker.trial_time is not None:
            # Open: one trial at a time.
            return 1 if breaker.trial_time <= now and breaker.in_progress == 0 else 0
        free = known.places - known.in_progress
        return free if self._limits.rate is None else min(free, int(self._fill(known, now)))

    def _look(self, key: K, now: datetime) -> _Key:
        """What is known of a key. A new one is kept when it gets a place: orders may bring any number of URLs."""
        known = self._known.get(key)
        if known is None:
            first = min(self._limits.first, self._limits.each)
            return _Key(first, self._limits.burst, now, failed=self.breakers.has_failed(key))
        self._known.move_to_end(key)
        return known

    def _make_room(self) -> None:
        """Forget keys beyond the limit, those that nobody has looked at for longest first. A key that is forgotten begins anew.

        Those in progress are kept; there are never more than there are places. Those that are fast are kept too, while they are at
        most half: otherwise many keys that hang would make them new ones, which share the slow places. What is kept gets to the
        end, so that it is not passed over each time.
        """
        spare_fast = 2 * self._fast <= self._limits.remembered
        for _ in range(len(self._known)):
            if len(self._known) <= self._limits.remembered:
                return
            key, oldest = self._known.popitem(last=False)
            if oldest.in_progress or (oldest.fast and spare_fast):
                self._known[key] = oldest
            elif oldest.fast:
                self._fast -= 1

    def _fill(self, known: _Key, now: datetime) -> float:
        """Add the tokens of the time that has passed. The tokens that there are."""
        seconds = max((now - known.filled).total_seconds(), 0.0)
        known.tokens = min(known.tokens + seconds * (self._limits.rate or 0.0), self._limits.burst)
        known.filled = now
        return known.tokens

    def spend(self, key: K, now: datetime) -> None:
        """Take the token of a further call for a place that is in use. It is made in any case; later ones wait for it."""
        self._look(key, now).tokens -= 1

    def seconds_to_token(self, keys: Iterable[K], now: datetime) -> float | None:
        """The time until one of the keys that have no token gets one; None if each has one, or if calls are not limited."""
        if self._limits.rate is None:
            return None
        short = [tokens for key in keys if (tokens := self._fill(self._look(key, now), now)) < 1]
        return (1 - max(short)) / self._limits.rate if short else None

    def release(self, key: K, places: int = 1) -> None:
        """Release places that were used. A key that is not known has none."""
        if key in self._known:
            self._take(key, -places)

    def give_back(self, key: K, places: int = 1) -> None:
        """Release places for which nothing was claimed or no call was made, with their tokens."""
        known = self._known.get(key)
        if known is not None:
            self._take(key, -places)
            known.tokens = min(known.tokens + places, self._limits.burst)

    def answered(self, key: K, seconds: float, *, was_open: bool) -> None:
        """Add a place, because a call was answered after `seconds`. `was_open`: it has closed the breaker."""
        known = self._known.get(key)
        if known is None:
            return
        if was_open:
            known.places = min(self._limits.first, self._limits.each)
        known.places = min(known.places + 1, self._limits.each)
        self._set(known, fast=seconds < self._limits.fast_seconds, failed=False)

    def unanswered(self, key: K) -> None:
        """Halve the places, because a call was not answered."""
        known = self._known.get(key)
        if known is not None:
            self._set(known, fast=False, failed=True)
            known.places = max(known.places // 2, 1)

    def mostly_free(self, keys: Iterable[K]) -> bool:
        """Whether at least half of the places of one of these keys are free."""
        return any(2 * self._known[key].in_progress <= self._known[key].places for key in keys if key in self._known)

    def _take(self, key: K, places: int) -> None:
        known = self._known[key]
        known.in_progress += places
        self.breakers.take(key, places)
        self._in_progress += places
        if not known.fast:
            self._slow_in_progress += places
        if known.failed:
            self._failed_in_progress += places

    def _set(self, known: _Key, *, fast: bool, failed: bool) -> None:
        if known.fast != fast:
            self._slow_in_progress += -known.in_progress if fast else known.in_progress
            self._fast += 1 if fast else -1
        if known.failed != failed:
            self._failed_in_progress += known.in_progress if failed else -known.in_progress
        known.fast, known.failed, known.answers = fast, failed, not failed
