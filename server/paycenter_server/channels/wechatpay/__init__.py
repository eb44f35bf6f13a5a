"""WeChat Pay: API v3, and v2 if the merchant's configuration selects it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from paycenter_server.channels.protocol import Codec
from paycenter_server.channels.specs import Browser, CashierOffer, ChannelSpec, RequiredExtra
from paycenter_server.channels.wechatpay.codepay import WechatBarCodec
from paycenter_server.channels.wechatpay.config import FIELDS, bar_is_v2, check, check_bar, is_v2
from paycenter_server.channels.wechatpay.h5 import WechatWapCodec
from paycenter_server.channels.wechatpay.in_app import WechatAppCodec, WechatLiteCodec, WechatPubCodec
from paycenter_server.channels.wechatpay.limits import limits, refund_limits
from paycenter_server.channels.wechatpay.native import WechatNativeCodec
from paycenter_server.channels.wechatpay.outcomes import ALARM_CODES
from paycenter_server.channels.wechatpay.v2 import WechatV2Codec
from paycenter_server.channels.wechatpay.v2_outcomes import ALARM_CODES as V2_ALARM_CODES
from paycenter_server.channels.wechatpay.v2_products import (
    WechatAppV2Codec,
    WechatBarV2Codec,
    WechatLiteV2Codec,
    WechatNativeV2Codec,
    WechatPubV2Codec,
    WechatWapV2Codec,
)
from paycenter_server.channels.wechatpay.v3 import WechatV3Codec
from paycenter_server.domain.errors import Violation

# WeChat Pay v3, "Native order": at most 7 days. Sources differ about the other products (15 days), so the shorter limit is used.
_LONGEST = timedelta(days=7)


def _spec(
    v3: type[WechatV3Codec],
    v2: type[WechatV2Codec],
    titles: tuple[str, str],
    mode: str,
    required_extras: tuple[RequiredExtra, ...] = (),
    *,
    minutes: int = 60,
    life: timedelta | None = None,
    close_after: timedelta = timedelta(0),
    choose_v2: Callable[[Mapping[str, str]], bool] = is_v2,
    check_config: Callable[[Mapping[str, str]], Sequence[Violation]] = check,
    cashier: CashierOffer | None = None,
) -> ChannelSpec:
    def build(config: Mapping[str, str]) -> Codec:
        return v2(config) if choose_v2(config) else v3(config)

    def trial(config: Mapping[str, str]) -> Codec:
        return WechatNativeV2Codec(config) if choose_v2(config) else WechatNativeCodec(config)

    return ChannelSpec(
        code=v3.code,
        family="wechatpay",
        own_config=True,
        identity_fields=("mchid",),
        account_ways=({"api_version": "v3"}, {"api_version": "v2"}),
        title=titles[0],
        short_title=titles[1],
        family_title="WeChat Pay",
        display_modes=(mode,),
        config_fields=FIELDS,
        mode_field="api_version",
        check=check_config,
        build=build,
        required_extras=required_extras,
        limits=limits,
        refund_limits=refund_limits,
        content_minutes=minutes,
        attempt_life=life,
        longest_life=_LONGEST,
        close_after=close_after,
        alarm_codes=ALARM_CODES | V2_ALARM_CODES,
        trial=trial,
        cashier=cashier,
    )


def _offer(rank: int, chinese: str, english: str, browser: Browser) -> CashierOffer:
    return CashierOffer((browser,), rank, {"zh": chinese, "en": english}, {"zh": "微信", "en": "WeChat"})


CHANNELS = (
    _spec(
        WechatNativeCodec, WechatNativeV2Codec, ("WeChat Pay Native", "Native"), "qr_code",
        cashier=_offer(10, "微信扫码支付", "WeChat Pay QR code", Browser.DESK),
    ),
    _spec(
        WechatPubCodec, WechatPubV2Codec, ("WeChat Pay JSAPI", "JSAPI"), "app", (RequiredExtra(("openid",)),),
        cashier=_offer(10, "微信支付", "WeChat Pay", Browser.WECHAT),
    ),
    _spec(
        WechatLiteCodec, WechatLiteV2Codec, ("WeChat Pay mini program", "Mini"), "app", (RequiredExtra(("openid",)),),
        cashier=_offer(20, "微信小程序支付", "WeChat Pay mini program", Browser.WECHAT),
    ),
    _spec(WechatAppCodec, WechatAppV2Codec, ("WeChat Pay App", "In-app"), "app"),
    # An h5_url is valid for five minutes.
    _spec(
        WechatWapCodec, WechatWapV2Codec, ("WeChat Pay H5", "H5"), "url", minutes=4,
        cashier=_offer(10, "微信支付", "WeChat Pay", Browser.PHONE),
    ),
    # WeChat Pay v2, "Code payment": query every 5 s for 30 to 45 s, then reverse, at least 15 s after the payment.
    _spec(
        WechatBarCodec,
        WechatBarV2Codec,
        ("WeChat Pay bar code", "Code"),
        "bar_code",
        (RequiredExtra(("auth_code",)),),
        life=timedelta(seconds=45),
        close_after=timedelta(seconds=15),
        choose_v2=bar_is_v2,
        check_config=check_bar,
        cashier=_offer(40, "微信付款码", "WeChat payment code", Browser.DESK),
    ),
)  # fmt: skip
