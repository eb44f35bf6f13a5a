"""WeChat's keys at work: both modes at once, rotation, and callbacks with serials that anybody can make up."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.services.context import deadline
from structlog.testing import capture_logs
from support.world import OPERATOR, World, WorldOn


class Counting:
    """A network that counts, and on which the certificates may take their time or be missing."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.urls: list[str] = []
        self.certificates_take = 0.0
        self.no_certificates = False

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        self.urls.append(request.url)
        if request.url.endswith("/v3/certificates"):
            await asyncio.sleep(self.certificates_take)
            if self.no_certificates:
                return HttpResponse(404, {}, '{"code":"RESOURCE_NOT_EXISTS","message":"无可用的平台证书"}'.encode())
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


async def test_platform_certificates_are_fetched_once_and_refreshed(world_on: WorldOn) -> None:
    transport = Counting()
    async with world_on(transport) as world:
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


async def test_made_up_serials_cannot_make_us_call_out(world_on: WorldOn) -> None:
    transport = Counting()
    async with world_on(transport) as world:
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


async def test_whoever_needs_keys_that_are_being_fetched_waits_for_them(world_on: WorldOn) -> None:
    transport = Counting()
    transport.certificates_take = 0.3
    async with world_on(transport) as world:
        await use(world, use_platform_certificates="true", public_key="", public_key_id="")
        orders = [await world.order() for _ in range(6)]
        attempts = await asyncio.gather(*(world.submit(order) for order in orders))
        assert all(attempt.display_content for attempt in attempts)
        assert transport.certificate_calls == 1
        # A refresh goes on beside the payments.
        transport.certificates_take = 5.0
        configured = await world.services.gateway.get(next(iter(world.services.gateway._known)))
        configured.codec._verifier.refreshed -= timedelta(hours=12)  # type: ignore[attr-defined]
        world.clock.advance(21)
        async with asyncio.timeout(3):
            order = await world.order()
            assert (await world.submit(order)).display_content
        assert transport.certificate_calls == 2


async def test_certificates_that_hang_keep_nobody_waiting_who_has_a_key(world_on: WorldOn) -> None:
    transport = Counting()
    transport.certificates_take = 5.0
    async with world_on(transport) as world:
        await use(world, use_platform_certificates="true")
        async with asyncio.timeout(3):
            assert (await world.submit(await world.order())).display_content
            while transport.certificate_calls != 1:
                await asyncio.sleep(0.01)


async def test_certificates_that_hang_keep_nobody_longer_than_it_waits(world_on: WorldOn) -> None:
    transport = Counting()
    transport.certificates_take = 5.0
    async with world_on(transport) as world:
        # Without any key they are waited for, but no longer than the caller waits.
        await use(world, use_platform_certificates="true", public_key="", public_key_id="")
        deadline.set(asyncio.get_running_loop().time() + 1)
        async with asyncio.timeout(3):
            with pytest.raises(PayCenterError) as caught:
                await world.submit(await world.order())
        assert caught.value.reason is Reason.CHANNEL_UNCLEAR


async def test_certificates_that_are_refused_are_heard_of(world_on: WorldOn) -> None:
    transport = Counting()
    async with world_on(transport) as world:
        await use(world, use_platform_certificates="true")
        await world.simulator.fault("wx.certificates", "decline", code="SIGN_ERROR")
        with capture_logs() as logs:
            await world.paid("wx_native")
        said = {entry["event"]: entry for entry in logs if entry["log_level"] == "warning"}
        assert "SIGN_ERROR" in said["channel_answer_refused"]["why"]
        assert "channel_keys_not_fetched" in said


async def test_a_merchant_that_has_moved_to_the_public_key(world_on: WorldOn) -> None:
    """The channel is still configured for both, but WeChat has no certificates for it any more: it is not asked at each payment."""
    transport = Counting()
    transport.no_certificates = True
    async with world_on(transport) as world:
        await use(world, use_platform_certificates="true")
        for _ in range(4):
            world.clock.advance(21)
            await world.paid("wx_native")
        assert transport.certificate_calls == 1


class Foreign(Counting):
    """Certificates that are signed with a key nobody knows."""

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        answer = await super().send(request, seconds)
        if request.url.endswith("/v3/certificates"):
            return HttpResponse(answer.status, {**answer.headers, "wechatpay-serial": "7" * 40}, answer.body)
        return answer


async def test_one_unknown_serial_is_one_call(world_on: WorldOn) -> None:
    transport = Foreign()
    async with world_on(transport) as world:
        await use(world, use_platform_certificates="true")
        now = str(int(world.clock.now().timestamp()))
        headers = {
            "Wechatpay-Timestamp": now, "Wechatpay-Nonce": "n", "Wechatpay-Signature": "AAAA", "Wechatpay-Serial": "7A" * 20,
        }  # fmt: skip
        status, _ = await world.call_back("wx_native", b"{}", headers)
        assert status >= 400
        assert transport.certificate_calls == 1
