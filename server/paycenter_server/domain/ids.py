"""Keys and numbers.

A key is a UUIDv7 (RFC 9562), stored as `uuid`. Its printed form, the number, is a prefix letter and the same 128 bits as 26
Crockford base-32 characters: 27 characters in all. WeChat Pay allows 32, Alipay 64.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from uuid import UUID

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""The digits of Crockford's base 32."""
_DIGITS = str.maketrans(ALPHABET, "0123456789abcdefghijklmnopqrstuv")  # as `int` reads them
_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
NUMBER_LENGTH = 27
"""The characters of a number."""
RANDOM_BITS = 74
_INCREMENT = (1 << 32) - 1


class Prefix(StrEnum):
    """The kind of object that a number identifies."""

    APP = "A"
    ORDER = "O"
    ATTEMPT = "P"
    REFUND = "F"
    OUT_REFUND = "R"
    NOTIFICATION = "N"
    CHANNEL = "C"
    ACCOUNT = "M"
    CASE = "K"
    OPERATOR = "U"
    SESSION = "S"
    APPROVAL = "V"


def time_and_random(now: datetime, random: int, after: int = -1) -> int:
    """The 122 bits of a UUIDv7 without version and variant: this time, and 74 random bits.

    `after` is the previous value: the new one is larger, also within the same millisecond or if the clock went back. In that case
    it has the time of the previous one, and its random bits plus a random increment (RFC 9562, 6.2, method 2).
    """
    milliseconds = int(now.timestamp() * 1000) & ((1 << 48) - 1)
    value = milliseconds << RANDOM_BITS | random
    # An overflow of the random bits increments the time.
    return value if value > after else after + 1 + (random & _INCREMENT)


def key_bytes(value: int) -> bytes:
    """The 16 bytes of the UUIDv7 of a `time_and_random`."""
    rand_b = value & ((1 << 62) - 1)
    rand_a = (value >> 62) & 0xFFF
    return (value >> RANDOM_BITS << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b).to_bytes(16, "big")


def uuid7(now: datetime, random: int, after: UUID | None = None) -> UUID:
    """A UUIDv7 with this time; `random` is its 74 random bits. `after`: the previous key, as for `time_and_random`."""
    last = -1
    if after is not None:
        last = (after.int >> 80) << RANDOM_BITS | ((after.int >> 64) & 0xFFF) << 62 | (after.int & ((1 << 62) - 1))
    return UUID(bytes=key_bytes(time_and_random(now, random, last)))


def time_of(key: UUID) -> datetime:
    """The time in a UUIDv7, in milliseconds."""
    return datetime.fromtimestamp((key.int >> 80) / 1000, UTC)


@lru_cache(maxsize=8192)  # a refund prints the numbers of the same few keys fourteen times
def encode(prefix: Prefix, key: UUID) -> str:
    """The number of a key."""
    value, pairs = key.int, _PAIRS
    return (
        f"{prefix}{pairs[value >> 120]}{pairs[value >> 110 & 1023]}{pairs[value >> 100 & 1023]}{pairs[value >> 90 & 1023]}"
        f"{pairs[value >> 80 & 1023]}{pairs[value >> 70 & 1023]}{pairs[value >> 60 & 1023]}{pairs[value >> 50 & 1023]}"
        f"{pairs[value >> 40 & 1023]}{pairs[value >> 30 & 1023]}{pairs[value >> 20 & 1023]}{pairs[value >> 10 & 1023]}"
        f"{pairs[value & 1023]}"
    )


def decode(prefix: Prefix, number: str) -> UUID | None:
    """The key of a number; None for a text that `encode` cannot have returned."""
    raw = decode_bytes(prefix, number)
    return UUID(bytes=raw) if raw is not None else None


def decode_bytes(prefix: Prefix, number: str) -> bytes | None:
    """The 16 bytes of `decode`."""
    digits = number[1:]
    if len(number) != NUMBER_LENGTH or number[0] != prefix or digits.strip(ALPHABET):
        return None
    value = int(digits.translate(_DIGITS), 32)
    return value.to_bytes(16, "big") if value < 1 << 128 else None
