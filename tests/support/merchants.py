"""No tests: a second merchant, with keys of its own, at a simulator of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer
from paycenter_server.bootstrap import Services
from paycenter_server.cli.seed import channel_configs, wechat_v2_config
from paycenter_server.services.paging import Pager
from paycenter_server.simulator.app import create_app
from paycenter_server.simulator.keys import load_keys
from paycenter_server.simulator.settings import SimulatorConfig

from support.system import OPERATOR, PayCenterSystem, Simulator
from support.waiting import eventually


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


@dataclass
class Caught:
    """A genuine callback, as it was sent."""

    headers: dict[str, str]
    body: bytes

    async def deliver(self, system: PayCenterSystem, code: str, kind: str = "order") -> int:
        """Send it to the address of a channel. Returns the status of the answer."""
        status, _ = await system.call_back(code, self.body, self.headers, kind)
        return status


class Interceptor:
    """A server at the callback addresses that catches callbacks, and acknowledges none of them."""

    def __init__(self) -> None:
        self.caught: list[Caught] = []

    async def receive(self, request: web.Request) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "content-length")}
        self.caught.append(Caught(headers, await request.read()))
        return web.Response(status=500)

    async def next(self) -> Caught:
        """The first callback that was caught and not taken yet."""
        await eventually(lambda: bool(self.caught))
        return self.caught.pop(0)


@asynccontextmanager
async def intercepted(system: PayCenterSystem) -> AsyncIterator[Interceptor]:
    """Give channels the addresses of an interceptor from now on."""
    interceptor = Interceptor()
    app = web.Application()
    app.router.add_post("/{tail:.*}", interceptor.receive)
    server = TestServer(app)
    await server.start_server()
    base, context = str(server.make_url("")).rstrip("/"), system.services.context
    before = context.options
    context.options = replace(before, order_callback_url=f"{base}/order", refund_callback_url=f"{base}/refund")
    try:
        yield interceptor
    finally:
        context.options = before
        await server.close()


async def change_own_keys(
    services: Services, simulator: Simulator, configs: dict[str, tuple[str, dict[str, str]]], family: str
) -> bool:
    """The merchant of these configurations makes new keys in the channel's console, and an operator gives them to its account.

    The keys before verify for the overlap. The configurations have the new keys then. False if there is no account yet.
    """
    made = (await simulator.post("/simulator/merchant-keys", {"channel": family}))["config"]
    identities = set()
    for code, (own, config) in configs.items():
        if own == family:
            identities.add(config[{"wechatpay": "mchid", "alipay": "app_id"}[family]])
            configs[code] = own, config | {name: value for name, value in made.items() if name in config}
    for view in (await services.accounts.search(OPERATOR, family, Pager(200, ""))).items:
        if view.account.identity in identities:
            known = {*view.config, *view.secrets}
            keys = dict(view.config) | {name: value for name, value in made.items() if name in known}
            await services.accounts.update(OPERATOR, view.account.number, {}, family, keys)
            return True
    return False
