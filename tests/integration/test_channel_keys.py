"""WeChat Pay's keys: both modes at once, rotation, and callbacks with invented serials."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport
from paycenter_server.channels.wechatpay.v3 import WechatV3Codec
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.services.context import deadline
from structlog.testing import capture_logs
from support.system import OPERATOR, PayCenterSystem, SystemOn
from support.waiting import eventually


class Counting:
    """A network that counts calls, and on which the certificates may be slow or missing."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.urls: list[str] = []
        self.certificates_come = asyncio.Event()
        self.certificates_come.set()
        self.no_certificates = False

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        self.urls.append(request.url)
        if request.url.endswith("/v3/certificates"):
            await self.certificates_come.wait()
            if self.no_certificates:
                return HttpResponse(404, {}, '{"code":"RESOURCE_NOT_EXISTS","message":"无可用的平台证书"}'.encode())
        return await self.inner.send(request, seconds)

    @property
    def certificate_calls(self) -> int:
        return sum(url.endswith("/v3/certificates") for url in self.urls)


async def use(system: PayCenterSystem, **changes: str) -> None:
    family, config = system.configs["wx_native"]
    kept = {name: value for name, value in config.items() if changes.get(name) != ""}
    view = await system.services.channels.get(OPERATOR, system.channels["wx_native"])
    await system.services.channels.delete(OPERATOR, system.channels.pop("wx_native"))
    await system.services.accounts.delete(OPERATOR, view.account.number)
    system.configs["wx_native"] = family, {**kept, **{name: value for name, value in changes.items() if value}}
    await system.add_channel("wx_native")


async def test_platform_certificates_are_fetched_once_and_refreshed(system_on: SystemOn) -> None:
    transport = Counting()
    async with system_on(transport) as system:
        await use(system, use_platform_certificates="true", public_key="", public_key_id="")
        await system.paid("wx_native")
        await system.paid("wx_native")
        assert transport.certificate_calls == 1
        # After the rotation the callback has an unknown serial: it is refused or causes a fetch, and is finally booked.
        await system.simulator.post("/simulator/rotation", {"channel": "wechatpay"})
        system.clock.advance(21)
        order = await system.order()
        attempt = await system.submit(order)
        await system.simulator.pay(attempt.out_trade_no)
        await system.until(order, "SUCCESS")
        await system.simulator.post("/simulator/rotation", {"channel": "wechatpay", "done": True})


async def test_a_callback_fetches_certificates_that_are_due(system_on: SystemOn) -> None:
    """A sidecar makes no other calls, so nothing else would fetch them before they expire."""
    transport = Counting()
    async with system_on(transport) as system:
        await use(system, use_platform_certificates="true", public_key="", public_key_id="")
        order = await system.order()
        attempt = await system.submit(order)
        channel_id = decode(Prefix.CHANNEL, system.channels["wx_native"])
        assert channel_id is not None
        (configured,) = await system.services.gateway.channels.all_of(channel_id)
        assert isinstance(configured.codec, WechatV3Codec)
        configured.codec._verifier.refreshed = system.clock.now() - timedelta(hours=12)
        assert transport.certificate_calls == 1
        await system.simulator.pay(attempt.out_trade_no)
        await system.until(order, "SUCCESS")
        await eventually(lambda: transport.certificate_calls == 2)


async def test_invented_serials_cannot_cause_calls(system_on: SystemOn) -> None:
    transport = Counting()
    async with system_on(transport) as system:
        await use(system, use_platform_certificates="true")
        await system.paid("wx_native")
        before = transport.certificate_calls
        now = str(int(system.clock.now().timestamp()))
        for number in range(30):
            headers = {
                "Wechatpay-Timestamp": now, "Wechatpay-Nonce": "n", "Wechatpay-Signature": "AAAA",
                "Wechatpay-Serial": f"7A{number:038X}",
            }  # fmt: skip
            status, _ = await system.call_back("wx_native", b"{}", headers)
            assert status >= 400
        assert transport.certificate_calls - before <= 1


async def refused(system: PayCenterSystem, number: str) -> bool:
    """Whether the first send of a trade's callback was refused."""
    (notification, *_) = (await system.simulator.get(f"/simulator/trades/{number}"))["notifications"]
    return any(not send.get("accepted", True) for send in notification["attempts"])


