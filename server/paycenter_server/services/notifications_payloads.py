"""The payloads of notifications. A payload is built once and stored with the change that it reports.

The contract is `protos/paycenter/v1/events.proto`, one message per notification type (Standard Webhooks: `type`, `timestamp`,
`data`, and here `object_id` and `version`). Field names are those of the messages, amounts are JSON numbers in minor units, times
are UTC. A field that is not set is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from paycenter_server.domain.cases import PayCase
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.notifications import NotificationType, PayNotification, new_notification
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.storage.payments_direct import FILLED, GAP

ORDER_SUCCESS = "pay_order.success"
ORDER_CLOSED = "pay_order.closed"
REFUND_SUCCESS = "pay_refund.success"
REFUND_FAILURE = "pay_refund.failure"
# Surplus money has types of its own: an app that books every pay_refund.success would book a refund that it never made.
SURPLUS_REFUNDED = "pay_order.surplus_refunded"
SURPLUS_REFUND_FAILED = "pay_order.surplus_refund_failed"
CASE_OPENED = "pay_case.opened"
CASE_RESOLVED = "pay_case.resolved"


def utc(at: datetime) -> str:
    """RFC 3339 in UTC with 0, 3 or 6 digits of a second, as the JSON mapping of google.protobuf.Timestamp prints it."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    precision = "seconds" if at.microsecond == 0 else "milliseconds" if at.microsecond % 1000 == 0 else "microseconds"
    return at.isoformat(timespec=precision).removesuffix("+00:00") + "Z"


def _payload(event: str, at: datetime, object_id: str, version: int, data: dict[str, Any]) -> str:
    return _document(event, utc(at), object_id, version, data)


def _document(event: str, at: str, object_id: str, version: int, data: dict[str, Any]) -> str:
    return _json({"type": event, "timestamp": at, "object_id": object_id, "version": version, "data": data})


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _order_data(order: PayOrder) -> dict[str, Any]:
    return {
        "app_key": order.app_key,
        "pay_order_id": order.number,
        "merchant_order_id": order.merchant_order_id,
        "subject": order.subject,
        "amount": order.amount,
        "currency": order.currency,
        "user_id": order.user_id,
    }


def order_paid(
    order: PayOrder,
    key: UUID,
    now: datetime,
    *,
    amount: int,
    channel_code: str,
    out_trade_no: str,
    channel_order_no: str,
    success_time: datetime,
) -> PayNotification:
    """The notification `pay_order.success` of the version that follows the order's."""
    data = _paid_data(order, amount, channel_code, out_trade_no, channel_order_no, utc(success_time))
    return _order_task(order, key, ORDER_SUCCESS, order.version + 1, data, now)


def _paid_data(
    order: PayOrder, amount: int, channel_code: str, out_trade_no: str, channel_order_no: str, success_time: str
) -> dict[str, Any]:
    return {
        **_order_data(order),
        "state": "SUCCESS",
        "paid_amount": amount,
        "channel_code": channel_code,
        "out_trade_no": out_trade_no,
        "channel_order_no": channel_order_no,
        "success_time": success_time,
    }


class _Names:
    """An order whose fields are their own names, which JSON text marks by a character that none of them has."""

    def __getattr__(self, name: str) -> str:
        return f"\1{name}\1"


def _paid_pieces() -> Iterator[str]:
    """The JSON text of `order_paid` in pieces: text, the name of the value that follows, text, and so on. What only the row of the
    order knows is part of the text, as GAP."""
    names: Any = _Names()
    order = cast(PayOrder, names)
    data = _paid_data(order, names.paid, names.channel_code, names.out_trade_no, names.channel_order_no, names.success_time)
    text = _document(ORDER_SUCCESS, names.timestamp, order.number, names.version, data)
    text, gaps = re.subn(rf'"\\u0001({"|".join(FILLED)})\\u0001"', GAP, text)
    assert gaps == len(FILLED)
    yield from re.split(r'"\\u0001(\w+)\\u0001"', text)


_PAID = tuple(_paid_pieces())


def order_paid_with_gaps(now: datetime, *, amount: int, out_trade_no: str, channel_order_no: str, success_time: datetime) -> str:
    """The payload of `order_paid` without its order: a GAP is where each of FILLED is to be."""
    values = {
        "timestamp": f'"{utc(now)}"', "paid": str(amount), "out_trade_no": _json(out_trade_no),
        "channel_order_no": _json(channel_order_no), "success_time": f'"{utc(success_time)}"',
    }  # fmt: skip
    return "".join([values[piece] if place % 2 else piece for place, piece in enumerate(_PAID)])


