"""The limits of the channels, and the range of every number from scripts and pages."""

from __future__ import annotations

import datetime
import json
import sqlite3
from typing import Any

import pytest

from .merchant import CHINA, AlipayClient, SimulatorSystem, WechatClient
from .test_rotation_and_xml import opened
from .xml_merchant import GOOD, XmlClient

pytestmark = pytest.mark.asyncio

_FULL = "CREATE TRIGGER full BEFORE INSERT ON document WHEN NEW.kind = '{kind}' BEGIN SELECT RAISE(ABORT, 'full'); END"


@pytest.mark.parametrize("body", ['{"advance_seconds": 1e12}', '{"advance_seconds": NaN}', '{"advance_seconds": Infinity}',
    '{"advance_seconds": -1e12}', '{"advance_seconds": true}', '{"now": "9999-12-31T23:59:59+08:00"}', '{"now": 5}',
    '{"now": "1999-12-31T00:00:00+08:00"}', '{"now": "2100-01-02T00:00:00+08:00"}', '{"advance_seconds": 1, "wait_seconds": NaN}',
    '{"advance_seconds": 1, "wait_seconds": 1e9}', '{"advance_seconds": 2400000000}'])  # fmt: skip
async def test_range_of_the_clock(system: SimulatorSystem, body: str) -> None:
    async with system.session.post(system.base + "/simulator/clock", data=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]
    assert (await system.get("/simulator/clock")).json["offset_seconds"] == 0
    await system.restart()
    assert (await system.get("/simulator/clock")).json["offset_seconds"] == 0


@pytest.mark.parametrize("seconds", ["1e12", "nan", "inf", "-inf", "x", "9" * 5000])
async def test_invalid_numbers_in_forms(system: SimulatorSystem, seconds: str) -> None:
    await WechatClient(system).create("order0001")
    for path, field in (("/clock", "advance_seconds"), ("/cashier/order0001/delay", "seconds")):
        notified = await system.form(path, **{field: seconds})
        assert "problem=" in notified.headers["Location"]
        assert b'role="alert"' in (await system.get(notified.headers["Location"])).body
    assert (await system.get("/simulator/trades/order0001")).json["paid"] is False
    await system.restart()
    assert (await system.get("/")).status == 200


async def test_stored_clock_out_of_range(system: SimulatorSystem) -> None:
    await system.server.close()
    with sqlite3.connect(system.data_file) as database:
        database.execute("INSERT INTO document VALUES ('clock', 'offset', ?)", (json.dumps({"offset": 1e13}),))
    await system.restart()
    assert (await system.get("/simulator/clock")).json["offset_seconds"] == 0


@pytest.mark.parametrize("options", ['{"amount": 1.5}', '{"amount": 1e400}', '{"amount": true}', '{"amount": 1000000000001}',
    '{"amount": -1}', '{"times": 1.0}', '{"times": true}', '{"times": 101}', '{"bad_signature": 101}', '{"bad_signature": 1.5}',
    '{"delay_seconds": 1e12}', '{"delay_seconds": true}', '{"delay_seconds": NaN}', '{"payer": "\\ud800"}'])  # fmt: skip
async def test_invalid_payment_options(system: SimulatorSystem, options: str) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    async with system.session.post(system.base + "/simulator/pay/order0001", data=options) as answer:
        assert answer.status == 400
    assert (await system.get("/simulator/trades/order0001")).json["paid"] is False
    await system.restart()
    assert (await client.query("order0001")).json["trade_state"] == "NOTPAY"
    assert (await system.post("/simulator/pay/order0001", {"bad_signature": False, "amount": 10**12})).status == 200


