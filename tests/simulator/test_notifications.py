"""Notifications: the two retry schedules, accepted answers, wrong signatures, delays, resends."""

from __future__ import annotations

import itertools
import json

import pytest
from paycenter_server.simulator.alipay import notifications as alipay_notifications
from paycenter_server.simulator.wechatpay import notifications as wechatpay_notifications

from .merchant import AlipayClient, Bench, WechatClient

pytestmark = pytest.mark.asyncio


async def test_wechat_retry_schedule(bench: Bench) -> None:
    client = WechatClient(bench)
    assert sum(wechatpay_notifications.RETRY_SCHEDULE) == 24 * 3600 + 4 * 60
    bench.answers[:] = [(500, b"")] * 16
    await client.create("order0001")
    await bench.post("/simulator/pay/order0001")
    await bench.notifications(1)
    for sent, step in enumerate(wechatpay_notifications.RETRY_SCHEDULE, start=1):
        await bench.advance(step - 1)
        assert len(bench.received) == sent
        await bench.advance(1)
        assert len(bench.received) == sent + 1
    await bench.advance(7 * 86400)
    assert len(bench.received) == 16
    ids = {json.loads(item.body)["id"] for item in bench.received}
    assert len(ids) == 1
    assert all(client.verified(item.headers, item.body) for item in bench.received)
    (notification,) = (await bench.get("/simulator/trades/order0001")).json["notifications"]
    assert (notification["state"], len(notification["attempts"])) == ("GAVE_UP", 16)


async def test_alipay_retry_schedule(bench: Bench) -> None:
    client = AlipayClient(bench)
    bench.answers[:] = [(200, b"success\n"), (200, b"fail"), (500, b"success"), (302, b"success"), (200, b"SUCCESS"), (204, b"")]
    await client.precreate("order1")
    await bench.post("/simulator/pay/order1")
    await bench.notifications(1)
    for sent, step in enumerate(itertools.islice(alipay_notifications.RETRY_SCHEDULE, 6), start=1):
        await bench.advance(step + 0.5)
        assert len(bench.received) == sent + 1
    received = [client.notified(item) for item in bench.received]
    assert len({item["notify_id"] for item in received}) == 1
    assert len({item["notify_time"] for item in received}) == 7
    await bench.advance(7 * 86400)
    assert len(bench.received) == 7, "no send after the accepted one"


async def test_one_clock_change_covers_the_whole_retry_schedule(bench: Bench) -> None:
    bench.answers[:] = [(404, b"")] * 20
    client = WechatClient(bench)
    await client.create("order0001")
    await bench.post("/simulator/pay/order0001")
    await bench.advance(2 * 86400)
    assert len(bench.received) == 16


async def test_the_clock(bench: Bench) -> None:
    assert (await bench.get("/simulator/clock")).json["offset_seconds"] == 0
    moved = await bench.post("/simulator/clock", {"now": "2030-01-01T00:00:00+08:00"})
    assert moved.json["now"].startswith("2030-01-01T00:00:0")
    wrongs: list[object] = [{}, {"now": "x"}, {"advance_seconds": "x"}, []]
    for wrong in wrongs:
        assert (await bench.post("/simulator/clock", wrong)).status == 400
    client = WechatClient(bench)
    created = await client.create("order0001")
    assert client.verified(created.headers, created.body), "signatures use the real time"
    assert (await bench.post("/simulator/clock", {"reset": True})).json["offset_seconds"] == 0


@pytest.mark.parametrize("status", [200, 204])
async def test_wechat_accepts(bench: Bench, status: int) -> None:
    bench.answers[:] = [(status, b"")]
    client = WechatClient(bench)
    await client.create("order0001")
    await bench.post("/simulator/pay/order0001")
    await bench.notifications(1)
    await bench.advance(86400)
    await bench.notifications(1)


