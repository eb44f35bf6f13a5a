"""Alipay in the payer's browser or app. PayCenter sends no request: the signed URL, form or order string is the request."""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import quote, urlencode

from paycenter_server.channels.alipay.trade import AlipayTradeCodec
from paycenter_server.channels.protocol import PayOutcome, PayRequest, PayStatus, RequestContext


class AlipayPcCodec(AlipayTradeCodec):
    """`alipay.trade.page.pay`, for a desktop browser."""

    code = "alipay_pc"
    method = "alipay.trade.page.pay"
    product_code = "FAST_INSTANT_TRADE_PAY"

    def page_fields(self, request: PayRequest) -> dict[str, Any]:
        """The additional fields of this product. `qr_pay_mode` 2: Alipay's page shows the QR code."""
        return {"qr_pay_mode": "2"}

    def pay(self, request: PayRequest, context: RequestContext) -> PayOutcome:
        """A URL (GET) or a form that submits itself (POST)."""
        content = {**self.create_fields(request), "product_code": self.product_code, **self.page_fields(request)}
        fields = self.gateway.signed_fields(
            self.method, content, context, notify_url=request.callback_url, return_url=request.return_url
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


class AlipayWapCodec(AlipayPcCodec):
    """`alipay.trade.wap.pay`, for a mobile browser."""

    code = "alipay_wap"
    method = "alipay.trade.wap.pay"
    product_code = "QUICK_WAP_WAY"

    def page_fields(self, request: PayRequest) -> dict[str, Any]:
        """The URL for a payer who does not pay."""
        return {"quit_url": request.return_url} if request.return_url else {}


class AlipayAppCodec(AlipayTradeCodec):
    """`alipay.trade.app.pay`, for an app with Alipay's SDK. The content is the order string for the SDK."""

    code = "alipay_app"
    method = "alipay.trade.app.pay"

    def pay(self, request: PayRequest, context: RequestContext) -> PayOutcome:
        """The order string: sorted `k=urlencode(v)`, including `sign`."""
        content = {**self.create_fields(request), "product_code": "QUICK_MSECURITY_PAY"}
        fields = self.gateway.signed_fields(self.method, content, context, notify_url=request.callback_url)
        return PayOutcome(PayStatus.WAITING, "app", urlencode(sorted(fields.items()), quote_via=quote))
