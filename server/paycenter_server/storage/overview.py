"""Sums and counts for the overview. Each statement reads a range of a primary key, or an index of rows that are not settled, or
stops at a limit; its docstring says what it reads at 10 million rows of each table in 30 days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.states import CASE, OPEN_ATTEMPT, REFUND, CaseEvent, RefundEvent, created, sources
from paycenter_server.storage.claims import waiting_keys
from paycenter_server.storage.database import Connection
from paycenter_server.storage.keyrange import end_key, first_key

COUNTED = 10_000
"""Rows that are counted one by one; more are reported as this many."""
LOOKED_AT = 30_000
"""Rows that are read to find those that are counted. With more than so many, those beyond are not found."""
ENDPOINT_ROWS = 3_000
"""Of them, those of one endpoint, so that the others are found beside one that has not received for days."""
FAILING_ENDPOINTS = 20
"""The endpoints that are listed."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one channel code and state. Amounts in minor units."""

    channel_code: str
    state: str
    rows: int
    amount: int


_ORDERS = """SELECT coalesce(channel_code, '') AS channel_code, state, count(*) AS rows, sum(paid_amount)::bigint AS amount
  FROM pay_order WHERE id >= $1 AND id < $2 AND create_time >= $3 AND create_time < $4 GROUP BY 1, 2"""
_ATTEMPTS = """SELECT channel_code, state, count(*) AS rows, sum(paid_amount)::bigint AS amount
  FROM pay_attempt WHERE id >= $1 AND id < $2 AND create_time >= $3 AND create_time < $4 GROUP BY 1, 2"""
_REFUNDS = """SELECT channel_code, state, count(*) AS rows, sum(amount)::bigint AS amount
  FROM pay_refund WHERE id >= $1 AND id < $2 AND create_time >= $3 AND create_time < $4 GROUP BY 1, 2"""


