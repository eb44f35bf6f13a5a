"""Validation of fault rules, and the calls to which they apply."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from paycenter_server.simulator.faults import APIS, FAULTS, places

from .merchant import AlipayClient, Bench, WechatClient
from .xml_merchant import GOOD, XmlClient, fields_of

pytestmark = pytest.mark.asyncio


async def rules(bench: Bench) -> list[dict[str, Any]]:
    return list((await bench.get("/simulator/faults")).json["rules"])


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
async def test_invalid_rules(bench: Bench, rule: dict[str, Any], why: str) -> None:
    answer = await bench.post("/simulator/faults", [{"api": "*", "fault": "slow"}, rule])
    assert answer.status == 400
    assert why in answer.json["error"]
    assert await rules(bench) == []


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "1e999"])
async def test_invalid_seconds(bench: Bench, seconds: str) -> None:
    body = f'{{"api": "wx.native", "fault": "slow", "seconds": {seconds}}}'
    async with bench.session.post(bench.base + "/simulator/faults", data=body) as answer:
        assert answer.status == 400
    form = await bench.form("/faults", api="wx.native", fault="slow", seconds=seconds)
    assert "problem=" in form.headers["Location"]
    assert await rules(bench) == []


async def test_every_valid_rule_is_accepted(bench: Bench) -> None:
    for fault in FAULTS:
        assert places(fault), fault
        await bench.post("/simulator/faults", [{"api": api, "fault": fault} for api in places(fault)])
    assert len(await rules(bench)) == sum(len(places(fault)) for fault in FAULTS)
    notified = (await bench.get("/simulator/faults")).json
    assert notified["apis"] == list(APIS)
    assert notified["applies"]["recall"] == ["wx.reverse", "wx2.reverse", "*"]
    assert set(notified["applies"]) == set(notified["known"])


async def test_rule_applies_only_to_its_calls(bench: Bench) -> None:
    client = WechatClient(bench)
    await bench.fault("*", "not_enough")
    await client.create("order0001")
    await bench.post("/simulator/pay/order0001", {"notify": False})
    assert len(await rules(bench)) == 1
    assert (await client.refund("order0001", "refund1", 1)).json["code"] == "NOT_ENOUGH"
    assert await rules(bench) == []


@pytest.mark.parametrize("fault", ["signtest", "other_key"])
async def test_v2_and_alipay_notifications_do_not_use_v3_rules(bench: Bench, fault: str) -> None:
    await bench.fault("notify", fault)
    await AlipayClient(bench).precreate("ali1")
    await XmlClient(bench).order("order0002")
    await bench.post("/simulator/pay/ali1")
    await bench.notifications(1)
    bench.answers[:] = [(200, GOOD)]
    await bench.post("/simulator/pay/order0002")
    await bench.notifications(2)
    assert len(await rules(bench)) == 1
    client = WechatClient(bench)
    await client.create("order0001")
    await bench.post("/simulator/pay/order0001")
    await bench.notifications(4 if fault == "signtest" else 3)
    assert await rules(bench) == []


async def test_rules_are_removed_one_by_one(bench: Bench) -> None:
    for api in ("wx.native", "wx.query", "wx.query", "wx.close"):
        await bench.fault(api, "slow", seconds=2.5, skip=3)
    first = (await rules(bench))[0]["id"]
    assert [rule["api"] for rule in (await bench.delete(f"/simulator/faults?id={first}")).json["rules"]] == [
        "wx.query",
        "wx.query",
        "wx.close",
    ]
    page = (await bench.get("/")).body.decode()
    assert 'data-name="Seconds">2.5<' in page and 'data-name="Skip">3<' in page
    await bench.form("/faults", remove=str((await rules(bench))[0]["id"]))
    assert (await bench.delete("/simulator/faults?nonsense=1")).status == 400
    assert len((await bench.delete("/simulator/faults?api=wx.query&fault=slow")).json["rules"]) == 1
    again = await rules(bench)
    assert (await bench.post("/simulator/faults", again)).status == 200, "rules of an answer can be sent again"
    assert len((await bench.delete("/simulator/faults")).json["rules"]) == 0


@pytest.mark.parametrize("times", [2, 3, -1])
@pytest.mark.parametrize("fault", ["late", "reordered"])
async def test_delayed_notification_is_not_delayed_again(bench: Bench, fault: str, times: int) -> None:
    client = WechatClient(bench)
    await client.create("order0001")
    await bench.fault("wx.notify", fault, seconds=60, times=times)
    await bench.post("/simulator/pay/order0001")
    await bench.advance(59)
    await bench.notifications(0)
    await bench.advance(2)
    await bench.notifications(1)
    await bench.post("/simulator/resend/order0001")
    await bench.advance(59)
    await bench.notifications(1)
    await bench.advance(2)
    await bench.notifications(2)


async def test_delayed_notification_is_not_delayed_again_after_a_restart(bench: Bench) -> None:
    client = WechatClient(bench)
    await client.create("order0001")
    await bench.fault("wx.notify", "late", seconds=60)
    await bench.post("/simulator/pay/order0001")
    await bench.advance(1)
    await bench.restart()
    await bench.fault("wx.notify", "late", seconds=60)
    await bench.advance(60)
    await bench.notifications(1)


def opening(bench: Bench, client: AlipayClient, kind: str, number: str = "page1") -> Any:
    """The request of the buyer's browser or app."""
    product = {"page": "FAST_INSTANT_TRADE_PAY", "wap": "QUICK_WAP_WAY", "app": "QUICK_MSECURITY_PAY"}[kind]
    biz = {"out_trade_no": number, "total_amount": "1.00", "subject": "Tea", "product_code": product}
    params = client.params(f"alipay.trade.{kind}.pay", biz)
    if kind != "app":
        return client.raw(params)
    return app_opened(bench, params)


