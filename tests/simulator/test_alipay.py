"""Alipay: precreate, page payments, query, close, expiry, certificates."""

from __future__ import annotations

import base64
import datetime
import json
import time
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from cryptography import x509
from yarl import URL

from .merchant import CHINA, AlipayClient, SimulatorSystem

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(("certificates", "get"), [(False, False), (True, False), (False, True), (True, True)])
async def test_precreate_pay_query_notify(system: SimulatorSystem, certificates: bool, get: bool) -> None:
    client = AlipayClient(system, certificates=certificates, get=get)
    created = await client.precreate("order1", "12.34", passback_params="a%3D1")
    assert created["qr_code"].startswith("https://qr.alipay.com/")
    assert "https:\\/\\/qr" in client.last
    assert ("alipay_cert_sn" in json.loads(client.last)) is certificates
    if certificates:
        assert json.loads(client.last)["alipay_cert_sn"] == system.keys.alipay["alipay_cert_sn"]
    assert (await client.query("order1"))["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    assert (await system.post("/simulator/pay/order1")).json["wire_state"] == "TRADE_SUCCESS"
    found = await client.query("order1")
    assert (found["trade_status"], found["total_amount"], found["code"]) == ("TRADE_SUCCESS", "12.34", "10000")
    (notification,) = await system.notifications(1)
    notified = client.notified(notification)
    assert notified["trade_status"] == "TRADE_SUCCESS"
    assert (notified["total_amount"], notified["out_trade_no"], notified["trade_no"]) == ("12.34", "order1", found["trade_no"])
    assert (notified["app_id"], notified["seller_id"]) == (client.ids["app_id"], client.ids["seller_id"])
    assert notified["passback_params"] == "a%3D1"
    assert notified["body"] == ""


async def test_scan_creates_the_trade(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    created = await client.precreate("order1")
    closed = await client.call("alipay.trade.close", {"out_trade_no": "order1"})
    assert closed["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    by_code = await system.get("/cashier?" + urlencode({"code": created["qr_code"]}))
    assert by_code.headers["Location"] == "/cashier/order1?protocol=alipay"
    assert (await system.get("/cashier/order1")).status == 200
    assert (await client.query("order1"))["trade_status"] == "WAIT_BUYER_PAY"
    assert (await client.call("alipay.trade.close", {"out_trade_no": "order1"}))["code"] == "10000"
    assert (await client.query("order1"))["trade_status"] == "TRADE_CLOSED"
    assert (await client.call("alipay.trade.close", {"out_trade_no": "order1"}))["sub_code"] == "ACQ.TRADE_STATUS_ERROR"
    assert (await client.precreate("order1"))["sub_code"] == "ACQ.TRADE_HAS_CLOSE"
    assert (await system.post("/simulator/pay/order1")).status == 409


async def test_used_number(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    first = await client.precreate("order1")
    assert (await client.precreate("order1"))["qr_code"] == first["qr_code"]
    assert (await client.precreate("order1", "2.00"))["sub_code"] == "ACQ.CONTEXT_INCONSISTENT"
    await system.post("/simulator/pay/order1", {"notify": False})
    assert (await client.precreate("order1"))["sub_code"] == "ACQ.TRADE_HAS_SUCCESS"
    assert (await client.call("alipay.trade.close", {"out_trade_no": "order1"}))["sub_code"] == "ACQ.TRADE_STATUS_ERROR"


@pytest.mark.parametrize("get", [False, True])
async def test_page_pay(system: SimulatorSystem, get: bool) -> None:
    client = AlipayClient(system, get=get)
    biz = {"out_trade_no": "page1", "total_amount": "1.00", "subject": "<b>Tea</b>", "product_code": "FAST_INSTANT_TRADE_PAY"}
    more = {"notify_url": system.receiver_url, "return_url": "http://127.0.0.1:9/back?x=1"}
    status, text = await client.raw(client.params("alipay.trade.page.pay", biz, **more))
    assert status == 200
    assert "Pay</button>" in text
    assert "&lt;b&gt;Tea" in text
    assert (await client.query("page1"))["trade_status"] == "WAIT_BUYER_PAY"
    pressed = await system.form("/cashier/page1/pay")
    assert (pressed.status, pressed.headers["Location"]) == (303, "/cashier/page1?protocol=alipay")
    client.notified((await system.notifications(1))[0])
    cashier = (await system.get("/cashier/page1")).body.decode()
    back = cashier.split('">Return to the merchant')[0].rsplit('href="', 1)[1].replace("&amp;", "&")
    params = dict(parse_qsl(urlsplit(back).query))
    assert params.pop("x") == "1"
    assert client.genuine(params)
    wrong = client.params("alipay.trade.page.pay", biz) | {"return_url": "http://127.0.0.1:9/evil"}
    assert "isv.invalid-signature" in (await client.raw(wrong))[1]
    wap = client.params("alipay.trade.wap.pay", biz | {"out_trade_no": "wap1", "product_code": "QUICK_WAP_WAY"})
    assert "Pay</button>" in (await client.raw(wap))[1]


async def test_expiry(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.precreate("order1", qr_code_timeout_express="90m")
    await client.precreate(
        "order2", time_expire=datetime.datetime.fromtimestamp(time.time() + 3600, CHINA).strftime("%Y-%m-%d %H:%M:%S")
    )
    await system.get("/cashier/order2")
    await client.precreate("order3")
    await system.advance(3601)
    assert (await client.query("order2"))["trade_status"] == "TRADE_CLOSED"
    assert (await system.post("/simulator/pay/order2")).status == 409
    await system.advance(1800)
    assert (await system.get("/cashier/order1")).status == 200
    assert (await client.query("order1"))["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    assert (await system.post("/simulator/pay/order1")).status == 409
    assert (await system.post("/simulator/pay/order3", {"notify": False})).status == 200
    assert (await system.post("/simulator/pay/order2", {"force": True})).status == 200
    assert (await client.query("order2"))["trade_status"] == "TRADE_SUCCESS"


async def test_refused_requests(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    biz = {"out_trade_no": "order1"}

    async def notified(params: dict[str, str]) -> dict[str, str]:
        _, client.last = await client.raw(params)
        document = json.loads(client.last)
        return dict(document.get("alipay_trade_query_response") or document["error_response"])

    tampered = client.params("alipay.trade.query", biz) | {"notify_url": "http://x"}
    answer = await notified(tampered)
    assert (answer["code"], answer["sub_code"]) == ("40002", "isv.invalid-signature")
    assert client.verified(client.last, "alipay_trade_query_response")
    unknown = client.params("alipay.trade.query", biz) | {"app_id": "2021000000000000"}
    assert (await notified(unknown))["sub_code"] == "isv.invalid-app-id"
    assert "sign" not in json.loads(client.last)
    assert (await notified(client.params("alipay.no.such", biz)))["sub_code"] == "isv.invalid-method"
    unsigned = client.params("alipay.trade.query", biz)
    del unsigned["sign"]
    assert (await notified(unsigned))["sub_code"] == "isv.missing-signature"
    assert (await notified(client.params("alipay.trade.query", biz, sign_type="RSA")))["sub_code"] == "isv.invalid-signature-type"
    assert (await notified(client.params("alipay.trade.query", biz, timestamp="now")))["sub_code"] == "isv.invalid-timestamp"
    wrong_sn = AlipayClient(system, certificates=True)
    wrong_sn.ids = dict(wrong_sn.ids, app_cert_sn="0" * 32)
    assert (await notified(wrong_sn.params("alipay.trade.query", biz)))["sub_code"] == "isv.invalid-app-cert-sn"


async def test_empty_parameters_pass_signed_or_not(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.query("order1")
    kept = client.params("alipay.trade.query", {"out_trade_no": "order1"}, notify_url="")
    dropped = client.params("alipay.trade.query", {"out_trade_no": "order1"}) | {"notify_url": ""}
    for params in (kept, dropped):
        assert "TRADE_NOT_EXIST" in (await client.raw(params))[1]


@pytest.mark.parametrize("amount", ["0.00", "0.001", "1e3x", "-1", "100000000.01", None, True])
async def test_invalid_amounts(system: SimulatorSystem, amount: object) -> None:
    client = AlipayClient(system)
    answer = await client.call("alipay.trade.precreate", {"out_trade_no": "order1", "subject": "x", "total_amount": amount})
    assert answer["sub_code"] == "ACQ.INVALID_PARAMETER"


async def test_certificate_download(system: SimulatorSystem) -> None:
    client = AlipayClient(system, certificates=True)
    method = "alipay.open.app.alipaycert.download"
    answer = await client.call(method, {"alipay_cert_sn": client.ids["alipay_cert_sn"]})
    certificate = x509.load_pem_x509_certificate(base64.b64decode(answer["alipay_cert_content"]))
    root = x509.load_pem_x509_certificates(system.keys.file("alipay", "alipayRootCert.crt").read_bytes())[0]
    certificate.verify_directly_issued_by(root)
    assert (await client.call(method, {"alipay_cert_sn": "x"}))["code"] == "40004"


async def test_a_form_with_everything_in_the_body(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    body = urlencode(client.params("alipay.trade.query", {"out_trade_no": "order+1 &x"})).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with system.session.post(URL(system.base + "/gateway.do"), data=body, headers=headers) as response:
        assert "TRADE_NOT_EXIST" in await response.text()
