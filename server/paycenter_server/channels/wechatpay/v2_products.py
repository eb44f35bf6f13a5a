"""WeChat Pay v2: what its products add to unifiedorder, and bar codes (micropay)."""

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
    """`trade_type` NATIVE, answered with `code_url`."""

    code = "wx_native"
    trade_type = "NATIVE"

    def create_fields(self, request: PayRequest) -> dict[str, str]:
        """NATIVE needs a product_id; the number is as good as any."""
        return {"product_id": request.out_trade_no}

    def created(self, answer: Mapping[str, str], request: PayRequest, moment: RequestContext) -> PayOutcome:
        """The text of the QR code."""
        return PayOutcome(PayStatus.WAITING, "qr_code", _needed(answer, "code_url"))


class WechatPubV2Codec(WechatV2Codec):
    """`trade_type` JSAPI, answered with `prepay_id`."""

    code = "wx_pub"
    trade_type = "JSAPI"

    def create_fields(self, request: PayRequest) -> dict[str, str]:
        """The payer's openid."""
        return {"openid": request.extras.get("openid", "")}

    def created(self, answer: Mapping[str, str], request: PayRequest, moment: RequestContext) -> PayOutcome:
        """Parameters for the payer's side, signed with the API key."""
        fields = {
            "appId": self.account["appid"],
            "timeStamp": str(int(moment.now.timestamp())),
            "nonceStr": moment.nonce,
            "package": f"prepay_id={_needed(answer, 'prepay_id')}",
            "signType": self.merchant.sign_type,
        }
        fields["paySign"] = sign(fields, self.merchant.mch_key, self.merchant.sign_type)
        return PayOutcome(PayStatus.WAITING, "app", json.dumps(fields, separators=(",", ":")))


class WechatLiteV2Codec(WechatPubV2Codec):
    """A mini program."""

    code = "wx_lite"


class WechatAppV2Codec(WechatV2Codec):
    """`trade_type` APP."""

    code = "wx_app"
    trade_type = "APP"

    def created(self, answer: Mapping[str, str], request: PayRequest, moment: RequestContext) -> PayOutcome:
        """Parameters for the SDK in the app, signed with the API key by the method of the order."""
        fields = {
            "appid": self.account["appid"],
            "partnerid": self.account["mchid"],
            "prepayid": _needed(answer, "prepay_id"),
            "package": "Sign=WXPay",
            "noncestr": moment.nonce,
            "timestamp": str(int(moment.now.timestamp())),
        }
        fields["sign"] = sign(fields, self.merchant.mch_key, self.merchant.sign_type)
        return PayOutcome(PayStatus.WAITING, "app", json.dumps(fields, separators=(",", ":")))


class WechatWapV2Codec(WechatV2Codec):
    """`trade_type` MWEB, answered with `mweb_url`."""

    code = "wx_wap"
    trade_type = "MWEB"

    def create_fields(self, request: PayRequest) -> dict[str, str]:
        """The scene."""
        return {"scene_info": json.dumps({"h5_info": h5_info(request)}, separators=(",", ":"))}

    def created(self, answer: Mapping[str, str], request: PayRequest, moment: RequestContext) -> PayOutcome:
        """The URL, with the way back to the shop where there is one."""
        return PayOutcome(PayStatus.WAITING, "url", with_way_back(_needed(answer, "mweb_url"), request))


class WechatBarV2Codec(WechatV2Codec):
    """`/pay/micropay` with the extra `auth_code`. Bar codes never notify: they are asked about, and reversed at the end."""

    code = "wx_bar"
    trade_type = "MICROPAY"

    def created(self, answer: Mapping[str, str], request: PayRequest, moment: RequestContext) -> PayOutcome:
        """Paid at once."""
        outcome = self.transaction(answer, "SUCCESS")
        payment = outcome.payment
        if outcome.status is not QueryStatus.PAID or payment is None or payment.out_trade_no != request.out_trade_no:
            raise AnswerError("the answer is about another out_trade_no")
        return PayOutcome(PayStatus.PAID, "bar_code", payment=payment)

    def pay(self, request: PayRequest, moment: RequestContext) -> Call[PayOutcome]:
        """Paid, or USERPAYING: WAITING, with nothing to show."""
        fields = {
            **self.pay_fields(request),
            # "More than a minute": longer than we wait, and reversed by us before that.
            "time_expire": wechat_v2(max(request.expire_time, moment.now + timedelta(seconds=70))),
            "auth_code": request.extras.get("auth_code", ""),
        }
        return self.call(
            "wx2.micropay",
            self.request("/pay/micropay", fields, moment),
            lambda answer: self.created(answer, request, moment),
            v2_outcomes.MICROPAY_ERRORS,
            lambda known, code, why: PayOutcome(known or PayStatus.UNKNOWN, "bar_code", error_code=code, error_message=why),
        )

    def close(self, attempt: AttemptRef, moment: RequestContext) -> Call[CloseOutcome]:
        """`/secapi/pay/reverse`: cancels what is unpaid, refunds what was paid; `recall` Y means once more."""

        def good(answer: Mapping[str, str]) -> CloseOutcome:
            if answer.get("recall") == "Y":
                return CloseOutcome(CloseStatus.UNKNOWN, "RECALL", "to be reversed once more")
            return CloseOutcome(CloseStatus.CLOSED)

        return self.call(
            "wx2.reverse",
            self.request("/secapi/pay/reverse", {"out_trade_no": attempt.out_trade_no}, moment, certificate=True),
            good,
            v2_outcomes.REVERSE_ERRORS,
            lambda known, code, why: CloseOutcome(known or CloseStatus.UNKNOWN, code, why),
        )