def order_closed(order: PayOrder, key: UUID, now: datetime) -> PayNotification:
    """The notification `pay_order.closed` of an order that is closed: its version is that of the change already."""
    return _order_task(order, key, ORDER_CLOSED, order.version, {**_order_data(order), "state": "CLOSED"}, now)


def _order_task(order: PayOrder, key: UUID, event: str, version: int, data: dict[str, Any], now: datetime) -> PayNotification:
    return new_notification(
        key, now, app_id=order.app_id, app_key=order.app_key, kind=NotificationType.ORDER, event=event, data_id=order.id,
        data_version=version, merchant_order_id=order.merchant_order_id, merchant_refund_no="",
        notification_url=order.notification_url, payload=_payload(event, now, order.number, version, data),
    )  # fmt: skip


def refund_settled(
    refund: PayRefund, key: UUID, now: datetime, *, version: int, success_time: datetime | None, code: str = "", message: str = ""
) -> PayNotification:
    """The notification about the result of a refund; `version` is the refund's after it, and a failure has no success time.

    A refund of surplus money is reported as `pay_order.surplus_refunded` or `pay_order.surplus_refund_failed`.
    """
    data: dict[str, Any] = {
        "app_key": refund.app_key,
        "pay_refund_id": refund.number,
        "pay_order_id": encode(Prefix.ORDER, refund.order_id),
        "merchant_order_id": refund.merchant_order_id,
    }
    if refund.case_id is None:
        event = REFUND_SUCCESS if success_time else REFUND_FAILURE
        data |= {"merchant_refund_no": refund.merchant_refund_no}
    else:
        event = SURPLUS_REFUNDED if success_time else SURPLUS_REFUND_FAILED
        data |= {"pay_case_id": encode(Prefix.CASE, refund.case_id), "out_trade_no": refund.out_trade_no}
    data |= {
        "out_refund_no": refund.out_refund_no,
        "amount": refund.amount,
        "currency": refund.currency,
        "state": "SUCCESS" if success_time else "FAILURE",
        "channel_code": refund.channel_code,
    }
    if success_time:
        data |= {"success_time": utc(success_time)}
    else:
        data |= {"channel_error_code": code, "channel_error_message": message}
    return new_notification(
        key, now, app_id=refund.app_id, app_key=refund.app_key, kind=NotificationType.REFUND, event=event, data_id=refund.id,
        data_version=version, merchant_order_id=refund.merchant_order_id, merchant_refund_no=refund.merchant_refund_no,
        notification_url=refund.notification_url, payload=_payload(event, now, refund.number, version, data),
    )  # fmt: skip


def case_changed(case: PayCase, order: PayOrder | None, event: str, key: UUID, now: datetime) -> PayNotification:
    """The notification that a case was opened or resolved; its version is that of the change already. `order`: the case's.

    It goes where the notifications of the order go. What operators write stays here.
    """
    data: dict[str, Any] = {
        "app_key": case.app_key,
        "pay_case_id": case.number,
        "kind": case.kind.value,
        "state": case.state.value,
        "pay_order_id": order.number if order else "",
        "merchant_order_id": order.merchant_order_id if order else "",
        "out_trade_no": encode(Prefix.ATTEMPT, case.attempt_id) if case.attempt_id else "",
        "pay_refund_id": encode(Prefix.REFUND, case.refund_id) if case.refund_id else "",
    }
    if case.amount is not None:
        data["amount"] = case.amount
    data["currency"] = case.currency or ""
    if event == CASE_OPENED:
        data["why"] = str(case.detail.get("why", ""))
    else:
        data |= {"decision": case.decision, "resolution": case.resolution}
    return new_notification(
        key, now, app_id=case.app_id or UUID(int=0), app_key=case.app_key or "", kind=NotificationType.CASE, event=event,
        data_id=case.id, data_version=case.version, merchant_order_id=order.merchant_order_id if order else "",
        merchant_refund_no="", notification_url=order.notification_url if order else "",
        payload=_payload(event, now, case.number, case.version, data),
    )  # fmt: skip
