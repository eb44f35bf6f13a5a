"""The control API: misspelt options, the log of one channel, and the signed text of a refused signature."""

from __future__ import annotations

from .merchant import AlipayClient, SimulatorSystem, WechatClient


async def test_misspelt_options_are_refused(system: SimulatorSystem) -> None:
    """{"amout": 5} must not become a full refund."""
    await WechatClient(system).create("order0001")
    await system.post("/simulator/pay/order0001", {})
    for path, body in (
        ("/simulator/refund/order0001", {"amout": 5}),
        ("/simulator/resend/order0001", {"evry": True}),
        ("/simulator/fail/order0001", {"sate": "CLOSED"}),
        ("/simulator/close/order0001", {"now": True}),
        ("/simulator/finish/order0001", {"now": True}),
        ("/simulator/rotation", {"channel": "wechatpay", "dne": False}),
        ("/simulator/clock", {"advance_seconds": 5, "wait": 5}),
    ):
        answer = await system.post(path, body)
        assert answer.status == 400, path
        assert "; known: " in answer.json["error"]
    assert (await system.get("/simulator/trades/order0001")).json["refunded"] == 0
    assert (await system.get("/simulator/clock")).json["offset_seconds"] == 0


async def test_the_log_of_one_channel(system: SimulatorSystem) -> None:
    await WechatClient(system).create("order0001")
    assert (await system.get("/simulator/log?protocol=alipay")).json == []
    assert {entry["protocol"] for entry in (await system.get("/simulator/log?protocol=wechatpay_v3")).json} == {"wechatpay_v3"}
    assert (await system.get("/simulator/log?protocol=xx")).status == 400


async def test_refused_signature_shows_the_signed_text(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    refused = await client.call("POST", "/v3/pay/transactions/native", client.order("order0001"), signature="AAAA")
    notified = refused.json["detail"]["sign_information"]
    assert (notified["method"], notified["url"]) == ("POST", "/v3/pay/transactions/native")
    assert notified["truncated_sign_message"].startswith("POST\n/v3/pay/transactions/native\n")
    assert notified["sign_message_length"] > len(notified["truncated_sign_message"])
    alipay = AlipayClient(system)
    params = alipay.params("alipay.trade.query", {"out_trade_no": "order1"})
    _, text = await alipay.raw({**params, "sign": "AAAA"})
    assert f"app_id={params['app_id']}&" in text
    assert "验签字符串为" in text


async def test_calls_on_the_page_of_a_trade(system: SimulatorSystem) -> None:
    await AlipayClient(system).precreate("order1")
    await WechatClient(system).create("order0001")
    pages = {number: (await system.get(f"/trades/{number}")).body.decode() for number in ("order1", "order0001")}
    assert "<option>alipay.trade.query</option>" in pages["order1"]
    assert "<option>wx.query</option>" not in pages["order1"]
    assert "<option>wx.query</option>" in pages["order0001"]
    assert "<option>alipay.trade.query</option>" not in pages["order0001"]
