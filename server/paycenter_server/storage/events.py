"""Statements on pay_event, the event ledger. Rows are inserted by the statement that makes the change, and never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from paycenter_server.domain.events import Cause, PayEvent, Subject
from paycenter_server.storage.database import Connection, JsonText, WriteConnection, to_json
from paycenter_server.storage.rows import RowMapping

EVENTS = RowMapping(PayEvent, "pay_event")
_COLUMNS = (
    "order_id, subject, subject_id, event, from_state, to_state, amount, paid_change, reserved_change, refunded_change, "
    "actor_kind, actor, evidence"
)


@dataclass(frozen=True, slots=True)
class Change:
    """The values of an event as SQL expressions over the rows of a CTE. The defaults are the columns that most CTEs return."""

    subject: Subject
    event: str
    order_id: str = "order_id"
    subject_id: str = "id"
    before: str = "NULL"
    after: str = "NULL"
    amount: str = "NULL"
    paid: str = "0"
    reserved: str = "0"
    refunded: str = "0"


def noting(rows: str, first: int | str, change: Change, *, keys: str = "") -> str:
    """An INSERT for each row of the CTE `rows`, to be a CTE of the statement that makes the change.

    Its last three parameters are `cause_values`, from the number `first`; a text is their SQL, where each row has its own. It is
    executed although nothing refers to it. `keys`: the parameter with the ids of many rows. Then the three parameters are arrays
    with a value for each of them.
    """
    of_row = f"[array_position({keys}, {rows}.id)]" if keys else ""
    cause = (
        first
        if isinstance(first, str)
        else ", ".join(
            f"(${first + number}::{kind}[]){of_row}" if keys else f"${first + number}"
            for number, kind in enumerate(("text", "text", "jsonb"))
        )
    )
    return (
        f"INSERT INTO pay_event ({_COLUMNS}) SELECT {change.order_id}, '{change.subject.value}', {change.subject_id}, "
        f"{change.event}, {change.before}, {change.after}, {change.amount}, {change.paid}, {change.reserved}, {change.refunded}, "
        f"{cause} FROM {rows}"
    )


def named(event: StrEnum | str) -> str:
    """The SQL literal of an event or a state."""
    return f"'{event.value if isinstance(event, StrEnum) else event}'"


def listed(values: Sequence[str]) -> str:
    """The SQL array of these states or other names."""
    return f"ARRAY[{', '.join(map(named, values))}]"


def cause_values(cause: Cause) -> list[Any]:
    """The arguments of the last three parameters of `noting`."""
    return [cause.actor.kind, cause.actor.name[:64], _evidence(cause.evidence)]


def _evidence(evidence: Mapping[str, Any] | None) -> JsonText | None:
    if evidence is None:
        return None
    text = to_json(evidence)
    if "\\u0000" in text or "\\ud" in text:  # NUL, or a surrogate, most of which have a partner
        text = to_json(_storable(evidence))
    return JsonText(text)


def _storable(value: Any) -> Any:
    """The same value without what jsonb cannot store: NUL and unpaired surrogates."""
    if isinstance(value, str):
        return value if value.isascii() and "\0" not in value else value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {str(key): _storable(item) for key, item in value.items()}
    return value


async def insert_event(
    connection: WriteConnection, subject: Subject, subject_id: UUID, order_id: UUID | None, event: str, cause: Cause
) -> None:
    """Note something that changed no state: a query, a refused callback."""
    await connection.execute(
        f"INSERT INTO pay_event ({_COLUMNS}) VALUES ($1, $2, $3, $4, NULL, NULL, NULL, 0, 0, 0, $5, $6, $7)",
        order_id, subject.value, subject_id, event, *cause_values(cause),
    )  # fmt: skip


async def list_events(connection: Connection, order_id: UUID, limit: int) -> list[PayEvent]:
    """The last events of an order and of everything that belongs to it, oldest first."""
    rows = await connection.fetch(f"{EVENTS.select} WHERE t.order_id = $1 ORDER BY t.id DESC LIMIT $2", order_id, limit)
    return EVENTS.models(list(reversed(rows)))


@dataclass(frozen=True, slots=True)
class Difference:
    """An order whose stored amounts differ from the sums of its events. Minor units."""

    order_id: UUID
    stored: tuple[int, int, int]
    recomputed: tuple[int, int, int]

    @property
    def largest(self) -> int:
        """The largest of the differences."""
        return max(abs(stored - recomputed) for stored, recomputed in zip(self.stored, self.recomputed, strict=True))


@dataclass(frozen=True, slots=True)
class Compared:
    """A batch of orders that was compared: the number of orders, the last one, and those that differ."""

    orders: int
    last: UUID | None
    differences: Sequence[Difference]


async def list_events_of_case(connection: Connection, case_id: UUID, limit: int) -> list[PayEvent]:
    """The last events of a case that is about no order, oldest first."""
    rows = await connection.fetch(
        f"{EVENTS.select} WHERE t.subject_id = $1 AND t.order_id IS NULL ORDER BY t.id DESC LIMIT $2", case_id, limit
    )
    return EVENTS.models(list(reversed(rows)))


async def compare_amounts(connection: Connection, after: UUID | None, limit: int) -> Compared:
    """Compare the paid, reserved and refunded amounts of the next orders by id with the sums of their events.

    One statement, so that both sides are of one snapshot.
    """
    rows = await connection.fetch(
        """SELECT o.id, o.paid_amount, o.reserved_amount, o.refunded_amount, e.paid, e.reserved, e.refunded
           FROM (SELECT id, paid_amount, reserved_amount, refunded_amount FROM pay_order
                 WHERE id > $1 ORDER BY id LIMIT $2) o
           CROSS JOIN LATERAL (SELECT coalesce(sum(paid_change), 0)::bigint AS paid,
             coalesce(sum(reserved_change), 0)::bigint AS reserved, coalesce(sum(refunded_change), 0)::bigint AS refunded
             FROM pay_event t WHERE t.order_id = o.id) e
           ORDER BY o.id""",
        after or UUID(int=0), limit,
    )  # fmt: skip
    differences = []
    for row in rows:
        stored = (row["paid_amount"], row["reserved_amount"], row["refunded_amount"])
        recomputed = (row["paid"], row["reserved"], row["refunded"])
        if stored != recomputed:
            differences.append(Difference(row["id"], stored, recomputed))
    return Compared(len(rows), rows[-1]["id"] if rows else None, differences)
