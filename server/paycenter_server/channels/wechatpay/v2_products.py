"""WeChat Pay v2: the products over unifiedorder, and bar codes (micropay)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

from paycenter_server.channels.protocol import (
    AnswerError,
    AttemptRef,
    Call,
    CloseOutcome,
    CloseStatus,
    PayOutcome,
    PayRequest,
    PayStatus,
    QueryStatus,
    RequestContext,
)
from paycenter_server.channels.times import wechat_v2
from paycenter_server.channels.wechatpay import v2_outcomes
from paycenter_server.channels.wechatpay.h5 import h5_info, with_way_back
from paycenter_server.channels.wechatpay.v2 import WechatV2Codec
from paycenter_server.channels.wechatpay.v2_xml import sign


def _needed(answer: Mapping[str, str], name: str) -> str:
    value = answer.get(name, "")
    if not value:
        raise AnswerError(f"the answer has no {name}")
    return value


class WechatNativeV2Codec(WechatV2Codec):
    """`trade_type` NATIVE. The answer has `code_url`."""

    code = "wx_native"
    trade_type = "NATIVE"

    def create_fields(self, request: PayRequest) -> dict[str, str]:
        """NATIVE requires a product_id, for which the number is used."""
        return {"product_id": request.out_trade_no}

    def created(self, answer: Mapping[str, str], request: PayRequest, context: RequestContext) -> PayOutcome:
        """The content is the text of the QR code."""
        return PayOutcome(PayStatus.WAITING, "qr_code", _needed(answer, "code_url"))


class WechatPubV2Codec(WechatV2Codec):
    """`trade_type` JSAPI. The answer has `prepay_id`."""

    code = "wx_pub"
    trade_type = "JSAPI"

    def create_fields(self, request: PayRequest) -> dict[str, str]:
        """The payer's openid."""
        return {"openid": request.extras.get("openid", "")}

    def created(self, answer: Mapping[str, str], request: PayRequest, context: RequestContext) -> PayOutcome:
        """The content is the parameters for the payer's side, signed with the API key."""
        fields = {
            "appId": self.account["appid"],
            "timeStamp": str(int(context.now.timestamp())),
            "nonceStr": context.nonce,
            "package": f"prepay_id={_needed(answer, 'prepay_id')}",
            "signType": self.merchant.sign_type,
        }
        fields["paySign"] = sign(fields, self.merchant.mch_key, self.merchant.sign_type)
        return PayOutcome(PayStatus.WAITING, "app", json.dumps(fields, separators=(",", ":")))


class WechatLiteV2Codec(WechatPubV2Codec):
    """A mini program: the same API under its appid."""

    code = "wx_lite"


class WechatAppV2Codec(WechatV2Codec):
    """`trade_type` APP."""

    code = "wx_app"
    trade_type = "APP"

    def created(self, answer: Mapping[str, str], request: PayRequest, context: RequestContext) -> PayOutcome:
        """The content is the parameters for the SDK in the app, signed with the API key by the sign type of the order."""
        fields = {
            "appid": self.account["appid"],
            "partnerid": self.account["mchid"],
            "prepayid": _needed(answer, "prepay_id"),
            "package": "Sign=WXPay",
            "noncestr": context.nonce,
            "timestamp": str(int(context.now.timestamp())),
        }
        fields["sign"] = sign(fields, self.merchant.mch_key, self.merchant.sign_type)
        return PayOutcome(PayStatus.WAITING, "app", json.dumps(fields, separators=(",", ":")))


class WechatWapV2Codec(WechatV2Codec):
    """`trade_type` MWEB. The answer has `mweb_url`."""

    code = "wx_wap"
    trade_type = "MWEB"

    def create_fields(self, request: PayRequest) -> dict[str, str]:
        """`scene_info` with the kind of browser."""
        return {"scene_info": json.dumps({"h5_info": h5_info(request)}, separators=(",", ":"))}

    def created(self, answer: Mapping[str, str], request: PayRequest, context: RequestContext) -> PayOutcome:
        """The URL, with the return URL if there is one."""
        return PayOutcome(PayStatus.WAITING, "url", with_way_back(_needed(answer, "mweb_url"), request))


class WechatBarV2Codec(WechatV2Codec):
    """`/pay/micropay` with the extra `auth_code`. There are no callbacks: the trade is queried, and reversed at its expiry."""

    code = "wx_bar"
    trade_type = "MICROPAY"

    def created(self, answer: Mapping[str, str], request: PayRequest, context: RequestContext) -> PayOutcome:
        """The payment was made at once."""
        outcome = self.transaction(answer, "SUCCESS")
        payment = outcome.payment
        if outcome.status is not QueryStatus.PAID or payment is None or payment.out_trade_no != request.out_trade_no:
            raise AnswerError("the answer is about another out_trade_no")
        return PayOutcome(PayStatus.PAID, "bar_code", payment=payment)

    def pay(self, request: PayRequest, context: RequestContext) -> Call[PayOutcome]:
        """Paid, or WAITING without display content (USERPAYING)."""
        fields = {
            **self.pay_fields(request),
            # "Submit code payment": more than one minute. The payment is reversed before that.
            "time_expire": wechat_v2(max(request.expire_time, context.now + timedelta(seconds=70))),
            "auth_code": request.extras.get("auth_code", ""),
        }
        return self.call(
            "wx2.micropay",
            self.request("/pay/micropay", fields, context),
            lambda answer: self.created(answer, request, context),
            v2_outcomes.MICROPAY_ERRORS,
            lambda known, code, why: PayOutcome(known or PayStatus.UNKNOWN, "bar_code", error_code=code, error_message=why),
        )

    def close(self, attempt: AttemptRef, context: RequestContext) -> Call[CloseOutcome]:
        """`/secapi/pay/reverse` cancels an unpaid order and refunds a paid one; `recall` Y requires a repetition."""

        def good(answer: Mapping[str, str]) -> CloseOutcome:
            if answer.get("recall") == "Y":
                return CloseOutcome(CloseStatus.UNKNOWN, "RECALL", "the reversal must be repeated")
            return CloseOutcome(CloseStatus.CLOSED)

        return self.call(
            "wx2.reverse",
            self.request("/secapi/pay/reverse", {"out_trade_no": attempt.out_trade_no}, context, certificate=True),
            good,
            v2_outcomes.REVERSE_ERRORS,
            lambda known, code, why: CloseOutcome(known or CloseStatus.UNKNOWN, code, why),
        )
