"""Lists of cases. A list reads a bounded number of rows, whatever its filters and however many cases there are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from paycenter_server.domain.cases import CaseKind, PayCase
from paycenter_server.domain.ids import uuid7
from paycenter_server.domain.states import CaseState
from paycenter_server.storage.cases import CASES
from paycenter_server.storage.database import Connection
from paycenter_server.storage.keyrange import FIRST_KEY, LAST_KEY

_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
SCANNED = 10_000
"""The number of cases that one page reads at most. A page may then be shorter than was asked, and another one follows."""


@dataclass(frozen=True, slots=True)
class CaseFilter:
    """The filters of ListPayCases. Empty values do not filter. `unresolved`: OPEN and REFUNDING. Amounts in minor units; a case
    without an amount is in no range."""

    kind: CaseKind | None = None
    state: CaseState | None = None
    unresolved: bool = False
    app_id: UUID | None = None
    account_id: UUID | None = None
    order_id: UUID | None = None
    assignee: str = ""
    amount_from: int | None = None
    amount_to: int | None = None
    opened_after: datetime | None = None
    opened_before: datetime | None = None
    stale: bool = False


@dataclass(frozen=True, slots=True)
class CaseRows:
    """Cases, newest first. `last`: the last case that was read, if more may follow after it although fewer were found."""

    cases: list[PayCase]
    last: UUID | None


async def list_cases(connection: Connection, where: CaseFilter, *, limit: int, before: UUID | None) -> CaseRows:
    """List cases, newest first, by keyset.

    An index yields the newest cases of the filter that is likely to be the narrowest, and the other filters are applied to
    these. So no filter, however few cases match it, makes a statement read the whole table.
    """
    arguments: list[Any] = []

    def place(value: Any) -> str:
        arguments.append(value)
        return f"${len(arguments)}"

    unresolved = where.unresolved or where.stale or where.state in (CaseState.OPEN, CaseState.REFUNDING)
    equal = {
        "order_id": where.order_id, "assignee": where.assignee or None, "account_id": where.account_id,
        "kind": where.kind.value if where.kind else None, "app_id": where.app_id,
    }  # fmt: skip
    given = [(name, place(value)) for name, value in equal.items() if value is not None]
    # Unresolved cases are few. The conditions behind the indexes are those of tables.py.
    driving = given.pop(0) if given and (where.order_id or not unresolved) else None
    inner = ["resolve_time IS NULL"] if driving is None and unresolved else []
    outer = [f"{name} = {value}" for name, value in given]
    # A key begins with the time of the case in milliseconds, so that the times bound the range of the index.
    low, high = FIRST_KEY, before or LAST_KEY
    if where.opened_after is not None:
        low = _first_key(where.opened_after)
        outer.append(f"create_time >= {place(where.opened_after)}")
    if where.opened_before is not None:
        high = min(high, _first_key(where.opened_before, 1))
        outer.append(f"create_time < {place(where.opened_before)}")
    order = "id DESC"
    if driving is None or where.order_id is not None:
        inner += [f"order_id = {driving[1]}"] if driving else []  # an order has few
        inner.append(f"id >= {place(low)} AND id < {place(high)}")
    else:
        # Compared as a row, as in `lists.Conditions`, so that the planner cannot read the primary key instead.
        name, value = driving
        inner += [f"({name}, id) >= ({value}, {place(low)})", f"({name}, id) < ({value}, {place(high)})"]
        inner += ["assignee <> ''"] if name == "assignee" else []
        order = f"{name} DESC, id DESC"
    if unresolved and driving is not None:
        outer.append("resolve_time IS NULL")
    if where.state is not None:
        outer.append(f"state = {place(where.state.value)}")
    if where.stale:
        outer.append("stale_time IS NOT NULL")
    if where.amount_from is not None:
        outer.append(f"amount >= {place(where.amount_from)}")
    if where.amount_to is not None:
        outer.append(f"amount <= {place(where.amount_to)}")
    columns = ", ".join(CASES.columns)
    rows = await connection.fetch(
        f"""WITH scanned AS MATERIALIZED (
             SELECT {columns} FROM pay_case WHERE {" AND ".join(inner)} ORDER BY {order} LIMIT {SCANNED if outer else limit}
           ), found AS (
             SELECT {columns} FROM scanned WHERE {" AND ".join(outer) or "true"} ORDER BY id DESC LIMIT {limit}
           ), last AS (SELECT (array_agg(id ORDER BY id))[1] AS id, count(*) AS seen FROM scanned)
           SELECT last.id AS last_id, last.seen, {CASES.returning}, app.app_key FROM last LEFT JOIN found t ON true
           LEFT JOIN pay_app app ON app.id = t.app_id ORDER BY t.id DESC""",
        *arguments,
    )  # fmt: skip
    cases = CASES.models([row for row in rows if row["id"] is not None])
    more = bool(rows) and rows[0]["seen"] == SCANNED and len(cases) < limit
    return CaseRows(cases, rows[0]["last_id"] if more else None)


def _first_key(at: datetime, later: int = 0) -> UUID:
    """The smallest key of this millisecond, or of one so many milliseconds later. A key has no time before 1970."""
    within = min(max(at, _FIRST), _LAST)
    return uuid7(within + timedelta(milliseconds=later), 0)
