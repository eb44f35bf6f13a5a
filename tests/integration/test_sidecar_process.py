"""The sidecar as a process of its own: few file descriptors, many connections, and what is not HTTP."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web
from integration.test_sidecar import raw
from paycenter_server.connections import Connections, connection_limit
from paycenter_server.http_callback.app import create_app, serve
from paycenter_server.http_cashier.app import add_cashier
from support.server_process import ServerProcess, server_process
from support.system import PayCenterSystem, free_port
from support.waiting import eventually

HALF_OPEN = 1300


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))


@asynccontextmanager
async def sidecar_process(system: PayCenterSystem, **more: Any) -> AsyncIterator[tuple[ServerProcess, str]]:
    address = f"127.0.0.1:{free_port()}"
    async with server_process(system, "callback", callback_address=address, **more) as process:
        await process.until_logged("callback_listening")
        yield process, f"http://{address}"


async def healthy(url: str, path: str = "/healthz") -> bool:
    """Over a connection of its own."""
    timeout = aiohttp.ClientTimeout(total=2)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url + path) as response:
        return response.status == 200


@pytest.fixture
def many_descriptors() -> Any:
    """For this process, which opens the other ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < HALF_OPEN + 500:
        pytest.skip(f"this process may open only {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, HALF_OPEN + 500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_1300_half_open_connections_with_1024_descriptors(system: PayCenterSystem, many_descriptors: None) -> None:
    async with sidecar_process(system, preexec=few_descriptors) as (process, url):
        host, _, port = url.removeprefix("http://").partition(":")
        sockets: list[socket.socket] = []
        loop = asyncio.get_running_loop()
        try:
            for number in range(HALF_OPEN):
                sockets.append(made := socket.socket())
                made.setblocking(False)
                await asyncio.wait_for(loop.sock_connect(made, (host, int(port))), 5)
                if number % 2:
                    await loop.sock_sendall(made, b"POST /callback/order/x HTTP/1.1\r\nHost: x\r\n")
                if number % 100 == 99:
                    assert await healthy(url)
            for path in ("/healthz", "/readyz"):
                assert await healthy(url, path)
            await process.until_logged("connection_limit_reached")
            lines = [json.loads(line) for line in process.log.splitlines()]
            assert [line["max_connections"] for line in lines if line["event"] == "callback_listening"] == [768]
            assert "Too many open files" not in process.log
            assert "Traceback" not in process.log
        finally:
            for made in sockets:
                made.close()
        assert await healthy(url)
        process.stop()
        assert await process.wait() == 0


async def test_what_is_not_http_is_one_line_of_json(system: PayCenterSystem) -> None:
    async with sidecar_process(system) as (process, url):
        path = f"/callback/order/{system.channels['wx_native']}"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n"
        for request in (
            b"\0\xff\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET / HTTP/9.9\r\n\r\n",
            b"get / http/1.1\r\n\r\n",
            f"{head}Content-Length: -1\r\n\r\n".encode(),
            f"{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
            f"{head}X: {'y' * 20_000}\r\n\r\n".encode(),
            f"{head}Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n".encode(),
            f"{head}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx".encode(),
            f"{head}Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxx\r\n0\r\n\r\n".encode(),
        ):
            answer = await raw(url, request, 3)
            assert answer[9:12] == b"400", (request[:80], answer[:100])
            assert b"Traceback" not in answer
        assert await healthy(url)
        assert "Traceback" not in process.log
        for line in process.log.splitlines():
            assert "event" in json.loads(line), line


@dataclass
class Held:
    """`POST /held`: `began` is set when its head has come, and it is answered when `done` is set."""

    began: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        self.began.set()
        await request.read()
        await self.done.wait()
        return web.Response(text="done")


@asynccontextmanager
async def own_sidecar(system: PayCenterSystem, connections: Connections, held: Held | None = None) -> AsyncIterator[str]:
    port, stop = free_port(), asyncio.Event()
    app = create_app(system.services.callbacks, system.services.health)
    add_cashier(app, system.services.cashier)
    app.router.add_post("/held", (held or Held()).handle)
    serving = asyncio.create_task(serve(app, "127.0.0.1", port, stop, connections=connections))
    url = f"http://127.0.0.1:{port}"

    async def listening() -> bool:
        try:
            return await healthy(url)
        except aiohttp.ClientError:
            return False

    await eventually(listening)
    yield url
    stop.set()
    await serving
    assert len(connections) == 0


async def test_a_connection_that_sends_no_request_is_closed(system: PayCenterSystem) -> None:
    connections = Connections(10, first_request_seconds=0.3, keepalive_seconds=0.5)
    async with own_sidecar(system, connections) as url:
        nothing, half = await asyncio.gather(
            raw(url, b"", 5, whole=True), raw(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n", 5, whole=True)
        )
        assert (nothing, half) == (b"", b"")
        # After a request a connection may be idle for longer, and then is closed too.
        answer = await raw(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 5, whole=True)
        assert answer.startswith(b"HTTP/1.1 200 ")

        async def none_left() -> bool:
            return len(connections) == 0

        await eventually(none_left)


async def test_a_request_that_is_being_handled_keeps_its_connection(system: PayCenterSystem) -> None:
    """At the limit idle connections make room, the longest idle first; never one with a whole request."""
    connections, held = Connections(3), Held()
    async with own_sidecar(system, connections, held) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        busy_reader, busy = await asyncio.open_connection(host, int(port))
        busy.write(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{")

        await held.began.wait()
        assert (len(connections), connections.idle) == (1, 1)
        busy.write(b"}")
        await eventually(lambda: (len(connections), connections.idle) == (1, 0))
        others = []
        for _ in range(5):
            others.append(await asyncio.open_connection(host, int(port)))
            assert await healthy(url)
        # The first of the others were closed.
        assert await others[0][0].read() == b""
        held.done.set()
        assert (await busy_reader.read(100)).startswith(b"HTTP/1.1 200 ")
        busy.close()
        for _, writer in others:
            writer.close()


@pytest.mark.parametrize("path", ["/callback/order/x", "/cashier/x", "/held"])
async def test_requests_whose_bodies_do_not_come_keep_out_no_others(system: PayCenterSystem, path: str) -> None:
    """Their connections make room for others, and are closed after a while without a limit too."""
    connections = Connections(4)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n".encode()
    )
    async with own_sidecar(system, connections) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        slow = [await asyncio.open_connection(host, int(port)) for _ in range(4)]
        for _, writer in slow:
            writer.write(head)
        for _ in range(10):
            assert await healthy(url)
        for _, writer in slow:
            writer.close()
    connections = Connections(10, first_request_seconds=0.3)
    async with own_sidecar(system, connections) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head)
        await reader.read()
        writer.close()


def test_the_limit_leaves_room_for_other_descriptors() -> None:
    assert [connection_limit(files) for files in (20, 256, 1024, 65_536, 1 << 20)] == [1, 192, 768, 10_000, 10_000]


@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_the_other_processes_raise_their_limit_of_descriptors_too(system: PayCenterSystem, command: str) -> None:
    """A worker has a connection for each notification in progress, a server one for each call and each channel call."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    few = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (256, hard))
    async with server_process(system, command, preexec=few, grpc_address=f"127.0.0.1:{free_port()}") as process:
        await eventually(lambda: psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard), 30)
