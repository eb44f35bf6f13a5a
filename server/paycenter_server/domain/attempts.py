"""Attempts: one submit of an order to one channel."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import ATTEMPT, AttemptEvent, AttemptState, created
from paycenter_server.domain.values import value

MOST_ATTEMPTS = 100
"""The most attempts of an order. Every read of an order reads all of them, in a statement that other reads share: ten thousand
would make each of these take a second."""


@value
class PayAttempt:
    """One submit of an order to one channel. `amount` is the amount that was sent to the channel.

    `account_id`, `binding_id`: the account and the binding that the attempt began with. It is settled by them.

    `cancel_until`: the channel was requested to cancel the attempt, which refunds what was paid (bar codes). Reports of the
    channel from before this time are void.

    `fee_rate_ppm`: the fee rate of the channel when the attempt was made; None if it was made by a version that did not store it.
    """

    id: UUID
    order_id: UUID
    app_id: UUID
    channel_id: UUID
    account_id: UUID
    binding_id: UUID
    channel_code: str
    amount: int
    currency: str
    state: AttemptState
    display_mode: str
    display_content: str
    wanted_mode: str
    channel_extras: Mapping[str, str]
    return_url: str
    user_ip: str
    expire_time: datetime
    paid_amount: int
    channel_order_no: str | None
    channel_user_id: str | None
    channel_error_code: str | None
    channel_error_message: str | None
    success_time: datetime | None
    next_check_time: datetime | None
    check_count: int
    create_time: datetime
    update_time: datetime
    cancel_until: datetime | None
    fee_rate_ppm: int | None

    def booked_rate(self, rate: int) -> int:
        """The fee rate with which it is booked. `rate`: the channel's now, which may have changed since."""
        return rate if self.fee_rate_ppm is None else self.fee_rate_ppm

    @property
    def out_trade_no(self) -> str:
        """The number under which the channel knows the attempt."""
        return encode(Prefix.ATTEMPT, self.id)


AT_CREATE: Mapping[str, Any] = {
    "display_mode": "", "display_content": "", "paid_amount": 0, "channel_order_no": None, "channel_user_id": None,
    "channel_error_code": None, "channel_error_message": None, "success_time": None, "check_count": 0, "cancel_until": None,
}  # fmt: skip
"""What every attempt has when it is made."""


def new_attempt(
    key: UUID,
    now: datetime,
    order: PayOrder,
    *,
    channel_id: UUID,
    account_id: UUID,
    binding_id: UUID,
    channel_code: str,
    wanted_mode: str,
    channel_extras: Mapping[str, str],
    return_url: str,
    user_ip: str,
    expire_time: datetime,
    next_check_time: datetime,
    fee_rate_ppm: int | None = None,
) -> PayAttempt:
    """Build an attempt that has not been sent to the channel. Its amount is the current amount of the order."""
    return PayAttempt(
        id=key,
        order_id=order.id,
        app_id=order.app_id,
        channel_id=channel_id,
        account_id=account_id,
        binding_id=binding_id,
        channel_code=channel_code,
        amount=order.amount,
        currency=order.currency,
        state=created(ATTEMPT, AttemptEvent.CREATE),
        wanted_mode=wanted_mode,
        channel_extras=dict(channel_extras),
        return_url=return_url,
        user_ip=user_ip,
        expire_time=expire_time,
        next_check_time=next_check_time,
        create_time=now,
        update_time=now,
        fee_rate_ppm=fee_rate_ppm,
        **AT_CREATE,
    )
