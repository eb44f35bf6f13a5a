"""Earlier numbers of refunds are looked at again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pay_refund", sa.Column("earlier_look_time", sa.DateTime(timezone=True), nullable=True))
    # The numbers that were replaced before this version have not been looked at since.
    op.execute(
        "UPDATE pay_refund SET earlier_look_time = create_time, "
        "next_check_time = coalesce(next_check_time, now()) WHERE jsonb_array_length(earlier_out_refund_keys) > 0"
    )


def downgrade() -> None:
    op.drop_column("pay_refund", "earlier_look_time")
