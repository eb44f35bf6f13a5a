"""Alipay on a web page: the payer's browser is sent to Alipay (`alipay.trade.page.pay`)."""

from __future__ import annotations

from html import escape

from paycenter_server.channels.alipay.trade import AlipayTradeCodec
from paycenter_server.channels.protocol import Moment, PayOutcome, PayRequest, PayStatus


class AlipayPcCodec(AlipayTradeCodec):
    """Nothing is sent by us: the signed address or form is the request, and the payer's browser carries it."""

    code = "alipay_pc"
    method = "alipay.trade.page.pay"
    product_code = "FAST_INSTANT_TRADE_PAY"

    def pay(self, request: PayRequest, moment: Moment) -> PayOutcome:
        """A URL (GET) or a form that submits itself (POST)."""
        content = {**self.create_fields(request), "product_code": self.product_code, "qr_pay_mode": "2"}
        fields = self.gateway.signed_fields(
            self.method, content, moment, notify_url=request.notify_url, return_url=request.return_url
        )
        if request.display_mode != "form":
            return PayOutcome(PayStatus.WAITING, "url", self.gateway.address(fields))
        biz_content = fields.pop("biz_content")
        form = (
            f'<form id="alipay" method="post" action="{escape(self.gateway.address(fields), quote=True)}">'
            f'<input type="hidden" name="biz_content" value="{escape(biz_content, quote=True)}"></form>'
            '<script>document.getElementById("alipay").submit();</script>'
        )
        return PayOutcome(PayStatus.WAITING, "form", form)
