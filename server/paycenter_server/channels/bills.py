"""The lines of a channel's bill. Amounts are in minor units, times are aware."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

# WeChat Pay writes fees with five decimals; those after the second are zeros.
_YUAN = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,2})0{0,6})?")


class BillError(Exception):
    """A bill that cannot be read; the message says where."""


class BillKind(StrEnum):
    """The kind of a line."""

    PAYMENT = "PAYMENT"
    REFUND = "REFUND"


@dataclass(frozen=True, slots=True)
class BillLine:
    """One payment or refund. `amount` is that of the order or of the refund. `fee` is positive if the merchant paid it."""

    kind: BillKind
    out_trade_no: str
    channel_order_no: str
    out_refund_no: str
    channel_refund_no: str
    amount: int
    fee: int
    state: str
    time: datetime | None


def signed_fen(text: str, where: str) -> int:
    """A yuan amount of a bill, which may be negative, in fen; an empty text is 0."""
    if not text:
        return 0
    match = _YUAN.fullmatch(text)
    if match is None:
        raise BillError(f"{where}: not an amount in yuan")
    fen = int(match.group(2)) * 100 + int((match.group(3) or "0").ljust(2, "0"))
    return -fen if match.group(1) else fen
