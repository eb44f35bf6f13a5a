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
    """The rows that match, newest first."""
    return AUDIT.models(
        await connection.fetch(
            f"""{_SELECT} WHERE ($1::bigint IS NULL OR id < $1) AND ($2 = '' OR operator = $2) AND ($3 = '' OR act = $3)
                AND ($4 = '' OR object = $4) AND ($5 = '' OR app_key = $5) AND ($6 = '' OR outcome = $6)
                AND ($7::timestamptz IS NULL OR time >= $7) AND ($8::timestamptz IS NULL OR time < $8)
                ORDER BY id DESC LIMIT $9""",
            before, where.operator, where.act, where.object, where.app_key, where.outcome, where.time_from, where.time_to, limit,
        )
    )  # fmt: skip
