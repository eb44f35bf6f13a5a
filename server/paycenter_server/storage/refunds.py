"""Statements on pay_refund, and on the reserved and refunded amounts of the order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.states import ORDER, REFUND, OrderEvent, RefundEvent, RefundState, sources, target
from paycenter_server.storage.database import Connection, Transaction, WriteConnection
from paycenter_server.storage.rows import RowMapping

REFUNDS = RowMapping(PayRefund, "pay_refund")


async def reserve(connection: WriteConnection, order_id: UUID, amount: int, now: datetime) -> bool:
    """Reserve part of the paid amount. False if less than that remains.

    This is one conditional UPDATE, because a SUM over refund rows would race. The state needs no condition, because `paid_amount`
    is 0 (a CHECK) unless the order is paid.
    """
    done = await connection.fetchval(
        """UPDATE pay_order SET reserved_amount = reserved_amount + $2, update_time = $3
           WHERE id = $1 AND refunded_amount + reserved_amount + $2 <= paid_amount RETURNING id""",
        order_id, amount, now,
    )  # fmt: skip
    return done is not None


async def insert_refund(transaction: Transaction, refund: PayRefund) -> None:
    """Insert a refund. UniqueViolation if the app has a refund with this merchant_refund_no, or the case has a refund."""
    await transaction.execute(REFUNDS.insert, *REFUNDS.values(refund))


async def get_refund(connection: Connection, refund_id: UUID) -> PayRefund | None:
    """Read by id; None if there is none."""
    return REFUNDS.model(await connection.fetchrow(f"{REFUNDS.select} WHERE t.id = $1", refund_id))


async def get_refund_by_merchant_no(connection: Connection, app_id: UUID, merchant_refund_no: str) -> PayRefund | None:
    """Read by the app's own number; None if there is none."""
    return REFUNDS.model(
        await connection.fetchrow(f"{REFUNDS.select} WHERE t.app_id = $1 AND t.merchant_refund_no = $2", app_id, merchant_refund_no)
    )


async def get_refund_by_out_key(connection: Connection, key: UUID) -> PayRefund | None:
    """Read by the current out_refund_no; None if there is none."""
    return REFUNDS.model(await connection.fetchrow(f"{REFUNDS.select} WHERE t.out_refund_key = $1", key))


async def find_earlier_key(connection: Connection, attempt_id: UUID, key: UUID) -> PayRefund | None:
    """The refund of this attempt that had this out_refund_no before; None if there is none."""
    return REFUNDS.model(
        await connection.fetchrow(
            f"{REFUNDS.select} WHERE t.attempt_id = $1 AND t.earlier_out_refund_keys ? $2", attempt_id, str(key)
        )
    )


async def send_again(connection: Transaction, refund_id: UUID, new_key: UUID, now: datetime, next_check: datetime) -> bool:
    """Make a refund in state FAILURE WAITING under a new out_refund_no. False if it is not in that state any more."""
    done = await connection.fetchval(
        """UPDATE pay_refund SET state = $5, earlier_out_refund_keys = earlier_out_refund_keys || to_jsonb(out_refund_key::text),
           out_refund_key = $2, send_count = send_count + 1, channel_error_code = NULL, channel_error_message = NULL,
           next_check_time = $4, check_count = 0, update_time = $3 WHERE id = $1 AND state = ANY($6) RETURNING id""",
        refund_id, new_key, now, next_check, target(REFUND, RefundEvent.SEND_AGAIN),
        sources(REFUND, RefundEvent.SEND_AGAIN),
    )  # fmt: skip
    return done is not None


async def succeed(
    connection: Transaction,
    refund: PayRefund,
    *,
    channel_refund_no: str,
    success_time: datetime,
    callback_data: str,
    now: datetime,
) -> int:
    """Make a WAITING refund SUCCESS, and its reserved amount refunded. Its new version; 0 if it is not WAITING any more."""
    row = await connection.fetchrow(
        """WITH done AS (
             UPDATE pay_refund SET state = $3, channel_refund_no = $4, success_time = $5, callback_data = $6, update_time = $7,
               next_check_time = NULL, channel_error_code = NULL, channel_error_message = NULL, version = version + 1
             WHERE id = $1 AND out_refund_key = $2 AND state = ANY($8) RETURNING order_id, amount, case_id, version
           ), moved AS (
             UPDATE pay_order o SET state = $9, refunded_amount = refunded_amount + done.amount,
               reserved_amount = reserved_amount - done.amount, update_time = $7
             FROM done WHERE o.id = done.order_id AND done.case_id IS NULL RETURNING o.id
           ) SELECT (SELECT version FROM done) AS version, (SELECT count(*) FROM moved) AS orders""",
        refund.id, refund.out_refund_key, target(REFUND, RefundEvent.SUCCEED), channel_refund_no, success_time,
        callback_data, now, sources(REFUND, RefundEvent.SUCCEED), target(ORDER, OrderEvent.REFUNDED),
    )  # fmt: skip
    return int(row["version"] or 0) if row else 0


