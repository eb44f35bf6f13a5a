"""The sender with a version of aiohttp whose undocumented parts are others: it sends by ClientSession, as it did before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from paycenter_server.http_requests import Answer, Headers, OtherAiohttpError, PoolRequests, Tls
from paycenter_server.workers.notification_sender import BLOCKED, AddressGuard, AiohttpNotificationSender, parse_networks
from support.system import FakeClock


class NoSuchPartError(AttributeError):
    """What Python raises for a part that is not there; by its name no mutant is taken for a broken program."""


class OtherAiohttp(PoolRequests):
    """What fails as `PoolRequests` would. It counts its calls."""

    calls = 0

    def __init__(self, connector: aiohttp.TCPConnector, *, encoded: bool = False, connect_seconds: float | None = None) -> None:
        super().__init__(connector, encoded=encoded, connect_seconds=connect_seconds)
        OtherAiohttp.calls = 0

    async def send(self, method: str, url: str, headers: Headers, body: bytes, most: int, tls: Tls = True) -> Answer:
        OtherAiohttp.calls += 1
        await asyncio.sleep(0)  # noqa: TID251 (so that several are in progress)
        raise NoSuchPartError("'Connection' object has no attribute 'protocol'")


@asynccontextmanager
async def sending(networks: str) -> AsyncIterator[AiohttpNotificationSender]:
    made = AiohttpNotificationSender(AddressGuard(parse_networks(networks)), FakeClock(), timeout=5, requests=OtherAiohttp)
    yield made
    await made.aclose()


@pytest.fixture
async def receiver() -> AsyncIterator[str]:
    """Answers with 70,000 bytes, or with a redirect."""

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/moved":
            raise web.HTTPFound("/")
        return web.Response(body=await request.read() + b"x" * 70_000)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield "http://{}:{}".format(*runner.addresses[0][:2])
    await runner.cleanup()


async def test_all_are_sent_and_the_other_way_is_not_tried_again(receiver: str) -> None:
    async with sending("127.0.0.0/8") as sender:
        first = await asyncio.gather(*(sender.send(receiver, {}, b"%d" % number) for number in range(3)))
        assert [(answer.status, answer.text[:1]) for answer in first] == [(200, "0"), (200, "1"), (200, "2")]
        assert len(first[0].text) == 64 * 1024
        assert (await sender.send(f"{receiver}/moved", {}, b"")).status == 302
    assert OtherAiohttp.calls == 3


async def test_what_may_have_been_written_is_not_sent_again_at_once(receiver: str) -> None:
    class OtherReader(PoolRequests):
        async def send(self, method: str, url: str, headers: Headers, body: bytes, most: int, tls: Tls = True) -> Answer:
            raise OtherAiohttpError("no such part")

    made = AiohttpNotificationSender(AddressGuard(parse_networks("127.0.0.0/8")), FakeClock(), timeout=5, requests=OtherReader)
    first, second = await made.send(receiver, {}, b"1"), await made.send(receiver, {}, b"2")
    await made.aclose()
    assert (first.status, first.text) == (0, "OtherAiohttpError: no such part")
    assert (second.status, second.text[:1]) == (200, "2")


async def test_private_addresses_stay_refused(receiver: str) -> None:
    async with sending("") as sender:
        answer = await sender.send(receiver, {}, b"")
    assert answer.blocked
    assert BLOCKED in answer.text
