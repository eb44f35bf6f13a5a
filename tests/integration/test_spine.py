"""A payment from end to end, for each channel: submit, payment at the channel, callback, notification, refund."""

from __future__ import annotations

import pytest
from standardwebhooks import Webhook
from support.system import OPERATOR, PayCenterSystem
from support.waiting import eventually

OPENID = {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}
EXTRAS = {
    "wx_pub": OPENID, "wx_lite": OPENID, "alipay_lite": {"buyer_open_id": "074a1CcTG1LelxKe4xQC0zgNdId0nxi95b5lsNpazWYoCo5"},
}  # fmt: skip
V3 = ("wx_native", "wx_pub", "wx_lite", "wx_app", "wx_wap")
ALIPAY = ("alipay_qr", "alipay_pc", "alipay_wap", "alipay_app", "alipay_lite")
CASES = [*((code, "v3") for code in V3), *((code, "v2") for code in V3), *((code, "") for code in ALIPAY)]


@pytest.mark.parametrize(("code", "version"), CASES)
async def test_payment_end_to_end(system: PayCenterSystem, code: str, version: str) -> None:
    if version == "v2":
        system.configs[code] = system.configs["wx_bar"]
        if code in system.channels:
            await system.services.channels.update(OPERATOR, system.channels[code], {}, *system.configs[code])
    if code not in system.channels:
        await system.add_channel(code)
    order = await system.order(amount=10_000, body="中杯 & <热>")
    attempt = await system.submit(order, code, **EXTRAS.get(code, {}))
    assert attempt.state.value == "WAITING"
    assert attempt.display_content
    if code in ("alipay_pc", "alipay_wap"):
        async with system.session.get(attempt.display_content) as page:
            assert page.status == 200
    if code == "alipay_app":
        await system.open_in_alipay(attempt.display_content)
    await system.simulator.pay(attempt.out_trade_no)
    paid = await system.until(order, "SUCCESS")
    assert (paid.paid_amount, paid.channel_fee_amount, paid.channel_code) == (10_000, 60, code)
    assert paid.channel_order_no
    assert paid.channel_user_id
    await eventually(lambda: system.wake_up.count >= 1)  # after the commit, which is seen before

    posts = await system.deliver()
    assert [post.json["type"] for post in posts] == ["pay_order.success"]
    Webhook(system.secrets["shop"]).verify(posts[0].body, posts[0].headers)
    assert posts[0].json["data"]["merchant_order_id"] == order.merchant_order_id
    assert posts[0].json["data"]["paid_amount"] == 10_000

    refund = await system.refund(paid, 3_000)

    async def refunded() -> bool:
        return bool((await system.services.refunds.load(system.caller, refund.number)).state.value == "SUCCESS")

    await eventually(refunded)
    after = await system.read(order)
    assert (after.state.value, after.refunded_amount, after.reserved_amount) == ("REFUND", 3_000, 0)
    posts = await system.deliver()
    assert [post.json["type"] for post in posts] == ["pay_refund.success"]
    assert posts[0].json["data"]["amount"] == 3_000
    assert await system.cases() == []
