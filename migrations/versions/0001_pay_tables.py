"""The pay tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pay_app",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("app_key", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("remark", sa.String(length=255), nullable=False),
        sa.Column("order_notification_url", sa.String(length=1024), nullable=False),
        sa.Column("refund_notification_url", sa.String(length=1024), nullable=False),
        sa.Column("order_notification_endpoint", sa.String(length=1024), nullable=False),
        sa.Column("refund_notification_endpoint", sa.String(length=1024), nullable=False),
        sa.Column("surplus_policy", sa.String(length=16), nullable=False),
        sa.Column("case_policies", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("case_decision_limit", sa.BigInteger(), nullable=True),
        sa.Column("notification_success", sa.String(length=16), nullable=False),
        sa.Column("notification_secret", sa.Text(), nullable=False),
        sa.Column(
            "notification_secrets_previous",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("notification_success IN ('HTTP_2XX', 'CODE_ZERO')", name=op.f("pay_app_notification_success_check")),
        sa.CheckConstraint("case_decision_limit >= 0", name=op.f("pay_app_case_decision_limit_check")),
        sa.CheckConstraint("surplus_policy IN ('HOLD', 'REFUND', 'ACCEPT')", name=op.f("pay_app_surplus_policy_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_app_pkey")),
        sa.UniqueConstraint("app_key", name=op.f("pay_app_app_key_key")),
    )
    op.create_table(
        "pay_account",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("family", sa.String(length=32), nullable=False),
        sa.Column("identity", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("remark", sa.String(length=255), nullable=False),
        sa.Column("config", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("earlier_keys", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_account_pkey")),
        sa.UniqueConstraint("family", "identity", name=op.f("pay_account_family_identity_key")),
    )
    op.create_table(
        "pay_channel",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("app_id", sa.UUID(), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("fee_rate_ppm", sa.Integer(), nullable=False),
        sa.Column("remark", sa.String(length=255), nullable=False),
        sa.Column("binding_id", sa.UUID(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("fee_rate_ppm BETWEEN 0 AND 1000000", name=op.f("pay_channel_fee_rate_ppm_check")),
        sa.ForeignKeyConstraint(["app_id"], ["pay_app.id"], name=op.f("pay_channel_app_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_channel_pkey")),
        sa.UniqueConstraint("app_id", "code", name=op.f("pay_channel_app_id_code_key")),
    )
    op.create_table(
        "pay_binding",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("channel_id", sa.UUID(), nullable=False),
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("config", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["pay_account.id"], name=op.f("pay_binding_account_id_fkey")),
        sa.ForeignKeyConstraint(["channel_id"], ["pay_channel.id"], name=op.f("pay_binding_channel_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_binding_pkey")),
    )
    op.create_index(op.f("pay_binding_account_id_idx"), "pay_binding", ["account_id"], unique=False)
    op.create_index(op.f("pay_binding_channel_id_idx"), "pay_binding", ["channel_id"], unique=False)
    op.create_table(
        "pay_credential",
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("app_id", sa.UUID(), nullable=True),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["app_id"], ["pay_app.id"], name=op.f("pay_credential_app_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pay_credential_pkey")),
    )
    op.create_index(op.f("pay_credential_app_id_idx"), "pay_credential", ["app_id"], unique=False)
    op.create_table(
        "pay_health",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("probe_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("pay_health_id_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_health_pkey")),
    )
    op.create_table(
        "pay_notify_task",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("app_id", sa.UUID(), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("data_id", sa.UUID(), nullable=False),
        sa.Column("data_version", sa.Integer(), nullable=False),
        sa.Column("merchant_order_id", sa.String(length=64), nullable=False),
        sa.Column("merchant_refund_no", sa.String(length=64), nullable=False),
        sa.Column("notification_url", sa.String(length=1024), nullable=False),
        sa.Column("endpoint", sa.String(length=1024), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("notify_times", sa.Integer(), nullable=False),
        sa.Column("next_notify_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_execute_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("schedule_start_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("schedule_start_times", sa.Integer(), nullable=False),
        sa.Column("problem", sa.String(length=512), server_default=sa.text("''"), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state IN ('WAITING', 'SUCCESS', 'FAILURE', 'REQUEST_SUCCESS', 'REQUEST_FAILURE', 'SUPERSEDED')",
            name=op.f("pay_notify_task_state_check"),
        ),
        sa.CheckConstraint("type IN ('ORDER', 'REFUND', 'CASE')", name=op.f("pay_notify_task_type_check")),
        sa.ForeignKeyConstraint(["app_id"], ["pay_app.id"], name=op.f("pay_notify_task_app_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_notify_task_pkey")),
        sa.UniqueConstraint("data_id", "event", "data_version", name=op.f("pay_notify_task_data_id_event_data_version_key")),
        postgresql_with={"fillfactor": "85", "autovacuum_vacuum_scale_factor": "0.02"},
    )
    op.create_index("pay_notify_task_app_id_id_idx", "pay_notify_task", ["app_id", "id"], unique=False)
    op.create_index(
        "pay_notify_task_endpoint_next_notify_time_idx",
        "pay_notify_task",
        ["endpoint", "next_notify_time"],
        unique=False,
        postgresql_where=sa.text("next_notify_time IS NOT NULL"),
    )
    op.create_table(
        "pay_notify_log",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("notify_times", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("url", sa.String(length=1024), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state IN ('WAITING', 'SUCCESS', 'FAILURE', 'REQUEST_SUCCESS', 'REQUEST_FAILURE', 'SUPERSEDED')",
            name=op.f("pay_notify_log_state_check"),
        ),
        sa.ForeignKeyConstraint(["task_id"], ["pay_notify_task.id"], name=op.f("pay_notify_log_task_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_notify_log_pkey")),
    )
    op.create_index(op.f("pay_notify_log_task_id_idx"), "pay_notify_log", ["task_id"], unique=False)
    op.create_table(
        "pay_order",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("app_id", sa.UUID(), nullable=False),
        sa.Column("merchant_order_id", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=32), nullable=False),
        sa.Column("body", sa.String(length=128), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("first_amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("user_ip", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("return_url", sa.String(length=1024), nullable=False),
        sa.Column("notification_url", sa.String(length=1024), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("paid_amount", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("refunded_amount", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("reserved_amount", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempt_id", sa.UUID(), nullable=True),
        sa.Column("channel_id", sa.UUID(), nullable=True),
        sa.Column("channel_code", sa.String(length=32), nullable=True),
        sa.Column("channel_order_no", sa.String(length=64), nullable=True),
        sa.Column("channel_user_id", sa.String(length=255), nullable=True),
        sa.Column("channel_fee_rate_ppm", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("channel_fee_amount", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("success_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_check_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("check_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(state IN ('SUCCESS', 'REFUND')) = (paid_amount > 0)", name=op.f("pay_order_paid_when_paid_check")),
        sa.CheckConstraint("state IN ('WAITING', 'SUCCESS', 'REFUND', 'CLOSED')", name=op.f("pay_order_state_check")),
        sa.CheckConstraint("amount > 0", name=op.f("pay_order_amount_check")),
        sa.CheckConstraint("paid_amount >= 0", name=op.f("pay_order_paid_amount_check")),
        sa.CheckConstraint(
            "refunded_amount >= 0 AND reserved_amount >= 0 AND refunded_amount + reserved_amount <= paid_amount",
            name=op.f("pay_order_never_over_refunded_check"),
        ),
        sa.ForeignKeyConstraint(["app_id"], ["pay_app.id"], name=op.f("pay_order_app_id_fkey")),
        sa.ForeignKeyConstraint(["channel_id"], ["pay_channel.id"], name=op.f("pay_order_channel_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_order_pkey")),
        sa.UniqueConstraint("merchant_order_id", "app_id", name=op.f("pay_order_merchant_order_id_app_id_key")),
        postgresql_with={"fillfactor": "85"},
    )
    op.create_index("pay_order_app_id_id_idx", "pay_order", ["app_id", "id"], unique=False)
    op.create_index(
        "pay_order_channel_order_no_idx",
        "pay_order",
        ["channel_order_no"],
        unique=False,
        postgresql_where=sa.text("channel_order_no IS NOT NULL"),
    )
    op.create_index(
        "pay_order_next_check_time_idx",
        "pay_order",
        ["next_check_time"],
        unique=False,
        postgresql_where=sa.text("next_check_time IS NOT NULL"),
    )
    op.create_table(
        "pay_attempt",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("order_id", sa.UUID(), nullable=False),
        sa.Column("app_id", sa.UUID(), nullable=False),
        sa.Column("channel_id", sa.UUID(), nullable=False),
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("binding_id", sa.UUID(), nullable=False),
        sa.Column("channel_code", sa.String(length=32), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("display_mode", sa.String(length=16), nullable=False),
        sa.Column("display_content", sa.Text(), nullable=False),
        sa.Column("wanted_mode", sa.String(length=16), nullable=False),
        sa.Column("channel_extras", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("return_url", sa.String(length=1024), nullable=False),
        sa.Column("user_ip", sa.String(length=64), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("paid_amount", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("channel_order_no", sa.String(length=64), nullable=True),
        sa.Column("channel_user_id", sa.String(length=255), nullable=True),
        sa.Column("channel_error_code", sa.String(length=128), nullable=True),
        sa.Column("channel_error_message", sa.String(length=512), nullable=True),
        sa.Column("success_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_check_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("check_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cancel_until", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'SUCCESS') = (paid_amount > 0)", name=op.f("pay_attempt_paid_when_paid_check")),
        sa.CheckConstraint("state IN ('WAITING', 'UNKNOWN', 'SUCCESS', 'CLOSED')", name=op.f("pay_attempt_state_check")),
        sa.CheckConstraint("amount > 0", name=op.f("pay_attempt_amount_check")),
        sa.ForeignKeyConstraint(["account_id"], ["pay_account.id"], name=op.f("pay_attempt_account_id_fkey")),
        sa.ForeignKeyConstraint(["app_id"], ["pay_app.id"], name=op.f("pay_attempt_app_id_fkey")),
        sa.ForeignKeyConstraint(["binding_id"], ["pay_binding.id"], name=op.f("pay_attempt_binding_id_fkey")),
        sa.ForeignKeyConstraint(["channel_id"], ["pay_channel.id"], name=op.f("pay_attempt_channel_id_fkey")),
        sa.ForeignKeyConstraint(["order_id"], ["pay_order.id"], name=op.f("pay_attempt_order_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_attempt_pkey")),
        postgresql_with={"fillfactor": "85"},
    )
    op.create_index(op.f("pay_attempt_channel_id_idx"), "pay_attempt", ["channel_id"], unique=False)
    op.create_index(
        "pay_attempt_account_id_next_check_time_idx",
        "pay_attempt",
        ["account_id", "next_check_time"],
        unique=False,
        postgresql_where=sa.text("next_check_time IS NOT NULL"),
    )
    op.create_index(op.f("pay_attempt_order_id_idx"), "pay_attempt", ["order_id"], unique=False)
    op.create_table(
        "pay_case",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("app_id", sa.UUID(), nullable=True),
        sa.Column("channel_id", sa.UUID(), nullable=True),
        sa.Column("account_id", sa.UUID(), nullable=True),
        sa.Column("order_id", sa.UUID(), nullable=True),
        sa.Column("attempt_id", sa.UUID(), nullable=True),
        sa.Column("refund_id", sa.UUID(), nullable=True),
        sa.Column("reference", sa.String(length=255), nullable=False),
        sa.Column("occurrence", sa.Integer(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(length=8), nullable=True),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("assignee", sa.String(length=64), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.Column("decision_reason", sa.String(length=512), nullable=False),
        sa.Column("decided_by", sa.String(length=64), nullable=False),
        sa.Column("proposed_decision", sa.String(length=16), nullable=False),
        sa.Column("proposed_reason", sa.String(length=512), nullable=False),
        sa.Column("proposed_by", sa.String(length=64), nullable=False),
        sa.Column("proposed_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stale_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolve_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "kind IN ('LATE_PAYMENT', 'DUPLICATE_PAYMENT', 'WRONG_AMOUNT', 'WRONG_CURRENCY', 'UNKNOWN_ORDER', 'REFUND_MISMATCH', "
            "'REFUND_ELSEWHERE', 'STALE_ATTEMPT', 'STALE_REFUND', 'NOTIFICATION_GIVEN_UP', 'BOOKS_DIFFER')",
            name=op.f("pay_case_kind_check"),
        ),
        sa.CheckConstraint("state IN ('OPEN', 'REFUNDING', 'RESOLVED')", name=op.f("pay_case_state_check")),
        sa.CheckConstraint("(state = 'RESOLVED') = (resolve_time IS NOT NULL)", name=op.f("pay_case_resolve_time_check")),
        sa.ForeignKeyConstraint(["account_id"], ["pay_account.id"], name=op.f("pay_case_account_id_fkey")),
        sa.ForeignKeyConstraint(["app_id"], ["pay_app.id"], name=op.f("pay_case_app_id_fkey")),
        sa.ForeignKeyConstraint(["attempt_id"], ["pay_attempt.id"], name=op.f("pay_case_attempt_id_fkey")),
        sa.ForeignKeyConstraint(["channel_id"], ["pay_channel.id"], name=op.f("pay_case_channel_id_fkey")),
        sa.ForeignKeyConstraint(["order_id"], ["pay_order.id"], name=op.f("pay_case_order_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_case_pkey")),
        sa.UniqueConstraint("kind", "reference", "occurrence", name=op.f("pay_case_kind_reference_occurrence_key")),
    )
    op.create_index("pay_case_account_id_id_idx", "pay_case", ["account_id", "id"], unique=False)
    op.create_index("pay_case_app_id_id_idx", "pay_case", ["app_id", "id"], unique=False)
    op.create_index(
        "pay_case_assignee_id_idx", "pay_case", ["assignee", "id"], unique=False, postgresql_where=sa.text("assignee <> ''")
    )
    op.create_index(op.f("pay_case_attempt_id_idx"), "pay_case", ["attempt_id"], unique=False)
    op.create_index("pay_case_kind_id_idx", "pay_case", ["kind", "id"], unique=False)
    op.create_index("pay_case_unresolved_idx", "pay_case", ["id"], unique=False, postgresql_where=sa.text("resolve_time IS NULL"))
    op.create_index(op.f("pay_case_order_id_idx"), "pay_case", ["order_id"], unique=False)
    op.create_table(
        "pay_refund",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("app_id", sa.UUID(), nullable=False),
        sa.Column("order_id", sa.UUID(), nullable=False),
        sa.Column("attempt_id", sa.UUID(), nullable=False),
        sa.Column("channel_id", sa.UUID(), nullable=False),
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("binding_id", sa.UUID(), nullable=False),
        sa.Column("channel_code", sa.String(length=32), nullable=False),
        sa.Column("case_id", sa.UUID(), nullable=True),
        sa.Column("merchant_order_id", sa.String(length=64), nullable=False),
        sa.Column("merchant_refund_no", sa.String(length=64), nullable=False),
        sa.Column("out_refund_key", sa.UUID(), nullable=False),
        sa.Column(
            "earlier_out_refund_keys",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("total_amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("reason", sa.String(length=128), nullable=False),
        sa.Column("notification_url", sa.String(length=1024), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("send_count", sa.Integer(), nullable=False),
        sa.Column("unclear_send_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("channel_refund_no", sa.String(length=64), nullable=True),
        sa.Column("channel_error_code", sa.String(length=128), nullable=True),
        sa.Column("channel_error_message", sa.String(length=512), nullable=True),
        sa.Column("success_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_check_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("check_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('WAITING', 'SUCCESS', 'FAILURE')", name=op.f("pay_refund_state_check")),
        sa.CheckConstraint("amount > 0 AND amount <= total_amount", name=op.f("pay_refund_amount_check")),
        sa.ForeignKeyConstraint(["account_id"], ["pay_account.id"], name=op.f("pay_refund_account_id_fkey")),
        sa.ForeignKeyConstraint(["app_id"], ["pay_app.id"], name=op.f("pay_refund_app_id_fkey")),
        sa.ForeignKeyConstraint(["binding_id"], ["pay_binding.id"], name=op.f("pay_refund_binding_id_fkey")),
        sa.ForeignKeyConstraint(["attempt_id"], ["pay_attempt.id"], name=op.f("pay_refund_attempt_id_fkey")),
        sa.ForeignKeyConstraint(["case_id"], ["pay_case.id"], name=op.f("pay_refund_case_id_fkey")),
        sa.ForeignKeyConstraint(["channel_id"], ["pay_channel.id"], name=op.f("pay_refund_channel_id_fkey")),
        sa.ForeignKeyConstraint(["order_id"], ["pay_order.id"], name=op.f("pay_refund_order_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_refund_pkey")),
        sa.UniqueConstraint("merchant_refund_no", "app_id", name=op.f("pay_refund_merchant_refund_no_app_id_key")),
        sa.UniqueConstraint("case_id", name=op.f("pay_refund_case_id_key")),
        sa.UniqueConstraint("out_refund_key", name=op.f("pay_refund_out_refund_key_key")),
        postgresql_with={"fillfactor": "85"},
    )
    op.create_index("pay_refund_app_id_id_idx", "pay_refund", ["app_id", "id"], unique=False)
    op.create_index(op.f("pay_refund_attempt_id_idx"), "pay_refund", ["attempt_id"], unique=False)
    op.create_index(
        "pay_refund_account_id_next_check_time_idx",
        "pay_refund",
        ["account_id", "next_check_time"],
        unique=False,
        postgresql_where=sa.text("next_check_time IS NOT NULL"),
    )
    op.create_index(op.f("pay_refund_order_id_idx"), "pay_refund", ["order_id"], unique=False)
    op.create_table(
        "pay_event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
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
    )
    op.create_index("pay_event_order_id_id_idx", "pay_event", ["order_id", "id"], unique=False)
    op.create_index(
        "pay_event_subject_id_id_idx",
        "pay_event",
        ["subject_id", "id"],
        unique=False,
        postgresql_where=sa.text("order_id IS NULL"),
    )
    op.execute(
        """CREATE FUNCTION pay_event_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
             RAISE EXCEPTION 'pay_event is append-only: % is refused', TG_OP USING ERRCODE = 'restrict_violation';
           END $$"""
    )
    op.execute(
        "CREATE TRIGGER pay_event_append_only BEFORE UPDATE OR DELETE ON pay_event FOR EACH ROW EXECUTE FUNCTION pay_event_refuse()"
    )
    op.execute(
        "CREATE TRIGGER pay_event_no_truncate BEFORE TRUNCATE ON pay_event FOR EACH STATEMENT EXECUTE FUNCTION pay_event_refuse()"
    )


def downgrade() -> None:
    op.drop_table("pay_event")
    op.execute("DROP FUNCTION pay_event_refuse")
    op.drop_index(op.f("pay_refund_order_id_idx"), table_name="pay_refund")
    op.drop_index(op.f("pay_refund_attempt_id_idx"), table_name="pay_refund")
    op.drop_index("pay_refund_app_id_id_idx", table_name="pay_refund")
    op.drop_index(
        "pay_refund_account_id_next_check_time_idx",
        table_name="pay_refund",
        postgresql_where=sa.text("next_check_time IS NOT NULL"),
    )
    op.drop_table("pay_refund")
    op.drop_index(op.f("pay_case_order_id_idx"), table_name="pay_case")
    op.drop_index("pay_case_unresolved_idx", table_name="pay_case", postgresql_where=sa.text("resolve_time IS NULL"))
    op.drop_index("pay_case_kind_id_idx", table_name="pay_case")
    op.drop_index(op.f("pay_case_attempt_id_idx"), table_name="pay_case")
    op.drop_index("pay_case_assignee_id_idx", table_name="pay_case", postgresql_where=sa.text("assignee <> ''"))
    op.drop_index("pay_case_app_id_id_idx", table_name="pay_case")
    op.drop_index("pay_case_account_id_id_idx", table_name="pay_case")
    op.drop_table("pay_case")
    op.drop_index(op.f("pay_attempt_order_id_idx"), table_name="pay_attempt")
    op.drop_index(op.f("pay_attempt_channel_id_idx"), table_name="pay_attempt")
    op.drop_index(
        "pay_attempt_account_id_next_check_time_idx",
        table_name="pay_attempt",
        postgresql_where=sa.text("next_check_time IS NOT NULL"),
    )
    op.drop_table("pay_attempt")
    op.drop_index("pay_order_next_check_time_idx", table_name="pay_order", postgresql_where=sa.text("next_check_time IS NOT NULL"))
    op.drop_index(
        "pay_order_channel_order_no_idx", table_name="pay_order", postgresql_where=sa.text("channel_order_no IS NOT NULL")
    )
    op.drop_index("pay_order_app_id_id_idx", table_name="pay_order")
    op.drop_table("pay_order")
    op.drop_index(op.f("pay_notify_log_task_id_idx"), table_name="pay_notify_log")
    op.drop_table("pay_notify_log")
    op.drop_index(
        "pay_notify_task_endpoint_next_notify_time_idx",
        table_name="pay_notify_task",
        postgresql_where=sa.text("next_notify_time IS NOT NULL"),
    )
    op.drop_index("pay_notify_task_app_id_id_idx", table_name="pay_notify_task")
    op.drop_table("pay_notify_task")
    op.drop_table("pay_health")
    op.drop_index(op.f("pay_credential_app_id_idx"), table_name="pay_credential")
    op.drop_table("pay_credential")
    op.drop_index(op.f("pay_binding_channel_id_idx"), table_name="pay_binding")
    op.drop_index(op.f("pay_binding_account_id_idx"), table_name="pay_binding")
    op.drop_table("pay_binding")
    op.drop_table("pay_channel")
    op.drop_table("pay_account")
    op.drop_table("pay_app")
