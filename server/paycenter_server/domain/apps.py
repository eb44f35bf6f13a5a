"""Apps: the services that are connected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from paycenter_server.domain.addresses import endpoint_of


class SurplusPolicy(StrEnum):
    """What happens to surplus money, which an order cannot take."""

    HOLD = "HOLD"
    REFUND = "REFUND"
    ACCEPT = "ACCEPT"


class NotificationSuccess(StrEnum):
    """Which answer confirms a notification."""

    HTTP_2XX = "HTTP_2XX"
    CODE_ZERO = "CODE_ZERO"


# How many replaced secrets still sign: two rotations within the overlap leave every secret of that time valid.
PREVIOUS_SECRETS = 2


def with_previous_secret(
    previous: Sequence[Mapping[str, str]], replaced: str, until: datetime, now: datetime
) -> list[Mapping[str, str]]:
    """The previous secrets after a rotation, newest first: `replaced` (sealed), and of the others the newest that are valid."""
    kept = [{"sealed": replaced, "until": until.isoformat()}]
    kept += [dict(item) for item in previous if datetime.fromisoformat(item["until"]) > now]
    return list(kept[:PREVIOUS_SECRETS])


def valid_previous_secrets(previous: Sequence[Mapping[str, str]], now: datetime) -> list[str]:
    """The sealed previous secrets that still sign."""
    return [item["sealed"] for item in previous if datetime.fromisoformat(item["until"]) > now]


@dataclass(frozen=True, slots=True)
class PayApp:
    """A connected service. The endpoints are those of its URLs.

    `notification_secrets_previous` has the sealed secrets that were replaced (`sealed`) and when they end (`until`), newest first.
    """

    id: UUID
    app_key: str
    name: str
    enabled: bool
    remark: str
    order_notification_url: str
    refund_notification_url: str
    order_notification_endpoint: str
    refund_notification_endpoint: str
    surplus_policy: SurplusPolicy
    notification_success: NotificationSuccess
    notification_secret: str = field(repr=False)
    notification_secrets_previous: Sequence[Mapping[str, str]] = field(repr=False)
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
        order_notification_endpoint=endpoint_of(order_notification_url),
        refund_notification_endpoint=endpoint_of(refund_notification_url),
        surplus_policy=surplus_policy,
        notification_success=notification_success,
        notification_secret=notification_secret,
        notification_secrets_previous=[],
        create_time=now,
        update_time=now,
    )
