"""Delayed and reordered notifications, and a certificate rotation between them."""

from __future__ import annotations

import pytest

from .merchant import AlipayClient, Received, SimulatorSystem, WechatClient, public_key, verifies
from .xml_merchant import GOOD, XmlClient, fields_of

pytestmark = pytest.mark.asyncio


async def paid_and_refunded(system: SimulatorSystem, protocol: str) -> None:
    """A payment and a refund of one trade, with their notifications."""
    await system.post("/simulator/pay/order0001")
    if protocol == "alipay":
        await AlipayClient(system).refund("order0001", "refund0001", "0.40")
    elif protocol == "wx2":
        await XmlClient(system).refund("order0001", "refund0001", 40, notify_url=system.receiver_url)
    else:
        await WechatClient(system).refund("order0001", "refund0001", 40)


async def created(system: SimulatorSystem, protocol: str) -> None:
    if protocol == "alipay":
        await AlipayClient(system).precreate("order0001")
    elif protocol == "wx2":
        await XmlClient(system).order("order0001")
        system.answers[:] = [(200, GOOD)] * 4
    else:
        await WechatClient(system).create("order0001")


def about_refund(system: SimulatorSystem, protocol: str, notification: Received) -> bool:
    if protocol == "alipay":
        return "refund_fee" in AlipayClient(system).notified(notification)
    if protocol == "wx2":
        return "req_info" in fields_of(notification.body)
    return "refund_status" in WechatClient(system).opened(notification)


@pytest.mark.parametrize("protocol", ["wx", "wx2", "alipay"])
async def test_refund_notification_before_payment_notification(system: SimulatorSystem, protocol: str) -> None:
    await created(system, protocol)
    await system.fault("notify", "reordered", seconds=3600)
    await paid_and_refunded(system, protocol)
    first, second = await system.notifications(2)
    assert (about_refund(system, protocol, first), about_refund(system, protocol, second)) == (True, False)
    await system.advance(7200)
    await system.notifications(2)


async def test_reordered_notification_without_successor(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    for number, fault in (("order0001", "reordered"), ("order0002", "late")):
        await client.create(number)
        await system.fault("wx.notify", fault, seconds=60, out_trade_no=number)
        await system.post(f"/simulator/pay/{number}")
    await system.advance(59)
    await system.notifications(0)
    system.answers[:] = [(500, b""), (500, b"")]
    await system.advance(1)
    notified = {client.opened(item)["out_trade_no"] for item in await system.notifications(2)}
    assert notified == {"order0001", "order0002"}
    await system.advance(15)
    assert len(await system.notifications(4)) == 4, "the retry schedule continues from then"


async def test_repeated_send_can_be_late(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001")
    await system.notifications(1)
    await system.fault("wx.notify", "late", seconds=30)
    await system.post("/simulator/resend/order0001")
    await system.advance(29)
    await system.notifications(1)
    await system.advance(1)
    await system.notifications(2)


async def test_delayed_notification_after_a_restart(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.fault("wx.notify", "late", seconds=60)
    await system.post("/simulator/pay/order0001")
    await system.advance(1)
    await system.restart()
    await system.notifications(0)
    await system.advance(60)
    await system.notifications(1)


async def test_rotation_by_the_control_api(system: SimulatorSystem) -> None:
    client, alipay = WechatClient(system, public_key_mode=False), AlipayClient(system, certificates=True)
    await client.create("order0001")
    await system.fault("wx.query", "rotate")
    answer = await client.query("order0001")
    assert answer.headers["Wechatpay-Serial"] == client.ids["platform_next_serial"]
    await system.fault("alipay.notify", "rotate")
    await alipay.precreate("order1")
    await system.post("/simulator/pay/order1")
    (notification,) = await system.notifications(1)
    alipay.public = public_key(system.keys.file("alipay", "alipayCertPublicKey_RSA2_next.crt"))
    alipay.notified(notification)
    assert (await system.get("/simulator/rotation")).json == {"wechatpay": True, "alipay": True, "migration": False}


async def test_rotation_with_a_notification(system: SimulatorSystem) -> None:
    client = WechatClient(system, public_key_mode=False)
    await client.create("order0001")
    await system.fault("wx.notify", "rotate")
    await system.post("/simulator/pay/order0001")
    (notification,) = await system.notifications(1)
    headers = notification.headers
    assert headers["Wechatpay-Serial"] == client.ids["platform_next_serial"]
    message = f"{headers['Wechatpay-Timestamp']}\n{headers['Wechatpay-Nonce']}\n".encode() + notification.body + b"\n"
    assert verifies(public_key(system.keys.file("wechatpay", "platform_cert_next.pem")), message, headers["Wechatpay-Signature"])