async def app_opened(bench: Bench, params: dict[str, str]) -> tuple[int, str]:
    data = aiohttp.FormData(params)()
    async with bench.session.post(bench.base + "/simulator/alipay/app", data=data) as answer:
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
async def test_faults_of_page_payments(bench: Bench, kind: str, fault: str, status: int, done: bool) -> None:
    client = AlipayClient(bench)
    await bench.fault(f"alipay.trade.{kind}.pay", fault, seconds=0.1)
    if status == 0:
        with pytest.raises(aiohttp.ClientError):
            await opening(bench, client, kind)
    else:
        found, text = await opening(bench, client, kind)
        assert found == (200 if status == 400 and kind != "app" else status)
        assert ("Pay</button>" in text or "cashier_url" in text) is (status == 200)
    assert (await bench.get("/simulator/trades/page1")).status == (200 if done else 404)
    assert await rules(bench) == []


async def test_202_502_and_rate_limit_after_commit(bench: Bench) -> None:
    client, alipay, xml = WechatClient(bench), AlipayClient(bench), XmlClient(bench)
    await bench.fault("wx.native", "accepted_202")
    answer = await client.create("order0001")
    assert (answer.status, answer.body, client.verified(answer.headers, b"")) == (202, b"", client.serial)
    assert (await client.query("order0001")).status == 404
    await bench.fault("*", "http_502", times=3)
    assert (await client.create("order0001")).status == 502
    params = alipay.params("alipay.trade.query", {"out_trade_no": "x"})
    assert (await alipay.raw(params))[0] == 502
    async with bench.session.post(bench.base + "/pay/orderquery", data=xml.body({"out_trade_no": "x"})) as response:
        assert response.status == 502
    await bench.fault("wx.native", "rate_limit_after_commit")
    answer = await client.create("order0001")
    assert (answer.status, answer.json["code"]) == (429, "FREQUENCY_LIMITED")
    assert (await client.query("order0001")).status == 200
    await bench.fault("alipay.trade.precreate", "rate_limit_after_commit")
    assert (await alipay.precreate("ali1"))["sub_code"] == "isv.app-call-limited"
    assert (await bench.get("/simulator/trades/ali1")).status == 200
    await bench.fault("wx2.unifiedorder", "rate_limit_after_commit")
    assert (await xml.order("order0002"))["err_code"] == "FREQUENCY_LIMITED"
    assert (await xml.query("order0002"))["result_code"] == "SUCCESS"


