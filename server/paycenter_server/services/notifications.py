"""Notifications: list, read, resend."""

from __future__ import annotations

from dataclasses import replace

from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.notifications import NotificationLog, PayNotification
from paycenter_server.services import errors
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.paging import Page, Pager
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage.notifications import NotificationFilter


class Notifications:
    """Lists, reads and resends notifications. An app accesses its own."""

    def __init__(self, context: Context, identity: Identity) -> None:
        self._context = context
        self._identity = identity

    async def search(self, caller: Caller, app_key: str, where: NotificationFilter, pager: Pager) -> Page[PayNotification]:
        """List notifications, newest first."""
        where = replace(where, app_id=await self._identity.list_scope(caller, app_key))
        async with self._context.database.connection() as connection:
            rows = await notification_rows.list_notifications(connection, where, limit=pager.size + 1, before=pager.before(where))
        return pager.page(rows, where)

    async def get(self, caller: Caller, number: str) -> tuple[PayNotification, list[NotificationLog]]:
        """Read a notification with the log of its deliveries."""
        key = decode(Prefix.NOTIFICATION, number)
        async with self._context.database.connection() as connection:
            task = await notification_rows.get_notification(connection, key) if key else None
            if task is None or not self._identity.owns(caller, task.app_id):
                raise errors.notification_not_found()
            return task, await notification_rows.list_logs(connection, task.id)

    async def resend(self, caller: Caller, number: str) -> PayNotification:
        """Send a finished notification again now, and then by the whole retry schedule. NOTIFICATION_OPEN if it is not finished."""
        task, _ = await self.get(caller, number)
        async with self._context.database.connection() as connection:
            if not await notification_rows.resend(connection, task.id, self._context.now()):
                raise errors.notification_open()
        self._context.wake_up.send()
        return (await self.get(caller, number))[0]