async def fail(connection: Transaction, refund: PayRefund, *, code: str, message: str, callback_data: str, now: datetime) -> int:
    """Make a WAITING refund FAILURE, and release its reserved amount. Its new version; 0 if it is not WAITING any more."""
    row = await connection.fetchrow(
        """WITH done AS (
             UPDATE pay_refund SET state = $3, channel_error_code = $4, channel_error_message = $5, callback_data = $6,
               update_time = $7, next_check_time = NULL, version = version + 1
             WHERE id = $1 AND out_refund_key = $2 AND state = ANY($8) RETURNING order_id, amount, case_id, version
           ), freed AS (
             UPDATE pay_order o SET reserved_amount = reserved_amount - done.amount, update_time = $7
             FROM done WHERE o.id = done.order_id AND done.case_id IS NULL RETURNING o.id
           ) SELECT (SELECT version FROM done) AS version, (SELECT count(*) FROM freed) AS orders""",
        refund.id, refund.out_refund_key, target(REFUND, RefundEvent.FAIL), code[:128], message[:512], callback_data, now,
        sources(REFUND, RefundEvent.FAIL),
    )  # fmt: skip
    return int(row["version"] or 0) if row else 0


async def note(
    connection: WriteConnection, refund: PayRefund, *, code: str, message: str, next_check: datetime, now: datetime
) -> None:
    """Store the answer of the channel and the time of the next check of a refund that stays WAITING."""
    await connection.execute(
        """UPDATE pay_refund SET channel_error_code = $3, channel_error_message = $4, next_check_time = $5, update_time = $6,
             state = $7 WHERE id = $1 AND out_refund_key = $2 AND state = ANY($8)""",
        refund.id, refund.out_refund_key, code[:128] or None, message[:512] or None, next_check, now,
        target(REFUND, RefundEvent.UNDECIDED), sources(REFUND, RefundEvent.UNDECIDED),
    )  # fmt: skip


async def claim_due(connection: WriteConnection, now: datetime, lease: datetime, limit: int) -> list[PayRefund]:
    """Claim WAITING refunds whose check is due. Each is due again at `lease`."""
    rows = await connection.fetch(
        f"""WITH due AS (UPDATE pay_refund t SET next_check_time = $2, check_count = check_count + 1 WHERE id = ANY(ARRAY(
             SELECT id FROM pay_refund WHERE next_check_time <= $1 ORDER BY next_check_time LIMIT $3
             FOR NO KEY UPDATE SKIP LOCKED))
           RETURNING {REFUNDS.returning}) {REFUNDS.select_from("due")}""",
        now, lease, limit,
    )  # fmt: skip
    return REFUNDS.models(rows)


@dataclass(frozen=True, slots=True)
class RefundFilter:
    """The filters of ListPayRefunds. Empty values do not filter."""

    app_id: UUID | None = None
    channel_code: str = ""
    state: RefundState | None = None
    merchant_order_id: str = ""
    merchant_refund_no: str = ""
    channel_refund_no: str = ""
    create_time_from: datetime | None = None
    create_time_to: datetime | None = None


async def list_refunds(connection: Connection, where: RefundFilter, *, limit: int, before: UUID | None) -> list[PayRefund]:
    """List refunds, newest first, by keyset."""
    from sqlalchemy import select

    from paycenter_server.storage.rendering import render
    from paycenter_server.storage.tables import pay_app, pay_refund

    table = pay_refund.c
    conditions: list[Any] = []
    for column, value in (
        (table.app_id, where.app_id),
        (table.channel_code, where.channel_code),
        (table.state, where.state.value if where.state else None),
        (table.merchant_order_id, where.merchant_order_id),
        (table.merchant_refund_no, where.merchant_refund_no),
        (table.channel_refund_no, where.channel_refund_no),
    ):
        if value:
            conditions.append(column == value)
    if where.create_time_from is not None:
        conditions.append(table.create_time >= where.create_time_from)
    if where.create_time_to is not None:
        conditions.append(table.create_time < where.create_time_to)
    if before is not None:
        conditions.append(table.id < before)
    statement = (
        select(*(table[name] for name in REFUNDS.columns), pay_app.c.app_key)
        .join(pay_app, pay_app.c.id == table.app_id)
        .where(*conditions)
    )
    text, arguments = render(statement.order_by(table.id.desc()).limit(limit))
    return REFUNDS.models(await connection.fetch(text, *arguments))
