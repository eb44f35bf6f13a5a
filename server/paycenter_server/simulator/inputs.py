"""Checks of values from outside: numbers, texts, JSON and web addresses. An invalid value raises ValueError with a message."""

from __future__ import annotations

import ipaddress
import json
import math
import re
from typing import Any
from urllib.parse import SplitResult, urlsplit

__all__ = [
    "MAX_FEN",
    "MAX_SECONDS",
    "check_integer",
    "check_number",
    "find_numbers",
    "is_secure_or_loopback",
    "is_storable",
    "parse_number",
    "parse_web_address",
    "read_json",
]

MAX_FEN = 10**12
"""More than the limit of any channel, and small enough for every sum."""
MAX_SECONDS = 366 * 86400.0
"""The longest delay of a notification."""
_MAX_DEPTH = 64
_NUMBERS = re.compile(r'"(out_trade_no|transaction_id|trade_no|out_refund_no)"\s*:\s*"([0-9A-Za-z_\-|*@]{1,64})"')
_NOT_IN_ADDRESS = re.compile(r"[\x00-\x20\x7f\\]")


def check_integer(value: object, what: str, low: int, high: int) -> int:
    """An integer from low to high; bool and float are refused."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{what} must be an integer from {low} to {high}")
    return value


def check_number(value: object, what: str, low: float, high: float) -> float:
    """A number from low to high; nan, infinity and bool are refused."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # The comparison precedes the conversion, because an integer may be too large for a float.
    if not number or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{what} must be a number from {low:,.0f} to {high:,.0f}")
    return float(value)  # type: ignore[arg-type]


def parse_number(text: str, what: str, low: float, high: float) -> float:
    """The same from a form field."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return check_number(value, what, low, high)


def is_storable(text: str) -> bool:
    """Whether the text can be stored and sent: it contains no lone surrogate and no NUL."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _check(value: Any, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, str) and not is_storable(value):
        raise ValueError("a text contains NUL or a lone surrogate")
    if isinstance(value, dict):
        for name, item in value.items():
            _check(name, depth + 1)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)


def read_json(raw: bytes | str, *, exact: bool = False) -> Any:
    """A JSON document in UTF-8 with limited nesting and storable texts. exact: a number with a point or an exponent stays text."""
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
        document = json.loads(text, parse_constant=_refuse, parse_float=str if exact else float)
        _check(document)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return document


def find_numbers(text: str) -> dict[str, Any]:
    """The trade and refund numbers in a text that is not valid JSON, for the log."""
    return dict(_NUMBERS.findall(text))


def parse_web_address(text: str) -> SplitResult | None:
    """The parts of an absolute http or https address; None if the text is anything else."""
    if _NOT_IN_ADDRESS.search(text) or not is_storable(text):
        return None
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return None
    return parts if known else None


def is_secure_or_loopback(parts: SplitResult) -> bool:
    """Whether it is https, or plain http to this machine. WeChat Pay accepts only https; tests receive on loopback."""
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
