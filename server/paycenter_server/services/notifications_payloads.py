"""The payloads of notifications. A payload is built once and stored with the change that it reports.

Payload (Standard Webhooks): `{"type": "pay_order.success", "timestamp": RFC 3339, "data": {…}}`, amounts in minor units.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.notifications import NotificationType, PayNotification, new_notification
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund

ORDER_SUCCESS = "pay_order.success"
ORDER_CLOSED = "pay_order.closed"
REFUND_SUCCESS = "pay_refund.success"
REFUND_FAILURE = "pay_refund.failure"


def _payload(event: str, at: datetime, data: dict[str, Any]) -> str:
    body = {"type": event, "timestamp": at.isoformat(), "data": data}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


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
    """The notification `pay_order.success`."""
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
    """The notification `pay_order.closed`."""
    return _order_task(order, key, ORDER_CLOSED, {**_order_data(order), "state": "CLOSED"}, now)


def _order_task(order: PayOrder, key: UUID, event: str, data: dict[str, Any], now: datetime) -> PayNotification:
    return new_notification(
        key, now, app_id=order.app_id, app_key=order.app_key, kind=NotificationType.ORDER, event=event, data_id=order.id,
        data_version=0, merchant_order_id=order.merchant_order_id, merchant_refund_no="",
        notification_url=order.notification_url, payload=_payload(event, now, data),
    )  # fmt: skip


def refund_settled(
    refund: PayRefund, key: UUID, now: datetime, *, success_time: datetime | None, code: str = "", message: str = ""
) -> PayNotification:
    """The notification `pay_refund.success`, or `pay_refund.failure` without a success time. `surplus`: of surplus money."""
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
    return new_notification(
        key, now, app_id=refund.app_id, app_key=refund.app_key, kind=NotificationType.REFUND, event=event, data_id=refund.id,
        data_version=refund.send_count, merchant_order_id=refund.merchant_order_id,
        merchant_refund_no=refund.merchant_refund_no, notification_url=refund.notification_url,
        payload=_payload(event, now, data),
    )  # fmt: skip
