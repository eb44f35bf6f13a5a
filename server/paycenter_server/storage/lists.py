"""Lists of a table, newest first, by keyset. A range of creation times reads only that range of the primary key.

SQLAlchemy and the tables are imported with the first list (see `rendering.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any, TypeVar
from uuid import UUID

from paycenter_server.storage.database import Connection
from paycenter_server.storage.keyrange import FIRST_KEY, LAST_KEY, end_key, first_key
from paycenter_server.storage.rows import RowMapping

T = TypeVar("T")


def columns_of(rows: RowMapping[Any]) -> Any:
    """The columns of the table, by name."""
    from paycenter_server.storage.tables import metadata

    return metadata.tables[rows.table].c


@dataclass(frozen=True, slots=True)
class Conditions:
    """The rows of an app, or of all, with a range of keys, and further conditions. `low`: the first key; `high`: the one before
    which they end; None for no limit."""

    table: Any
    app_id: UUID | None
    low: UUID | None
    high: UUID | None
    more: Sequence[Any]

    def where(self, before: UUID | None = None) -> list[Any]:
        """The clauses of WHERE. `before`: no row with this key or a larger one.

        The app is compared as a row with the key. Then only an index that begins with both yields the rows in their order.
        With `app_id = $1` the planner may read the primary key and leave out the rows of other apps, which is all of it for an app
        that has few.
        """
        from sqlalchemy import tuple_

        table = self.table
        high = min((key for key in (self.high, before) if key is not None), default=None)
        if self.app_id is not None:
            key, app = tuple_(table.app_id, table.id), self.app_id
            return [*self.more, key >= tuple_(app, self.low or FIRST_KEY), key < tuple_(app, high or LAST_KEY)]
        low = [table.id >= self.low] if self.low is not None else []
        return [*self.more, *low, *([table.id < high] if high is not None else [])]

    @property
    def newest_first(self) -> list[Any]:
        """The clauses of ORDER BY."""
        return [*([self.table.app_id.desc()] if self.app_id is not None else []), self.table.id.desc()]


def conditions_of(
    rows: RowMapping[Any],
    equal: Mapping[str, object],
    one_of: Mapping[str, Sequence[UUID] | None],
    *,
    app_id: UUID | None,
    created: tuple[datetime | None, datetime | None],
    first_id: UUID | None,
    more: Sequence[Any] = (),
    few: bool = False,
) -> Conditions:
    """The conditions of a filter. `equal`: columns with their values; empty values do not filter. `one_of`: columns with the values
    that are allowed; None for any. `created`: the first creation time, and the one before which rows end. `first_id`: no row with a
    smaller key. `few`: an index finds the few rows of the filter, of whichever app; it is so if there is a `one_of`."""
    table, (start, end) = columns_of(rows), created
    conditions = [table[name] == value for name, value in equal.items() if value]
    conditions += [table[name].in_(values) for name, values in one_of.items() if values is not None]
    if app_id is not None and (few or any(values is not None for values in one_of.values())):
        # Not an equality, which an index can serve: without statistics that of the app looks as good as the one of the rows.
        conditions.append(table.app_id.is_not_distinct_from(app_id))
        app_id = None
    if start is not None:
        conditions.append(table.create_time >= start)
    if end is not None:
        conditions.append(table.create_time < end)
    low = max((key for key in (first_key(start) if start else None, first_id) if key is not None), default=None)
    return Conditions(table, app_id, low, end_key(end) if end else None, [*conditions, *more])


async def list_rows(
    connection: Connection,
    rows: RowMapping[T],
    conditions: Conditions,
    *,
    limit: int,
    before: UUID | None,
    statement: str = "",
) -> list[T]:
    """The rows with these conditions, and a key before `before`. `statement`: instead of `rows.select`, with the same FROM.

    The app is joined to the page, and not to the table: without statistics the join would come first, and all rows of the app would
    be sorted.
    """
    from sqlalchemy import select

    from paycenter_server.storage.rendering import render

    page = select(*(conditions.table[name] for name in rows.columns)).where(*conditions.where(before))
    text, arguments = render(page.order_by(*conditions.newest_first).limit(limit))
    joined = (statement or rows.select).replace(f" FROM {rows.table} t", f" FROM ({text}) t", 1)
    # Sorted here: PostgreSQL would take the page for a tenth of the table.
    return rows.models(sorted(await connection.fetch(joined, *arguments), key=itemgetter("id"), reverse=True))


async def count_rows(connection: Connection, rows: RowMapping[Any], conditions: Conditions) -> int:
    """How many rows have these conditions. The caller bounds the rows that are read by `first_id`."""
    from sqlalchemy import func, select

    from paycenter_server.storage.rendering import render
    from paycenter_server.storage.tables import metadata

    text, arguments = render(select(func.count()).select_from(metadata.tables[rows.table]).where(*conditions.where()))
    return int(await connection.fetchval(text, *arguments))
