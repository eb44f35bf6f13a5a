"""Statements on pay_approval."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.approvals import ApprovalKind, PayApproval
from paycenter_server.domain.states import APPROVAL, ApprovalEvent, ApprovalState, sources, target
from paycenter_server.storage.database import Connection, Transaction, WriteConnection
from paycenter_server.storage.rows import RowMapping

APPROVALS = RowMapping(PayApproval, "pay_approval", optional_app=True)
COUNTED = 1000
"""The most that are counted."""


@dataclass(frozen=True, slots=True)
class ApprovalFilter:
    """The filters of a list. Empty values do not filter. `object`: the number of an order, account or channel."""

    state: ApprovalState | None = None
    kind: ApprovalKind | None = None
    app_id: UUID | None = None
    object: str = ""


async def insert_approval(connection: WriteConnection, approval: PayApproval) -> bool:
    """Insert an approval. False if one with the same content waits already; another transaction that inserts it is waited for."""
    done = await connection.fetchval(
        f"{APPROVALS.insert} ON CONFLICT (content) DO NOTHING RETURNING id", *APPROVALS.values(approval)
    )
    return done is not None


async def get_approval(connection: Connection, key: UUID) -> PayApproval | None:
    """Read by key; None if there is none."""
    return APPROVALS.model(await connection.fetchrow(f"{APPROVALS.select} WHERE t.id = $1", key))


async def get_waiting(connection: Connection, content: bytes) -> PayApproval | None:
    """The one that waits with this content; None if there is none."""
    return APPROVALS.model(await connection.fetchrow(f"{APPROVALS.select} WHERE t.content = $1", content))


async def lock_approval(transaction: Transaction, key: UUID) -> PayApproval | None:
    """Read by key and lock until the end of the transaction. It is the first lock of the transaction."""
    return APPROVALS.model(await transaction.fetchrow(f"{APPROVALS.select} WHERE t.id = $1 FOR NO KEY UPDATE OF t", key))


async def decide(connection: WriteConnection, key: UUID, event: ApprovalEvent, by: str, reason: str, now: datetime) -> bool:
    """Move an approval that waits, and remove the values of its call with their secrets. False if it does not wait any more."""
    done = await connection.fetchval(
        """UPDATE pay_approval SET state = $3, decided_by = $4, reason = $5, request = '{}', content = NULL, decide_time = $6,
           update_time = $6 WHERE id = $1 AND state = ANY($2) RETURNING id""",
        key, sources(APPROVAL, event), target(APPROVAL, event), by, reason, now,
    )  # fmt: skip
    return done is not None


async def expire(connection: WriteConnection, now: datetime) -> None:
    """End those whose time is over. Only waiting ones have a content, so the statement reads few rows."""
    event = ApprovalEvent.EXPIRE
    await connection.execute(
        """UPDATE pay_approval SET state = $2, request = '{}', content = NULL, decide_time = $3, update_time = $3
           WHERE content IS NOT NULL AND expire_time <= $3 AND state = ANY($1)""",
        sources(APPROVAL, event), target(APPROVAL, event), now,
    )  # fmt: skip


async def list_approvals(connection: Connection, where: ApprovalFilter, *, limit: int, before: UUID | None) -> list[PayApproval]:
    """List approvals, newest first. There are few of them: operators make each."""
    waiting = "AND t.content IS NOT NULL" if where.state is ApprovalState.PENDING else ""
    return APPROVALS.models(
        await connection.fetch(
            f"""{APPROVALS.select} WHERE ($1::uuid IS NULL OR t.id < $1) AND ($2::varchar IS NULL OR t.state = $2)
                AND ($3::varchar IS NULL OR t.kind = $3) AND ($4::uuid IS NULL OR t.app_id = $4) AND ($5 = '' OR t.object = $5)
                {waiting} ORDER BY t.id DESC LIMIT $6""",
            before, where.state.value if where.state else None, where.kind.value if where.kind else None, where.app_id,
            where.object, limit,
        )
    )  # fmt: skip


async def count_waiting(connection: Connection) -> int:
    """How many wait, at most COUNTED."""
    return int(
        await connection.fetchval(
            "SELECT count(*) FROM (SELECT 1 FROM pay_approval WHERE content IS NOT NULL LIMIT $1) found", COUNTED
        )
    )
