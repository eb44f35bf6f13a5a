"""The asyncio client, with the methods of the blocking one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

from grpc import aio

from paycenter import _requests as requests
from paycenter._calls import AsyncCall, Wrapped
from paycenter._options import Options
from paycenter._waiting import Pace, is_transient, timed_out
from paycenter.errors import PayCenterError
from paycenter.states import OrderState, RefundState
from paycenter.v1 import pay_notification_service_pb2 as notifications
from paycenter.v1.pay_account_service_pb2_grpc import PayAccountServiceStub
from paycenter.v1.pay_app_service_pb2_grpc import PayAppServiceStub
from paycenter.v1.pay_approval_service_pb2_grpc import PayApprovalServiceStub
from paycenter.v1.pay_audit_service_pb2_grpc import PayAuditServiceStub
from paycenter.v1.pay_case_service_pb2_grpc import PayCaseServiceStub
from paycenter.v1.pay_channel_service_pb2 import ListEnabledChannelCodesRequest
from paycenter.v1.pay_channel_service_pb2_grpc import PayChannelServiceStub
from paycenter.v1.pay_credential_service_pb2_grpc import PayCredentialServiceStub
from paycenter.v1.pay_notification_service_pb2_grpc import PayNotificationServiceStub
from paycenter.v1.pay_operator_service_pb2_grpc import PayOperatorServiceStub
from paycenter.v1.pay_order_service_pb2 import (
    DISPLAY_MODE_UNSPECIFIED,
    ClosePayOrderRequest,
    DisplayMode,
    PayOrder,
    SubmitPayOrderResponse,
    SyncPayOrderRequest,
    UpdatePayOrderPriceRequest,
)
from paycenter.v1.pay_order_service_pb2_grpc import PayOrderServiceStub
from paycenter.v1.pay_refund_service_pb2 import PayRefund, SyncPayRefundRequest
from paycenter.v1.pay_refund_service_pb2_grpc import PayRefundServiceStub

_T = TypeVar("_T")


class AsyncPayCenter:
    """A connection to PayCenter for asyncio code. It belongs to the event loop in which it is created.

        async with AsyncPayCenter("pay.internal:50051", key_id="…", key_secret="…", tls=True) as pay:
            order = await pay.create_order(merchant_order_id="A-1", subject="Tea", amount=1234, user_ip="203.0.113.7")

    Every method raises a subclass of `paycenter.errors.PayCenterError`, by reason, and takes `timeout` in seconds. Amounts are
    whole fen. `.orders`, `.refunds`, `.apps`, `.credentials`, `.accounts`, `.channels`, `.cases` and `.notifications` are the
    stubs with credentials, deadline and errors of this client. `app_key` is for operators; an app's own credentials imply it.
    """

    def __init__(
        self,
        target: str,
        *,
        key_id: str,
        key_secret: str,
        tls: bool | bytes = False,
        timeout: float = 10.0,
        attempts: int = 4,
        keepalive: float = 30.0,
        channel_options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """Connects at the first call. Raises RuntimeError without a running event loop.

        `tls`: True for the system's root certificates, or root certificates in PEM; without it the key travels in clear text.
        `timeout`: seconds for a call with all its `attempts` (1 to 5). `keepalive`: seconds of silence before
        the connection is probed. `channel_options`: gRPC channel arguments that win over this client's.
        """
        asyncio.get_running_loop()
        options = Options(target, key_id, key_secret, tls, timeout, attempts, keepalive, channel_options)
        credentials, arguments = options.credentials, options.arguments()
        self._channel = (
            aio.insecure_channel(target, arguments) if credentials is None else aio.secure_channel(target, credentials, arguments)
        )
        self._timeout = timeout
        wrapped = cast("aio.Channel", Wrapped(self._channel, options, AsyncCall))
        self.orders = PayOrderServiceStub(wrapped)
        self.refunds = PayRefundServiceStub(wrapped)
        self.apps = PayAppServiceStub(wrapped)
        self.credentials = PayCredentialServiceStub(wrapped)
        self.operators = PayOperatorServiceStub(wrapped)
        self.audit = PayAuditServiceStub(wrapped)
        self.approvals = PayApprovalServiceStub(wrapped)
        self.accounts = PayAccountServiceStub(wrapped)
        self.cases = PayCaseServiceStub(wrapped)
        self.channels = PayChannelServiceStub(wrapped)
        self.notifications = PayNotificationServiceStub(wrapped)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls that are running are cancelled."""
        await self._channel.close(None)

    async def create_order(
        self,
        *,
        merchant_order_id: str,
        subject: str,
        amount: int,
        user_ip: str,
        expire_in: timedelta | None = None,
        expire_time: datetime | None = None,
        body: str = "",
        currency: str = "",
        user_id: str = "",
        return_url: str = "",
        notification_url: str = "",
        app_key: str = "",
        timeout: float | None = None,
    ) -> PayOrder:
        """Create an order. The same content returns the existing order; OrderConflictError for other content.

        `amount` in fen. Expires in 30 minutes unless `expire_in` or `expire_time` (aware) says otherwise; at most 30 days.
        """
        request = requests.new_order(
            merchant_order_id=merchant_order_id,
            subject=subject,
            amount=amount,
            user_ip=user_ip,
            expire_in=expire_in,
            expire_time=expire_time,
            body=body,
            currency=currency,
            user_id=user_id,
            return_url=return_url,
            notification_url=notification_url,
            app_key=app_key,
        )
        return (await self.orders.CreatePayOrder(request, timeout)).pay_order

    async def submit_order(
        self,
        order: PayOrder | str,
        channel_code: str,
        extras: Mapping[str, str] | None = None,
        *,
        display_mode: DisplayMode.ValueType = DISPLAY_MODE_UNSPECIFIED,
        return_url: str = "",
        user_ip: str = "",
        timeout: float | None = None,
    ) -> SubmitPayOrderResponse:
        """Make an order payable at a channel. The payer is shown the `display_content`. The call may be repeated."""
        request = requests.submit(order, channel_code, extras, display_mode, return_url, user_ip)
        return await self.orders.SubmitPayOrder(request, timeout)

    async def get_order(
        self,
        *,
        id: str | None = None,
        merchant_order_id: str | None = None,
        app_key: str = "",
        sync: bool = False,
        timeout: float | None = None,
    ) -> PayOrder:
        """Read an order with its attempts by one of the two numbers. `sync`: query the channel first."""
        request = requests.one_order(id, merchant_order_id, app_key, sync)
        return (await self.orders.GetPayOrder(request, timeout)).pay_order

    async def wait_for_order(
        self, order: PayOrder | str, *, timeout: float = 300.0, until: Callable[[PayOrder], bool] | None = None
    ) -> PayOrder:
        """Wait until an order is no longer WAITING, or until `until(order)`; WaitTimeoutError after `timeout` seconds.

        Looks often at first and then every 5 s. Being unreachable for a while is no error. A service that gets notifications
        does not need this.
        """
        number = requests.order_id(order)

        async def look(sync: bool, call_timeout: float) -> PayOrder:
            return await self.get_order(id=number, sync=sync, timeout=call_timeout)

        return await self._wait(look, until or (lambda seen: seen.state != OrderState.WAITING), timeout, f"Order {number}")

    async def close_order(self, order: PayOrder | str, *, timeout: float | None = None) -> PayOrder:
        """Close an unpaid order, at its channels too; OrderPaidError if it was paid."""
        return (await self.orders.ClosePayOrder(ClosePayOrderRequest(id=requests.order_id(order)), timeout)).pay_order

    async def update_price(self, order: PayOrder | str, amount: int, *, timeout: float | None = None) -> PayOrder:
        """Change the amount (fen) of a WAITING order. Attempts with the old amount are closed first."""
        request = UpdatePayOrderPriceRequest(id=requests.order_id(order), amount=requests.fen(amount))
        return (await self.orders.UpdatePayOrderPrice(request, timeout)).pay_order

    async def sync_order(self, order: PayOrder | str, *, timeout: float | None = None) -> PayOrder:
        """Query the channels about an order now."""
        return (await self.orders.SyncPayOrder(SyncPayOrderRequest(id=requests.order_id(order)), timeout)).pay_order

    async def list_orders(self, **filters: Unpack[requests.OrderFilter]) -> AsyncIterator[PayOrder]:
        """Orders, newest first. Pages are read as the iterator advances."""
        request = requests.order_page(filters)
        while True:
            page = await self.orders.ListPayOrders(request)
            for order in page.pay_orders:
                yield order
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def create_refund(
        self,
        *,
        merchant_order_id: str,
        merchant_refund_no: str,
        amount: int,
        reason: str,
        notification_url: str = "",
        app_key: str = "",
        timeout: float | None = None,
    ) -> PayRefund:
        """Refund some or all of a paid order (`amount` in fen). The same number and content returns the existing refund."""
        request = requests.new_refund(merchant_order_id, merchant_refund_no, amount, reason, notification_url, app_key)
        return (await self.refunds.CreatePayRefund(request, timeout)).pay_refund

    async def get_refund(
        self,
        *,
        id: str | None = None,
        merchant_refund_no: str | None = None,
        app_key: str = "",
        sync: bool = False,
        timeout: float | None = None,
    ) -> PayRefund:
        """Read a refund by one of the two numbers. `sync`: query the channel first."""
        request = requests.one_refund(id, merchant_refund_no, app_key, sync)
        return (await self.refunds.GetPayRefund(request, timeout)).pay_refund

    async def wait_for_refund(
        self, refund: PayRefund | str, *, timeout: float = 300.0, until: Callable[[PayRefund], bool] | None = None
    ) -> PayRefund:
        """Wait until a refund is no longer WAITING, or until `until(refund)`; like `wait_for_order`."""
        number = requests.refund_id(refund)

        async def look(sync: bool, call_timeout: float) -> PayRefund:
            return await self.get_refund(id=number, sync=sync, timeout=call_timeout)

        return await self._wait(look, until or (lambda seen: seen.state != RefundState.WAITING), timeout, f"Refund {number}")

    async def sync_refund(self, refund: PayRefund | str, *, timeout: float | None = None) -> PayRefund:
        """Query the channel about a refund now."""
        return (await self.refunds.SyncPayRefund(SyncPayRefundRequest(id=requests.refund_id(refund)), timeout)).pay_refund

    async def list_refunds(self, **filters: Unpack[requests.RefundFilter]) -> AsyncIterator[PayRefund]:
        """Refunds, newest first."""
        request = requests.refund_page(filters)
        while True:
            page = await self.refunds.ListPayRefunds(request)
            for refund in page.pay_refunds:
                yield refund
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def list_channel_codes(self, *, app_key: str = "", timeout: float | None = None) -> list[str]:
        """The codes of the app's enabled channels, sorted: the ways to pay."""
        return list((await self.channels.ListEnabledChannelCodes(ListEnabledChannelCodesRequest(app_key=app_key), timeout)).codes)

    async def list_notifications(
        self, **filters: Unpack[requests.NotificationFilter]
    ) -> AsyncIterator[notifications.PayNotification]:
        """The notifications of the app, newest first."""
        request = requests.notification_page(filters)
        while True:
            page = await self.notifications.ListPayNotifications(request)
            for task in page.pay_notifications:
                yield task
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_notification(self, id: str, *, timeout: float | None = None) -> notifications.GetPayNotificationResponse:
        """One notification (`pay_notification`) and its deliveries (`logs`)."""
        return await self.notifications.GetPayNotification(notifications.GetPayNotificationRequest(id=id), timeout)

    async def resend_notification(self, id: str, *, timeout: float | None = None) -> notifications.PayNotification:
        """Send a finished notification again, now."""
        return (
            await self.notifications.ResendPayNotification(notifications.ResendPayNotificationRequest(id=id), timeout)
        ).pay_notification

    async def send_notification_now(self, id: str, *, timeout: float | None = None) -> notifications.PayNotification:
        """Make a waiting notification due now. Its retry schedule continues."""
        request = notifications.SendPayNotificationNowRequest(id=id)
        return (await self.notifications.SendPayNotificationNow(request, timeout)).pay_notification

    async def resend_notifications(
        self, *, dry_run: bool = False, **filters: Unpack[requests.NotificationFilter]
    ) -> AsyncIterator[notifications.ResendPayNotificationsResponse]:
        """Send the notifications that match again, those in state FAILURE by default; one response per page states the progress.

        A dry run only counts. Nothing is sent before the iterator is read.
        """
        request = requests.resend_page(filters, dry_run)
        while True:
            page = await self.notifications.ResendPayNotifications(request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _wait(
        self, look: Callable[[bool, float], Awaitable[_T]], done: Callable[[_T], bool], timeout: float, what: str
    ) -> _T:
        pace = Pace(timeout, time.monotonic())
        last: _T | None = None
        while True:
            now, failure = time.monotonic(), None
            try:
                last = await look(pace.sync(now), pace.call_timeout(self._timeout, now))
            except PayCenterError as error:
                if not is_transient(error):
                    raise
                failure = error
            else:
                if done(last):
                    return last
            delay = pace.delay(time.monotonic())
            if delay is None:
                raise timed_out(what, timeout, last, failure) from failure
            await asyncio.sleep(delay)
