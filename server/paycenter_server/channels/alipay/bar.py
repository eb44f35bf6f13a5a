"""Alipay bar code: the cashier scans the payer's code (`alipay.trade.pay`, scene bar_code).

The payer may have to confirm (10003). Then the trade is queried every few seconds, and cancelled at the expiry of the attempt.
Source: Alipay Open API, "Bar code payment" and "alipay.trade.cancel".
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from paycenter_server.channels.alipay import outcomes
from paycenter_server.channels.alipay.amounts import fen
from paycenter_server.channels.alipay.gateway import Answer
from paycenter_server.channels.alipay.trade import CURRENCY, AlipayTradeCodec
from paycenter_server.channels.protocol import (
    AnswerError,
    AttemptRef,
    Call,
    CloseOutcome,
    CloseStatus,
    Payment,
    PayOutcome,
    PayRequest,
    PayStatus,
    QueryOutcome,
    QueryStatus,
    RequestContext,
)
from paycenter_server.channels.times import parse_alipay


class AlipayBarCodec(AlipayTradeCodec):
    """A bar code payment. It needs the extra `auth_code`: 16 to 24 digits, starting with 25 to 30."""

    code = "alipay_bar"

    def pay(self, request: PayRequest, context: RequestContext) -> Call[PayOutcome]:
        """Paid at once (10000), or WAITING without display content because the payer must confirm (10003)."""
        fields = self.create_fields(request)
        # Alipay accepts one minute or more, which is the life of the attempt. A duration is independent of clocks.
        del fields["time_expire"]
        minutes = max(ceil((request.expire_time - context.now).total_seconds() / 60), 1)
        content = {
            **fields,
            "timeout_express": f"{minutes}m",
            "scene": "bar_code",
            "auth_code": request.extras.get("auth_code", ""),
            "product_code": "FACE_TO_FACE_PAYMENT",
        }

        def good(answer: Answer) -> PayOutcome:
            if answer.text("out_trade_no") != request.out_trade_no:
                raise AnswerError("the answer is about another out_trade_no")
            payment = Payment(
                out_trade_no=answer.text("out_trade_no"),
                channel_order_no=answer.text("trade_no"),
                amount=fen(answer.content.get("total_amount")),
                currency=answer.text("trans_currency") or CURRENCY,
                account=self.account,
                channel_user_id=answer.text("buyer_user_id") or answer.text("buyer_open_id"),
                success_time=parse_alipay(answer.text("gmt_payment")),
            )
            return PayOutcome(PayStatus.PAID, "bar_code", payment=payment)

        def bad(answer: Answer) -> PayOutcome:
            if answer.signed and answer.code == outcomes.IN_PROCESS:
                return PayOutcome(PayStatus.WAITING, "bar_code")
            return self.refused(answer)

        return self.pay_call("alipay.trade.pay", content, request, context, good, bad)

    def read_trade(self, trade: Mapping[str, Any], account: Mapping[str, str], paid_field: str) -> QueryOutcome:
        """As for every trade, except that a closed one was cancelled: its payment was refunded and is not booked."""
        outcome = super().read_trade(trade, account, paid_field)
        if outcome.status is QueryStatus.PAID and trade.get("trade_status") == "TRADE_CLOSED":
            return QueryOutcome(QueryStatus.CLOSED, outcome.payment, "CANCEL_REFUNDED", "it was paid, and then refunded")
        return outcome

    def close(self, attempt: AttemptRef, context: RequestContext) -> Call[CloseOutcome]:
        """`alipay.trade.cancel` closes an unpaid trade and refunds a paid one; `retry_flag` Y requires a repetition."""

        def good(answer: Answer) -> CloseOutcome:
            if answer.text("out_trade_no") != attempt.out_trade_no:
                raise AnswerError("the answer is about another out_trade_no")
            if answer.text("retry_flag") != "N":
                return CloseOutcome(CloseStatus.UNKNOWN, "RETRY_FLAG", "the cancellation must be repeated")
            if not answer.text("action"):
                # Alipay does not know the trade (yet): a payment that arrives later would be executed.
                return CloseOutcome(CloseStatus.STILL_PAYABLE)
            refunded = answer.text("action") == "refund"
            return CloseOutcome(
                CloseStatus.CLOSED, "CANCEL_REFUNDED" if refunded else "", "paid, and then refunded" if refunded else ""
            )

        def bad(answer: Answer) -> CloseOutcome:
            status = outcomes.CANCEL_ERRORS.get(answer.sub_code, CloseStatus.UNKNOWN) if answer.signed else CloseStatus.UNKNOWN
            return CloseOutcome(status, answer.sub_code, answer.message)

        return self.call(
            "alipay.trade.cancel", {"out_trade_no": attempt.out_trade_no}, context, good, bad,
            lambda why: CloseOutcome(CloseStatus.UNKNOWN, "UNCLEAR", why),
        )  # fmt: skip
