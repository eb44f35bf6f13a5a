"""Domain values to messages and back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from paycenter.v1 import pay_app_service_pb2 as app_pb
from paycenter.v1 import pay_notification_service_pb2 as notify_pb
from paycenter.v1 import pay_order_service_pb2 as order_pb
from paycenter.v1 import pay_refund_service_pb2 as refund_pb

from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.models import (
    Credential,
    NotificationLog,
    NotificationSuccess,
    NotificationType,
    PayAttempt,
    PayNotification,
    PayOrder,
    PayRefund,
    SurplusPolicy,
)
from paycenter_server.domain.states import NotificationState, OrderState, RefundState
from paycenter_server.services.apps import ListedApp

E = TypeVar("E")

DISPLAY_MODES = {
    order_pb.DISPLAY_MODE_UNSPECIFIED: "",
    order_pb.DISPLAY_MODE_URL: "url",
    order_pb.DISPLAY_MODE_FORM: "form",
    order_pb.DISPLAY_MODE_QR_CODE: "qr_code",
    order_pb.DISPLAY_MODE_BAR_CODE: "bar_code",
    order_pb.DISPLAY_MODE_APP: "app",
}
_DISPLAY = {name: number for number, name in DISPLAY_MODES.items()}


def stamp(moment: datetime | None) -> Timestamp | None:
    """A Timestamp, or nothing."""
    if moment is None:
        return None
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def moment(message: Message, field: str) -> datetime | None:
    """An aware time from a Timestamp field; None if it is not set. INVALID_FIELD if it is out of range."""
    if not message.HasField(field):
        return None
    value = getattr(message, field)
    try:
        if not 0 <= value.nanos < 1_000_000_000:
            raise ValueError
        return datetime.fromtimestamp(value.seconds, UTC).replace(microsecond=value.nanos // 1000)
    except (ValueError, OverflowError, OSError):
        raise invalid([Violation(field, "is not a valid time")]) from None


def enum_value(kind: type[E], field: str, number: int, names: dict[int, str]) -> E | None:
    """The domain's member for a proto number; None for unspecified, INVALID_FIELD for a number that does not exist."""
    if number == 0:
        return None
    name = names.get(number)
    if name is None:
        raise invalid([Violation(field, "is not one of the values that there are")])
    return kind(name)  # type: ignore[call-arg]


ORDER_STATES: dict[int, str] = {order_pb.PayOrderState.Value(f"PAY_ORDER_STATE_{state.value}"): state.value for state in OrderState}
REFUND_STATES: dict[int, str] = {
    refund_pb.PayRefundState.Value(f"PAY_REFUND_STATE_{state.value}"): state.value for state in RefundState
}
NOTIFICATION_STATES: dict[int, str] = {
    notify_pb.NotificationState.Value(f"NOTIFICATION_STATE_{state.value}"): state.value for state in NotificationState
}
NOTIFICATION_TYPES: dict[int, str] = {
    notify_pb.NotificationType.Value(f"NOTIFICATION_TYPE_{kind.value}"): kind.value for kind in NotificationType
}
POLICIES: dict[int, str] = {app_pb.SurplusPolicy.Value(f"SURPLUS_POLICY_{policy.value}"): policy.value for policy in SurplusPolicy}
NOTIFICATION_RULES: dict[int, str] = {
    app_pb.NotificationSuccess.Value(f"NOTIFICATION_SUCCESS_{rule.value}"): rule.value for rule in NotificationSuccess
}
_ORDER_STATE = {state.value: order_pb.PayOrderState.Value(f"PAY_ORDER_STATE_{state.value}") for state in OrderState}
_REFUND_STATE = {state.value: refund_pb.PayRefundState.Value(f"PAY_REFUND_STATE_{state.value}") for state in RefundState}
_NOTIFICATION_STATE = {
    state.value: notify_pb.NotificationState.Value(f"NOTIFICATION_STATE_{state.value}") for state in NotificationState
}


def order_message(order: PayOrder, attempts: list[PayAttempt] | None = None) -> order_pb.PayOrder:
    """An order, with its attempts where they are given."""
    return order_pb.PayOrder(
        id=order.number,
        app_key=order.app_key,
        merchant_order_id=order.merchant_order_id,
        subject=order.subject,
        body=order.body,
        amount=order.amount,
        currency=order.currency,
        state=_ORDER_STATE[order.state.value],
        expire_time=stamp(order.expire_time),
        user_ip=order.user_ip,
        user_id=order.user_id,
        return_url=order.return_url,
        paid_amount=order.paid_amount,
        refunded_amount=order.refunded_amount,
        reserved_amount=order.reserved_amount,
        channel_code=order.channel_code or "",
        channel_id=encode(Prefix.CHANNEL, order.channel_id) if order.channel_id else "",
        out_trade_no=encode(Prefix.ATTEMPT, order.attempt_id) if order.attempt_id else "",
        channel_order_no=order.channel_order_no or "",
        channel_user_id=order.channel_user_id or "",
        channel_fee_rate_ppm=order.channel_fee_rate_ppm,
        channel_fee_amount=order.channel_fee_amount,
        success_time=stamp(order.success_time),
        create_time=stamp(order.create_time),
        update_time=stamp(order.update_time),
        attempts=[attempt_message(attempt) for attempt in attempts or ()],
    )


