"""The monthly partitions of the append-only tables: listing, making and dropping them.

A partition `pay_event_202612` holds the rows of December 2026 (UTC). The first one holds everything before its end as well, and
`pay_event_default` rows of months that have no partition, so that no insert ever fails for the lack of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from paycenter_server.storage.database import Connection, Transaction

TABLES = ("pay_event", "pay_notify_log")
# A request for the lock of a table waits behind whoever reads it, for example a backup, and every call that needs the table then
# waits behind the request.
_TABLE_LOCK_TIMEOUT = "100ms"
# Two workers make the same partition: the second waits, and finds it made. Nobody else waits for this lock.
_ADVISORY_LOCK = 7290241104
_ADVISORY_LOCK_TIMEOUT = "2s"


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition. `month`: its first moment; None for the default partition. `bytes`: with its indexes; None if not asked for."""

    name: str
    table: str
    month: datetime | None
    bytes: int | None


def months_before(time: datetime, count: int) -> datetime:
    """The first moment of the month that is `count` months before that of this time."""
    months = time.year * 12 + time.month - 1 - count
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def next_month(time: datetime) -> datetime:
    """The first moment of the month after this time."""
    return months_before(time, -1)


def name_of(table: str, month: datetime) -> str:
    """The name of a partition."""
    return f"{table}_{month:%Y%m}"


def _month_of(name: str) -> datetime | None:
    """The month in the name of a partition; None for the default one."""
    return None if name.endswith("_default") else datetime(int(name[-6:-2]), int(name[-2:]), 1, tzinfo=UTC)


async def list_partitions(connection: Connection, *, sizes: bool = False) -> list[Partition]:
    """The partitions of all tables, oldest first, the default one last. With `sizes` it waits for a table that is locked.

    One that somebody has attached under another name is left out.
    """
    rows = await connection.fetch(
        f"""SELECT c.relname AS name, p.relname AS table, {"pg_total_relation_size(c.oid)" if sizes else "NULL::bigint"} AS bytes
           FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
           WHERE p.oid = ANY(ARRAY(SELECT t::regclass FROM unnest($1::text[]) t)) AND c.relname ~ '_([0-9]{{6}}|default)$'
           ORDER BY p.relname, c.relname""",
        list(TABLES),
    )
    return [Partition(row["name"], row["table"], _month_of(row["name"]), row["bytes"]) for row in rows]


async def newest_event(connection: Connection) -> datetime | None:
    """The time of the last event, by the clock of the database; None if the ledger is empty."""
    found: datetime | None = await connection.fetchval("SELECT create_time FROM pay_event ORDER BY id DESC LIMIT 1")
    return found


async def lock(transaction: Transaction) -> None:
    """One process at a time makes or drops partitions. From here on the transaction gives up (LockTimeout) when a table stays
    locked for a tenth of a second, so that nobody waits behind it for longer."""
    await transaction.execute(f"SET LOCAL lock_timeout = '{_ADVISORY_LOCK_TIMEOUT}'")
    await transaction.execute("SELECT pg_advisory_xact_lock($1)", _ADVISORY_LOCK)
    await transaction.execute(f"SET LOCAL lock_timeout = '{_TABLE_LOCK_TIMEOUT}'")


async def has_rows(connection: Connection, table: str, month: datetime) -> bool:
    """Whether the default partition holds rows of this month. No partition can be made for it then."""
    found = await connection.fetchval(
        f"SELECT EXISTS (SELECT 1 FROM {table}_default WHERE create_time >= $1 AND create_time < $2)", month, next_month(month)
    )
    return bool(found)


async def make(transaction: Transaction, table: str, month: datetime) -> str:
    """Make the partition of a month. Attached, not created in place: that does not stop the inserts of other sessions."""
    name, end = name_of(table, month), next_month(month)
    await transaction.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    await transaction.execute(
        f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{month.isoformat()}') TO ('{end.isoformat()}')"
    )
    if table == "pay_event":
        # The row triggers come with the attachment; a statement trigger is of one table only.
        await transaction.execute(
            f"CREATE TRIGGER {name}_no_truncate BEFORE TRUNCATE ON {name} FOR EACH STATEMENT EXECUTE FUNCTION pay_event_refuse()"
        )
    return name


async def drop(transaction: Transaction, partition: Partition) -> None:
    """Drop a partition with its rows. Inserts wait for it, and it waits for every transaction that reads the table."""
    assert partition.month is not None  # not the default partition
    await transaction.execute(f"DROP TABLE {partition.name}")


async def first_month_kept(connection: Connection) -> datetime | None:
    """The first month of the ledger, if older events have been dropped; None if the ledger has every event."""
    row = await connection.fetchrow(
        """SELECT c.relname AS name, pg_get_expr(c.relpartbound, c.oid) LIKE '%FROM (MINVALUE)%' AS has_all
           FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           WHERE i.inhparent = 'pay_event'::regclass AND c.relname ~ '^pay_event_[0-9]{6}$' ORDER BY c.relname LIMIT 1"""
    )
    if row is None or row["has_all"]:
        return None
    return _month_of(row["name"])
