"""Views of lists that operators save."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "pay_operator_view",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("operator_id", sa.UUID(), nullable=False),
        sa.Column("list", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("query", sa.String(length=1000), nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.Column("update_time", _TIME, nullable=False),
        sa.CheckConstraint("list IN ('orders', 'refunds')", name=op.f("pay_operator_view_list_check")),
        sa.ForeignKeyConstraint(
            ["operator_id"], ["pay_operator.id"], name=op.f("pay_operator_view_operator_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_operator_view_pkey")),
        sa.UniqueConstraint("operator_id", "list", "name", name=op.f("pay_operator_view_operator_id_list_name_key")),
    )


def downgrade() -> None:
    op.drop_table("pay_operator_view")
