"""Notifications: list, read, resend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from paycenter_server.domain.events import Cause
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.notifications import NotificationLog, PayNotification
from paycenter_server.domain.states import NotificationState
from paycenter_server.domain.validation import Check
from paycenter_server.services import notifications_errors
from paycenter_server.services.audit import Act, record
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.paging import Page, Pager, bounded
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage import search as search_rows
from paycenter_server.storage.database import Connection
from paycenter_server.storage.notifications import NotificationFilter

COUNT_LIMIT = 100_000
"""The notifications that are looked at to count, and the most that are counted."""


@dataclass(frozen=True, slots=True)
class ResentPage:
    """The result of one page of a resend by filter. `remaining`: how many match after this page, as far as COUNT_LIMIT says."""

    matched: int
    resent: int
    remaining: int
    next_token: str


class Notifications:
    """Lists, reads and resends notifications. An app accesses its own."""

    def __init__(self, context: Context, identity: Identity) -> None:
        self._context = context
        self._identity = identity

    async def search(
        self, caller: Caller, app_key: str, where: NotificationFilter, pager: Pager, *, scan: int | None = None
    ) -> Page[PayNotification]:
        """List notifications, newest first. `scan`: as in `Orders.search`."""
        where = replace(where, app_id=await self._identity.list_scope(caller, app_key))
        async with self._context.database.connection() as connection:
            narrowed = await self._by_object(connection, where)
            before = pager.before(where)
            narrowed = await bounded(connection, "pay_notify_task", narrowed, before, scan)
            rows = await notification_rows.list_notifications(connection, narrowed, limit=pager.size + 1, before=before)
        return pager.page(rows, where, scanned=narrowed.first_id)

    @staticmethod
    async def _by_object(connection: Connection, where: NotificationFilter) -> NotificationFilter:
        """With the objects that have the merchant's numbers, because notifications are indexed by their object."""
        found: list[UUID] = []
        if where.merchant_refund_no:
            found = await search_rows.refunds_by_merchant_no(connection, where.merchant_refund_no, where.app_id)
        elif where.merchant_order_id:
            found = await search_rows.orders_by_merchant_id(connection, where.merchant_order_id, where.app_id)
            found += await search_rows.objects_of_orders(connection, found)
        else:
            return where
        return replace(where, data_ids=tuple(found))

    async def get(self, caller: Caller, number: str) -> tuple[PayNotification, list[NotificationLog]]:
        """Read a notification with the log of its deliveries."""
        key = decode(Prefix.NOTIFICATION, number)
        async with self._context.database.connection() as connection:
            task = await notification_rows.get_notification(connection, key) if key else None
            if task is None or not self._identity.owns(caller, task.app_id):
                raise notifications_errors.notification_not_found()
            return task, await notification_rows.list_logs(connection, task.id)

    async def resend(self, caller: Caller, number: str) -> PayNotification:
        """Send a finished notification again now, and then by the whole retry schedule.

        NOTIFICATION_OPEN if it is not finished, NOTIFICATION_SUPERSEDED if a newer one of its object replaces it.
        """
        task, _ = await self.get(caller, number)
        async with self._context.database.transaction() as connection:
            if not await notification_rows.resend(connection, [task.id], self._context.now(), Cause(caller.actor)):
                await self._refuse_superseded(connection, task)
                raise notifications_errors.notification_open()
            await record(connection, caller, Act("PayNotificationService/ResendPayNotification", number, task.app_key))
        self._context.wake_up.send()
        return (await self.get(caller, number))[0]

    async def send_now(self, caller: Caller, number: str) -> PayNotification:
        """Make a waiting notification due at once. Its retry schedule continues with the delivery after the next one.

        NOTIFICATION_FINISHED if no delivery follows, NOTIFICATION_SUPERSEDED if a newer one of its object replaces it.
        """
        task, _ = await self.get(caller, number)
        async with self._context.database.transaction() as connection:
            if not await notification_rows.send_now(connection, task.id, self._context.now(), Cause(caller.actor)):
                await self._refuse_superseded(connection, task)
                raise notifications_errors.notification_finished(task)
            await record(connection, caller, Act("PayNotificationService/SendPayNotificationNow", number, task.app_key))
        self._context.wake_up.send()
        return (await self.get(caller, number))[0]

    @staticmethod
    async def _refuse_superseded(connection: Connection, task: PayNotification) -> None:
        newest = await notification_rows.newest_of(connection, task.data_id)
        if newest is not None and newest.data_version > task.data_version:
            raise notifications_errors.notification_superseded(task, newest)

    async def resend_matching(
        self, caller: Caller, app_key: str, where: NotificationFilter, pager: Pager, *, dry_run: bool
    ) -> ResentPage:
        """Send again one page of the finished notifications that match, newest first; a dry run changes nothing.

        `where.state` is FAILURE or SUCCESS; None means FAILURE. Superseded notifications do not match.
        """
        check = Check()
        if where.state not in (None, NotificationState.FAILURE, NotificationState.SUCCESS):
            check.fail("state", "must be FAILURE or SUCCESS; only a finished notification can be sent again")
        check.done()
        where = replace(
            where, app_id=await self._identity.list_scope(caller, app_key), state=where.state or NotificationState.FAILURE
        )
        mark = ("resend", where)
        before = pager.before(mark)
        async with self._context.database.transaction() as connection:
            where = await self._by_object(connection, where)
            page = await bounded(connection, "pay_notify_task", where, before, None)
            keys = await notification_rows.list_resendable(connection, page, limit=pager.size + 1, before=before)
            last = keys[pager.size - 1] if len(keys) > pager.size else page.first_id
            keys = keys[: pager.size]
            again = [] if dry_run else await notification_rows.resend(connection, keys, self._context.now(), Cause(caller.actor))
            resent = len(again)
            remaining = 0
            if last is not None:
                scan = COUNT_LIMIT if where.reads_many else None
                counted = await bounded(connection, "pay_notify_task", where, last, scan)
                remaining = await notification_rows.count_resendable(connection, counted, before=last, limit=COUNT_LIMIT)
            if resent:
                numbers = [encode(Prefix.NOTIFICATION, key) for key in keys]
                after = {"resent": resent, "first": numbers[0], "last": numbers[-1]}
                await record(connection, caller, Act("PayNotificationService/ResendPayNotifications", "", app_key), None, after)
        if resent:
            self._context.wake_up.send()
        return ResentPage(len(keys), resent, remaining, pager.token(last, mark) if last is not None else "")
