"""Notifications: the two retry schedules, accepted answers, wrong signatures, delays, resends."""

from __future__ import annotations

import itertools
import json

import pytest
from paycenter_server.simulator.alipay import notifications as alipay_notifications
from paycenter_server.simulator.wechatpay import notifications as wechatpay_notifications

from .merchant import AlipayClient, SimulatorSystem, WechatClient

pytestmark = pytest.mark.asyncio


async def test_wechat_retry_schedule(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    assert sum(wechatpay_notifications.RETRY_SCHEDULE) == 24 * 3600 + 4 * 60
    system.answers[:] = [(500, b"")] * 16
    await client.create("order0001")
    await system.post("/simulator/pay/order0001")
    await system.notifications(1)
    for sent, step in enumerate(wechatpay_notifications.RETRY_SCHEDULE, start=1):
        await system.advance(step - 1)
        assert len(system.received) == sent
        await system.advance(1)
        assert len(system.received) == sent + 1
    await system.advance(7 * 86400)
    assert len(system.received) == 16
    ids = {json.loads(item.body)["id"] for item in system.received}
    assert len(ids) == 1
    assert all(client.verified(item.headers, item.body) for item in system.received)
    (notification,) = (await system.get("/simulator/trades/order0001")).json["notifications"]
    assert (notification["state"], len(notification["attempts"])) == ("GAVE_UP", 16)


async def test_alipay_retry_schedule(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    system.answers[:] = [(200, b"success\n"), (200, b"fail"), (500, b"success"), (302, b"success"), (200, b"SUCCESS"), (204, b"")]
    await client.precreate("order1")
    await system.post("/simulator/pay/order1")
    await system.notifications(1)
    for sent, step in enumerate(itertools.islice(alipay_notifications.RETRY_SCHEDULE, 6), start=1):
        await system.advance(step + 0.5)
        assert len(system.received) == sent + 1
    received = [client.notified(item) for item in system.received]
    assert len({item["notify_id"] for item in received}) == 1
    assert len({item["notify_time"] for item in received}) == 7
    await system.advance(7 * 86400)
    assert len(system.received) == 7, "no send after the accepted one"


async def test_one_clock_change_covers_the_whole_retry_schedule(system: SimulatorSystem) -> None:
    system.answers[:] = [(404, b"")] * 20
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001")
    await system.advance(2 * 86400)
    assert len(system.received) == 16


async def test_the_clock(system: SimulatorSystem) -> None:
    assert (await system.get("/simulator/clock")).json["offset_seconds"] == 0
    moved = await system.post("/simulator/clock", {"now": "2030-01-01T00:00:00+08:00"})
    assert moved.json["now"].startswith("2030-01-01T00:00:0")
    wrongs: list[object] = [{}, {"now": "x"}, {"advance_seconds": "x"}, []]
    for wrong in wrongs:
        assert (await system.post("/simulator/clock", wrong)).status == 400
    client = WechatClient(system)
    created = await client.create("order0001")
    assert client.verified(created.headers, created.body), "signatures use the real time"
    assert (await system.post("/simulator/clock", {"reset": True})).json["offset_seconds"] == 0


@pytest.mark.parametrize("status", [200, 204])
async def test_wechat_accepts(system: SimulatorSystem, status: int) -> None:
    system.answers[:] = [(status, b"")]
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001")
    await system.notifications(1)
    await system.advance(86400)
    await system.notifications(1)


async def test_pay_twice_and_duplicates(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"times": 2})
    first, second = await system.notifications(2)
    assert client.opened(first) == client.opened(second)
    assert (await system.post("/simulator/pay/order0001", {"force": True})).status == 409
    await client.create("order0002")
    await system.fault("notify", "duplicate")
    await system.post("/simulator/pay/order0002")
    await system.notifications(4)


async def test_bad_signature_then_right(system: SimulatorSystem) -> None:
    wechat, alipay = WechatClient(system), AlipayClient(system)
    system.answers[:] = [(401, b"")]
    await wechat.create("order0001")
    await system.post("/simulator/pay/order0001", {"bad_signature": True})
    (wrong,) = await system.notifications(1)
    assert not wechat.verified(wrong.headers, wrong.body)
    await system.advance(15)
    assert wechat.verified(system.received[1].headers, system.received[1].body)
    system.answers[:] = [(200, b"failure")]
    await alipay.precreate("order1")
    await system.post("/simulator/pay/order1", {"bad_signature": True})
    await system.notifications(3)
    with pytest.raises(AssertionError):
        alipay.notified(system.received[2])
    await system.advance(240)
    alipay.notified(system.received[3])


async def test_delay_and_no_notification(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"delay_seconds": 60})
    await client.create("order0002")
    await system.post("/simulator/pay/order0002", {"notify": False})
    assert (await client.query("order0001")).json["trade_state"] == "SUCCESS"
    await system.notifications(0)
    await system.advance(61)
    await system.notifications(1)


async def test_resend(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    assert (await system.post("/simulator/resend/order0001")).status == 409
    await system.post("/simulator/pay/order0001", {"notify": False})
    for count in (1, 2):
        assert (await system.post("/simulator/resend/order0001")).status == 200
        await system.notifications(count)


async def test_unreachable_receiver(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001", notify_url="http://127.0.0.1:1/notify")
    await client.create("order0002", notify_url="http://127.0.0.1:99999/notify")
    for number in ("order0001", "order0002"):
        await system.post(f"/simulator/pay/{number}")
    await system.advance(1)
    (notification,) = (await system.get("/simulator/trades/order0001")).json["notifications"]
    assert (notification["state"], notification["attempts"][0]["status"]) == ("WAITING", 0)
    assert "Connect" in notification["attempts"][0]["remark"]


async def test_signtest_drop_and_wrong_amount(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.fault("wx.notify", "signtest")
    await system.post("/simulator/pay/order0001")
    probe, right = await system.notifications(2)
    assert probe.headers["Wechatpay-Signature"].startswith("WECHATPAY/SIGNTEST/")
    assert not client.verified(probe.headers, probe.body)
    assert client.verified(right.headers, right.body)
    await client.create("order0002")
    await system.fault("wx.notify", "drop", out_trade_no="order0002")
    await system.post("/simulator/pay/order0002")
    await system.notifications(2)
    await system.fault("notify", "wrong_amount", amount=7)
    await system.advance(15)
    assert client.opened((await system.notifications(3))[2])["amount"]["total"] == 7
    await client.create("order0003")
    await system.fault("notify", "unsigned")
    await system.post("/simulator/pay/order0003")
    assert "Wechatpay-Signature" not in (await system.notifications(4))[3].headers
    alipay = AlipayClient(system)
    await alipay.precreate("order1")
    await system.fault("alipay.notify", "wrong_amount")
    await system.post("/simulator/pay/order1")
    assert alipay.notified((await system.notifications(5))[4])["total_amount"] == "1.01"
