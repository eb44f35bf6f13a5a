"""What an app is told: the payload of a notification, made once and stored with the change that it tells of.

Payload (Standard Webhooks): `{"type": "pay_order.success", "timestamp": RFC 3339, "data": {…}}`, amounts in minor units.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.models import NotificationType, PayNotification, PayOrder, PayRefund
from paycenter_server.domain.schedule import NOTIFICATION_MAX_TIMES
from paycenter_server.domain.states import NotificationState

ORDER_SUCCESS = "pay_order.success"
ORDER_CLOSED = "pay_order.closed"
REFUND_SUCCESS = "pay_refund.success"
REFUND_FAILURE = "pay_refund.failure"


def _payload(event: str, at: datetime, data: dict[str, Any]) -> str:
    body = {"type": event, "timestamp": at.isoformat(), "data": data}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def _task(
    key: UUID, event: str, kind: NotificationType, data_id: UUID, payload: str, now: datetime, **names: Any
) -> PayNotification:
    return PayNotification(
        id=key,
        type=kind,
        event=event,
        data_id=data_id,
        payload=payload,
        state=NotificationState.WAITING,
        notify_times=0,
        max_notify_times=NOTIFICATION_MAX_TIMES,
        next_notify_time=now,
        last_execute_time=None,
        create_time=now,
        **names,
    )


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
    """`pay_order.success`."""
    data = {
        **_order_data(order),
        "state": "SUCCESS",
        "paid_amount": amount,
        "channel_code": channel_code,
        "out_trade_no": out_trade_no,
        "channel_order_no": channel_order_no,
        "success_time": success_time.isoformat(),
    }
    return _order_task(order, key, ORDER_SUCCESS, data, now)


def order_closed(order: PayOrder, key: UUID, now: datetime) -> PayNotification:
    """`pay_order.closed`."""
    return _order_task(order, key, ORDER_CLOSED, {**_order_data(order), "state": "CLOSED"}, now)


def _order_task(order: PayOrder, key: UUID, event: str, data: dict[str, Any], now: datetime) -> PayNotification:
    return _task(
        key, event, NotificationType.ORDER, order.id, _payload(event, now, data), now, app_id=order.app_id, app_key=order.app_key,
        merchant_order_id=order.merchant_order_id, merchant_refund_no="", notification_url=order.notification_url,
    )  # fmt: skip


def refund_settled(
    refund: PayRefund, key: UUID, now: datetime, *, success_time: datetime | None, code: str = "", message: str = ""
) -> PayNotification:
    """`pay_refund.success`, or `pay_refund.failure` when there is no success time. `surplus`: no order held the money."""
    event = REFUND_SUCCESS if success_time else REFUND_FAILURE
    data = {
        "app_key": refund.app_key,
        "pay_refund_id": refund.number,
        "pay_order_id": encode(Prefix.ORDER, refund.order_id),
        "merchant_order_id": refund.merchant_order_id,
        "merchant_refund_no": refund.merchant_refund_no,
        "out_refund_no": refund.out_refund_no,
        "amount": refund.amount,
        "currency": refund.currency,
        "state": "SUCCESS" if success_time else "FAILURE",
        "surplus": refund.case_id is not None,
        "channel_code": refund.channel_code,
        "success_time": success_time.isoformat() if success_time else None,
        "channel_error_code": code,
        "channel_error_message": message,
    }
    return _task(
        key, event, NotificationType.REFUND, refund.id, _payload(event, now, data), now, app_id=refund.app_id,
        app_key=refund.app_key, merchant_order_id=refund.merchant_order_id, merchant_refund_no=refund.merchant_refund_no,
        notification_url=refund.notification_url,
    )  # fmt: skip
