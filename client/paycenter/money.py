"""Exact conversion between yuan and fen. Amounts in PayCenter are whole fen (int)."""

from __future__ import annotations

import re
from decimal import Decimal

_YUAN = re.compile(r"(-?)([0-9]{1,15})(?:\.([0-9]{1,2}))?", re.ASCII)


def yuan_to_fen(yuan: str | int | Decimal) -> int:
    """Whole fen of an amount in yuan.

    Raises ValueError for text that is no amount or has more than two decimals, TypeError for floats: 0.1 + 0.2 is not 0.3.

    >>> yuan_to_fen("12.3"), yuan_to_fen(5), yuan_to_fen("-0.05")
    (1230, 500, -5)
    """
    if isinstance(yuan, bool) or not isinstance(yuan, str | int | Decimal):
        raise TypeError(f"yuan must be str, int or Decimal, not {type(yuan).__name__}: a float is not exact")
    if isinstance(yuan, int):
        return yuan * 100
    if isinstance(yuan, Decimal):
        if not yuan.is_finite():
            raise ValueError(f"{yuan} is not an amount")
        numerator, denominator = yuan.as_integer_ratio()
        fen, rest = divmod(numerator * 100, denominator)
        if rest:
            raise ValueError(f"{yuan} yuan is not a whole number of fen")
        return fen
    match = _YUAN.fullmatch(yuan)
    if match is None:
        raise ValueError(f"{yuan!r} is not an amount in yuan with at most two decimals")
    sign, whole, part = match.groups()
    fen = int(whole) * 100 + int((part or "0").ljust(2, "0"))
    return -fen if sign else fen


def fen_to_yuan(fen: int) -> str:
    """The amount in yuan, always with two decimals. Raises TypeError for anything but int.

    >>> fen_to_yuan(1230), fen_to_yuan(-5)
    ('12.30', '-0.05')
    """
    if isinstance(fen, bool) or not isinstance(fen, int):
        raise TypeError(f"fen must be int, not {type(fen).__name__}")
    whole, part = divmod(abs(fen), 100)
    return f"{'-' if fen < 0 else ''}{whole}.{part:02d}"
