"""Notifications: what apps are told, and the log of their deliveries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.schedule import NOTIFICATION_MAX_TIMES
from paycenter_server.domain.states import NOTIFICATION, NotificationEvent, NotificationState, created


class NotificationType(StrEnum):
    """What a notification is about."""

    ORDER = "ORDER"
    REFUND = "REFUND"


@dataclass(frozen=True, slots=True)
class PayNotification:
    """One thing that an app must be told.

    `data_version` tells apart what is told of the same order or refund more than once. The retry schedule (re)started at
    `schedule_start_time`, when the notification had been sent `schedule_start_times` times.
    """

    id: UUID
    app_id: UUID
    app_key: str
    type: NotificationType
    event: str
    data_id: UUID
    data_version: int
    merchant_order_id: str
    merchant_refund_no: str
    notification_url: str
    payload: str
    state: NotificationState
    notify_times: int
    next_notify_time: datetime | None
    last_execute_time: datetime | None
    schedule_start_time: datetime
    schedule_start_times: int
    create_time: datetime
    update_time: datetime

    @property
    def number(self) -> str:
        """The id as receivers see it (`webhook-id`)."""
        return encode(Prefix.NOTIFICATION, self.id)

    @property
    def max_notify_times(self) -> int:
        """How often it is sent at most, by the schedule as it is configured now."""
        return self.schedule_start_times + NOTIFICATION_MAX_TIMES


def new_notification(
    key: UUID,
    now: datetime,
    *,
    app_id: UUID,
    app_key: str,
    kind: NotificationType,
    event: str,
    data_id: UUID,
    data_version: int,
    merchant_order_id: str,
    merchant_refund_no: str,
    notification_url: str,
    payload: str,
) -> PayNotification:
    """A notification that was not sent yet; it is due at once."""
    return PayNotification(
        id=key,
        app_id=app_id,
        app_key=app_key,
        type=kind,
        event=event,
        data_id=data_id,
        data_version=data_version,
        merchant_order_id=merchant_order_id,
        merchant_refund_no=merchant_refund_no,
        notification_url=notification_url,
        payload=payload,
        state=created(NOTIFICATION, NotificationEvent.CREATE),
        notify_times=0,
        next_notify_time=now,
        last_execute_time=None,
        schedule_start_time=now,
        schedule_start_times=0,
        create_time=now,
        update_time=now,
    )


@dataclass(frozen=True, slots=True)
class NotificationLog:
    """One delivery: what was sent, and what came back."""

    task_id: UUID
    notify_times: int
    state: NotificationState
    url: str
    request: str
    http_status: int
    duration_ms: int
    answer: str
    create_time: datetime
