"""WeChat Pay v3: refunds."""

from __future__ import annotations

import pytest

from .merchant import SimulatorSystem, WechatClient

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("public_key_mode", [True, False])
async def test_refund_is_processing_then_success_and_notifies(system: SimulatorSystem, public_key_mode: bool) -> None:
    client = WechatClient(system, public_key_mode=public_key_mode)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001")
    await system.notifications(1)
    answer = await client.refund("order0001", "refund@1", 30)
    assert client.verified(answer.headers, answer.body)
    assert answer.json["status"] == "PROCESSING"
    assert answer.json["amount"]["refund"] == 30
    _, notification = await system.notifications(2)
    assert client.verified(notification.headers, notification.body)
    notified = client.opened(notification)
    assert (notified["refund_status"], notified["out_refund_no"], notified["amount"]["refund"]) == ("SUCCESS", "refund@1", 30)
    assert "status" not in notified
    queried = (await client.refund_query("refund@1")).json
    assert (queried["status"], queried["refund_id"]) == ("SUCCESS", answer.json["refund_id"])
    assert queried["success_time"]
    assert (await client.query("order0001")).json["trade_state"] == "REFUND"
    again = await client.refund("order0001", "refund@1", 30)
    assert (again.json["refund_id"], again.json["status"]) == (answer.json["refund_id"], "SUCCESS")
    await system.notifications(2)


async def test_refused_refunds(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    for number in ("order0001", "order0002"):
        await client.create(number)
    unpaid = await client.refund("order0001", "refund1", 1)
    assert (unpaid.status, unpaid.json["code"]) == (404, "RESOURCE_NOT_EXISTS")
    assert (await client.refund_query("refund1")).json["code"] == "RESOURCE_NOT_EXISTS"
    for number in ("order0001", "order0002"):
        await system.post(f"/simulator/pay/{number}", {"notify": False})
    assert (await client.refund("order0001", "refund1", 60)).status == 200
    for refund, amount, total, code in (
        ("refund2", 50, 100, "INVALID_REQUEST"),
        ("refund2", 10, 99, "REFUND_FEE_MISMATCH"),
        ("refund1", 40, 100, "REFUND_FEE_MISMATCH"),
        ("refund2", 0, 100, "PARAM_ERROR"),
    ):
        assert (await client.refund("order0001", refund, amount, total)).json["code"] == code
    assert (await client.refund("order0002", "refund1", 60)).json["code"] == "INVALID_REQUEST"
    bare = {"out_trade_no": "order0001", "out_refund_no": "refund2", "amount": {"refund": 10, "total": 100}}
    no_currency = await client.call("POST", "/v3/refund/domestic/refunds", bare)
    assert no_currency.json["code"] == "PARAM_ERROR"
    assert (await client.refund("order0001", "refund2", 40)).status == 200
    trade = (await system.get("/simulator/trades/order0001")).json
    assert (trade["refunded"], trade["paid_amount"]) == (100, 100)


async def test_not_enough_then_success(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"notify": False})
    await system.fault("wx.refund", "not_enough")
    poor = await client.refund("order0001", "refund1", 100)
    assert (poor.status, poor.json["code"]) == (403, "NOT_ENOUGH")
    assert (await client.refund("order0001", "refund1", 100)).json["status"] == "PROCESSING"


async def test_abnormal_and_closed(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"notify": False})
    await system.fault("wx.refund", "refund_closed")
    await client.refund("order0001", "refund1", 100)
    (closed,) = await system.notifications(1)
    assert client.opened(closed)["refund_status"] == "CLOSED"
    await system.fault("wx.refund", "refund_abnormal")
    assert (await client.refund("order0001", "refund2", 100)).status == 200
    abnormal = (await system.notifications(2))[1]
    assert b"REFUND.ABNORMAL" in abnormal.body
    refund_id = (await client.refund_query("refund2")).json["refund_id"]
    path = f"/v3/refund/domestic/refunds/{refund_id}/apply-abnormal-refund"
    assert (await client.call("POST", path, {"out_refund_no": "refund2"})).json["status"] == "PROCESSING"
    assert client.opened((await system.notifications(3))[2])["refund_status"] == "SUCCESS"


async def test_pending_follows_the_clock(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"notify": False})
    await system.fault("wx.refund", "refund_pending", seconds=3600)
    await client.refund("order0001", "refund1", 100)
    await system.advance(3500)
    assert (await client.refund_query("refund1")).json["status"] == "PROCESSING"
    await system.advance(100)
    assert (await client.refund_query("refund1")).json["status"] == "SUCCESS"


async def test_console_refund(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"notify": False})
    assert (await system.post("/simulator/refund/order0001", {"amount": 101})).status == 409
    refund = (await system.post("/simulator/refund/order0001", {"amount": 40})).json["refunds"][0]
    assert refund["by_console"] is True
    assert (await client.query("order0001")).json["trade_state"] == "REFUND"
    await system.notifications(0)
