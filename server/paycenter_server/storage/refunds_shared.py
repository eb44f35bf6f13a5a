"""The two statements of a refund that several refunds share: the intent before the channel is called, and the success after it.

They wait for no account, refund or order: what another transaction has locked is left out, so that it does not hold up the others.
For anything else (a number, an older notification) they wait for 200 ms at most. LockTimeout changes nothing for any of them, and
each is repeated by itself. What is left out, or ends so alone, is stored by the statements of `refunds.py`, which wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from uuid import UUID

from paycenter_server.domain.events import Cause
from paycenter_server.domain.notifications import NotificationType, PayNotification
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.states import ORDER, REFUND, OrderEvent, RefundEvent, created, sources, target
from paycenter_server.storage.accounts import holding
from paycenter_server.storage.database import HARDLY_WAITING, WriteConnection
from paycenter_server.storage.events import cause_values, listed, named, noting
from paycenter_server.storage.notifications import superseding_each, task_columns
from paycenter_server.storage.refunds import CREATED, NOTED, REFUNDS, SUCCEEDED
from paycenter_server.storage.rows import id_of_unique_key

# What a new refund of an order has besides is the default of its column, or a constant: each argument costs the server time.
_DEFAULT = {
    "case_id", "earlier_look_time", "known_time", "version", "channel_refund_no", "channel_error_code", "channel_error_message",
    "success_time", "check_count",
}  # fmt: skip
_CONSTANT = {"state": named(created(REFUND, RefundEvent.CREATE)), "send_count": "1", "unclear_send_time": "g.create_time",
             "update_time": "g.create_time"}  # fmt: skip
_GIVEN = tuple(name for name in REFUNDS.columns if name not in {*_DEFAULT, *_CONSTANT})
_KINDS = dict(zip(REFUNDS.columns, REFUNDS.array_types, strict=True))
_ARRAYS = ", ".join(f"${number}::{_KINDS[name]}" for number, name in enumerate(_GIVEN, 1))


def _array(name: str) -> str:
    return f"${_GIVEN.index(name) + 1}::uuid[]"


# The order is locked before the number is taken; the statement of one refund takes the number first (`refunds.py`), and so do the
# transactions of operators. Two calls that use the same number at the same moment could so wait for each other: this one has the
# order, the other one the number. It waits for a number only if that was taken since the snapshot in which it is looked for, or is
# not committed, and for 200 ms at most, which is less than the time after which PostgreSQL looks for deadlocks.
# The lock of an order is that of its newest version, so what is left of it is what is left at that moment.
_RESERVE_AND_INSERT = f"""
WITH {HARDLY_WAITING},
account AS ({holding(f"ANY({_array('account_id')})", " SKIP LOCKED")}),
given AS MATERIALIZED (SELECT g.* FROM unnest({_ARRAYS}) g({", ".join(_GIVEN)}) JOIN account ON account.id = g.account_id
    CROSS JOIN hardly_waiting
  WHERE ({id_of_unique_key("pay_refund", "merchant_refund_no, app_id", "g.merchant_refund_no, g.app_id")}) IS NULL),
free AS (SELECT t.id, t.paid_amount - t.refunded_amount - t.reserved_amount AS amount FROM pay_order t
  WHERE t.id = ANY(ARRAY(SELECT order_id FROM given)) FOR NO KEY UPDATE OF t SKIP LOCKED),
fitting AS MATERIALIZED (SELECT g.* FROM given g JOIN free t ON t.id = g.order_id WHERE g.amount <= t.amount),
reserved AS (UPDATE pay_order t SET reserved_amount = t.reserved_amount + g.amount, update_time = g.create_time
  FROM fitting g WHERE t.id = g.order_id AND t.id = ANY(ARRAY(SELECT order_id FROM fitting))),
made AS (INSERT INTO pay_refund ({", ".join((*_GIVEN, *_CONSTANT))})
  SELECT {", ".join((*(f"g.{name}" for name in _GIVEN), *_CONSTANT.values()))}
  FROM fitting g RETURNING {NOTED}),
