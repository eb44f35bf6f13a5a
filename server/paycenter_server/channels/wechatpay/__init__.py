"""WeChat Pay, API v3."""

from __future__ import annotations

from paycenter_server.channels.protocol import ChannelSpec
from paycenter_server.channels.wechatpay.config import FIELDS, check
from paycenter_server.channels.wechatpay.native import WechatNativeCodec

CHANNELS = (
    ChannelSpec(
        code="wx_native",
        family="wechatpay",
        title="WeChat Pay Native",
        display_modes=("qr_code",),
        config_fields=FIELDS,
        check=check,
        build=WechatNativeCodec,
    ),
)
