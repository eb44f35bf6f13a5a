"""The limits of each key by themselves: what keeps a key from being claimed, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from paycenter_server.services.accounts_places import LONGEST_PAUSE, AccountPlaces
from paycenter_server.services.places import Limits, Places
from support.system import FakeClock, PayCenterSystem


async def test_failing_calls_of_callers_do_not_postpone_the_trial(system: PayCenterSystem) -> None:
    """One API of an account fails for callers all the time. The jobs, which use others, try the account once in each pause."""
    clock, account = FakeClock(), uuid4()
    places = AccountPlaces(system.services.context.options, clock)
    for _ in range(system.services.context.options.account_breaker_failures):
        places.unanswered(account)
    assert places.is_open(account)
    trials = 0
    for _ in range(2 * int(LONGEST_PAUSE.total_seconds())):
        clock.advance(1)
        places.unanswered(account)
        if places.attempts.reserve([account], clock.now()):
            trials += 1
            places.attempts.release(account)
    assert trials, "no attempt of the account would ever be queried again"


def test_more_keys_may_be_wanted_than_are_remembered() -> None:
    """Orders may bring URLs of their own, so that many endpoints are due at once. Each is served, and no key is lost meanwhile."""
    limits = Limits(
        total=10, slow=10, each=2, first=1, fast_seconds=1.0, failures=3, first_pause=timedelta(seconds=1),
        longest_pause=timedelta(seconds=1), remembered=2,
    )  # fmt: skip
    places, now = Places[str](limits), datetime(2026, 11, 29, tzinfo=UTC)
    for of_a in (1, 2, 2):
        given = places.reserve(["a", "b", "c"], now)
        assert given == {"a": of_a, "b": 1, "c": 1}
        for key, count in given.items():
            places.give_back(key, count)
        places.answered("a", 0.1, was_open=False)


def test_keys_that_are_slow_share_their_part_of_the_places() -> None:
    """Those that have answered in time get the rest."""
    limits = Limits(
        total=10, slow=4, each=5, first=5, fast_seconds=1.0, failures=3, first_pause=timedelta(seconds=1),
        longest_pause=timedelta(seconds=1),
    )  # fmt: skip
    places, now = Places[str](limits), datetime(2026, 11, 29, tzinfo=UTC)
    assert places.reserve(["fast"], now) == {"fast": 4}
    for _ in range(4):
        places.answered("fast", 0.1, was_open=False)
    assert sum(places.reserve(["slow", "hangs"], now).values()) == 4
    assert places.reserve(["slow", "hangs", "fast"], now) == {"fast": 1}
