"""WeChat's keys at work: both modes at once, rotation, and callbacks with serials that anybody can make up."""

from __future__ import annotations

import asyncio
from pathlib import Path

from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport
from support.world import OPERATOR, World, open_world


class Counting:
    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.urls: list[str] = []

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        self.urls.append(request.url)
        return await self.inner.send(request, seconds)

    @property
    def certificate_calls(self) -> int:
        return sum(url.endswith("/v3/certificates") for url in self.urls)


async def use(world: World, **changes: str) -> None:
    family, config = world.configs["wx_native"]
    kept = {name: value for name, value in config.items() if changes.get(name) != ""}
    await world.services.channels.delete(OPERATOR, world.channels.pop("wx_native"))
    world.configs["wx_native"] = family, {**kept, **{name: value for name, value in changes.items() if value}}
    await world.add_channel("wx_native")


async def test_platform_certificates_are_fetched_once_and_refreshed(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    transport = Counting()
    async with open_world(database_url, redis_url, keys_dir, master_key_file, transport=transport) as world:
        await use(world, use_platform_certificates="true", public_key="", public_key_id="")
        await world.paid("wx_native")
        await world.paid("wx_native")
        assert transport.certificate_calls == 1
        # Rotated: the callback names a serial that is not known yet, is refused or fetched for, and booked in the end.
        await world.simulator.post("/simulator/rotation", {"channel": "wechatpay"})
        world.clock.advance(21)
        order = await world.order()
        attempt = await world.submit(order)
        await world.simulator.pay(attempt.out_trade_no)
        await world.until(order, "SUCCESS")
        await world.simulator.post("/simulator/rotation", {"channel": "wechatpay", "done": True})
        await transport.inner.aclose()


async def test_made_up_serials_cannot_make_us_call_out(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    transport = Counting()
    async with open_world(database_url, redis_url, keys_dir, master_key_file, transport=transport) as world:
        await use(world, use_platform_certificates="true")
        await world.paid("wx_native")
        before = transport.certificate_calls
        now = str(int(world.clock.now().timestamp()))
        for number in range(30):
            headers = {
                "Wechatpay-Timestamp": now, "Wechatpay-Nonce": "n", "Wechatpay-Signature": "AAAA",
                "Wechatpay-Serial": f"7A{number:038X}",
            }  # fmt: skip
            status, _ = await world.call_back("wx_native", b"{}", headers)
            assert status >= 400
        assert transport.certificate_calls - before <= 1
        await transport.inner.aclose()


async def test_both_key_modes_at_once_and_signtest_probes(world: World) -> None:
    """The migration: answers and callbacks are signed with either kind of key, and probes simply fail."""
    await use(world, use_platform_certificates="true")
    for fault in ("other_key", "signtest"):
        await world.simulator.fault("wx.notify", fault)
        order = await world.order()
        attempt = await world.submit(order)
        await world.simulator.pay(attempt.out_trade_no)
        if fault == "signtest":
            await asyncio.sleep(0.2)
            await world.simulator.advance(16)
        await world.until(order, "SUCCESS")
    await world.simulator.fault("wx.native", "other_key")
    order = await world.order()
    assert (await world.submit(order)).display_content
