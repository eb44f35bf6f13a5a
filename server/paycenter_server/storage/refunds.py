"""Statements on pay_refund, and on the reserved and refunded amounts of the order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.events import Cause, Subject
from paycenter_server.domain.notifications import NotificationType, PayNotification
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.states import ORDER, REFUND, OrderEvent, RefundEvent, RefundState, sources, target
from paycenter_server.storage.accounts import holding
from paycenter_server.storage.claims import due_keys, due_rows, waiting_rows
from paycenter_server.storage.database import CheckViolation, Connection, Transaction, WriteConnection
from paycenter_server.storage.events import Change, cause_values, named, noting
from paycenter_server.storage.notifications import NOTIFICATIONS, task_values, telling
from paycenter_server.storage.rows import RowMapping, by_unique_key

REFUNDS = RowMapping(PayRefund, "pay_refund")
_BY_MERCHANT_NO = by_unique_key("pay_refund", "merchant_refund_no, app_id", "$2, $1")
_RESERVE = """UPDATE pay_order SET reserved_amount = reserved_amount + $2, update_time = $3
  WHERE id = $1 AND refunded_amount + reserved_amount + $2 <= paid_amount RETURNING id"""


async def reserve(connection: WriteConnection, order_id: UUID, amount: int, now: datetime) -> bool:
    """Reserve part of the paid amount. False if less than that remains.

    This is one conditional UPDATE, because a SUM over refund rows would race. The state needs no condition, because `paid_amount`
    is 0 (a CHECK) unless the order is paid.
    """
    return await connection.fetchval(_RESERVE, order_id, amount, now) is not None


_OF_ORDER = "CASE WHEN case_id IS NULL THEN amount ELSE 0 END"
"""The amount by which a refund changes the amounts of its order: surplus money belongs to no order."""


def refund_event(event: RefundEvent, before: RefundState | None, reserved: str = "", refunded: str = "") -> Change:
    """The event of a refund. `reserved` and `refunded`: the sign of the change, if there is one."""
    return Change(
        Subject.REFUND, named(event), before=named(before) if before else "NULL", after="state", amount="amount",
        reserved=f"{reserved}({_OF_ORDER})" if reserved else "0", refunded=f"{refunded}({_OF_ORDER})" if refunded else "0",
    )  # fmt: skip


NOTED = "id, order_id, case_id, state, amount"  # what the event of a refund needs
CREATED = refund_event(RefundEvent.CREATE, None, reserved="+")
TAKEN_BACK = refund_event(RefundEvent.TAKE_BACK, RefundState.SUCCESS, refunded="-")
SUCCEEDED = refund_event(RefundEvent.SUCCEED, RefundState.WAITING, reserved="-", refunded="+")
_INSERT = f"""
WITH made AS ({REFUNDS.insert} RETURNING {NOTED})
{noting("made", len(REFUNDS.columns) + 1, CREATED)}
"""


async def insert_refund(transaction: Transaction, refund: PayRefund, cause: Cause) -> None:
    """Insert a refund. UniqueViolation if the app has a refund with this merchant_refund_no, or the case has a refund."""
    await transaction.execute(_INSERT, *REFUNDS.values(refund), *cause_values(cause))


# The number is taken before the order is locked, as in a transaction of several statements: who takes a number may have to wait for
# a change of the refund that has it, which waits for the order. So less than the amount is found last, and only an error can undo
# the insert: the CHECK of the amounts of the order.
_RESERVE_AND_INSERT = f"""
WITH account AS ({holding(REFUNDS.place("account_id"))}),
made AS ({REFUNDS.insert_from("account")} RETURNING {NOTED}),
reserved AS (UPDATE pay_order o SET reserved_amount = reserved_amount + made.amount, update_time = {REFUNDS.place("create_time")}
  FROM made WHERE o.id = made.order_id),
