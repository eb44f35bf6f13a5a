"""A PayCenter in memory behind a real gRPC server on loopback: it records what arrives, and fails on request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from paycenter.v1 import pay_app_service_pb2 as apps
from paycenter.v1 import pay_channel_service_pb2 as channels
from paycenter.v1 import pay_notification_service_pb2 as notifications
from paycenter.v1 import pay_order_service_pb2 as orders
from paycenter.v1 import pay_refund_service_pb2 as refunds
from paycenter.v1.pay_app_service_pb2_grpc import PayAppServiceServicer, add_PayAppServiceServicer_to_server
from paycenter.v1.pay_channel_service_pb2_grpc import PayChannelServiceServicer, add_PayChannelServiceServicer_to_server
from paycenter.v1.pay_notification_service_pb2_grpc import (
    PayNotificationServiceServicer,
    add_PayNotificationServiceServicer_to_server,
)
from paycenter.v1.pay_order_service_pb2_grpc import PayOrderServiceServicer, add_PayOrderServiceServicer_to_server
from paycenter.v1.pay_refund_service_pb2_grpc import PayRefundServiceServicer, add_PayRefundServiceServicer_to_server

KEY_ID, KEY_SECRET = "AK1", "s3cret:with colon"

Failure = Callable[[grpc.ServicerContext], NoReturn]


@dataclass
class Seen:
    """One call as it arrived. `remaining`: seconds until its deadline."""

    method: str
    request: Any
    metadata: dict[str, str]
    remaining: float
    at: float


@dataclass
class FakePayCenter:
    """A call uses one of `failures[method]`. After `pay_after` reads an order is paid (0: at once)."""

    seen: list[Seen] = field(default_factory=list)
    failures: dict[str, list[Failure]] = field(default_factory=dict)
    orders: dict[str, orders.PayOrder] = field(default_factory=dict)
    refunds: dict[str, refunds.PayRefund] = field(default_factory=dict)
    pay_after: int = 2
    reads: int = 0
    delay: float = 0.0
    released: threading.Event = field(default_factory=threading.Event)
    target: str = ""

    def arrived(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        pairs = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        self.seen.append(Seen(method, request, pairs, context.time_remaining() or 0, time.monotonic()))
        self.released.wait(self.delay)
        waiting = self.failures.get(method)
        if waiting:
            waiting.pop(0)(context)

    def calls(self, method: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method]

    def start(self) -> grpc.Server:
        server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        add_PayOrderServiceServicer_to_server(_Orders(self), server)  # type: ignore[abstract]
        add_PayRefundServiceServicer_to_server(_Refunds(self), server)
        add_PayChannelServiceServicer_to_server(_Channels(self), server)  # type: ignore[abstract]
        add_PayNotificationServiceServicer_to_server(_Notifications(self), server)
        add_PayAppServiceServicer_to_server(_Apps(self), server)  # type: ignore[abstract]
        self.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        return server


def plain(code: grpc.StatusCode, text: str = "") -> Failure:
    """A failure without details, like that of a proxy."""

    def fail(context: grpc.ServicerContext) -> NoReturn:
        context.abort(code, text)

    return fail


def rich(
    code: grpc.StatusCode,
    reason: str,
    text: str = "Do something else.",
    *,
    metadata: dict[str, str] | None = None,
    violations: dict[str, str] | None = None,
    retry_after: float | None = None,
    pushback_ms: int | None = None,
    domain: str = "paycenter",
) -> Failure:
    """A failure with the details of PayCenter."""
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata or {})]
    if violations:
        fields = [error_details_pb2.BadRequest.FieldViolation(field=name, description=why) for name, why in violations.items()]
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    if retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(int(retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        message = AnyMessage()
        message.Pack(detail)
        packed.append(message)
    status = status_pb2.Status(code=code.value[0], message=text, details=packed)

    def fail(context: grpc.ServicerContext) -> NoReturn:
        trailing: list[tuple[str, Any]] = [("grpc-status-details-bin", status.SerializeToString())]
        if pushback_ms is not None:
            trailing.append(("grpc-retry-pushback-ms", str(pushback_ms)))
        context.set_trailing_metadata(tuple(trailing))
        context.abort(code, text)

    return fail


class _Orders(PayOrderServiceServicer):
    def __init__(self, fake: FakePayCenter) -> None:
        self.fake = fake
        self.lock = threading.Lock()

    def CreatePayOrder(self, request: Any, context: Any) -> orders.CreatePayOrderResponse:
        self.fake.arrived("CreatePayOrder", request, context)
        with self.lock:
            number = f"O{len(self.fake.orders):026d}"
            order = orders.PayOrder(
                id=number,
                merchant_order_id=request.merchant_order_id,
                subject=request.subject,
                amount=request.amount,
                state=orders.PAY_ORDER_STATE_WAITING,
                expire_time=request.expire_time,
            )
            self.fake.orders[number] = order
        return orders.CreatePayOrderResponse(pay_order=order)

    def SubmitPayOrder(self, request: Any, context: Any) -> orders.SubmitPayOrderResponse:
        self.fake.arrived("SubmitPayOrder", request, context)
        return orders.SubmitPayOrderResponse(
            state=orders.PAY_ORDER_STATE_WAITING,
            display_mode=orders.DISPLAY_MODE_QR_CODE,
            display_content="weixin://wxpay/bizpayurl?pr=fake",
            out_trade_no="P1",
        )

    def GetPayOrder(self, request: Any, context: Any) -> orders.GetPayOrderResponse:
        self.fake.arrived("GetPayOrder", request, context)
        order = self.fake.orders[request.id or next(iter(self.fake.orders))]
        self.fake.reads += 1
        if self.fake.reads > self.fake.pay_after:
            order.state = orders.PAY_ORDER_STATE_SUCCESS
        return orders.GetPayOrderResponse(pay_order=order)

    def ListPayOrders(self, request: Any, context: Any) -> orders.ListPayOrdersResponse:
        copy = orders.ListPayOrdersRequest()
        copy.CopyFrom(request)
        self.fake.arrived("ListPayOrders", copy, context)
        start = int(request.page_token or 0)
        stop = start + request.page_size
        found = list(self.fake.orders.values())
        token = str(stop) if stop < len(found) else ""
        return orders.ListPayOrdersResponse(pay_orders=found[start:stop], next_page_token=token)

    def _change(self, method: str, request: Any, context: Any, **fields: Any) -> orders.PayOrder:
        self.fake.arrived(method, request, context)
        order = self.fake.orders[request.id]
        for name, value in fields.items():
            setattr(order, name, value)
        return order

    def ClosePayOrder(self, request: Any, context: Any) -> orders.ClosePayOrderResponse:
        order = self._change("ClosePayOrder", request, context, state=orders.PAY_ORDER_STATE_CLOSED)
        return orders.ClosePayOrderResponse(pay_order=order)

    def UpdatePayOrderPrice(self, request: Any, context: Any) -> orders.UpdatePayOrderPriceResponse:
        order = self._change("UpdatePayOrderPrice", request, context, amount=request.amount)
        return orders.UpdatePayOrderPriceResponse(pay_order=order)

    def SyncPayOrder(self, request: Any, context: Any) -> orders.SyncPayOrderResponse:
        return orders.SyncPayOrderResponse(pay_order=self._change("SyncPayOrder", request, context))


class _Refunds(PayRefundServiceServicer):
    def __init__(self, fake: FakePayCenter) -> None:
        self.fake = fake

    def CreatePayRefund(self, request: Any, context: Any) -> refunds.CreatePayRefundResponse:
        self.fake.arrived("CreatePayRefund", request, context)
        number = f"F{len(self.fake.refunds):026d}"
        refund = refunds.PayRefund(
            id=number,
            merchant_order_id=request.merchant_order_id,
            merchant_refund_no=request.merchant_refund_no,
            amount=request.amount,
            reason=request.reason,
            state=refunds.PAY_REFUND_STATE_WAITING,
        )
        self.fake.refunds[number] = refund
        return refunds.CreatePayRefundResponse(pay_refund=refund)

    def GetPayRefund(self, request: Any, context: Any) -> refunds.GetPayRefundResponse:
        self.fake.arrived("GetPayRefund", request, context)
        refund = self.fake.refunds[request.id or next(iter(self.fake.refunds))]
        refund.state = refunds.PAY_REFUND_STATE_SUCCESS
        return refunds.GetPayRefundResponse(pay_refund=refund)

    def ListPayRefunds(self, request: Any, context: Any) -> refunds.ListPayRefundsResponse:
        self.fake.arrived("ListPayRefunds", request, context)
        return refunds.ListPayRefundsResponse(pay_refunds=list(self.fake.refunds.values()))

    def SyncPayRefund(self, request: Any, context: Any) -> refunds.SyncPayRefundResponse:
        self.fake.arrived("SyncPayRefund", request, context)
        return refunds.SyncPayRefundResponse(pay_refund=self.fake.refunds[request.id])


class _Channels(PayChannelServiceServicer):
    __abstractmethods__: frozenset[str] = frozenset()

    def __init__(self, fake: FakePayCenter) -> None:
        self.fake = fake

    def ListEnabledChannelCodes(self, request: Any, context: Any) -> channels.ListEnabledChannelCodesResponse:
        self.fake.arrived("ListEnabledChannelCodes", request, context)
        return channels.ListEnabledChannelCodesResponse(codes=["alipay_qr", "wx_native"])


class _Notifications(PayNotificationServiceServicer):
    def __init__(self, fake: FakePayCenter) -> None:
        self.fake = fake

    def ListPayNotifications(self, request: Any, context: Any) -> notifications.ListPayNotificationsResponse:
        self.fake.arrived("ListPayNotifications", request, context)
        token = "" if request.page_token else "more"
        return notifications.ListPayNotificationsResponse(
            pay_notifications=[notifications.PayNotification(id="N1")], next_page_token=token
        )

    def GetPayNotification(self, request: Any, context: Any) -> notifications.GetPayNotificationResponse:
        self.fake.arrived("GetPayNotification", request, context)
        task = notifications.PayNotification(id=request.id)
        return notifications.GetPayNotificationResponse(pay_notification=task, logs=[notifications.NotificationLog(notify_times=1)])

    def ResendPayNotification(self, request: Any, context: Any) -> notifications.ResendPayNotificationResponse:
        self.fake.arrived("ResendPayNotification", request, context)
        return notifications.ResendPayNotificationResponse(pay_notification=notifications.PayNotification(id=request.id))

    def ResendPayNotifications(self, request: Any, context: Any) -> notifications.ResendPayNotificationsResponse:
        self.fake.arrived("ResendPayNotifications", request, context)
        left = 0 if request.page_token else 1
        return notifications.ResendPayNotificationsResponse(
            matched_count=1, resent_count=0 if request.dry_run else 1, remaining_count=left, next_page_token="more" if left else ""
        )

    def SendPayNotificationNow(self, request: Any, context: Any) -> notifications.SendPayNotificationNowResponse:
        self.fake.arrived("SendPayNotificationNow", request, context)
        return notifications.SendPayNotificationNowResponse(pay_notification=notifications.PayNotification(id=request.id))


class _Apps(PayAppServiceServicer):
    __abstractmethods__: frozenset[str] = frozenset()

    def __init__(self, fake: FakePayCenter) -> None:
        self.fake = fake

    def CreatePayApp(self, request: Any, context: Any) -> apps.CreatePayAppResponse:
        self.fake.arrived("CreatePayApp", request, context)
        return apps.CreatePayAppResponse(key_id="AK2")
