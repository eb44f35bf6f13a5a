"""Alipay QR: the payer scans a code (`alipay.trade.precreate`)."""

from __future__ import annotations

from paycenter_server.channels.alipay.gateway import Answer
from paycenter_server.channels.alipay.trade import AlipayTradeCodec
from paycenter_server.channels.protocol import AnswerError, Call, PayOutcome, PayRequest, PayStatus, RequestContext


class AlipayQrCodec(AlipayTradeCodec):
    """A QR code. Alipay creates the trade when the code is scanned."""

    code = "alipay_qr"

    def pay(self, request: PayRequest, context: RequestContext) -> Call[PayOutcome]:
        """The content is the text of the QR code."""

        def good(answer: Answer) -> PayOutcome:
            qr_code = answer.text("qr_code")
            if not qr_code or answer.text("out_trade_no") != request.out_trade_no:
                raise AnswerError("the answer has no qr_code for this out_trade_no")
            return PayOutcome(PayStatus.WAITING, "qr_code", qr_code)

        content = {**self.create_fields(request), "product_code": "FACE_TO_FACE_PAYMENT"}
        return self.pay_call("alipay.trade.precreate", content, request, context, good)
