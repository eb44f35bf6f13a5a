"""The statement that books payments without a read before it: one round trip for those that are reported at the same time.

It compares what `services/payments.py` compares, on rows that it has locked, and changes what the statement of `payments.py`
changes. What it does not book, because anything differs or another transaction has locked the rows, is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.events import Cause
from paycenter_server.domain.ids import ALPHABET, Prefix
from paycenter_server.domain.money import PPM
from paycenter_server.domain.notifications import NotificationType
from paycenter_server.domain.states import (
    ATTEMPT,
    OPEN_ATTEMPT,
    ORDER,
    AttemptEvent,
    OrderEvent,
    sources,
    target,
)
from paycenter_server.domain.values import value
from paycenter_server.storage.database import HARDLY_WAITING, WriteConnection
from paycenter_server.storage.events import cause_values, listed, named, noting
from paycenter_server.storage.notifications import superseding_each, task_columns
from paycenter_server.storage.payments import paid_event


@value
class DirectBooking:
    """A payment as its channel reports it, and what is stored if it is booked. Amounts are in minor units.

    `account_id`, `binding_id`: of the configured channel that has verified the message. `fee_rate_ppm`: its fee rate, for an
    attempt that has none. `payload`: the JSON of the notification `event`, with a GAP for each of FILLED. `at`: the time of the
    booking.
    """

    attempt_id: UUID
    account_id: UUID
    binding_id: UUID
    amount: int
    currency: str
    channel_order_no: str
    channel_user_id: str
    success_time: datetime
    fee_rate_ppm: int
    notification_id: UUID
    event: str
    payload: str
    at: datetime
    cause: Cause


GAP = "\x01"
"""No JSON text has this character as it is, so a value can neither be a gap nor be filled."""


def number_sql(prefix: Prefix, key: str) -> str:
    """SQL for the number of a key, whose 16 bytes are in the column `key` (`uuid_send`): as `domain.ids.encode`."""
    # The last bit of each digit, counted from the left: the first digit has three bits, the others five.
    digits = []
    for last in range(2, 128, 5):
        byte, right = last // 8, 7 - last % 8
        bits = f"(get_byte({key}, {byte}) >> {right})"
        if last % 8 < 4 and byte:
            bits = f"({bits} | (get_byte({key}, {byte - 1}) << {8 - right}))"
        digits.append(f"substr('{ALPHABET}', ({bits} & 31) + 1, 1)")
    return f"({named(prefix)} || {' || '.join(digits)})"


def endpoint_sql(url: str) -> str:
    """SQL for the endpoint of the URL in the column `url`: as `domain.addresses.endpoint_of`, and "" for no URL.

    NULL for a URL that is not in the plain form, with the host in lower case and without a user: Python reads those.
    """
    parts = f"regexp_match({url}, '^(https?)://([a-z0-9.-]+)(?::([1-9][0-9]{{0,4}}))?(?:[/?#]|$)')"
    return (
        f"CASE {url} WHEN '' THEN '' ELSE (SELECT m[1] || '://' || m[2] || ':' || coalesce(m[3], CASE m[1] WHEN 'https' THEN '443' "
        f"ELSE '80' END) FROM {parts} m) END"
    )


def fee_sql(amount: str, rate: str) -> str:
    """SQL for the fee of an amount: as `domain.money.fee`. Both are bigint and not negative."""
    return f"({amount} * {rate} * 2 + {PPM}) / {2 * PPM}"


GAPS = {
    "number": "to_json(b.number)",
    "version": "b.version",
    "app_key": "to_json(app.app_key)",
    "merchant_order_id": "to_json(b.merchant_order_id)",
    "subject": "to_json(b.subject)",
    "amount": "b.order_amount",
    "currency": "to_json(b.order_currency)",
    "user_id": "to_json(b.user_id)",
    "channel_code": "to_json(b.channel_code)",
}
"""What only the rows know of the payload, as SQL. `to_json` writes a text as Python's `json` does."""
FILLED = (
    "number", "version", "app_key", "number", "merchant_order_id", "subject", "amount", "currency", "user_id", "channel_code",
)  # fmt: skip
"""The gaps of a payload, in their order."""


