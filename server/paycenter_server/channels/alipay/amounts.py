"""Conversion between Alipay's yuan strings and whole fen, exact in both directions."""

from __future__ import annotations

import re

_YUAN = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,2}))?")


def yuan(fen: int) -> str:
    """A yuan string: `1000000000` fen is `10000000.00`, never in exponent form."""
    return f"{fen // 100}.{fen % 100:02d}"


def fen(text: object) -> int | None:
    """The reverse of yuan; None for anything but a plain amount with at most two decimals."""
    match = _YUAN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    return int(match.group(1)) * 100 + int((match.group(2) or "0").ljust(2, "0"))
