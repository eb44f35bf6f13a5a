"""The limits of each key by themselves: what keeps a key from being claimed, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from paycenter_server.services.accounts_places import LONGEST_PAUSE, AccountPlaces
from paycenter_server.services.claims import Claims
from paycenter_server.services.places import Limits, Places
from support.system import FakeClock, PayCenterSystem
from support.waiting import pause

NOW = datetime(2026, 11, 29, tzinfo=UTC)


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
    places, now = Places[str](limits), NOW
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
    places, now = Places[str](limits), NOW
    assert places.reserve(["fast"], now) == {"fast": 3}
    for _ in range(3):
        places.answered("fast", 0.1, was_open=False)
    assert sum(places.reserve(["slow", "hangs", "hangs too"], now).values()) == 4
    assert places.reserve(["slow", "hangs", "fast"], now) == {"fast": 2}


async def test_places_that_a_pass_has_reserved_do_not_stop_the_loop() -> None:
    """The work on a key with a backlog ends while the statement of the next pass is in progress, which has reserved them."""
    limits = Limits(
        total=4, slow=8, each=8, first=4, fast_seconds=1.0, failures=3, first_pause=timedelta(seconds=1),
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
            return NOW

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


def remembering(count: int, **more: Any) -> Limits:
    """Limits of keys that open at the first call without an answer, of which so many are remembered."""
    values: dict[str, Any] = {
        "total": 1000, "slow": 1000, "each": 2, "first": 1, "fast_seconds": 1.0, "failures": 1,
        "first_pause": timedelta(seconds=5), "longest_pause": timedelta(seconds=60), "remembered": count,
    }  # fmt: skip
    return Limits(**{**values, **more})


def fail(places: Places[str], key: str, now: datetime = NOW) -> None:
    """One call of a key has a place and no answer."""
    places.give_back(key, places.reserve([key], now)[key] - 1)
    places.release(key)
    places.unanswered(key)
    places.breakers.unanswered(key, now)


def test_open_breakers_are_forgotten_beyond_a_limit() -> None:
    """Those that nobody has asked for longest. Otherwise URLs of orders would fill the memory."""
    places = Places[str](remembering(10))
    for number in range(100):
        fail(places, f"k{number}")
        if number >= 5:
            assert places.reserve(["k5"], NOW) == {}
    assert len(places.breakers._known) == len(places._known) == 10
    assert [key for key in ("k0", "k5", "k89", "k99") if places.breakers.is_open(key)] == ["k5", "k99"]


def test_breakers_that_are_as_new_ones_are_not_kept() -> None:
    places = Places[str](remembering(10))
    assert places.reserve(["asked", "waits"], NOW) == {"asked": 1, "waits": 1}
    places.release("asked")
    assert places.breakers.answered("asked") is False
    fail(places, "recovers")
    assert places.breakers.answered("recovers") is True
    assert list(places.breakers._known) == ["waits"]


def test_keys_in_progress_are_never_forgotten() -> None:
    """Their places would be lost."""
    places = Places[str](remembering(2, total=8))
    used = [f"u{number}" for number in range(5)]
    assert places.reserve(used, NOW) == dict.fromkeys(used, 1)
    for number in range(20):
        fail(places, f"k{number}")
    for key in used:
        places.release(key)
    assert len(places.reserve([f"n{number}" for number in range(20)], NOW)) == 8


def test_many_keys_that_hang_do_not_make_those_forgotten_that_are_fast() -> None:
    places = Places[str](remembering(10))
    for key in ("a", "b"):
        places.release(key, places.reserve([key], NOW)[key])
        places.answered(key, 0.1, was_open=False)
    for number in range(100):
        fail(places, f"k{number}")
    assert places.reserve(["a", "b", "new"], NOW) == {"a": 2, "b": 2, "new": 1}


def test_all_that_is_remembered_may_be_fast() -> None:
    places = Places[str](remembering(10))
    for number in range(100):
        places.release(f"k{number}", places.reserve([f"k{number}"], NOW)[f"k{number}"])
        places.answered(f"k{number}", 0.1, was_open=False)
    assert list(places._known) == [f"k{number}" for number in range(90, 100)]
    assert places._fast == 10


def test_only_what_gets_a_place_is_remembered() -> None:
    places = Places[str](remembering(10, total=3))
    assert len(places.reserve([f"k{number}" for number in range(1000)], NOW)) == 3
    assert len(places._known) == len(places.breakers._known) == 3


def test_a_clock_that_was_ahead_keeps_no_breaker_shut() -> None:
    """The database's clock was an hour ahead when the breaker opened, and is corrected. It has opened just now then."""
    places = Places[str](remembering(10))
    fail(places, "a", NOW + timedelta(hours=1))
    assert places.reserve(["a"], NOW) == {}
    assert places.breakers.open_since("a") == NOW
    assert places.reserve(["a"], NOW + timedelta(seconds=59)) == {}
    assert places.reserve(["a"], NOW + timedelta(seconds=60)) == {"a": 1}
    assert places.breakers.open_since("a") == NOW


def test_keys_that_have_failed_leave_half_of_the_slow_places_to_others() -> None:
    """Those that are in progress when the first of them fails, too."""
    places = Places[str](remembering(1000, total=20, slow=8, failures=5))
    known = [f"k{number}" for number in range(20)]
    for key in known:
        fail(places, key)
    assert sum(places.reserve(known, NOW).values()) == 4
    assert places.reserve([*known, "a", "b"], NOW) == {"a": 1, "b": 1}
    places.unanswered("a")
    places.release("k0")
    assert places.reserve(known, NOW) == {}
    places.answered("a", 5.0, was_open=False)
    assert len(places.reserve(known, NOW)) == 1


def test_a_key_that_was_forgotten_has_failed_all_the_same() -> None:
    places = Places[str](remembering(1000, slow=2, failures=5))
    fail(places, "a")
    del places._known["a"]
    assert list(places.reserve(["a", "b"], NOW)) == ["b", "a"]


def test_new_keys_come_before_those_that_have_failed() -> None:
    """However much more urgent these are, and each failed one gets its turn."""
    places = Places[str](remembering(1000, slow=4, failures=1))
    known = [f"k{number}" for number in range(5)]
    for key in known:
        fail(places, key)
    later, tried = NOW, list[str]()
    for _ in range(5):
        later += timedelta(minutes=1)
        given = places.reserve([*known, "new1", "new2", "new3"], later)
        assert list(given)[:3] == ["new1", "new2", "new3"]
        for key in given:
            places.release(key)
            if key in known:
                tried.append(key)
                places.unanswered(key)
                places.breakers.unanswered(key, later)
    assert tried == known


def test_among_equals_the_most_urgent_is_the_first() -> None:
    places = Places[str](remembering(1000, slow=2))
    assert list(places.reserve(["c", "b", "a"], NOW)) == ["c", "b"]


def test_new_keys_get_few_places_while_slow_ones_are_scarce() -> None:
    """The first ones, if they hang, do not take what is needed to try others. A key that answers slowly may have more."""
    places = Places[str](remembering(1000, slow=40, first=8, each=10, failures=5))
    assert places.reserve(["answers"], NOW) == {"answers": 8}
    for _ in range(8):
        places.release("answers")
        places.answered("answers", 5.0, was_open=False)
    assert places.reserve(["a", "b"], NOW) == {"a": 8, "b": 8}
    assert places.reserve(["c", "d", "e"], NOW) == {"c": 8, "d": 4, "e": 2}
    assert places.reserve(["f", "answers"], NOW) == {"f": 2, "answers": 8}
