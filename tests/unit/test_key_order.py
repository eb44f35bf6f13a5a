"""Keys ascend within a process. Keyset paging and the order "oldest first" depend on it."""

from __future__ import annotations

import itertools
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paycenter_server.domain.ids import RANDOM_BITS, uuid7
from paycenter_server.services.context import KeyGenerator

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MOST = (1 << RANDOM_BITS) - 1
RANDOM = st.integers(0, MOST)


def is_version_7(key: UUID) -> bool:
    return key.version == 7 and key.variant == "specified in RFC 4122"


def milliseconds(key: UUID) -> int:
    return key.int >> 80


@given(first=RANDOM, second=RANDOM, step=st.integers(-86_400_000, 86_400_000))
def test_the_next_key_is_larger_also_if_the_clock_goes_back(first: int, second: int, step: int) -> None:
    one = uuid7(NOON, first)
    other = uuid7(NOON + timedelta(milliseconds=step), second, one)
    assert other > one
    assert is_version_7(other)
    if step > 0:
        assert other == uuid7(NOON + timedelta(milliseconds=step), second)


@given(random=RANDOM)
def test_without_a_predecessor_it_is_the_plain_one(random: int) -> None:
    assert milliseconds(uuid7(NOON, random)) == int(NOON.timestamp() * 1000)


def test_the_random_part_may_overflow_into_the_time() -> None:
    full = uuid7(NOON, MOST)
    after = uuid7(NOON, 0, full)
    assert after > full
    assert is_version_7(after)
    assert milliseconds(after) == milliseconds(full) + 1


def test_a_key_cannot_be_guessed_from_the_previous_one() -> None:
    generator = KeyGenerator()
    keys = [generator.next(NOON, secrets.randbits(RANDOM_BITS)).int for _ in range(100)]
    assert len({later - earlier for earlier, later in itertools.pairwise(keys)}) > 90


@pytest.mark.parametrize("step", [0, -1, -60_000, 1])
def test_a_generator_is_ordered(step: int) -> None:
    """Many keys with one time, and with a clock that goes back or forward."""
    generator, keys = KeyGenerator(), []
    for index in range(2_000):
        keys.append(generator.next(NOON + timedelta(milliseconds=step * index), secrets.randbits(RANDOM_BITS)))
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert all(is_version_7(key) for key in keys)


def test_a_generator_is_ordered_for_threads() -> None:
    generator = KeyGenerator()

    def make(_: int) -> list[UUID]:
        return [generator.next(NOON, secrets.randbits(RANDOM_BITS)) for _ in range(2_000)]

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(make, range(4)))
    assert all(part == sorted(part) for part in parts)
    assert len({key for part in parts for key in part}) == 8_000
