"""An attempt keeps the fee rate of its channel."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pay_attempt", sa.Column("fee_rate_ppm", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("pay_attempt", "fee_rate_ppm")
