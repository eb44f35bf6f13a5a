"""PayOrderService."""

from __future__ import annotations

from typing import Any

from paycenter.v1 import pay_order_service_pb2 as pb
from paycenter.v1.pay_order_service_pb2_grpc import PayOrderServiceServicer

from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import OrderState
from paycenter_server.grpc_server.attempts import DISPLAY_MODES, attempt_message, display_mode
from paycenter_server.grpc_server.calls import current_caller
from paycenter_server.grpc_server.convert import enum_value, numbers, read_time, stamp
from paycenter_server.services.attempts_submission import NewSubmission, Submission
from paycenter_server.services.cashier import Cashier
from paycenter_server.services.orders import NewOrder, Orders
from paycenter_server.services.paging import Pager
from paycenter_server.services.timeline import Entry, Timelines
from paycenter_server.storage.orders import OrderFilter

ORDER_STATES = numbers(pb.PayOrderState, "PAY_ORDER_STATE", OrderState)
_STATE_NUMBERS = {state: pb.PayOrderState.Value(f"PAY_ORDER_STATE_{state.value}") for state in OrderState}


def order_message(order: PayOrder, attempts: list[PayAttempt] | None = None) -> pb.PayOrder:
    """An order, with its attempts where they are given."""
    create_time = stamp(order.create_time)
    message = pb.PayOrder(
        id=order.number,
        app_key=order.app_key,
        merchant_order_id=order.merchant_order_id,
        subject=order.subject,
        body=order.body,
        amount=order.amount,
        currency=order.currency,
        state=_STATE_NUMBERS[order.state],
        expire_time=stamp(order.expire_time),
        user_ip=order.user_ip,
        user_id=order.user_id,
        return_url=order.return_url,
        create_time=create_time,
        update_time=create_time if order.update_time is order.create_time else stamp(order.update_time),
        notification_url=order.notification_url,
    )
    if attempts:
        message.attempts.extend([attempt_message(attempt) for attempt in attempts])
    if order.paid_amount or order.version:  # the fields below are those of a payment
        message.version = order.version
        message.paid_amount = order.paid_amount
        message.refunded_amount = order.refunded_amount
        message.reserved_amount = order.reserved_amount
        message.channel_code = order.channel_code or ""
        message.channel_id = encode(Prefix.CHANNEL, order.channel_id) if order.channel_id else ""
        message.out_trade_no = encode(Prefix.ATTEMPT, order.attempt_id) if order.attempt_id else ""
        message.channel_order_no = order.channel_order_no or ""
        message.channel_user_id = order.channel_user_id or ""
        message.channel_fee_rate_ppm = order.channel_fee_rate_ppm
        message.channel_fee_amount = order.channel_fee_amount
        success_time = stamp(order.success_time)
        if success_time is not None:
            message.success_time.CopyFrom(success_time)
    return message


def entry_message(entry: Entry) -> pb.TimelineEntry:
    """An entry of a timeline."""
    return pb.TimelineEntry(
        time=stamp(entry.time),
        subject=entry.subject.value,
        number=entry.number,
        event=entry.event,
        from_state=entry.from_state,
        to_state=entry.to_state,
        amount=entry.amount,
        actor_kind=entry.actor_kind,
        actor=entry.actor,
        evidence=entry.evidence,
    )


