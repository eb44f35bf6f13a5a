"""Statements on pay_notify_task (the outbox) and pay_notify_log; those of the delivery are in `notifications_delivery.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.events import SENT_NOW, Cause, Subject, current_actor
from paycenter_server.domain.notifications import NotificationLog, NotificationType, PayNotification, new_notification
from paycenter_server.domain.states import (
    NOTIFICATION,
    OPEN_NOTIFICATION,
    NotificationEvent,
    NotificationState,
    sources,
    target,
)
from paycenter_server.storage.database import Connection, Transaction, WriteConnection
from paycenter_server.storage.events import Change, cause_values, listed, named, noting
from paycenter_server.storage.lists import Conditions, columns_of, conditions_of, list_rows
from paycenter_server.storage.rows import RowMapping, to_model

NOTIFICATIONS = RowMapping(PayNotification, "pay_notify_task")
# The request of every delivery of a notification is its payload, which is stored once.
_LOG_COLUMNS = [item.name for item in fields(NotificationLog) if item.name != "request"]
# OFFSET 0: the deliveries are found by their notifications. In the order of their ids it would read those of all others, above all
# in a partition that is new and has no statistics. For the same reason there is no join.
_LOGS = f"""SELECT {", ".join(_LOG_COLUMNS)}, (SELECT n.payload FROM pay_notify_task n WHERE n.id = t.task_id) AS request
  FROM (SELECT id, {", ".join(_LOG_COLUMNS)} FROM pay_notify_log WHERE task_id = ANY($1) OFFSET 0) t ORDER BY id DESC LIMIT $2"""
CURRENT_URL = f"""coalesce(nullif(t.notification_url, ''), CASE t.type WHEN '{NotificationType.REFUND.value}'
  THEN app.refund_notification_url ELSE app.order_notification_url END)"""
"""Where a notification `t` goes: its own URL, or the current one of its app `app`."""
_READ = NOTIFICATIONS.select.replace("t.notification_url", f"{CURRENT_URL} AS notification_url")
# The order of what a notification reports.
_ABOUT = f"""(CASE type WHEN '{NotificationType.ORDER.value}' THEN data_id
  WHEN '{NotificationType.REFUND.value}' THEN (SELECT order_id FROM pay_refund WHERE id = data_id)
  ELSE (SELECT order_id FROM pay_case WHERE id = data_id) END)"""


def noting_state(event: str, first: int | str, rows: str = "changed") -> str:
    """The event of the notifications in the CTE `rows`; `event` in SQL."""
    return noting(rows, first, Change(Subject.NOTIFICATION, event, order_id=_ABOUT, before="before", after="state"))


def superseding(rows: str, state: str, now: str, cause: int | str) -> str:
    """CTEs that supersede and note the notifications `n` that `rows` finds. `state`, `now`: SQL. `cause`: as `first` of `noting`,
    over the rows `superseded`. The rows are found by their keys, whatever the statistics say."""
    return f"""replaced AS (
             SELECT n.id, n.state AS before FROM pay_notify_task n {rows} ORDER BY n.id FOR NO KEY UPDATE OF n
           ), older AS (
             UPDATE pay_notify_task n SET state = {state}, next_notify_time = NULL, update_time = {now}
             WHERE n.id = ANY(ARRAY(SELECT id FROM replaced)) RETURNING n.id, n.type, n.data_id, n.state
           ), superseded AS (
             SELECT older.*, replaced.before FROM older JOIN replaced USING (id)
           ), noted_superseded AS ({noting_state(named(NotificationEvent.SUPERSEDE), cause, "superseded")})"""


def superseding_each(rows: str, key: str) -> str:
    """`superseding` of the older open notifications of the object of each row of the CTE `rows`. `key`: the column with the id of
    the object; `version`, `at`, `actor_kind` and `actor` are those of its change."""
    of = f"FROM {rows} b WHERE b.{key} ="
    older = f"""WHERE n.data_id = ANY(ARRAY(SELECT {key} FROM {rows}))
    AND n.state = ANY({listed(sources(NOTIFICATION, NotificationEvent.SUPERSEDE))})
    AND n.data_version < (SELECT b.version {of} n.data_id)"""
    return superseding(
        older, named(target(NOTIFICATION, NotificationEvent.SUPERSEDE)), f"(SELECT b.at {of} n.data_id)",
        f"(SELECT b.actor_kind {of} superseded.data_id), (SELECT b.actor {of} superseded.data_id), NULL",
    )  # fmt: skip


def task_columns(kind: NotificationType, now: str, endpoint: str, given: Mapping[str, str]) -> dict[str, str]:
    """The columns of a new notification as SQL. `now`, `endpoint`, `given`: what it has of its own. The rest is constant, as of a
    sample."""
    sample_time = datetime.now(UTC)
    sample = new_notification(
        UUID(int=0), sample_time, app_id=UUID(int=0), app_key="", kind=kind, event="", data_id=UUID(int=0), data_version=0,
        merchant_order_id="", merchant_refund_no="", notification_url="", payload="",
    )  # fmt: skip
    values = dict(zip(NOTIFICATIONS.columns, NOTIFICATIONS.values(sample), strict=True))
    constants = {name: now if value == sample_time else _literal(value) for name, value in values.items()}
    return constants | {"endpoint": endpoint} | dict(given)


def _literal(value: object) -> str:
    return "NULL" if value is None else str(value) if isinstance(value, int) else named(str(value))


def telling(kind: NotificationType, first: int = 1, of: str = "") -> str:
    """CTEs that supersede the older open notifications of the object of a new one, and `task`, which inserts that.

    Their parameters, from the number `first`, are `task_values`. `of`: the CTE of the change that is notified, of one row; without
    the row they do nothing.
    """
    columns = NOTIFICATIONS.columns
    places = {name: f"${number}" for number, name in enumerate(columns, first)}
    app, data, version, now = (places[name] for name in ("app_id", "data_id", "data_version", "create_time"))
    of_app = "refund_notification_endpoint" if kind is NotificationType.REFUND else "order_notification_endpoint"
    places["endpoint"] = f"coalesce(nullif({places['endpoint']}, ''), app.{of_app})"
    last = first + len(columns)
    older = f"WHERE n.data_id = {data} AND n.data_version < {version} AND n.state = ANY(${last + 1})"
    older = superseding(f"CROSS JOIN {of} {older}" if of else older, f"${last}", now, last + 2)
    return f"""{older}, task AS (
             INSERT INTO pay_notify_task ({", ".join(columns)}) SELECT {", ".join(places.values())}
             FROM pay_app app{f", {of}" if of else ""} WHERE app.id = {app}
             ON CONFLICT (data_id, event, data_version) DO NOTHING RETURNING id
           )"""


def task_values(notification: PayNotification) -> list[Any]:
    """The arguments of the parameters of `telling`."""
    return [
        *NOTIFICATIONS.values(notification), target(NOTIFICATION, NotificationEvent.SUPERSEDE),
        sources(NOTIFICATION, NotificationEvent.SUPERSEDE), *cause_values(Cause(current_actor())),
    ]  # fmt: skip


_INSERTS = {kind: f"WITH {telling(kind)} SELECT id FROM task" for kind in NotificationType}


async def insert_notification(transaction: WriteConnection, notification: PayNotification) -> bool:
    """Insert a notification, in the transaction of the change that it reports. False if the same event has one.

    Older open notifications of the same object are superseded. Without a URL of its own it gets the endpoint of its app.
    """
    return await transaction.fetchval(_INSERTS[notification.type], *task_values(notification)) is not None


async def lock_notifications(transaction: Transaction, *data_ids: UUID, task_id: UUID | None = None) -> None:
    """Lock the notifications about these objects, and the one with this id, until the end of the transaction: before their case.

    A transaction that notifies of several objects locks them all at once, in the order of their keys as in `record`, because each
    new notification changes the older ones of its object.
    """
    await transaction.execute(
        "SELECT FROM pay_notify_task WHERE data_id = ANY($1) OR id = $2 ORDER BY id FOR NO KEY UPDATE", data_ids, task_id
    )


async def move_endpoint(transaction: WriteConnection, app_id: UUID, kind: NotificationType, endpoint: str) -> None:
    """Set the endpoint of an app's waiting notifications that go to the app's current URL."""
    await transaction.execute(
        """UPDATE pay_notify_task SET endpoint = $3 WHERE id = ANY(ARRAY(
             SELECT id FROM pay_notify_task WHERE app_id = $1 AND type = $2 AND notification_url = ''
               AND next_notify_time IS NOT NULL AND endpoint <> $3 ORDER BY id FOR NO KEY UPDATE))""",
        app_id, kind.value, endpoint,
    )  # fmt: skip


async def get_notification(connection: Connection, task_id: UUID) -> PayNotification | None:
    """Read by id, with the URL to which it goes now; None if there is none."""
    return NOTIFICATIONS.model(await connection.fetchrow(f"{_READ} WHERE t.id = $1", task_id))


async def newest_of(connection: Connection, data_id: UUID) -> PayNotification | None:
    """The newest notification of an object; None if it has none."""
    return NOTIFICATIONS.model(
        await connection.fetchrow(f"{_READ} WHERE t.data_id = $1 ORDER BY t.data_version DESC, t.id DESC LIMIT 1", data_id)
    )


async def list_logs(connection: Connection, task_id: UUID, limit: int = 100) -> list[NotificationLog]:
    """The last deliveries of a notification, oldest first."""
    return await list_logs_of(connection, [task_id], limit)


async def list_about(connection: Connection, subjects: Sequence[UUID], limit: int) -> list[PayNotification]:
    """The last notifications about these orders, refunds or cases, oldest first."""
    rows = await connection.fetch(
        f"{NOTIFICATIONS.select} WHERE t.data_id = ANY($1) ORDER BY t.id DESC LIMIT $2", list(subjects), limit
    )
    return NOTIFICATIONS.models(list(reversed(rows)))


async def list_logs_of(connection: Connection, task_ids: Sequence[UUID], limit: int) -> list[NotificationLog]:
    """The last deliveries of these notifications, oldest first."""
    rows = await connection.fetch(_LOGS, list(task_ids), limit)
    return [to_model(NotificationLog, row) for row in reversed(rows)]


async def resend(connection: WriteConnection, task_ids: Sequence[UUID], now: datetime, cause: Cause) -> list[UUID]:
    """Make finished notifications WAITING and due, and start their retry schedules again. The ids of those that it changed.

    A notification that is not finished, or whose object has a newer one, is not changed.
    """
    rows = await connection.fetch(
        f"""WITH old AS (SELECT id, state AS before FROM pay_notify_task t WHERE t.id = ANY($1) AND t.state = ANY($4)
             AND NOT EXISTS (SELECT 1 FROM pay_notify_task n WHERE n.data_id = t.data_id AND n.data_version > t.data_version)
             ORDER BY id FOR NO KEY UPDATE),
           changed AS (UPDATE pay_notify_task t SET state = $3, next_notify_time = $2, update_time = $2, schedule_start_time = $2,
             schedule_start_times = notify_times FROM old WHERE t.id = old.id
             RETURNING t.id, t.type, t.data_id, t.state, old.before),
           noted AS ({noting_state(named(NotificationEvent.RESEND), 5)})
           SELECT id FROM changed""",
        list(task_ids), now, target(NOTIFICATION, NotificationEvent.RESEND), sources(NOTIFICATION, NotificationEvent.RESEND),
        *cause_values(cause),
    )  # fmt: skip
    return [row["id"] for row in rows]


async def send_now(connection: WriteConnection, task_id: UUID, now: datetime, cause: Cause) -> bool:
    """Make an open notification due. Its retry schedule continues. False if it is not open."""
    done = await connection.fetchval(
        f"""WITH changed AS (UPDATE pay_notify_task SET next_notify_time = $2, update_time = $2
             WHERE id = $1 AND state = ANY($3) RETURNING id, type, data_id, state, state AS before),
           noted AS ({noting_state(named(SENT_NOW), 4)}) SELECT id FROM changed""",
        task_id, now, [state.value for state in OPEN_NOTIFICATION], *cause_values(cause),
    )  # fmt: skip
    return done is not None


_GIVEN_UP = NotificationState.FAILURE
_FAILING = [
    state.value for state in (NotificationState.FAILURE, NotificationState.REQUEST_SUCCESS, NotificationState.REQUEST_FAILURE)
]


@dataclass(frozen=True, slots=True)
class NotificationFilter:
    """The filters of ListPayNotifications. Empty values do not filter. `data_ids`: only about these objects; None for any.
    `first_id`: none with a smaller key. `failing`: those that were delivered and not received, or were given up."""

    app_id: UUID | None = None
    type: NotificationType | None = None
    state: NotificationState | None = None
    merchant_order_id: str = ""
    merchant_refund_no: str = ""
    data_id: UUID | None = None
    create_time_from: datetime | None = None
    create_time_to: datetime | None = None
    data_ids: tuple[UUID, ...] | None = None
    endpoint: str = ""
    failing: bool = False
    first_id: UUID | None = None

    @property
    def reads_many(self) -> bool:
        """Whether no index has the notifications, so that many may be read to find one."""
        by_object = self.data_id is not None or self.data_ids is not None
        return not (by_object or self.state is _GIVEN_UP) and bool(self.type or self.state or self.endpoint or self.failing)


def _conditions(where: NotificationFilter, *more: Any) -> Conditions:
    from sqlalchemy import text

    table, further = columns_of(NOTIFICATIONS), list(more)
    if where.failing:
        further.append(table.state.in_(_FAILING))
    if where.state is _GIVEN_UP:
        further.append(text(f"pay_notify_task.state = {named(_GIVEN_UP)}"))  # the condition of the index of these
    equal = {
        "type": where.type and where.type.value,
        "state": where.state.value if where.state and where.state is not _GIVEN_UP else None,
        "merchant_order_id": where.merchant_order_id, "merchant_refund_no": where.merchant_refund_no, "data_id": where.data_id,
        "endpoint": where.endpoint,
    }  # fmt: skip
    return conditions_of(
        NOTIFICATIONS, equal, {"data_id": where.data_ids}, app_id=where.app_id,
        created=(where.create_time_from, where.create_time_to), first_id=where.first_id, more=further,
        few=where.data_id is not None or where.state is _GIVEN_UP,
    )  # fmt: skip


async def list_notifications(
    connection: Connection, where: NotificationFilter, *, limit: int, before: UUID | None
) -> list[PayNotification]:
    """List notifications, newest first, by keyset, with the URLs to which they go now."""
    return await list_rows(connection, NOTIFICATIONS, _conditions(where), limit=limit, before=before, statement=_READ)


def _newest() -> Any:
    """That the object of a row has no newer notification.

    LIMIT and not EXISTS: that would become a join, which reads the notifications of all objects.
    """
    from sqlalchemy import select

    from paycenter_server.storage.tables import pay_notify_task

    newer, of = pay_notify_task.alias("newer"), pay_notify_task.c
    newer_one = select(newer.c.id).where(newer.c.data_id == of.data_id, newer.c.data_version > of.data_version).limit(1)
    return newer_one.correlate(pay_notify_task).scalar_subquery().is_(None)


async def list_resendable(connection: Connection, where: NotificationFilter, *, limit: int, before: UUID | None) -> list[UUID]:
    """The ids of notifications that `resend` would change, newest first. `where.state` is a finished state."""
    from sqlalchemy import select

    from paycenter_server.storage.rendering import render

    conditions = _conditions(where, _newest())
    statement = select(conditions.table.id).where(*conditions.where(before)).order_by(*conditions.newest_first).limit(limit)
    text, arguments = render(statement)
    return [row["id"] for row in await connection.fetch(text, *arguments)]


async def count_resendable(connection: Connection, where: NotificationFilter, *, before: UUID | None, limit: int) -> int:
    """How many `list_resendable` would list, counted up to `limit`."""
    from sqlalchemy import func, select

    from paycenter_server.storage.rendering import render

    conditions = _conditions(where, _newest())
    found = select(conditions.table.id).where(*conditions.where(before)).limit(limit).subquery()
    text, arguments = render(select(func.count()).select_from(found))
    return int(await connection.fetchval(text, *arguments))