noted AS ({noting("made", len(REFUNDS.columns) + 1, CREATED)})
SELECT id FROM made
"""


async def reserve_and_insert(connection: WriteConnection, refund: PayRefund, cause: Cause) -> bool:
    """Reserve the amount of a refund and insert it. UniqueViolation if the app has a refund with this merchant_refund_no.

    False, with nothing changed, if the account is disabled or less than the amount remains.
    """
    try:
        return await connection.fetchval(_RESERVE_AND_INSERT, *REFUNDS.values(refund), *cause_values(cause)) is not None
    except CheckViolation:
        return False


async def get_refund(connection: Connection, refund_id: UUID) -> PayRefund | None:
    """Read by id; None if there is none."""
    return REFUNDS.model(await connection.fetchrow(f"{REFUNDS.select} WHERE t.id = $1", refund_id))


async def get_refunds(connection: Connection, refund_ids: Sequence[UUID]) -> dict[UUID, PayRefund]:
    """Read several by id."""
    found = REFUNDS.models(await connection.fetch(f"{REFUNDS.select} WHERE t.id = ANY($1)", list(refund_ids)))
    return {refund.id: refund for refund in found}


async def get_refund_by_merchant_no(connection: Connection, app_id: UUID, merchant_refund_no: str) -> PayRefund | None:
    """Read by the app's own number; None if there is none."""
    return REFUNDS.model(await connection.fetchrow(f"{REFUNDS.select} WHERE {_BY_MERCHANT_NO}", app_id, merchant_refund_no))


async def get_refund_by_out_key(connection: Connection, key: UUID) -> PayRefund | None:
    """Read by the current out_refund_no; None if there is none."""
    return REFUNDS.model(await connection.fetchrow(f"{REFUNDS.select} WHERE t.out_refund_key = $1", key))


async def list_of_order(connection: Connection, order_id: UUID) -> list[PayRefund]:
    """The refunds of an order, oldest first, those of surplus money too."""
    return REFUNDS.models(await connection.fetch(f"{REFUNDS.select} WHERE t.order_id = $1 ORDER BY t.id", order_id))


async def refunded_of_attempt(connection: Connection, attempt_id: UUID) -> int:
    """The sum of the refunds of an attempt that have succeeded or are in progress, those of surplus money too. Minor units."""
    found = await connection.fetchval(
        "SELECT coalesce(sum(amount), 0)::bigint FROM pay_refund WHERE attempt_id = $1 AND state = ANY($2)",
        attempt_id, [RefundState.WAITING.value, RefundState.SUCCESS.value],
    )  # fmt: skip
    return int(found)


@dataclass(frozen=True, slots=True)
class Sending:
    """A send of a refund: its time, and the time of an earlier one that has no clear answer (None if there is none)."""

    at: datetime
    before: datetime | None


async def begin_send(connection: WriteConnection, refund: PayRefund, now: datetime) -> Sending | None:
    """Store a repeated send of a WAITING refund before it is sent. None if it is not WAITING under this number any more."""
    row = await connection.fetchrow(
        """WITH old AS (SELECT id, unclear_send_time FROM pay_refund WHERE id = $1 AND out_refund_key = $2 AND state = ANY($4)
             FOR NO KEY UPDATE)
           UPDATE pay_refund t SET unclear_send_time = $3 FROM old WHERE t.id = old.id RETURNING old.unclear_send_time""",
        refund.id, refund.out_refund_key, now, sources(REFUND, RefundEvent.UNDECIDED),
    )  # fmt: skip
    return Sending(now, row["unclear_send_time"]) if row else None


# What is still unclear after the send at $9, before which $10 was unclear, has been answered clearly.
_UNCLEAR = "(CASE WHEN unclear_send_time = $9 THEN $10 ELSE unclear_send_time END)"


def _succeeding(condition: str = "true", more: str = "") -> str:
    """A statement that makes a WAITING refund SUCCESS. `condition`: on the refund as well; `more`: CTEs, with a comma first."""
    return f"""WITH done AS (
             UPDATE pay_refund SET state = $3, channel_refund_no = $4, success_time = $5, update_time = $6,
               next_check_time = earlier_look_time, channel_error_code = NULL, channel_error_message = NULL, version = version + 1
             WHERE id = $1 AND out_refund_key = $2 AND state = ANY($7) AND {condition}
               AND (case_id IS NOT NULL OR (SELECT o.state FROM pay_order o WHERE o.id = order_id) = ANY($9))
             RETURNING {NOTED}, version
           ), moved AS (
             UPDATE pay_order o SET state = $8, refunded_amount = refunded_amount + done.amount,
               reserved_amount = reserved_amount - done.amount, update_time = $6
             FROM done WHERE o.id = done.order_id AND done.case_id IS NULL RETURNING o.id
           ), noted AS ({noting("done", 10, SUCCEEDED)}){more}
           SELECT (SELECT version FROM done) AS version, (SELECT count(*) FROM moved) AS orders"""


