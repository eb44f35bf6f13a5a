"""No tests: a second merchant, with keys of its own, at a simulator of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp.test_utils import TestServer
from paycenter_server.cli.seed import channel_configs, wechat_v2_config
from paycenter_server.simulator.app import create_app
from paycenter_server.simulator.keys import load_keys
from paycenter_server.simulator.settings import SimulatorConfig

from support.system import PayCenterSystem, Simulator


@dataclass
class Merchant:
    """A merchant at both families, and the simulator that is its channel."""

    simulator: Simulator
    configs: dict[str, tuple[str, dict[str, str]]]

    def config(self, code: str, version: str = "v3") -> tuple[str, dict[str, str]]:
        """Family and configuration of a channel code. `version` is WeChat Pay's."""
        return self.configs["wx_native:v2"] if (code, version) == ("wx_native", "v2") else self.configs[code]


def merchant_of(keys_dir: Path, simulator: Simulator) -> Merchant:
    """The merchant whose keys are in this folder."""
    keys = load_keys(keys_dir)
    configs = channel_configs(keys, simulator.base)
    configs["wx_native:v2"] = ("wechatpay", wechat_v2_config(keys, simulator.base))
    return Merchant(simulator, configs)


@asynccontextmanager
async def another_merchant(system: PayCenterSystem, keys_dir: Path) -> AsyncIterator[Merchant]:
    """A merchant with the keys of this folder, at a new simulator."""
    server = TestServer(create_app(SimulatorConfig(keys_dir=keys_dir, refund_delay_seconds=0.05)))
    await server.start_server()
    try:
        yield merchant_of(keys_dir, Simulator(str(server.make_url("")).rstrip("/"), system.session))
    finally:
        await server.close()
