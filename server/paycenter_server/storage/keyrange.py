"""Times as ranges of keys. A UUIDv7 begins with its time, so a list of a time range reads only that part of the primary key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from paycenter_server.domain.ids import uuid7
from paycenter_server.storage.database import Connection

_FIRST, _LAST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
FIRST_KEY, LAST_KEY = UUID(int=0), UUID(int=(1 << 128) - 1)
"""No key is smaller than the first one, or larger than the last one."""
LATER = timedelta(hours=1)
"""By how much the time in a key may be later than the row's time: keys ascend also when the clock goes back."""


def first_key(time: datetime) -> UUID:
    """The smallest key of this time: rows from then on have this key or a larger one."""
    return uuid7(min(max(time, _FIRST), _LAST), 0)


def end_key(time: datetime) -> UUID:
    """A key that is larger than those of all rows from before this time."""
    return first_key(min(max(time, _FIRST), _LAST - LATER) + LATER)


async def scan_end(
    connection: Connection,
    table: Literal["pay_order", "pay_refund", "pay_notify_task"],
    *,
    app_id: UUID | None,
    start: datetime | None,
    end: datetime | None,
    before: UUID | None,
    rows: int,
) -> UUID | None:
    """The key at which a page that reads `rows` rows, newest first, ends; None if there are fewer.

    A filter that no index serves then reads so many rows at most, however few match it. It reads the index only.
    """
    high = min(before or LAST_KEY, end_key(end) if end else LAST_KEY)
    low = first_key(start) if start else FIRST_KEY
    # Compared as a row, as in `lists.Conditions`.
    of_app = ("(app_id, id) < ($4, $1) AND (app_id, id) >= ($4, $2)", "app_id DESC, id DESC")
    where, order = of_app if app_id else ("id < $1 AND id >= $2", "id DESC")
    found = await connection.fetchval(
        f"SELECT id FROM {table} WHERE {where} ORDER BY {order} OFFSET $3 LIMIT 1", high, low, rows, *([app_id] if app_id else [])
    )
    return found if isinstance(found, UUID) else None
