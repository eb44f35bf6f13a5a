"""The books check: every order's paid, reserved and refunded amounts are the sums of its events in the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.services.cases import Cases
from paycenter_server.storage import events as event_rows
from paycenter_server.storage.database import Database
from paycenter_server.storage.events import Difference
from paycenter_server.storage.keyrange import LATER, first_key
from paycenter_server.storage.partitions import first_month_kept

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Checked:
    """A batch: the number of orders, the number of the last one (to resume after it), and a sentence for each difference.
    `opened`: the number of cases that were opened."""

    orders: int
    last: str
    differences: list[str]
    opened: int = 0


async def compared_since(database: Database) -> datetime | None:
    """The time from which orders are compared; None if all are. Events of older ones were dropped by the retention."""
    async with database.connection() as connection:
        month = await first_month_kept(connection)
    return month + LATER if month is not None else None


async def check_books(
    database: Database, after: str = "", batch: int = BATCH, cases: Cases | None = None
) -> AsyncIterator[Checked]:
    """Compare all orders after the order with this number, oldest first, in batches. ValueError if it is no order's number.

    `cases`: opens a case for each difference, one as long as it is not resolved; None if nothing may be written.
    """
    last = None
    if after and (last := decode(Prefix.ORDER, after)) is None:
        raise ValueError(f"{after!r} is not the number of an order")
    if (since := await compared_since(database)) is not None:
        last = max(last or UUID(int=0), first_key(since))
    while True:
        async with database.connection() as connection:
            compared = await event_rows.compare_amounts(connection, last, batch)
        if compared.last is None:
            return
        last = compared.last
        sentences = [_sentence(found) for found in compared.differences]
        opened = 0
        for found, sentence in zip(compared.differences, sentences, strict=True):
            opened += cases is not None and await cases.books_differ(found, sentence)
        yield Checked(compared.orders, encode(Prefix.ORDER, last), sentences, opened)


def _sentence(found: Difference) -> str:
    parts = [
        f"{name} is {stored} and its events give {recomputed}"
        for name, stored, recomputed in zip(("paid", "reserved", "refunded"), found.stored, found.recomputed, strict=True)
        if stored != recomputed
    ]
    return f"{encode(Prefix.ORDER, found.order_id)}: {'; '.join(parts)} (minor units)"
