"""WeChat Pay v3 Native: the payer scans a QR code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paycenter_server.channels.protocol import AnswerError, PayOutcome, PayRequest, PayStatus, RequestContext
from paycenter_server.channels.wechatpay.v3 import WechatV3Codec


class WechatNativeCodec(WechatV3Codec):
    """`POST /v3/pay/transactions/native`. The answer has `code_url`."""

    code = "wx_native"
    product = "native"

    def created(self, answer: Mapping[str, Any], request: PayRequest, context: RequestContext) -> PayOutcome:
        """The content is the text of the QR code, valid for two hours at most."""
        code_url = answer.get("code_url")
        if not isinstance(code_url, str) or not code_url:
            raise AnswerError("the answer has no code_url")
        return PayOutcome(PayStatus.WAITING, "qr_code", code_url)
