"""WeChat Pay v3: the order of the checks, and unsigned refusals."""

from __future__ import annotations

import json
import time

import pytest

from .merchant import Answer, SimulatorSystem, WechatClient

pytestmark = pytest.mark.asyncio


def refused(answer: Answer, status: int, code: str, part: str = "") -> None:
    assert (answer.status, answer.json["code"]) == (status, code)
    assert part in answer.json["message"]
    assert not [name for name in answer.headers if name.lower().startswith("wechatpay-")]


async def test_headers_are_checked_first(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    path = f"/v3/pay/transactions/out-trade-no/order0001?mchid={client.ids['mchid']}"
    for missing in ("User-Agent", "Accept"):
        answer = await client.call("GET", path, headers={missing: None}, stamp=1)
        refused(answer, 400, "INVALID_REQUEST", "User-Agent")
    refused(await client.call("GET", path, headers={"Authorization": None}), 401, "SIGN_ERROR")
    refused(await client.call("GET", path, headers={"Authorization": "Basic x"}), 401, "SIGN_ERROR")


async def test_time_stamp_is_checked_before_the_signature(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    path = "/v3/certificates"
    for shift in (-301, 301):
        answer = await client.call("GET", path, stamp=int(time.time()) + shift, signature="AAAA")
        refused(answer, 401, "SIGN_ERROR", "5分钟")
    assert (await client.call("GET", path, stamp=int(time.time()) - 295)).status == 200


async def test_serial_merchant_signature(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    refused(await client.call("GET", "/v3/certificates", serial_no="ABC", signature="AAAA"), 401, "SIGN_ERROR", "证书序列号")
    refused(await client.call("GET", "/v3/certificates", mchid="1900000001", signature="AAAA"), 401, "SIGN_ERROR", "mchid")
    refused(await client.call("GET", "/v3/certificates", signature="AAAA"), 401, "SIGN_ERROR", "验签失败")
    lower = await client.call("GET", "/v3/certificates", serial_no=client.ids["merchant_serial"].lower())
    assert lower.status == 200
    refused(await client.call("GET", "/v3/certificates", headers={"Wechatpay-Serial": "PUB_KEY_ID_0"}), 400, "PARAM_ERROR")


async def test_the_signature_covers_raw_path_and_body(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    spaced = json.dumps(client.order("order0001"), indent=3, ensure_ascii=False).encode()
    headers = {
        "Authorization": client.authorization("POST", "/v3/pay/transactions/native", spaced),
        "User-Agent": "merchant/1",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    async with system.session.post(system.base + "/v3/pay/transactions/native", data=spaced, headers=headers) as response:
        assert response.status == 200
    async with system.session.post(system.base + "/v3/pay/transactions/native", data=spaced + b" ", headers=headers) as response:
        assert response.status == 401
    await client.create("order|*02")
    mchid = client.ids["mchid"]
    for spelt in ("order|*02", "order%7C%2A02"):
        assert (await client.call("GET", f"/v3/pay/transactions/out-trade-no/{spelt}?mchid={mchid}")).status == 200
    refused(await client.call("GET", "/v3/pay/transactions/out-trade-no/order|*02"), 400, "PARAM_ERROR")


async def test_unknown_path_is_in_the_wire_log(system: SimulatorSystem) -> None:
    answer = await WechatClient(system).call("POST", "/v3/marketing/coupons", {"stock": 1})
    assert (answer.status, answer.body) == (404, b"")
    (entry,) = (await system.get("/simulator/log")).json
    assert (entry["url"], entry["verdict"], entry["status"]) == ("/v3/marketing/coupons", "refused: no such path", 404)


async def test_bodies_that_are_not_objects(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    refused(await client.call("POST", "/v3/pay/transactions/native", [1]), 400, "PARAM_ERROR")
    refused(await client.call("POST", "/v3/pay/transactions/native"), 400, "PARAM_ERROR")
