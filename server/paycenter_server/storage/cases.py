"""Statements on pay_case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from paycenter_server.domain.cases import CONFLICTS, SURPLUS, CaseKind, Decision, PayCase
from paycenter_server.domain.events import CASE_ASSIGNED, CASE_PROPOSED, CASE_STALE, Cause, Subject
from paycenter_server.domain.states import CASE, CaseEvent, CaseState, created, sources, target
from paycenter_server.storage.database import Connection, Transaction, WriteConnection
from paycenter_server.storage.events import Change, cause_values, named, noting
from paycenter_server.storage.rows import RowMapping

CASES = RowMapping(PayCase, "pay_case", optional_app=True)


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
# The event is a parameter, because one statement applies them all. A change of the state ends what was proposed before it.
_MOVED = Change(Subject.CASE, "$6", before="before", after="state", amount="amount")
_MOVE = f"""
WITH old AS (SELECT id, state FROM pay_case WHERE id = $1 AND state = ANY($5) FOR NO KEY UPDATE),
moved AS (UPDATE pay_case t SET state = $2, update_time = $3, refund_id = coalesce($4, refund_id),
    decision = coalesce($7, decision), decision_reason = coalesce($8, decision_reason), decided_by = coalesce($9, decided_by),
    proposed_decision = '', proposed_reason = '', proposed_by = '', proposed_time = NULL, stale_time = NULL,
    resolve_time = CASE WHEN $10::boolean THEN $3::timestamptz END, version = version + $10::int
  FROM old WHERE t.id = old.id RETURNING {CASES.returning}, old.state AS before),
noted AS ({noting("moved", 11, _MOVED)})
{CASES.select_from("moved")}
"""


async def insert_case(connection: WriteConnection, case: PayCase, cause: Cause, again_after: timedelta | None = None) -> bool:
    """Insert a case. False if there is one with this kind and reference. The event of the ledger is named like its kind.

    `again_after`: the time after which a resolved case may come again; None if it never does, as for a payment that a channel
    reports again.
    """
    resolved = case.create_time - again_after if again_after is not None else None
    return await connection.fetchval(_INSERT, *CASES.values(case), *cause_values(cause), resolved) is not None


async def get_case(connection: Connection, case_id: UUID) -> PayCase | None:
    """Read by id; None if there is none."""
    return CASES.model(await connection.fetchrow(f"{CASES.select} WHERE t.id = $1", case_id))


async def lock_case(transaction: Transaction, case_id: UUID) -> PayCase | None:
    """Read by id and lock until the end of the transaction. It is locked after its refund, order and attempt."""
    return CASES.model(await transaction.fetchrow(f"{CASES.select} WHERE t.id = $1 FOR NO KEY UPDATE OF t", case_id))


async def open_conflict(
    connection: Connection,
    attempt_id: UUID,
    references: Sequence[str] = (),
    refund_id: UUID | None = None,
    besides: UUID | None = None,
) -> UUID | None:
    """The oldest open case of this attempt that is a conflict (with one of these references, and about this refund, if they are
    given), and is not the case `besides`; None if there is none.

    A conflict says that money of the payment may be with the payer already.
    """
    found = await connection.fetchval(
        """SELECT id FROM pay_case WHERE attempt_id = $1 AND kind = ANY($2) AND state = $3
           AND (cardinality($4::text[]) = 0 OR reference = ANY($4)) AND ($5::uuid IS NULL OR refund_id = $5)
           AND ($6::uuid IS NULL OR id <> $6) ORDER BY id LIMIT 1""",
        attempt_id, _values(CONFLICTS), created(CASE, CaseEvent.CREATE).value, list(references), refund_id, besides,
    )  # fmt: skip
    return found if isinstance(found, UUID) else None


_HOLDING = ", ".join(named(kind) for kind in (*SURPLUS, *CONFLICTS))


def held(order: str) -> str:
    """A SELECT of the id of the oldest open case of a payment of this order, whose money waits for a decision.

    ORDER BY and LIMIT, and no EXISTS: that would become a join, which reads all cases if they have no statistics.
    """
    return (
        f"SELECT held.id FROM pay_case held WHERE held.order_id = {order} AND held.kind IN ({_HOLDING}) "
        f"AND held.state = {named(created(CASE, CaseEvent.CREATE))} ORDER BY held.id LIMIT 1"
    )


_HELD = f"{CASES.select} WHERE t.id = ({held('$1')})"


async def held_case(connection: Connection, order_id: UUID) -> PayCase | None:
    """The oldest open case of a payment of this order, whose money waits for a decision; None if there is none."""
    return CASES.model(await connection.fetchrow(_HELD, order_id))


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision that is carried out. `by`: the key id of the operator."""

    decision: Decision
    reason: str
    by: str


