"""What a channel's bill says, line by line. Amounts in minor units; times aware."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

# WeChat writes fees with five decimals; those after the second are zeros.
_YUAN = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,2})0{0,6})?")


class BillError(Exception):
    """A bill that cannot be read; the message says where."""


class BillKind(StrEnum):
    """What a line is about."""

    PAYMENT = "PAYMENT"
    REFUND = "REFUND"


@dataclass(frozen=True, slots=True)
class BillLine:
    """One movement. `amount` is of the order for payments and of the refund for refunds; `fee` is positive when it cost us."""

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
    """A yuan amount of a bill, which may be negative, exactly in fen; empty is 0."""
    if not text:
        return 0
    match = _YUAN.fullmatch(text)
    if match is None:
        raise BillError(f"{where}: not an amount in yuan")
    fen = int(match.group(2)) * 100 + int((match.group(3) or "0").ljust(2, "0"))
    return -fen if match.group(1) else fen
