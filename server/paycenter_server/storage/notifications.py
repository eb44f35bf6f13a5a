"""Statements on pay_notify_task (the outbox) and pay_notify_log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.apps import NotificationSuccess
from paycenter_server.domain.notifications import NotificationLog, NotificationType, PayNotification
from paycenter_server.domain.states import NOTIFICATION, NotificationEvent, NotificationState, sources, target
from paycenter_server.storage.database import Connection, WriteConnection
from paycenter_server.storage.rows import RowMapping, to_model

NOTIFICATIONS = RowMapping(PayNotification, "pay_notify_task")
LOGS = RowMapping(NotificationLog, "pay_notify_log")
# The events of a delivery; a result is recorded only in states in which they are possible.
_DELIVERY_EVENTS = (
    NotificationEvent.RECEIVED,
    NotificationEvent.REFUSED,
    NotificationEvent.UNANSWERED,
    NotificationEvent.GIVE_UP,
)


async def insert_notification(transaction: WriteConnection, notification: PayNotification) -> bool:
    """Insert a notification, in the transaction of the change that it reports. False if the same event has one."""
    done = await transaction.fetchval(
        f"{NOTIFICATIONS.insert} ON CONFLICT (data_id, event, data_version) DO NOTHING RETURNING id",
        *NOTIFICATIONS.values(notification),
    )
    return done is not None


@dataclass(frozen=True, slots=True)
class DueNotification:
    """A claimed notification with the values of its app that the delivery needs. Secrets are sealed."""

    id: UUID
    app_id: UUID
    app_key: str
    notification_url: str
    payload: str
    notify_times: int
    schedule_start_times: int
    notification_success: NotificationSuccess
    notification_secret: str
    notification_secret_previous: str | None
    notification_secret_previous_until: datetime | None


async def claim_due(
    connection: WriteConnection, now: datetime, lease: datetime, limit: int, per_app: int, busy: Sequence[UUID] = ()
) -> list[DueNotification]:
    """Claim due notifications, at most `per_app` of one app, so that a slow receiver does not delay other apps.

    Apps in `busy` are skipped. Each notification is due again at `lease`, so that a killed worker loses nothing.
    """
    rows = await connection.fetch(
        f"""WITH ranked AS (
             SELECT id, row_number() OVER (PARTITION BY app_id ORDER BY next_notify_time) AS place
             FROM (SELECT id, app_id, next_notify_time FROM pay_notify_task
                   WHERE next_notify_time <= $1 AND NOT app_id = ANY($5) ORDER BY next_notify_time LIMIT 1000) candidates
           ), locked AS (
             SELECT t.id FROM pay_notify_task t WHERE t.next_notify_time <= $1 AND t.id IN (
               SELECT id FROM ranked WHERE place <= $4 LIMIT $3) FOR NO KEY UPDATE SKIP LOCKED
           ), due AS (
             UPDATE pay_notify_task t SET next_notify_time = $2 FROM locked WHERE t.id = locked.id
             RETURNING {NOTIFICATIONS.returning}
           ) SELECT d.id, d.app_id, d.notification_url, d.payload, d.notify_times, d.schedule_start_times, a.app_key,
               a.notification_success, a.notification_secret, a.notification_secret_previous,
               a.notification_secret_previous_until FROM due d JOIN pay_app a ON a.id = d.app_id""",
        now, lease, limit, per_app, list(busy),
    )  # fmt: skip
    return [to_model(DueNotification, row) for row in rows]


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The result of one delivery."""

    task_id: UUID
    claimed_times: int
    event: NotificationEvent
    next_notify_time: datetime | None
    url: str
    request: str
    http_status: int
    duration_ms: int
    answer: str
    at: datetime


async def record(connection: WriteConnection, deliveries: Sequence[DeliveryResult]) -> int:
    """Store results and their log in one statement. A notification that has changed since its claim is only logged."""
    recorded = await connection.fetchval(
            """WITH given AS (
                 SELECT * FROM unnest($1::uuid[], $2::int[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::int[],
                   $8::int[], $9::text[], $10::timestamptz[])
                   AS g(task_id, claimed, state, next_time, url, request, http_status, duration_ms, answer, at)
               ), logged AS (
                 INSERT INTO pay_notify_log (task_id, notify_times, state, url, request, http_status, duration_ms, answer,
                   create_time)
                 SELECT task_id, claimed + 1, state, url, request, http_status, duration_ms, answer, at FROM given
               ), moved AS (
                 UPDATE pay_notify_task t SET state = g.state, notify_times = g.claimed + 1, next_notify_time = g.next_time,
                   last_execute_time = g.at, update_time = g.at
                 FROM given g WHERE t.id = g.task_id AND t.notify_times = g.claimed AND t.state = ANY($11) RETURNING t.id
               ) SELECT count(*) FROM moved""",
            [d.task_id for d in deliveries],
            [d.claimed_times for d in deliveries],
            [target(NOTIFICATION, d.event) for d in deliveries],
            [d.next_notify_time for d in deliveries],
            [d.url for d in deliveries],
            [d.request for d in deliveries],
            [d.http_status for d in deliveries],
            [d.duration_ms for d in deliveries],
            [d.answer for d in deliveries],
            [d.at for d in deliveries],
            sources(NOTIFICATION, *_DELIVERY_EVENTS),
    )  # fmt: skip
    return int(recorded)


