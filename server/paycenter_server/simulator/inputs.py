"""Numbers and JSON from outside, checked before anything is made of them: what is refused is a ValueError with a sentence."""

from __future__ import annotations

import json
import math
import re
from typing import Any

__all__ = ["MOST_FEN", "MOST_SECONDS", "clean", "finite", "finite_text", "numbers_in", "read_json", "whole"]

MOST_FEN = 10**12
"""More than any channel takes, and little enough for every sum."""
MOST_SECONDS = 366 * 86400.0
"""The longest delay of a notification."""
_DEEPEST = 64
_NUMBERS = re.compile(r'"(out_trade_no|transaction_id|trade_no|out_refund_no)"\s*:\s*"([0-9A-Za-z_\-|*@]{1,64})"')


def whole(value: object, what: str, low: int, high: int) -> int:
    """An integer from low to high; no bool, no 1.0."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{what} must be an integer from {low} to {high}")
    return value


def finite(value: object, what: str, low: float, high: float) -> float:
    """A number from low to high; neither nan nor infinite, no bool."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Compared before it is converted: an integer may be too large for a float.
    if not number or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{what} must be a number from {low:,.0f} to {high:,.0f}")
    return float(value)  # type: ignore[arg-type]


def finite_text(text: str, what: str, low: float, high: float) -> float:
    """The same from something typed."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return finite(value, what, low, high)


def clean(text: str) -> bool:
    """Whether it can be stored, shown and sent: no half of a surrogate pair, no NUL."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _check(value: Any, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"nested more than {_DEEPEST} deep")
    if isinstance(value, str) and not clean(value):
        raise ValueError("a text has NUL or half of a surrogate pair in it")
    if isinstance(value, dict):
        for name, item in value.items():
            _check(name, depth + 1)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)


def read_json(raw: bytes | str, *, exact: bool = False) -> Any:
    """A document in UTF-8, not nested deeply, of clean texts. exact: numbers with a point or an exponent stay the text they are."""
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
        document = json.loads(text, parse_constant=_refuse, parse_float=str if exact else float)
        _check(document)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return document


def numbers_in(text: str) -> dict[str, Any]:
    """The numbers in a document that cannot be read as a whole, for the log."""
    return dict(_NUMBERS.findall(text))
