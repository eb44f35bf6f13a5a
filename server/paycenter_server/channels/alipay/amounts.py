"""Alipay writes money as a yuan string; we hold whole fen. Exact in both directions."""

from __future__ import annotations

import re

_YUAN = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,2}))?")


def yuan(fen: int) -> str:
    """`1000000000` fen is `10000000.00`; never in exponent form."""
    return f"{fen // 100}.{fen % 100:02d}"


def fen(text: object) -> int | None:
    """The reverse; None for anything that is not a plain amount with at most two decimals."""
    match = _YUAN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    return int(match.group(1)) * 100 + int((match.group(2) or "0").ljust(2, "0"))
