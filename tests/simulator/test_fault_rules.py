"""Validation of fault rules, and the calls to which they apply."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from paycenter_server.simulator.faults import APIS, FAULTS, places

from .merchant import AlipayClient, SimulatorSystem, WechatClient
from .xml_merchant import GOOD, XmlClient, fields_of

pytestmark = pytest.mark.asyncio


async def rules(system: SimulatorSystem) -> list[dict[str, Any]]:
    return list((await system.get("/simulator/faults")).json["rules"])


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"api": "wx.nativ", "fault": "slow"}, "did you mean wx.native"),
        ({"api": "alipay.trade.presreate", "fault": "slow"}, "alipay.trade.precreate"),
        ({"api": "wx.native", "fault": "timeout_after"}, "did you mean timeout_after_commit"),
        ({"api": "wx.native", "fault": "not_enough"}, "does not apply to wx.native; it applies to wx.reverse, wx.refund"),
        ({"api": "wx2.orderquery", "fault": "other_key"}, "does not apply"),
        ({"api": "alipay.notify", "fault": "signtest"}, "does not apply"),
        ({"api": "alipay.notify", "fault": "other_key"}, "does not apply"),
        ({"api": "wx.native", "fault": "slow", "times": 0}, "times must not be 0"),
        ({"api": "wx.native", "fault": "slow", "times": 1.5}, "times"),
        ({"api": "wx.native", "fault": "slow", "times": True}, "times"),
        ({"api": "wx.native", "fault": "slow", "skip": -1}, "skip"),
        ({"api": "wx.native", "fault": "slow", "seconds": -1}, "seconds must be a number from 0 to 10,000,000"),
        ({"api": "wx.native", "fault": "slow", "seconds": 10**400}, "seconds"),
        ({"api": "wx.query", "fault": "wrong_amount", "amount": 10**13}, "amount"),
        ({"api": "wx.codepay", "fault": "user_paying", "queries": -1}, "queries"),
        ({"api": "wx.query", "fault": "slow", "out_trade_no": "x" * 200}, "out_trade_no"),
        ({"api": 5, "fault": "slow"}, "api must be a text"),
        ({"api": "wx.native"}, "fault"),
    ],
)
async def test_invalid_rules(system: SimulatorSystem, rule: dict[str, Any], why: str) -> None:
    answer = await system.post("/simulator/faults", [{"api": "*", "fault": "slow"}, rule])
    assert answer.status == 400
    assert why in answer.json["error"]
    assert await rules(system) == []


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "1e999"])
async def test_invalid_seconds(system: SimulatorSystem, seconds: str) -> None:
    body = f'{{"api": "wx.native", "fault": "slow", "seconds": {seconds}}}'
    async with system.session.post(system.base + "/simulator/faults", data=body) as answer:
        assert answer.status == 400
    form = await system.form("/faults", api="wx.native", fault="slow", seconds=seconds)
    assert "problem=" in form.headers["Location"]
    assert await rules(system) == []


async def test_every_valid_rule_is_accepted(system: SimulatorSystem) -> None:
    for fault in FAULTS:
        assert places(fault), fault
        await system.post("/simulator/faults", [{"api": api, "fault": fault} for api in places(fault)])
    assert len(await rules(system)) == sum(len(places(fault)) for fault in FAULTS)
    notified = (await system.get("/simulator/faults")).json
    assert notified["apis"] == list(APIS)
    assert notified["applies"]["recall"] == ["wx.reverse", "wx2.reverse", "*"]
    assert set(notified["applies"]) == set(notified["known"])


async def test_rule_applies_only_to_its_calls(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await system.fault("*", "not_enough")
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"notify": False})
    assert len(await rules(system)) == 1
    assert (await client.refund("order0001", "refund1", 1)).json["code"] == "NOT_ENOUGH"
    assert await rules(system) == []


@pytest.mark.parametrize("fault", ["signtest", "other_key"])
async def test_v2_and_alipay_notifications_do_not_use_v3_rules(system: SimulatorSystem, fault: str) -> None:
    await system.fault("notify", fault)
    await AlipayClient(system).precreate("ali1")
    await XmlClient(system).order("order0002")
    await system.post("/simulator/pay/ali1")
    await system.notifications(1)
    system.answers[:] = [(200, GOOD)]
    await system.post("/simulator/pay/order0002")
    await system.notifications(2)
    assert len(await rules(system)) == 1
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001")
    await system.notifications(4 if fault == "signtest" else 3)
    assert await rules(system) == []


async def test_rules_are_removed_one_by_one(system: SimulatorSystem) -> None:
    for api in ("wx.native", "wx.query", "wx.query", "wx.close"):
        await system.fault(api, "slow", seconds=2.5, skip=3)
    first = (await rules(system))[0]["id"]
    assert [rule["api"] for rule in (await system.delete(f"/simulator/faults?id={first}")).json["rules"]] == [
        "wx.query",
        "wx.query",
        "wx.close",
    ]
    page = (await system.get("/")).body.decode()
    assert 'data-name="Seconds">2.5<' in page and 'data-name="Skip">3<' in page
    await system.form("/faults", remove=str((await rules(system))[0]["id"]))
    assert (await system.delete("/simulator/faults?nonsense=1")).status == 400
    assert len((await system.delete("/simulator/faults?api=wx.query&fault=slow")).json["rules"]) == 1
    again = await rules(system)
    assert (await system.post("/simulator/faults", again)).status == 200, "rules of an answer can be sent again"
    assert len((await system.delete("/simulator/faults")).json["rules"]) == 0


@pytest.mark.parametrize("times", [2, 3, -1])
@pytest.mark.parametrize("fault", ["late", "reordered"])
async def test_delayed_notification_is_not_delayed_again(system: SimulatorSystem, fault: str, times: int) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.fault("wx.notify", fault, seconds=60, times=times)
    await system.post("/simulator/pay/order0001")
    await system.advance(59)
    await system.notifications(0)
    await system.advance(2)
    await system.notifications(1)
    await system.post("/simulator/resend/order0001")
    await system.advance(59)
    await system.notifications(1)
    await system.advance(2)
    await system.notifications(2)


async def test_delayed_notification_is_not_delayed_again_after_a_restart(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.fault("wx.notify", "late", seconds=60)
    await system.post("/simulator/pay/order0001")
    await system.advance(1)
    await system.restart()
    await system.fault("wx.notify", "late", seconds=60)
    await system.advance(60)
    await system.notifications(1)


def opening(system: SimulatorSystem, client: AlipayClient, kind: str, number: str = "page1") -> Any:
    """The request of the buyer's browser or app."""
    product = {"page": "FAST_INSTANT_TRADE_PAY", "wap": "QUICK_WAP_WAY", "app": "QUICK_MSECURITY_PAY"}[kind]
    biz = {"out_trade_no": number, "total_amount": "1.00", "subject": "Tea", "product_code": product}
    params = client.params(f"alipay.trade.{kind}.pay", biz)
    if kind != "app":
        return client.raw(params)
    return app_opened(system, params)