async def test_wrong_amount_in_a_refund_query(bench: Bench) -> None:
    client = AlipayClient(bench)
    await client.precreate("order1")
    await bench.post("/simulator/pay/order1", {"notify": False})
    await client.refund("order1", "r1", "0.40")
    await bench.fault("alipay.trade.fastpay.refund.query", "wrong_amount", amount=7)
    notified = await client.refund_query("order1", "r1")
    assert (notified["refund_amount"], notified["total_amount"]) == ("0.07", "1.00")
    await bench.fault("alipay.trade.query", "wrong_amount")
    assert (await client.query("order1"))["total_amount"] == "1.01"


async def test_faults_of_the_alipay_bill_file(bench: Bench) -> None:
    client = AlipayClient(bench)
    await client.precreate("order1")
    day = (await bench.post("/simulator/pay/order1", {"notify": False})).json["paid_at"][:10]
    await bench.advance(86400)
    method = "alipay.data.dataservice.bill.downloadurl.query"
    url = (await client.call(method, {"bill_type": "trade", "bill_date": day}))["bill_download_url"].removeprefix(bench.base)
    await bench.fault("alipay.billdownload", "http_503")
    await bench.fault("alipay.billdownload", "reset", times=2)  # aiohttp repeats a GET on a reused connection
    assert (await bench.get(url)).status == 503
    with pytest.raises(aiohttp.ClientError):
        await bench.get(url)
    assert (await bench.get(url)).body.startswith(b"PK")
    log = [entry for entry in (await bench.get("/simulator/log")).json if entry["api"] == "alipay.billdownload"]
    assert [entry["status"] for entry in log] == [200, 0, 0, 503]


async def test_migration_to_the_public_key(bench: Bench) -> None:
    old, new = WechatClient(bench, public_key_mode=False), WechatClient(bench)
    await old.create("order0001")
    await bench.fault("wx.query", "migrate")
    answer = await old.query("order0001")
    assert old.verified(answer.headers, answer.body) == new.serial
    await bench.post("/simulator/pay/order0001")
    (notification,) = await bench.notifications(1)
    assert new.verified(notification.headers, notification.body) == new.serial
    answer = await old.call("GET", "/v3/certificates")
    assert (answer.status, answer.json["code"], answer.json["message"]) == (404, "RESOURCE_NOT_EXISTS", "无可用的平台证书")
    await bench.restart()
    assert (await old.query("order0001")).headers["Wechatpay-Serial"] == new.serial
    assert (await bench.get("/simulator/rotation")).json["migration"] is True
    assert "Undo" in (await bench.get("/")).body.decode()
    await bench.form("/rotation", channel="migration", done="0")
    assert (await old.query("order0001")).headers["Wechatpay-Serial"] == old.ids["platform_serial"]
    assert (await bench.post("/simulator/rotation", {"channel": "migration", "done": True})).json["migration"] is True
    assert (await bench.post("/simulator/rotation", {"channel": "migration", "done": "no"})).status == 400
    await new.create("order0002")
    await bench.post("/simulator/rotation", {"channel": "migration", "done": False})
    await bench.fault("wx.notify", "migrate")
    await old.create("order0003")
    await bench.post("/simulator/pay/order0003")
    assert (await bench.notifications(2))[1].headers["Wechatpay-Serial"] == new.serial


async def test_faults_of_v2_refund_notifications(bench: Bench) -> None:
    client = XmlClient(bench)
    await client.order("order0001")
    await bench.post("/simulator/pay/order0001", {"notify": False})
    await bench.fault("wx.notify", "unsigned")
    await bench.fault("wx.notify", "duplicate")
    bench.answers[:] = [(200, GOOD)] * 2
    await client.refund("order0001", "refund1", 1, notify_url=bench.receiver_url)
    first, second = await bench.notifications(2)
    assert "req_info" in fields_of(first.body) and "req_info" in fields_of(second.body)
    assert [rule["fault"] for rule in await rules(bench)] == ["unsigned"]