async def get_notification(connection: Connection, task_id: UUID) -> PayNotification | None:
    """Read by id; None if there is none."""
    return NOTIFICATIONS.model(await connection.fetchrow(f"{NOTIFICATIONS.select} WHERE t.id = $1", task_id))


async def list_logs(connection: Connection, task_id: UUID, limit: int = 100) -> list[NotificationLog]:
    """The last deliveries of a notification, oldest first."""
    rows = await connection.fetch(f"{LOGS.select} WHERE t.task_id = $1 ORDER BY t.id DESC LIMIT $2", task_id, limit)
    return LOGS.models(list(reversed(rows)))


async def list_about(connection: Connection, subjects: Sequence[UUID], limit: int) -> list[PayNotification]:
    """The last notifications about these orders, refunds or cases, oldest first."""
    rows = await connection.fetch(
        f"{NOTIFICATIONS.select} WHERE t.data_id = ANY($1) ORDER BY t.id DESC LIMIT $2", list(subjects), limit
    )
    return NOTIFICATIONS.models(list(reversed(rows)))


async def list_logs_of(connection: Connection, task_ids: Sequence[UUID], limit: int) -> list[NotificationLog]:
    """The last deliveries of these notifications, oldest first."""
    rows = await connection.fetch(f"{LOGS.select} WHERE t.task_id = ANY($1) ORDER BY t.id DESC LIMIT $2", list(task_ids), limit)
    return LOGS.models(list(reversed(rows)))


async def resend(connection: WriteConnection, task_id: UUID, now: datetime) -> bool:
    """Make a finished notification WAITING and due, and start its retry schedule again. False if it is not finished."""
    done = await connection.fetchval(
        """UPDATE pay_notify_task SET state = $3, next_notify_time = $2, update_time = $2, schedule_start_time = $2,
           schedule_start_times = notify_times WHERE id = $1 AND state = ANY($4) RETURNING id""",
        task_id, now, target(NOTIFICATION, NotificationEvent.RESEND), sources(NOTIFICATION, NotificationEvent.RESEND),
    )  # fmt: skip
    return done is not None


@dataclass(frozen=True, slots=True)
class NotificationFilter:
    """The filters of ListPayNotifications. Empty values do not filter."""

    app_id: UUID | None = None
    type: NotificationType | None = None
    state: NotificationState | None = None
    merchant_order_id: str = ""
    merchant_refund_no: str = ""
    data_id: UUID | None = None
    create_time_from: datetime | None = None
    create_time_to: datetime | None = None


async def list_notifications(
    connection: Connection, where: NotificationFilter, *, limit: int, before: UUID | None
) -> list[PayNotification]:
    """List notifications, newest first, by keyset."""
    from sqlalchemy import select

    from paycenter_server.storage.rendering import render
    from paycenter_server.storage.tables import pay_app, pay_notify_task

    table = pay_notify_task.c
    conditions: list[Any] = []
    for column, value in (
        (table.app_id, where.app_id),
        (table.type, where.type.value if where.type else None),
        (table.state, where.state.value if where.state else None),
        (table.merchant_order_id, where.merchant_order_id),
        (table.merchant_refund_no, where.merchant_refund_no),
        (table.data_id, where.data_id),
    ):
        if value:
            conditions.append(column == value)
    if where.create_time_from is not None:
        conditions.append(table.create_time >= where.create_time_from)
    if where.create_time_to is not None:
        conditions.append(table.create_time < where.create_time_to)
    if before is not None:
        conditions.append(table.id < before)
    statement = (
        select(*(table[name] for name in NOTIFICATIONS.columns), pay_app.c.app_key)
        .join(pay_app, pay_app.c.id == table.app_id)
        .where(*conditions)
    )
    text, arguments = render(statement.order_by(table.id.desc()).limit(limit))
    return NOTIFICATIONS.models(await connection.fetch(text, *arguments))