async def test_failed_write_changes_nothing(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    for number in ("order0001", "order0002"):
        await client.create(number)
    with sqlite3.connect(system.data_file) as database:
        # The payment is written first, then its notification, and the second write fails.
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON document WHEN NEW.kind = 'notification' BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    assert (await system.post("/simulator/pay/order0001")).status == 500
    assert (await system.get("/simulator/trades/order0001")).json["paid"] is False
    assert (await client.query("order0001")).json["trade_state"] == "NOTPAY"
    with sqlite3.connect(system.data_file) as database:
        database.execute("DROP TRIGGER full")
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON document WHEN NEW.kind = 'trade' BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    assert (await client.create("order0003")).status == 500
    assert (await system.post("/simulator/close/order0002")).status == 500
    assert (await system.get("/simulator/trades/order0003")).status == 404
    assert (await client.query("order0002")).json["trade_state"] == "NOTPAY"
    with sqlite3.connect(system.data_file) as database:
        database.execute("DROP TRIGGER full")
    assert (await system.post("/simulator/pay/order0001")).status == 200
    await system.notifications(1)


@pytest.mark.parametrize("amount", ["1_0", " 1.00 ", "1e0", "0.010000000000000000000000000000001", "+1", "1.", ".5", "１", "1.000",
    "0", "100000000.01", "1e999999999", float("1e-3"), 1.001, [], {}])  # fmt: skip
async def test_invalid_alipay_amounts(system: SimulatorSystem, amount: object) -> None:
    client = AlipayClient(system)
    answer = await client.call("alipay.trade.precreate", {"out_trade_no": "order1", "subject": "x", "total_amount": amount})
    assert answer["sub_code"] == "ACQ.INVALID_PARAMETER"


@pytest.mark.parametrize(
    ("amount", "fen"), [("0.01", 1), ("100000000.00", 10**10), ("1", 100), ("1.5", 150), (2, 200), (1.25, 125)]
)
async def test_valid_alipay_amounts(system: SimulatorSystem, amount: object, fen: int) -> None:
    client = AlipayClient(system)
    await client.call("alipay.trade.precreate", {"out_trade_no": "order1", "subject": "x", "total_amount": amount})
    assert (await system.get("/simulator/trades/order1")).json["amount"] == fen


async def test_refund_period(system: SimulatorSystem) -> None:
    client, xml = WechatClient(system), XmlClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"notify": False})
    await system.advance(364 * 86400)
    assert (await client.refund("order0001", "refund1", 1)).status == 200
    await system.advance(2 * 86400)
    late = await client.refund("order0001", "refund2", 1)
    assert (late.status, late.json["code"]) == (403, "TRADE_OVERDUE")
    assert (await xml.refund("order0001", "refund2", 1))["err_code"] == "TRADE_OVERDUE"
    assert (await client.refund("order0001", "refund1", 1)).status == 200, "a repetition is not a new refund"


async def test_reason_length(system: SimulatorSystem) -> None:
    client, xml = WechatClient(system), XmlClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"notify": False})
    assert (await client.refund("order0001", "refund1", 1, reason="茶" * 27)).json["code"] == "PARAM_ERROR"
    assert (await client.refund("order0001", "refund1", 1, reason="茶" * 26 + "xx")).status == 200
    assert (await xml.refund("order0001", "refund2", 1, refund_desc="茶" * 27))["err_code"] == "PARAM_ERROR"
    assert (await xml.refund("order0001", "refund2", 1, refund_desc="茶" * 26))["result_code"] == "SUCCESS"


@pytest.mark.parametrize("kind", ["wap", "Desktop", "", 5])
async def test_h5_type(system: SimulatorSystem, kind: object) -> None:
    scene = {"payer_client_ip": "127.0.0.1", "h5_info": {"type": kind}}
    assert (await WechatClient(system).create("order0001", kind="h5", scene_info=scene)).json["code"] == "PARAM_ERROR"
    if kind != "wap":
        info = json.dumps({"h5_info": {"type": kind}})
        assert (await XmlClient(system).order("order0001", "MWEB", scene_info=info))["err_code"] == "PARAM_ERROR"


async def test_v2_native_requires_product_id(system: SimulatorSystem) -> None:
    answer = await XmlClient(system).order("order0001", signed=False, product_id="")
    assert answer["return_msg"] == "缺少参数product_id"


@pytest.mark.parametrize("url", ["http://shop.example/n", "http://10.0.0.1/n", "ftp://127.0.0.1/n", "https://shop.example/n?a=1",
    "https://[", "https://shop .example/", "javascript:alert(1)"])  # fmt: skip
