"""pay_attempt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.models import PayAttempt
from paycenter_server.domain.states import ATTEMPT, OPEN_ATTEMPT, AttemptEvent, AttemptState, sources
from paycenter_server.storage.database import Connection
from paycenter_server.storage.rows import to_model


async def insert_attempt(connection: Connection, attempt: PayAttempt) -> None:
    """The intent, before the channel is called."""
    await connection.execute(
        """INSERT INTO pay_attempt (id, order_id, app_id, channel_id, channel_code, amount, currency, state, display_mode,
           display_content, wanted_mode, channel_extras, return_url, user_ip, expire_time, next_check_time, create_time,
           update_time) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,'','',$9,$10,$11,$12,$13,$14,$15,$15)""",
        attempt.id, attempt.order_id, attempt.app_id, attempt.channel_id, attempt.channel_code, attempt.amount,
        attempt.currency, attempt.state.value, attempt.wanted_mode, dict(attempt.channel_extras), attempt.return_url,
        attempt.user_ip, attempt.expire_time, attempt.next_check_time, attempt.create_time,
    )  # fmt: skip


async def get_attempt(connection: Connection, attempt_id: UUID, *, lock: bool = False) -> PayAttempt | None:
    """By id."""
    text = "SELECT * FROM pay_attempt WHERE id = $1"
    row = await connection.fetchrow(text + " FOR UPDATE" if lock else text, attempt_id)
    return to_model(PayAttempt, row) if row else None


async def list_attempts(connection: Connection, order_id: UUID) -> list[PayAttempt]:
    """All of an order, oldest first."""
    rows = await connection.fetch("SELECT * FROM pay_attempt WHERE order_id = $1 ORDER BY id", order_id)
    return [to_model(PayAttempt, row) for row in rows]


async def open_attempts(connection: Connection, order_id: UUID) -> list[PayAttempt]:
    """Those that may still be paid, oldest first."""
    rows = await connection.fetch(
        "SELECT * FROM pay_attempt WHERE order_id = $1 AND state = ANY($2) ORDER BY id", order_id, OPEN_ATTEMPT
    )
    return [to_model(PayAttempt, row) for row in rows]


async def answered(connection: Connection, attempt_id: UUID, mode: str, content: str, now: datetime, next_check: datetime) -> bool:
    """The channel made it payable: keep what to show. False if it has moved on meanwhile."""
    done = await connection.fetchval(
        """UPDATE pay_attempt SET state = $6, display_mode = $2, display_content = $3, update_time = $4, next_check_time = $5,
           channel_error_code = NULL, channel_error_message = NULL WHERE id = $1 AND state = ANY($7) RETURNING id""",
        attempt_id, mode, content, now, next_check, AttemptState.WAITING.value, sources(ATTEMPT, AttemptEvent.ANSWERED),
    )  # fmt: skip
    return done is not None


async def unclear(connection: Connection, attempt_id: UUID, code: str, message: str, now: datetime, next_check: datetime) -> bool:
    """The channel's answer decided nothing. False if it has moved on meanwhile."""
    done = await connection.fetchval(
        """UPDATE pay_attempt SET state = $6, channel_error_code = $2, channel_error_message = $3, update_time = $4,
           next_check_time = least(next_check_time, $5) WHERE id = $1 AND state = ANY($7) RETURNING id""",
        attempt_id, code[:128], message[:512], now, next_check, AttemptState.UNKNOWN.value,
        sources(ATTEMPT, AttemptEvent.UNCLEAR),
    )  # fmt: skip
    return done is not None


async def close_attempt(
    connection: Connection,
    attempt_id: UUID,
    now: datetime,
    *,
    code: str = "",
    message: str = "",
    watch_until: datetime | None,
    unshown: bool = False,
) -> bool:
    """Not payable any more, as far as we are concerned. `watch_until`: the channel could not close it, so it is asked once
    more then. `unshown`: only if nobody has been shown anything to pay it with. False if it has moved on meanwhile."""
    done = await connection.fetchval(
        """UPDATE pay_attempt SET state = $5, channel_error_code = coalesce($2, channel_error_code),
           channel_error_message = coalesce($3, channel_error_message), update_time = $4, next_check_time = $6
           WHERE id = $1 AND state = ANY($7) AND (display_content = '' OR NOT $8) RETURNING id""",
        attempt_id, code[:128] or None, message[:512] or None, now, AttemptState.CLOSED.value, watch_until,
        sources(ATTEMPT, AttemptEvent.CLOSE), unshown,
    )  # fmt: skip
    return done is not None


