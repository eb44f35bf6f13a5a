"""WeChat Pay v3 callbacks: invalid content without a signature, with a valid signature, and encrypted in a signed callback."""

from __future__ import annotations

import atheris  # type: ignore[import-not-found,unused-ignore]
from harness import fuzz

with atheris.instrument_imports(include=["paycenter_server.channels"]):
    from paycenter_server.channels.protocol import CallbackError, CallbackRequest, UnknownKeyError
    from paycenter_server.channels.registry import installed

from unit.channel_support import NOW, wx_callback, wx_config, wx_headers

CODEC = installed()["wx_native"].build(wx_config(mch_key="0123456789abcdef0123456789abcdef"))
EVENTS = ("TRANSACTION.SUCCESS", "REFUND.SUCCESS", "REFUND.CLOSED", "X")


def target(data: bytes) -> None:
    how, body = data[0] if data else 0, data[1:]
    if how % 3 == 0:
        request = CallbackRequest({}, body)
    elif how % 3 == 1:
        request = CallbackRequest(wx_headers(body), body)
    else:
        request = wx_callback(EVENTS[how // 3 % 4], body)
    parsed = CODEC.parse_callback(request, NOW)
    parsed.raw.encode()


fuzz(target, (CallbackError, UnknownKeyError))
