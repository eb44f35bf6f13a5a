"""The request messages from keyword arguments, for both kinds of client."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from google.protobuf.timestamp_pb2 import Timestamp

from paycenter.v1 import pay_notification_service_pb2 as notifications
from paycenter.v1 import pay_order_service_pb2 as orders
from paycenter.v1 import pay_refund_service_pb2 as refunds

DEFAULT_EXPIRY = timedelta(minutes=30)
LARGEST_PAGE = 200


def order_id(order: orders.PayOrder | str) -> str:
    """PayCenter's number of an order ("O…")."""
    return order if isinstance(order, str) else order.id


def refund_id(refund: refunds.PayRefund | str) -> str:
    """PayCenter's number of a refund ("F…")."""
    return refund if isinstance(refund, str) else refund.id


def stamp(moment: datetime | None) -> Timestamp | None:
    """A Timestamp. ValueError for a datetime without a time zone, because its meaning would depend on the machine."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError("a datetime needs a time zone, for example datetime.now(UTC)")
    result = Timestamp()
    result.FromDatetime(moment)
    return result


def fen(amount: int) -> int:
    """An amount in fen. TypeError for anything but int: 12.34 yuan is 1234 (`paycenter.money.yuan_to_fen("12.34")`)."""
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise TypeError(f"amount must be int, in fen, not {type(amount).__name__}")
    return amount


def new_order(
    *,
    merchant_order_id: str,
    subject: str,
    amount: int,
    user_ip: str,
    expire_in: timedelta | None,
    expire_time: datetime | None,
    body: str,
    currency: str,
    user_id: str,
    return_url: str,
    notification_url: str,
    app_key: str,
) -> orders.CreatePayOrderRequest:
    """At most one of `expire_in` and `expire_time` is given. The default is 30 minutes from now."""
    if expire_in is not None and expire_time is not None:
        raise ValueError("give expire_in or expire_time, not both")
    expiry = expire_time or datetime.now(UTC) + (DEFAULT_EXPIRY if expire_in is None else expire_in)
    return orders.CreatePayOrderRequest(
        app_key=app_key,
        merchant_order_id=merchant_order_id,
        subject=subject,
        body=body,
        amount=fen(amount),
        currency=currency,
        expire_time=stamp(expiry),
        user_ip=user_ip,
        user_id=user_id,
        return_url=return_url,
        notification_url=notification_url,
    )


def submit(
    order: orders.PayOrder | str,
    channel_code: str,
    extras: Mapping[str, str] | None,
    display_mode: orders.DisplayMode.ValueType,
    return_url: str,
    user_ip: str,
) -> orders.SubmitPayOrderRequest:
    """`extras` become `channel_extras`."""
    return orders.SubmitPayOrderRequest(
        id=order_id(order),
        channel_code=channel_code,
        channel_extras=dict(extras or {}),
        display_mode=display_mode,
        return_url=return_url,
        user_ip=user_ip,
    )


def one_order(id: str | None, merchant_order_id: str | None, app_key: str, sync: bool) -> orders.GetPayOrderRequest:
    """Exactly one of the two numbers is given."""
    if id is not None and merchant_order_id is None:
        return orders.GetPayOrderRequest(app_key=app_key, id=id, sync=sync)
    if merchant_order_id is not None and id is None:
        return orders.GetPayOrderRequest(app_key=app_key, merchant_order_id=merchant_order_id, sync=sync)
    raise TypeError("give exactly one of id and merchant_order_id")


def one_refund(id: str | None, merchant_refund_no: str | None, app_key: str, sync: bool) -> refunds.GetPayRefundRequest:
    """Exactly one of the two numbers is given."""
    if id is not None and merchant_refund_no is None:
        return refunds.GetPayRefundRequest(app_key=app_key, id=id, sync=sync)
    if merchant_refund_no is not None and id is None:
        return refunds.GetPayRefundRequest(app_key=app_key, merchant_refund_no=merchant_refund_no, sync=sync)
    raise TypeError("give exactly one of id and merchant_refund_no")


def new_refund(
    merchant_order_id: str, merchant_refund_no: str, amount: int, reason: str, notification_url: str, app_key: str
) -> refunds.CreatePayRefundRequest:
    """`amount` is in fen."""
    return refunds.CreatePayRefundRequest(
        app_key=app_key,
        merchant_order_id=merchant_order_id,
        merchant_refund_no=merchant_refund_no,
        amount=fen(amount),
        reason=reason,
        notification_url=notification_url,
    )


class OrderFilter(TypedDict, total=False):
    """The filters of `list_orders`; see ListPayOrdersRequest. Times are aware."""

    app_key: str
    channel_code: str
    state: orders.PayOrderState.ValueType
    merchant_order_id: str
    channel_order_no: str
    out_trade_no: str
    create_time_from: datetime
    create_time_to: datetime
    success_time_from: datetime
    success_time_to: datetime
    page_size: int


class RefundFilter(TypedDict, total=False):
    """The filters of `list_refunds`; see ListPayRefundsRequest. Times are aware."""

    app_key: str
    channel_code: str
    state: refunds.PayRefundState.ValueType
    merchant_order_id: str
    merchant_refund_no: str
    channel_refund_no: str
    create_time_from: datetime
    create_time_to: datetime
    page_size: int


class NotificationFilter(TypedDict, total=False):
    """The filters of `list_notifications`; see ListPayNotificationsRequest. Times are aware."""

    app_key: str
    type: notifications.NotificationType.ValueType
    state: notifications.NotificationState.ValueType
    merchant_order_id: str
    merchant_refund_no: str
    data_id: str
    create_time_from: datetime
    create_time_to: datetime
    page_size: int


def order_page(filters: OrderFilter) -> orders.ListPayOrdersRequest:
    """The request of the first page. The caller sets the token of the next pages."""
    return orders.ListPayOrdersRequest(**_fields(filters))


def refund_page(filters: RefundFilter) -> refunds.ListPayRefundsRequest:
    """The request of the first page."""
    return refunds.ListPayRefundsRequest(**_fields(filters))


def notification_page(filters: NotificationFilter) -> notifications.ListPayNotificationsRequest:
    """The request of the first page."""
    return notifications.ListPayNotificationsRequest(**_fields(filters))


def resend_page(filters: NotificationFilter, dry_run: bool) -> notifications.ResendPayNotificationsRequest:
    """The request of the first page."""
    return notifications.ResendPayNotificationsRequest(dry_run=dry_run, **_fields(filters))


def _fields(filters: Mapping[str, object]) -> dict[str, Any]:
    # The largest page unless the caller sets another size, because an iterator reads all pages.
    fields: dict[str, Any] = {"page_size": LARGEST_PAGE, **filters}
    return {name: stamp(value) if isinstance(value, datetime) else value for name, value in fields.items()}
