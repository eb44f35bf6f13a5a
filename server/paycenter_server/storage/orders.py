"""Statements on pay_order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any
from uuid import UUID

from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.events import Cause, Subject
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import OPEN_ATTEMPT, ORDER, CaseState, OrderEvent, OrderState, sources, target
from paycenter_server.storage.attempts import ATTEMPTS
from paycenter_server.storage.cases import held
from paycenter_server.storage.database import Connection, Record, Transaction, WriteConnection
from paycenter_server.storage.events import Change, cause_values, named, noting
from paycenter_server.storage.lists import Conditions, columns_of, conditions_of, count_rows, list_rows
from paycenter_server.storage.rows import RowMapping, by_unique_key, id_of_unique_key, to_model

ORDERS = RowMapping(PayOrder, "pay_order")
_BY_MERCHANT_ID = by_unique_key("pay_order", "merchant_order_id, app_id", "$2, $1")
_UNPAID = sources(ORDER, OrderEvent.PAID)


def _order_event(event: OrderEvent, before: str = "NULL") -> Change:
    return Change(Subject.ORDER, named(event), order_id="id", before=before, after="state", amount="amount")


async def get_order(connection: Connection, order_id: UUID) -> PayOrder | None:
    """Read by id; None if there is none."""
    return ORDERS.model(await connection.fetchrow(f"{ORDERS.select} WHERE t.id = $1", order_id))


async def lock_order(transaction: Transaction, order_id: UUID) -> PayOrder | None:
    """Read by id and lock until the end of the transaction. Rows that refer to the order can still be inserted."""
    return ORDERS.model(await transaction.fetchrow(f"{ORDERS.select} WHERE t.id = $1 FOR NO KEY UPDATE OF t", order_id))


async def get_order_by_merchant_id(connection: Connection, app_id: UUID, merchant_order_id: str) -> PayOrder | None:
    """Read by the app's own number; None if there is none."""
    return ORDERS.model(await connection.fetchrow(f"{ORDERS.select} WHERE {_BY_MERCHANT_ID}", app_id, merchant_order_id))


def _with_attempt(join: str, *more: str) -> str:
    """Rows of orders with the columns of an attempt `a`, which is joined so, and more columns."""
    columns = ", ".join((ATTEMPTS.select_beside("a_", "a"), *more))
    return f"{ORDERS.select.replace(' FROM ', f', {columns} FROM ', 1)} {join}"


def _both(row: Record) -> tuple[PayOrder, PayAttempt | None]:
    return to_model(PayOrder, row), to_model(PayAttempt, row, "a_") if row["a_id"] is not None else None


_ATTEMPTS = "LEFT JOIN pay_attempt a ON a.order_id = t.id"
_WITH_ATTEMPTS = _with_attempt(_ATTEMPTS)
_TO_SUBMIT = _with_attempt(_ATTEMPTS, f"({held('t.id')}) AS held")
_OF_ATTEMPT = f"{_with_attempt('JOIN pay_attempt a ON a.order_id = t.id')} WHERE a.id = $1"


def _by(column: str, values: Iterable[Any], rows: Sequence[Record]) -> list[list[Record]]:
    """The rows with each of these values, with the attempts oldest first."""
    found: dict[Any, list[Record]] = {}
    for row in rows:
        found.setdefault(row[column], []).append(row)
    return [sorted(found.get(value, ()), key=itemgetter("a_id")) for value in values]


async def read_with_attempts(connection: Connection, ids: Sequence[UUID]) -> list[tuple[PayOrder, list[PayAttempt]] | None]:
    """Orders with their attempts, oldest first; None for one that does not exist."""
    rows = await connection.fetch(f"{_WITH_ATTEMPTS} WHERE t.id = ANY($1)", ids)
    return [_grouped(of_one) if of_one else None for of_one in _by("id", ids, rows)]


