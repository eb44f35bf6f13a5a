"""What storage returns and services work with: one frozen dataclass for each table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import AttemptState, CaseState, NotificationState, OrderState, RefundState


class SurplusPolicy(StrEnum):
    """What happens to money that an order cannot take."""

    HOLD = "HOLD"
    REFUND = "REFUND"
    ACCEPT = "ACCEPT"


class NotificationSuccess(StrEnum):
    """Which answer to a notification counts as received."""

    HTTP_2XX = "HTTP_2XX"
    CODE_ZERO = "CODE_ZERO"


class NotificationType(StrEnum):
    """What a notification is about."""

    ORDER = "ORDER"
    REFUND = "REFUND"


class CaseKind(StrEnum):
    """Why money needs a decision."""

    LATE_PAYMENT = "LATE_PAYMENT"
    DUPLICATE_PAYMENT = "DUPLICATE_PAYMENT"
    WRONG_AMOUNT = "WRONG_AMOUNT"
    UNKNOWN_ORDER = "UNKNOWN_ORDER"
    STALE_ATTEMPT = "STALE_ATTEMPT"
    STALE_REFUND = "STALE_REFUND"
    REFUND_MISMATCH = "REFUND_MISMATCH"


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


@dataclass(frozen=True, slots=True)
class Credential:
    """A key id and the hash of its secret. `app_id` is None for operators."""

    key_id: str
    secret_hash: bytes = field(repr=False)
    app_id: UUID | None
    app_key: str | None
    name: str
    enabled: bool
    create_time: datetime


@dataclass(frozen=True, slots=True)
class PayChannel:
    """An app's account at a channel. Secrets in `config` are envelopes, never clear text."""

    id: UUID
    app_id: UUID
    app_key: str
    code: str
    enabled: bool
    fee_rate_ppm: int
    remark: str
    config: Mapping[str, Any] = field(repr=False)
    create_time: datetime
    update_time: datetime
    version: int

    @property
    def number(self) -> str:
        """The id as people and channels see it."""
        return encode(Prefix.CHANNEL, self.id)


@dataclass(frozen=True, slots=True)
class PayOrder:
    """What an app wants to be paid for. Amounts in minor units."""

    id: UUID
    app_id: UUID
    app_key: str
    merchant_order_id: str
    subject: str
    body: str
    amount: int
    currency: str
    state: OrderState
    expire_time: datetime
    user_ip: str
    user_id: str
    return_url: str
    notification_url: str
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
    create_time: datetime
    update_time: datetime

    @property
    def number(self) -> str:
        """The id as callers see it."""
        return encode(Prefix.ORDER, self.id)


@dataclass(frozen=True, slots=True)
class PayAttempt:
    """One submit of an order to one channel; `amount` is what was sent. `cancel_until`: the channel was asked to cancel
    it, which gives back what was paid (bar codes); what it said before this moment says nothing any more."""

    id: UUID
    order_id: UUID
    app_id: UUID
    channel_id: UUID
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
    cancel_until: datetime | None = None

    @property
    def out_trade_no(self) -> str:
        """The number that the channel knows."""
        return encode(Prefix.ATTEMPT, self.id)


@dataclass(frozen=True, slots=True)
class PayRefund:
    """Money that goes back. `case_id` is set when it returns surplus money, which no order holds."""

    id: UUID
    app_id: UUID
    app_key: str
    order_id: UUID
    attempt_id: UUID
    channel_id: UUID
    channel_code: str
    case_id: UUID | None
    merchant_order_id: str
    merchant_refund_no: str
    out_refund_key: UUID
    amount: int
    total_amount: int
    currency: str
    reason: str
    notification_url: str
    state: RefundState
    send_count: int
    channel_refund_no: str | None
    channel_error_code: str | None
    channel_error_message: str | None
    success_time: datetime | None
    next_check_time: datetime | None
    check_count: int
    create_time: datetime
    update_time: datetime

    @property
    def number(self) -> str:
        """The id as callers see it."""
        return encode(Prefix.REFUND, self.id)

    @property
    def out_refund_no(self) -> str:
        """The number that the channel knows."""
        return encode(Prefix.OUT_REFUND, self.out_refund_key)

    @property
    def out_trade_no(self) -> str:
        """The number under which the channel knows the payment."""
        return encode(Prefix.ATTEMPT, self.attempt_id)


@dataclass(frozen=True, slots=True)
class PayNotification:
    """One thing that an app must be told."""

    id: UUID
    app_id: UUID
    app_key: str
    type: NotificationType
    event: str
    data_id: UUID
    merchant_order_id: str
    merchant_refund_no: str
    notification_url: str
    payload: str
    state: NotificationState
    notify_times: int
    max_notify_times: int
    next_notify_time: datetime | None
    last_execute_time: datetime | None
    create_time: datetime

    @property
    def number(self) -> str:
        """The id as receivers see it (`webhook-id`)."""
        return encode(Prefix.NOTIFICATION, self.id)


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


@dataclass(frozen=True, slots=True)
class PayCase:
    """Money that needs a decision."""

    id: UUID
    kind: CaseKind
    state: CaseState
    app_id: UUID | None
    channel_id: UUID | None
    order_id: UUID | None
    attempt_id: UUID | None
    refund_id: UUID | None
    reference: str
    amount: int | None
    currency: str | None
    detail: Mapping[str, Any]
    create_time: datetime
    update_time: datetime

    @property
    def number(self) -> str:
        """The id as people see it."""
        return encode(Prefix.CASE, self.id)
