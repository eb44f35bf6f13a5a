"""The ledger and the log of deliveries are partitioned by month; a delivery no longer stores the payload once more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_EVENT_INDEXES = ("pay_event_pkey", "pay_event_order_id_id_idx", "pay_event_subject_id_id_idx")
_LOG_INDEXES = ("pay_notify_log_pkey", "pay_notify_log_task_id_idx")
_LOG_COLUMNS = "id, task_id, notify_times, state, url, http_status, duration_ms, answer, create_time"
_EVENT_COLUMNS = (
    "id, create_time, order_id, subject, subject_id, event, from_state, to_state, amount, paid_change, reserved_change, "
    "refunded_change, actor_kind, actor, evidence"
)
_STATES = "state IN ('WAITING', 'SUCCESS', 'FAILURE', 'REQUEST_SUCCESS', 'REQUEST_FAILURE', 'SUPERSEDED')"
_REFUSE = "FOR EACH STATEMENT EXECUTE FUNCTION pay_event_refuse()"
_MONTH = "date_trunc('month', now() AT TIME ZONE 'UTC')"


def upgrade() -> None:
    _set_aside("pay_event", _EVENT_INDEXES)
    _make_events("RANGE (create_time)")
    _make_partitions("pay_event")
    _copy("pay_event", _EVENT_COLUMNS, _EVENT_COLUMNS)
    _protect_events()
    op.execute(
        f"""DO $$ DECLARE part text; BEGIN
              FOR part IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'pay_event'::regclass LOOP
                EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I {_REFUSE}', part || '_no_truncate', part);
              END LOOP; END $$"""
    )
    _set_aside("pay_notify_log", _LOG_INDEXES)
    _make_logs("RANGE (create_time)", None)
    _make_partitions("pay_notify_log")
    _copy("pay_notify_log", _LOG_COLUMNS, _LOG_COLUMNS)


def downgrade() -> None:
    _set_aside("pay_event", _EVENT_INDEXES)
    _make_events(None)
    _copy("pay_event", _EVENT_COLUMNS, _EVENT_COLUMNS)
    _protect_events()
    _set_aside("pay_notify_log", _LOG_INDEXES)
    _make_logs(None, sa.Column("request", sa.Text(), nullable=False))
    _copy(
        "pay_notify_log",
        "id, task_id, notify_times, state, url, request, http_status, duration_ms, answer, create_time",
        "l.id, task_id, l.notify_times, l.state, url, payload, http_status, duration_ms, answer, l.create_time",
        "l JOIN pay_notify_task t ON t.id = l.task_id",
    )


def _set_aside(table: str, indexes: tuple[str, ...]) -> None:
    op.execute(f"ALTER TABLE {table} RENAME TO {table}_old")
    for index in indexes:
        op.execute(f"ALTER INDEX {index} RENAME TO {index}_old")
    op.execute(f"ALTER SEQUENCE {table}_id_seq RENAME TO {table}_id_seq_old")
    # PostgreSQL 18 names NOT NULL constraints, and the new table would get other names while these exist.
    op.execute(
        f"""DO $$ DECLARE name text; BEGIN
              FOR name IN SELECT conname FROM pg_constraint WHERE conrelid = '{table}_old'::regclass AND contype = 'n' LOOP
                EXECUTE format('ALTER TABLE {table}_old RENAME CONSTRAINT %I TO %I', name, name || '_old');
              END LOOP; END $$"""
    )


def _copy(table: str, columns: str, values: str, source: str = "") -> None:
    op.execute(f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {table}_old {source}")
    op.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), coalesce((SELECT max(id) FROM {table}), 0) + 1, false)")
    _grant_again(table)
    op.execute(f"DROP TABLE {table}_old")


def _grant_again(table: str) -> None:
    """The new table gets the privileges of the old one: the role of the servers may be another than that of the migration."""
    op.execute(
        f"""DO $$ DECLARE held record; BEGIN
              FOR held IN SELECT a.* FROM pg_class c, aclexplode(c.relacl) a
                  WHERE c.oid = '{table}_old'::regclass AND a.grantee <> c.relowner LOOP
                EXECUTE format('GRANT %s ON {table} TO %s%s', held.privilege_type,
                  CASE held.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(held.grantee)) END,
                  CASE WHEN held.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
              END LOOP; END $$"""
    )


def _make_partitions(table: str) -> None:
    """One of everything up to the end of this month, one of each of the next three months, and one of the rest."""
    op.execute(
        f"""DO $$ DECLARE start timestamp := {_MONTH}; BEGIN
              FOR n IN 0..3 LOOP
                EXECUTE format('CREATE TABLE %I PARTITION OF {table} FOR VALUES FROM (%s) TO (%L)',
                  '{table}_' || to_char(start + n * interval '1 month', 'YYYYMM'),
                  CASE n WHEN 0 THEN 'MINVALUE' ELSE quote_literal(to_char(start + n * interval '1 month', 'YYYY-MM-DD"Z"')) END,
                  to_char(start + (n + 1) * interval '1 month', 'YYYY-MM-DD"Z"'));
              END LOOP; END $$"""
    )
    op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")


def _make_events(partitioned: str | None) -> None:
    op.create_table(
        "pay_event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("create_time", _TIME, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("order_id", sa.UUID(), nullable=True),
        sa.Column("subject", sa.String(length=16), nullable=False),
        sa.Column("subject_id", sa.UUID(), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("from_state", sa.String(length=16), nullable=True),
        sa.Column("to_state", sa.String(length=16), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("paid_change", sa.BigInteger(), nullable=False),
        sa.Column("reserved_change", sa.BigInteger(), nullable=False),
        sa.Column("refunded_change", sa.BigInteger(), nullable=False),
        sa.Column("actor_kind", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint(
            "actor_kind IN ('APP', 'OPERATOR', 'CALLBACK', 'JOB', 'SYSTEM')", name=op.f("pay_event_actor_kind_check")
        ),
        sa.CheckConstraint(
            "subject IN ('ORDER', 'ATTEMPT', 'REFUND', 'CASE', 'NOTIFICATION')", name=op.f("pay_event_subject_check")
        ),
        sa.PrimaryKeyConstraint("id", "create_time", name=op.f("pay_event_pkey")),
        postgresql_partition_by=partitioned,
    )
    op.create_index("pay_event_order_id_id_idx", "pay_event", ["order_id", "id"], unique=False)
    op.create_index(
        "pay_event_subject_id_id_idx", "pay_event", ["subject_id", "id"], unique=False,
        postgresql_where=sa.text("order_id IS NULL"),
    )  # fmt: skip


def _protect_events() -> None:
    op.execute(
        "CREATE TRIGGER pay_event_append_only BEFORE UPDATE OR DELETE ON pay_event FOR EACH ROW EXECUTE FUNCTION pay_event_refuse()"
    )
    op.execute(f"CREATE TRIGGER pay_event_no_truncate BEFORE TRUNCATE ON pay_event {_REFUSE}")


def _make_logs(partitioned: str | None, request: sa.Column[str] | None) -> None:
    key = ["id", "create_time"] if partitioned else ["id"]
    op.create_table(
        "pay_notify_log",
        sa.Column("id", sa.BigInteger(), *([sa.Identity(always=True)] if partitioned else []), autoincrement=True, nullable=False),
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("notify_times", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("url", sa.String(length=1024), nullable=False),
        *([request] if request is not None else []),
        sa.Column("http_status", sa.Integer(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.CheckConstraint(_STATES, name=op.f("pay_notify_log_state_check")),
        sa.ForeignKeyConstraint(["task_id"], ["pay_notify_task.id"], name=op.f("pay_notify_log_task_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint(*key, name=op.f("pay_notify_log_pkey")),
        postgresql_partition_by=partitioned,
    )
    op.create_index(op.f("pay_notify_log_task_id_idx"), "pay_notify_log", ["task_id"], unique=False)