async def test_invalid_notify_urls(system: SimulatorSystem, url: str) -> None:
    client, xml = WechatClient(system), XmlClient(system)
    assert (await client.create("order0001", notify_url=url)).json["code"] == "PARAM_ERROR"
    assert (await xml.order("order0001", notify_url=url))["err_code"] == "PARAM_ERROR"
    assert (await system.post("/simulator/settings", {"refund_notify_url": url})).status == (200 if "?a=1" in url else 400)


@pytest.mark.parametrize("url", ["http://127.9.9.9:1/n", "http://[::1]/n", "http://localhost/n", "https://shop.example/n"])
async def test_valid_notify_urls(system: SimulatorSystem, url: str) -> None:
    assert (await WechatClient(system).create("order0001", notify_url=url)).status == 200


async def test_v3_content_type(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    order = client.order("order0001")
    for kind in ("text/plain", None):
        answer = await client.call("POST", "/v3/pay/transactions/native", order, headers={"Content-Type": kind})
        assert (answer.status, answer.json["code"]) == (400, "INVALID_REQUEST")
    named: dict[str, str | None] = {"Content-Type": "application/json; charset=utf-8"}
    assert (await client.call("POST", "/v3/pay/transactions/native", order, headers=named)).status == 200


async def test_largest_order(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    assert (await client.create("order0001", 10**10 + 1)).json["code"] == "PARAM_ERROR"
    assert (await client.create("order0001", 10**10)).status == 200


@pytest.mark.parametrize("more", [{"timeout_express": "16d"}, {"timeout_express": "2c"}, {"timeout_express": "361h"},
    {"timeout_express": "21601m"}, {"timeout_express": "0m"}, {"time_expire": 16}])  # fmt: skip
async def test_invalid_alipay_expiries(system: SimulatorSystem, more: dict[str, Any]) -> None:
    if more.get("time_expire"):
        later = datetime.datetime.now(CHINA) + datetime.timedelta(days=16)
        more = {"time_expire": later.strftime("%Y-%m-%d %H:%M:%S")}
    assert (await AlipayClient(system).precreate("order1", **more))["sub_code"] == "ACQ.INVALID_PARAMETER"


@pytest.mark.parametrize("express", ["15d", "1c", "360h", "1m"])
async def test_valid_alipay_expiries(system: SimulatorSystem, express: str) -> None:
    assert (await AlipayClient(system).precreate("order1", timeout_express=express))["code"] == "10000"


async def test_refunds_without_notify_url_notify_the_console_address(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    assert (await system.get("/simulator/settings")).json == {"refund_notify_url": ""}
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"notify": False})
    system.answers[:] = [(200, GOOD)] * 9
    await client.refund("order0001", "refund0", 1, notify_url="")
    await system.advance(1)
    await system.notifications(0)
    notified = await system.post("/simulator/settings", {"refund_notify_url": system.receiver_url})
    assert notified.json == {"refund_notify_url": system.receiver_url}
    await system.restart()
    await client.refund("order0001", "refund1", 1, notify_url="")
    assert opened(system, (await system.notifications(1))[0])["out_refund_no"] == "refund1"
    await system.post("/simulator/refund/order0001", {"amount": 1})
    assert opened(system, (await system.notifications(2))[1])["refund_request_source"] == "VENDOR_PLATFORM"
    page = (await system.get("/cashier/order0001")).body.decode()
    assert f'name="notify_url" value="{system.receiver_url}"' in page
    await system.form("/cashier/order0001/refund", amount="0.01", notify_url=system.receiver_url)
    await system.notifications(3)
    await system.form("/cashier/order0001/refund", amount="0.01", notify_url="")
    assert "problem=" in (await system.form("/cashier/order0001/refund", notify_url="x")).headers["Location"]
    await client.refund("order0001", "refund3", 1)
    assert b'"REFUND.SUCCESS"' in (await system.notifications(4))[3].body, "with its own notify_url the format is JSON"
    await system.form("/settings", refund_notify_url="")
    assert (await system.get("/simulator/settings")).json == {"refund_notify_url": ""}
    wrongs: list[object] = [{}, [], {"refund_notify_url": 5}, {"x": 1}]
    for wrong in wrongs:
        assert (await system.post("/simulator/settings", wrong)).status == 400
    assert "problem=" in (await system.form("/settings", refund_notify_url="http://shop.example/")).headers["Location"]
