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


async def list_entries(connection: Connection, where: AuditFilter, *, limit: int, before: int | None) -> list[AuditEntry]:
    """The rows that match, newest first. Only the given filters are conditions, so that each of them finds its index."""
    values: list[object] = [limit]
    conditions = []

    def add(condition: str, value: object) -> None:
        values.append(value)
        conditions.append(condition.replace("?", f"${len(values)}"))

    if before is not None:
        add("id < ?", before)
    for name in ("operator", "act", "object", "app_key", "outcome"):
        if value := getattr(where, name):
            add(f"{name} = ?", value)
    if where.time_from is not None:
        add(f"time >= ? AND id >= {_FIRST_FROM}", where.time_from)
    if where.time_to is not None:
        add(f"time < ? AND id <= {_LAST_BEFORE}", where.time_to)
    condition = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return AUDIT.models(await connection.fetch(f"{_SELECT} {condition} ORDER BY id DESC LIMIT $1", *values))
