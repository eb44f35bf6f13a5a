"""Statements on pay_operator_view."""

from __future__ import annotations

from uuid import UUID

from paycenter_server.domain.views import PayOperatorView, ViewList
from paycenter_server.storage.database import Connection, WriteConnection
from paycenter_server.storage.rows import RowMapping

VIEWS = RowMapping(PayOperatorView, "pay_operator_view")


async def list_views(connection: Connection, operator_id: UUID, of: ViewList) -> list[PayOperatorView]:
    """The views of an operator for a list, by name."""
    return VIEWS.models(
        await connection.fetch(f"{VIEWS.select} WHERE t.operator_id = $1 AND t.list = $2 ORDER BY t.name", operator_id, of.value)
    )


async def save_view(connection: WriteConnection, view: PayOperatorView) -> None:
    """Insert a view, or replace the one with this name."""
    await connection.execute(
        f"{VIEWS.insert} ON CONFLICT (operator_id, list, name) "
        "DO UPDATE SET query = excluded.query, update_time = excluded.update_time",
        *VIEWS.values(view),
    )


async def count_others(connection: Connection, view: PayOperatorView) -> int:
    """How many other views the operator has, in all lists."""
    return int(
        await connection.fetchval(
            "SELECT count(*) FROM pay_operator_view WHERE operator_id = $1 AND (list, name) <> ($2, $3)",
            view.operator_id, view.list.value, view.name,
        )
    )  # fmt: skip


async def delete_view(connection: WriteConnection, operator_id: UUID, key: UUID) -> None:
    """Delete a view of this operator. Nothing if there is none."""
    await connection.execute("DELETE FROM pay_operator_view WHERE id = $1 AND operator_id = $2", key, operator_id)