async def move_case(
    connection: WriteConnection,
    case_id: UUID,
    event: CaseEvent,
    now: datetime,
    cause: Cause,
    refund_id: UUID | None = None,
    decided: Decided | None = None,
) -> PayCase | None:
    """Apply an event, by a decision if it is given. The case after it; None if the state of the case does not allow it."""
    state = target(CASE, event)
    given = (decided.decision.value, decided.reason, decided.by) if decided else (None, None, None)
    row = await connection.fetchrow(
        _MOVE, case_id, state, now, refund_id, sources(CASE, event), event.value, *given, state == CaseState.RESOLVED.value,
        *cause_values(cause),
    )  # fmt: skip
    return CASES.model(row)


def _noted(rows: str, first: int, event: str) -> str:
    return noting(rows, first, Change(Subject.CASE, named(event), before="state", after="state", amount="amount"))


async def propose(transaction: Transaction, case_id: UUID, proposed: Decided, now: datetime, cause: Cause) -> None:
    """Store a decision that waits for a second operator, in place of an earlier one. The caller has locked the row."""
    await transaction.execute(
        f"""WITH changed AS (UPDATE pay_case SET proposed_decision = $2, proposed_reason = $3, proposed_by = $4,
             proposed_time = $5, update_time = $5 WHERE id = $1 RETURNING id, order_id, state, amount)
           {_noted("changed", 6, CASE_PROPOSED)}""",
        case_id, proposed.decision.value, proposed.reason, proposed.by, now, *cause_values(cause),
    )  # fmt: skip


async def assign(connection: WriteConnection, case_id: UUID, assignee: str, cause: Cause) -> bool:
    """Set who works on a case; "" for nobody. False if it is so already, or if there is no such case."""
    done = await connection.fetchval(
        f"""WITH changed AS (UPDATE pay_case SET assignee = $2 WHERE id = $1 AND assignee <> $2
             RETURNING id, order_id, state, amount),
           noted AS ({_noted("changed", 3, CASE_ASSIGNED)}) SELECT id FROM changed""",
        case_id, assignee, *cause_values(cause),
    )  # fmt: skip
    return done is not None


async def mark_stale(connection: WriteConnection, case_id: UUID, now: datetime, cause: Cause) -> bool:
    """Mark a case whose refund has not been decided for a day. False if the case is resolved."""
    found = await connection.fetchval(
        f"""WITH old AS (SELECT id, stale_time FROM pay_case WHERE id = $1 AND resolve_time IS NULL FOR NO KEY UPDATE),
           marked AS (UPDATE pay_case t SET stale_time = $2 FROM old WHERE t.id = old.id AND old.stale_time IS NULL
             RETURNING t.id, t.order_id, t.state, t.amount),
           noted AS ({_noted("marked", 3, CASE_STALE)}) SELECT id FROM old""",
        case_id, now, *cause_values(cause),
    )  # fmt: skip
    return found is not None


async def refund_was_accepted(connection: Connection, attempt_id: UUID, refund_id: UUID) -> bool:
    """Whether an operator has decided that this refund of this attempt went back, without an answer of the channel."""
    found = await connection.fetchval(
        # OFFSET 0: an attempt has few cases, and without statistics the index of the kind looks as good.
        """SELECT id FROM (SELECT id, refund_id, kind, decision FROM pay_case WHERE attempt_id = $1 OFFSET 0) c
           WHERE refund_id = $2 AND kind = $3 AND decision = $4 LIMIT 1""",
        attempt_id, refund_id, CaseKind.STALE_REFUND.value, Decision.ACCEPT.value,
    )  # fmt: skip
    return found is not None


async def refunded_elsewhere(connection: Connection, attempt_id: UUID) -> int:
    """The sum of the refunds of this attempt that were made elsewhere and have a case, as far as their amounts are known. Minor
    units."""
    found = await connection.fetchval(
        # OFFSET 0: as above.
        """SELECT coalesce(sum(amount), 0)::bigint FROM (SELECT amount, kind FROM pay_case WHERE attempt_id = $1 OFFSET 0) c
           WHERE kind = $2""",
        attempt_id, CaseKind.REFUND_ELSEWHERE.value,
    )  # fmt: skip
    return int(found)


async def list_of_order(connection: Connection, order_id: UUID, limit: int = 100) -> list[PayCase]:
    """The last cases of an order, newest first."""
    return CASES.models(
        await connection.fetch(f"{CASES.select} WHERE t.order_id = $1 ORDER BY t.id DESC LIMIT $2", order_id, limit)
    )


def _values(kinds: Sequence[CaseKind]) -> list[str]:
    return [kind.value for kind in kinds]
