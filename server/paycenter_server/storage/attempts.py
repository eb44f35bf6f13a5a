"""Statements on pay_attempt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.states import ATTEMPT, OPEN_ATTEMPT, UNPAID_ATTEMPT, AttemptEvent, sources, target
from paycenter_server.storage.database import Connection, Transaction, WriteConnection
from paycenter_server.storage.rows import RowMapping

ATTEMPTS = RowMapping(PayAttempt, "pay_attempt")


async def insert_attempt(connection: WriteConnection, attempt: PayAttempt) -> None:
    """Insert the intent, before the channel is called."""
    await connection.execute(ATTEMPTS.insert, *ATTEMPTS.values(attempt))


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


async def answered(
    connection: WriteConnection, attempt_id: UUID, mode: str, content: str, now: datetime, next_check: datetime
) -> bool:
    """The channel made it payable: store the display content. False if its state does not allow it any more."""
    done = await connection.fetchval(
        """UPDATE pay_attempt SET state = $6, display_mode = $2, display_content = $3, update_time = $4, next_check_time = $5,
           channel_error_code = NULL, channel_error_message = NULL WHERE id = $1 AND state = ANY($7) RETURNING id""",
        attempt_id, mode, content, now, next_check, target(ATTEMPT, AttemptEvent.ANSWERED),
        sources(ATTEMPT, AttemptEvent.ANSWERED),
    )  # fmt: skip
    return done is not None


async def unclear(
    connection: WriteConnection, attempt_id: UUID, code: str, message: str, now: datetime, next_check: datetime
) -> bool:
    """The channel's answer was unclear. False if its state does not allow it any more."""
    done = await connection.fetchval(
        """UPDATE pay_attempt SET state = $6, channel_error_code = $2, channel_error_message = $3, update_time = $4,
           next_check_time = least(next_check_time, $5) WHERE id = $1 AND state = ANY($7) RETURNING id""",
        attempt_id, code[:128], message[:512], now, next_check, target(ATTEMPT, AttemptEvent.UNCLEAR),
        sources(ATTEMPT, AttemptEvent.UNCLEAR),
    )  # fmt: skip
    return done is not None


async def close_attempt(
    connection: WriteConnection,
    attempt_id: UUID,
    now: datetime,
    *,
    code: str = "",
    message: str = "",
    watch_until: datetime | None,
    unshown: bool = False,
) -> bool:
    """Close an attempt in PayCenter. False if its state does not allow it any more.

    `watch_until`: the channel could not close it, so it is queried again at this time. `unshown`: close it only if it has no
    display content, so no payer can pay it.
    """
    done = await connection.fetchval(
        """UPDATE pay_attempt SET state = $5, channel_error_code = coalesce($2, channel_error_code),
           channel_error_message = coalesce($3, channel_error_message), update_time = $4, next_check_time = $6
           WHERE id = $1 AND state = ANY($7) AND (display_content = '' OR NOT $8) RETURNING id""",
        attempt_id, code[:128] or None, message[:512] or None, now, target(ATTEMPT, AttemptEvent.CLOSE), watch_until,
        sources(ATTEMPT, AttemptEvent.CLOSE), unshown,
    )  # fmt: skip
    return done is not None


@dataclass(frozen=True, slots=True)
class Cancelling:
    """A cancellation in progress: the time until which the channel may execute it, and the same of the previous one."""

    until: datetime
    before: datetime | None


async def begin_cancel(connection: WriteConnection, attempt_id: UUID, now: datetime, until: datetime) -> Cancelling | None:
    """Store a cancellation before it is sent, so that no payment is booked that it may refund. None if the attempt is paid."""
    row = await connection.fetchrow(
        """WITH old AS (SELECT id, cancel_until FROM pay_attempt WHERE id = $1 AND state = ANY($4)
             FOR NO KEY UPDATE)
           UPDATE pay_attempt a SET cancel_until = $3, update_time = $2 FROM old WHERE a.id = old.id RETURNING old.cancel_until""",
        attempt_id, now, until, UNPAID_ATTEMPT,
    )  # fmt: skip
    return Cancelling(until, row["cancel_until"]) if row else None


async def end_cancel(connection: WriteConnection, attempt_id: UUID, cancelling: Cancelling, decided: datetime | None) -> None:
    """End a cancellation that the channel has decided: queries from `decided` on are valid. No change if another one has begun."""
    await connection.execute(
        "UPDATE pay_attempt SET cancel_until = $3 WHERE id = $1 AND cancel_until = $2", attempt_id, cancelling.until, decided
    )


async def look_again(connection: WriteConnection, attempt_id: UUID, when: datetime) -> None:
    """Make an attempt that is not paid due at this time at the latest, including a closed one."""
    await connection.execute(
        "UPDATE pay_attempt SET next_check_time = least(coalesce(next_check_time, $2), $2) WHERE id = $1 AND state = ANY($3)",
        attempt_id, when, UNPAID_ATTEMPT,
    )  # fmt: skip


async def pay_late(
    connection: WriteConnection,
    attempt_id: UUID,
    *,
    amount: int,
    channel_order_no: str,
    channel_user_id: str,
    success_time: datetime,
    callback_data: str,
    now: datetime,
) -> bool:
    """Mark an attempt as paid from every state except SUCCESS. The caller has locked the row and opens the case."""
    done = await connection.fetchval(
        """UPDATE pay_attempt SET state = $8, paid_amount = $2, channel_order_no = $3, channel_user_id = $4, success_time = $5,
           callback_data = $6, update_time = $7, next_check_time = NULL WHERE id = $1 AND state = ANY($9) RETURNING id""",
        attempt_id, amount, channel_order_no, channel_user_id, success_time, callback_data, now,
        target(ATTEMPT, AttemptEvent.PAID_LATE),
        UNPAID_ATTEMPT,
    )  # fmt: skip
    return done is not None


async def claim_due(connection: WriteConnection, now: datetime, lease: datetime, limit: int) -> list[PayAttempt]:
    """Claim unsettled attempts whose check is due. Each is due again at `lease`, so that a killed worker loses nothing."""
    rows = await connection.fetch(
        f"""UPDATE pay_attempt t SET next_check_time = $2, check_count = check_count + 1 WHERE id = ANY(ARRAY(
             SELECT id FROM pay_attempt WHERE next_check_time <= $1 ORDER BY next_check_time LIMIT $3
             FOR NO KEY UPDATE SKIP LOCKED))
           RETURNING {ATTEMPTS.returning}""",
        now, lease, limit,
    )  # fmt: skip
    return ATTEMPTS.models(rows)


async def set_next_check(connection: WriteConnection, attempt_id: UUID, when: datetime | None, *, only_open: bool = True) -> None:
    """Set the time of the next check, None for no further check."""
    await connection.execute(
        "UPDATE pay_attempt SET next_check_time = $2 WHERE id = $1 AND state = ANY($3)",
        attempt_id, when, OPEN_ATTEMPT if only_open else UNPAID_ATTEMPT,
    )  # fmt: skip
