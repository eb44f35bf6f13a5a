"""Statements on pay_notify_task and pay_notify_log for the delivery: claims, and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.apps import NotificationSuccess
from paycenter_server.domain.events import Cause, current_actor
from paycenter_server.domain.notifications import NotificationType
from paycenter_server.domain.states import NOTIFICATION, NotificationEvent, sources, target
from paycenter_server.domain.values import value
from paycenter_server.storage.claims import due_of, due_rows, some_due_keys
from paycenter_server.storage.database import HARDLY_WAITING, Connection, WriteConnection
from paycenter_server.storage.events import cause_values
from paycenter_server.storage.notifications import CURRENT_URL, noting_state
from paycenter_server.storage.rows import to_model

# The ends of a claimed notification; a result is recorded only in states in which they are possible.
_RESULT_EVENTS = (
    NotificationEvent.RECEIVED,
    NotificationEvent.REFUSED,
    NotificationEvent.UNANSWERED,
    NotificationEvent.GIVE_UP,
    NotificationEvent.SUPERSEDE,
)
_TARGETS = {event: target(NOTIFICATION, event) for event in _RESULT_EVENTS}
_ENDS = (NotificationEvent.RECEIVED, NotificationEvent.GIVE_UP, NotificationEvent.SUPERSEDE)


@value
class DueNotification:
    """A claimed notification with the values of its app that the delivery needs. Secrets are sealed.

    `endpoint` is the one under which it was claimed. `notification_url` is where it goes now. `superseded`: there is a newer
    notification of the same object, so this one is not sent.
    """

    id: UUID
    app_id: UUID
    app_key: str
    type: NotificationType
    event: str
    data_id: UUID
    endpoint: str
    notification_url: str
    payload: str
    notify_times: int
    schedule_start_times: int
    superseded: bool
    notification_success: NotificationSuccess
    notification_secret: str
    notification_secrets_previous: Sequence[Mapping[str, str]]


_DUE_ENDPOINTS = some_due_keys("pay_notify_task", "endpoint", "next_notify_time")
_DUE_OF_ENDPOINTS = due_of("pay_notify_task", "endpoint", "text", "next_notify_time")
_CLAIM = f"""WITH due AS MATERIALIZED (
  {due_rows("pay_notify_task", "endpoint", "text", "next_notify_time")}
), claimed AS (
  UPDATE pay_notify_task t SET next_notify_time = $2 WHERE t.id = ANY(ARRAY(SELECT id FROM due))
  RETURNING t.id, t.app_id, t.type, t.event, t.data_id, t.data_version, t.endpoint, t.notification_url, t.payload, t.notify_times,
    t.schedule_start_times
) SELECT t.id, t.app_id, t.type, t.event, t.data_id, t.endpoint, {CURRENT_URL} AS notification_url, t.payload, t.notify_times,
    t.schedule_start_times, app.app_key, app.notification_success, app.notification_secret, app.notification_secrets_previous,
    EXISTS (SELECT 1 FROM pay_notify_task n WHERE n.data_id = t.data_id AND n.data_version > t.data_version) AS superseded
  FROM claimed t JOIN pay_app app ON app.id = t.app_id"""


async def due_endpoints(connection: Connection, now: datetime, first: str, limit: int) -> tuple[dict[str, datetime], str | None]:
    """The endpoints that have due notifications, each with the earliest time, among `limit` endpoints that have waiting ones, from
    the endpoint `first` on. Also the last of these; None if there are not so many.

    It reads one row for each endpoint, however many are due.
    """
    rows = await connection.fetch(_DUE_ENDPOINTS, now, first, limit)
    due = {row["endpoint"]: row["next_notify_time"] for row in rows if row["next_notify_time"] <= now}
    return due, rows[-1]["endpoint"] if rows and rows[-1]["at_end"] else None


async def due_of_endpoints(connection: Connection, now: datetime, endpoints: Sequence[str]) -> dict[str, datetime]:
    """Those of the endpoints that have due notifications, each with the earliest time. It reads one row for each of them."""
    rows = await connection.fetch(_DUE_OF_ENDPOINTS, now, endpoints)
    return {row["endpoint"]: row["next_notify_time"] for row in rows}


async def claim_due(
    connection: WriteConnection, now: datetime, lease: datetime, places: Mapping[str, int]
) -> list[DueNotification]:
    """Claim the notifications that have been due longest, at most `places` of each endpoint.

    Each is due again at `lease`, so that a killed worker loses nothing. It reads the rows that it claims, and no others.
    """
    rows = await connection.fetch(_CLAIM, now, lease, list(places), list(places.values()))
    return [to_model(DueNotification, row) for row in rows]


@value
class DeliveryResult:
    """The result of one claim. `times`: 1 if it was a delivery, 0 if nothing was sent. `problem`: empty if it was received.

    `endpoint`: the one to which it went, which the row gets; empty if it is not changed.
    """

    task_id: UUID
    claimed_times: int
    event: NotificationEvent
    next_notify_time: datetime | None
    url: str
    http_status: int
    duration_ms: int
    answer: str
    at: datetime
    endpoint: str = ""
    problem: str = ""
    times: int = 1


@value
class Recorded:
    """What became of the results of one statement: the notifications that it changed, and those that it left out with their
    results, because another transaction has locked them."""

    changed: set[UUID]
    locked: set[UUID]


async def record(connection: WriteConnection, results: Sequence[DeliveryResult]) -> Recorded:
    """Store results and their log in one statement, which waits for no notification: what another transaction has locked is left
    out, so that it does not hold up the others. In the transaction of `connection`, nothing waits longer than HARDLY_WAITING.

    A notification that has changed since its claim is only logged; of one that was deleted nothing is stored. The ledger gets an
    event of each that ends, the log every delivery. LockTimeout, with nothing stored, if a lock of anything else was not got.

    `jsonb_array_elements` returns nothing. It is there for the planner, which takes an array of unknown length for ten rows, and
    then compares each notification with each result. For a hundred it uses a hash table.
    """
    rows = await connection.fetch(
            f"""WITH {HARDLY_WAITING}, given AS MATERIALIZED (
                 SELECT g.* FROM ROWS FROM (unnest($1::uuid[], $2::int[], $3::text[], $4::timestamptz[], $5::text[], $6::int[],
                   $7::int[], $8::text[], $9::timestamptz[], $11::text[], $12::text[], $13::int[], $14::text[]),
                   jsonb_array_elements('[]'))
                   AS g(task_id, claimed, state, next_time, url, http_status, duration_ms, answer, at, endpoint, problem, times,
                     event, nothing) CROSS JOIN hardly_waiting
               ), locked AS MATERIALIZED (
                 SELECT g.*, t.before FROM given g CROSS JOIN LATERAL (
                   SELECT state AS before FROM pay_notify_task WHERE id = g.task_id FOR NO KEY UPDATE SKIP LOCKED) t
               ), logged AS (
                 INSERT INTO pay_notify_log (task_id, notify_times, state, url, http_status, duration_ms, answer, create_time)
                 SELECT task_id, claimed + times, state, url, http_status, duration_ms, answer, at FROM locked
               ), moved AS (
                 UPDATE pay_notify_task t SET state = g.state, notify_times = g.claimed + g.times, next_notify_time = g.next_time,
                   last_execute_time = g.at, update_time = g.at, problem = g.problem,
                   endpoint = coalesce(nullif(g.endpoint, ''), t.endpoint)
                 FROM locked g WHERE t.id = ANY(ARRAY(SELECT task_id FROM locked)) AND t.id = g.task_id
                   AND t.notify_times = g.claimed AND t.state = ANY($10)
                   RETURNING t.id, t.type, t.data_id, t.state, g.event, g.before
               ), ended AS (
                 SELECT * FROM moved WHERE event = ANY($15)
               ), noted AS ({noting_state("event", 16, "ended")})
               SELECT id, true AS changed FROM moved UNION ALL
               SELECT g.task_id, false FROM (SELECT task_id FROM given EXCEPT SELECT task_id FROM locked) g
                 WHERE (SELECT t.id FROM pay_notify_task t WHERE t.id = g.task_id) IS NOT NULL""",
            [d.task_id for d in results],
            [d.claimed_times for d in results],
            [_TARGETS[d.event] for d in results],
            [d.next_notify_time for d in results],
            [d.url for d in results],
            [d.http_status for d in results],
            [d.duration_ms for d in results],
            [d.answer for d in results],
            [d.at for d in results],
            sources(NOTIFICATION, *_RESULT_EVENTS),
            [d.endpoint for d in results],
            [d.problem[:512] for d in results],
            [d.times for d in results],
            [d.event for d in results],
            [event.value for event in _ENDS],
            *cause_values(Cause(current_actor())),
    )  # fmt: skip
    return Recorded({row["id"] for row in rows if row["changed"]}, {row["id"] for row in rows if not row["changed"]})
