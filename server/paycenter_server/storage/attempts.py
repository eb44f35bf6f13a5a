"""Statements on pay_attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.events import CANCEL_BEGUN, CANCEL_DECIDED, Cause, Subject
from paycenter_server.domain.states import (
    ATTEMPT,
    OPEN_ATTEMPT,
    UNPAID_ATTEMPT,
    AttemptEvent,
    sources,
    target,
)
from paycenter_server.storage.claims import due_keys, due_rows, waiting_rows
from paycenter_server.storage.database import Connection, Transaction, WriteConnection
from paycenter_server.storage.events import Change, cause_values, named, noting
from paycenter_server.storage.rows import RowMapping

ATTEMPTS = RowMapping(PayAttempt, "pay_attempt")


def attempt_event(event: AttemptEvent | str, before: str = "before", amount: str = "amount") -> Change:
    """The event of an attempt. `before`, `amount`: the columns of the CTE that has the state before, and the amount."""
    return Change(Subject.ATTEMPT, named(event), before=before, after="state", amount=amount)


def _changing(event: AttemptEvent, assignments: str, condition: str, first: int, amount: str = "amount") -> str:
    """A statement that applies the event to the attempt $1, with its row in the ledger. It returns the id if it was applied.

    Its parameters before `first`: $2 is the new state and $3 the states in which the event is possible. The row is locked first,
    because the event names the state before.
    """
    return f"""
WITH old AS (SELECT id, state FROM pay_attempt WHERE id = $1 AND state = ANY($3) AND {condition} FOR NO KEY UPDATE),
changed AS (UPDATE pay_attempt t SET state = $2, {assignments} FROM old WHERE t.id = old.id
  RETURNING t.id, t.order_id, t.state, t.amount, t.paid_amount, old.state AS before),
noted AS ({noting("changed", first, attempt_event(event, amount=amount))})
SELECT id FROM changed
"""


async def get_attempt(connection: Connection, attempt_id: UUID) -> PayAttempt | None:
    """Read by id; None if there is none."""
    return ATTEMPTS.model(await connection.fetchrow(f"{ATTEMPTS.select} WHERE t.id = $1", attempt_id))


async def lock_attempt(transaction: Transaction, attempt_id: UUID) -> PayAttempt | None:
    """Read by id and lock until the end of the transaction. The order, if it is locked too, is locked first."""
    return ATTEMPTS.model(await transaction.fetchrow(f"{ATTEMPTS.select} WHERE t.id = $1 FOR NO KEY UPDATE", attempt_id))


async def list_attempts(connection: Connection, order_id: UUID) -> list[PayAttempt]:
    """The attempts of an order, oldest first."""
    return ATTEMPTS.models(await connection.fetch(f"{ATTEMPTS.select} WHERE t.order_id = $1 ORDER BY t.id", order_id))


async def open_attempts(connection: Connection, order_id: UUID) -> list[PayAttempt]:
    """The attempts of an order that may still be paid, oldest first."""
    return ATTEMPTS.models(
        await connection.fetch(
            f"{ATTEMPTS.select} WHERE t.order_id = $1 AND t.state = ANY($2) ORDER BY t.id", order_id, OPEN_ATTEMPT
        )
    )


_UNCLEAR = _changing(
    AttemptEvent.UNCLEAR,
    "channel_error_code = $4, channel_error_message = $5, update_time = $6, next_check_time = least(next_check_time, $7)",
    "true",
    8,
)


async def unclear(
    connection: WriteConnection, attempt_id: UUID, code: str, message: str, now: datetime, next_check: datetime, cause: Cause
) -> bool:
    """The channel's answer was unclear. False if its state does not allow it any more."""
    done = await connection.fetchval(
        _UNCLEAR, attempt_id, target(ATTEMPT, AttemptEvent.UNCLEAR), sources(ATTEMPT, AttemptEvent.UNCLEAR), code[:128],
        message[:512], now, next_check, *cause_values(cause),
    )  # fmt: skip
    return done is not None


_CLOSE = _changing(
    AttemptEvent.CLOSE,
    "channel_error_code = coalesce($4, channel_error_code), channel_error_message = coalesce($5, channel_error_message), "
    "update_time = $6, next_check_time = $7, check_count = 0",
    "(display_content = '' OR NOT $8)",
    9,
)


async def close_attempt(
    connection: WriteConnection,
    attempt_id: UUID,
    now: datetime,
    cause: Cause,
    *,
    code: str = "",
    message: str = "",
    next_look: datetime | None,
    unshown: bool = False,
) -> bool:
    """Close an attempt in PayCenter. False if its state does not allow it any more.

    `next_look`: it is queried again at this time, because the channel could not close it, or to verify that it stays closed; None
    if the channel has not received it. `unshown`: close it only if it has no
    display content, so no payer can pay it.
    """
    done = await connection.fetchval(
        _CLOSE, attempt_id, target(ATTEMPT, AttemptEvent.CLOSE), sources(ATTEMPT, AttemptEvent.CLOSE), code[:128] or None,
        message[:512] or None, now, next_look, unshown, *cause_values(cause),
    )  # fmt: skip
    return done is not None


@dataclass(frozen=True, slots=True)
class Cancelling:
    """A cancellation in progress: the time until which the channel may execute it, and the same of the previous one."""

    until: datetime
    before: datetime | None


