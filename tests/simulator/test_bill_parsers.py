"""The server's parsers read the simulator's bills, and all amounts agree."""

from __future__ import annotations

import gzip

import pytest
from paycenter_server.channels.alipay.bills import parse_trade_bill as read_alipay
from paycenter_server.channels.bills import BillKind, BillLine
from paycenter_server.channels.wechatpay.bills import parse_trade_bill as read_wechat

from .merchant import AlipayClient, SimulatorSystem, WechatClient
from .test_bills import METHOD, bill, fetched, today, tomorrow, trades_with_refund
from .xml_merchant import XmlClient

pytestmark = pytest.mark.asyncio


def entries_of(lines: list[BillLine]) -> list[tuple[BillKind, str, str, int]]:
    assert all(line.channel_order_no and line.time and line.time.utcoffset() for line in lines)
    return sorted((line.kind, line.out_trade_no, line.out_refund_no, line.amount) for line in lines)


EXPECTED = [
    (BillKind.PAYMENT, "order0001", "", 100),
    (BillKind.PAYMENT, "order0002", "", 2000),
    (BillKind.REFUND, "order0001", "refund1", 30),
]


@pytest.mark.parametrize("packed", [False, True])
async def test_wechat(system: SimulatorSystem, packed: bool) -> None:
    client = WechatClient(system)
    await trades_with_refund(system)
    offer = await bill(client, f"bill_date={await tomorrow(system)}" + ("&tar_type=GZIP" if packed else ""))
    content = await fetched(client, offer)
    lines = list(read_wechat(gzip.decompress(content) if packed else content))
    assert entries_of(lines) == EXPECTED
    assert sum(line.fee for line in lines) == 13


async def test_wechat_v2(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    await trades_with_refund(system)
    day = (await tomorrow(system)).replace("-", "")
    body = client.body({"bill_date": day, "bill_type": "ALL"})
    async with system.session.post(system.base + "/pay/downloadbill", data=body) as answer:
        assert entries_of(list(read_wechat(await answer.read()))) == EXPECTED


async def test_a_reversed_payment(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    await client.micropay("code0001")
    await client.reverse("code0001")
    lines = list(
        read_wechat(await fetched(WechatClient(system), await bill(WechatClient(system), f"bill_date={await tomorrow(system)}")))
    )
    assert [(line.kind, line.amount, line.state) for line in lines] == [
        (BillKind.PAYMENT, 100, "SUCCESS"),
        (BillKind.REFUND, 100, "SUCCESS"),
    ]


async def test_alipay(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.precreate("order0001", "1.00", subject='Tea, "green" 茶')
    await client.precreate("order0002", "20.00")
    for number in ("order0001", "order0002"):
        await system.post(f"/simulator/pay/{number}", {"notify": False})
    await client.refund("order0001", "refund1", "0.30", refund_reason="broken")
    day = today().isoformat()
    await system.advance(86400)
    offer = await client.call(METHOD, {"bill_type": "trade", "bill_date": day})
    async with system.session.get(offer["bill_download_url"]) as answer:
        lines = list(read_alipay(await answer.read()))
    assert entries_of(lines) == EXPECTED
    assert sum(line.fee for line in lines) == 13
