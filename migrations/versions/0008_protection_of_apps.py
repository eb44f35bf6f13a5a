"""Apps can ask for a second operator when their channels change, and lose a protection only by two; filters of the audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


_AUDIT = ("object", "app_key", "outcome")


def upgrade() -> None:
    for name in _AUDIT:
        op.create_index(f"pay_audit_{name}_id_idx", "pay_audit", [name, "id"], unique=False)
    op.create_index("pay_audit_time_idx", "pay_audit", ["time"], unique=False)
    op.add_column("pay_app", sa.Column("channel_approval", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    _replace_kinds("kind IN ('REFUND', 'ACCOUNT', 'CHANNEL', 'NEW_CHANNEL', 'APP')")


def downgrade() -> None:
    op.drop_index("pay_audit_time_idx", table_name="pay_audit")
    for name in _AUDIT:
        op.drop_index(f"pay_audit_{name}_id_idx", table_name="pay_audit")
    op.execute("DELETE FROM pay_approval WHERE kind IN ('NEW_CHANNEL', 'APP')")
    _replace_kinds("kind IN ('REFUND', 'ACCOUNT', 'CHANNEL')")
    op.drop_column("pay_app", "channel_approval")


def _replace_kinds(condition: str) -> None:
    op.drop_constraint(op.f("pay_approval_kind_check"), "pay_approval")
    op.create_check_constraint(op.f("pay_approval_kind_check"), "pay_approval", condition)