# By LIMIT each look-up is one row, so that what is joined to it is found by its index (`storage/rows.py`).
def _by_merchant_ids(given: str, join: str, *more: str) -> str:
    """Orders by the apps' own numbers, as by `_with_attempt`. `given`: the columns of the unnested arrays `k` besides these two."""
    columns = ", ".join((ORDERS.returning, "app.app_key", ATTEMPTS.select_beside("a_", "a"), *more))
    arrays = ", ".join(["$1::uuid[]", "$2::text[]", *(f"${number}::text[]" for number, _ in enumerate(given.split(), 3))])
    return f"""
SELECT k.n, {columns}
FROM unnest({arrays}) WITH ORDINALITY k({", ".join(["app_id", "merchant_order_id", *given.split(), "n"])}) CROSS JOIN LATERAL (
  SELECT {ORDERS.returning} FROM pay_order t
  WHERE (t.merchant_order_id, t.app_id) >= (k.merchant_order_id, k.app_id)
    AND (t.merchant_order_id, t.app_id) <= (k.merchant_order_id, k.app_id) LIMIT 1
) t JOIN pay_app app ON app.id = t.app_id {join}
"""


_BY_MERCHANT_IDS = _by_merchant_ids("", _ATTEMPTS)
_REFUND = id_of_unique_key("pay_refund", "merchant_refund_no, app_id", "k.merchant_refund_no, k.app_id")
_TO_REFUND = _by_merchant_ids("merchant_refund_no", "LEFT JOIN pay_attempt a ON a.id = t.attempt_id", f"({_REFUND}) AS refund")


async def read_all_with_attempts(
    connection: Connection, keys: Sequence[tuple[UUID, str]]
) -> list[tuple[PayOrder, list[PayAttempt]] | None]:
    """Orders by their apps and the apps' own numbers, each with its attempts, oldest first; None for one that does not exist."""
    rows = await connection.fetch(_BY_MERCHANT_IDS, *zip(*keys, strict=True))
    return [_grouped(of_one) if of_one else None for of_one in _by("n", range(1, len(keys) + 1), rows)]


def _grouped(rows: Sequence[Record]) -> tuple[PayOrder, list[PayAttempt]]:
    return to_model(PayOrder, rows[0]), [to_model(PayAttempt, row, "a_") for row in rows if row["a_id"] is not None]


@dataclass(frozen=True, slots=True)
class Submittable:
    """What a submit needs to know of an order, as one statement has read it. `held`: the case by which its money is held."""

    order: PayOrder
    attempts: Sequence[PayAttempt]
    held: UUID | None


async def read_to_submit(connection: Connection, ids: Sequence[UUID]) -> list[Submittable | None]:
    """Orders with their attempts, oldest first, and with what holds their money; None for one that does not exist."""
    rows = await connection.fetch(f"{_TO_SUBMIT} WHERE t.id = ANY($1)", ids)
    return [Submittable(*_grouped(of_one), of_one[0]["held"]) if of_one else None for of_one in _by("id", ids, rows)]


async def read_of_attempt(connection: Connection, attempt_id: UUID) -> tuple[PayOrder, PayAttempt] | None:
    """An attempt with its order; None if there is none."""
    row = await connection.fetchrow(_OF_ATTEMPT, attempt_id)
    return (to_model(PayOrder, row), to_model(PayAttempt, row, "a_")) if row else None


@dataclass(frozen=True, slots=True)
class Refundable:
    """What a refund needs to know of an order, as one statement has read it. `attempt`: the one that paid it. `refund`: the
    refund that has the number already."""

    order: PayOrder
    attempt: PayAttempt | None
    refund: UUID | None


async def read_to_refund(connection: Connection, keys: Sequence[tuple[UUID, str, str]]) -> list[Refundable | None]:
    """Orders by their apps and the apps' own numbers, each with what a refund under the third of the `keys` needs; None for one
    that does not exist."""
    rows = {row["n"] - 1: row for row in await connection.fetch(_TO_REFUND, *zip(*keys, strict=True))}
    return [Refundable(*_both(rows[n]), rows[n]["refund"]) if n in rows else None for n in range(len(keys))]


