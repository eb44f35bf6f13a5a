"""WeChat Pay v2: orders, notifications, refunds, signatures, and trades that both versions share."""

from __future__ import annotations

import contextlib
import json
import ssl
from typing import Any

import aiohttp
import hypothesis.strategies as st
import pytest
from aiohttp import web
from hypothesis import given
from paycenter_server.simulator.app import create_app
from paycenter_server.simulator.keys import server_context
from paycenter_server.simulator.settings import SimulatorConfig
from paycenter_server.simulator.wechatpay.v2_call import V2Error, parse_xml, render_xml, sign_fields
from support.vectors import VECTORS

from .merchant import SimulatorSystem, WechatClient
from .test_rotation_and_xml import opened
from .xml_merchant import GOOD, XmlClient, fields_of

pytestmark = pytest.mark.asyncio
H5 = json.dumps({"h5_info": {"type": "Wap", "wap_url": "https://shop.example", "wap_name": "shop"}})


@pytest.mark.parametrize("hmac_sha256", [False, True])
async def test_order_pay_notify_query(system: SimulatorSystem, hmac_sha256: bool) -> None:
    client = XmlClient(system, hmac_sha256=hmac_sha256)
    created = await client.order("order1", attach="a&b <c>")
    assert (created["return_code"], created["result_code"], created["trade_type"]) == ("SUCCESS", "SUCCESS", "NATIVE")
    assert created["code_url"].startswith("weixin://wxpay/bizpayurl?pr=") and created["prepay_id"].startswith("wx")
    assert client.content_type.startswith("text/plain")
    assert (await client.order("order1", attach="a&b <c>"))["code_url"] == created["code_url"]
    unpaid = await client.query("order1")
    assert (unpaid["trade_state"], unpaid["total_fee"]) == ("NOTPAY", "100")
    system.answers[:] = [(200, b""), (500, GOOD), (200, GOOD)]
    await system.post("/simulator/pay/order1")
    await system.notifications(1)
    await system.advance(15)
    await system.advance(15)
    for notification in await system.notifications(3):
        notified = fields_of(notification.body)
        assert client.genuine(notified)
        assert (notified["result_code"], notified["out_trade_no"], notified["total_fee"]) == ("SUCCESS", "order1", "100")
        assert notified["attach"] == "a&b <c>" and len(notified["time_end"]) == 14
    await system.advance(86400)
    await system.notifications(3)
    paid = await client.query("order1")
    assert (paid["trade_state"], paid["transaction_id"]) == ("SUCCESS", notified["transaction_id"])
    assert (await client.call("/pay/orderquery", transaction_id=notified["transaction_id"]))["out_trade_no"] == "order1"
    assert (await client.order("order1"))["err_code"] == "ORDERPAID"
    assert (await client.call("/pay/closeorder", out_trade_no="order1"))["err_code"] == "ORDERPAID"


@pytest.mark.parametrize(
    ("kind", "more", "field"),
    [
        ("JSAPI", {"openid": "o1"}, "prepay_id"),
        ("APP", {}, "prepay_id"),
        ("MWEB", {"scene_info": H5}, "mweb_url"),
    ],
)
async def test_other_products(system: SimulatorSystem, kind: str, more: dict[str, Any], field: str) -> None:
    client = XmlClient(system)
    assert (await client.order("order1", kind, **more))[field]
    await system.post("/simulator/pay/order1", {"notify": False})
    paid = await client.query("order1")
    assert (paid["trade_type"], paid["trade_state"]) == (kind, "SUCCESS")
    assert paid["openid"] == more.get("openid", paid["openid"])


async def test_closed_and_used_numbers(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    await client.order("order1")
    assert (await client.order("order1", total=101))["err_code"] == "OUT_TRADE_NO_USED"
    assert (await client.call("/pay/closeorder", out_trade_no="order1"))["result_code"] == "SUCCESS"
    assert (await client.query("order1"))["trade_state"] == "CLOSED"
    assert (await client.order("order1"))["err_code"] == "ORDERCLOSED"
    assert (await client.query("order2"))["err_code"] == "ORDERNOTEXIST"


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("JSAPI", {}),
        ("MWEB", {}),
        ("WAP", {}),
        ("NATIVE", {"notify_url": "https://shop.example/n?a=1"}),
        ("NATIVE", {"time_expire": "2026-01-01"}),
        ("NATIVE", {"out_trade_no": "茶"}),
        ("NATIVE", {"fee_type": "USD"}),
    ],
)
async def test_invalid_parameters(system: SimulatorSystem, kind: str, more: dict[str, Any]) -> None:
    assert (await XmlClient(system).order("order1", kind, **more))["err_code"] == "PARAM_ERROR"


