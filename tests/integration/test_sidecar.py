"""The callback sidecar: limits, strange requests, junk for each channel, and a database that is away."""

from __future__ import annotations

import asyncio
import gzip
import resource
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from paycenter_server.bootstrap import open_services
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.http_callback.app import MAX_BODY, create_app, create_runner, serve
from support.grpc_rig import Line
from support.system import PayCenterSystem, free_port
from support.waiting import eventually

REFUSED = b'{"code": "FAIL", "message": "the callback cannot be verified"}'
CODES = ("wx_native", "alipay_qr", "alipay_pc", "mock")


def notification_url(system: PayCenterSystem, code: str = "wx_native") -> str:
    return f"{system.sidecar}/callback/order/{system.channels[code]}"


async def post(system: PayCenterSystem, url: str, body: Any = b"{}", **more: Any) -> tuple[int, str]:
    async with system.session.post(url, data=body, **more) as response:
        return response.status, await response.text()


async def raw(url: str, request: bytes, wait: float = 3.0, *, whole: bool = False) -> bytes:
    """The answer to bytes that no client would send; `whole`: until the server closes."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request)
    try:
        async with asyncio.timeout(wait):
            return await reader.read(-1 if whole else 65_536)
    except (TimeoutError, ConnectionError):
        return b""
    finally:
        writer.close()


async def test_health_and_readiness(system: PayCenterSystem) -> None:
    for path in ("/healthz", "/readyz"):
        async with system.session.get(system.sidecar + path) as response:
            assert (response.status, await response.text()) == (200, "ok")


async def test_bodies_over_64_kib_are_refused(system: PayCenterSystem) -> None:
    url = notification_url(system)
    for size, wanted in ((MAX_BODY - 1, False), (MAX_BODY + 1, True), (1 << 20, True)):
        status, text = await post(system, url, b"x" * size)
        assert (status == 413) is wanted, size
        assert "Traceback" not in text

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(80):
            yield b"x" * 1024

    status, _ = await post(system, url, drip())
    assert status == 413


async def test_a_compressed_body_is_limited_by_what_it_becomes(system: PayCenterSystem) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(200)), packer.flush()])
    layered = gzip.compress(bomb, 9)
    assert len(layered) < MAX_BODY
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for body, encoding, wanted in ((bomb, "gzip", 413), (layered, "gzip", 413), (layered, "gzip, gzip", 415)):
        status, text = await post(system, notification_url(system), body, headers={"content-encoding": encoding})
        assert status == wanted, (status, text)
    whole = gzip.compress(b"{}")
    for body, encoding, wanted in (
        (b"not gzip", "gzip", 400),
        (b"", "gzip", 400),
        (bomb[:50], "gzip", 400),
        (whole[:-1], "gzip", 400),
        (whole + b"x", "gzip", 400),
        (whole + whole, "gzip", 400),
        (b"x", "deflate", 400),
        (b"x", "br", 415),
        (b"x", "zstd", 415),
        (b"{}", "nonsense", 415),
        (whole, "gzip", 500),
        (whole, "GZIP", 500),
        (zlib.compress(b"{}"), "deflate", 500),
        (b"{}", "identity", 500),
    ):
        status, text = await post(system, notification_url(system), body, headers={"content-encoding": encoding})
        assert status == wanted, (encoding, body[:20], status, text)
        assert "Traceback" not in text
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    print(f"a bomb of 200 MiB cost {grown} MiB")
    assert grown < 40


async def test_a_body_that_does_not_come_is_given_up(system: PayCenterSystem) -> None:
    services, port, stop = system.services, free_port(), asyncio.Event()
    serving = asyncio.create_task(serve(create_app(services.callbacks, services.health, read_seconds=0.2), "127.0.0.1", port, stop))
    head = f"POST /callback/order/{system.channels['wx_native']} HTTP/1.1\r\nHost: x\r\n"
    url = f"http://127.0.0.1:{port}"

    async def listening() -> bool:
        try:
            return (await system.session.get(f"{url}/healthz")).status == 200
        except aiohttp.ClientError:
            return False

    await eventually(listening)

    async def slow(rest: str) -> None:
        started = asyncio.get_running_loop().time()
        answer = await raw(url, (head + rest).encode(), whole=True)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert asyncio.get_running_loop().time() - started < 2.5

    await asyncio.gather(slow("Content-Length: 1000\r\n\r\nonly this"), slow("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"))
    stop.set()
    await serving


@pytest.mark.parametrize("kind", ["order", "refund"])
async def test_a_channel_that_is_not_there(system: PayCenterSystem, kind: str) -> None:
    key = await system.value("SELECT id FROM pay_app")
    unknown = encode(Prefix.CHANNEL, key)
    for number in (unknown, "x", "C", "C" * 27, system.channels["mock"].lower(), system.channels["mock"] + "0", "%00",
                   "%F0%9F%98%80", "..%2f..%2fetc", "%ff", "'", "C" + "Z" * 26, "x" * 3000):  # fmt: skip
        status, text = await post(system, f"{system.sidecar}/callback/{kind}/{number}")
        assert status == 404, (number, status, text)
        assert "Traceback" not in text


async def test_other_methods_and_paths(system: PayCenterSystem) -> None:
    for method in ("GET", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"):
        async with system.session.request(method, notification_url(system)) as response:
            assert response.status == 405, method
            assert response.headers["allow"] == "POST"
    for path in ("/", "/notify", "/callback/order", "/callback/order/", "/callback/other/x", "/callback/order/x/y", "/metrics"):
        assert (await post(system, system.sidecar + path))[0] == 404, path


async def test_no_client_sends_this(system: PayCenterSystem) -> None:
    path = f"/callback/order/{system.channels['wx_native']}"
    for request in (
        b"\0\xff\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".encode(),
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
        f"POST {path} HTTP/1.1\r\nHost: x\r\nX: {'y' * 20_000}\r\nContent-Length: 0\r\n\r\n".encode(),
        f"POST {path} HTTP/1.1\r\nHost: x\r\nWechatpay-Serial: \xff\xfe\r\nContent-Length: 2\r\n\r\n{{}}".encode("latin-1"),
        f"POST {path}?{'a=%ff&' * 50} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode(),
    ):
        answer = await raw(system.sidecar, request, 1)
        assert answer[9:12] in (b"400", b"401", b"404", b"413", b"431") or REFUSED in answer, answer[:80]
        assert b"Traceback" not in answer


def junk_bodies() -> list[tuple[bytes, dict[str, str]]]:
    bodies = [
        b"",
        b"\0",
        b"{}",
        b"[]",
        b"null",
        b"1e999",
        b'"\xff"',
        b"\xff\xfe\0",
        b"<xml/>",
        b"<xml><!DOCTYPE a></xml>",
        b"a=b&c",
        b"[" * 20_000,
        b'{"resource":{}}',
        b'{"resource":null,"id":1}',
        b'{"resource":{"ciphertext":"x","nonce":"\0"}}',
        b'{"event_type":"TRANSACTION.SUCCESS","resource":{"ciphertext":"AAAA","nonce":"n","associated_data":null}}',
        b"out_trade_no=P&trade_status=TRADE_SUCCESS&sign=AAAA&sign_type=RSA2&total_amount=1e5",
        b"sign=%ff%fe&sign_type=RSA2&charset=nonsense",
        b"charset=gbk&sign=x&a=%c4%e3",
        b"&&==&",
        b"sign_type=RSA2&sign=" + b"A" * 60_000,
    ]
    wechat = {"Wechatpay-Timestamp": "1", "Wechatpay-Nonce": "n", "Wechatpay-Signature": "AAAA", "Wechatpay-Serial": "S"}
    heads: list[dict[str, str]] = [
        {},
        wechat,
        {**wechat, "Wechatpay-Timestamp": "9" * 400},
        {**wechat, "Wechatpay-Timestamp": "\u0661"},
        {**wechat, "Wechatpay-Signature": "WECHATPAY/SIGNTEST/x"},
        {"Content-Type": "application/x-www-form-urlencoded; charset=nonsense"},
    ]
    return [(body, head) for body in bodies for head in heads]


@pytest.mark.parametrize("code", CODES)
async def test_junk_is_never_acknowledged(system: PayCenterSystem, code: str) -> None:
    order = await system.order()
    if code != "mock":
        await system.submit(order, code)
    for kind in ("order", "refund"):
        url = f"{system.sidecar}/callback/{kind}/{system.channels[code]}"
        for body, headers in junk_bodies():
            status, text = await post(system, url, body, headers=headers)
            assert status >= 400, (status, text, body[:60], headers)
            assert len(text) < 200
            assert "Traceback" not in text
            assert text.strip() != "success"
    assert (await system.read(order)).state.value == "WAITING"
    assert await system.cases() == []
    assert await system.value("SELECT count(*) FROM pay_notify_task") == 0


@asynccontextmanager
async def second_sidecar(system: PayCenterSystem, url: str, **more: float) -> AsyncIterator[str]:
    """A sidecar of its own over another way to the database."""
    settings = system.settings.model_copy(update={"database_url": url})
    async with open_services(settings, clock=system.clock, wake_up=system.wake_up) as services:
        runner = create_runner(create_app(services.callbacks, services.health, **more))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
        await runner.cleanup()


class Tap:
    """Receives a channel's callbacks in the sidecar's place and keeps them."""

    def __init__(self) -> None:
        self.kept: list[tuple[bytes, dict[str, str]]] = []

    async def handle(self, request: web.Request) -> web.Response:
        drop = ("host", "content-length", "accept-encoding", "connection")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in drop}
        self.kept.append((await request.read(), headers))
        return web.Response(status=503)

    async def first(self) -> tuple[bytes, dict[str, str]]:
        async def came() -> int:
            return len(self.kept)

        await eventually(came)
        return self.kept[0]


@asynccontextmanager
async def tapped(system: PayCenterSystem) -> AsyncIterator[Tap]:
    """Callbacks of new payments come here."""
    tap, receiver = Tap(), web.Application()
    receiver.router.add_post("/{rest:.*}", tap.handle)
    runner = web.AppRunner(receiver, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    context, url = system.services.context, "http://{}:{}/callback/order".format(*runner.addresses[0][:2])
    context.options = replace(context.options, order_callback_url=url)
    yield tap
    await runner.cleanup()


async def test_the_tap_sees_what_the_sidecar_would(system: PayCenterSystem) -> None:
    async with tapped(system) as tap:
        order = await system.order()
        attempt = await system.submit(order, "wx_native")
        await system.simulator.pay(attempt.out_trade_no)
        body, headers = await tap.first()
        assert (await post(system, notification_url(system), body, headers=headers))[0] in (200, 204)
    assert (await system.read(order)).state.value == "SUCCESS"


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_what_comes_while_the_database_is_away_is_booked_when_it_is_sent_again(system: PayCenterSystem, code: str) -> None:
    line = Line(system.database_url)
    await line.mend()
    async with tapped(system) as tap, second_sidecar(system, line.url) as sidecar:
        order = await system.order()
        attempt = await system.submit(order, code)
        await system.simulator.pay(attempt.out_trade_no)
        body, headers = await tap.first()
        target = f"{sidecar}/callback/order/{system.channels[code]}"
        await line.cut()
        status, text = await post(system, target, body, headers=headers)
        assert status == 503, text
        assert "success" not in text.lower()
        async with system.session.get(f"{sidecar}/healthz") as response:
            assert response.status == 200
        async with system.session.get(f"{sidecar}/readyz") as response:
            assert response.status == 503
        assert (await system.read(order)).state.value == "WAITING"
        await line.mend()

        async def ready() -> bool:
            async with system.session.get(f"{sidecar}/readyz") as response:
                return response.status == 200

        await eventually(ready)
        # Sent again, also several times at once, it is booked once.
        answers = await asyncio.gather(*(post(system, target, body, headers=headers) for _ in range(8)))
        assert {status for status, _ in answers} <= {200, 204}
        assert (await system.read(order)).state.value == "SUCCESS"
        assert await system.value("SELECT count(*) FROM pay_notify_task") == 1
        await line.cut()


async def reported(system: PayCenterSystem, tap: Tap, sidecar: str) -> tuple[PayOrder, Callable[..., Awaitable[tuple[int, str]]]]:
    """An order whose payment the channel has reported to the tap, and what sends that, or another body, to a sidecar."""
    order = await system.order()
    attempt = await system.submit(order, "wx_native")
    await system.simulator.pay(attempt.out_trade_no)
    body, headers = await tap.first()
    target = f"{sidecar}/callback/order/{system.channels['wx_native']}"

    async def send(other: bytes = body) -> tuple[int, str]:
        return await post(system, target, other, headers=headers)

    return order, send


async def test_a_database_that_hangs_does_not_hold_the_channel_for_long(system: PayCenterSystem) -> None:
    """WeChat Pay waits for five seconds; the answer must come before, and say that it is not stored."""
    async with tapped(system) as tap, second_sidecar(system, system.database_url, answer_seconds=1) as sidecar:
        order, send = await reported(system, tap, sidecar)
        async with system.services.context.database.transaction() as connection:
            await connection.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
            started = asyncio.get_running_loop().time()
            assert (await send())[0] == 503
            assert asyncio.get_running_loop().time() - started < 4
        # What was waiting goes on, and books it.
        await system.until(order, "SUCCESS", 3)
        assert (await send())[0] in (200, 204)
    assert await system.value("SELECT count(*) FROM pay_notify_task") == 1


async def test_a_database_that_is_silent_does_not_hold_the_channel_for_long(system: PayCenterSystem) -> None:
    """A statement that is in progress cannot even be cancelled then: the answer does not wait for that."""
    line = Line(system.database_url)
    await line.mend()
    async with tapped(system) as tap, second_sidecar(system, line.url, answer_seconds=1) as sidecar:
        order, send = await reported(system, tap, sidecar)
        assert (await send(b"{}"))[0] >= 400  # the channel is known then
        line.silent = True
        async with asyncio.timeout(5):
            assert (await send())[0] == 503
        await line.cut()
    assert (await system.read(order)).state.value == "WAITING"