async def count_for_submits(transaction: Transaction, order_id: UUID) -> None:
    """Count up `submit_version`, so that no submit that waits for the lock of the order misses what this transaction does."""
    await transaction.execute("UPDATE pay_order SET submit_version = submit_version + 1 WHERE id = $1", order_id)


async def close_order(transaction: Transaction, order_id: UUID, now: datetime, cause: Cause) -> PayOrder | None:
    """Close a WAITING order without open attempts; None otherwise. The caller has locked the row."""
    row = await transaction.fetchrow(
        f"""WITH closed AS (UPDATE pay_order t SET state = $3, next_check_time = NULL, update_time = $2, version = version + 1
             WHERE t.id = $1 AND t.state = ANY($4)
               AND NOT EXISTS (SELECT 1 FROM pay_attempt a WHERE a.order_id = $1 AND a.state = ANY($5))
             RETURNING {ORDERS.returning}),
           noted AS ({noting("closed", 6, _order_event(OrderEvent.CLOSE, named(OrderState.WAITING)))})
           {ORDERS.select_from("closed")}""",
        order_id, now, target(ORDER, OrderEvent.CLOSE), sources(ORDER, OrderEvent.CLOSE), OPEN_ATTEMPT, *cause_values(cause),
    )  # fmt: skip
    return ORDERS.model(row)


async def update_price(transaction: Transaction, order_id: UUID, old: int, new: int, now: datetime, cause: Cause) -> bool:
    """Change the amount of a WAITING order without open attempts; False otherwise. The caller has locked the row."""
    done = await transaction.fetchval(
        f"""WITH changed AS (
             UPDATE pay_order SET amount = $3, state = $5, update_time = $4 WHERE id = $1 AND amount = $2 AND state = ANY($6)
             AND NOT EXISTS (SELECT 1 FROM pay_attempt t WHERE t.order_id = $1 AND t.state = ANY($7)) RETURNING id, state, amount
           ), noted AS ({noting("changed", 8, _order_event(OrderEvent.CHANGE_PRICE, named(OrderState.WAITING)))})
           SELECT id FROM changed""",
        order_id, old, new, now, target(ORDER, OrderEvent.CHANGE_PRICE), sources(ORDER, OrderEvent.CHANGE_PRICE), OPEN_ATTEMPT,
        *cause_values(cause),
    )  # fmt: skip
    return done is not None


async def claim_expired(connection: WriteConnection, now: datetime, retry: datetime, limit: int) -> list[UUID]:
    """Claim WAITING orders whose expiry is due. Each is due again at `retry`, so that a killed worker loses nothing."""
    rows = await connection.fetch(
        """UPDATE pay_order SET next_check_time = $2, check_count = check_count + 1 WHERE id = ANY(ARRAY(
             SELECT id FROM pay_order WHERE next_check_time <= $1 ORDER BY next_check_time LIMIT $3
             FOR NO KEY UPDATE SKIP LOCKED))
           RETURNING id""",
        now, retry, limit,
    )  # fmt: skip
    return [row["id"] for row in rows]


async def postpone_open(connection: WriteConnection, order_ids: Sequence[UUID], now: datetime, delays: Sequence[int]) -> set[UUID]:
    """Of these claimed orders those that have open attempts. Their next check is after one of the delays (seconds): the first that
    is not shorter than the time since their expiry, or the last."""
    # LIMIT and not EXISTS: that would become a join, which reads all attempts if they have no statistics.
    rows = await connection.fetch(
        """UPDATE pay_order t SET next_check_time = $2::timestamptz + make_interval(secs => coalesce(
             (SELECT min(d) FROM unnest($3::int[]) d WHERE d >= extract(epoch FROM $2::timestamptz - t.expire_time)), $4::int))
           WHERE t.id = ANY($1) AND t.state = ANY($5)
             AND (SELECT a.id FROM pay_attempt a WHERE a.order_id = t.id AND a.state = ANY($6) LIMIT 1) IS NOT NULL
           RETURNING t.id""",
        list(order_ids), now, list(delays), delays[-1], _UNPAID, OPEN_ATTEMPT,
    )  # fmt: skip
    return {row["id"] for row in rows}


