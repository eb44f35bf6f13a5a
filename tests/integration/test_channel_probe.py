from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from paycenter_server.simulator.keys import generate_keys, load_keys
from support.commands import run_command
from support.system import OPERATOR, PayCenterSystem

CODES = ["wx_native", "wx_bar", "alipay_qr", "alipay_pc", "mock"]


async def probe(system: PayCenterSystem, code: str, **changes: str) -> Any:
    if code not in system.channels:
        await system.add_channel(code)
    if changes:
        family, config = system.configs[code]
        await system.services.channels.update(OPERATOR, system.channels[code], {}, family, {**config, **changes})
        system.services.gateway.channels._known.clear()
    return await system.services.channel_probe.probe(OPERATOR, "shop", code)


@pytest.mark.parametrize("code", CODES)
async def test_a_channel_that_works(system: PayCenterSystem, code: str) -> None:
    found = await probe(system, code)
    assert found.good, found.words


async def test_platform_certificates_are_fetched(system: PayCenterSystem) -> None:
    family, config = system.configs["wx_native"]
    plain = {name: value for name, value in config.items() if not name.startswith("public_key")}
    system.configs["wx_native"] = family, {**plain, "use_platform_certificates": "true"}
    await system.services.channels.delete(OPERATOR, system.channels.pop("wx_native"))
    found = await probe(system, "wx_native")
    assert found.good, found.words
    assert not (await probe(system, "wx_native", api_v3_key="x" * 32)).good


@pytest.fixture(scope="module")
def other_keys(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("other-keys")
    generate_keys(folder)
    return load_keys(folder)


async def test_what_is_wrong_is_described(system: PayCenterSystem, other_keys: Any) -> None:
    strange_private = other_keys.text("wechatpay", "apiclient_key.pem")
    strange_public = other_keys.text("wechatpay", "pub_key.pem")
    cases: list[tuple[str, dict[str, str], str]] = [
        ("wx_native", {"private_key": strange_private}, "private key is not the one"),
        ("wx_native", {"public_key": strange_public}, "does not verify"),
        ("wx_native", {"merchant_serial_no": "5F1C72E2A8931B70"}, "serial number is not that of the merchant's certificate"),
        ("wx_native", {"appid": "wx0000000000000000"}, "not bound"),
        ("wx_pub", {"appid": "wx0000000000000000"}, "not bound"),
        ("wx_native", {"public_key_id": "PUB_KEY_ID_0000000000000000000000000001"}, "refuses"),
        ("wx_native", {"gateway_url": "http://127.0.0.1:9"}, "cannot be reached"),
        ("wx_bar", {"gateway_url": "http://127.0.0.1:9"}, "cannot be reached"),
        ("alipay_qr", {"gateway_url": "http://127.0.0.1:9"}, "cannot be reached"),
        ("alipay_qr", {"private_key": strange_private}, "does not accept our signature"),
        ("alipay_qr", {"alipay_public_key": strange_public}, "does not verify"),
        ("wx_bar", {"mch_key": "0" * 32}, "The APIv2 key is not the merchant's"),
        ("wx_bar", {"appid": "wx0000000000000000"}, "not bound"),
    ]
    for code, changes, words in cases:
        found = await probe(system, code, **changes)
        assert not found.good
        assert words in found.words, (code, changes.keys(), found.words)
        good = {name: system.configs[code][1].get(name, "") for name in changes}
        assert (await probe(system, code, **good)).good


@pytest.mark.parametrize("code", ["wx_native", "wx_app", "wx_bar"])
async def test_the_order_of_the_trial_is_closed_and_leaves_nothing_behind(system: PayCenterSystem, code: str) -> None:
    assert (await probe(system, code)).good
    (trade,) = await system.simulator.get("/simulator/trades")
    assert (trade["state"], trade["amount"], trade["api"]) == ("CLOSED", 1, "native")
    assert await system.value("SELECT count(*) FROM pay_attempt") == 0


async def test_a_product_without_permission_proves_nothing_about_another(system: PayCenterSystem) -> None:
    for code, good in (("wx_native", False), ("wx_pub", True)):
        await system.simulator.fault("wx.native", "decline", code="NO_AUTH")
        found = await probe(system, code)
        assert (found.good, "permission" in found.words) == (good, True), found.words


async def test_a_key_that_nothing_was_signed_with_before_the_order(system: PayCenterSystem, other_keys: Any) -> None:
    """A merchant without platform certificates gets an unsigned 404 for them, as for an unknown number."""
    strange_public = other_keys.text("wechatpay", "pub_key.pem")
    await system.simulator.fault("wx.certificates", "decline", code="RESOURCE_NOT_EXISTS")
    found = await probe(system, "wx_native", public_key=strange_public)
    assert (found.good, "does not verify" in found.words) == (False, True), found.words


async def test_the_command(system: PayCenterSystem, master_key_file: Path) -> None:
    environment = {
        **os.environ, "PAYCENTER_MODE": "development", "PAYCENTER_DATABASE_URL": system.database_url,
        "PAYCENTER_MASTER_KEY_FILE": str(master_key_file), "PAYCENTER_ORDER_CALLBACK_URL": system.settings.order_callback_url,
        "PAYCENTER_REFUND_CALLBACK_URL": system.settings.refund_callback_url,
    }  # fmt: skip

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return run_command(("channel", "test", *words), environment, master_key_file.parent)

    import asyncio

    found = await asyncio.to_thread(run, "alipay_qr", "--app", "shop")
    assert (found.returncode, "signatures verify" in found.stdout) == (0, True), found
    missing = await asyncio.to_thread(run, "wx_app", "--app", "shop")
    assert (missing.returncode, "no channel" in missing.stderr) == (1, True), missing


async def test_a_clock_that_is_off_is_named(system: PayCenterSystem) -> None:
    system.clock.advance(3600)
    found = await probe(system, "wx_native")
    assert not found.good
    assert "clock" in found.words
