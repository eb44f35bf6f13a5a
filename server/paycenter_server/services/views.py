"""The views that operators save: each has its own."""

from __future__ import annotations

from uuid import UUID

from paycenter_server.domain.callers import Caller
from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.validation import Check
from paycenter_server.domain.views import MOST_VIEWS, NAME_MAX, QUERY_MAX, PayOperatorView, ViewList
from paycenter_server.services import operators_errors
from paycenter_server.services.context import Context
from paycenter_server.services.operators_totp import own_id
from paycenter_server.storage import operators as operator_rows
from paycenter_server.storage import views as view_rows


class Views:
    """Save, list and delete the caller's own views."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list_own(self, caller: Caller, of: ViewList) -> list[PayOperatorView]:
        """The caller's views of a list, by name; none for a program."""
        if caller.operator_id is None:
            return []
        async with self._context.database.connection() as connection:
            return await view_rows.list_views(connection, caller.operator_id, of)

    async def save(self, caller: Caller, of: ViewList, name: str, query: str) -> None:
        """Save a query under a name, in place of the one that has it. INVALID_FIELD if there are too many."""
        check = Check()
        check.text("name", name, NAME_MAX, minimum=1)
        check.text("query", query, QUERY_MAX)
        check.done()
        now = self._context.now()
        view = PayOperatorView(self._context.new_key(now), own_id(caller), of, name, query, now, now)
        async with self._context.database.transaction() as transaction:
            # Locked, so that two calls cannot pass the limit together.
            if await operator_rows.lock_operator(transaction, view.operator_id) is None:
                raise operators_errors.operator_not_found()
            if await view_rows.count_others(transaction, view) >= MOST_VIEWS:
                raise invalid([Violation("name", f"is one too many: you have {MOST_VIEWS} views; delete one first")])
            await view_rows.save_view(transaction, view)

    async def delete(self, caller: Caller, key: UUID) -> None:
        """Delete a view of the caller. Nothing if there is none."""
        async with self._context.database.connection() as connection:
            await view_rows.delete_view(connection, own_id(caller), key)