async def test_pay_twice_and_duplicates(bench: Bench) -> None:
    client = WechatClient(bench)
    await client.create("order0001")
    await bench.post("/simulator/pay/order0001", {"times": 2})
    first, second = await bench.notifications(2)
    assert client.opened(first) == client.opened(second)
    assert (await bench.post("/simulator/pay/order0001", {"force": True})).status == 409
    await client.create("order0002")
    await bench.fault("notify", "duplicate")
    await bench.post("/simulator/pay/order0002")
    await bench.notifications(4)


async def test_bad_signature_then_right(bench: Bench) -> None:
    wechat, alipay = WechatClient(bench), AlipayClient(bench)
    bench.answers[:] = [(401, b"")]
    await wechat.create("order0001")
    await bench.post("/simulator/pay/order0001", {"bad_signature": True})
    (wrong,) = await bench.notifications(1)
    assert not wechat.verified(wrong.headers, wrong.body)
    await bench.advance(15)
    assert wechat.verified(bench.received[1].headers, bench.received[1].body)
    bench.answers[:] = [(200, b"failure")]
    await alipay.precreate("order1")
    await bench.post("/simulator/pay/order1", {"bad_signature": True})
    await bench.notifications(3)
    with pytest.raises(AssertionError):
        alipay.notified(bench.received[2])
    await bench.advance(240)
    alipay.notified(bench.received[3])


async def test_delay_and_no_notification(bench: Bench) -> None:
    client = WechatClient(bench)
    await client.create("order0001")
    await bench.post("/simulator/pay/order0001", {"delay_seconds": 60})
    await client.create("order0002")
    await bench.post("/simulator/pay/order0002", {"notify": False})
    assert (await client.query("order0001")).json["trade_state"] == "SUCCESS"
    await bench.notifications(0)
    await bench.advance(61)
    await bench.notifications(1)


async def test_resend(bench: Bench) -> None:
    client = WechatClient(bench)
    await client.create("order0001")
    assert (await bench.post("/simulator/resend/order0001")).status == 409
    await bench.post("/simulator/pay/order0001", {"notify": False})
    for count in (1, 2):
        assert (await bench.post("/simulator/resend/order0001")).status == 200
        await bench.notifications(count)


async def test_unreachable_receiver(bench: Bench) -> None:
    client = WechatClient(bench)
    await client.create("order0001", notify_url="http://127.0.0.1:1/notify")
    await client.create("order0002", notify_url="http://127.0.0.1:99999/notify")
    for number in ("order0001", "order0002"):
        await bench.post(f"/simulator/pay/{number}")
    await bench.advance(1)
    (notification,) = (await bench.get("/simulator/trades/order0001")).json["notifications"]
    assert (notification["state"], notification["attempts"][0]["status"]) == ("WAITING", 0)
    assert "Connect" in notification["attempts"][0]["remark"]


async def test_signtest_drop_and_wrong_amount(bench: Bench) -> None:
    client = WechatClient(bench)
    await client.create("order0001")
    await bench.fault("wx.notify", "signtest")
    await bench.post("/simulator/pay/order0001")
    probe, right = await bench.notifications(2)
    assert probe.headers["Wechatpay-Signature"].startswith("WECHATPAY/SIGNTEST/")
    assert not client.verified(probe.headers, probe.body)
    assert client.verified(right.headers, right.body)
    await client.create("order0002")
    await bench.fault("wx.notify", "drop", out_trade_no="order0002")
    await bench.post("/simulator/pay/order0002")
    await bench.notifications(2)
    await bench.fault("notify", "wrong_amount", amount=7)
    await bench.advance(15)
    assert client.opened((await bench.notifications(3))[2])["amount"]["total"] == 7
    await client.create("order0003")
    await bench.fault("notify", "unsigned")
    await bench.post("/simulator/pay/order0003")
    assert "Wechatpay-Signature" not in (await bench.notifications(4))[3].headers
    alipay = AlipayClient(bench)
    await alipay.precreate("order1")
    await bench.fault("alipay.notify", "wrong_amount")
    await bench.post("/simulator/pay/order1")
    assert alipay.notified((await bench.notifications(5))[4])["total_amount"] == "1.01"
