"""Answers of every channel code to every operation: invalid content, with and without a valid signature."""

from __future__ import annotations

import base64
import json
from typing import Any

import atheris  # type: ignore[import-not-found,unused-ignore]
from harness import fuzz

with atheris.instrument_imports(include=["paycenter_server.channels"]):
    from paycenter_server.channels import crypto
    from paycenter_server.channels.protocol import AnswerError, Call, HttpResponse, UnknownKeyError
    from paycenter_server.channels.registry import installed

from unit.channel_support import (
    ATTEMPT,
    MOMENT,
    NOW,
    PAY,
    REFUND,
    ali_cert_config,
    ali_config,
    ali_raw,
    certificate,
    wx_config,
    wx_headers,
)

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
for made in (
    installed()["wx_native"].build({**wx_config(), "use_platform_certificates": "true"}).fetch_keys(None, MOMENT),
    installed()["alipay_qr"].build(ali_cert_config()).fetch_keys("f" * 32, MOMENT),
):
    assert made is not None
    CALLS.append(("alipay" if made.api.startswith("alipay") else "wechatpay", made))
STATUS = (200, 204, 400, 404, 429, 500)


def target(data: bytes) -> None:
    family, call = CALLS[(data[0] if data else 0) % len(CALLS)]
    how, body = data[1] if len(data) > 1 else 0, data[2:]
    status = STATUS[how // 2 % len(STATUS)]
    if how % 2 == 0:
        response = HttpResponse(status, {}, body)
    elif family == "alipay":
        method = "alipay.open.app.alipaycert.download" if call.api == "alipay.certificate" else call.api
        response = HttpResponse(200, {}, ali_raw(method, body.decode("utf-8", "replace")))
    elif call.api == "wx.certificates":
        sealed = crypto.aes_gcm_encrypt(wx_config()["api_v3_key"].encode(), b"0" * 12, body, b"certificate")
        secret = {"nonce": "0" * 12, "associated_data": "certificate", "ciphertext": base64.b64encode(sealed).decode()}
        offered = json.dumps({"data": [{"serial_no": "7A", "encrypt_certificate": secret}]}).encode()
        response = HttpResponse(200, wx_headers(offered), offered)
    else:
        response = HttpResponse(status, wx_headers(body), body)
    call.parse(response, NOW)


fuzz(target, (AnswerError, UnknownKeyError))