noted AS ({noting("made", len(_GIVEN) + 1, CREATED, keys=_array("id"))})
SELECT id FROM made
"""
_VALUES = attrgetter(*_GIVEN)


@dataclass(frozen=True, slots=True)
class Intent:
    """A refund of an order, as `new_refund` makes it, to store before the channel is called."""

    refund: PayRefund
    cause: Cause


async def reserve_and_insert_each(connection: WriteConnection, intents: Sequence[Intent]) -> list[bool]:
    """Reserve the amounts of refunds and insert them, by one statement that waits for no order: for each whether it is stored.

    Nothing is changed for one of whose order less than the amount remains, whose number the app has used, whose account is
    disabled, whose order or account another transaction has locked, or which is the second one of its order or of its number.

    UniqueViolation or LockTimeout, with nothing changed for any, if another transaction has used one of the numbers meanwhile.
    """
    rows = [(*_VALUES(one.refund), *cause_values(one.cause)) for one in _first_of_each_order_and_number(intents)]
    stored = {row["id"] for row in await connection.fetch(_RESERVE_AND_INSERT, *map(list, zip(*rows, strict=True)))}
    return [intent.refund.id in stored for intent in intents]


def _first_of_each_order_and_number(intents: Sequence[Intent]) -> Iterable[Intent]:
    """What is free of an order is compared with one amount, and a number can be inserted once."""
    taken: set[object] = set()
    for intent in intents:
        keys = {intent.refund.order_id, (intent.refund.app_id, intent.refund.merchant_refund_no)}
        if taken.isdisjoint(keys):
            taken |= keys
            yield intent


_SUCCESS = {
    "id": "uuid", "key": "uuid", "channel_refund_no": "text", "success_time": "timestamptz", "at": "timestamptz", "version": "int",
    "notification_id": "uuid", "event": "text", "endpoint": "text", "payload": "text", "actor_kind": "text", "actor": "text",
    "evidence": "jsonb",
}  # fmt: skip
_CAUSE = len(_SUCCESS) - 2
_SUCCESSES = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(_SUCCESS.values(), 1))
_TASK = task_columns(
    NotificationType.REFUND, "b.at", "coalesce(nullif(b.endpoint, ''), app.refund_notification_endpoint)",
    {"id": "b.notification_id", "app_id": "b.app_id", "event": "b.event", "data_id": "b.id", "data_version": "b.version",
     "merchant_order_id": "b.merchant_order_id", "merchant_refund_no": "b.merchant_refund_no",
     "notification_url": "b.notification_url", "payload": "b.payload"},
)  # fmt: skip
# The refunds are locked before their orders, as everywhere. It waits only for older notifications of refunds that it has locked.
# Not IS NULL: without statistics the index of the cases would look as good as the primary key, and it has every refund without one.
_SUCCEED_AND_TELL = f"""
WITH {HARDLY_WAITING},
t AS (SELECT r.id, r.order_id, r.app_id, r.out_refund_key, r.version, r.merchant_order_id, r.merchant_refund_no,
    r.notification_url
  FROM pay_refund r WHERE r.id = ANY($1::uuid[]) AND r.state = ANY({listed(sources(REFUND, RefundEvent.SUCCEED))})
    AND num_nulls(r.case_id) = 1 FOR NO KEY UPDATE SKIP LOCKED),
o AS (SELECT p.id FROM pay_order p WHERE p.id = ANY(ARRAY(SELECT order_id FROM t))
    AND p.state = ANY({listed(sources(ORDER, OrderEvent.REFUNDED))}) FOR NO KEY UPDATE SKIP LOCKED),
fitting AS MATERIALIZED (SELECT g.*, t.order_id, t.app_id, t.merchant_order_id, t.merchant_refund_no, t.notification_url
  FROM unnest({_SUCCESSES}) g({", ".join(_SUCCESS)}) JOIN t ON t.id = g.id JOIN o ON o.id = t.order_id
    CROSS JOIN hardly_waiting
  WHERE t.out_refund_key = g.key AND t.version = g.version - 1),
done AS (UPDATE pay_refund t SET state = {named(target(REFUND, RefundEvent.SUCCEED))}, channel_refund_no = b.channel_refund_no,
    success_time = b.success_time, update_time = b.at, next_check_time = t.earlier_look_time, channel_error_code = NULL,
    channel_error_message = NULL, version = b.version
  FROM fitting b WHERE t.id = b.id AND t.id = ANY(ARRAY(SELECT id FROM fitting)) RETURNING {REFUNDS.returning}),
moved AS (UPDATE pay_order o SET state = {named(target(ORDER, OrderEvent.REFUNDED))}, update_time = done.update_time,
    refunded_amount = o.refunded_amount + done.amount, reserved_amount = o.reserved_amount - done.amount
  FROM done WHERE o.id = done.order_id AND o.id = ANY(ARRAY(SELECT order_id FROM fitting))),
{superseding_each("fitting", "id")},
task AS (INSERT INTO pay_notify_task ({", ".join(_TASK)}) SELECT {", ".join(_TASK.values())}
  FROM fitting b JOIN pay_app app ON app.id = b.app_id ON CONFLICT (data_id, event, data_version) DO NOTHING),
noted AS ({noting("done", _CAUSE, SUCCEEDED, keys="$1::uuid[]")})
{REFUNDS.select_from("done")}
"""


@dataclass(frozen=True, slots=True)
class Success:
    """That a refund has succeeded at the channel. `refund`: as it was read. `task`: its notification, with its next version."""

    refund: PayRefund
    task: PayNotification
    channel_refund_no: str
    success_time: datetime
    now: datetime
    cause: Cause


async def succeed_each(connection: WriteConnection, successes: Sequence[Success]) -> list[PayRefund | None]:
    """Make WAITING refunds SUCCESS, their reserved amounts refunded, and insert their notifications, by one statement that waits
    for no refund and no order: each as it is then.

    None, with nothing changed, for one that is not WAITING under its number any more, has another version than the one before that
    of the notification, or is that of a case; for one whose order is in a state that does not allow it; if another transaction has
    locked the refund or its order; and for the second one of an order.

    LockTimeout, with nothing changed for any, if another transaction has locked an older notification of one of them.
    """
    first = {one.refund.order_id: one for one in reversed(successes)}
    rows = [
        (
            one.refund.id, one.refund.out_refund_key, one.channel_refund_no, one.success_time, one.now, one.task.data_version,
            one.task.id, one.task.event, one.task.endpoint, one.task.payload, *cause_values(one.cause),
        )
        for one in first.values()
    ]  # fmt: skip
    stored = REFUNDS.models(await connection.fetch(_SUCCEED_AND_TELL, *map(list, zip(*rows, strict=True))))
    found: dict[UUID, PayRefund] = {refund.id: refund for refund in stored}
    return [found.get(one.refund.id) if first[one.refund.order_id] is one else None for one in successes]
