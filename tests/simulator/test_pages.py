"""The pages: fault forms, the actions of the cashier, and small screens."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from markupsafe import escape
from paycenter_server.simulator.faults import APIS, FAULTS, places

from .merchant import AlipayClient, SimulatorSystem, WechatClient
from .xml_merchant import XmlClient

pytestmark = pytest.mark.asyncio


async def test_a_fault_from_the_form(system: SimulatorSystem) -> None:
    empty = dict.fromkeys(("skip", "seconds", "amount"), "")
    answer = await system.form(
        "/faults", api="wx2.micropay", fault="decline", out_trade_no="", code="NOTENOUGH", times="2", queries="3", **empty
    )
    assert (answer.status, answer.headers["Location"]) == (303, "/#faults")
    (rule,) = (await system.get("/simulator/faults")).json["rules"]
    assert (rule["api"], rule["code"], rule["times"], rule["queries"], rule["amount"]) == ("wx2.micropay", "NOTENOUGH", 2, 3, None)
    assert (await XmlClient(system).micropay("order0001"))["err_code"] == "NOTENOUGH"
    page = (await system.get("/")).body.decode()
    assert "wx2.micropay" in page and "NOTENOUGH" in page
    for wrong in ({"times": "x"}, {"fault": "no"}, {"seconds": "y"}):
        answer = await system.form("/faults", **{"api": "wx.native", "fault": "slow", **wrong})
        assert answer.headers["Location"].startswith("/?problem=")


async def test_a_fault_from_the_page_of_a_trade(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await client.create("order0002")
    answer = await system.form("/faults", api="wx.query", fault="user_paying", out_trade_no="order0001", **{"from": "order0001"})
    assert answer.headers["Location"] == "/trades/order0001?protocol=wechatpay_v3"
    assert b"user_paying</td>" in (await system.get("/trades/order0001")).body
    assert b"user_paying</td>" not in (await system.get("/trades/order0002")).body
    assert (await client.query("order0002")).json["trade_state"] == "NOTPAY"
    assert (await client.query("order0001")).json["trade_state"] == "USERPAYING"
    answer = await system.form("/faults", api="wx.query", fault="no", **{"from": "order0001"})
    assert answer.headers["Location"].startswith("/trades/order0001?protocol=wechatpay_v3&problem=")
    assert b'role="alert"' in (await system.get(answer.headers["Location"])).body


async def test_cashier_refund_and_close(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.precreate("order1", "12.34")
    await system.form("/cashier/order1/pay")
    await system.form("/cashier/order1/refund", amount="2.3")
    assert (await system.get("/simulator/trades/order1")).json["refunded"] == 230
    for wrong in ("1.234", "x", "99"):
        assert "problem=" in (await system.form("/cashier/order1/refund", amount=wrong)).headers["Location"]
    await system.form("/cashier/order1/refund", amount="")
    assert (await system.get("/simulator/trades/order1")).json["refunded"] == 1234
    await client.precreate("order2")
    await system.get("/cashier/order2")
    await system.form("/cashier/order2/close")
    assert (await client.query("order2"))["trade_status"] == "TRADE_CLOSED"


async def test_qr_code_image(system: SimulatorSystem) -> None:
    await WechatClient(system).create("order0001")
    root = ElementTree.fromstring((await system.get("/qr/order0001.svg")).body)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


async def test_the_wire_log_shows_xml_by_line(system: SimulatorSystem) -> None:
    await XmlClient(system).order("order0001")
    page = (await system.get("/trades/order0001")).body.decode()
    assert "&lt;/appid&gt;\n&lt;mch_id&gt;" in page
    assert "wx2.unifiedorder" in page


async def test_every_call_is_selectable(system: SimulatorSystem) -> None:
    page = (await system.get("/")).body.decode()
    assert all(f"<option>{api}</option>" in page for api in APIS)
    served = set()
    for route in system.server.app.router.routes():
        endpoint = getattr(route.handler, "__self__", None)
        if endpoint is not None and hasattr(endpoint, "api"):
            served.add(endpoint.api)
    assert served == {api for api in APIS if api.startswith(("wx.", "wx2.")) and api != "wx.notify"}


async def test_list_paging_and_search(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    for number in range(53):
        await client.create(f"order{number:04d}")
    first = (await system.get("/")).body.decode()
    assert first.count("Cashier</a>") == 50 and 'href="#faults"' in first and 'id="faults"' in first
    older = first.split(">Older</a>")[0].rpartition('href="')[2].rstrip('"').replace("&amp;", "&")
    second = (await system.get(older)).body.decode()
    assert second.count("Cashier</a>") == 3 and "order0000" in second and ">Newer</a>" in second
    found = (await system.get("/?q=der0007")).body.decode()
    assert found.count("Cashier</a>") == 1 and "order0007" in found
    assert "No trade number contains this text" in (await system.get("/?q=nothing")).body.decode()
    for page in ("-1", "x", "9" * 5000):
        assert (await system.get(f"/?page={page}")).body.decode().count("Cashier</a>") == 50


async def test_error_pages(system: SimulatorSystem) -> None:
    await AlipayClient(system).precreate("order1")
    for path in (
        "/trades/x",
        "/cashier/x",
        "/qr/x.svg",
        "/cashier?code=",
        "/cashier?code=x",
        "/trades/order1?protocol=wechatpay_v3",
    ):
        answer = await system.get(path)
        assert (answer.status, answer.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
        assert b'role="alert"' in answer.body and b'href="/"' in answer.body
    assert (await system.form("/cashier/x/pay")).status == 404
    assert (await system.form("/cashier/order1/nothing")).status == 404


async def test_rotation_forms(system: SimulatorSystem) -> None:
    for channel in ("wechatpay", "alipay", "migration"):
        assert (await system.form("/rotation", channel=channel, done="1")).headers["Location"] == "/#certificates"
        assert (await system.get("/simulator/rotation")).json[channel] is True
        await system.form("/rotation", channel=channel, done="0")
        assert (await system.get("/simulator/rotation")).json[channel] is False
    assert "problem=" in (await system.form("/rotation", channel="x", done="1")).headers["Location"]


async def test_fault_list(system: SimulatorSystem) -> None:
    page = (await system.get("/")).body.decode()
    for fault, text in FAULTS.items():
        assert f"<option>{fault}</option>" in page
        assert f"<dt>{fault}</dt>" in page and str(escape(text)) in page
        assert ", ".join(places(fault)) in page


async def test_viewport(system: SimulatorSystem) -> None:
    await WechatClient(system).create("order0001")
    for path in ("/", "/trades/order0001", "/cashier/order0001"):
        page = (await system.get(path)).body.decode()
        assert 'name="viewport" content="width=device-width' in page
        assert '<div class="scroll">' not in page
