"""What apps were told: list, read, resend."""

from __future__ import annotations

from dataclasses import replace

from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.models import NotifyLog, NotifyTask
from paycenter_server.domain.schedule import NOTIFY_MAX_TIMES
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.orders import Orders
from paycenter_server.services.paging import Page, Pager
from paycenter_server.storage import notifications as notify_rows
from paycenter_server.storage.notifications import TaskFilter


class NotifyAdmin:
    """Apps see and resend their own."""

    def __init__(self, context: Context, identity: Identity, orders: Orders) -> None:
        self._context = context
        self._identity = identity
        self._orders = orders

    async def search(self, caller: Caller, app_key: str, where: TaskFilter, pager: Pager) -> Page[NotifyTask]:
        """Newest first."""
        where = replace(where, app_id=await self._orders.list_scope(caller, app_key))
        async with self._context.database.connection() as connection:
            rows = await notify_rows.list_tasks(connection, where, limit=pager.size + 1, before=pager.before(where))
        return pager.page(rows, where)

    async def get(self, caller: Caller, number: str) -> tuple[NotifyTask, list[NotifyLog]]:
        """With the log of its deliveries."""
        key = decode(Prefix.NOTIFY, number)
        async with self._context.database.connection() as connection:
            task = await notify_rows.get_task(connection, key) if key else None
            if task is None or not self._identity.owns(caller, task.app_id):
                raise PayCenterError(Reason.NOTIFY_TASK_NOT_FOUND, "There is no such notification; check the number.")
            return task, await notify_rows.list_logs(connection, task.id)

    async def resend(self, caller: Caller, number: str) -> NotifyTask:
        """A finished one is sent again now, and then by the whole schedule."""
        task, _ = await self.get(caller, number)
        async with self._context.database.connection() as connection:
            if not await notify_rows.resend(connection, task.id, self._context.now(), NOTIFY_MAX_TIMES):
                raise PayCenterError(
                    Reason.NOTIFY_TASK_OPEN, "The notification is still being delivered by its schedule; wait for it."
                )
        self._context.bell.ring()
        return (await self.get(caller, number))[0]
