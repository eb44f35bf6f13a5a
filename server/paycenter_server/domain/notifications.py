"""Notifications to apps, and the log of their deliveries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from paycenter_server.domain.addresses import endpoint_of
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.schedule import NOTIFICATION_MAX_TIMES
from paycenter_server.domain.states import NOTIFICATION, NotificationEvent, NotificationState, created


class NotificationType(StrEnum):
    """The kind of object that a notification is about."""

    ORDER = "ORDER"
    REFUND = "REFUND"
    CASE = "CASE"


@dataclass(frozen=True, slots=True)
class PayNotification:
    """A message to an app about an event of an order, a refund or a case.

    `data_version` is the version of the object that it reports: of two notifications about one object the larger is the newer.
    A stored `notification_url` is empty if the notification goes to the app's current URL. `endpoint` is `scheme://host:port` of
    the URL. `problem` says why the last delivery did not succeed. The retry schedule last started at `schedule_start_time`,
    after `schedule_start_times` deliveries.
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
    endpoint: str
    payload: str
    state: NotificationState
    notify_times: int
    next_notify_time: datetime | None
    last_execute_time: datetime | None
    schedule_start_time: datetime
    schedule_start_times: int
    problem: str
    create_time: datetime
    update_time: datetime

    @property
    def number(self) -> str:
        """The id in its printed form, which receivers get as `webhook-id`."""
        return encode(Prefix.NOTIFICATION, self.id)

    @property
    def max_notify_times(self) -> int:
        """The largest number of deliveries under the current retry schedule."""
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
    """Build a notification that has not been sent. It is due at once.

    Without a `notification_url` it goes to the app's current URL, and storage takes the endpoint from the app.
    """
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
        endpoint=endpoint_of(notification_url) if notification_url else "",
        payload=payload,
        state=created(NOTIFICATION, NotificationEvent.CREATE),
        notify_times=0,
        next_notify_time=now,
        last_execute_time=None,
        schedule_start_time=now,
        schedule_start_times=0,
        problem="",
        create_time=now,
        update_time=now,
    )


@dataclass(frozen=True, slots=True)
class NotificationLog:
    """One delivery: the request and the answer."""

    task_id: UUID
    notify_times: int
    state: NotificationState
    url: str
    request: str
    http_status: int
    duration_ms: int
    answer: str
    create_time: datetime
