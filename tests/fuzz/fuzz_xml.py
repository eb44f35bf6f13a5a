"""WeChat Pay v2: XML, its fields and its signature."""

from __future__ import annotations

import atheris  # type: ignore[import-not-found,unused-ignore]
from harness import fuzz

with atheris.instrument_imports(include=["paycenter_server.channels"]):
    from paycenter_server.channels.protocol import AnswerError
    from paycenter_server.channels.wechatpay import v2_xml


def target(data: bytes) -> None:
    fields = v2_xml.parse(data)
    assert all(isinstance(value, str) and "\0" not in value and value.encode() is not None for value in fields.values())
    v2_xml.verify(fields, "192006250b4c09247ec02edce69f6a2d")
    v2_xml.sign(fields, "192006250b4c09247ec02edce69f6a2d", v2_xml.HMAC_SHA256)


fuzz(target, (AnswerError,))
