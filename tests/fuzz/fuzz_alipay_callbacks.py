"""Alipay callbacks: invalid forms, and forms of invalid values with a valid signature."""

from __future__ import annotations

import atheris  # type: ignore[import-not-found,unused-ignore]
from harness import fuzz

with atheris.instrument_imports(include=["paycenter_server.channels"]):
    from paycenter_server.channels.protocol import CallbackError, CallbackRequest, UnknownKeyError
    from paycenter_server.channels.registry import installed

from unit.channel_support import NOW, ali_callback, ali_config, ali_form

CODEC = installed()["alipay_qr"].build(ali_config())
NAMES = ("total_amount", "gmt_payment", "refund_fee", "out_trade_no", "out_biz_no", "gmt_refund", "buyer_id", "notify_type", "x")


def target(data: bytes) -> None:
    how, rest = data[0] if data else 0, data[1:]
    if how % 2 == 0:
        request = CallbackRequest({"content-type": "application/x-www-form-urlencoded"}, rest)
    else:
        values = rest.decode("utf-8", "replace").split("|")
        request = ali_form(ali_callback(**dict(zip(NAMES, values, strict=False))))
    parsed = CODEC.parse_callback(request, NOW)
    parsed.raw.encode()


fuzz(target, (CallbackError, UnknownKeyError))
