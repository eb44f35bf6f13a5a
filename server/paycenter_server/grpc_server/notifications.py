"""PayNotificationService."""

from __future__ import annotations

from typing import Any

from paycenter.v1 import pay_notification_service_pb2 as pb
from paycenter.v1.pay_notification_service_pb2_grpc import PayNotificationServiceServicer

from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.notifications import NotificationLog, NotificationType, PayNotification
from paycenter_server.domain.states import NotificationState
from paycenter_server.grpc_server.calls import current_caller
from paycenter_server.grpc_server.convert import enum_value, numbers, read_time, stamp
from paycenter_server.services.notifications import Notifications
from paycenter_server.services.paging import Pager
from paycenter_server.storage.notifications import NotificationFilter

NOTIFICATION_STATES = numbers(pb.NotificationState, "NOTIFICATION_STATE", NotificationState)
NOTIFICATION_TYPES = numbers(pb.NotificationType, "NOTIFICATION_TYPE", NotificationType)
_PREFIXES = {NotificationType.ORDER: Prefix.ORDER, NotificationType.REFUND: Prefix.REFUND, NotificationType.CASE: Prefix.CASE}
_STATE_NUMBERS = {state: pb.NotificationState.Value(f"NOTIFICATION_STATE_{state.value}") for state in NotificationState}


def notification_message(task: PayNotification) -> pb.PayNotification:
    """A notification."""
    return pb.PayNotification(
        id=task.number,
        app_key=task.app_key,
        type=pb.NotificationType.Value(f"NOTIFICATION_TYPE_{task.type.value}"),
        event=task.event,
        data_id=encode(_PREFIXES[task.type], task.data_id),
        merchant_order_id=task.merchant_order_id,
        merchant_refund_no=task.merchant_refund_no,
        notification_url=task.notification_url,
        state=_STATE_NUMBERS[task.state],
        notify_times=task.notify_times,
        max_notify_times=task.max_notify_times,
        next_notify_time=stamp(task.next_notify_time),
        last_execute_time=stamp(task.last_execute_time),
        create_time=stamp(task.create_time),
        schedule_start_time=stamp(task.schedule_start_time),
        data_version=task.data_version,
        endpoint=task.endpoint,
        problem=task.problem,
    )


def log_message(entry: NotificationLog) -> pb.NotificationLog:
    """A delivery."""
    return pb.NotificationLog(
        notify_times=entry.notify_times,
        state=_STATE_NUMBERS[entry.state],
        request=entry.request,
        http_status=entry.http_status,
        duration_ms=entry.duration_ms,
        answer=entry.answer,
        create_time=stamp(entry.create_time),
    )


def _filter(request: pb.ListPayNotificationsRequest | pb.ResendPayNotificationsRequest) -> NotificationFilter:
    """The filter of a request. A `data_id` that is no number of an order, a refund or a case becomes None."""
    return NotificationFilter(
        type=enum_value(NotificationType, "type", request.type, NOTIFICATION_TYPES),
        state=enum_value(NotificationState, "state", request.state, NOTIFICATION_STATES),
        merchant_order_id=request.merchant_order_id,
        merchant_refund_no=request.merchant_refund_no,
        data_id=next((key for prefix in _PREFIXES.values() if (key := decode(prefix, request.data_id))), None),
        create_time_from=read_time(request, "create_time_from"),
        create_time_to=read_time(request, "create_time_to"),
    )


class NotificationServicer(PayNotificationServiceServicer):
    """Converts messages, and calls the use cases for notifications."""

    def __init__(self, notifications: Notifications) -> None:
        self._notifications = notifications

    async def ListPayNotifications(self, request: pb.ListPayNotificationsRequest, context: Any) -> pb.ListPayNotificationsResponse:
        """See the proto."""
        where = _filter(request)
        if request.data_id and where.data_id is None:
            return pb.ListPayNotificationsResponse()
        pager = Pager(request.page_size, request.page_token)
        page = await self._notifications.search(current_caller(), request.app_key, where, pager)
        return pb.ListPayNotificationsResponse(
            pay_notifications=[notification_message(task) for task in page.items], next_page_token=page.next_token
        )

    async def GetPayNotification(self, request: pb.GetPayNotificationRequest, context: Any) -> pb.GetPayNotificationResponse:
        """See the proto."""
        task, logs = await self._notifications.get(current_caller(), request.id)
        return pb.GetPayNotificationResponse(
            pay_notification=notification_message(task), logs=[log_message(entry) for entry in logs]
        )

    async def ResendPayNotification(
        self, request: pb.ResendPayNotificationRequest, context: Any
    ) -> pb.ResendPayNotificationResponse:
        """See the proto."""
        return pb.ResendPayNotificationResponse(
            pay_notification=notification_message(await self._notifications.resend(current_caller(), request.id))
        )

    async def ResendPayNotifications(
        self, request: pb.ResendPayNotificationsRequest, context: Any
    ) -> pb.ResendPayNotificationsResponse:
        """See the proto."""
        where = _filter(request)
        if request.data_id and where.data_id is None:
            return pb.ResendPayNotificationsResponse()
        pager = Pager(request.page_size, request.page_token)
        page = await self._notifications.resend_matching(current_caller(), request.app_key, where, pager, dry_run=request.dry_run)
        return pb.ResendPayNotificationsResponse(
            matched_count=page.matched,
            resent_count=page.resent,
            remaining_count=page.remaining,
            next_page_token=page.next_token,
        )

    async def SendPayNotificationNow(
        self, request: pb.SendPayNotificationNowRequest, context: Any
    ) -> pb.SendPayNotificationNowResponse:
        """See the proto."""
        return pb.SendPayNotificationNowResponse(
            pay_notification=notification_message(await self._notifications.send_now(current_caller(), request.id))
        )
