"""WeChat Pay, API v3."""

from __future__ import annotations

from paycenter_server.channels.protocol import ChannelSpec
from paycenter_server.channels.wechatpay.config import FIELDS, check
from paycenter_server.channels.wechatpay.h5 import WechatWapCodec
from paycenter_server.channels.wechatpay.in_app import WechatAppCodec, WechatLiteCodec, WechatPubCodec
from paycenter_server.channels.wechatpay.native import WechatNativeCodec
from paycenter_server.channels.wechatpay.v3 import WechatV3Codec


def _spec(
    codec: type[WechatV3Codec], title: str, mode: str, required_extras: tuple[str, ...] = (), minutes: int = 60
) -> ChannelSpec:
    return ChannelSpec(
        code=codec.code,
        family="wechatpay",
        title=title,
        display_modes=(mode,),
        config_fields=FIELDS,
        check=check,
        build=codec,
        required_extras=required_extras,
        content_minutes=minutes,
    )


CHANNELS = (
    _spec(WechatNativeCodec, "WeChat Pay Native", "qr_code"),
    _spec(WechatPubCodec, "WeChat Pay JSAPI", "app", ("openid",)),
    _spec(WechatLiteCodec, "WeChat Pay mini program", "app", ("openid",)),
    _spec(WechatAppCodec, "WeChat Pay App", "app"),
    # An h5_url lives five minutes.
    _spec(WechatWapCodec, "WeChat Pay H5", "url", minutes=4),
)
