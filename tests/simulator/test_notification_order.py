"""Delayed and reordered notifications, and a certificate rotation between them."""

from __future__ import annotations

import pytest

from .merchant import AlipayClient, Bench, Received, WechatClient, public_key, verifies
from .xml_merchant import GOOD, XmlClient, fields_of

pytestmark = pytest.mark.asyncio


async def paid_and_refunded(bench: Bench, protocol: str) -> None:
    """A payment and a refund of one trade, with their notifications."""
    await bench.post("/simulator/pay/order0001")
    if protocol == "alipay":
        await AlipayClient(bench).refund("order0001", "refund0001", "0.40")
    elif protocol == "wx2":
        await XmlClient(bench).refund("order0001", "refund0001", 40, notify_url=bench.receiver_url)
    else:
        await WechatClient(bench).refund("order0001", "refund0001", 40)


async def created(bench: Bench, protocol: str) -> None:
    if protocol == "alipay":
        await AlipayClient(bench).precreate("order0001")
    elif protocol == "wx2":
        await XmlClient(bench).order("order0001")
        bench.answers[:] = [(200, GOOD)] * 4
    else:
        await WechatClient(bench).create("order0001")


def about_refund(bench: Bench, protocol: str, notification: Received) -> bool:
    if protocol == "alipay":
        return "refund_fee" in AlipayClient(bench).notified(notification)
    if protocol == "wx2":
        return "req_info" in fields_of(notification.body)
    return "refund_status" in WechatClient(bench).opened(notification)


@pytest.mark.parametrize("protocol", ["wx", "wx2", "alipay"])
async def test_refund_notification_before_payment_notification(bench: Bench, protocol: str) -> None:
    await created(bench, protocol)
    await bench.fault("notify", "reordered", seconds=3600)
    await paid_and_refunded(bench, protocol)
    first, second = await bench.notifications(2)
    assert (about_refund(bench, protocol, first), about_refund(bench, protocol, second)) == (True, False)
    await bench.advance(7200)
    await bench.notifications(2)


async def test_reordered_notification_without_successor(bench: Bench) -> None:
    client = WechatClient(bench)
    for number, fault in (("order0001", "reordered"), ("order0002", "late")):
        await client.create(number)
        await bench.fault("wx.notify", fault, seconds=60, out_trade_no=number)
        await bench.post(f"/simulator/pay/{number}")
    await bench.advance(59)
    await bench.notifications(0)
    bench.answers[:] = [(500, b""), (500, b"")]
    await bench.advance(1)
    notified = {client.opened(item)["out_trade_no"] for item in await bench.notifications(2)}
    assert notified == {"order0001", "order0002"}
    await bench.advance(15)
    assert len(await bench.notifications(4)) == 4, "the retry schedule continues from then"


async def test_repeated_send_can_be_late(bench: Bench) -> None:
    client = WechatClient(bench)
    await client.create("order0001")
    await bench.post("/simulator/pay/order0001")
    await bench.notifications(1)
    await bench.fault("wx.notify", "late", seconds=30)
    await bench.post("/simulator/resend/order0001")
    await bench.advance(29)
    await bench.notifications(1)
    await bench.advance(1)
    await bench.notifications(2)


async def test_delayed_notification_after_a_restart(bench: Bench) -> None:
    client = WechatClient(bench)
    await client.create("order0001")
    await bench.fault("wx.notify", "late", seconds=60)
    await bench.post("/simulator/pay/order0001")
    await bench.advance(1)
    await bench.restart()
    await bench.notifications(0)
    await bench.advance(60)
    await bench.notifications(1)


async def test_rotation_by_the_control_api(bench: Bench) -> None:
    client, alipay = WechatClient(bench, public_key_mode=False), AlipayClient(bench, certificates=True)
    await client.create("order0001")
    await bench.fault("wx.query", "rotate")
    answer = await client.query("order0001")
    assert answer.headers["Wechatpay-Serial"] == client.ids["platform_next_serial"]
    await bench.fault("alipay.notify", "rotate")
    await alipay.precreate("order1")
    await bench.post("/simulator/pay/order1")
    (notification,) = await bench.notifications(1)
    alipay.public = public_key(bench.keys.file("alipay", "alipayCertPublicKey_RSA2_next.crt"))
    alipay.notified(notification)
    assert (await bench.get("/simulator/rotation")).json == {"wechatpay": True, "alipay": True, "migration": False}


async def test_rotation_with_a_notification(bench: Bench) -> None:
    client = WechatClient(bench, public_key_mode=False)
    await client.create("order0001")
    await bench.fault("wx.notify", "rotate")
    await bench.post("/simulator/pay/order0001")
    (notification,) = await bench.notifications(1)
    headers = notification.headers
    assert headers["Wechatpay-Serial"] == client.ids["platform_next_serial"]
    message = f"{headers['Wechatpay-Timestamp']}\n{headers['Wechatpay-Nonce']}\n".encode() + notification.body + b"\n"
    assert verifies(public_key(bench.keys.file("wechatpay", "platform_cert_next.pem")), message, headers["Wechatpay-Signature"])