async def begin_cancel(
    connection: WriteConnection, attempt_id: UUID, now: datetime, until: datetime, cause: Cause
) -> Cancelling | None:
    """Store a cancellation before it is sent, so that no payment is booked that it may refund. None if the attempt is paid."""
    row = await connection.fetchrow(
        f"""WITH old AS (SELECT id, cancel_until FROM pay_attempt WHERE id = $1 AND state = ANY($4)
             FOR NO KEY UPDATE),
           begun AS (UPDATE pay_attempt a SET cancel_until = $3, update_time = $2 FROM old WHERE a.id = old.id
             RETURNING a.id, a.order_id, a.state, a.amount, old.cancel_until),
           noted AS ({noting("begun", 5, attempt_event(CANCEL_BEGUN, before="state"))})
           SELECT cancel_until FROM begun""",
        attempt_id, now, until, UNPAID_ATTEMPT, *cause_values(cause),
    )  # fmt: skip
    return Cancelling(until, row["cancel_until"]) if row else None


async def end_cancel(
    connection: WriteConnection, attempt_id: UUID, cancelling: Cancelling, decided: datetime | None, cause: Cause
) -> None:
    """End a cancellation that the channel has decided: queries from `decided` on are valid. No change if another one has begun."""
    await connection.execute(
        f"""WITH ended AS (UPDATE pay_attempt SET cancel_until = $3 WHERE id = $1 AND cancel_until = $2
             RETURNING id, order_id, state, amount)
           {noting("ended", 4, attempt_event(CANCEL_DECIDED, before="state"))}""",
        attempt_id, cancelling.until, decided, *cause_values(cause),
    )  # fmt: skip


async def look_again(connection: WriteConnection, attempt_id: UUID, when: datetime) -> None:
    """Make an attempt that is not paid due at this time at the latest, including a closed one."""
    await connection.execute(
        "UPDATE pay_attempt SET next_check_time = least(coalesce(next_check_time, $2), $2) WHERE id = $1 AND state = ANY($3)",
        attempt_id, when, UNPAID_ATTEMPT,
    )  # fmt: skip


_PAID_LATE = _changing(
    AttemptEvent.PAID_LATE,
    "paid_amount = $4, channel_order_no = $5, channel_user_id = $6, success_time = $7, update_time = $8, next_check_time = NULL",
    "true",
    9,
    amount="paid_amount",
)


async def pay_late(
    connection: WriteConnection,
    attempt_id: UUID,
    cause: Cause,
    *,
    amount: int,
    channel_order_no: str,
    channel_user_id: str,
    success_time: datetime,
    now: datetime,
) -> bool:
    """Mark an attempt as paid from every state except SUCCESS. The caller has locked the row and opens the case."""
    done = await connection.fetchval(
        _PAID_LATE, attempt_id, target(ATTEMPT, AttemptEvent.PAID_LATE), sources(ATTEMPT, AttemptEvent.PAID_LATE), amount,
        channel_order_no, channel_user_id, success_time, now, *cause_values(cause),
    )  # fmt: skip
    return done is not None


_DUE_ACCOUNTS = due_keys("pay_attempt", "account_id", "next_check_time")
_CLAIM = f"""
WITH due AS MATERIALIZED ({due_rows("pay_attempt", "account_id", "uuid", "next_check_time")})
UPDATE pay_attempt t SET next_check_time = $2, check_count = check_count + 1 WHERE t.id = ANY(ARRAY(SELECT id FROM due))
RETURNING {ATTEMPTS.returning}
"""
_WAITING = f"{ATTEMPTS.select} {waiting_rows('account_id', 'next_check_time')}"


async def due_accounts(connection: Connection, now: datetime) -> dict[UUID, datetime]:
    """The accounts that have attempts whose check is due, each with the earliest time. It reads one row for each account."""
    return {row["account_id"]: row["next_check_time"] for row in await connection.fetch(_DUE_ACCOUNTS, now)}


async def claim_due(connection: WriteConnection, now: datetime, lease: datetime, places: Mapping[UUID, int]) -> list[PayAttempt]:
    """Claim unsettled attempts whose check has been due longest, at most `places` of each account.

    Each is due again at `lease`, so that a killed worker loses nothing. It reads the rows that it claims, and no others.
    """
    return ATTEMPTS.models(await connection.fetch(_CLAIM, now, lease, list(places), list(places.values())))


async def list_waiting(
    connection: Connection, account_id: UUID, since: datetime, after: tuple[datetime, UUID], limit: int
) -> list[PayAttempt]:
    """Attempts of an account whose check has been due since this time, in the order of that, after the one with time and id."""
    return ATTEMPTS.models(await connection.fetch(_WAITING, account_id, since, *after, limit))


async def set_next_check(connection: WriteConnection, attempt_id: UUID, when: datetime | None, *, only_open: bool = True) -> None:
    """Set the time of the next check, None for no further check."""
    await connection.execute(
        "UPDATE pay_attempt SET next_check_time = $2 WHERE id = $1 AND state = ANY($3)",
        attempt_id, when, OPEN_ATTEMPT if only_open else UNPAID_ATTEMPT,
    )  # fmt: skip
