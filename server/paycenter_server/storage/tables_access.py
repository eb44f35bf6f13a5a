"""The tables of operators, their sessions, and the audit."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from paycenter_server.domain.approvals import ApprovalKind
from paycenter_server.domain.roles import Role
from paycenter_server.domain.states import ApprovalState
from paycenter_server.domain.views import ViewList
from paycenter_server.storage.tables_base import KEY, TIME, metadata, one_of, times

pay_operator = Table(
    "pay_operator",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("app_keys", JSONB, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("password_hash", Text),
    Column("must_change_password", Boolean, nullable=False),
    Column("totp_secret", Text),
    Column("totp_pending", Text),
    Column("totp_step", BigInteger, nullable=False),
    Column("recovery_codes", JSONB, nullable=False),
    *times(),
    one_of("role", Role),
)

pay_session = Table(
    "pay_session",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("operator_id", KEY, ForeignKey("pay_operator.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("peer", String(64), nullable=False),
    Column("agent", String(200), nullable=False),
    Column("create_time", TIME, nullable=False, server_default=text("now()")),
    Column("used_time", TIME, nullable=False, server_default=text("now()")),
    Column("revoke_time", TIME),
)

# Failed logins in a row, by name and by peer.
pay_login_failure = Table(
    "pay_login_failure",
    metadata,
    Column("subject", String(80), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("blocked_until", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
)

# Append-only: triggers refuse UPDATE, DELETE and TRUNCATE. Each row has the hash of the row before it.
pay_audit = Table(
    "pay_audit",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("time", TIME, nullable=False),
    Column("actor_kind", String(16), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("operator", String(64), nullable=False),
    Column("act", String(64), nullable=False),
    Column("object", String(200), nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("app_key", String(64), nullable=False),
    Column("before", JSONB),
    Column("after", JSONB),
    Column("peer", String(200), nullable=False),
    Column("request_id", String(200), nullable=False),
    Column("previous_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Index("pay_audit_operator_id_idx", "operator", "id"),
    Index("pay_audit_act_id_idx", "act", "id"),
    Index("pay_audit_object_id_idx", "object", "id"),
    Index("pay_audit_app_key_id_idx", "app_key", "id"),
    Index("pay_audit_outcome_id_idx", "outcome", "id"),
    Index("pay_audit_time_idx", "time"),
)

# One row: the end of the chain, which a truncated audit does not reach. Its lock serialises appending.
pay_audit_head = Table(
    "pay_audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("last_id", BigInteger, nullable=False),
    Column("last_hash", LargeBinary, nullable=False),
    CheckConstraint("id = 1", name="id"),
)

# Acts of operators that wait for a second one. `request` has sealed secrets, and is empty when the act is decided.
pay_approval = Table(
    "pay_approval",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("app_id", KEY, ForeignKey("pay_app.id", ondelete="CASCADE")),
    Column("object", String(64), nullable=False),
    Column("request", JSONB, nullable=False),
    # Not NULL exactly while the act waits: a repeated call finds its row by it, and the end of those that expire is found by it.
    Column("content", LargeBinary, unique=True),
    Column("shown", JSONB, nullable=False),
    Column("amount", BigInteger),
    Column("currency", String(8)),
    Column("requested_by", String(64), nullable=False),
    Column("decided_by", String(64), nullable=False),
    Column("reason", String(512), nullable=False),
    Column("expire_time", TIME, nullable=False),
    Column("decide_time", TIME),
    *times(),
    one_of("kind", ApprovalKind),
    one_of("state", ApprovalState),
    Index("pay_approval_app_id_id_idx", "app_id", "id"),
    Index("pay_approval_object_id_idx", "object", "id"),
    Index("pay_approval_waiting_idx", "id", postgresql_where=text("content IS NOT NULL")),
)

pay_operator_view = Table(
    "pay_operator_view",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("operator_id", KEY, ForeignKey("pay_operator.id", ondelete="CASCADE"), nullable=False),
    Column("list", String(16), nullable=False),
    Column("name", String(64), nullable=False),
    Column("query", String(1000), nullable=False),
    *times(),
    UniqueConstraint("operator_id", "list", "name"),
    one_of("list", ViewList),
)