_GIVEN = {
    "attempt_id": "uuid", "account_id": "uuid", "binding_id": "uuid", "amount": "bigint", "currency": "text",
    "channel_order_no": "text", "channel_user_id": "text", "success_time": "timestamptz", "fee_rate_ppm": "bigint",
    "notification_id": "uuid", "event": "text", "payload": "text", "at": "timestamptz",
    "actor_kind": "text", "actor": "text", "evidence": "jsonb",
}  # fmt: skip
_ARRAYS = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(_GIVEN.values(), 1))
_PAYLOAD = " || ".join(["b.pieces[1]", *(f"{GAPS[name]} || b.pieces[{number}]" for number, name in enumerate(FILLED, 2))])
_TASK = task_columns(
    NotificationType.ORDER, "b.at", "coalesce(nullif(b.endpoint, ''), app.order_notification_endpoint)",
    {"id": "b.notification_id", "app_id": "b.app_id", "event": "b.event", "data_id": "b.order_id", "data_version": "b.version",
     "merchant_order_id": "b.merchant_order_id", "notification_url": "b.notification_url", "payload": _PAYLOAD},
)  # fmt: skip
# It waits for no order and no attempt that it could book, so that one that is locked does not hold up the others. Whatever it waits
# for (the other attempts, older notifications) is of orders that it has locked, in the order of the keys, and for 200 ms at most.
_BOOK = f"""
WITH {HARDLY_WAITING}, o AS (
  SELECT p.id, uuid_send(p.id) AS key, p.app_id, p.merchant_order_id, p.subject, p.amount, p.currency, p.user_id,
    p.notification_url, {endpoint_sql("p.notification_url")} AS endpoint, p.version + 1 AS version
  FROM pay_order p WHERE p.id = ANY(ARRAY(SELECT order_id FROM pay_attempt WHERE id = ANY($1::uuid[])))
    AND p.state = ANY({listed(sources(ORDER, OrderEvent.PAID))}) FOR NO KEY UPDATE SKIP LOCKED
), t AS (
  SELECT a.id, a.order_id, a.state AS before, a.account_id, a.binding_id, a.channel_id, a.channel_code, a.amount, a.currency,
    a.fee_rate_ppm
  FROM pay_attempt a WHERE a.id = ANY($1::uuid[]) AND a.order_id = ANY(ARRAY(SELECT id FROM o))
    AND a.state = ANY({listed(OPEN_ATTEMPT)}) AND a.cancel_until IS NULL FOR NO KEY UPDATE SKIP LOCKED
), booked AS (
  -- One payment of each order: the second one of the same attempt, or of another attempt, is looked at by itself.
  SELECT DISTINCT ON (o.id) g.n, t.id, t.before, t.channel_id, t.channel_code, t.amount, o.id AS order_id, o.app_id,
    {number_sql(Prefix.ORDER, "o.key")} AS number, o.merchant_order_id, o.subject, o.amount AS order_amount,
    o.currency AS order_currency, o.user_id, o.notification_url, o.endpoint, o.version, g.channel_order_no, g.channel_user_id,
    g.success_time, coalesce(t.fee_rate_ppm, g.fee_rate_ppm) AS rate, g.notification_id, g.event,
    string_to_array(g.payload, E'\\x01') AS pieces, g.at, g.actor_kind, g.actor, g.evidence
  FROM unnest({_ARRAYS}) WITH ORDINALITY g ({", ".join(_GIVEN)}, n) JOIN t ON t.id = g.attempt_id JOIN o ON o.id = t.order_id
    CROSS JOIN hardly_waiting
  WHERE t.account_id = g.account_id AND t.binding_id = g.binding_id AND t.amount = g.amount AND t.currency = g.currency
    AND o.endpoint IS NOT NULL
  ORDER BY o.id, g.n
), attempt AS (
  UPDATE pay_attempt a SET state = {named(target(ATTEMPT, AttemptEvent.PAID))}, paid_amount = b.amount,
    channel_order_no = b.channel_order_no, channel_user_id = b.channel_user_id, success_time = b.success_time,
    update_time = b.at, next_check_time = NULL
  FROM booked b WHERE a.id = b.id AND a.id = ANY(ARRAY(SELECT id FROM booked))
  RETURNING a.id, a.order_id, a.state, a.paid_amount, b.before, b.actor_kind, b.actor, b.evidence
), open AS (
  SELECT x.id FROM pay_attempt x WHERE x.order_id = ANY(ARRAY(SELECT order_id FROM booked))
    AND x.state = ANY({listed(OPEN_ATTEMPT)}) AND x.id <> ALL(ARRAY(SELECT id FROM booked)) ORDER BY x.id FOR NO KEY UPDATE
), others AS (
  -- Against a second payment: the other open attempts are due now, so that the sync job closes them.
  UPDATE pay_attempt x SET next_check_time = b.at FROM booked b
  WHERE x.order_id = b.order_id AND x.id = ANY(ARRAY(SELECT id FROM open))
), paid AS (
  UPDATE pay_order p SET state = {named(target(ORDER, OrderEvent.PAID))}, paid_amount = b.amount, attempt_id = b.id,
    channel_id = b.channel_id, channel_code = b.channel_code, channel_order_no = b.channel_order_no,
    channel_user_id = b.channel_user_id, channel_fee_rate_ppm = b.rate, channel_fee_amount = {fee_sql("b.amount", "b.rate")},
    success_time = b.success_time, update_time = b.at, next_check_time = NULL, version = b.version
  FROM booked b WHERE p.id = b.order_id AND p.id = ANY(ARRAY(SELECT order_id FROM booked)) RETURNING b.n
), {superseding_each("booked", "order_id")}, task AS (
  INSERT INTO pay_notify_task ({", ".join(_TASK)}) SELECT {", ".join(_TASK.values())}
  FROM booked b JOIN pay_app app ON app.id = b.app_id ON CONFLICT (data_id, event, data_version) DO NOTHING
), noted AS ({noting("attempt", "actor_kind, actor, evidence", paid_event(named(OrderEvent.PAID)))})
SELECT n FROM paid
"""


async def book(connection: WriteConnection, bookings: Sequence[DirectBooking]) -> list[bool]:
    """Book payments of open attempts: for each whether it is booked. Nothing is changed for those that are not.

    It is not booked if anything differs: account, binding, amount, currency, the state of order or attempt; if a cancellation has
    begun, another transaction has locked the order or the attempt, or an earlier one of these payments is of the same order.

    LockTimeout, with nothing changed for any, if another transaction has locked something else of one of the orders.
    """
    rows = [
        (
            one.attempt_id, one.account_id, one.binding_id, one.amount, one.currency, one.channel_order_no, one.channel_user_id,
            one.success_time, one.fee_rate_ppm, one.notification_id, one.event, one.payload, one.at, *cause_values(one.cause),
        )
        for one in bookings
    ]  # fmt: skip
    booked = {row["n"] for row in await connection.fetch(_BOOK, *map(list, zip(*rows, strict=True)))}
    return [number in booked for number in range(1, len(bookings) + 1)]
