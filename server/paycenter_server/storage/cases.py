"""Statements on pay_case."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from paycenter_server.domain.cases import CaseKind, PayCase
from paycenter_server.domain.events import Cause, Subject
from paycenter_server.domain.states import CASE, CaseEvent, CaseState, created, sources, target
from paycenter_server.storage.database import Connection, WriteConnection
from paycenter_server.storage.events import Change, cause_values, noting
from paycenter_server.storage.rows import RowMapping

CASES = RowMapping(PayCase, "pay_case")


_CREATED = Change(Subject.CASE, "kind", after="state", amount="amount")
# $2 is the kind. A case comes again only if the last one of its kind and reference was resolved long enough ago.
_KIND, _REFERENCE, _OCCURRENCE = (f"${CASES.columns.index(name) + 1}" for name in ("kind", "reference", "occurrence"))
_PLACES = ", ".join(f"${number}" for number in range(1, len(CASES.columns) + 1)).replace(
    f"{_OCCURRENCE},", f"{_OCCURRENCE}::int + coalesce((SELECT occurrence + 1 FROM last), 0),"
)
_RESOLVED = len(CASES.columns) + 4
_INSERT = f"""
WITH last AS (SELECT occurrence, state, update_time FROM pay_case WHERE kind = {_KIND} AND reference = {_REFERENCE}
  ORDER BY occurrence DESC LIMIT 1),
made AS (INSERT INTO pay_case ({", ".join(CASES.columns)}) SELECT {_PLACES}
  WHERE NOT EXISTS (SELECT 1 FROM last WHERE state <> '{CaseState.RESOLVED.value}' OR ${_RESOLVED}::timestamptz IS NULL
    OR update_time > ${_RESOLVED})
  ON CONFLICT (kind, reference, occurrence) DO NOTHING RETURNING id, order_id, kind, state, amount),
noted AS ({noting("made", len(CASES.columns) + 1, _CREATED)})
SELECT id FROM made
"""
# The event is a parameter, because one statement applies them all.
_MOVED = Change(Subject.CASE, "$6", before="before", after="state", amount="amount")
_MOVE = f"""
WITH old AS (SELECT id, state FROM pay_case WHERE id = $1 AND state = ANY($5) FOR NO KEY UPDATE),
moved AS (UPDATE pay_case t SET state = $2, update_time = $3, refund_id = coalesce($4, refund_id) FROM old WHERE t.id = old.id
  RETURNING t.id, t.order_id, t.state, t.amount, old.state AS before),
noted AS ({noting("moved", 7, _MOVED)})
SELECT id FROM moved
"""


async def insert_case(connection: WriteConnection, case: PayCase, cause: Cause, again_after: timedelta | None = None) -> bool:
    """Insert a case. False if there is one with this kind and reference. The event of the ledger is named like its kind.

    `again_after`: the time after which a resolved case may come again; None if it never does, as for a payment that a channel
    reports again.
    """
    resolved = case.create_time - again_after if again_after is not None else None
    return await connection.fetchval(_INSERT, *CASES.values(case), *cause_values(cause), resolved) is not None


async def open_conflict(connection: Connection, attempt_id: UUID, references: Sequence[str] = ()) -> UUID | None:
    """The oldest open REFUND_MISMATCH case of this attempt (with one of these references, if given); None if there is none."""
    found = await connection.fetchval(
        """SELECT id FROM pay_case WHERE attempt_id = $1 AND kind = $2 AND state = $3
           AND (cardinality($4::text[]) = 0 OR reference = ANY($4)) ORDER BY id LIMIT 1""",
        attempt_id, CaseKind.REFUND_MISMATCH.value, created(CASE, CaseEvent.CREATE).value, list(references),
    )  # fmt: skip
    return found if isinstance(found, UUID) else None


async def move_case(
    connection: WriteConnection, case_id: UUID, event: CaseEvent, now: datetime, cause: Cause, refund_id: UUID | None = None
) -> bool:
    """Apply an event. False if the state of the case does not allow it."""
    done = await connection.fetchval(
        _MOVE, case_id, target(CASE, event), now, refund_id, sources(CASE, event), event.value, *cause_values(cause)
    )  # fmt: skip
    return done is not None


async def list_cases(connection: Connection, *, order_id: UUID | None = None, limit: int = 100) -> list[PayCase]:
    """List cases, newest first; of one order if it is given."""
    rows = await connection.fetch(
        f"{CASES.select} WHERE ($1::uuid IS NULL OR t.order_id = $1) ORDER BY t.id DESC LIMIT $2", order_id, limit
    )
    return CASES.models(rows)
