"""Invalid input: no answer is a 500, the pages still work, and invalid data is not stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .merchant import AlipayClient, SimulatorSystem, WechatClient, sign
from .xml_merchant import XmlClient

pytestmark = pytest.mark.asyncio

DEEP = "[" * 3000
LONG = "9" * 5000
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 10**400, "", "x" * 5000, LONG, "http://[", "javascript:alert(1)", "\ud800", "a\0b", "茶", "1e999999999",
    "9999-12", "9999-12-31T23:59:59-23:59", "9999-12-31 23:59:59", "0001-01-01T00:00:00+14:00", [], {}, [[]], {"a": {"b": [1]}}, 5,
)  # fmt: skip


async def check_pages(system: SimulatorSystem) -> None:
    """Every page and list has a valid answer."""
    for path in ("/", "/simulator/trades", "/simulator/log", "/simulator/faults", "/simulator/clock", "/simulator/settings"):
        assert (await system.get(path)).status == 200, path
    for trade in (await system.get("/simulator/trades")).json:
        for page in ("trades", "cashier"):
            assert (await system.get(f"/{page}/{trade['out_trade_no']}?protocol={trade['protocol']}")).status == 200


async def v3_raw(client: WechatClient, path: str, body: bytes, **replaced: Any) -> int:
    """A rightly signed POST of any bytes."""
    headers = {
        "Authorization": client.authorization("POST", path, body, **replaced),
        "User-Agent": "merchant/1",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    async with client.system.session.post(client.system.base + path, data=body, headers=headers) as response:
        await response.read()
        return response.status


V3_PATHS = (
    *(f"/v3/pay/transactions/{kind}" for kind in ("native", "jsapi", "app", "h5", "codepay")),
    *(f"/v3/pay/transactions/out-trade-no/order0001/{what}" for what in ("close", "reverse")),
    "/v3/refund/domestic/refunds",
    "/v3/refund/domestic/refunds/x/apply-abnormal-refund",
)


def full_order(client: WechatClient) -> dict[str, Any]:
    more: dict[str, Any] = {
        "payer": {"openid": "o", "auth_code": "134567890123456789"},
        "attach": "a",
        "time_expire": "2099-01-01T00:00:00+08:00",
    }
    scene: dict[str, Any] = {"payer_client_ip": "127.0.0.1", "h5_info": {"type": "Wap"}, "store_info": {"id": "1"}}
    refund: dict[str, Any] = {"out_refund_no": "refund1", "reason": "r", "transaction_id": "4200"}
    return client.order("order0001", **more, scene_info=scene, **refund)


async def test_v3(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"notify": False})
    bodies = [DEEP.encode(), b'{"a":"\\ud800"}', b'{"a": NaN}', b"\xff\xfe", b"[]", b'{"out_trade_no": %s}' % LONG.encode()]
    for path in V3_PATHS:
        for body in bodies:
            assert (await v3_raw(client, path, body)) == 400
        fields = full_order(client)
        for name in fields:
            for odd in ODD:
                answer = await client.call("POST", path, fields | {name: odd})
                assert answer.status < 500, (path, name, odd, answer.body)
    for name in ("total", "currency"):
        for odd in ODD:
            order = client.order("order0009") | {"amount": {"total": 1, "currency": "CNY", name: odd}}
            assert (await client.call("POST", "/v3/pay/transactions/native", order)).status < 500
    for stamp in (LONG, "٣", "-1", ""):
        assert (await v3_raw(client, "/v3/pay/transactions/native", b"{}", timestamp=stamp)) == 401
    for query in ("bill_date=9999-12-31", "bill_date=9999-12", "bill_date=%FF", "bill_date=2026-01-01&tar_type=%00", ""):
        for path in ("/v3/bill/tradebill", "/v3/bill/fundflowbill", "/v3/billdownload/file"):
            assert (await client.call("GET", f"{path}?{query}")).status < 500
    for path in ("/v3/pay/transactions/out-trade-no/%00%FF?mchid=1", "/v3/refund/domestic/refunds/%ED%A0%80", "/v3/%ff"):
        assert (await client.call("GET", path)).status < 500
    await check_pages(system)


V2_PATHS = (
    *(
        "/pay/" + name
        for name in ("unifiedorder", "micropay", "orderquery", "closeorder", "refundquery", "downloadbill", "nothing")
    ),
    *("/secapi/pay/" + name for name in ("refund", "reverse", "nothing")),
)


async def test_v2(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    await client.order("order1")
    await system.post("/simulator/pay/order1", {"notify": False})
    await client.refund("order1", "refund1", 1)
    fields = {
        "body": "Tea", "out_trade_no": "order2", "total_fee": 1, "refund_fee": 1, "spbill_create_ip": "127.0.0.1",
        "notify_url": system.receiver_url, "trade_type": "MWEB", "scene_info": '{"h5_info": {"type": "Wap"}}', "offset": 1,
        "auth_code": "134567890123456789", "time_expire": "20990101000000", "bill_date": "20260101", "out_refund_no": "r",
        "refund_desc": "x", "attach": "x", "openid": "o",
    }  # fmt: skip
    odd_texts = [value for value in ODD if isinstance(value, str) and "\ud800" not in value and "\0" not in value]
    for path in V2_PATHS:
        for name in fields:
            for odd in [*odd_texts, DEEP, '{"h5_info": ' + DEEP, "99991231", "99991231235959", "00010101000000"]:
                body = client.body({**fields, name: odd})
                async with system.session.post(system.base + path, data=body) as response:
                    assert response.status in (200, 404), (path, name, odd)
        for junk in (b"<xml>" + b"<a>" * 50000, DEEP.encode(), b"<out_trade_no>" * 2000, b"<xml><a>&#xD800;</a></xml>"):
            async with system.session.post(system.base + path, data=junk) as response:
                assert response.status in (200, 404)
    assert (await client.call("/pay/refundquery", out_trade_no="order1", offset=LONG))["refund_count"] == "1"
    await check_pages(system)


ALIPAY_METHODS = (
    *("alipay.trade." + name for name in ("precreate", "create", "pay", "query", "close", "cancel", "refund")),
    *("alipay.trade." + name for name in ("fastpay.refund.query", "page.pay", "wap.pay", "app.pay")),
    "alipay.data.dataservice.bill.downloadurl.query",
    "alipay.open.app.alipaycert.download",
    "",
)


async def test_alipay(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.precreate("order1")
    await system.post("/simulator/pay/order1", {"notify": False})
    biz = {
        "out_trade_no": "order1", "total_amount": "1.00", "subject": "Tea", "trade_no": "2026", "refund_amount": "0.01",
        "out_request_no": "r1", "query_options": ["refund_detail_item_list"], "quit_url": "https://shop.example/", "auth_code":
        "281234567890123456", "buyer_id": "2088123412341234", "op_app_id": "1", "time_expire": "2099-01-01 00:00:00",
        "timeout_express": "1m", "bill_type": "trade", "bill_date": "2026-01-01", "refund_reason": "x", "passback_params": "p",
        "alipay_cert_sn": "1", "qr_code_timeout_express": "1d", "operator_id": "x", "scene": "bar_code",
        "product_code": "JSAPI_PAY",
    }  # fmt: skip
    for method in ALIPAY_METHODS:
        for name in biz:
            for odd in ODD:
                status, _ = await client.raw(signed(client, method, biz_content=json.dumps({**biz, name: odd})))
                assert status == 200, (method, name, odd)
        for text in (DEEP, '{"total_amount": 1e999999999999999999999}', "[]", "\x00", '{"a": "\\ud800"}', LONG):
            assert (await client.raw(signed(client, method, biz_content=text)))[0] == 200
    for name in ("notify_url", "return_url", "timestamp", "charset", "format", "sign_type", "app_cert_sn", "encrypt_type"):
        for odd in (value for value in ODD if isinstance(value, str) and value != "\ud800"):
            params = signed(client, "alipay.trade.precreate", biz_content=json.dumps(biz | {"out_trade_no": "odd"}), **{name: odd})
            assert (await client.raw(params))[0] == 200
    await check_pages(system)


def signed(client: AlipayClient, method: str, **more: str) -> dict[str, str]:
    """Any parameters, rightly signed."""
    values = {name: value for name, value in client.params(method, {}).items() if name != "sign"} | more
    source = "&".join(f"{name}={value}" for name, value in sorted(values.items()))
    return values | {"sign": sign(client.private, source.encode())}


async def test_refused_input_changes_nothing(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.precreate("order1")
    await system.post("/simulator/pay/order1", {"notify": False})
    answer = await client.refund("order1", "r1", "0.10", query_options=5)
    assert answer["sub_code"] == "ACQ.INVALID_PARAMETER"
    assert (await system.get("/simulator/trades/order1")).json["refunded"] == 0
    wechat = WechatClient(system)
    assert (
        await v3_raw(
            wechat, "/v3/pay/transactions/native", json.dumps(wechat.order("order0001") | {"description": "\ud800"}).encode()
        )
    ) == 400
    assert (await system.get("/simulator/trades/order0001")).status == 404
    content = json.dumps({"out_trade_no": "order2", "total_amount": "1.00", "subject": "\ud800"})
    assert "isv.invalid-parameter" in (await client.raw(signed(client, "alipay.trade.precreate", biz_content=content)))[1]
    for url in ("http://[", "javascript:alert(1)", "ftp://x/y", "//x", "https://"):
        for name in ("notify_url", "return_url"):
            biz = {"out_trade_no": "order3", "total_amount": "1.00", "subject": "x"}
            more: dict[str, Any] = {name: url}
            answer = await client.call("alipay.trade.precreate", biz, **more)
            assert answer["sub_code"] == "ACQ.INVALID_PARAMETER"
    assert (await system.get("/simulator/trades/order3")).status == 404


OWN = (
    *("/simulator/" + name for name in ("clock", "faults", "rotation", "settings", "alipay/app")),
    *(f"/simulator/{name}/order0001" for name in ("pay", "fail", "close", "refund", "resend", "finish")),
)


async def test_control_api(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    names = ("advance_seconds", "now", "wait_seconds", "channel", "done", "refund_notify_url", "amount", "times", "delay_seconds")
    more = ("bad_signature", "payer", "force", "state", "notify_url", "every", "api", "fault", "seconds", "skip", "queries")
    for path in OWN:
        for body in (DEEP, "\ud800".encode("utf-8", "surrogatepass"), '"\\ud800"', "[1]", "5", "NaN", "{", "[[]]", LONG):
            async with system.session.post(system.base + path, data=body) as response:
                assert response.status in (400, 409), (path, body)
        for name in (*names, *more):
            for odd in ODD:
                rule = {"api": "wx.query", "fault": "slow"} if path.endswith("faults") else {}
                answer = await system.post(path, {**rule, name: odd})
                assert answer.status in (200, 400, 409), (path, name, odd, answer.body)
        await system.post("/simulator/reset")
        await client.create("order0001")
    await check_pages(system)


async def test_forms(system: SimulatorSystem) -> None:
    await WechatClient(system).create("order0001")
    kinds = (
        "application/x-www-form-urlencoded; charset=nope",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "text/plain",
    )
    paths = (
        *(f"/cashier/order0001/{name}" for name in ("delay", "refund", "nothing", "pay")),
        "/faults",
        "/clock",
        "/rotation",
        "/settings",
    )
    for path in paths:
        for kind in kinds:
            for body in (
                b"",
                b"rules=" + DEEP.encode(),
                b"\xff=%ff&seconds=nan&fault=%00",
                b"--x\r\n\r\n--x--",
                b"times=" + LONG.encode(),
            ):
                async with system.session.post(
                    system.base + path, data=body, headers={"Content-Type": kind}, allow_redirects=False
                ) as answer:
                    assert answer.status in (303, 404), (path, kind, body)
                    if answer.status == 303:
                        assert (await system.get(answer.headers["Location"])).status == 200
    await check_pages(system)


async def test_hosts_headers_and_encodings(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    for path in (
        "/",
        "/cashier/order0001",
        "/simulator/trades",
        "/gateway.do",
        "/v3/certificates",
        "/qr/order0001.svg",
        "/pay/orderquery",
    ):
        for host in ("[", "a b", "\xff", "x" * 500, "", "a:b:c", "a:99999999"):
            async with system.session.get(system.base + path, headers={"Host": host}) as response:
                assert response.status < 500, (path, host)
    for kind in ("gzip", "deflate", "br", "nonsense"):
        for path in ("/gateway.do", "/v3/pay/transactions/native", "/pay/orderquery", "/simulator/clock", "/clock"):
            async with system.session.post(
                system.base + path, data=b"not packed", headers={"Content-Encoding": kind}, allow_redirects=False
            ) as response:
                assert response.status < 500, (path, kind)
    await check_pages(system)


@pytest.mark.parametrize("body", ["[" * 3000, '{"a":"\\ud800"}', "<xml>" * 500, '{"a": 1e999}'])
async def test_page_shows_any_body(system: SimulatorSystem, body: str) -> None:
    await v3_raw(WechatClient(system), "/v3/pay/transactions/native", body.encode())
    assert (await system.get("/")).status == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from(["out_trade_no", "total_amount", "amount", "notify_url", "subject", "times"]), JSON))
async def test_random_bytes(system: SimulatorSystem, values: dict[str, Any]) -> None:
    wechat, alipay = WechatClient(system), AlipayClient(system)
    document = json.dumps(values)
    own: list[Callable[[], Any]] = [
        lambda: v3_raw(wechat, "/v3/pay/transactions/native", json.dumps(wechat.order("order0001") | values).encode()),
        lambda: raw_status(system, "/simulator/faults", document),
        lambda: raw_status(system, "/simulator/clock", document),
        lambda: raw_status(system, "/simulator/pay/order0001", document),
        lambda: raw_status(system, "/gateway.do?" + urlencode(signed(alipay, "alipay.trade.create", biz_content=document)), ""),
    ]
    for call in own:
        assert await call() < 500
    assert (await system.get("/")).status == 200


async def raw_status(system: SimulatorSystem, path: str, body: str) -> int:
    async with system.session.post(system.base + path, data=body.encode("utf-8", "surrogatepass")) as response:
        return response.status
