"""The books check: every order's paid, reserved and refunded amounts are the sums of its events in the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.storage import events as event_rows
from paycenter_server.storage.database import Database
from paycenter_server.storage.events import Difference

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Checked:
    """A batch: the number of orders, the number of the last one (to resume after it), and a sentence for each difference."""

    orders: int
    last: str
    differences: list[str]


async def check_books(database: Database, after: str = "", batch: int = BATCH) -> AsyncIterator[Checked]:
    """Compare all orders after the order with this number, oldest first, in batches. ValueError if it is no order's number."""
    last = None
    if after and (last := decode(Prefix.ORDER, after)) is None:
        raise ValueError(f"{after!r} is not the number of an order")
    while True:
        async with database.connection() as connection:
            compared = await event_rows.compare_amounts(connection, last, batch)
        if compared.last is None:
            return
        last = compared.last
        yield Checked(compared.orders, encode(Prefix.ORDER, last), [_sentence(found) for found in compared.differences])


def _sentence(found: Difference) -> str:
    parts = [
        f"{name} is {stored} and its events give {recomputed}"
        for name, stored, recomputed in zip(("paid", "reserved", "refunded"), found.stored, found.recomputed, strict=True)
        if stored != recomputed
    ]
    return f"{encode(Prefix.ORDER, found.order_id)}: {'; '.join(parts)} (minor units)"
