"""Statements on the numbers of a refund at its channel: the current out_refund_no, and those that it had before."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from paycenter_server.domain.events import Cause
from paycenter_server.domain.refunds import EarlierNumbers, PayRefund, first_look_at_replaced
from paycenter_server.domain.states import REFUND, RefundEvent, RefundState, sources, target
from paycenter_server.storage.database import Connection, Transaction, WriteConnection
from paycenter_server.storage.events import cause_values, noting
from paycenter_server.storage.refunds import NOTED, REFUNDS, refund_event


async def find_earlier_key(connection: Connection, attempt_id: UUID, key: UUID) -> PayRefund | None:
    """The refund of this attempt that had this out_refund_no before; None if there is none."""
    return REFUNDS.model(
        await connection.fetchrow(
            f"{REFUNDS.select} WHERE t.attempt_id = $1 AND t.earlier_out_refund_keys ? $2", attempt_id, str(key)
        )
    )


async def earlier_numbers(connection: Connection, refund_id: UUID) -> EarlierNumbers | None:
    """The earlier out_refund_no of a refund; None if there is no such refund."""
    row = await connection.fetchrow(
        "SELECT earlier_out_refund_keys, out_refund_key, earlier_look_time FROM pay_refund WHERE id = $1", refund_id
    )
    if row is None:
        return None
    keys = [UUID(key) for key in row["earlier_out_refund_keys"]]
    return EarlierNumbers(keys, row["out_refund_key"], row["earlier_look_time"])


async def set_earlier_look(
    connection: WriteConnection,
    refund_id: UUID,
    looked: EarlierNumbers,
    left: datetime | None,
    when: datetime | None,
    now: datetime,
) -> None:
    """Store the first look at an earlier number that is left, and when the refund is due for it, after looks at `looked`.

    Nothing is changed if the refund has another number by now, or if other looks were stored meanwhile. What is not SUCCESS is also
    due for its current number, which has its own time if that is not over.
    """
    await connection.execute(
        """UPDATE pay_refund SET earlier_look_time = $4, next_check_time = CASE WHEN state = ANY($7)
             THEN coalesce(least(CASE WHEN next_check_time > $6 THEN next_check_time END, $5), next_check_time) ELSE $5 END
           WHERE id = $1 AND out_refund_key = $2 AND earlier_look_time = $3""",
        refund_id, looked.current, looked.since, left, when, now,
        sources(REFUND, RefundEvent.SUCCEED, RefundEvent.SUCCEED_LATE),
    )  # fmt: skip


async def send_again(
    connection: Transaction, refund: PayRefund, new_key: UUID, now: datetime, next_check: datetime, cause: Cause
) -> bool:
    """Make a refund in state FAILURE WAITING under a new out_refund_no. False if it is not in that state any more under
    the number with which it was read, or if the channel knows it under that: the money may go back under it.

    The number that it had is looked at again by the verification schedule.
    """
    done = await connection.fetchval(
        f"""WITH again AS (
             UPDATE pay_refund SET state = $5, earlier_out_refund_keys = earlier_out_refund_keys || to_jsonb(out_refund_key::text),
               out_refund_key = $2, send_count = send_count + 1, channel_error_code = NULL, channel_error_message = NULL,
               next_check_time = $4, unclear_send_time = $3, earlier_look_time = least(earlier_look_time, $7),
               check_count = 0, update_time = $3
             WHERE id = $1 AND out_refund_key = $8 AND state = ANY($6) AND known_time IS NULL RETURNING {NOTED}
           ), noted AS ({noting("again", 9, refund_event(RefundEvent.SEND_AGAIN, RefundState.FAILURE, reserved="+"))})
           SELECT id FROM again""",
        refund.id, new_key, now, next_check, target(REFUND, RefundEvent.SEND_AGAIN),
        sources(REFUND, RefundEvent.SEND_AGAIN), first_look_at_replaced(new_key), refund.out_refund_key,
        *cause_values(cause),
    )  # fmt: skip
    return done is not None


async def set_known(connection: WriteConnection, refund: PayRefund, known: bool, now: datetime) -> None:
    """Store that the channel knows a refund under this number, or that it does not go back under it. A FAILED one that it knows is
    looked at again.

    Nothing is changed if it is SUCCESS, or has another number.
    """
    await connection.execute(
        """UPDATE pay_refund SET known_time = CASE WHEN $3 THEN $4::timestamptz END,
             next_check_time = CASE WHEN $3 THEN coalesce(next_check_time, $4) ELSE next_check_time END
           WHERE id = $1 AND out_refund_key = $2 AND state = ANY($5) AND (known_time IS NULL) = $3""",
        refund.id, refund.out_refund_key, known, now, sources(REFUND, RefundEvent.SUCCEED, RefundEvent.SUCCEED_LATE),
    )  # fmt: skip
