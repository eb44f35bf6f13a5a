"""Lists of a table, newest first, by keyset. A range of creation times reads only that range of the primary key.

SQLAlchemy and the tables are imported with the first list (see `rendering.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from paycenter_server.storage.database import Connection
from paycenter_server.storage.rows import RowMapping

T = TypeVar("T")


def columns_of(rows: RowMapping[Any]) -> Any:
    """The columns of the table, by name."""
    from paycenter_server.storage.tables import metadata

    return metadata.tables[rows.table].c


def conditions_of(
    rows: RowMapping[Any],
    equal: Mapping[str, object],
    one_of: Mapping[str, Sequence[UUID] | None],
    *,
    created: tuple[datetime | None, datetime | None],
    first_id: UUID | None,
) -> list[Any]:
    """The conditions of a filter. `equal`: columns with their values; empty values do not filter. `one_of`: columns with the values
    that are allowed; None for any. `created`: the first creation time, and the one before which rows end. `first_id`: no row with a
    smaller key."""
    from paycenter_server.storage.keyrange import end_key, first_key

    table, (start, end) = columns_of(rows), created
    conditions = [table[name] == value for name, value in equal.items() if value]
    conditions += [table[name].in_(values) for name, values in one_of.items() if values is not None]
    if start is not None:
        conditions += [table.create_time >= start, table.id >= first_key(start)]
    if end is not None:
        conditions += [table.create_time < end, table.id < end_key(end)]
    if first_id is not None:
        conditions.append(table.id >= first_id)
    return conditions


async def list_rows(
    connection: Connection,
    rows: RowMapping[T],
    conditions: Sequence[Any],
    *,
    limit: int,
    before: UUID | None,
    computed: Mapping[str, Any] | None = None,
) -> list[T]:
    """The rows with these conditions, and a key before `before`. `computed`: expressions in place of the columns of these names."""
    from sqlalchemy import select

    from paycenter_server.storage.rendering import render
    from paycenter_server.storage.tables import pay_app

    table, instead = columns_of(rows), computed or {}
    columns = [instead[name].label(name) if name in instead else table[name] for name in rows.columns]
    statement: Any = select(*columns, pay_app.c.app_key).join(pay_app, pay_app.c.id == table.app_id)
    for condition in (*conditions, *([table.id < before] if before is not None else [])):
        statement = statement.where(condition)
    text, arguments = render(statement.order_by(table.id.desc()).limit(limit))
    return rows.models(await connection.fetch(text, *arguments))


async def count_rows(connection: Connection, rows: RowMapping[Any], conditions: Sequence[Any]) -> int:
    """How many rows have these conditions. The caller bounds the rows that are read by `first_id`."""
    from sqlalchemy import func, select

    from paycenter_server.storage.rendering import render
    from paycenter_server.storage.tables import metadata

    text, arguments = render(select(func.count()).select_from(metadata.tables[rows.table]).where(*conditions))
    return int(await connection.fetchval(text, *arguments))