async def sum_day(connection: Connection, start: datetime, end: datetime) -> tuple[list[Group], list[Group], list[Group]]:
    """Orders, attempts and refunds that were created from start until end.

    A day of 10 million rows in 30 days: 333,000 rows of each table, read by the primary key. The caller keeps the sums.
    """
    range_ = (first_key(start), end_key(end), start, end)
    found = []
    for statement in (_ORDERS, _ATTEMPTS, _REFUNDS):
        rows = await connection.fetch(statement, *range_)
        found.append([Group(row["channel_code"], row["state"], row["rows"], row["amount"] or 0) for row in rows])
    return found[0], found[1], found[2]


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Attempts or refunds that are not settled, by age: of the last hour, of the last day, older. Amounts in minor units."""

    hour: int = 0
    day: int = 0
    older: int = 0
    amount: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.hour + self.day + self.older


_UNSETTLED = """SELECT count(*) FILTER (WHERE id >= $2) AS hour, count(*) FILTER (WHERE id < $2 AND id >= $3) AS day,
    count(*) FILTER (WHERE id < $3) AS older, coalesce(sum(amount), 0)::bigint AS amount
  FROM (SELECT id, amount, state FROM {table} WHERE next_check_time IS NOT NULL ORDER BY account_id, next_check_time LIMIT $4) t
  WHERE state = ANY($1)"""
"""In the order of the index: without an order the planner may read all its entries before the first row."""


async def unsettled(connection: Connection, hour_ago: datetime, day_ago: datetime) -> tuple[Unsettled, Unsettled]:
    """Open attempts and WAITING refunds. It reads LOOKED_AT entries of each partial index of next checks at most, in which are also
    the final states that are looked at again."""
    found = []
    for table, states in (("pay_attempt", OPEN_ATTEMPT), ("pay_refund", sources(REFUND, RefundEvent.SUCCEED))):
        row = await connection.fetchrow(_UNSETTLED.format(table=table), states, first_key(hour_ago), first_key(day_ago), LOOKED_AT)
        found.append(Unsettled(row["hour"], row["day"], row["older"], row["amount"]) if row else Unsettled())
    return found[0], found[1]


@dataclass(frozen=True, slots=True)
class FailingEndpoint:
    """An endpoint whose notifications were delivered and not received. `oldest`: the key of the oldest of them. `more`: not all
    that wait were looked at, so there may be more of them than `rows`."""

    endpoint: str
    rows: int
    oldest: UUID
    more: bool


# The rows are read in the order of the index, with the latest next delivery first: while workers keep up, those that were
# delivered have later times than those that wait for their first delivery. The numbers are parameters: where the planner knows that
# a LIMIT is more than there are, it reads all that wait before the first.
_FAILING = f"""WITH RECURSIVE {waiting_keys("pay_notify_task", "endpoint", "next_notify_time")}, looked_at AS (
  SELECT w.endpoint, q.id, q.failing FROM waiting w CROSS JOIN LATERAL (
    SELECT t.id, t.notify_times > t.schedule_start_times AS failing FROM pay_notify_task t
    WHERE t.endpoint = w.endpoint AND t.next_notify_time IS NOT NULL ORDER BY t.next_notify_time DESC LIMIT $3) q
  LIMIT $1
) SELECT endpoint, count(*) FILTER (WHERE failing) AS rows, min(id::text) FILTER (WHERE failing)::uuid AS oldest,
    count(*) >= $3 OR (SELECT count(*) FROM looked_at) >= $1 AS more
  FROM looked_at GROUP BY endpoint HAVING bool_or(failing) ORDER BY 2 DESC, 1 LIMIT $2"""


async def failing_endpoints(connection: Connection) -> list[FailingEndpoint]:
    """The endpoints with most notifications that wait for another delivery, FAILING_ENDPOINTS at most. It reads ENDPOINT_ROWS
    waiting notifications of each endpoint at most, and LOOKED_AT of all, and one row for each endpoint."""
    rows = await connection.fetch(_FAILING, LOOKED_AT, FAILING_ENDPOINTS, ENDPOINT_ROWS)
    return [FailingEndpoint(row["endpoint"], row["rows"], row["oldest"], row["more"]) for row in rows]


@dataclass(frozen=True, slots=True)
class Queue:
    """The rows that a job works on. `due`: of them, how many are due now. `oldest`: since when the first has been due."""

    job: str
    waiting: int
    due: int
    oldest: datetime | None


_QUEUES: Sequence[tuple[str, str, str]] = (
    ("pay_notify_job", "pay_notify_task", "next_notify_time"),
    ("pay_order_sync_job", "pay_attempt", "next_check_time"),
    ("pay_order_expire_job", "pay_order", "next_check_time"),
    ("pay_refund_sync_job", "pay_refund", "next_check_time"),
)


async def queues(connection: Connection, now: datetime) -> list[Queue]:
    """What each job has before it. It reads COUNTED entries of each partial index of times at most."""
    found = []
    for job, table, column in _QUEUES:
        row = await connection.fetchrow(
            f"""SELECT (SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {column} IS NOT NULL LIMIT $2) a) AS waiting,
                  (SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {column} <= $1 LIMIT $2) b) AS due,
                  (SELECT min({column}) FROM (SELECT {column} FROM {table} WHERE {column} <= $1 LIMIT $2) c) AS oldest""",
            now, COUNTED,
        )  # fmt: skip
        if row is not None:
            found.append(Queue(job, row["waiting"], row["due"], row["oldest"]))
    return found


@dataclass(frozen=True, slots=True)
class OpenCases:
    """Open cases up to COUNTED. `oldest`: the time of the first; None if there is none."""

    rows: int
    oldest: datetime | None


async def open_cases(connection: Connection) -> OpenCases:
    """It reads LOOKED_AT entries of the index of cases that are not resolved at most, in which are also those whose refund is
    not settled."""
    row = await connection.fetchrow(
        """SELECT count(*) AS rows, min(create_time) AS oldest FROM (
             SELECT create_time FROM (SELECT create_time, state FROM pay_case WHERE resolve_time IS NULL ORDER BY id LIMIT $3) c
             WHERE state = $1 LIMIT $2) t""",
        created(CASE, CaseEvent.CREATE).value, COUNTED, LOOKED_AT,
    )  # fmt: skip
    return OpenCases(row["rows"], row["oldest"]) if row else OpenCases(0, None)
