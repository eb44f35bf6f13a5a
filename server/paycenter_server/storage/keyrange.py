"""Times as ranges of keys. A UUIDv7 begins with its time, so a list of a time range reads only that part of the primary key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from paycenter_server.domain.ids import uuid7

_FIRST, _LAST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
LATER = timedelta(hours=1)
"""By how much the time in a key may be later than the row's time: keys ascend also when the clock goes back."""


def first_key(time: datetime) -> UUID:
    """The smallest key of this time: rows from then on have this key or a larger one."""
    return uuid7(min(max(time, _FIRST), _LAST), 0)


def end_key(time: datetime) -> UUID:
    """A key that is larger than those of all rows from before this time."""
    return first_key(min(max(time, _FIRST), _LAST - LATER) + LATER)