async def app_opened(system: SimulatorSystem, params: dict[str, str]) -> tuple[int, str]:
    data = aiohttp.FormData(params)()
    async with system.session.post(system.base + "/simulator/alipay/app", data=data) as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize("kind", ["page", "wap", "app"])
@pytest.mark.parametrize(
    ("fault", "status", "done"),
    [
        ("http_502", 502, False),
        ("http_503", 503, False),
        ("timeout_before_commit", 0, False),
        ("reset_before_commit", 0, False),
        ("timeout_after_commit", 0, True),
        ("reset", 0, True),
        ("error_before_commit", 400, False),
        ("error_after_commit", 400, True),
        ("rate_limit", 400, False),
        ("rate_limit_after_commit", 400, True),
        ("slow", 200, True),
    ],
)
async def test_faults_of_page_payments(system: SimulatorSystem, kind: str, fault: str, status: int, done: bool) -> None:
    client = AlipayClient(system)
    await system.fault(f"alipay.trade.{kind}.pay", fault, seconds=0.1)
    if status == 0:
        with pytest.raises(aiohttp.ClientError):
            await opening(system, client, kind)
    else:
        found, text = await opening(system, client, kind)
        assert found == (200 if status == 400 and kind != "app" else status)
        assert ("Pay</button>" in text or "cashier_url" in text) is (status == 200)
    assert (await system.get("/simulator/trades/page1")).status == (200 if done else 404)
    assert await rules(system) == []


