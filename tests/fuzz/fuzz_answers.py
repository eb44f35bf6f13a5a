"""Answers of every channel code to every operation: junk, and junk that is properly signed."""

from __future__ import annotations

from typing import Any

import atheris  # type: ignore[import-not-found,unused-ignore]
from harness import fuzz

with atheris.instrument_imports(include=["paycenter_server.channels"]):
    from paycenter_server.channels.protocol import AnswerError, Call, HttpResponse, UnknownKeyError
    from paycenter_server.channels.registry import installed

from unit.channel_support import ATTEMPT, MOMENT, NOW, PAY, REFUND, ali_config, ali_raw, certificate, wx_config, wx_headers

SUBJECTS: dict[str, Any] = {"pay": PAY, "query": ATTEMPT, "close": ATTEMPT, "refund": REFUND, "query_refund": REFUND}
V2 = {
    **{name: wx_config()[name] for name in ("appid", "mchid", "private_key", "gateway_url")}, "api_version": "v2",
    "mch_key": "192006250b4c09247ec02edce69f6a2d", "merchant_certificate": certificate("platform").decode(),
}  # fmt: skip
CALLS: list[tuple[str, Any]] = []
for spec in installed().values():
    configs = {"wechatpay": [{**wx_config(), "use_codepay": "true"}, V2], "alipay": [ali_config()]}.get(spec.family, [])
    for config in configs:
        for name, subject in SUBJECTS.items():
            call = getattr(spec.build(config), name)(subject, MOMENT)
            if isinstance(call, Call):
                CALLS.append((spec.family, call))
STATUS = (200, 204, 400, 404, 429, 500)


def target(data: bytes) -> None:
    family, call = CALLS[(data[0] if data else 0) % len(CALLS)]
    how, body = data[1] if len(data) > 1 else 0, data[2:]
    status = STATUS[how // 2 % len(STATUS)]
    if how % 2 == 0:
        response = HttpResponse(status, {}, body)
    elif family == "alipay":
        response = HttpResponse(200, {}, ali_raw(call.api, body.decode("utf-8", "replace")))
    else:
        response = HttpResponse(status, wx_headers(body), body)
    call.parse(response, NOW)


fuzz(target, (AnswerError, UnknownKeyError))
