"""The requests of the codecs: amounts, times, expiry, texts that need escaping, the page form."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from paycenter_server.channels.alipay.amounts import fen, yuan
from paycenter_server.channels.alipay.page import AlipayPcCodec
from paycenter_server.channels.alipay.signature import sign_content
from paycenter_server.channels.crypto import rsa_verify
from paycenter_server.channels.protocol import HttpRequest, PayOutcome, PayStatus, RequestContext
from paycenter_server.channels.times import alipay, parse_alipay, parse_rfc3339, rfc3339
from paycenter_server.channels.wechatpay.signature import request_message
from unit.channel_support import (
    ATTEMPT,
    MOMENT,
    NOW,
    PAY,
    REFUND,
    ali_cert_config,
    biz,
    keys,
    paying,
    pc,
    qr,
    sent,
    wx,
)

HARD_TEXT = "一杯 \"拿铁\" & <b>'50%'</b> +1=2 😀 \\n"


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Chatham"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def _wx_signature_is_right(request: HttpRequest) -> bool:
    authorization = dict(request.headers)["Authorization"]
    scheme, _, rest = authorization.partition(" ")
    fields = dict(re.findall(r'([a-z_]+)="([^"]*)"', rest))
    assert scheme == "WECHATPAY2-SHA256-RSA2048"
    assert set(fields) == {"mchid", "nonce_str", "timestamp", "serial_no", "signature"}
    parts = urlsplit(request.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    message = request_message(request.method, target, fields["timestamp"], fields["nonce_str"], request.body)
    return rsa_verify(keys().ours.public_key(), message, fields["signature"])


def _ali_signature_is_right(fields: dict[str, str]) -> bool:
    assert "" not in fields.values()
    return rsa_verify(keys().ours.public_key(), sign_content(fields), fields["sign"])


# WeChat


def test_wechat_create() -> None:
    request = wx().pay(PAY, MOMENT).request
    assert (request.method, request.url) == ("POST", "https://wx.example.test/v3/pay/transactions/native")
    assert json.loads(request.body) == {
        "appid": "wx1234567890abcdef", "mchid": "1900000001", "description": "一杯咖啡", "out_trade_no": PAY.out_trade_no,
        "time_expire": rfc3339(PAY.expire_time), "notify_url": PAY.callback_url,
        "amount": {"total": 1_000_000_000, "currency": "CNY"}, "scene_info": {"payer_client_ip": "203.0.113.9"},
    }  # fmt: skip
    assert _wx_signature_is_right(request)


def test_wechat_headers_of_every_request() -> None:
    for call in (wx().pay(PAY, MOMENT), wx().query(ATTEMPT, MOMENT), wx().refund(REFUND, MOMENT), wx().close(ATTEMPT, MOMENT)):
        headers = dict(call.request.headers)
        assert headers["Accept"] == "application/json"
        assert headers["User-Agent"]
        assert headers["Wechatpay-Serial"].startswith("PUB_KEY_ID_")
        assert headers.get("Content-Type", "") == ("application/json" if call.request.body else "")
        assert _wx_signature_is_right(call.request)


def test_wechat_refund_and_queries() -> None:
    refund = wx().refund(REFUND, MOMENT).request
    assert json.loads(refund.body) == {
        "out_trade_no": REFUND.out_trade_no, "out_refund_no": REFUND.out_refund_no, "reason": "退货",
        "notify_url": REFUND.callback_url, "amount": {"refund": 123_456_789, "total": 1_000_000_000, "currency": "CNY"},
    }  # fmt: skip
    query = wx().query(ATTEMPT, MOMENT).request
    assert (query.method, query.body) == ("GET", b"")
    assert query.url.endswith(f"/v3/pay/transactions/out-trade-no/{ATTEMPT.out_trade_no}?mchid=1900000001")
    close = wx().close(ATTEMPT, MOMENT).request
    assert (close.method, close.body) == ("POST", b'{"mchid":"1900000001"}')
    assert wx().query_refund(REFUND, MOMENT).request.url.endswith(f"/v3/refund/domestic/refunds/{REFUND.out_refund_no}")


@pytest.mark.parametrize("ours", [timedelta(minutes=1), timedelta(hours=2, microseconds=5), timedelta(days=7)])
def test_wechat_expiry_is_ours(ours: timedelta) -> None:
    request = wx().pay(paying(expire_time=NOW + ours), MOMENT).request
    assert parse_rfc3339(json.loads(request.body)["time_expire"]) == (NOW + ours).replace(microsecond=0)


# Alipay


def test_alipay_precreate() -> None:
    request = qr().pay(PAY, MOMENT).request
    fields = sent(request)
    assert request.method == "POST"
    assert [name for name, _ in parse_qsl(request.body.decode())] == ["biz_content"]
    assert (fields["method"], fields["app_id"], fields["notify_url"]) == (
        "alipay.trade.precreate", "2021000000000001", PAY.callback_url,
    )  # fmt: skip
    assert (fields["format"], fields["charset"], fields["sign_type"], fields["version"]) == ("JSON", "utf-8", "RSA2", "1.0")
    assert biz(request) == {
        "out_trade_no": PAY.out_trade_no, "total_amount": "10000000.00", "subject": "一杯咖啡",
        "time_expire": alipay(PAY.expire_time), "product_code": "FACE_TO_FACE_PAYMENT",
    }  # fmt: skip
    assert _ali_signature_is_right(fields)


@pytest.mark.parametrize("days", [0.01, 1, 7, 15, 30])
def test_alipay_expiry_is_ours(days: float) -> None:
    expiry = NOW + timedelta(days=days)
    assert parse_alipay(biz(qr().pay(paying(expire_time=expiry), MOMENT).request)["time_expire"]) == expiry.replace(microsecond=0)


def test_alipay_refund_and_queries() -> None:
    assert biz(qr().refund(REFUND, MOMENT).request) == {
        "out_trade_no": REFUND.out_trade_no, "refund_amount": "1234567.89", "out_request_no": REFUND.out_refund_no,
        "refund_reason": "退货",
    }  # fmt: skip
    query = biz(qr().query_refund(REFUND, MOMENT).request)
    assert (query["out_trade_no"], query["out_request_no"]) == (REFUND.out_trade_no, REFUND.out_refund_no)
    for call in (qr().query(ATTEMPT, MOMENT), qr().close(ATTEMPT, MOMENT)):
        assert biz(call.request) == {"out_trade_no": ATTEMPT.out_trade_no}
        assert _ali_signature_is_right(sent(call.request))


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (1, "0.01"), (10, "0.10"), (99, "0.99"), (100, "1.00"), (101, "1.01"), (1_000_000_000, "10000000.00"),
        (10_000_000_000, "100000000.00"), (9_999_999_999, "99999999.99"), (2_930, "29.30"), (1_999, "19.99"),
    ],
)  # fmt: skip
def test_amounts_are_exact(amount: int, text: str) -> None:
    assert (yuan(amount), fen(text)) == (text, amount)
    assert biz(qr().pay(paying(amount=amount), MOMENT).request)["total_amount"] == text
    assert json.loads(wx().pay(paying(amount=amount), MOMENT).request.body)["amount"]["total"] == amount


def test_yuan_without_decimals() -> None:
    assert (fen("1"), fen("1.5"), fen("0"), fen("007.10")) == (100, 150, 0, 710)


# Texts


@pytest.mark.parametrize("subject", [HARD_TEXT, "😀" * 32, '"', "\\", "</script>", "a\u2028b", "١٢٣"])
def test_a_subject_is_sent_unchanged(subject: str) -> None:
    order = paying(subject=subject, body=subject)
    assert json.loads(wx().pay(order, MOMENT).request.body)["description"] == subject
    request = qr().pay(order, MOMENT).request
    assert (biz(request)["subject"], biz(request)["body"]) == (subject, subject)
    assert _ali_signature_is_right(sent(request))
    for mode in ("url", "form"):
        fields = _page_fields(pc().pay(paying(subject=subject, display_mode=mode), MOMENT))
        assert json.loads(fields["biz_content"])["subject"] == subject
        assert _ali_signature_is_right(fields)


def test_alipay_urls_are_encoded_once_and_in_full() -> None:
    url = qr().pay(PAY, MOMENT).request.url
    assert re.fullmatch(r"https://ali\.example\.test/gateway\.do\?[A-Za-z0-9_.~%&=-]+", url)
    assert "+" not in url
    assert unquote(url.split("notify_url=")[1].split("&")[0]) == PAY.callback_url


class _Form(HTMLParser):
    """Reads a page like a browser."""

    def __init__(self) -> None:
        super().__init__()
        self.action, self.method, self.inputs, self.tags = "", "", dict[str, str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action, self.method = values["action"], values["method"]
        elif tag == "input":
            self.inputs[values["name"]] = values["value"]


def _page_fields(outcome: PayOutcome) -> dict[str, str]:
    assert outcome.status is PayStatus.WAITING
    if outcome.display_mode == "url":
        assert outcome.display_content.startswith("https://ali.example.test/gateway.do?")
        return dict(parse_qsl(urlsplit(outcome.display_content).query))
    form = _Form()
    form.feed(outcome.display_content)
    form.close()
    assert (form.tags, form.method) == (["form", "input", "script"], "post")
    return {**dict(parse_qsl(urlsplit(form.action).query)), **form.inputs}


@pytest.mark.parametrize("mode", ["url", "form", ""])
def test_the_page(mode: str) -> None:
    outcome = pc().pay(paying(display_mode=mode), MOMENT)
    assert outcome.display_mode == (mode or "url")
    fields = _page_fields(outcome)
    assert (fields["method"], fields["return_url"], fields["notify_url"]) == (
        "alipay.trade.page.pay", PAY.return_url, PAY.callback_url,
    )  # fmt: skip
    content = json.loads(fields["biz_content"])
    assert (content["product_code"], content["total_amount"]) == ("FAST_INSTANT_TRADE_PAY", "10000000.00")
    assert _ali_signature_is_right(fields)


def test_the_form_escapes_html() -> None:
    hostile = paying(subject='"><script>alert(1)</script>', return_url='https://a.test/?x="><img src=x>', display_mode="form")
    html = pc().pay(hostile, MOMENT).display_content
    assert "<script>alert" not in html
    assert "<img" not in html
    assert html.count("<script>") == 1
    assert _ali_signature_is_right(_page_fields(pc().pay(hostile, MOMENT)))


def test_empty_parameters_are_left_out() -> None:
    fields = _page_fields(pc().pay(paying(return_url=""), MOMENT))
    assert "return_url" not in fields
    assert "body" not in json.loads(fields["biz_content"])


def test_the_page_in_certificate_mode() -> None:
    fields = _page_fields(AlipayPcCodec(ali_cert_config()).pay(PAY, MOMENT))
    assert re.fullmatch("[0-9a-f]{32}", fields["app_cert_sn"])
    assert _ali_signature_is_right(fields)


# Times


def test_times_are_china_time_in_every_server_zone(zone: str) -> None:
    late = datetime(2026, 12, 31, 16, 0, 0, 999_999, tzinfo=UTC)
    for moment in (late, late.astimezone(timezone(timedelta(hours=-5))), late.astimezone(timezone(timedelta(hours=5, minutes=45)))):
        at = RequestContext(moment, "n" * 32)
        order = paying(expire_time=moment + timedelta(minutes=30))
        request = wx().pay(order, at).request
        assert json.loads(request.body)["time_expire"] == "2027-01-01T00:30:00+08:00"
        assert f'timestamp="{int(late.timestamp())}"' in dict(request.headers)["Authorization"]
        fields = sent(qr().pay(order, at).request)
        assert fields["timestamp"] == "2027-01-01 00:00:00"
        assert json.loads(fields["biz_content"])["time_expire"] == "2027-01-01 00:30:00"
        assert _page_fields(pc().pay(order, at))["timestamp"] == "2027-01-01 00:00:00"
    assert parse_alipay("2027-01-01 00:00:00") == late.replace(microsecond=0)
    assert parse_rfc3339("2027-01-01T00:00:00+08:00") == late.replace(microsecond=0)


@pytest.mark.parametrize("text", ["", "x", "2026-01-02", "2026-01-02 03:04", "2026-13-01 00:00:00", "2026-01-02T03:04:05"])
def test_invalid_times(text: str) -> None:
    assert parse_alipay(text) is None
    assert parse_rfc3339(text) is None


def test_a_time_with_milliseconds() -> None:
    assert parse_alipay("2026-01-02 03:04:05.678") == parse_rfc3339("2026-01-02T03:04:05+08:00")
