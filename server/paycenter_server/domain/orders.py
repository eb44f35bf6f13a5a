"""Pay orders."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.apps import PayApp
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import ORDER, OrderEvent, OrderState, created
from paycenter_server.domain.values import value


@value
class PayOrder:
    """Something that an app wants to be paid for. Amounts are in minor units. `first_amount`: that of the create.

    `notification_url` is empty if notifications go to the app's current URL. `version` counts the changes that were notified.
    `submit_version` counts what a submit must have read before it stores an attempt: the attempts, and the payments that became
    cases.
    """

    id: UUID
    app_id: UUID
    app_key: str
    merchant_order_id: str
    subject: str
    body: str
    amount: int
    first_amount: int
    currency: str
    state: OrderState
    expire_time: datetime
    user_ip: str
    user_id: str
    return_url: str
    notification_url: str
    version: int
    paid_amount: int
    refunded_amount: int
    reserved_amount: int
    attempt_id: UUID | None
    channel_id: UUID | None
    channel_code: str | None
    channel_order_no: str | None
    channel_user_id: str | None
    channel_fee_rate_ppm: int
    channel_fee_amount: int
    success_time: datetime | None
    next_check_time: datetime | None
    check_count: int
    submit_version: int
    create_time: datetime
    update_time: datetime

    @property
    def number(self) -> str:
        """The id in its printed form."""
        return encode(Prefix.ORDER, self.id)


AT_CREATE: Mapping[str, Any] = {
    "version": 0, "paid_amount": 0, "refunded_amount": 0, "reserved_amount": 0, "attempt_id": None, "channel_id": None,
    "channel_code": None, "channel_order_no": None, "channel_user_id": None, "channel_fee_rate_ppm": 0, "channel_fee_amount": 0,
    "success_time": None, "check_count": 0, "submit_version": 0,
}  # fmt: skip
"""What every order has when it is created: the defaults of the columns of pay_order."""
_CREATED = created(ORDER, OrderEvent.CREATE)
SAME_AT_CREATE = {"first_amount": "amount", "next_check_time": "expire_time", "update_time": "create_time"}
"""Fields that have the value of another one when an order is created. Its next check is at its expiry."""


def new_order(
    key: UUID,
    now: datetime,
    app: PayApp,
    *,
    merchant_order_id: str,
    subject: str,
    body: str,
    amount: int,
    currency: str,
    expire_time: datetime,
    user_ip: str,
    user_id: str,
    return_url: str,
    notification_url: str = "",
) -> PayOrder:
    """Build an order without attempts."""
    return PayOrder(
        id=key,
        app_id=app.id,
        app_key=app.app_key,
        merchant_order_id=merchant_order_id,
        subject=subject,
        body=body,
        amount=amount,
        first_amount=amount,
        currency=currency,
        state=_CREATED,
        expire_time=expire_time,
        user_ip=user_ip,
        user_id=user_id,
        return_url=return_url,
        notification_url=notification_url,
        next_check_time=expire_time,
        create_time=now,
        update_time=now,
        **AT_CREATE,
    )
