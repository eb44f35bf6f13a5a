"""Fault rules."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import aiohttp
import pytest
from paycenter_server.simulator.app import create_app
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.settings import SimulatorConfig
from paycenter_server.simulator.state import STATE
from support.waiting import eventually

from .merchant import AlipayClient, SimulatorSystem, WechatClient

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("fault", ["timeout_after_commit", "reset"])
async def test_timeout_after_commit(system: SimulatorSystem, fault: str) -> None:
    client = WechatClient(system)
    await system.fault("wx.native", fault, seconds=0.3)
    with pytest.raises((aiohttp.ClientError, asyncio.TimeoutError)):
        await client.create("order0001")
    assert (await client.query("order0001")).json["trade_state"] == "NOTPAY"
    assert (await client.create("order0001")).status == 200


@pytest.mark.parametrize("fault", ["timeout_before_commit", "reset_before_commit"])
async def test_timeout_before_commit(system: SimulatorSystem, fault: str) -> None:
    client, alipay = WechatClient(system), AlipayClient(system)
    await system.fault("*", fault, seconds=0.2, times=2)
    with pytest.raises((aiohttp.ClientError, asyncio.TimeoutError)):
        await client.create("order0001")
    with pytest.raises((aiohttp.ClientError, asyncio.TimeoutError)):
        await alipay.precreate("order1")
    assert (await client.query("order0001")).status == 404
    assert (await system.get("/simulator/trades/order1")).status == 404


@pytest.mark.parametrize(
    ("fault", "status", "code", "done"),
    [
        ("error_before_commit", 500, "SYSTEM_ERROR", False),
        ("error_after_commit", 500, "SYSTEM_ERROR", True),
        ("http_503", 503, "SERVICE_UNAVAILABLE", False),
        ("rate_limit", 429, "FREQUENCY_LIMITED", False),
    ],
)
async def test_errors_of_wechat(system: SimulatorSystem, fault: str, status: int, code: str, done: bool) -> None:
    client = WechatClient(system)
    await system.fault("wx.native", fault)
    answer = await client.create("order0001")
    assert (answer.status, answer.json["code"]) == (status, code)
    assert "Wechatpay-Signature" not in answer.headers
    assert (await client.query("order0001")).status == (200 if done else 404)


@pytest.mark.parametrize(
    ("fault", "code", "sub_code", "done"),
    [
        ("error_before_commit", "20000", "isp.unknow-error", False),
        ("error_after_commit", "40004", "ACQ.SYSTEM_ERROR", True),
        ("rate_limit", "40005", "isv.app-call-limited", False),
    ],
)
async def test_errors_of_alipay(system: SimulatorSystem, fault: str, code: str, sub_code: str, done: bool) -> None:
    client = AlipayClient(system)
    await system.fault("alipay.trade.precreate", fault)
    answer = await client.precreate("order1")
    assert (answer["code"], answer["sub_code"]) == (code, sub_code)
    assert (await system.get("/simulator/trades/order1")).status == (200 if done else 404)


async def test_signature_faults_of_wechat(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await system.fault("wx.native", "unsigned")
    await system.fault("wx.native", "bad_signature")
    await system.fault("wx.native", "other_key")
    first = await client.create("order0001")
    assert (first.status, "Wechatpay-Signature" in first.headers) == (200, False)
    second = await client.create("order0001")
    assert (second.status, client.verified(second.headers, second.body)) == (200, "")
    third = await client.create("order0001")
    assert client.verified(third.headers, third.body) == client.ids["platform_serial"]
    fourth = await client.create("order0001")
    assert client.verified(fourth.headers, fourth.body) == client.serial


async def test_signature_faults_of_alipay(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    biz = {"out_trade_no": "order1", "total_amount": "1.00", "subject": "x"}
    for fault in ("unsigned", "bad_signature", "slash"):
        await system.fault("alipay.trade.precreate", fault)
        await client.call("alipay.trade.precreate", biz, signed=False)
    assert client.verified(client.last.replace("\\/", "/"), "alipay_trade_precreate_response")
    await system.fault("alipay.trade.precreate", "brace")
    assert "}" in (await client.call("alipay.trade.precreate", biz))["msg"]
    await system.fault("alipay.trade.precreate", "http_503")
    assert (await client.raw(client.params("alipay.trade.precreate", biz)))[0] == 503


async def test_wrong_amount_user_paying_slow(system: SimulatorSystem) -> None:
    client, alipay = WechatClient(system), AlipayClient(system)
    await client.create("order0001")
    await system.fault("wx.query", "user_paying", times=2)
    for state in ("USERPAYING", "USERPAYING", "NOTPAY"):
        assert (await client.query("order0001")).json["trade_state"] == state
    await system.fault("wx.query", "wrong_amount")
    assert (await client.query("order0001")).json["amount"]["total"] == 101
    await alipay.precreate("order1")
    await system.get("/cashier/order1")
    await system.fault("alipay.trade.query", "wrong_amount", amount=1)
    assert (await alipay.query("order1"))["total_amount"] == "0.01"
    await system.fault("wx.query", "slow", seconds=0.2)
    begun = time.monotonic()
    assert (await client.query("order0001")).status == 200
    assert time.monotonic() - begun >= 0.2


async def test_calls_that_match_a_rule(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    for number in ("order0001", "order0002"):
        await client.create(number)
    await system.fault("wx.query", "http_503", out_trade_no="order0002", skip=1)
    states = [(await client.query(number)).status for number in ("order0001", "order0002", "order0001", "order0002", "order0002")]
    assert states == [200, 200, 200, 503, 200]
    await system.post("/simulator/pay/order0001", {"notify": False})
    await client.refund("order0001", "refund1", 1)
    await system.fault("wx.refund_query", "http_503", out_trade_no="refund1")
    assert (await client.refund_query("refund1")).status == 503
    await system.fault("wx.query", "http_503", times=-1)
    assert {(await client.query("order0001")).status for _ in range(4)} == {503}
    assert len((await system.get("/simulator/faults")).json["rules"]) == 1
    await system.delete("/simulator/faults")
    assert (await client.query("order0001")).status == 200


@pytest.mark.parametrize(
    "rule",
    [
        {},
        1,
        {"api": "x", "fault": "nonsense"},
        {"fault": "slow"},
        {"api": "x", "fault": "slow", "times": "1"},
        {"api": "x", "fault": "slow", "z": 1},
    ],
)
async def test_invalid_rules(system: SimulatorSystem, rule: object) -> None:
    assert (await system.post("/simulator/faults", [{"api": "*", "fault": "slow"}, rule])).status == 400
    assert (await system.get("/simulator/faults")).json["rules"] == []


async def test_rules_from_a_file(keys: SimulatorKeys, tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    file.write_text(json.dumps([{"api": "wx.native", "fault": "http_503"}]), encoding="utf-8")
    started = await SimulatorSystem.start(keys, tmp_path / "x.sqlite3", faults_file=file)
    try:
        client = WechatClient(started)
        assert [(await client.create("order0001")).status for _ in range(2)] == [503, 200]
    finally:
        await started.stop()
    file.write_text("[{}]", encoding="utf-8")
    with pytest.raises(ValueError, match="api is required"):
        create_app(SimulatorConfig(keys_dir=keys.directory, faults_file=file))


async def test_stopping_does_not_wait_for_a_timeout_fault(keys: SimulatorKeys, tmp_path: Path) -> None:
    started = await SimulatorSystem.start(keys, tmp_path / "x.sqlite3")
    await started.fault("wx.native", "timeout_after_commit", seconds=60)
    hanging = asyncio.create_task(WechatClient(started).create("order0001"))
    await eventually(lambda: started.server.app[STATE].trades.find("order0001") is not None)
    begun = time.monotonic()
    await started.server.close()
    assert time.monotonic() - begun < 5
    with pytest.raises(aiohttp.ClientError):
        await hanging
    await started.stop()
