"""Statements on pay_case."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.cases import CaseKind, PayCase
from paycenter_server.domain.events import Cause, Subject
from paycenter_server.domain.states import CASE, CaseEvent, created, sources, target
from paycenter_server.storage.database import Connection, WriteConnection
from paycenter_server.storage.events import Change, cause_values, noting
from paycenter_server.storage.rows import RowMapping

CASES = RowMapping(PayCase, "pay_case")


_CREATED = Change(Subject.CASE, "kind", after="state", amount="amount")
_INSERT = f"""
WITH made AS ({CASES.insert} ON CONFLICT (kind, reference) DO NOTHING RETURNING id, order_id, kind, state, amount),
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


async def insert_case(connection: WriteConnection, case: PayCase, cause: Cause) -> bool:
    """Insert a case. False if there is one with this kind and reference. The event of the ledger is named like its kind."""
    return await connection.fetchval(_INSERT, *CASES.values(case), *cause_values(cause)) is not None


async def conflict_is_open(connection: Connection, attempt_id: UUID, references: Sequence[str] = ()) -> bool:
    """Whether a REFUND_MISMATCH case of this attempt is open (with one of these references, if given)."""
    found = await connection.fetchval(
        """SELECT 1 FROM pay_case WHERE attempt_id = $1 AND kind = $2 AND state = $3
           AND (cardinality($4::text[]) = 0 OR reference = ANY($4)) LIMIT 1""",
        attempt_id, CaseKind.REFUND_MISMATCH.value, created(CASE, CaseEvent.CREATE).value, list(references),
    )  # fmt: skip
    return found is not None


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
