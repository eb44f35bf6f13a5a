"""WeChat Pay v3 bar codes (codepay), if `use_codepay` is set. It is only partly documented, so v2 micropay is the default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paycenter_server.channels.protocol import (
    AnswerError,
    AttemptRef,
    Call,
    CloseOutcome,
    PayOutcome,
    PayRequest,
    PayStatus,
    QueryStatus,
    RequestContext,
)
from paycenter_server.channels.wechatpay import outcomes
from paycenter_server.channels.wechatpay.v3 import WechatV3Codec, transaction


class WechatBarCodec(WechatV3Codec):
    """`POST /v3/pay/transactions/codepay` with the extra `auth_code`. The answer is the whole transaction."""

    code = "wx_bar"
    product = "codepay"

    def pay(self, request: PayRequest, context: RequestContext) -> Call[PayOutcome]:
        """The request has no notify_url and no expiry: bar codes have no callbacks and live less than a minute."""
        fields = {
            "appid": self.account["appid"],
            "mchid": self.account["mchid"],
            "description": request.subject,
            "out_trade_no": request.out_trade_no,
            "amount": {"total": request.amount, "currency": request.currency},
            "payer": {"auth_code": request.extras.get("auth_code", "")},
            "scene_info": {"store_info": {"id": request.extras.get("store_id") or "1"}},
        }
        return self._create(fields, request, context, outcomes.CODEPAY_ERRORS)

    def created(self, answer: Mapping[str, Any], request: PayRequest, context: RequestContext) -> PayOutcome:
        """Paid at once, or WAITING because the payer must enter a password."""
        outcome = transaction(answer)
        payment = outcome.payment
        if payment is None or payment.out_trade_no != request.out_trade_no:
            raise AnswerError("the answer is about another out_trade_no")
        if outcome.status is QueryStatus.PAID:
            return PayOutcome(PayStatus.PAID, "bar_code", payment=payment)
        if outcome.status is QueryStatus.WAITING:
            return PayOutcome(PayStatus.WAITING, "bar_code")
        return PayOutcome(PayStatus.UNKNOWN, error_code=outcome.error_code, error_message=outcome.error_message)

    def close(self, attempt: AttemptRef, context: RequestContext) -> Call[CloseOutcome]:
        """Reverse: it cancels an unpaid order and refunds a paid one."""
        fields = {"appid": self.account["appid"], "mchid": self.account["mchid"]}
        target = f"/v3/pay/transactions/out-trade-no/{attempt.out_trade_no}/reverse"
        return self._end("wx.reverse", target, fields, context, outcomes.REVERSE_ERRORS)
