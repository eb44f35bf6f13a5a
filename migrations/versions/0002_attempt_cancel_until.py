"""Bar codes: until when a cancellation that was asked for may still be carried out, and give back what is found paid."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pay_attempt", sa.Column("cancel_until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("pay_attempt", "cancel_until")