class OrderServicer(PayOrderServiceServicer):
    """Converts messages, and calls the use cases for pay orders."""

    def __init__(self, orders: Orders, submit: Submission, timelines: Timelines, cashier: Cashier) -> None:
        self._orders = orders
        self._submission = submit
        self._timelines = timelines
        self._cashier = cashier

    async def CreatePayOrder(self, request: pb.CreatePayOrderRequest, context: Any) -> pb.CreatePayOrderResponse:
        """See the proto."""
        new = NewOrder(
            app_key=request.app_key,
            merchant_order_id=request.merchant_order_id,
            subject=request.subject,
            body=request.body,
            amount=request.amount,
            currency=request.currency or "CNY",
            expire_time=read_time(request, "expire_time"),
            user_ip=request.user_ip,
            user_id=request.user_id,
            return_url=request.return_url,
            notification_url=request.notification_url,
        )
        return pb.CreatePayOrderResponse(pay_order=order_message(await self._orders.create(current_caller(), new)))

    async def SubmitPayOrder(self, request: pb.SubmitPayOrderRequest, context: Any) -> pb.SubmitPayOrderResponse:
        """See the proto."""
        if request.display_mode not in DISPLAY_MODES:
            raise invalid([Violation("display_mode", "is not one of the values that there are")])
        new = NewSubmission(
            order_number=request.id,
            channel_code=request.channel_code,
            extras=dict(request.channel_extras),
            display_mode=DISPLAY_MODES[request.display_mode],
            return_url=request.return_url,
            user_ip=request.user_ip,
        )
        order, attempt = await self._submission.submit(current_caller(), new)
        message = order_message(order)
        return pb.SubmitPayOrderResponse(
            state=message.state,
            display_mode=display_mode(attempt.display_mode),
            display_content=attempt.display_content,
            out_trade_no=attempt.out_trade_no,
            pay_order=message,
        )

    async def GetPayOrder(self, request: pb.GetPayOrderRequest, context: Any) -> pb.GetPayOrderResponse:
        """See the proto."""
        order, attempts = await self._read(request)
        if request.sync and order.state is OrderState.WAITING:
            await self._orders.sync_order(order)
            order, attempts = await self._read(request)
        return pb.GetPayOrderResponse(pay_order=order_message(order, attempts))

    async def CreateCashierLink(self, request: pb.CreateCashierLinkRequest, context: Any) -> pb.CreateCashierLinkResponse:
        """See the proto."""
        order, _ = await self._read(request)
        link = self._cashier.link(order, request.channel_extras)
        return pb.CreateCashierLinkResponse(url=link.url, expire_time=stamp(link.expire_time))

    async def _read(self, request: pb.GetPayOrderRequest | pb.CreateCashierLinkRequest) -> tuple[PayOrder, list[PayAttempt]]:
        key = request.WhichOneof("key")
        if key == "id":
            return await self._orders.read(current_caller(), number=request.id)
        if key == "merchant_order_id":
            return await self._orders.read(current_caller(), app_key=request.app_key, merchant_order_id=request.merchant_order_id)
        raise invalid([Violation("key", "set id or merchant_order_id")])

    async def ListPayOrders(self, request: pb.ListPayOrdersRequest, context: Any) -> pb.ListPayOrdersResponse:
        """See the proto."""
        attempt_id = decode(Prefix.ATTEMPT, request.out_trade_no) if request.out_trade_no else None
        if request.out_trade_no and attempt_id is None:
            return pb.ListPayOrdersResponse()
        where = OrderFilter(
            channel_code=request.channel_code,
            state=enum_value(OrderState, "state", request.state, ORDER_STATES),
            merchant_order_id=request.merchant_order_id,
            channel_order_no=request.channel_order_no,
            attempt_id=attempt_id,
            create_time_from=read_time(request, "create_time_from"),
            create_time_to=read_time(request, "create_time_to"),
            success_time_from=read_time(request, "success_time_from"),
            success_time_to=read_time(request, "success_time_to"),
        )
        pager = Pager(request.page_size, request.page_token)
        page = await self._orders.search(current_caller(), request.app_key, where, pager)
        return pb.ListPayOrdersResponse(pay_orders=[order_message(order) for order in page.items], next_page_token=page.next_token)

    async def ClosePayOrder(self, request: pb.ClosePayOrderRequest, context: Any) -> pb.ClosePayOrderResponse:
        """See the proto."""
        order = await self._orders.close(current_caller(), request.id)
        return pb.ClosePayOrderResponse(pay_order=order_message(order))

    async def UpdatePayOrderPrice(self, request: pb.UpdatePayOrderPriceRequest, context: Any) -> pb.UpdatePayOrderPriceResponse:
        """See the proto."""
        order = await self._orders.update_price(current_caller(), request.id, request.amount)
        return pb.UpdatePayOrderPriceResponse(pay_order=order_message(order))

    async def SyncPayOrder(self, request: pb.SyncPayOrderRequest, context: Any) -> pb.SyncPayOrderResponse:
        """See the proto."""
        order = await self._orders.sync(current_caller(), request.id)
        return pb.SyncPayOrderResponse(pay_order=order_message(order))

    async def GetPayOrderTimeline(self, request: pb.GetPayOrderTimelineRequest, context: Any) -> pb.GetPayOrderTimelineResponse:
        """See the proto."""
        found = await self._timelines.of_order(current_caller(), request.id)
        return pb.GetPayOrderTimelineResponse(
            pay_order=order_message(found.order),
            entries=[entry_message(entry) for entry in found.entries],
            left_off=found.left_off,
            next_checks=[
                pb.NextCheck(
                    subject=item.subject.value, number=item.number, state=item.state, what=item.what, time=stamp(item.time)
                )
                for item in found.next
            ],
        )