def attempt_message(attempt: PayAttempt) -> order_pb.PayAttempt:
    """An attempt."""
    return order_pb.PayAttempt(
        out_trade_no=attempt.out_trade_no,
        channel_code=attempt.channel_code,
        channel_id=encode(Prefix.CHANNEL, attempt.channel_id),
        amount=attempt.amount,
        state=order_pb.PayAttemptState.Value(f"PAY_ATTEMPT_STATE_{attempt.state.value}"),
        channel_error_code=attempt.channel_error_code or "",
        channel_error_message=attempt.channel_error_message or "",
        channel_order_no=attempt.channel_order_no or "",
        create_time=stamp(attempt.create_time),
        success_time=stamp(attempt.success_time),
    )


def display_mode(name: str) -> order_pb.DisplayMode.ValueType:
    """A display mode by the codec's name."""
    return _DISPLAY.get(name, order_pb.DISPLAY_MODE_UNSPECIFIED)


def refund_message(refund: PayRefund) -> refund_pb.PayRefund:
    """A refund."""
    return refund_pb.PayRefund(
        id=refund.number,
        app_key=refund.app_key,
        pay_order_id=encode(Prefix.ORDER, refund.order_id),
        merchant_order_id=refund.merchant_order_id,
        merchant_refund_no=refund.merchant_refund_no,
        amount=refund.amount,
        currency=refund.currency,
        reason=refund.reason,
        state=_REFUND_STATE[refund.state.value],
        channel_code=refund.channel_code,
        out_trade_no=refund.out_trade_no,
        out_refund_no=refund.out_refund_no,
        channel_refund_no=refund.channel_refund_no or "",
        channel_error_code=refund.channel_error_code or "",
        channel_error_message=refund.channel_error_message or "",
        success_time=stamp(refund.success_time),
        create_time=stamp(refund.create_time),
        update_time=stamp(refund.update_time),
    )


def app_message(listed: ListedApp) -> app_pb.PayApp:
    """An app, without secrets."""
    app = listed.app
    return app_pb.PayApp(
        app_key=app.app_key,
        name=app.name,
        enabled=app.enabled,
        remark=app.remark,
        order_notification_url=app.order_notification_url,
        refund_notification_url=app.refund_notification_url,
        surplus_policy=app_pb.SurplusPolicy.Value(f"SURPLUS_POLICY_{app.surplus_policy.value}"),
        notification_success=app_pb.NotificationSuccess.Value(f"NOTIFICATION_SUCCESS_{app.notification_success.value}"),
        channel_codes=listed.channel_codes,
        create_time=stamp(app.create_time),
        update_time=stamp(app.update_time),
    )


def credential_message(credential: Credential) -> app_pb.AppCredential:
    """A credential, without its secret."""
    return app_pb.AppCredential(
        key_id=credential.key_id, name=credential.name, enabled=credential.enabled, create_time=stamp(credential.create_time)
    )


def notification_message(task: PayNotification) -> notify_pb.PayNotification:
    """A notification."""
    prefix = Prefix.ORDER if task.type is NotificationType.ORDER else Prefix.REFUND
    return notify_pb.PayNotification(
        id=task.number,
        app_key=task.app_key,
        type=notify_pb.NotificationType.Value(f"NOTIFICATION_TYPE_{task.type.value}"),
        event=task.event,
        data_id=encode(prefix, task.data_id),
        merchant_order_id=task.merchant_order_id,
        merchant_refund_no=task.merchant_refund_no,
        notification_url=task.notification_url,
        state=_NOTIFICATION_STATE[task.state.value],
        notify_times=task.notify_times,
        max_notify_times=task.max_notify_times,
        next_notify_time=stamp(task.next_notify_time),
        last_execute_time=stamp(task.last_execute_time),
        create_time=stamp(task.create_time),
    )


def log_message(entry: NotificationLog) -> notify_pb.NotificationLog:
    """A delivery."""
    return notify_pb.NotificationLog(
        notify_times=entry.notify_times,
        state=_NOTIFICATION_STATE[entry.state.value],
        request=entry.request,
        http_status=entry.http_status,
        duration_ms=entry.duration_ms,
        answer=entry.answer,
        create_time=stamp(entry.create_time),
    )
