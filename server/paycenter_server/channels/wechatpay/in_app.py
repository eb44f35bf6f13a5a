"""WeChat Pay v3 inside WeChat (JSAPI: official account pages and mini programs) and inside the merchant's app.

Both create a prepay_id (valid for two hours) and sign parameters for the payer's side. Source: WeChat Pay v3, "JSAPI: invoke
payment" and "App: invoke payment".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from paycenter_server.channels.crypto import rsa_sign
from paycenter_server.channels.protocol import AnswerError, PayOutcome, PayRequest, PayStatus, RequestContext
from paycenter_server.channels.wechatpay.v3 import WechatV3Codec


def _prepay_id(answer: Mapping[str, Any]) -> str:
    prepay_id = answer.get("prepay_id")
    if not isinstance(prepay_id, str) or not prepay_id:
        raise AnswerError("the answer has no prepay_id")
    return prepay_id


def _content(fields: Mapping[str, str]) -> PayOutcome:
    return PayOutcome(PayStatus.WAITING, "app", json.dumps(fields, separators=(",", ":")))


class WechatPubCodec(WechatV3Codec):
    """`POST /v3/pay/transactions/jsapi`; the content is the parameter of `WeixinJSBridge` or `wx.requestPayment`."""

    code = "wx_pub"
    product = "jsapi"

    def create_fields(self, request: PayRequest) -> dict[str, Any]:
        """The payer's openid under the application of this channel."""
        return {"payer": {"openid": request.extras.get("openid", "")}}

    def created(self, answer: Mapping[str, Any], request: PayRequest, context: RequestContext) -> PayOutcome:
        """The signature covers appId, timeStamp, nonceStr and package, one per line."""
        timestamp, package = str(int(context.now.timestamp())), f"prepay_id={_prepay_id(answer)}"
        message = f"{self.account['appid']}\n{timestamp}\n{context.nonce}\n{package}\n"
        return _content(
            {
                "appId": self.account["appid"],
                "timeStamp": timestamp,
                "nonceStr": context.nonce,
                "package": package,
                "signType": "RSA",
                "paySign": rsa_sign(self.merchant.private_key, message.encode()),
            }
        )


class WechatLiteCodec(WechatPubCodec):
    """A mini program: the same API under the mini program's appid."""

    code = "wx_lite"


class WechatAppCodec(WechatV3Codec):
    """`POST /v3/pay/transactions/app`; the content is the parameter of the WeChat SDK in the app."""

    code = "wx_app"
    product = "app"

    def created(self, answer: Mapping[str, Any], request: PayRequest, context: RequestContext) -> PayOutcome:
        """The signature covers appid, timestamp, noncestr and the prepay_id alone, one per line."""
        timestamp, prepay_id = str(int(context.now.timestamp())), _prepay_id(answer)
        message = f"{self.account['appid']}\n{timestamp}\n{context.nonce}\n{prepay_id}\n"
        return _content(
            {
                "appid": self.account["appid"],
                "partnerid": self.account["mchid"],
                "prepayid": prepay_id,
                "package": "Sign=WXPay",
                "noncestr": context.nonce,
                "timestamp": timestamp,
                "sign": rsa_sign(self.merchant.private_key, message.encode()),
            }
        )
