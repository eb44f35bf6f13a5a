"""The limits of each key by themselves: what keeps a key from being claimed, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from paycenter_server.services.accounts_places import LONGEST_PAUSE, AccountPlaces
from paycenter_server.services.claims import Claims
from paycenter_server.services.places import Limits, Places
from support.system import FakeClock, PayCenterSystem
from support.waiting import pause


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


async def test_places_that_a_pass_has_reserved_do_not_stop_the_loop() -> None:
    """The work on a key with a backlog ends while the statement of the next pass is in progress, which has reserved them."""
    limits = Limits(
        total=10, slow=4, each=8, first=4, fast_seconds=1.0, failures=3, first_pause=timedelta(seconds=1),
        longest_pause=timedelta(seconds=1),
    )  # fmt: skip
    places, work_ends, answered = Places[str](limits), asyncio.Event(), asyncio.Event()
    passes, taken = [["a"], ["a", "b", "c", "d"]], list[Mapping[str, int]]()

    class Clock:
        looks = 0

        def now(self) -> datetime:
            self.looks += 1
            if self.looks > 1000:
                raise RuntimeError("the claimer claims again and again without an await")
            return datetime(2026, 11, 29, tzinfo=UTC)

    async def due() -> list[str]:
        return passes.pop(0)

    async def take(wanted: Mapping[str, int]) -> list[str]:
        taken.append(wanted)
        if len(taken) == 1:
            return ["a"] * wanted["a"]
        await answered.wait()
        return []

    async def work(key: str) -> None:
        await work_ends.wait()
        places.release(key)

    clock = Clock()
    claims = Claims("test", clock, places, due=due, take=take, key=str, work=work)
    assert await claims.start_due() == 4
    work_ends.set()
    second = asyncio.ensure_future(claims.start_due())
    await pause(0.05)
    assert not second.done()
    assert clock.looks < 100
    answered.set()
    assert await second == 0
    await claims.settle()
    assert taken[1] == {"a": 1, "b": 1, "c": 1, "d": 1}
