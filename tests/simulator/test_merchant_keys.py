"""New keys of the merchant: the keys before stay valid for requests, and the last ones encrypt and sign."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from .merchant import SimulatorSystem, WechatClient
from .xml_merchant import XmlClient

pytestmark = pytest.mark.asyncio


async def changed(system: SimulatorSystem, channel: str) -> dict[str, str]:
    config: dict[str, str] = (await system.post("/simulator/merchant-keys", {"channel": channel})).json["config"]
    return config


def with_keys(client: WechatClient, config: dict[str, str]) -> WechatClient:
    """The client after its merchant has taken these keys."""
    key = serialization.load_pem_private_key(config["private_key"].encode(), None)
    assert isinstance(key, RSAPrivateKey)
    client.private = key
    client.ids = client.ids | {"merchant_serial": config["merchant_serial_no"], "apiv3_key": config["api_v3_key"]}
    return client


async def test_requests_may_use_the_keys_before_as_well(system: SimulatorSystem) -> None:
    before, after = WechatClient(system), WechatClient(system)
    await before.create("order0001")
    with_keys(after, await changed(system, "wechatpay"))
    for client in (before, after):
        assert (await client.query("order0001")).status == 200
    wrong = await before.call("GET", "/v3/certificates", serial_no=after.ids["merchant_serial"])
    assert (wrong.status, wrong.json["code"]) == (401, "SIGN_ERROR")


async def test_the_last_keys_encrypt(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    with_keys(client, await changed(system, "wechatpay"))
    await system.post("/simulator/pay/order0001")
    (notification,) = await system.notifications(1)
    assert client.opened(notification)["out_trade_no"] == "order0001"


async def test_new_keys_are_stored_and_a_reset_ends_them(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    with_keys(client, await changed(system, "wechatpay"))
    await system.restart()
    assert (await client.query("order0001")).status == 200
    await system.post("/simulator/reset")
    assert (await client.query("order0001")).status == 401


async def test_v2_answers_are_signed_with_the_last_key(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    key = (await changed(system, "wechatpay"))["mch_key"]
    client.ids = client.ids | {"apiv2_key": key}
    answer = await client.call("/pay/orderquery", out_trade_no="order0001")
    assert answer["err_code"] == "ORDERNOTEXIST"


async def test_another_channel_is_refused(system: SimulatorSystem) -> None:
    assert (await system.post("/simulator/merchant-keys", {"channel": "mock"})).status == 400
