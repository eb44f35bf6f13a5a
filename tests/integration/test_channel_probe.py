from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paycenter_server.simulator import generate_keys, load_keys
from support.world import OPERATOR, World

CODES = ["wx_native", "wx_bar", "alipay_qr", "alipay_pc", "mock"]


async def probe(world: World, code: str, **changes: str) -> Any:
    if code not in world.channels:
        await world.add_channel(code)
    if changes:
        family, config = world.configs[code]
        await world.services.channels.update(OPERATOR, world.channels[code], {}, family, {**config, **changes})
        world.services.gateway._known.clear()
    return await world.services.channel_probe.probe(OPERATOR, "shop", code)


@pytest.mark.parametrize("code", CODES)
async def test_a_channel_that_works(world: World, code: str) -> None:
    found = await probe(world, code)
    assert found.good, found.words


async def test_platform_certificates_are_fetched(world: World) -> None:
    family, config = world.configs["wx_native"]
    plain = {name: value for name, value in config.items() if not name.startswith("public_key")}
    world.configs["wx_native"] = family, {**plain, "use_platform_certificates": "true"}
    await world.services.channels.delete(OPERATOR, world.channels.pop("wx_native"))
    found = await probe(world, "wx_native")
    assert found.good, found.words
    assert not (await probe(world, "wx_native", api_v3_key="x" * 32)).good


@pytest.fixture(scope="module")
def other_keys(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("other-keys")
    generate_keys(folder)
    return load_keys(folder)


async def test_what_is_wrong_is_said_in_plain_words(world: World, other_keys: Any) -> None:
    strange_private = other_keys.text("wechatpay", "apiclient_key.pem")
    strange_public = other_keys.text("wechatpay", "pub_key.pem")
    cases: list[tuple[str, dict[str, str], str]] = [
        ("wx_native", {"private_key": strange_private}, "does not accept our signature"),
        ("wx_native", {"public_key": strange_public}, "does not verify"),
        ("wx_native", {"public_key_id": "PUB_KEY_ID_0000000000000000000000000001"}, "refuses"),
        ("wx_native", {"gateway_url": "http://127.0.0.1:9"}, "cannot be reached"),
        ("alipay_qr", {"private_key": strange_private}, "does not accept our signature"),
        ("alipay_qr", {"alipay_public_key": strange_public}, "does not verify"),
        ("wx_bar", {"mch_key": "0" * 32}, "APIv2 key"),
    ]
    for code, changes, words in cases:
        found = await probe(world, code, **changes)
        assert not found.good
        assert words in found.words, (code, changes.keys(), found.words)
        good = {name: world.configs[code][1].get(name, "") for name in changes}
        assert (await probe(world, code, **good)).good


async def test_the_command(world: World, master_key_file: Path) -> None:
    environment = {
        **os.environ, "PAYCENTER_MODE": "development", "PAYCENTER_DATABASE_URL": world.database_url,
        "PAYCENTER_MASTER_KEY_FILE": str(master_key_file), "PAYCENTER_ORDER_NOTIFY_URL": world.settings.order_notify_url,
        "PAYCENTER_REFUND_NOTIFY_URL": world.settings.refund_notify_url,
    }  # fmt: skip

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "paycenter_server.cli", "channel", "test", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)

    import asyncio

    found = await asyncio.to_thread(run, "alipay_qr", "--app", "shop")
    assert (found.returncode, "signatures verify" in found.stdout) == (0, True), found
    missing = await asyncio.to_thread(run, "wx_app", "--app", "shop")
    assert (missing.returncode, "no channel" in missing.stderr) == (1, True), missing


async def test_a_clock_that_is_off_is_named(world: World) -> None:
    world.clock.advance(3600)
    found = await probe(world, "wx_native")
    assert not found.good
    assert "clock" in found.words