_SUCCEED = _succeeding()
_VERSION = NOTIFICATIONS.place("data_version", 13)
# Not IS NULL: without statistics the index of the cases would look as good as the primary key, and it has every refund without one.
_SUCCEED_AND_TELL = _succeeding(
    f"num_nulls(case_id) = 1 AND version = {_VERSION} - 1", f", {telling(NotificationType.REFUND, 13, of='done')}"
)


async def succeed(
    connection: WriteConnection,
    refund: PayRefund,
    cause: Cause,
    task: PayNotification | None = None,
    *,
    channel_refund_no: str,
    success_time: datetime,
    now: datetime,
) -> int:
    """Make a WAITING refund SUCCESS, and its reserved amount refunded. Its new version; 0, with nothing changed, if it is not
    WAITING any more, or if the state of its order does not allow it.

    `task`: the notification of it, which is inserted too. 0, with nothing changed, also if the refund has another version than the
    one before that of the notification, or if it is that of a case.
    """
    row = await connection.fetchrow(
        _SUCCEED_AND_TELL if task is not None else _SUCCEED,
        refund.id, refund.out_refund_key, target(REFUND, RefundEvent.SUCCEED), channel_refund_no, success_time, now,
        sources(REFUND, RefundEvent.SUCCEED), target(ORDER, OrderEvent.REFUNDED), sources(ORDER, OrderEvent.REFUNDED),
        *cause_values(cause), *(task_values(task) if task is not None else ()),
    )  # fmt: skip
    return int(row["version"] or 0) if row else 0


async def succeed_late(
    connection: Transaction, refund: PayRefund, cause: Cause, *, channel_refund_no: str, success_time: datetime, now: datetime
) -> int:
    """Make a refund in state FAILURE SUCCESS, and book its amount as refunded. The caller has locked the row.

    Its new version; 0, with nothing changed, if it is not in that state under this number, or if the state of the order does not
    allow it or less than its amount is left of the payment.
    """
    if refund.case_id is None:
        booked = await connection.fetchval(
            """UPDATE pay_order SET state = $4, refunded_amount = refunded_amount + $2, update_time = $3
               WHERE id = $1 AND state = ANY($8) AND paid_amount >= refunded_amount + reserved_amount + $2
                 AND EXISTS (SELECT 1 FROM pay_refund WHERE id = $5 AND out_refund_key = $6 AND state = ANY($7)) RETURNING id""",
            refund.order_id, refund.amount, now, target(ORDER, OrderEvent.REFUNDED), refund.id, refund.out_refund_key,
            sources(REFUND, RefundEvent.SUCCEED_LATE), sources(ORDER, OrderEvent.REFUNDED),
        )  # fmt: skip
        if booked is None:
            return 0
    done = await connection.fetchval(
        f"""WITH done AS (
             UPDATE pay_refund SET state = $3, channel_refund_no = $4, success_time = $5, update_time = $6,
               channel_error_code = NULL, channel_error_message = NULL, next_check_time = earlier_look_time, version = version + 1
             WHERE id = $1 AND out_refund_key = $2 AND state = ANY($7) RETURNING {NOTED}, version
           ), noted AS ({noting("done", 8, refund_event(RefundEvent.SUCCEED_LATE, RefundState.FAILURE, refunded="+"))})
           SELECT version FROM done""",
        refund.id, refund.out_refund_key, target(REFUND, RefundEvent.SUCCEED_LATE), channel_refund_no, success_time, now,
        sources(REFUND, RefundEvent.SUCCEED_LATE), *cause_values(cause),
    )  # fmt: skip
    return int(done or 0)


async def lock_refund(transaction: Transaction, refund_id: UUID) -> PayRefund | None:
    """Read by id and lock until the end of the transaction. It is locked before its order."""
    return REFUNDS.model(await transaction.fetchrow(f"{REFUNDS.select} WHERE t.id = $1 FOR NO KEY UPDATE OF t", refund_id))


@dataclass(frozen=True, slots=True)
class Certainty:
    """What makes a refusal final. `sending`: the send that was answered clearly. `clear_before`: no send from before this time can
    be carried out any more. `final`: the channel reports the end of this very refund, or an operator has decided it."""

    sending: Sending | None = None
    clear_before: datetime | None = None
    final: bool = False


