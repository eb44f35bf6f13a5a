"""Apps: the services that are connected."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class SurplusPolicy(StrEnum):
    """What happens to surplus money, which an order cannot take."""

    HOLD = "HOLD"
    REFUND = "REFUND"
    ACCEPT = "ACCEPT"


class NotificationSuccess(StrEnum):
    """Which answer confirms a notification."""

    HTTP_2XX = "HTTP_2XX"
    CODE_ZERO = "CODE_ZERO"


@dataclass(frozen=True, slots=True)
class PayApp:
    """A connected service."""

    id: UUID
    app_key: str
    name: str
    enabled: bool
    remark: str
    order_notification_url: str
    refund_notification_url: str
    surplus_policy: SurplusPolicy
    notification_success: NotificationSuccess
    notification_secret: str = field(repr=False)
    notification_secret_previous: str | None = field(repr=False)
    notification_secret_previous_until: datetime | None
    create_time: datetime
    update_time: datetime


def new_app(
    key: UUID,
    now: datetime,
    *,
    app_key: str,
    name: str,
    remark: str,
    order_notification_url: str,
    refund_notification_url: str,
    surplus_policy: SurplusPolicy,
    notification_success: NotificationSuccess,
    notification_secret: str,
) -> PayApp:
    """Build an enabled app. `notification_secret` is a sealed secret."""
    return PayApp(
        id=key,
        app_key=app_key,
        name=name,
        enabled=True,
        remark=remark,
        order_notification_url=order_notification_url,
        refund_notification_url=refund_notification_url,
        surplus_policy=surplus_policy,
        notification_success=notification_success,
        notification_secret=notification_secret,
        notification_secret_previous=None,
        notification_secret_previous_until=None,
        create_time=now,
        update_time=now,
    )
