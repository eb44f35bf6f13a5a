"""Acts of operators that wait for a second one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_JSON = postgresql.JSONB(astext_type=sa.Text())
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("pay_app", sa.Column("refund_approval_limit", sa.BigInteger(), nullable=True))
    op.create_check_constraint(op.f("pay_app_refund_approval_limit_check"), "pay_app", "refund_approval_limit > 0")
    op.add_column("pay_account", sa.Column("change_approval", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_table(
        "pay_approval",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("app_id", sa.UUID(), nullable=True),
        sa.Column("object", sa.String(length=64), nullable=False),
        sa.Column("request", _JSON, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("shown", _JSON, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(length=8), nullable=True),
        sa.Column("requested_by", sa.String(length=64), nullable=False),
        sa.Column("decided_by", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=512), nullable=False),
        sa.Column("expire_time", _TIME, nullable=False),
        sa.Column("decide_time", _TIME, nullable=True),
        sa.Column("create_time", _TIME, nullable=False),
        sa.Column("update_time", _TIME, nullable=False),
        sa.CheckConstraint("kind IN ('REFUND', 'ACCOUNT', 'CHANNEL')", name=op.f("pay_approval_kind_check")),
        sa.CheckConstraint("state IN ('PENDING', 'APPROVED', 'REFUSED', 'EXPIRED')", name=op.f("pay_approval_state_check")),
        sa.ForeignKeyConstraint(["app_id"], ["pay_app.id"], name=op.f("pay_approval_app_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_approval_pkey")),
        sa.UniqueConstraint("content", name=op.f("pay_approval_content_key")),
    )
    op.create_index("pay_approval_app_id_id_idx", "pay_approval", ["app_id", "id"], unique=False)
    op.create_index("pay_approval_object_id_idx", "pay_approval", ["object", "id"], unique=False)
    op.create_index(
        "pay_approval_waiting_idx", "pay_approval", ["id"], unique=False, postgresql_where=sa.text("content IS NOT NULL")
    )


def downgrade() -> None:
    op.drop_table("pay_approval")
    op.drop_column("pay_account", "change_approval")
    op.drop_constraint(op.f("pay_app_refund_approval_limit_check"), "pay_app")
    op.drop_column("pay_app", "refund_approval_limit")
