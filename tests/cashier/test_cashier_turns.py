"""Many requests of payers: they delay no callbacks, and a payer whose channel hangs no other payer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.http_callback.app import create_app, create_runner
from paycenter_server.http_cashier.app import _qr, add_cashier
from paycenter_server.services.turns import Turns
from support.locks import transaction
from support.system import PayCenterSystem, open_system
from support.transports import HangingTransport
from support.waiting import eventually


def token(system: PayCenterSystem, order: Any) -> str:
    return system.services.cashier.link(order, {}).url.rsplit("/", 1)[1]


@asynccontextmanager
async def sidecar(system: PayCenterSystem, turns: Turns) -> AsyncIterator[str]:
    app = create_app(system.services.callbacks, system.services.health)
    add_cashier(app, system.services.cashier, turns)
    runner = create_runner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()
    assert turns.idle


async def test_many_requests_of_payers_leave_the_connections_to_callbacks(system: PayCenterSystem) -> None:
    page, turns = f"/cashier/{token(system, await system.order())}", Turns(4, slow_seconds=600, wholly=True)
    unknown = encode(Prefix.CHANNEL, await system.value("SELECT id FROM pay_app"))
    async with sidecar(system, turns) as url, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:

        async def request(method: str, path: str, **more: Any) -> int:
            async with session.request(method, url + path, allow_redirects=False, **more) as answer:
                return answer.status

        async with transaction(system) as held:
            await held.execute("LOCK TABLE pay_order IN ACCESS EXCLUSIVE MODE")
            requests = [asyncio.ensure_future(request("GET", page)) for _ in range(10)]
            requests += [asyncio.ensure_future(request("GET", f"{page}/state")) for _ in range(5)]
            requests += [asyncio.ensure_future(request("POST", page, data={"code": "none"})) for _ in range(5)]
            await eventually(lambda: turns.waiting == 16)
            assert await request("POST", f"/callback/order/{unknown}", data=b"{}") == 404
        assert set(await asyncio.gather(*requests)) == {200}
        await eventually(lambda: turns.idle)


async def test_a_payer_whose_channel_hangs_leaves_the_turn_to_others(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    hanging, turns = HangingTransport(), Turns(1, slow_seconds=600, wholly=True)
    async with open_system(database_url, redis_url, keys_dir, master_key_file, transport=hanging) as system:
        page, other = [f"/cashier/{token(system, await system.order())}" for _ in range(2)]
        async with sidecar(system, turns) as url, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
            submit = asyncio.ensure_future(session.post(url + page, data={"code": "wx_native"}, allow_redirects=False))
            await hanging.arrived.wait()
            for path in (page, other):
                async with session.get(url + path) as answer:
                    assert answer.status == 200
            hanging.answer.set()
            assert (await submit).status == 303
            await eventually(lambda: turns.idle)
        await hanging.aclose()


async def test_a_text_that_is_too_long_for_a_code_has_none() -> None:
    assert _qr("x" * 2331).startswith("data:image/svg+xml")
    assert _qr("x" * 2332) == ""
    assert _qr("\u8336" * 778) == ""
