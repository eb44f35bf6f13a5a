"""Requests that our codecs build, for other people's SDKs: `python build_requests.py KEYS_DIR BASE_URL NOTIFY_URL OUTPUT_FILE`.

run.py calls it; see there for the form of the file.
"""

from __future__ import annotations

import json
import secrets
import string
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from paycenter_server.channels.protocol import AttemptRef, Call, HttpRequest, PayOutcome, PayRequest, RefundRequest, RequestContext
from paycenter_server.channels.registry import installed
from paycenter_server.channels.specs import ChannelSpec
from paycenter_server.simulator.keys import SimulatorKeys, load_keys

SUBJECT = '一杯 "拿铁" & 50% +1=2 😀 \\n <b>'

EXTRAS = {
    "wx_pub": {"openid": "oInterop"}, "wx_lite": {"openid": "oInterop"}, "wx_bar": {"auth_code": "134567890123456789"},
    "alipay_lite": {"buyer_open_id": "074a1CcTG1Lel"}, "alipay_bar": {"auth_code": "281234567890123456"},
}  # fmt: skip


class _Form(HTMLParser):
    """The action and the fields of a form, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = values["action"]
        elif tag == "input":
            self.fields[values["name"]] = values["value"]


def _entry(name: str, request: HttpRequest) -> dict[str, Any]:
    return {
        "name": name, "method": request.method, "url": request.url, "headers": dict(request.headers),
        "body": request.body.decode("utf-8"),
    }  # fmt: skip


def _page(name: str, outcome: PayOutcome) -> dict[str, Any]:
    """What the payer's browser, or Alipay's app, would send."""
    if outcome.display_mode == "url":
        return _entry(name, HttpRequest("GET", outcome.display_content))
    if outcome.display_mode == "app":
        return _entry(name, HttpRequest("GET", f"https://openapi.alipay.com/gateway.do?{outcome.display_content}"))
    form = _Form(outcome.display_content)
    return _entry(name, HttpRequest("POST", form.action, (), urlencode(form.fields, quote_via=quote).encode()))


def operations(prefix: str, spec: ChannelSpec, config: dict[str, str], notify_url: str) -> list[dict[str, Any]]:
    """One request for each operation and display mode."""
    codec = spec.build(config)
    now = datetime.now(UTC)
    moment = RequestContext(now, "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(32)))
    number = "P" + "".join(secrets.choice("0123456789ABCDEFGHJKMNPQRSTVWXYZ") for _ in range(26))
    attempt = AttemptRef(number, 1_000_000_000, "CNY", now, now + timedelta(hours=2))
    refund = RefundRequest(number, "R" + number[1:], 123_456_789, 1_000_000_000, "CNY", SUBJECT, notify_url, now)
    made: list[dict[str, Any]] = []
    for mode in spec.display_modes:
        pay = PayRequest(
            out_trade_no=number, subject=SUBJECT, body=SUBJECT, amount=1_000_000_000, currency="CNY",
            expire_time=attempt.expire_time, callback_url=notify_url, return_url="https://shop.example.test/done?a=1&b=茶",
            user_ip="203.0.113.9", extras=EXTRAS.get(spec.code, {}), display_mode=mode,
        )  # fmt: skip
        paying = codec.pay(pay, moment)
        if isinstance(paying, Call):
            made.append(_entry(f"{prefix} pay", paying.request))
            continue
        made.append(_page(f"{prefix} {mode}", paying))
    for name, call in (
        ("query", codec.query(attempt, moment)),
        ("close", codec.close(attempt, moment)),
        ("refund", codec.refund(refund, moment)),
        ("refund query", codec.query_refund(refund, moment)),
    ):
        assert isinstance(call, Call)
        made.append(_entry(f"{prefix} {name}", call.request))
    return made


def wechat_config(keys: SimulatorKeys, base: str) -> dict[str, str]:
    """The simulated merchant, in public-key mode and with a platform certificate at once."""
    return {
        "appid": keys.wechatpay["appid"],
        "mchid": keys.wechatpay["mchid"],
        "private_key": keys.text("wechatpay", "apiclient_key.pem"),
        "merchant_serial_no": keys.wechatpay["merchant_serial"],
        "api_v3_key": keys.wechatpay["apiv3_key"],
        "public_key_id": keys.wechatpay["public_key_id"],
        "public_key": keys.text("wechatpay", "pub_key.pem"),
        "platform_certificates": keys.text("wechatpay", "platform_cert.pem"),
        "gateway_url": base,
    }


def alipay_config(keys: SimulatorKeys, base: str, mode: str) -> dict[str, str]:
    """The simulated application in one of the two modes."""
    config = {
        "app_id": keys.alipay["app_id"],
        "seller_id": keys.alipay["seller_id"],
        "mode": mode,
        "private_key": keys.text("alipay", "app_private_key.pem"),
        "gateway_url": f"{base}/gateway.do",
    }
    if mode == "key":
        return {**config, "alipay_public_key": keys.text("alipay", "alipay_public_key.pem")}
    names = {"app_cert": "appCertPublicKey.crt", "alipay_cert": "alipayCertPublicKey_RSA2.crt", "root_cert": "alipayRootCert.crt"}
    return {**config, **{name: keys.text("alipay", file) for name, file in names.items()}}


def build(keys: SimulatorKeys, base: str, notify_url: str) -> dict[str, list[dict[str, Any]]]:
    """Everything, by the client program that verifies it."""
    alipay: list[dict[str, Any]] = []
    wechat: list[dict[str, Any]] = []
    for code, spec in installed().items():
        if spec.family == "alipay":
            for mode in ("key", "certificate"):
                alipay += operations(f"{code} {mode} mode", spec, alipay_config(keys, base, mode), notify_url)
        elif spec.family == "wechatpay":
            wechat += operations(code, spec, {**wechat_config(keys, base), "use_codepay": "true"}, notify_url)
    return {"wechatpay": wechat, "alipay": alipay, "official": alipay}


def main() -> int:
    """Write the file."""
    keys_dir, base, notify_url, output = sys.argv[1:]
    document = build(load_keys(Path(keys_dir)), base, notify_url)
    Path(output).write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
