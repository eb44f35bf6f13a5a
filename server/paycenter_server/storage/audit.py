"""Statements on pay_audit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from paycenter_server.domain.audit import FIRST_HASH, AuditEntry
from paycenter_server.storage.database import Connection, Transaction
from paycenter_server.storage.rows import RowMapping

AUDIT = RowMapping(AuditEntry, "pay_audit")
# The mapping reads `app_key` from pay_app; here it is a column, because the audit outlives the app.
_COLUMNS = (
    "id", "time", "actor_kind", "actor", "operator", "act", "object", "outcome", "app_key", "before", "after", "peer", "request_id",
    "previous_hash", "hash",
)  # fmt: skip
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM pay_audit"
# Rows are numbered in the order of their times, but for a clock that was set back: the hour is for that.
_FIRST_FROM = "(SELECT id FROM pay_audit WHERE time >= ?::timestamptz - interval '1 hour' ORDER BY time LIMIT 1)"
_LAST_BEFORE = "(SELECT id FROM pay_audit WHERE time < ?::timestamptz + interval '1 hour' ORDER BY time DESC LIMIT 1)"
_AFTER_ALL = (1 << 63) - 1
# The filters, the one that is likely to be the narrowest first. Each has an index with the number.
_NARROWEST = ("object", "operator", "app_key", "act", "outcome")
SCANNED = 10_000
"""The rows that one page reads at most. A page may then be shorter than was asked, and another one follows."""
_INSERT = f"INSERT INTO pay_audit ({', '.join(_COLUMNS)}) VALUES ({', '.join(f'${n}' for n in range(1, len(_COLUMNS) + 1))})"


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain: the number and the hash of its last row."""

    last_id: int
    last_hash: bytes


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What a list is limited to; empty values limit nothing."""

    operator: str = ""
    act: str = ""
    object: str = ""
    app_key: str = ""
    outcome: str = ""
    time_from: datetime | None = None
    time_to: datetime | None = None


async def lock_head(transaction: Transaction) -> tuple[Head, datetime]:
    """The end of the chain, locked until the end of the transaction, and the time of the database. It is the last lock of a
    transaction."""
    row = await transaction.fetchrow("SELECT last_id, last_hash FROM pay_audit_head WHERE id = 1 FOR NO KEY UPDATE")
    assert row is not None
    time = await transaction.fetchval("SELECT clock_timestamp()")
    return Head(row["last_id"], row["last_hash"]), time


async def append(transaction: Transaction, entry: AuditEntry) -> None:
    """Insert the next row, and move the head, which the transaction has locked."""
    values = [getattr(entry, name) for name in _COLUMNS]
    await transaction.execute(_INSERT, *values)
    await transaction.execute("UPDATE pay_audit_head SET last_id = $1, last_hash = $2 WHERE id = 1", entry.id, entry.hash)


async def read_head(connection: Connection) -> Head:
    """The end of the chain. Number 0 if its row has been removed."""
    row = await connection.fetchrow("SELECT last_id, last_hash FROM pay_audit_head WHERE id = 1")
    return Head(row["last_id"], row["last_hash"]) if row is not None else Head(0, FIRST_HASH)


async def read_after(connection: Connection, after: int, limit: int) -> list[AuditEntry]:
    """The rows after a number, oldest first."""
    return AUDIT.models(await connection.fetch(f"{_SELECT} WHERE id > $1 ORDER BY id LIMIT $2", after, limit))


async def read_one(connection: Connection, number: int) -> AuditEntry | None:
    """One row; None if there is none."""
    return AUDIT.model(await connection.fetchrow(f"{_SELECT} WHERE id = $1", number))


@dataclass(frozen=True, slots=True)
class AuditRows:
    """Rows, newest first. `last`: the number of the last row that was read, if more may follow although fewer were found."""

    entries: list[AuditEntry]
    last: int | None


async def list_entries(connection: Connection, where: AuditFilter, *, limit: int, before: int | None) -> AuditRows:
    """The rows that match, newest first.

    The index of the filter that is likely to be the narrowest yields them, and the other filters are applied to SCANNED rows at
    most. The filter is compared as a row with the number, as in `lists.Conditions`.
    """
    values: list[object] = []

    def place(value: object) -> str:
        values.append(value)
        return f"${len(values)}"

    given = [(name, place(value)) for name in _NARROWEST if (value := getattr(where, name))]
    column, value = given.pop(0) if given else ("", "")
    key, of = (f"({column}, id)", f"({value}, %s)") if column else ("id", "%s")
    inner, outer = [], [f"{name} = {value}" for name, value in given]
    if column or before is not None:
        inner.append(f"{key} < {of % place(before if before is not None else _AFTER_ALL)}")
    if column:
        inner.append(f"{key} >= {of % 0}")
    if where.time_from is not None:
        time = place(where.time_from)
        inner.append(f"{key} >= {of % _FIRST_FROM.replace('?', time)}")
        inner.append(f"time >= {time}")
    if where.time_to is not None:
        time = place(where.time_to)
        inner.append(f"{key} <= {of % _LAST_BEFORE.replace('?', time)}")
        inner.append(f"time < {time}")
    order = f"{column} DESC, id DESC" if column else "id DESC"
    rows = await connection.fetch(
        f"""WITH scanned AS MATERIALIZED (
             {_SELECT} WHERE {" AND ".join(inner) or "true"} ORDER BY {order} LIMIT {SCANNED if outer else limit}
           ), found AS (
             SELECT * FROM scanned WHERE {" AND ".join(outer) or "true"} ORDER BY id DESC LIMIT {limit}
           ), last AS (SELECT min(id) AS last_id, count(*) AS seen FROM scanned)
           SELECT last.last_id, last.seen, found.* FROM last LEFT JOIN found ON true ORDER BY found.id DESC""",
        *values,
    )  # fmt: skip
    entries = AUDIT.models([row for row in rows if row["id"] is not None])
    more = bool(rows) and rows[0]["seen"] == SCANNED and len(entries) < limit
    return AuditRows(entries, rows[0]["last_id"] if more else None)
