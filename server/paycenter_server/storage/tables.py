"""The schema, as SQLAlchemy Core tables. Migrations are compared with it (`alembic check`).

Amounts are bigint minor units. Times are timestamptz. A state is text under a CHECK, so that a person at psql can read it.
`next_check_time` is NULL for what needs no further look.

A large table has a foreign key only with an index of it: without one, the deletion of a row to which it refers reads the whole
table. What a key would say is left out where another key implies it: an attempt is of the app of its order, a refund has the
channel, the account and the binding of its attempt.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from paycenter_server.domain.apps import NotificationSuccess, SurplusPolicy
from paycenter_server.domain.cases import CaseKind
from paycenter_server.domain.events import ActorKind, Subject
from paycenter_server.domain.notifications import NotificationType
from paycenter_server.domain.states import AttemptState, CaseState, NotificationState, OrderState, RefundState
from paycenter_server.storage import tables_access
from paycenter_server.storage.tables_base import FILL, KEY, TIME, metadata, one_of, times

# The tables of operators are in the same metadata.
__all__ = ["metadata", "tables_access"]


pay_app = Table(
    "pay_app",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("app_key", String(64), nullable=False, unique=True),
    Column("name", String(64), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("remark", String(255), nullable=False),
    Column("order_notification_url", String(1024), nullable=False),
    Column("refund_notification_url", String(1024), nullable=False),
    Column("order_notification_endpoint", String(1024), nullable=False),
    Column("refund_notification_endpoint", String(1024), nullable=False),
    Column("surplus_policy", String(16), nullable=False),
    Column("case_policies", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("case_decision_limit", BigInteger),
    # From this amount of all refunds of an order, a refund by an operator needs a second one.
    Column("refund_approval_limit", BigInteger),
    # A new channel, and another account or other keys of one, need a second operator.
    Column("channel_approval", Boolean, nullable=False, server_default=text("false")),
    Column("notification_success", String(16), nullable=False),
    Column("notification_secret", Text, nullable=False),
    Column("notification_secrets_previous", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    *times(),
    one_of("surplus_policy", SurplusPolicy),
    CheckConstraint("case_decision_limit >= 0", name="case_decision_limit"),
    CheckConstraint("refund_approval_limit > 0", name="refund_approval_limit"),
    one_of("notification_success", NotificationSuccess),
)

pay_credential = Table(
    "pay_credential",
    metadata,
    Column("key_id", String(64), primary_key=True),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("app_id", KEY, ForeignKey("pay_app.id", ondelete="CASCADE"), index=True),
    Column("name", String(64), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("operator_id", KEY, ForeignKey("pay_operator.id"), index=True),
    Column("role", String(16)),
    Column("app_keys", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("expire_time", TIME),
    CheckConstraint("(app_id IS NULL) <> (operator_id IS NULL)", name="owner"),
)

pay_account = Table(
    "pay_account",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("family", String(32), nullable=False),
    Column("identity", String(255), nullable=False),
    Column("name", String(64), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("remark", String(255), nullable=False),
    Column("config", JSONB, nullable=False),
    Column("earlier_keys", JSONB, nullable=False),
    Column("change_approval", Boolean, nullable=False, server_default=text("false")),
    Column("version", Integer, nullable=False),
    *times(),
    UniqueConstraint("family", "identity"),
)

pay_channel = Table(
    "pay_channel",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("app_id", KEY, ForeignKey("pay_app.id"), nullable=False),
    Column("code", String(32), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("fee_rate_ppm", Integer, nullable=False),
    Column("remark", String(255), nullable=False),
    # The current row of pay_binding, which refers to the channel.
    Column("binding_id", KEY, nullable=False),
    Column("version", Integer, nullable=False),
    *times(),
    UniqueConstraint("app_id", "code"),
    CheckConstraint("fee_rate_ppm BETWEEN 0 AND 1000000", name="fee_rate_ppm"),
)

pay_binding = Table(
    "pay_binding",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("channel_id", KEY, ForeignKey("pay_channel.id"), nullable=False, index=True),
    Column("account_id", KEY, ForeignKey("pay_account.id"), nullable=False, index=True),
    Column("config", JSONB, nullable=False),
    Column("version", Integer, nullable=False),
    *times(),
)

pay_order = Table(
    "pay_order",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("app_id", KEY, ForeignKey("pay_app.id"), nullable=False),
    Column("merchant_order_id", String(64), nullable=False),
    Column("subject", String(32), nullable=False),
    Column("body", String(128), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("first_amount", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("state", String(16), nullable=False),
    Column("expire_time", TIME, nullable=False),
    Column("user_ip", String(64), nullable=False),
    Column("user_id", String(64), nullable=False),
    Column("return_url", String(1024), nullable=False),
    Column("notification_url", String(1024), nullable=False),
    Column("version", Integer, nullable=False, server_default=text("0")),
    Column("paid_amount", BigInteger, nullable=False, server_default=text("0")),
    Column("refunded_amount", BigInteger, nullable=False, server_default=text("0")),
    Column("reserved_amount", BigInteger, nullable=False, server_default=text("0")),
    Column("attempt_id", KEY),
    Column("channel_id", KEY),
    Column("channel_code", String(32)),
    Column("channel_order_no", String(64)),
    Column("channel_user_id", String(255)),
    Column("channel_fee_rate_ppm", Integer, nullable=False, server_default=text("0")),
    Column("channel_fee_amount", BigInteger, nullable=False, server_default=text("0")),
    Column("success_time", TIME),
    Column("next_check_time", TIME),
    Column("check_count", Integer, nullable=False, server_default=text("0")),
    Column("submit_version", Integer, nullable=False, server_default=text("0")),
    *times(),
    # Searched by both columns as a row (`storage/rows.py`, `by_unique_key`), so that no other index can take its place.
    UniqueConstraint("merchant_order_id", "app_id"),
    Index("pay_order_app_id_id_idx", "app_id", "id"),
    Index("pay_order_next_check_time_idx", "next_check_time", postgresql_where=text("next_check_time IS NOT NULL")),
    Index("pay_order_channel_order_no_idx", "channel_order_no", postgresql_where=text("channel_order_no IS NOT NULL")),
    one_of("state", OrderState),
    CheckConstraint("amount > 0", name="amount"),
    CheckConstraint("paid_amount >= 0", name="paid_amount"),
    CheckConstraint(
        "refunded_amount >= 0 AND reserved_amount >= 0 AND refunded_amount + reserved_amount <= paid_amount",
        name="never_over_refunded",
    ),
    CheckConstraint("(state IN ('SUCCESS', 'REFUND')) = (paid_amount > 0)", name="paid_when_paid"),
    postgresql_with=FILL,
)

pay_attempt = Table(
    "pay_attempt",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("order_id", KEY, ForeignKey("pay_order.id"), nullable=False, index=True),
    Column("app_id", KEY, nullable=False),
    Column("channel_id", KEY, ForeignKey("pay_channel.id"), nullable=False, index=True),
    Column("account_id", KEY, nullable=False),
    Column("binding_id", KEY, nullable=False),
    Column("channel_code", String(32), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("state", String(16), nullable=False),
    Column("display_mode", String(16), nullable=False),
    Column("display_content", Text, nullable=False),
    Column("wanted_mode", String(16), nullable=False),
    Column("channel_extras", JSONB, nullable=False),
    Column("return_url", String(1024), nullable=False),
    Column("user_ip", String(64), nullable=False),
    Column("expire_time", TIME, nullable=False),
    Column("paid_amount", BigInteger, nullable=False, server_default=text("0")),
    Column("channel_order_no", String(64)),
    Column("channel_user_id", String(255)),
    Column("channel_error_code", String(128)),
    Column("channel_error_message", String(512)),
    Column("success_time", TIME),
    Column("next_check_time", TIME),
    Column("check_count", Integer, nullable=False, server_default=text("0")),
    *times(),
    Column("cancel_until", TIME),
    Column("fee_rate_ppm", Integer),
    # For the claims by account, and for what is not settled over an account. It is the only index of these times, so that no
    # statistics can make another one look better.
    Index(
        "pay_attempt_account_id_next_check_time_idx",
        "account_id",
        "next_check_time",
        postgresql_where=text("next_check_time IS NOT NULL"),
    ),
    one_of("state", AttemptState),
    CheckConstraint("amount > 0", name="amount"),
    CheckConstraint("(state = 'SUCCESS') = (paid_amount > 0)", name="paid_when_paid"),
    postgresql_with=FILL,
)

pay_case = Table(
    "pay_case",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("app_id", KEY, ForeignKey("pay_app.id")),
    Column("channel_id", KEY, ForeignKey("pay_channel.id"), index=True),
    Column("account_id", KEY, ForeignKey("pay_account.id")),
    Column("order_id", KEY, ForeignKey("pay_order.id"), index=True),
    Column("attempt_id", KEY, ForeignKey("pay_attempt.id"), index=True),
    Column("refund_id", KEY),
    Column("reference", String(255), nullable=False),
    Column("occurrence", Integer, nullable=False),
    Column("amount", BigInteger),
    Column("currency", String(8)),
    Column("detail", JSONB, nullable=False),
    Column("version", Integer, nullable=False),
    Column("assignee", String(64), nullable=False),
    Column("decision", String(16), nullable=False),
    Column("decision_reason", String(512), nullable=False),
    Column("decided_by", String(64), nullable=False),
    Column("proposed_decision", String(16), nullable=False),
    Column("proposed_reason", String(512), nullable=False),
    Column("proposed_by", String(64), nullable=False),
    Column("proposed_time", TIME),
    Column("stale_time", TIME),
    Column("resolve_time", TIME),
    *times(),
    UniqueConstraint("kind", "reference", "occurrence"),
    # One for each filter by which a list can be read in the order of the ids (storage/cases_desk.py).
    Index("pay_case_app_id_id_idx", "app_id", "id"),
    Index("pay_case_account_id_id_idx", "account_id", "id"),
    Index("pay_case_kind_id_idx", "kind", "id"),
    Index("pay_case_assignee_id_idx", "assignee", "id", postgresql_where=text("assignee <> ''")),
    Index("pay_case_unresolved_idx", "id", postgresql_where=text("resolve_time IS NULL")),
    one_of("kind", CaseKind),
    one_of("state", CaseState),
    CheckConstraint("(state = 'RESOLVED') = (resolve_time IS NOT NULL)", name="resolve_time"),
)

pay_refund = Table(
    "pay_refund",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("app_id", KEY, ForeignKey("pay_app.id"), nullable=False),
    Column("order_id", KEY, ForeignKey("pay_order.id"), nullable=False, index=True),
    Column("attempt_id", KEY, ForeignKey("pay_attempt.id"), nullable=False, index=True),
    Column("channel_id", KEY, nullable=False),
    Column("account_id", KEY, nullable=False),
    Column("binding_id", KEY, nullable=False),
    Column("channel_code", String(32), nullable=False),
    Column("case_id", KEY, ForeignKey("pay_case.id"), unique=True),
    Column("merchant_order_id", String(64), nullable=False),
    Column("merchant_refund_no", String(64), nullable=False),
    Column("out_refund_key", KEY, nullable=False, unique=True),
    Column("earlier_out_refund_keys", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("earlier_look_time", TIME),
    Column("amount", BigInteger, nullable=False),
    Column("total_amount", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("reason", String(128), nullable=False),
    Column("notification_url", String(1024), nullable=False),
    Column("version", Integer, nullable=False, server_default=text("0")),
    Column("state", String(16), nullable=False),
    Column("send_count", Integer, nullable=False),
    Column("unclear_send_time", TIME),
    Column("known_time", TIME),
    Column("channel_refund_no", String(64)),
    Column("channel_error_code", String(128)),
    Column("channel_error_message", String(512)),
    Column("success_time", TIME),
    Column("next_check_time", TIME),
    Column("check_count", Integer, nullable=False, server_default=text("0")),
    *times(),
    UniqueConstraint("merchant_refund_no", "app_id"),
    Index("pay_refund_app_id_id_idx", "app_id", "id"),
    Index("pay_refund_channel_refund_no_idx", "channel_refund_no", postgresql_where=text("channel_refund_no IS NOT NULL")),
    # For the claims by account, and for what is not settled over an account. It is the only index of these times, so that no
    # statistics can make another one look better.
    Index(
        "pay_refund_account_id_next_check_time_idx",
        "account_id",
        "next_check_time",
        postgresql_where=text("next_check_time IS NOT NULL"),
    ),
    one_of("state", RefundState),
    CheckConstraint("amount > 0 AND amount <= total_amount", name="amount"),
    postgresql_with=FILL,
)

pay_notify_task = Table(
    "pay_notify_task",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("app_id", KEY, ForeignKey("pay_app.id"), nullable=False),
    Column("type", String(16), nullable=False),
    Column("event", String(32), nullable=False),
    Column("data_id", KEY, nullable=False),
    Column("data_version", Integer, nullable=False),
    Column("merchant_order_id", String(64), nullable=False),
    Column("merchant_refund_no", String(64), nullable=False),
    Column("notification_url", String(1024), nullable=False),
    Column("endpoint", String(1024), nullable=False),
    Column("payload", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("notify_times", Integer, nullable=False),
    Column("next_notify_time", TIME),
    Column("last_execute_time", TIME),
    Column("schedule_start_time", TIME, nullable=False),
    Column("schedule_start_times", Integer, nullable=False),
    Column("problem", String(512), nullable=False, server_default=text("''")),
    *times(),
    # One notification per event, also if the event is detected several times. Also finds the other notifications of an object.
    UniqueConstraint("data_id", "event", "data_version"),
    Index("pay_notify_task_app_id_id_idx", "app_id", "id"),
    # Those that were given up, which are few.
    Index("pay_notify_task_failure_idx", "id", postgresql_where=text("state = 'FAILURE'")),
    Index(
        "pay_notify_task_endpoint_next_notify_time_idx",
        "endpoint",
        "next_notify_time",
        postgresql_where=text("next_notify_time IS NOT NULL"),
    ),
    one_of("type", NotificationType),
    one_of("state", NotificationState),
    postgresql_with={"fillfactor": "85", "autovacuum_vacuum_scale_factor": "0.02"},
)

pay_notify_log = Table(
    "pay_notify_log",
    metadata,
    Column("id", BigInteger, Identity(always=True), nullable=False),
    Column("task_id", KEY, ForeignKey("pay_notify_task.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("notify_times", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("url", String(1024), nullable=False),
    Column("http_status", Integer, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("answer", Text, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("id", "create_time"),
    one_of("state", NotificationState),
    postgresql_partition_by="RANGE (create_time)",
)

# Append-only: a trigger refuses UPDATE, DELETE and TRUNCATE. Partitioned by month, so no foreign key and no unique key without the
# time (`storage/partitions.py`).
pay_event = Table(
    "pay_event",
    metadata,
    Column("id", BigInteger, Identity(always=True), nullable=False),
    Column("create_time", TIME, nullable=False, server_default=text("clock_timestamp()")),
    Column("order_id", KEY),
    Column("subject", String(16), nullable=False),
    Column("subject_id", KEY, nullable=False),
    Column("event", String(32), nullable=False),
    Column("from_state", String(16)),
    Column("to_state", String(16)),
    Column("amount", BigInteger),
    Column("paid_change", BigInteger, nullable=False),
    Column("reserved_change", BigInteger, nullable=False),
    Column("refunded_change", BigInteger, nullable=False),
    Column("actor_kind", String(16), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("evidence", JSONB),
    PrimaryKeyConstraint("id", "create_time"),
    Index("pay_event_order_id_id_idx", "order_id", "id"),
    Index("pay_event_subject_id_id_idx", "subject_id", "id", postgresql_where=text("order_id IS NULL")),
    one_of("subject", Subject),
    one_of("actor_kind", ActorKind),
    postgresql_partition_by="RANGE (create_time)",
)

# One row, written by the health checks of every process.
pay_health = Table(
    "pay_health",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("probe_time", TIME, nullable=False),
    CheckConstraint("id = 1", name="id"),
)