async def fail(
    connection: Transaction,
    refund: PayRefund,
    cause: Cause,
    certainty: Certainty,
    *,
    code: str,
    message: str,
    now: datetime,
    next_look: datetime | None,
) -> int:
    """Make a WAITING refund FAILURE, and release its reserved amount. Its new version.

    0 if it is not WAITING any more, if an earlier send without a clear answer may still be carried out, or if the channel knows it.
    """
    sending = certainty.sending
    row = await connection.fetchrow(
        f"""WITH done AS (
             UPDATE pay_refund SET state = $3, channel_error_code = $4, channel_error_message = $5,
               update_time = $6, next_check_time = $8, check_count = 0, unclear_send_time = NULL, known_time = NULL,
               version = version + 1
             WHERE id = $1 AND out_refund_key = $2 AND state = ANY($7)
               AND ($12 OR known_time IS NULL AND ({_UNCLEAR} IS NULL OR {_UNCLEAR} <= $11)) RETURNING {NOTED}, version
           ), freed AS (
             UPDATE pay_order o SET reserved_amount = reserved_amount - done.amount, update_time = $6
             FROM done WHERE o.id = done.order_id AND done.case_id IS NULL RETURNING o.id
           ), noted AS ({noting("done", 13, refund_event(RefundEvent.FAIL, RefundState.WAITING, reserved="-"))})
           SELECT (SELECT version FROM done) AS version, (SELECT count(*) FROM freed) AS orders""",
        refund.id, refund.out_refund_key, target(REFUND, RefundEvent.FAIL), code[:128], message[:512], now,
        sources(REFUND, RefundEvent.FAIL), next_look, sending.at if sending else None, sending.before if sending else None,
        certainty.clear_before, certainty.final, *cause_values(cause),
    )  # fmt: skip
    return int(row["version"] or 0) if row else 0


async def take_back(
    transaction: Transaction,
    refund: PayRefund,
    cause: Cause,
    *,
    code: str,
    message: str,
    known: bool,
    now: datetime,
    next_look: datetime | None,
) -> int:
    """Make a refund of an order that is SUCCESS FAILURE, and its amount refundable again: it did not go back to the payer. `known`:
    the channel may still carry it out under its number. The caller has locked refund and order.

    Its new version; 0, with nothing changed, if it is not as it was read, is that of a case, or if the state of the order does not
    allow it.
    """
    row = await transaction.fetchrow(
        f"""WITH done AS (
             UPDATE pay_refund SET state = $4, success_time = NULL, channel_error_code = $5, channel_error_message = $6,
               update_time = $7, next_check_time = least($8, earlier_look_time), check_count = 0, unclear_send_time = NULL,
               known_time = CASE WHEN $9 THEN $7::timestamptz END, version = version + 1
             WHERE id = $1 AND out_refund_key = $2 AND version = $3 AND state = ANY($10) AND num_nulls(case_id) = 1
               AND (SELECT o.state FROM pay_order o WHERE o.id = order_id) = ANY($11) RETURNING {NOTED}, version
           ), moved AS (
             UPDATE pay_order o SET refunded_amount = refunded_amount - done.amount, update_time = $7,
               state = CASE WHEN refunded_amount = done.amount THEN $12 ELSE $13 END
             FROM done WHERE o.id = done.order_id RETURNING o.id
           ), noted AS ({noting("done", 14, TAKEN_BACK)})
           SELECT (SELECT version FROM done) AS version, (SELECT count(*) FROM moved) AS orders""",
        refund.id, refund.out_refund_key, refund.version, target(REFUND, RefundEvent.TAKE_BACK), code[:128] or None,
        message[:512] or None, now, next_look, known, sources(REFUND, RefundEvent.TAKE_BACK),
        sources(ORDER, OrderEvent.REFUND_TAKEN_BACK, OrderEvent.LAST_REFUND_TAKEN_BACK),
        target(ORDER, OrderEvent.LAST_REFUND_TAKEN_BACK), target(ORDER, OrderEvent.REFUND_TAKEN_BACK), *cause_values(cause),
    )  # fmt: skip
    return int(row["version"] or 0) if row else 0


