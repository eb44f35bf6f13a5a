"""Alipay, Open API gateway, RSA2."""

from __future__ import annotations

from paycenter_server.channels.alipay.config import FIELDS, check
from paycenter_server.channels.alipay.page import AlipayPcCodec
from paycenter_server.channels.alipay.qr import AlipayQrCodec
from paycenter_server.channels.protocol import ChannelSpec

CHANNELS = (
    ChannelSpec(
        code="alipay_qr",
        family="alipay",
        title="Alipay QR code",
        display_modes=("qr_code",),
        config_fields=FIELDS,
        check=check,
        build=AlipayQrCodec,
    ),
    ChannelSpec(
        code="alipay_pc",
        family="alipay",
        title="Alipay web page",
        display_modes=("url", "form"),
        config_fields=FIELDS,
        check=check,
        build=AlipayPcCodec,
    ),
)
