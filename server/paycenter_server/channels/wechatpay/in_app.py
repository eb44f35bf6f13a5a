"""WeChat Pay v3 inside WeChat (JSAPI: official account pages and mini programs) and inside an app of one's own.

Both create a prepay_id (valid for two hours) and sign parameters for the payer's side. Source: WeChat v3, "JSAPI: invoke
payment", "App: invoke payment".
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
    """`POST /v3/pay/transactions/jsapi`; the content is what `WeixinJSBridge` or `wx.requestPayment` takes."""

    code = "wx_pub"
    product = "jsapi"

    def create_fields(self, request: PayRequest) -> dict[str, Any]:
        """The payer's openid, as the application of this channel knows it."""
        return {"payer": {"openid": request.extras.get("openid", "")}}

    def created(self, answer: Mapping[str, Any], request: PayRequest, moment: RequestContext) -> PayOutcome:
        """Signed over appId, timeStamp, nonceStr and package, one a line."""
        timestamp, package = str(int(moment.now.timestamp())), f"prepay_id={_prepay_id(answer)}"
        message = f"{self.account['appid']}\n{timestamp}\n{moment.nonce}\n{package}\n"
        return _content(
            {
                "appId": self.account["appid"],
                "timeStamp": timestamp,
                "nonceStr": moment.nonce,
                "package": package,
                "signType": "RSA",
                "paySign": rsa_sign(self.merchant.private_key, message.encode()),
            }
        )


class WechatLiteCodec(WechatPubCodec):
    """A mini program: the same API under the mini program's appid."""

    code = "wx_lite"


class WechatAppCodec(WechatV3Codec):
    """`POST /v3/pay/transactions/app`; the content is what the WeChat SDK in an app takes."""

    code = "wx_app"
    product = "app"

    def created(self, answer: Mapping[str, Any], request: PayRequest, moment: RequestContext) -> PayOutcome:
        """Signed over appid, timestamp, noncestr and the bare prepay_id, one a line."""
        timestamp, prepay_id = str(int(moment.now.timestamp())), _prepay_id(answer)
        message = f"{self.account['appid']}\n{timestamp}\n{moment.nonce}\n{prepay_id}\n"
        return _content(
            {
                "appid": self.account["appid"],
                "partnerid": self.account["mchid"],
                "prepayid": prepay_id,
                "package": "Sign=WXPay",
                "noncestr": moment.nonce,
                "timestamp": timestamp,
                "sign": rsa_sign(self.merchant.private_key, message.encode()),
            }
        )
