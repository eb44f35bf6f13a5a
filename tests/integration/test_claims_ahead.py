"""What is claimed ahead of its place: when it is sent, when it waits, and when it is left to its lease."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from paycenter_server.services.claims import (
    AHEAD_AFTER_STOP,
    AHEAD_ROWS,
    AHEAD_TIME,
    BACKLOG_KEYS,
    SHARE_FORGOTTEN,
    SHARE_LONGEST,
    Claims,
)
from paycenter_server.services.places import Limits, Places
from support.waiting import eventually

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def limits(**given: Any) -> Limits:
    values: dict[str, Any] = {
        "total": 100, "slow": 50, "each": 4, "first": 4, "fast_seconds": 1.0, "failures": 3,
        "first_pause": timedelta(seconds=5), "longest_pause": timedelta(seconds=5), "ahead": 2,
    }  # fmt: skip
    return Limits(**{**values, **given})


@dataclass
class Clock:
    time: datetime = NOW

    def now(self) -> datetime:
        return self.time


@dataclass
class Job:
    """A job whose rows are texts, `key number`. Each is in progress until it is let go."""

    limits: Limits = field(default_factory=limits)
    left: Counter[str] = field(default_factory=Counter)
    """How many rows of each key are due."""
    asked: list[dict[str, int]] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    waiting: dict[str, asyncio.Event] = field(default_factory=dict)
    most: int = 0
    shared: int = 0
    """How often other processes were to take part."""
    seconds: float = 0.01
    """How long a call has taken, as its key is told."""

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.places = Places[str](self.limits)
        self.claims = Claims[str, str](
            "test", self.clock, self.places, due=self.due, take=self.take, key=lambda row: row.split()[0], work=self.work,
            share=self.share,
        )  # fmt: skip
        self._taken: Counter[str] = Counter()
        self.answered = asyncio.Event()
        """Statements are answered."""
        self.answered.set()
        self._answers = True

    def share(self) -> None:
        self.shared += 1

    async def due(self) -> list[str]:
        return [key for key, count in self.left.items() if count]

    async def take(self, places: Mapping[str, int]) -> list[str]:
        self.asked.append(dict(places))
        await self.answered.wait()
        rows = []
        for key, count in places.items():
            for _ in range(min(count, self.left[key])):
                self.left[key] -= 1
                self._taken[key] += 1
                rows.append(f"{key} {self._taken[key]}")
        return rows

    async def work(self, row: str) -> None:
        key = row.split()[0]
        self.begun.append(row)
        event = self.waiting[row] = asyncio.Event()
        self.most = max(self.most, len(self.waiting))
        await event.wait()
        del self.waiting[row]
        self.done.append(row)
        self.places.release(key)
        if self._answers:
            self.places.answered(key, self.seconds, was_open=self.places.breakers.answered(key))
        else:
            self.places.unanswered(key)
            self.places.breakers.unanswered(key, self.clock.now())

    def end(self, *rows: str, answers: bool = True) -> None:
        """Let these rows go, or all that are in progress."""
        self._answers = answers
        for row in rows or list(self.waiting):
            self.waiting[row].set()

    def has_done(self, row: str) -> bool:
        """Whether a row is done, and all places of its key are in use again."""
        return row in self.done and len(self.waiting) == 4

    async def ended(self) -> None:
        """Everything that was claimed has ended."""
        settling = asyncio.ensure_future(self.claims.settle())

        async def settled() -> bool:
            self.end()
            return settling.done()

        await eventually(settled)

    async def full(self, key: str = "a") -> None:
        """All places of a key that has answered are in use, and as much as possible is claimed ahead."""
        await self.claims.start_due()
        await eventually(lambda: len(self.waiting) == 4)
        self.end()
        await eventually(lambda: len(self.done) == 4 and len(self.waiting) == 4 and self.claims._ahead.of(key) == 8)


async def test_a_place_that_becomes_free_is_taken_without_a_claim() -> None:
    """And never are more in progress than there are places. Claims are made while at most half of what waits is left."""
    job = Job(left=Counter(a=100))
    await job.full()
    asked = len(job.asked)
    for number in range(3):
        row = next(iter(job.waiting))
        job.end(row)
        await eventually(partial(job.has_done, row))
        assert job.claims._ahead.of("a") == 7 - number
    assert len(job.asked) == asked

    async def all_done() -> bool:
        job.end()
        return len(job.done) == 100

    await eventually(all_done)
    await job.claims.settle()
    assert job.most == 4
    assert sorted(job.begun, key=lambda row: int(row.split()[1])) == [f"a {number}" for number in range(1, 101)]
    assert max(sum(places.values()) for places in job.asked) <= 4 + 8
    assert len(job.asked) < 100 / 4


async def test_two_claims_at_the_same_time_claim_ahead_once() -> None:
    """The pass of a wake-up claims while the claimer waits for its statement."""
    job = Job(left=Counter(a=100))
    await job.claims.start_due()
    await eventually(lambda: len(job.waiting) == 4)
    job.answered.clear()
    asked = len(job.asked)
    job.end()
    await eventually(lambda: len(job.asked) == asked + 1)
    assert job.asked[-1] == {"a": 12}
    second = asyncio.ensure_future(job.claims.start_due())
    await eventually(second.done)
    assert len(job.asked) == asked + 1
    job.answered.set()
    await eventually(lambda: len(job.waiting) == 4)
    assert job.claims._ahead.count == 8
    assert not job.claims._ahead.coming
    job.claims.stop()
    await job.ended()


async def test_a_new_key_and_one_that_is_slow_claim_nothing_ahead() -> None:
    job = Job(left=Counter(a=100))
    await job.claims.start_due()
    await eventually(lambda: len(job.waiting) == 4)
    assert job.asked == [{"a": 4}]
    job.places.answered("a", 5.0, was_open=False)
    job.end(answers=False)
    await eventually(lambda: len(job.done) == 4)
    assert job.claims._ahead.count == 0
    job.claims.stop()
    job.end()
    await job.claims.settle()


async def test_what_has_waited_too_long_is_left_to_its_lease() -> None:
    """An endpoint that was quick begins to hang. What waits for it then is too old, and others are claimed instead."""
    job = Job(left=Counter(a=50))
    await job.full()
    job.clock.time += AHEAD_TIME + timedelta(seconds=1)
    old = {f"a {number}" for number in range(1, 1 + job._taken["a"])} - set(job.begun)
    assert len(old) == 8
    job.end()
    await eventually(lambda: len(job.done) == 8 and len(job.waiting) == 4)
    assert not old & set(job.begun)
    job.claims.stop()
    await job.ended()
    assert not old & set(job.begun)


async def test_what_waits_for_a_key_whose_breaker_opens_is_left_to_its_lease() -> None:
    job = Job(left=Counter(a=50))
    await job.full()
    begun = len(job.begun)
    job.end(answers=False)
    await eventually(lambda: not job.waiting)
    assert job.places.breakers.is_open("a")
    await eventually(lambda: not job.claims._ahead.count)
    await job.claims.settle()
    assert len(job.begun) == begun


async def test_what_was_claimed_ahead_is_worked_on_after_a_stop() -> None:
    """As it would have been if it had had a place: its lease would delay it for nothing."""
    job = Job(left=Counter(a=50))
    await job.full()
    job.claims.stop()
    taken = job._taken["a"]

    async def ended() -> bool:
        job.end()
        return len(job.done) == taken

    await eventually(ended)
    await job.claims.settle()
    assert job._taken["a"] == taken
    assert not job.claims._ahead.count


async def test_a_while_after_a_stop_nothing_is_begun_any_more() -> None:
    """Otherwise the last delivery would not have ended when the worker ends."""
    job = Job(left=Counter(a=50))
    await job.full()
    assert job.claims._ahead.count
    job.claims.stop()
    job.clock.time += AHEAD_AFTER_STOP + timedelta(seconds=1)
    begun = len(job.begun)
    job.end()
    await eventually(lambda: not job.claims._working)
    assert len(job.begun) == begun
    assert not job.claims._ahead.count


async def test_what_waits_for_a_key_that_is_slow_now_gets_its_places_first() -> None:
    """From the claimer, in turn with other keys, and before anything else of the key is claimed."""
    job = Job(left=Counter(a=50))
    await job.full()
    job.seconds = 5.0
    asked, waiting = len(job.asked), {f"a {number}" for number in range(1, 1 + job._taken["a"])} - set(job.begun)
    for _ in range(2):
        last = list(job.waiting)[-1]
        job.end()
        await eventually(partial(job.has_done, last))
    assert waiting <= set(job.begun)
    assert len(job.asked) == asked
    job.end()
    await eventually(lambda: len(job.asked) == asked + 1)
    assert job.asked[-1] == {"a": 4}
    job.claims.stop()
    await job.ended()


async def test_while_places_are_short_nobody_takes_his_own_again() -> None:
    """Two keys use more than half of all places. The next one that becomes free is for a key that has none."""
    job = Job(limits=limits(total=14, each=4, slow=14), left=Counter(a=40, b=40))
    await job.claims.start_due()
    await eventually(lambda: len(job.waiting) == 8)
    job.end()
    await eventually(lambda: len(job.done) == 8 and len(job.waiting) == 8)
    assert job.claims._ahead.count == 0
    job.claims.stop()
    await job.ended()


async def test_so_many_rows_wait_in_memory_at_most() -> None:
    keys = [f"k{number}" for number in range(100)]
    job = Job(limits=limits(total=1000, slow=1000), left=Counter(dict.fromkeys(keys, 50)))
    await job.claims.start_due()
    await eventually(lambda: len(job.waiting) == 400)
    job.end()
    await eventually(lambda: len(job.done) == 400 and len(job.waiting) == 400)
    assert 0 < job.claims._ahead.count <= AHEAD_ROWS
    job.claims.stop()
    await job.ended()


def test_a_place_is_reserved_again_only_within_the_places_of_a_key() -> None:
    places = Places[str](limits())
    assert not places.reserve_again("a")
    assert places.reserve(["a"], NOW) == {"a": 4}
    assert places.ahead("a") == 0
    places.answered("a", 0.1, was_open=False)
    assert places.ahead("a") == 8
    assert not places.reserve_again("a")
    places.release("a")
    assert places.reserve_again("a")
    assert not places.reserve_again("a")
    places.release("a")
    places.unanswered("a")
    assert not places.reserve_again("a")
    assert places.ahead("a") == 0


async def test_others_take_part_in_what_is_left() -> None:
    """They are told when a claim got all that it asked for."""
    job = Job(left=Counter(a=3))
    await job.claims.start_due()
    assert job.shared == 0, "nothing is left"
    job.left["b"] = 9
    await job.claims.start_due()
    assert job.shared == 1
    await job.ended()


def test_others_are_told_less_and_less_often() -> None:
    job = Job()

    def pause(key: str = "a") -> float:
        before, since = job.shared, job.clock.time
        while job.shared == before:
            job.clock.time += timedelta(milliseconds=10)
            job.claims._share_rest([key], job.clock.now())
        return (job.clock.time - since).total_seconds()

    assert pause() == 0.01, "the first time at once"
    assert [pause() for _ in range(9)] == [0.03, 0.06, 0.12, 0.24, 0.48, 0.96, 1.92, 2.0, 2.0]
    assert [pause("b") for _ in range(2)] == [0.01, 0.03], "each key has its own pauses"
    job.clock.time += SHARE_FORGOTTEN + SHARE_LONGEST
    assert [pause() for _ in range(3)] == [0.01, 0.03, 0.06]
    job.clock.time -= timedelta(hours=1)
    assert pause() == 0.01, "a clock that goes back keeps nobody from being told"


async def test_others_are_not_told_while_a_key_has_no_place() -> None:
    """They could do no more about a key that does not answer."""
    job = Job(left=Counter(a=100))
    await job.claims.start_due()
    assert job.shared == 1
    for _ in range(5):
        job.clock.time += timedelta(seconds=1)
        await job.claims.start_due()
    assert job.shared == 1
    job.left.clear()
    await job.ended()


async def test_others_are_not_told_of_a_trial() -> None:
    job = Job(left=Counter(a=100))
    await job.claims.start_due()
    await eventually(lambda: len(job.waiting) == 4)
    job.end(answers=False)
    await eventually(lambda: job.places.breakers.is_open("a") and not job.waiting)
    job.clock.time += timedelta(seconds=6)
    await job.claims.start_due()
    await eventually(lambda: len(job.begun) == 5)
    assert job.shared == 1
    job.left.clear()
    await job.ended()


def test_the_pauses_of_keys_without_more_are_forgotten() -> None:
    job = Job()
    job.claims._share_rest([f"k{number}" for number in range(1000)], job.clock.now())
    job.clock.time += SHARE_FORGOTTEN + SHARE_LONGEST
    job.claims._share_rest(["a"], job.clock.now())
    assert list(job.claims._shares) == ["a"]


async def test_all_places_that_were_not_used_are_given_back() -> None:
    """What was claimed ahead took all places of its key and has ended during the statement of the claim, and many other keys got
    places meanwhile: the key is not known any more."""
    job = Job(limits=limits(total=20, slow=20, each=1, first=1, remembered=3), left=Counter(b=1))
    job.answered.clear()
    job.claims._ahead.add("a", NOW, "a 1")
    claim = asyncio.ensure_future(job.claims._claim(["a", "b", "c"]))
    await eventually(lambda: bool(job.asked) and bool(job.waiting))
    job.end(answers=False)
    await eventually(lambda: job.done == ["a 1"])
    others = [f"o{number}" for number in range(10)]
    for key in job.places.reserve(others, NOW):
        job.places.give_back(key)
    assert "a" not in job.places._known
    job.answered.set()
    await eventually(claim.done)
    assert claim.result() == 1
    await job.ended()
    assert job.places._in_progress == 0


def test_a_key_that_is_not_known_has_nothing_to_give_back() -> None:
    """Otherwise the keys after it would keep their places for good."""
    places = Places[str](limits())
    places.give_back("a")
    places.release("a")
    assert places._in_progress == 0
    assert places.reserve(["a"], NOW) == {"a": 4}


async def test_the_backlog_has_a_limit_and_nothing_is_left_behind_it() -> None:
    """Each claim for it looks at all of its keys. When half of them are done, the claimer looks for more."""
    keys = [f"k{number}" for number in range(3 * BACKLOG_KEYS)]
    job = Job(left=Counter(dict.fromkeys(keys, 1)))
    await job.claims.start_due()
    assert len(job.waiting) <= 50
    most = 0

    async def all_done() -> bool:
        nonlocal most
        most = max(most, len(job.claims._backlog))
        job.end()
        return len(job.done) == len(keys)

    await eventually(all_done)
    await job.claims.settle()
    assert BACKLOG_KEYS // 2 < most <= BACKLOG_KEYS


async def test_a_key_that_is_fast_has_room_in_the_backlog() -> None:
    """However many others wait."""
    job = Job(left=Counter(a=100))
    await job.full()
    job.claims._backlog.update(dict.fromkeys((f"k{number}" for number in range(BACKLOG_KEYS)), None))
    job.claims._backlog.pop("a")
    await job.claims.start_due()
    assert "a" in job.claims._backlog
    job.claims._backlog.clear()
    job.claims.stop()
    await job.ended()


async def test_while_all_slow_places_are_in_use_only_fast_keys_are_looked_at() -> None:
    """A claim for the backlog is made whenever a place becomes free."""
    places = Places[str](limits(slow=2, each=2, first=2))
    places.release("fast", places.reserve(["fast"], NOW)["fast"])
    places.answered("fast", 0.1, was_open=False)
    assert places.may_get(["a", "fast"]) == ["a", "fast"]
    assert places.reserve(["a"], NOW) == {"a": 2}
    assert places.may_get(["a", "b", "fast"]) == ["fast"]
