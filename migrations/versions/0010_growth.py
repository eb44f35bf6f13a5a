"""What the tables need as they grow: a deletion of an app or a channel reads none of them, and two kinds of rows have an index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# What these say follows from other keys: an attempt and a refund are of the app of their order; a refund has the channel, the account
# and the binding of its attempt; an order was paid through the channel of its attempt; a binding is of a channel and an account.
_IMPLIED = (
    ("pay_attempt", "app_id", "pay_app"),
    ("pay_attempt", "account_id", "pay_account"),
    ("pay_attempt", "binding_id", "pay_binding"),
    ("pay_refund", "channel_id", "pay_channel"),
    ("pay_refund", "account_id", "pay_account"),
    ("pay_refund", "binding_id", "pay_binding"),
    ("pay_order", "channel_id", "pay_channel"),
)
_INDEXES = (
    ("pay_refund_channel_refund_no_idx", "pay_refund", ["channel_refund_no"], "channel_refund_no IS NOT NULL"),
    ("pay_notify_task_failure_idx", "pay_notify_task", ["id"], "state = 'FAILURE'"),
    ("pay_case_channel_id_idx", "pay_case", ["channel_id"], None),
)


def upgrade() -> None:
    # Each statement is committed by itself, so all of this can be repeated.
    with op.get_context().autocommit_block():
        # Each locks two tables. Together they would lock all of them, and a transaction that has written to one would wait for the
        # next in a circle with them.
        for table, column, _ in _IMPLIED:
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {table}_{column}_fkey")
        # Nobody who writes waits for these. They wait for all older transactions, such as a dump of the database, so they have no
        # time-out. An index whose making was interrupted is invalid, and is made again.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        for name, table, columns, where in _INDEXES:
            op.drop_index(name, table_name=table, if_exists=True, postgresql_concurrently=True)
            op.create_index(
                name, table, columns, unique=False, postgresql_concurrently=True, postgresql_where=sa.text(where) if where else None
            )
        op.execute("SET lock_timeout = '5s'")  # as in env.py
        op.execute("SET statement_timeout = '15min'")


def downgrade() -> None:
    for name, table, _, _ in _INDEXES:
        op.drop_index(name, table_name=table)
    for table, column, other in _IMPLIED:
        op.create_foreign_key(op.f(f"{table}_{column}_fkey"), table, other, [column], ["id"])
