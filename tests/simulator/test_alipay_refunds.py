"""Alipay: refunds and their notifications."""

from __future__ import annotations

import pytest

from .merchant import AlipayClient, SimulatorSystem

pytestmark = pytest.mark.asyncio


async def test_partial_then_full(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.precreate("order1")
    await system.post("/simulator/pay/order1")
    first = await client.refund("order1", "r1", "0.30", query_options=["refund_detail_item_list"])
    assert (first["fund_change"], first["refund_fee"], first["send_back_fee"]) == ("Y", "0.30", "0.30")
    assert first["refund_detail_item_list"][0]["amount"] == "0.30"
    again = await client.refund("order1", "r1", "0.30")
    assert (again["fund_change"], again["refund_fee"]) == ("N", "0.30")
    assert (await client.query("order1"))["trade_status"] == "TRADE_SUCCESS"
    assert (await client.refund_query("order1", "r1"))["refund_status"] == "REFUND_SUCCESS"
    assert (await client.refund("order1", "r2", "0.70"))["refund_fee"] == "1.00"
    assert (await client.query("order1"))["trade_status"] == "TRADE_CLOSED"
    await system.notifications(3)
    notified = {item.get("out_biz_no", ""): item for item in map(client.notified, system.received)}
    assert set(notified) == {"", "r1", "r2"}
    assert "gmt_refund" not in notified[""]
    assert (notified["r1"]["trade_status"], notified["r1"]["refund_fee"]) == ("TRADE_SUCCESS", "0.30")
    assert (notified["r2"]["trade_status"], notified["r2"]["refund_fee"]) == ("TRADE_CLOSED", "1.00")
    assert notified["r1"]["gmt_refund"]


async def test_full_refund_without_request_number(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.precreate("order1")
    await system.post("/simulator/pay/order1", {"notify": False})
    partial = await client.call("alipay.trade.refund", {"out_trade_no": "order1", "refund_amount": "0.50"})
    assert partial["sub_code"] == "ACQ.INVALID_PARAMETER"
    full = await client.call("alipay.trade.refund", {"out_trade_no": "order1", "refund_amount": 1})
    assert full["fund_change"] == "Y"
    assert (await client.refund_query("order1", "order1"))["refund_amount"] == "1.00"


async def test_refused_refunds(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    assert (await client.refund("order1", "r1", "1.00"))["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    await client.precreate("order1")
    await system.get("/cashier/order1")
    assert (await client.refund("order1", "r1", "1.00"))["sub_code"] == "ACQ.TRADE_STATUS_ERROR"
    await system.post("/simulator/pay/order1", {"notify": False})
    assert (await client.refund("order1", "r1", "1.01"))["sub_code"] == "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL"
    await client.refund("order1", "r1", "0.40")
    assert (await client.refund("order1", "r1", "0.50"))["sub_code"] == "ACQ.DISCORDANT_REPEAT_REQUEST"
    assert "refund_status" not in await client.refund_query("order1", "unknown")
    assert (await system.post("/simulator/finish/order1")).json["wire_state"] == "TRADE_FINISHED"
    assert (await client.refund("order1", "r2", "0.10"))["sub_code"] == "ACQ.TRADE_HAS_FINISHED"


async def test_faults_of_refunds(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.precreate("order1")
    await system.post("/simulator/pay/order1", {"notify": False})
    await system.fault("alipay.trade.refund", "not_enough")
    assert (await client.refund("order1", "r1", "0.40"))["sub_code"] == "ACQ.SELLER_BALANCE_NOT_ENOUGH"
    await system.fault("alipay.trade.refund", "refund_pending", seconds=600)
    assert (await client.refund("order1", "r1", "0.40"))["fund_change"] == "N"
    assert "refund_status" not in await client.refund_query("order1", "r1")
    await system.advance(600)
    assert (await client.refund_query("order1", "r1"))["refund_status"] == "REFUND_SUCCESS"
    (notified,) = map(client.notified, await system.notifications(1))
    assert notified["refund_fee"] == "0.40"


async def test_console_refund_notifies(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.precreate("order1")
    await system.post("/simulator/pay/order1", {"notify": False})
    assert (await system.post("/simulator/refund/order1")).status == 200
    (notified,) = map(client.notified, await system.notifications(1))
    assert (notified["trade_status"], notified["refund_fee"]) == ("TRADE_CLOSED", "1.00")
