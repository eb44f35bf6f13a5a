"""PayRefundService."""

from __future__ import annotations

from typing import Any

from paycenter.v1 import pay_refund_service_pb2 as pb
from paycenter.v1.pay_refund_service_pb2_grpc import PayRefundServiceServicer

from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.states import RefundState
from paycenter_server.grpc_server.calls import current_caller
from paycenter_server.grpc_server.convert import enum_value, numbers, read_time, stamp
from paycenter_server.services.paging import Pager
from paycenter_server.services.refunds import NewRefund, Refunds
from paycenter_server.storage.refunds_lists import RefundFilter

REFUND_STATES = numbers(pb.PayRefundState, "PAY_REFUND_STATE", RefundState)
REFUND_NUMBERS = {state: pb.PayRefundState.Value(f"PAY_REFUND_STATE_{state.value}") for state in RefundState}


def refund_message(refund: PayRefund) -> pb.PayRefund:
    """A refund."""
    return pb.PayRefund(
        id=refund.number,
        app_key=refund.app_key,
        pay_order_id=encode(Prefix.ORDER, refund.order_id),
        merchant_order_id=refund.merchant_order_id,
        merchant_refund_no=refund.merchant_refund_no,
        amount=refund.amount,
        currency=refund.currency,
        reason=refund.reason,
        state=REFUND_NUMBERS[refund.state],
        channel_code=refund.channel_code,
        out_trade_no=refund.out_trade_no,
        out_refund_no=refund.out_refund_no,
        channel_refund_no=refund.channel_refund_no or "",
        channel_error_code=refund.channel_error_code or "",
        channel_error_message=refund.channel_error_message or "",
        success_time=stamp(refund.success_time),
        create_time=stamp(refund.create_time),
        update_time=stamp(refund.update_time),
        notification_url=refund.notification_url,
        version=refund.version,
    )


class RefundServicer(PayRefundServiceServicer):
    """Converts messages, and calls the use cases for refunds."""

    def __init__(self, refunds: Refunds) -> None:
        self._refunds = refunds

    async def CreatePayRefund(self, request: pb.CreatePayRefundRequest, context: Any) -> pb.CreatePayRefundResponse:
        """See the proto."""
        new = NewRefund(
            app_key=request.app_key,
            merchant_order_id=request.merchant_order_id,
            merchant_refund_no=request.merchant_refund_no,
            amount=request.amount,
            reason=request.reason,
            notification_url=request.notification_url,
        )
        return pb.CreatePayRefundResponse(pay_refund=refund_message(await self._refunds.create(current_caller(), new)))

    async def GetPayRefund(self, request: pb.GetPayRefundRequest, context: Any) -> pb.GetPayRefundResponse:
        """See the proto."""
        caller = current_caller()
        key = request.WhichOneof("key")
        refund: PayRefund
        if key == "id":
            refund = await self._refunds.load(caller, request.id)
        elif key == "merchant_refund_no":
            refund = await self._refunds.load_by_merchant_no(caller, request.app_key, request.merchant_refund_no)
        else:
            raise invalid([Violation("key", "set id or merchant_refund_no")])
        if request.sync:
            refund = await self._refunds.sync(caller, refund)
        return pb.GetPayRefundResponse(pay_refund=refund_message(refund))

    async def ListPayRefunds(self, request: pb.ListPayRefundsRequest, context: Any) -> pb.ListPayRefundsResponse:
        """See the proto."""
        where = RefundFilter(
            channel_code=request.channel_code,
            state=enum_value(RefundState, "state", request.state, REFUND_STATES),
            merchant_order_id=request.merchant_order_id,
            merchant_refund_no=request.merchant_refund_no,
            channel_refund_no=request.channel_refund_no,
            create_time_from=read_time(request, "create_time_from"),
            create_time_to=read_time(request, "create_time_to"),
        )
        pager = Pager(request.page_size, request.page_token)
        page = await self._refunds.search(current_caller(), request.app_key, where, pager)
        return pb.ListPayRefundsResponse(
            pay_refunds=[refund_message(refund) for refund in page.items], next_page_token=page.next_token
        )

    async def SyncPayRefund(self, request: pb.SyncPayRefundRequest, context: Any) -> pb.SyncPayRefundResponse:
        """See the proto."""
        caller = current_caller()
        refund = await self._refunds.sync(caller, await self._refunds.load(caller, request.id))
        return pb.SyncPayRefundResponse(pay_refund=refund_message(refund))
