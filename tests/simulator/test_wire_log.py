"""The wire log: the trade of an exchange, its content, and the number of dropped exchanges."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from paycenter_server.simulator.wire_log import MAX_PER_TRADE, WireLog

from .merchant import AlipayClient, SimulatorSystem, WechatClient
from .xml_merchant import XmlClient

pytestmark = pytest.mark.asyncio


async def log(system: SimulatorSystem, number: str, more: str = "") -> list[dict[str, Any]]:
    return list((await system.get(f"/simulator/log?out_trade_no={number}{more}")).json)


async def test_refused_v3_calls_are_on_the_page_of_the_trade(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"notify": False})
    await client.refund("order0001", "refund1", 1)
    transaction = (await client.query("order0001")).json["transaction_id"]

    async def calls() -> list[dict[str, Any]]:  # the notification of the refund may come at any time
        return [entry for entry in await log(system, "order0001") if entry["direction"] == "in"]

    before = len(await calls())
    order, refund = client.order("order0001"), {"transaction_id": transaction, "out_refund_no": "refund2"}
    for method, path, body in (
        ("POST", "/v3/pay/transactions/native", order),
        ("POST", "/v3/refund/domestic/refunds", refund),
        ("GET", "/v3/refund/domestic/refunds/refund1", None),
        ("GET", f"/v3/pay/transactions/id/{transaction}?mchid=1", None),
        ("GET", "/v3/pay/transactions/out-trade-no/order0001?mchid=1", None),
    ):
        assert (await client.call(method, path, body, signature="AAAA")).status == 401
    refused = (await calls())[:5]
    assert {entry["verdict"] for entry in refused} == {"refused: SIGN_ERROR 错误的签名,验签失败"}
    assert len(await calls()) == before + 5
    assert "refused: SIGN_ERROR 错误的签名" in (await system.get("/trades/order0001")).body.decode()


async def test_refused_alipay_and_v2_calls_are_on_the_page_of_the_trade(system: SimulatorSystem) -> None:
    alipay, xml = AlipayClient(system), XmlClient(system)
    await alipay.precreate("ali1")
    for biz in ({"out_trade_no": "ali1"}, {"out_trade_no": "ali1", "out_request_no": "r"}):
        await alipay.raw(alipay.params("alipay.trade.query", biz) | {"sign": "AAAA"})
    assert [entry["verdict"] for entry in await log(system, "ali1")][:2] == ["refused: isv.invalid-signature"] * 2
    assert "isv.invalid-signature" in (await system.get("/trades/ali1")).body.decode()
    await xml.order("order1")
    good = xml.body({"out_trade_no": "order1"})
    for body in (good.replace(b"<sign>", b"<sign>0"), good.replace(b"</xml>", b""), good + b"<"):
        await xml.raw("/pay/orderquery", body)
    verdicts = [entry["verdict"] for entry in await log(system, "order1")][:3]
    assert verdicts == ["refused: FAIL XML格式错误"] * 2 + ["refused: FAIL 签名错误"]


async def test_malformed_calls_are_on_the_page_of_the_trade(system: SimulatorSystem) -> None:
    body = b'{"out_trade_no": "order0001", "description": "\\ud800"}'
    async with system.session.post(system.base + "/v3/pay/transactions/native", data=body) as answer:
        assert answer.status in (400, 401)
    data = {"method": "alipay.trade.query", "biz_content": '{"out_trade_no": "order0001", "x": ' + "[" * 3000}
    async with system.session.post(system.base + "/gateway.do", data=data) as answer:
        assert answer.status == 200
    assert [entry["api"] for entry in await log(system, "order0001")] == ["alipay.trade.query", "wx.native"]


async def test_limit_per_trade(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await client.create("order0002")
    for _ in range(MAX_PER_TRADE + 5):
        await client.query("order0002")
    assert [entry["api"] for entry in await log(system, "order0001")] == ["wx.native"]
    assert len(await log(system, "order0002")) == MAX_PER_TRADE
    answer = await system.get("/simulator/log?out_trade_no=order0002")
    assert answer.headers["Simulator-Dropped"] == "6"
    assert "6 older exchanges were dropped" in (await system.get("/trades/order0002")).body.decode()
    assert "dropped" not in (await system.get("/trades/order0001")).body.decode()
    await system.restart()
    assert "No entries since the start of the program." in (await system.get("/trades/order0001")).body.decode()


async def test_total_limit() -> None:
    kept = WireLog()
    for number in range(6000):
        kept.add(0.0, "in", "wechatpay_v3", "wx.native", f"order{number}", "POST", "/")
    assert sum(1 for _ in kept.newest()) == 5000
    assert (list(kept.newest("order0")), kept.dropped("order0")) == ([], 1)
    assert kept.dropped("order5999") == 0
    for _ in range(2000):
        kept.add(0.0, "in", "wechatpay_v3", "", "", "POST", "/")
    assert sum(1 for entry in kept.newest() if not entry.number) == 500
    entry = kept.add(0.0, "in", "alipay", "", "", "POST", "/")
    kept.set_number(entry, "order5999")
    assert [item.protocol for item in kept.newest("order5999")] == ["alipay", "wechatpay_v3"]
    assert len(list(kept.newest("order5999", "alipay"))) == 1


async def test_the_same_number_at_both_channels(system: SimulatorSystem) -> None:
    await WechatClient(system).create("order_1")
    await AlipayClient(system).precreate("order_1")
    await system.fault("wx.query", "slow", out_trade_no="order_1")
    assert len(await log(system, "order_1")) == 2
    for protocol, mine, other in (("wechatpay_v3", "wx.native", "precreate"), ("alipay", "alipay.trade.precreate", "wx.native")):
        assert [entry["api"] for entry in await log(system, "order_1", f"&protocol={protocol}")] == [mine]
        page = (await system.get(f"/trades/order_1?protocol={protocol}")).body.decode()
        assert f"<b>{mine}</b>" in page and f"<b>{other}" not in page
        assert f'href="/cashier/order_1?protocol={protocol}"' in page
        assert ('<td data-name="Fault">slow' in page) is (protocol == "wechatpay_v3")
    index = (await system.get("/")).body.decode()
    assert 'href="/trades/order_1?protocol=wechatpay_v3"' in index and 'href="/trades/order_1?protocol=alipay"' in index
    pressed = await system.form("/cashier/order_1/pay?protocol=wechatpay_v3")
    assert pressed.headers["Location"] == "/cashier/order_1?protocol=wechatpay_v3"
    assert (await system.get("/simulator/trades/order_1?protocol=wechatpay_v3")).json["paid"] is True
    assert (await system.get("/simulator/trades/order_1?protocol=alipay")).json["paid"] is False
    back = await system.form("/faults", api="wx.query", fault="no", protocol="wechatpay_v3", **{"from": "order_1"})
    assert back.headers["Location"].startswith("/trades/order_1?protocol=wechatpay_v3&problem=")


async def test_headers_and_bodies(system: SimulatorSystem) -> None:
    alipay, xml, wechat = AlipayClient(system), XmlClient(system), WechatClient(system)
    await alipay.precreate("ali1")
    await xml.order("order1")
    await wechat.create("order0001")
    for number in ("ali1", "order1", "order0001"):
        headers = (await log(system, number))[-1]["request_headers"]
        assert {"Host", "Content-Type", "User-Agent", "Accept"} <= set(headers)
    assert (await log(system, "order0001"))[0]["request_headers"]["Authorization"]
    biz = {"out_trade_no": "page1", "total_amount": "1.00", "subject": "Tea", "product_code": "FAST_INSTANT_TRADE_PAY"}
    await alipay.raw(alipay.params("alipay.trade.page.pay", biz))
    shown = (await log(system, "page1"))[0]
    assert shown["answer_body"].startswith("<!doctype html>") and len(shown["answer_body"]) < 5000
    async with system.session.post(system.base + "/pay/nothing", data=xml.body({"out_trade_no": "order1"})) as answer:
        assert answer.status == 404
    assert (await log(system, "order1"))[0]["verdict"] == "refused: no such path"


async def test_answer_of_the_merchant(system: SimulatorSystem) -> None:
    async def receive(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"code": "FAIL"}, status=500, headers={"X-Trace": "trace-1"})

    app = web.Application()
    app.router.add_post("/n", receive)
    server = TestServer(app)
    await server.start_server()
    try:
        await WechatClient(system).create("order0001", notify_url=str(server.make_url("/n")))
        await system.post("/simulator/pay/order0001")
        await system.advance(1)
    finally:
        await server.close()
    entry = (await log(system, "order0001"))[0]
    assert (entry["direction"], entry["status"], entry["answer_headers"]["X-Trace"]) == ("out", 500, "trace-1")
    assert json.loads(entry["answer_body"]) == {"code": "FAIL"}


async def test_notes_about_early_calls(system: SimulatorSystem) -> None:
    xml, wechat = XmlClient(system), WechatClient(system)
    for number, wait in (("order1", 0), ("order2", 301)):
        await xml.order(number)
        await system.advance(wait)
        await xml.call("/pay/closeorder", out_trade_no=number)
        verdict = (await log(system, number))[0]["verdict"]
        assert verdict == ("valid" if wait else "valid, but sooner than 5 minutes after the create: WeChat asks for 5 minutes")
    for number, wait in (("order3", 0), ("order4", 16)):
        await xml.micropay(number)
        await system.advance(wait)
        await xml.reverse(number)
        assert (await log(system, number))[0]["verdict"].startswith("valid, but sooner than 15 seconds") is not bool(wait)
    order = wechat.order("order0005") | {"payer": {"auth_code": "134567890123456789"}, "scene_info": {"store_info": {"id": "1"}}}
    del order["notify_url"]
    assert (await wechat.call("POST", "/v3/pay/transactions/codepay", order)).json["trade_state"] == "SUCCESS"
    ids = {"appid": wechat.ids["appid"], "mchid": wechat.ids["mchid"]}
    assert (await wechat.call("POST", "/v3/pay/transactions/out-trade-no/order0005/reverse", ids)).status == 200
    assert (await log(system, "order0005"))[0]["verdict"].startswith("valid, but sooner than 15 seconds")
