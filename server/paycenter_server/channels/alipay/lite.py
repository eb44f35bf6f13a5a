"""Alipay mini program: a trade of a known buyer (`alipay.trade.create`)."""

from __future__ import annotations

import json
from typing import Any

from paycenter_server.channels.alipay.gateway import Answer
from paycenter_server.channels.alipay.trade import AlipayTradeCodec
from paycenter_server.channels.protocol import AnswerError, Call, PayOutcome, PayRequest, PayStatus, RequestContext


class AlipayLiteCodec(AlipayTradeCodec):
    """The buyer is `buyer_open_id` or `buyer_id` of the extras; `op_app_id` (the mini program) if it is another application."""

    code = "alipay_lite"

    def buyer_fields(self, request: PayRequest) -> dict[str, Any]:
        """The fields of the buyer and of the mini program."""
        wanted = ("buyer_open_id", "buyer_id")
        buyer = {name: request.extras[name] for name in wanted if request.extras.get(name)}
        return {**buyer, "op_app_id": request.extras.get("op_app_id") or self.gateway.merchant.app_id}

    def pay(self, request: PayRequest, context: RequestContext) -> Call[PayOutcome]:
        """The content is JSON with the `tradeNO` for `my.tradePay`."""

        def good(answer: Answer) -> PayOutcome:
            trade_no = answer.text("trade_no")
            if not trade_no or answer.text("out_trade_no") != request.out_trade_no:
                raise AnswerError("the answer has no trade_no for this out_trade_no")
            return PayOutcome(PayStatus.WAITING, "app", json.dumps({"tradeNO": trade_no}, separators=(",", ":")))

        content = {**self.create_fields(request), "product_code": "JSAPI_PAY", **self.buyer_fields(request)}
        return self.pay_call("alipay.trade.create", content, request, context, good)