async def test_both_key_modes_at_once_and_signtest_probes(system: PayCenterSystem) -> None:
    """The migration: answers and callbacks are signed with either kind of key, and probes simply fail."""
    await use(system, use_platform_certificates="true")
    for fault in ("other_key", "signtest"):
        await system.simulator.fault("wx.notify", fault)
        order = await system.order()
        attempt = await system.submit(order)
        await system.simulator.pay(attempt.out_trade_no)
        if fault == "signtest":
            await eventually(lambda number=attempt.out_trade_no: refused(system, number))  # type: ignore[misc]
            await system.simulator.advance(16)
        await system.until(order, "SUCCESS")
    await system.simulator.fault("wx.native", "other_key")
    order = await system.order()
    assert (await system.submit(order)).display_content


async def test_calls_that_need_keys_wait_for_a_running_fetch(system_on: SystemOn) -> None:
    transport = Counting()
    transport.certificates_come.clear()
    async with system_on(transport) as system:
        await use(system, use_platform_certificates="true", public_key="", public_key_id="")
        orders = [await system.order() for _ in range(6)]
        calls = [asyncio.create_task(system.submit(order)) for order in orders]
        await eventually(lambda: transport.certificate_calls)
        transport.certificates_come.set()
        attempts = await asyncio.gather(*calls)
        assert all(attempt.display_content for attempt in attempts)
        assert transport.certificate_calls == 1
        # A refresh runs in the background.
        transport.certificates_come.clear()
        configured = await system.services.gateway.channels.bound(next(iter(system.services.gateway.channels._known)))
        configured.codec._verifier.refreshed -= timedelta(hours=12)  # type: ignore[attr-defined]
        system.clock.advance(21)
        async with asyncio.timeout(3):
            order = await system.order()
            assert (await system.submit(order)).display_content
        assert transport.certificate_calls == 2
        transport.certificates_come.set()


async def test_with_a_key_no_call_waits_for_slow_certificates(system_on: SystemOn) -> None:
    transport = Counting()
    transport.certificates_come.clear()
    async with system_on(transport) as system:
        await use(system, use_platform_certificates="true")
        async with asyncio.timeout(3):
            assert (await system.submit(await system.order())).display_content
        await eventually(lambda: transport.certificate_calls == 1)
        transport.certificates_come.set()


async def test_slow_certificates_delay_a_call_at_most_until_its_deadline(system_on: SystemOn) -> None:
    transport = Counting()
    transport.certificates_come.clear()
    async with system_on(transport) as system:
        # Without a key the call waits for them, at most until its deadline.
        await use(system, use_platform_certificates="true", public_key="", public_key_id="")
        deadline.set(asyncio.get_running_loop().time() + 1)
        async with asyncio.timeout(3):
            with pytest.raises(PayCenterError) as caught:
                await system.submit(await system.order())
        assert caught.value.reason is Reason.CHANNEL_UNCLEAR
        transport.certificates_come.set()


async def test_refused_certificates_are_logged(system_on: SystemOn) -> None:
    transport = Counting()
    async with system_on(transport) as system:
        await use(system, use_platform_certificates="true")
        await system.simulator.fault("wx.certificates", "decline", code="SIGN_ERROR")
        with capture_logs() as logs:
            await system.paid("wx_native")
        said = {entry["event"]: entry for entry in logs if entry["log_level"] == "warning"}
        assert "SIGN_ERROR" in said["channel_answer_refused"]["why"]
        assert "channel_keys_not_fetched" in said


async def test_a_merchant_that_has_moved_to_the_public_key(system_on: SystemOn) -> None:
    """Both are configured, but WeChat Pay has no certificates any more. They are not requested at each payment."""
    transport = Counting()
    transport.no_certificates = True
    async with system_on(transport) as system:
        await use(system, use_platform_certificates="true")
        for _ in range(4):
            system.clock.advance(21)
            await system.paid("wx_native")
        assert transport.certificate_calls == 1


class Foreign(Counting):
    """Certificates that are signed with an unknown key."""

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        answer = await super().send(request, seconds)
        if request.url.endswith("/v3/certificates"):
            return HttpResponse(answer.status, {**answer.headers, "wechatpay-serial": "7" * 40}, answer.body)
        return answer


async def test_one_unknown_serial_is_one_call(system_on: SystemOn) -> None:
    transport = Foreign()
    async with system_on(transport) as system:
        await use(system, use_platform_certificates="true")
        now = str(int(system.clock.now().timestamp()))
        headers = {
            "Wechatpay-Timestamp": now, "Wechatpay-Nonce": "n", "Wechatpay-Signature": "AAAA", "Wechatpay-Serial": "7A" * 20,
        }  # fmt: skip
        status, _ = await system.call_back("wx_native", b"{}", headers)
        assert status >= 400
        assert transport.certificate_calls == 1