async def note(
    connection: WriteConnection,
    refund: PayRefund,
    cause: Cause,
    sending: Sending | None,
    *,
    code: str,
    message: str,
    next_check: datetime,
    now: datetime,
    known: bool = False,
) -> bool:
    """Store the answer of the channel and the time of the next check of a refund that stays WAITING. `sending`: the send that was
    answered clearly; None if there was none. `known`: the channel says that it knows it. False if it is not WAITING any more."""
    done = await connection.fetchval(
        f"""WITH undecided AS (
             UPDATE pay_refund SET channel_error_code = $3, channel_error_message = $4, next_check_time = $5, update_time = $6,
               state = $7, unclear_send_time = {_UNCLEAR},
               known_time = CASE WHEN $11 THEN coalesce(known_time, $6) ELSE known_time END
             WHERE id = $1 AND out_refund_key = $2 AND state = ANY($8) RETURNING {NOTED}
           ), noted AS ({noting("undecided", 12, refund_event(RefundEvent.UNDECIDED, RefundState.WAITING))})
           SELECT id FROM undecided""",
        refund.id, refund.out_refund_key, code[:128] or None, message[:512] or None, next_check, now,
        target(REFUND, RefundEvent.UNDECIDED), sources(REFUND, RefundEvent.UNDECIDED), sending.at if sending else None,
        sending.before if sending else None, known, *cause_values(cause),
    )  # fmt: skip
    return done is not None


async def set_next_look(
    connection: WriteConnection, refund: PayRefund, when: datetime | None, now: datetime, soon: datetime | None = None
) -> None:
    """Set the time of the next look at a refund that is still in the final state in which it was read, None for no further look.
    `soon`: the time instead, if the channel knows the refund.

    A look at an earlier number may be due before it. One that was made now without a clear answer has set its own time.
    """
    await connection.execute(
        """UPDATE pay_refund SET next_check_time =
             least(coalesce(CASE WHEN known_time IS NOT NULL THEN $6::timestamptz END, $3),
               CASE WHEN earlier_look_time <= $5 THEN next_check_time ELSE earlier_look_time END)
           WHERE id = $1 AND out_refund_key = $2 AND state = $4""",
        refund.id, refund.out_refund_key, when, refund.state, now, soon,
    )  # fmt: skip


async def begin_looks(transaction: Transaction, refund: PayRefund, when: datetime | None) -> None:
    """Set the time of the first look at a refund that has become SUCCESS in this transaction."""
    await transaction.execute(
        """UPDATE pay_refund SET check_count = 0, next_check_time = least($3, earlier_look_time)
           WHERE id = $1 AND out_refund_key = $2 AND state = $4""",
        refund.id, refund.out_refund_key, when, target(REFUND, RefundEvent.SUCCEED),
    )  # fmt: skip


_DUE_ACCOUNTS = due_keys("pay_refund", "account_id", "next_check_time")
_CLAIM = f"""
WITH due AS MATERIALIZED ({due_rows("pay_refund", "account_id", "uuid", "next_check_time")}),
claimed AS (UPDATE pay_refund t SET next_check_time = $2, check_count = check_count + 1 WHERE t.id = ANY(ARRAY(SELECT id FROM due))
  RETURNING {REFUNDS.returning})
{REFUNDS.select_from("claimed")}
"""
_WAITING = f"{REFUNDS.select} {waiting_rows('account_id', 'next_check_time')}"


async def due_accounts(connection: Connection, now: datetime) -> dict[UUID, datetime]:
    """The accounts that have refunds whose check is due, each with the earliest time. It reads one row for each account."""
    return {row["account_id"]: row["next_check_time"] for row in await connection.fetch(_DUE_ACCOUNTS, now)}


async def claim_due(connection: WriteConnection, now: datetime, lease: datetime, places: Mapping[UUID, int]) -> list[PayRefund]:
    """Claim refunds whose check has been due longest, at most `places` of each account: WAITING ones, and failed ones that are
    looked at again. Each is due again at `lease`. It reads the rows that it claims, and no others."""
    return REFUNDS.models(await connection.fetch(_CLAIM, now, lease, list(places), list(places.values())))


async def list_waiting(
    connection: Connection, account_id: UUID, since: datetime, after: tuple[datetime, UUID], limit: int
) -> list[PayRefund]:
    """Refunds of an account whose check has been due since this time, in the order of that, after the one with time and id."""
    return REFUNDS.models(await connection.fetch(_WAITING, account_id, since, *after, limit))
