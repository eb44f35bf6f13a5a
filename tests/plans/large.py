"""A schema whose tables have many rows, and the statistics of ten million."""

from __future__ import annotations

import json

import asyncpg

COPIES = 20_000
ROWS = 10_000_000
# The tables that grow with the orders, or with what strangers do, in the order in which they are filled. Of others there are few
# rows, which operators make, and a plan may read all of them.
LARGE = (
    "pay_order", "pay_attempt", "pay_case", "pay_refund", "pay_notify_task", "pay_notify_log", "pay_event", "pay_audit",
    "pay_login_failure",
)  # fmt: skip
_LATER = "CASE WHEN k.n % 10 = 0 THEN now() + interval '2 days' + k.n * interval '1 second' END"
_TEXT = "'L' || k.n"
# What differs between the copies of a row. The key of an order is that of its attempt, refund, case and notification too.
_COPIED = {
    **dict.fromkeys(("id", "order_id", "attempt_id", "data_id", "subject_id", "out_refund_key", "task_id"), "k.id"),
    **dict.fromkeys(
        ("merchant_order_id", "merchant_refund_no", "channel_order_no", "channel_refund_no", "reference"), _TEXT
    ),
    **dict.fromkeys(("next_check_time", "next_notify_time"), _LATER),
    "create_time": "k.at", "case_id": "NULL",
}  # fmt: skip
_OF_TABLE = {
    "pay_audit": {"id": "1000 + k.n", "object": "'O' || k.n", "time": "now() - interval '1 day' - k.n * interval '1 second'"},
    "pay_case": {
        "state": "CASE WHEN k.n % 10 = 0 THEN 'OPEN' ELSE 'RESOLVED' END",
        "resolve_time": "CASE WHEN k.n % 10 <> 0 THEN now() END",
    },
    "pay_login_failure": {"subject": _TEXT},
}


async def load(connection: asyncpg.Connection) -> None:
    """Copies of a row of each table, and statistics as if there were ROWS of them."""
    await connection.execute("SET session_replication_role = replica")  # foreign keys are not checked
    # Of two months, so that two partitions have rows.
    await connection.execute(
        f"""CREATE TEMP TABLE k AS SELECT n, uuidv7(n * interval '-2 minutes') AS id, now() - n * interval '2 minutes' AS at
            FROM generate_series(1, {COPIES}) n ORDER BY n DESC"""
    )
    for table in LARGE:
        await without_autovacuum(connection, table)
        names = await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped "
            "AND attidentity = ''",
            table,
        )
        columns = [row["attname"] for row in names]
        values = {**_COPIED, **_OF_TABLE.get(table, {})}
        chosen = ", ".join(values.get(name, f"s.{name}") for name in columns)
        done = await connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {chosen} FROM k, (SELECT * FROM {table} LIMIT 1) s"
        )
        assert done == f"INSERT 0 {COPIES}", table
    await connection.execute("UPDATE pay_audit_head SET last_id = $1", ROWS)  # behind the copies
    await connection.execute("SET session_replication_role = origin")
    await connection.execute("ANALYZE")
    await pretend(connection)


async def without_autovacuum(connection: asyncpg.Connection, table: str) -> None:
    """It would replace the statistics."""
    parts = "SELECT relid::regclass::text AS name FROM pg_partition_tree($1::text::regclass) WHERE isleaf"
    rows = await connection.fetch(parts, table)
    for row in rows:
        await connection.execute(f"ALTER TABLE {row['name']} SET (autovacuum_enabled = false)")


async def pretend(connection: asyncpg.Connection) -> None:
    """Make the planner believe that each large table has ROWS rows: it takes the rows of a page from the statistics."""
    await connection.execute(
        """WITH large AS (
             SELECT coalesce(i.inhrelid, t.oid) AS oid FROM pg_class t LEFT JOIN pg_inherits i ON i.inhparent = t.oid
             WHERE t.relname = ANY($1) AND t.relkind IN ('r', 'p')),
           related AS (SELECT oid FROM large UNION ALL SELECT indexrelid FROM pg_index WHERE indrelid IN (SELECT oid FROM large))
           UPDATE pg_class SET reltuples = reltuples * $2::float8 WHERE oid IN (SELECT oid FROM related) AND reltuples > 0""",
        list(LARGE), ROWS / COPIES,
    )  # fmt: skip


async def estimated_rows(connection: asyncpg.Connection, table: str) -> float:
    """How many rows the planner expects in the table."""
    plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) SELECT * FROM {table}")
    return float((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]["Plan Rows"])
