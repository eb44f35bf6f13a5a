"""How many deliveries may be in progress to each endpoint of notifications. In memory: each process has its own view.

An endpoint is `scheme://host:port`. A new one gets FIRST_PLACES; each answer adds one, up to ENDPOINT_PLACES, and each delivery
without an answer halves them. Endpoints that have not answered within FAST_SECONDS lately share SLOW_PLACES of all TOTAL_PLACES, so
that endpoints that hang cannot take the places of those that answer.

Breaker: after BREAKER_FAILURES deliveries in a row without an answer an endpoint is open. Then one trial at a time is sent, at the
ends of pauses that grow from FIRST_PAUSE to LONGEST_PAUSE; its first answer closes the breaker.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

TOTAL_PLACES = 512
SLOW_PLACES = 256
ENDPOINT_PLACES = 64
FIRST_PLACES = 8
FAST_SECONDS = 1.0
BREAKER_FAILURES = 5
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(seconds=60)
_REMEMBERED = 10_000


@dataclass(slots=True)
class _Endpoint:
    in_progress: int = 0
    places: int = FIRST_PLACES
    fast: bool = False
    failures: int = 0
    open_since: datetime | None = None
    trial_time: datetime | None = None
    pause: timedelta = FIRST_PAUSE


class Endpoints:
    """The places of each endpoint. Places are reserved before a claim, and each is released once."""

    def __init__(self) -> None:
        self._known: dict[str, _Endpoint] = {}
        self._in_progress = 0
        self._slow_in_progress = 0

    def reserve(self, wanted: Iterable[str], now: datetime) -> dict[str, int]:
        """Reserve the free places of the wanted endpoints and return them, without endpoints that have none.

        Where places are short each endpoint gets one before any gets more, those with the fewest in progress first.
        """
        total, slow = TOTAL_PLACES - self._in_progress, SLOW_PLACES - self._slow_in_progress
        free = {name: self._free(name, now) for name in wanted}
        order = sorted((name for name in free if free[name] > 0), key=lambda name: self._known[name].in_progress)
        given = dict.fromkeys(order, 0)
        for most in (1, ENDPOINT_PLACES):
            for name in order:
                is_slow = not self._known[name].fast
                more = min(free[name], most) - given[name]
                more = min(more, total, slow) if is_slow else min(more, total)
                if more > 0:
                    given[name] += more
                    total -= more
                    slow -= more if is_slow else 0
        given = {name: places for name, places in given.items() if places}
        for name, places in given.items():
            self._take(self._known[name], places)
        return given

    def _free(self, name: str, now: datetime) -> int:
        endpoint = self._known.get(name)
        if endpoint is None:
            self._forget_idle()
            endpoint = self._known[name] = _Endpoint()
        if endpoint.trial_time is not None:
            # Open: one trial at a time.
            return 1 if endpoint.trial_time <= now and endpoint.in_progress == 0 else 0
        return endpoint.places - endpoint.in_progress

    def release(self, name: str, places: int = 1) -> None:
        """Release places without a result: nothing was claimed for them, or nothing was sent."""
        self._take(self._known[name], -places)

    def answered(self, name: str, seconds: float) -> None:
        """Release a place whose delivery was answered, after `seconds`. Closes the breaker."""
        endpoint = self._known[name]
        self._take(endpoint, -1)
        if endpoint.trial_time is not None:
            endpoint.places, endpoint.pause = FIRST_PLACES, FIRST_PAUSE
        endpoint.places = min(endpoint.places + 1, ENDPOINT_PLACES)
        endpoint.failures, endpoint.open_since, endpoint.trial_time = 0, None, None
        self._set_fast(endpoint, seconds < FAST_SECONDS)

    def unanswered(self, name: str, now: datetime) -> bool:
        """Release a place whose delivery was not answered. Whether that has opened the breaker."""
        endpoint = self._known[name]
        self._take(endpoint, -1)
        self._set_fast(endpoint, False)
        endpoint.failures += 1
        endpoint.places = max(endpoint.places // 2, 1)
        if endpoint.failures < BREAKER_FAILURES:
            return False
        opened = endpoint.open_since is None
        if opened:
            endpoint.open_since = now
        elif endpoint.trial_time is not None and endpoint.trial_time <= now:
            endpoint.pause = min(endpoint.pause * 2, LONGEST_PAUSE)
        endpoint.trial_time = now + endpoint.pause
        return opened

    def is_open(self, name: str) -> bool:
        """Whether the breaker of an endpoint is open."""
        endpoint = self._known.get(name)
        return endpoint is not None and endpoint.open_since is not None

    def open_since(self, name: str) -> datetime | None:
        """When the breaker of an endpoint was opened; None if it is closed."""
        endpoint = self._known.get(name)
        return endpoint.open_since if endpoint is not None else None

    def mostly_free(self, names: Iterable[str]) -> bool:
        """Whether at least half of the places of one of these endpoints are free."""
        return any(2 * self._known[name].in_progress <= self._known[name].places for name in names if name in self._known)

    def _take(self, endpoint: _Endpoint, places: int) -> None:
        endpoint.in_progress += places
        self._in_progress += places
        if not endpoint.fast:
            self._slow_in_progress += places

    def _set_fast(self, endpoint: _Endpoint, fast: bool) -> None:
        if endpoint.fast != fast:
            self._slow_in_progress += -endpoint.in_progress if fast else endpoint.in_progress
            endpoint.fast = fast

    def _forget_idle(self) -> None:
        """An endpoint that is forgotten begins anew. Orders may bring any number of URLs of their own."""
        if len(self._known) >= _REMEMBERED:
            self._known = {name: known for name, known in self._known.items() if known.in_progress or known.open_since}
