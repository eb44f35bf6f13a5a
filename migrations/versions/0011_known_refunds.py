"""A refund keeps since when the channel has said that it knows it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default, so no row is rewritten. Of refunds in progress the next query says it again.
    op.add_column("pay_refund", sa.Column("known_time", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("pay_refund", "known_time")