@dataclass(frozen=True, slots=True)
class Cancelling:
    """A cancellation that is asked for: until when it may be carried out, and until when the one before it might have been."""

    until: datetime
    before: datetime | None


async def begin_cancel(connection: Connection, attempt_id: UUID, now: datetime, until: datetime) -> Cancelling | None:
    """From here on nothing is booked that the channel may be about to give back; None if it is paid here already."""
    row = await connection.fetchrow(
        """WITH old AS (SELECT id, cancel_until FROM pay_attempt WHERE id = $1 AND state <> $4 FOR UPDATE)
           UPDATE pay_attempt a SET cancel_until = $3, update_time = $2 FROM old WHERE a.id = old.id RETURNING old.cancel_until""",
        attempt_id, now, until, AttemptState.SUCCESS.value,
    )  # fmt: skip
    return Cancelling(until, row["cancel_until"]) if row else None


async def end_cancel(connection: Connection, attempt_id: UUID, cancelling: Cancelling, decided: datetime | None) -> None:
    """The channel has decided it: what is asked from `decided` on counts again. Not if another one has begun meanwhile."""
    await connection.execute(
        "UPDATE pay_attempt SET cancel_until = $3 WHERE id = $1 AND cancel_until = $2", attempt_id, cancelling.until, decided
    )


async def look_again(connection: Connection, attempt_id: UUID, when: datetime) -> None:
    """Due by then at the latest, whatever its state, unless it is paid."""
    await connection.execute(
        "UPDATE pay_attempt SET next_check_time = least(coalesce(next_check_time, $2), $2) WHERE id = $1 AND state <> $3",
        attempt_id, when, AttemptState.SUCCESS.value,
    )  # fmt: skip


async def pay_late(
    connection: Connection,
    attempt_id: UUID,
    *,
    amount: int,
    channel_order_no: str,
    channel_user_id: str,
    success_time: datetime,
    callback_data: str,
    now: datetime,
) -> bool:
    """Paid, whatever we thought of it: from any state but SUCCESS. The caller holds the row and opens the case."""
    allowed = [*sources(ATTEMPT, AttemptEvent.PAID), *sources(ATTEMPT, AttemptEvent.PAID_LATE)]
    done = await connection.fetchval(
        """UPDATE pay_attempt SET state = $8, paid_amount = $2, channel_order_no = $3, channel_user_id = $4, success_time = $5,
           callback_data = $6, update_time = $7, next_check_time = NULL WHERE id = $1 AND state = ANY($9) RETURNING id""",
        attempt_id, amount, channel_order_no, channel_user_id, success_time, callback_data, now, AttemptState.SUCCESS.value,
        allowed,
    )  # fmt: skip
    return done is not None


async def claim_due(connection: Connection, now: datetime, lease: datetime, limit: int) -> list[PayAttempt]:
    """Unsettled attempts whose check is due; each is due again at `lease`, so that a killed worker loses nothing."""
    rows = await connection.fetch(
        """UPDATE pay_attempt SET next_check_time = $2, check_count = check_count + 1 WHERE id IN (
             SELECT id FROM pay_attempt WHERE next_check_time <= $1 ORDER BY next_check_time LIMIT $3 FOR UPDATE SKIP LOCKED)
           RETURNING *""",
        now, lease, limit,
    )  # fmt: skip
    return [to_model(PayAttempt, row) for row in rows]


async def set_next_check(connection: Connection, attempt_id: UUID, when: datetime | None, *, only_open: bool = True) -> None:
    """When an attempt is asked about again."""
    await connection.execute(
        "UPDATE pay_attempt SET next_check_time = $2 WHERE id = $1 AND (state = ANY($3) OR (state = $4 AND NOT $5))",
        attempt_id, when, OPEN_ATTEMPT, AttemptState.CLOSED.value, only_open,
    )  # fmt: skip
