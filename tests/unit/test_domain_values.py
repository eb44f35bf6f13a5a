"""Numbers, keys, money."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paycenter_server.domain.ids import RANDOM_BITS, Prefix, decode, encode, uuid7
from paycenter_server.domain.money import CURRENCIES, MAX_AMOUNT, fee

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PREFIX = st.sampled_from(list(Prefix))
KEYS = st.integers(0, (1 << 128) - 1).map(lambda value: UUID(int=value))
MOMENTS = st.timedeltas(timedelta(0), timedelta(days=73_000)).map(lambda age: datetime(2000, 1, 1, tzinfo=UTC) + age)
RANDOM = st.integers(0, (1 << RANDOM_BITS) - 1)


@given(prefix=PREFIX, key=KEYS)
def test_a_number_leads_back_to_its_key(prefix: Prefix, key: UUID) -> None:
    number = encode(prefix, key)
    assert decode(prefix, number) == key
    assert len(number) == 27
    # WeChat: out_trade_no of 6 to 32 of 0-9 A-Z a-z _ - | *; Alipay: at most 64 of 0-9 A-Z a-z _.
    assert re.fullmatch(r"[0-9A-Za-z]{6,32}", number)
    for other in Prefix:
        assert (decode(other, number) == key) is (other is prefix)


@given(prefix=PREFIX, one=KEYS, other=KEYS)
def test_numbers_sort_as_keys_do(prefix: Prefix, one: UUID, other: UUID) -> None:
    assert (encode(prefix, one) < encode(prefix, other)) is (one.int < other.int)


@given(prefix=PREFIX, text=st.text(max_size=40) | st.text(ALPHABET, min_size=26, max_size=28))
def test_invalid_numbers(prefix: Prefix, text: str) -> None:
    for number in (text, prefix.value + text):
        key = decode(prefix, number)
        assert key is None or encode(prefix, key) == number


@pytest.mark.parametrize(
    "number",
    [
        "", "O", "O" + "0" * 25, "O" + "0" * 27, "o" + "0" * 26, "P" + "0" * 26, "O" + "8" + "0" * 25, "O" + "Z" * 26,
        "O" + "0" * 25 + "I", "O" + "0" * 25 + "L", "O" + "0" * 25 + "O", "O" + "0" * 25 + "U", "O" + "0" * 25 + "a",
        "O" + "0" * 25 + " ", " O" + "0" * 25, "O" + "0" * 25 + "\n", "O" + "0" * 25 + "１", "O" + "0" * 25 + "-",
    ],
)  # fmt: skip
def test_numbers_that_encode_cannot_return(number: str) -> None:
    assert decode(Prefix.ORDER, number) is None


def test_prefixes_are_one_letter_each() -> None:
    assert sorted(Prefix) == sorted({prefix.value for prefix in Prefix})
    assert all(re.fullmatch("[A-Z]", prefix) for prefix in Prefix)


@given(moment=MOMENTS, random=RANDOM)
def test_a_key_is_a_uuid_of_version_7(moment: datetime, random: int) -> None:
    key = uuid7(moment, random)
    assert (key.version, key.variant) == (7, "specified in RFC 4122")
    assert key.int >> 80 == int(moment.timestamp() * 1000)
    assert ((key.int >> 64) & 0xFFF) << 62 | (key.int & ((1 << 62) - 1)) == random


@given(moment=MOMENTS, later=st.timedeltas(timedelta(milliseconds=2), timedelta(days=4000)), one=RANDOM, other=RANDOM)
def test_a_later_key_is_greater(moment: datetime, later: timedelta, one: int, other: int) -> None:
    assert uuid7(moment, one) < uuid7(moment + later, other)


@given(moment=MOMENTS, random=RANDOM)
def test_another_random_is_another_key(moment: datetime, random: int) -> None:
    assert uuid7(moment, random) != uuid7(moment, random ^ 1)
    assert uuid7(moment, random) != uuid7(moment, random ^ (1 << (RANDOM_BITS - 1)))


@given(amount=st.integers(0, MAX_AMOUNT), rate=st.integers(0, 1_000_000))
def test_a_fee_is_rounded_half_up(amount: int, rate: int) -> None:
    exact = (Decimal(amount) * Decimal(rate) / Decimal(1_000_000)).quantize(Decimal(1), ROUND_HALF_UP)
    assert fee(amount, rate) == int(exact)
    assert 0 <= fee(amount, rate) <= amount


@pytest.mark.parametrize(
    ("amount", "rate", "expected"),
    [(50, 10_000, 1), (49, 10_000, 0), (10_000, 6_000, 60), (1, 500_000, 1), (1, 499_999, 0), (MAX_AMOUNT, 1_000_000, MAX_AMOUNT)],
)
def test_fees(amount: int, rate: int, expected: int) -> None:
    assert fee(amount, rate) == expected


def test_the_most_is_a_hundred_million_yuan() -> None:
    assert MAX_AMOUNT == 100_000_000 * 100
    assert {"CNY"} == CURRENCIES
