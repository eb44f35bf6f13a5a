"""pay_case."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.models import CaseKind, PayCase
from paycenter_server.domain.states import CASE, CaseEvent, CaseState, sources
from paycenter_server.storage.database import Connection
from paycenter_server.storage.rows import to_model


async def insert_case(connection: Connection, case: PayCase) -> bool:
    """False if the same thing has a case already (kind and reference)."""
    done = await connection.fetchval(
        """INSERT INTO pay_case (id, kind, state, app_id, channel_id, order_id, attempt_id, refund_id, reference, amount,
             currency, detail, create_time, update_time) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$13)
           ON CONFLICT (kind, reference) DO NOTHING RETURNING id""",
        case.id, case.kind.value, case.state.value, case.app_id, case.channel_id, case.order_id, case.attempt_id,
        case.refund_id, case.reference, case.amount, case.currency, dict(case.detail), case.create_time,
    )  # fmt: skip
    return done is not None


async def conflict_is_open(connection: Connection, attempt_id: UUID, references: Sequence[str] = ()) -> bool:
    """Whether a person has been asked already to look at what was given back of this attempt (under one of these, if given)."""
    found = await connection.fetchval(
        """SELECT 1 FROM pay_case WHERE attempt_id = $1 AND kind = $2 AND state = $3
           AND (cardinality($4::text[]) = 0 OR reference = ANY($4)) LIMIT 1""",
        attempt_id, CaseKind.REFUND_MISMATCH.value, CaseState.OPEN.value, list(references),
    )  # fmt: skip
    return found is not None


async def move_case(connection: Connection, case_id: UUID, event: CaseEvent, now: datetime, refund_id: UUID | None = None) -> bool:
    """Apply an event; False if it does not happen in the case's state."""
    table = {state: CASE[state, known] for (state, known) in CASE if known is event}
    target = next(iter(table.values())).value
    done = await connection.fetchval(
        """UPDATE pay_case SET state = $2, update_time = $3, refund_id = coalesce($4, refund_id)
           WHERE id = $1 AND state = ANY($5) RETURNING id""",
        case_id, target, now, refund_id, sources(CASE, event),
    )  # fmt: skip
    return done is not None


async def list_cases(connection: Connection, *, order_id: UUID | None = None, limit: int = 100) -> list[PayCase]:
    """Newest first; of one order if given."""
    rows = await connection.fetch(
        "SELECT * FROM pay_case WHERE ($1::uuid IS NULL OR order_id = $1) ORDER BY id DESC LIMIT $2", order_id, limit
    )
    return [to_model(PayCase, row) for row in rows]
