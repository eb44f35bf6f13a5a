"""WeChat Pay code payments: v2 micropay, v3 codepay, and their reversal."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from .merchant import Answer, SimulatorSystem, WechatClient
from .xml_merchant import XmlClient

pytestmark = pytest.mark.asyncio


async def codepay(client: WechatClient, number: str, code: str = "134567890123456789", **more: Any) -> Answer:
    document = client.order(number, payer={"auth_code": code}, scene_info={"store_info": {"id": "s1"}}) | more
    del document["notify_url"]
    return await client.call("POST", "/v3/pay/transactions/codepay", document)


async def reverse(client: WechatClient, number: str) -> Answer:
    ids = {"appid": client.ids["appid"], "mchid": client.ids["mchid"]}
    return await client.call("POST", f"/v3/pay/transactions/out-trade-no/{number}/reverse", ids)


async def test_micropay(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    paid = await client.micropay("order0001")
    assert (paid["result_code"], paid["trade_type"], paid["total_fee"]) == ("SUCCESS", "MICROPAY", "100")
    assert (await client.query("order0001"))["transaction_id"] == paid["transaction_id"]
    assert (await client.micropay("order0001"))["err_code"] == "ORDERPAID"
    assert (await WechatClient(system).query("order0001")).json["trade_type"] == "MICROPAY"
    assert (await client.micropay("order0002", "234567890123456789"))["err_code"] == "AUTH_CODE_INVALID"
    assert not system.received


@pytest.mark.parametrize(("fault", "code"), [("user_paying", "USERPAYING"), ("bank_error", "BANKERROR")])
async def test_micropay_confirmed_on_query(system: SimulatorSystem, fault: str, code: str) -> None:
    client = XmlClient(system)
    await system.fault("wx2.micropay", fault, queries=2)
    assert (await client.micropay("order0001"))["err_code"] == code
    assert (await client.micropay("order0001"))["err_code"] == "USERPAYING"
    states = [(await client.query("order0001"))["trade_state"] for _ in range(3)]
    assert states == ["USERPAYING", "USERPAYING", "SUCCESS"]


async def test_micropay_confirmed_by_script(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    await system.fault("wx2.micropay", "user_paying", times=3)
    for number in ("order0001", "order0002", "order0003"):
        await client.micropay(number)
        assert (await client.query(number))["trade_state"] == "USERPAYING"
    await system.post("/simulator/pay/order0001")
    assert (await client.query("order0001"))["trade_state"] == "SUCCESS"
    await system.post("/simulator/fail/order0002")
    assert (await client.query("order0002"))["trade_state"] == "PAYERROR"
    assert (await client.call("/pay/closeorder", out_trade_no="order0003"))["err_code"] == "TRADE_ERROR"
    for number in ("order0002", "order0003"):
        assert (await client.reverse(number))["recall"] == "N"
        assert (await client.query(number))["trade_state"] == "REVOKED"
    assert (await client.micropay("order0003"))["err_code"] == "ORDERREVERSED"
    assert (await system.post("/simulator/pay/order0003")).status == 409


async def test_micropay_system_error_and_decline(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    await system.fault("wx2.micropay", "error_after_commit")
    assert (await client.micropay("order0001"))["err_code"] == "SYSTEMERROR"
    assert (await client.query("order0001"))["trade_state"] == "SUCCESS"
    await system.fault("wx2.micropay", "error_before_commit")
    assert (await client.micropay("order0002"))["err_code"] == "SYSTEMERROR"
    assert (await client.query("order0002"))["err_code"] == "ORDERNOTEXIST"
    await system.fault("wx2.micropay", "decline", code="AUTHCODEEXPIRE")
    assert (await client.micropay("order0003"))["err_code"] == "AUTHCODEEXPIRE"
    assert (await client.query("order0003"))["trade_state"] == "PAYERROR"
    await system.fault("wx2.micropay", "reset")
    with pytest.raises(aiohttp.ClientError):
        await client.micropay("order0004")
    assert (await client.query("order0004"))["trade_state"] == "SUCCESS"


async def test_reverse(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    await client.micropay("order0001")
    await system.fault("wx2.reverse", "recall", times=2)
    for _ in range(2):
        answer = await client.reverse("order0001")
        assert (answer["result_code"], answer["recall"]) == ("FAIL", "Y")
    assert (await client.query("order0001"))["trade_state"] == "SUCCESS"
    for _ in range(2):
        answer = await client.reverse("order0001")
        assert (answer["result_code"], answer["recall"]) == ("SUCCESS", "N")
    assert (await client.query("order0001"))["trade_state"] == "REVOKED"
    assert (await system.get("/simulator/trades/order0001")).json["refunded"] == 100
    assert (await client.refund("order0001", "refund1", 1))["result_code"] == "FAIL"
    assert (await client.reverse("order0009"))["err_code"] == "ORDERNOTEXIST"
    await client.order("order0002")
    assert (await client.reverse("order0002"))["err_code"] == "TRADE_ERROR"
    await client.micropay("order0003")
    await system.advance(7 * 86400 + 1)
    assert (await client.reverse("order0003"))["err_code"] == "REVERSE_EXPIRE"


async def test_codepay(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    paid = await codepay(client, "order0001")
    assert client.verified(paid.headers, paid.body)
    assert (paid.json["trade_state"], paid.json["trade_type"], paid.json["amount"]["total"]) == ("SUCCESS", "MICROPAY", 100)
    assert (await codepay(client, "order0001")).json["code"] == "ORDERPAID"
    assert (await codepay(client, "order0002", "1")).json["code"] == "AUTH_CODE_INVALID"
    assert (await codepay(client, "order0002", scene_info={})).json["code"] == "PARAM_ERROR"
    assert (await XmlClient(system).query("order0001"))["trade_state"] == "SUCCESS"
    await system.fault("wx.codepay", "decline", code="NOTENOUGH")
    declined = await codepay(client, "order0002")
    assert (declined.status, declined.json["code"]) == (403, "NOTENOUGH")
    assert (await client.query("order0002")).json["trade_state"] == "PAYERROR"
    assert not system.received


async def test_codepay_confirmed_or_reversed(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await system.fault("wx.codepay", "user_paying", queries=1)
    assert (await codepay(client, "order0001")).json["trade_state"] == "USERPAYING"
    assert [(await client.query("order0001")).json["trade_state"] for _ in range(2)] == ["USERPAYING", "SUCCESS"]
    await system.fault("wx.codepay", "user_paying")
    await codepay(client, "order0002")
    assert (await client.close("order0002")).json["code"] == "TRADE_ERROR"
    await system.fault("wx.reverse", "recall")
    assert (await reverse(client, "order0002")).status == 500
    for number in ("order0001", "order0002", "order0002"):
        answer = await reverse(client, number)
        assert (answer.status, answer.json["out_trade_no"]) == (200, number)
        assert (await client.query(number)).json["trade_state"] == "REVOKED"
    assert (await reverse(client, "order0009")).json["code"] == "ORDER_NOT_EXIST"
    await client.create("order0003")
    assert (await reverse(client, "order0003")).json["code"] == "TRADE_ERROR"


async def test_any_v3_call_can_be_declined(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    for code, status in (("NO_AUTH", 403), ("PARAM_ERROR", 400), ("RESOURCE_NOT_EXISTS", 404)):
        await system.fault("wx.native", "decline", code=code)
        answer = await client.create("order0001")
        assert (answer.status, answer.json["code"]) == (status, code)