async def set_next_check(connection: WriteConnection, order_id: UUID, when: datetime | None) -> None:
    """Set the time of the next check of an unsettled order. A settled order is not changed."""
    await connection.execute("UPDATE pay_order SET next_check_time = $2 WHERE id = $1 AND state = ANY($3)", order_id, when, _UNPAID)


@dataclass(frozen=True, slots=True)
class OrderFilter:
    """The filters of ListPayOrders. Empty values do not filter. `order_ids`: only these orders; None for any.
    `first_id`: no order with a smaller key."""

    app_id: UUID | None = None
    channel_code: str = ""
    state: OrderState | None = None
    merchant_order_id: str = ""
    channel_order_no: str = ""
    attempt_id: UUID | None = None
    create_time_from: datetime | None = None
    create_time_to: datetime | None = None
    success_time_from: datetime | None = None
    success_time_to: datetime | None = None
    order_ids: tuple[UUID, ...] | None = None
    first_id: UUID | None = None

    @property
    def reads_many(self) -> bool:
        """Whether no index has the orders, so that many may be read to find one."""
        by_number = self.merchant_order_id or self.channel_order_no or self.attempt_id or self.order_ids is not None
        return not by_number and bool(self.channel_code or self.state or self.success_time_from or self.success_time_to)


async def list_orders(connection: Connection, where: OrderFilter, *, limit: int, before: UUID | None) -> list[PayOrder]:
    """List orders, newest first, by keyset."""
    return await list_rows(connection, ORDERS, _conditions(where), limit=limit, before=before)


async def count_orders(connection: Connection, where: OrderFilter) -> int:
    """Count the orders of a list. The caller bounds the rows that are read by `first_id`."""
    return await count_rows(connection, ORDERS, _conditions(where))


def _conditions(where: OrderFilter) -> Conditions:
    from sqlalchemy import select

    from paycenter_server.storage.tables import pay_attempt

    table, more = columns_of(ORDERS), []
    if where.attempt_id is not None:
        more.append(table.id.in_(select(pay_attempt.c.order_id).where(pay_attempt.c.id == where.attempt_id)))
    if where.success_time_from is not None:
        more.append(table.success_time >= where.success_time_from)
    if where.success_time_to is not None:
        more.append(table.success_time < where.success_time_to)
    equal = {
        "channel_code": where.channel_code, "state": where.state and where.state.value,
        "merchant_order_id": where.merchant_order_id, "channel_order_no": where.channel_order_no,
    }  # fmt: skip
    return conditions_of(
        ORDERS, equal, {"id": where.order_ids}, app_id=where.app_id,
        created=(where.create_time_from, where.create_time_to), first_id=where.first_id, more=more,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class OrderMark:
    """What a list says about an order beside its fields. `error`: the last error of its attempts as "code message", "" for none."""

    open_cases: int = 0
    error: str = ""


async def list_marks(connection: Connection, order_ids: Sequence[UUID]) -> dict[UUID, OrderMark]:
    """The marks of these orders, of those that have one. It reads their attempts and cases by the indexes on order_id."""
    rows = await connection.fetch(
        """SELECT o.id, (SELECT count(*) FROM pay_case c WHERE c.order_id = o.id AND c.state <> $2) AS cases,
             (SELECT concat_ws(' ', a.channel_error_code, a.channel_error_message) FROM pay_attempt a
              WHERE a.order_id = o.id AND a.channel_error_code IS NOT NULL ORDER BY a.id DESC LIMIT 1) AS error
           FROM unnest($1::uuid[]) o (id)""",
        list(order_ids), CaseState.RESOLVED.value,
    )  # fmt: skip
    return {row["id"]: OrderMark(row["cases"], row["error"] or "") for row in rows if row["cases"] or row["error"]}