async def test_202_502_and_rate_limit_after_commit(system: SimulatorSystem) -> None:
    client, alipay, xml = WechatClient(system), AlipayClient(system), XmlClient(system)
    await system.fault("wx.native", "accepted_202")
    answer = await client.create("order0001")
    assert (answer.status, answer.body, client.verified(answer.headers, b"")) == (202, b"", client.serial)
    assert (await client.query("order0001")).status == 404
    await system.fault("*", "http_502", times=3)
    assert (await client.create("order0001")).status == 502
    params = alipay.params("alipay.trade.query", {"out_trade_no": "x"})
    assert (await alipay.raw(params))[0] == 502
    async with system.session.post(system.base + "/pay/orderquery", data=xml.body({"out_trade_no": "x"})) as response:
        assert response.status == 502
    await system.fault("wx.native", "rate_limit_after_commit")
    answer = await client.create("order0001")
    assert (answer.status, answer.json["code"]) == (429, "FREQUENCY_LIMITED")
    assert (await client.query("order0001")).status == 200
    await system.fault("alipay.trade.precreate", "rate_limit_after_commit")
    assert (await alipay.precreate("ali1"))["sub_code"] == "isv.app-call-limited"
    assert (await system.get("/simulator/trades/ali1")).status == 200
    await system.fault("wx2.unifiedorder", "rate_limit_after_commit")
    assert (await xml.order("order0002"))["err_code"] == "FREQUENCY_LIMITED"
    assert (await xml.query("order0002"))["result_code"] == "SUCCESS"


async def test_wrong_amount_in_a_refund_query(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.precreate("order1")
    await system.post("/simulator/pay/order1", {"notify": False})
    await client.refund("order1", "r1", "0.40")
    await system.fault("alipay.trade.fastpay.refund.query", "wrong_amount", amount=7)
    notified = await client.refund_query("order1", "r1")
    assert (notified["refund_amount"], notified["total_amount"]) == ("0.07", "1.00")
    await system.fault("alipay.trade.query", "wrong_amount")
    assert (await client.query("order1"))["total_amount"] == "1.01"


async def test_faults_of_the_alipay_bill_file(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.precreate("order1")
    day = (await system.post("/simulator/pay/order1", {"notify": False})).json["paid_at"][:10]
    await system.advance(86400)
    method = "alipay.data.dataservice.bill.downloadurl.query"
    url = (await client.call(method, {"bill_type": "trade", "bill_date": day}))["bill_download_url"].removeprefix(system.base)
    await system.fault("alipay.billdownload", "http_503")
    await system.fault("alipay.billdownload", "reset", times=2)  # aiohttp repeats a GET on a reused connection
    assert (await system.get(url)).status == 503
    with pytest.raises(aiohttp.ClientError):
        await system.get(url)
    assert (await system.get(url)).body.startswith(b"PK")
    log = [entry for entry in (await system.get("/simulator/log")).json if entry["api"] == "alipay.billdownload"]
    assert [entry["status"] for entry in log] == [200, 0, 0, 503]


async def test_migration_to_the_public_key(system: SimulatorSystem) -> None:
    old, new = WechatClient(system, public_key_mode=False), WechatClient(system)
    await old.create("order0001")
    await system.fault("wx.query", "migrate")
    answer = await old.query("order0001")
    assert old.verified(answer.headers, answer.body) == new.serial
    await system.post("/simulator/pay/order0001")
    (notification,) = await system.notifications(1)
    assert new.verified(notification.headers, notification.body) == new.serial
    answer = await old.call("GET", "/v3/certificates")
    assert (answer.status, answer.json["code"], answer.json["message"]) == (404, "RESOURCE_NOT_EXISTS", "无可用的平台证书")
    await system.restart()
    assert (await old.query("order0001")).headers["Wechatpay-Serial"] == new.serial
    assert (await system.get("/simulator/rotation")).json["migration"] is True
    assert "Undo" in (await system.get("/")).body.decode()
    await system.form("/rotation", channel="migration", done="0")
    assert (await old.query("order0001")).headers["Wechatpay-Serial"] == old.ids["platform_serial"]
    assert (await system.post("/simulator/rotation", {"channel": "migration", "done": True})).json["migration"] is True
    assert (await system.post("/simulator/rotation", {"channel": "migration", "done": "no"})).status == 400
    await new.create("order0002")
    await system.post("/simulator/rotation", {"channel": "migration", "done": False})
    await system.fault("wx.notify", "migrate")
    await old.create("order0003")
    await system.post("/simulator/pay/order0003")
    assert (await system.notifications(2))[1].headers["Wechatpay-Serial"] == new.serial


async def test_faults_of_v2_refund_notifications(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    await client.order("order0001")
    await system.post("/simulator/pay/order0001", {"notify": False})
    await system.fault("wx.notify", "unsigned")
    await system.fault("wx.notify", "duplicate")
    system.answers[:] = [(200, GOOD)] * 2
    await client.refund("order0001", "refund1", 1, notify_url=system.receiver_url)
    first, second = await system.notifications(2)
    assert "req_info" in fields_of(first.body) and "req_info" in fields_of(second.body)
    assert [rule["fault"] for rule in await rules(system)] == ["unsigned"]
