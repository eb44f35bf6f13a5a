"""The limits of deliveries to each endpoint of notifications (`scheme://host:port`); `services/places.py` says how they work."""

from __future__ import annotations

from datetime import datetime, timedelta

from paycenter_server.services.places import Limits, Places

TOTAL_PLACES = 512
SLOW_PLACES = 256
ENDPOINT_PLACES = 64
FIRST_PLACES = 8
AHEAD = 4
"""How many deliveries may be claimed ahead, as a multiple of the places of their endpoint."""
FAST_SECONDS = 1.0
BREAKER_FAILURES = 5
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(seconds=60)
_REMEMBERED = 10_000


class Endpoints:
    """The places and the breaker of each endpoint. Every delivery is one call."""

    def __init__(self) -> None:
        limits = Limits(
            total=TOTAL_PLACES, slow=SLOW_PLACES, each=ENDPOINT_PLACES, first=FIRST_PLACES, fast_seconds=FAST_SECONDS,
            failures=BREAKER_FAILURES, first_pause=FIRST_PAUSE, longest_pause=LONGEST_PAUSE, remembered=_REMEMBERED,
            ahead=AHEAD,
        )  # fmt: skip
        self.places = Places[str](limits)

    def answered(self, name: str, seconds: float) -> None:
        """Release a place whose delivery was answered, after `seconds`. Closes the breaker."""
        self.places.release(name)
        self.places.answered(name, seconds, was_open=self.places.breakers.answered(name))

    def unanswered(self, name: str, now: datetime) -> bool:
        """Release a place whose delivery was not answered. Whether that has opened the breaker."""
        self.places.release(name)
        self.places.unanswered(name)
        return self.places.breakers.unanswered(name, now)

    def open_since(self, name: str) -> datetime | None:
        """When the breaker of an endpoint was opened; None if it is closed."""
        return self.places.breakers.open_since(name)