@pytest.mark.parametrize("total", [0, -1, "1.5", "٣", 10**10 + 1, ""])
async def test_invalid_amounts(system: SimulatorSystem, total: Any) -> None:
    assert (await XmlClient(system).order("order1", signed=False, total=total))["return_code"] == "FAIL"


async def test_return_code_fail_has_no_signature(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    good = client.body({"out_trade_no": "order1"})
    wrong = [
        b"",
        b"<xml>",
        b"<root></root>",
        b"<xml><a><b>1</b></a></xml>",
        b"<xml><a>1</a><a>2</a></xml>",
        b"\xff" + good,
        b'<!DOCTYPE xml [<!ENTITY a "b">]>' + good,
        b"<! doctype xml>" + good,
        good.replace(b"order1", b"order2"),
        good.replace(client.ids["appid"].encode(), b"wx0"),
        good.replace(client.ids["mchid"].encode(), b"1"),
        good.replace(b"<sign>", b"<sing>").replace(b"</sign>", b"</sing>"),
    ]
    for body in wrong:
        answer = await client.raw("/pay/orderquery", body)
        assert answer["return_code"] == "FAIL" and answer["return_msg"]
        assert not {"sign", "result_code"} & set(answer)
    assert (await client.raw("/pay/orderquery", good))["err_code"] == "ORDERNOTEXIST"
    log = (await system.get("/simulator/log")).json
    assert [entry["verdict"] for entry in log[:2]] == ["valid", "refused: FAIL 缺少参数sign"]


async def test_both_versions_share_the_trade(system: SimulatorSystem) -> None:
    old, new = XmlClient(system), WechatClient(system)
    await new.create("order0001")
    assert (await old.query("order0001"))["trade_state"] == "NOTPAY"
    await old.order("order0002")
    assert (await new.query("order0002")).json["trade_state"] == "NOTPAY"
    assert (await new.create("order0002")).json["code"] == "OUT_TRADE_NO_USED"
    assert (await old.order("order0001"))["err_code"] == "OUT_TRADE_NO_USED"
    for number in ("order0001", "order0002"):
        await system.post(f"/simulator/pay/{number}", {"notify": False})
        assert (await old.query(number))["trade_state"] == (await new.query(number)).json["trade_state"] == "SUCCESS"
    await new.refund("order0002", "refund2", 40)
    assert (await old.query("order0002"))["trade_state"] == "REFUND"
    assert (await old.call("/pay/refundquery", out_refund_no="refund2"))["refund_fee_0"] == "40"
    notified = new.opened((await system.notifications(1))[0])
    assert notified["refund_status"] == "SUCCESS"


async def test_refunds(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    await client.order("order1")
    assert (await client.refund("order1", "refund1", 10))["err_code"] == "TRADE_STATE_ERROR"
    await system.post("/simulator/pay/order1", {"notify": False})
    system.answers[:] = [(200, GOOD)]
    made = await client.refund("order1", "refund1", 30, notify_url=system.receiver_url)
    assert (made["refund_fee"], made["total_fee"]) == ("30", "100")
    assert (await client.refund("order1", "refund1", 30))["refund_id"] == made["refund_id"]
    assert (await client.refund("order1", "refund1", 31))["err_code"] == "REFUND_FEE_MISMATCH"
    notified = opened(system, (await system.notifications(1))[0])
    assert (notified["refund_status"], notified["refund_fee"], notified["out_refund_no"]) == ("SUCCESS", "30", "refund1")
    assert (await client.refund("order1", "refund2", 71))["result_code"] == "FAIL"
    await system.fault("wx2.refund", "not_enough")
    assert (await client.refund("order1", "refund2", 70))["err_code"] == "NOTENOUGH"
    await system.fault("wx2.refund", "refund_abnormal")
    assert (await client.refund("order1", "refund2", 70))["result_code"] == "SUCCESS"

    async def states(**fields: Any) -> list[str]:
        found = await client.call("/pay/refundquery", **fields)
        return [found[f"refund_status_{index}"] for index in range(int(found["refund_count"]))]

    assert (await states(out_trade_no="order1"))[0] == "SUCCESS"
    await system.advance(1)
    assert await states(out_trade_no="order1") == ["SUCCESS", "CHANGE"]
    assert await states(refund_id=made["refund_id"]) == await states(out_refund_no="refund1") == ["SUCCESS"]
    assert (await client.call("/pay/refundquery", out_refund_no="no"))["err_code"] == "REFUNDNOTEXIST"
    assert (await client.refund("order2", "refund3", 1))["err_code"] == "ORDERNOTEXIST"


async def test_faults(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    await system.fault("wx2.unifiedorder", "error_before_commit")
    assert (await client.order("order1"))["err_code"] == "SYSTEMERROR"
    assert (await client.query("order1"))["err_code"] == "ORDERNOTEXIST"
    await system.fault("wx2.unifiedorder", "error_after_commit")
    assert (await client.order("order1"))["err_code"] == "SYSTEMERROR"
    assert (await client.query("order1"))["trade_state"] == "NOTPAY"
    await system.fault("wx2.orderquery", "decline", code="INVALID_REQUEST")
    assert (await client.query("order1"))["err_code"] == "INVALID_REQUEST"
    await system.fault("wx2.orderquery", "rate_limit")
    assert (await client.query("order1"))["err_code"] == "FREQUENCY_LIMITED"
    await system.fault("wx2.orderquery", "wrong_amount")
    assert (await client.query("order1"))["total_fee"] == "101"
    for how in ("unsigned", "bad_signature"):
        await system.fault("wx2.orderquery", how)
        await client.call("/pay/orderquery", signed=False, out_trade_no="order1")
    await system.fault("wx2.orderquery", "reset_before_commit")
    with pytest.raises(aiohttp.ClientError):
        await client.query("order1")
    await system.fault("notify", "bad_signature")
    system.answers[:] = [(500, b""), (200, GOOD)]
    await system.post("/simulator/pay/order1")
    await system.notifications(1)
    await system.advance(15)
    assert [client.genuine(fields_of(item.body)) for item in await system.notifications(2)] == [False, True]


async def test_client_certificate(system: SimulatorSystem) -> None:
    runner = web.AppRunner(create_app(SimulatorConfig(keys_dir=system.keys.directory)))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(system.keys)).start()
        address = f"https://127.0.0.1:{runner.addresses[0][1]}/secapi/pay/refund"
        trusting = ssl.create_default_context(cafile=str(system.keys.file("wechatpay", "tls_cert.pem")))
        body = XmlClient(system).body({"out_trade_no": "order1"})
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.post(address, data=body, ssl=trusting)
            files = [str(system.keys.file("wechatpay", name)) for name in ("apiclient_cert.pem", "apiclient_key.pem")]
            trusting = ssl.create_default_context(cafile=str(system.keys.file("wechatpay", "tls_cert.pem")))
            trusting.load_cert_chain(*files)
            async with session.post(address, data=body, ssl=trusting) as answer:
                assert fields_of(await answer.read())["return_code"] == "FAIL"
    finally:
        await runner.cleanup()


async def test_failed_v2_notifications_are_retried(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    await client.order("order1")
    system.answers[:] = [
        (200, b"<xml><return_code>FAIL</return_code></xml>"),
        (200, b"<xml><return_code>SUCCESS</return_code></xml>"),
    ]
    await system.post("/simulator/pay/order1")
    await system.notifications(1)
    await system.advance(15)
    await system.notifications(2)
    assert (await system.get("/simulator/trades/order1")).json["notifications"][0]["state"] == "DONE"


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the published vectors are outside the repository")
async def test_published_signatures() -> None:
    vectors = json.loads((VECTORS / "wechat_v2.json").read_text(encoding="utf-8"))["vectors"]
    signed = [vector for vector in vectors if vector["kind"] == "v2-sign"]
    assert signed
    for vector in signed:
        params = {name: str(value) for name, value in vector["params"].items()}
        assert sign_fields(vector["key"], params, vector["sign_type"]) == vector["sign"], vector["id"]


LIKE_XML = st.text("<xml>/&;![CDATA]? a\n", max_size=80).map(lambda text: f"<xml>{text}</xml>".encode())


@given(st.one_of(st.binary(max_size=200), LIKE_XML))
async def test_arbitrary_bytes(raw: bytes) -> None:
    with contextlib.suppress(V2Error):
        assert all(isinstance(value, str) for value in parse_xml(raw).values())


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(st.characters(exclude_categories=["C"]), max_size=40), max_size=5
    )
)
async def test_xml_round_trip(fields: dict[str, str]) -> None:
    notified = parse_xml(render_xml(fields))
    assert set(notified) == set(fields)
    for name, value in fields.items():
        if value.isprintable():
            assert notified[name] == value.strip()


async def test_attach_too_long(system: SimulatorSystem) -> None:
    assert (await XmlClient(system).order("order1", attach="x" * 128))["err_code"] == "PARAM_ERROR"


async def test_control_characters_in_xml(system: SimulatorSystem) -> None:
    await WechatClient(system).create("order0001", attach="a\x01\rb")
    await system.post("/simulator/pay/order0001", {"notify": False})
    assert (await XmlClient(system).query("order0001"))["attach"] == "ab"
