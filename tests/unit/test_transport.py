"""The only outbound channel I/O: bytes are sent as given, and every failure is unclear or not sent."""

from __future__ import annotations

import asyncio
import gzip
import socket
import traceback
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from aiohttp.client_proto import ResponseHandler
from paycenter_server.channels import transport as module
from paycenter_server.channels.protocol import HttpRequest
from paycenter_server.channels.transport import AiohttpTransport, NotSentError, TransportUnclearError
from paycenter_server.http_requests import PoolRequests, SessionRequests, _decoded
from paycenter_server.services.accounts_places import TOTAL_PLACES
from paycenter_server.workers.notification_sender import AddressGuard, AiohttpNotificationSender, parse_networks
from support.system import FakeClock
from support.waiting import eventually

Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """Stores what it receives, byte for byte, and lets a handler answer."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.handler: Handler = self.good
        self.port = 0

    async def good(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nWeChatPay-Nonce: N\r\nContent-Length: 2\r\n\r\nok")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
            self.received.append(head + await reader.readexactly(length))
            await self.handler(self.received[-1], writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    raw = RawServer()
    listening = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    raw.port = listening.sockets[0].getsockname()[1]
    yield raw
    listening.close()


@pytest.fixture(params=[PoolRequests, SessionRequests])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[AiohttpTransport]:
    opened = AiohttpTransport(request.param)
    yield opened
    await opened.aclose()


async def test_what_was_signed_is_what_is_sent(server: RawServer, transport: AiohttpTransport) -> None:
    target = "/v3/x%7Cy%2A%3A%2F?a=%E8%8C%B6&b=1%2B1&c=a%20b|"
    body = '{"a":"茶", "b" : 1}'.encode()
    headers = (("Authorization", 'WECHATPAY2 mchid="1"'), ("Content-Type", "application/json"))
    answer = await transport.send(HttpRequest("POST", f"http://127.0.0.1:{server.port}{target}", headers, body), 5)
    assert (answer.status, answer.body, answer.headers["wechatpay-nonce"]) == (200, b"ok", "N")
    head, _, sent = server.received[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0].decode() == f"POST {target} HTTP/1.1"
    assert b'Authorization: WECHATPAY2 mchid="1"' in head
    assert sent == body


async def test_requests_that_hang_do_not_delay_others_to_the_same_host(server: RawServer, transport: AiohttpTransport) -> None:
    """Each account of a family has places of its own, but all have the same host."""
    release = asyncio.Event()

    async def hang(request: bytes, writer: asyncio.StreamWriter) -> None:
        if request.startswith(b"GET /hang"):
            await release.wait()
        await server.good(request, writer)

    server.handler = hang
    hanging = [
        asyncio.ensure_future(transport.send(HttpRequest("GET", f"http://127.0.0.1:{server.port}/hang", (), b""), 30))
        for _ in range(2 * TOTAL_PLACES)
    ]
    await eventually(lambda: len(server.received) == 2 * TOTAL_PLACES)
    answer = await transport.send(HttpRequest("GET", f"http://127.0.0.1:{server.port}/", (), b""), 5)
    assert answer.status == 200
    release.set()
    assert {answer.status for answer in await asyncio.gather(*hanging)} == {200}


async def test_an_empty_body_sends_nothing(server: RawServer, transport: AiohttpTransport) -> None:
    await transport.send(HttpRequest("GET", f"http://127.0.0.1:{server.port}/"), 5)
    assert server.received[0].endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 202, 400, 429, 500])
async def test_any_status_is_an_answer(server: RawServer, transport: AiohttpTransport, status: int) -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)

    server.handler = answer
    assert (await transport.send(HttpRequest("GET", f"http://127.0.0.1:{server.port}/"), 5)).status == status


async def test_a_redirect_is_not_followed(server: RawServer, transport: AiohttpTransport) -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")

    server.handler = answer
    assert (await transport.send(HttpRequest("GET", f"http://127.0.0.1:{server.port}/"), 5)).status == 302
    assert len(server.received) == 1


async def _silence(request: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _hang_up(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _half(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


async def _no_http(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello\r\n\r\n")


async def _bad_gzip(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nxxxx")


async def _large(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000)


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (_silence, "no answer within 0.3 s"),
        (_hang_up, "the connection was closed before an answer came|the connection was reset"),
        (_half, "before the whole answer came"),
        (_no_http, "the answer is not HTTP"),
        (_bad_gzip, "cannot be decoded|not HTTP"),
        (_large, "the answer is larger than 4999 bytes"),
    ],
)
async def test_no_usable_answer_is_unclear_with_a_reason(
    server: RawServer, transport: AiohttpTransport, handler: Handler, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", 4999)
    server.handler = handler
    timeout = 0.3 if handler is _silence else 60.0  # a busy machine must not turn another failure into a timeout
    with pytest.raises(TransportUnclearError, match=words) as caught:
        await transport.send(HttpRequest("GET", f"http://127.0.0.1:{server.port}/"), timeout)
    assert not isinstance(caught.value, NotSentError)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/", "connection refused by 127.0.0.1"),
        ("http://pay.invalid/", "no such host: pay.invalid"),
        ("http://", "cannot be sent"),
        ("not a url", "cannot be sent"),
        ("http://127.0.0.1:99999/", "cannot be sent"),
        ("file:///etc/passwd", "cannot be sent"),
    ],
)
async def test_no_connection_is_not_sent(transport: AiohttpTransport, url: str, words: str) -> None:
    with pytest.raises(NotSentError, match=words):
        await transport.send(HttpRequest("GET", url), 1)


async def test_a_tls_handshake_that_fails_is_not_sent(transport: AiohttpTransport) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(plain, "127.0.0.1", 0)
    with pytest.raises(NotSentError, match=r"the TLS handshake with 127\.0\.0\.1 failed"):
        await transport.send(HttpRequest("GET", f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"), 5)
    listening.close()


async def test_headers_with_line_breaks_are_not_sent(server: RawServer, transport: AiohttpTransport) -> None:
    request = HttpRequest("GET", f"http://127.0.0.1:{server.port}/", (("X", "a\r\nY: b"),))
    with pytest.raises(TransportUnclearError):
        await transport.send(request, 1)
    assert not server.received


async def test_a_closed_session_is_opened_again(server: RawServer, transport: AiohttpTransport) -> None:
    request = HttpRequest("GET", f"http://127.0.0.1:{server.port}/")
    assert (await transport.send(request, 5)).status == 200
    await transport.aclose()
    assert (await transport.send(request, 5)).status == 200


@pytest.mark.parametrize(("method", "sent"), [("GET", 3), ("POST", 2)])
async def test_a_query_is_repeated_if_its_idle_connection_was_closed(transport: AiohttpTransport, method: str, sent: int) -> None:
    """What changes something is not: the channel may have received it."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(2):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            if number:  # it closes what it believes to be idle, when the next request is on its way
                break
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    request = HttpRequest(method, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/")
    assert (await transport.send(request, 5)).status == 200
    if method == "GET":
        assert (await transport.send(request, 5)).status == 200
    else:
        with pytest.raises(TransportUnclearError, match="closed before an answer came"):
            await transport.send(request, 5)
    assert len(heads) == sent
    listening.close()


async def test_a_query_that_cannot_be_repeated_is_not_one_that_was_not_sent() -> None:
    """The channel has received it, closes the connection, and listens no more."""
    transport = AiohttpTransport()
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        listening.close()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    with pytest.raises(TransportUnclearError, match="closed before an answer came") as caught:
        await transport.send(HttpRequest("GET", f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"), 5)
    assert not isinstance(caught.value, NotSentError)
    assert len(received) == 1
    await transport.aclose()


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (PoolRequests, ValueError("odd")),
        (PoolRequests, TypeError("odd")),
        (PoolRequests, AttributeError("odd")),
        (SessionRequests, ValueError("odd")),
    ],
)
async def test_an_error_after_the_request_was_written_is_unclear(
    server: RawServer, kind: type[PoolRequests | SessionRequests], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, each of them says that nothing was sent, or is followed by another way of sending."""

    async def read(self: ResponseHandler) -> None:
        await written.wait()
        raise error

    written = asyncio.Event()

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        written.set()

    server.handler = answer
    monkeypatch.setattr(ResponseHandler, "read", read)
    transport = AiohttpTransport(kind)
    with pytest.raises(TransportUnclearError, match="odd") as caught:
        await transport.send(HttpRequest("POST", f"http://127.0.0.1:{server.port}/", (), b"{}"), 5)
    assert not isinstance(caught.value, NotSentError)
    assert len(server.received) == 1
    await transport.aclose()


@pytest.mark.parametrize("target", ["/a\r\nX:%20y", "/a\nb"])
async def test_an_address_cannot_begin_a_header(server: RawServer, transport: AiohttpTransport, target: str) -> None:
    with suppress(NotSentError):
        await transport.send(HttpRequest("GET", f"http://127.0.0.1:{server.port}{target}"), 1)
    assert not any(b"\nX: y" in received or received.startswith(b"GET /a\n") for received in server.received)


def _chunked(pieces: int) -> Handler:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * pieces + b"0\r\n\r\n"
        )

    return answer


async def test_an_answer_in_very_many_pieces_is_given_up(server: RawServer, transport: AiohttpTransport) -> None:
    """Each piece takes a microsecond of the event loop, and an answer may have hundreds of thousands."""
    request = HttpRequest("POST", f"http://127.0.0.1:{server.port}/")
    server.handler = _chunked(500)
    assert (await transport.send(request, 60)).body == b"x" * 500
    server.handler = _chunked(40_000)
    with pytest.raises(TransportUnclearError, match="more than 1024 pieces"):
        await transport.send(request, 60)


async def test_an_answer_in_very_many_pieces_is_not_read_on(server: RawServer, transport: AiohttpTransport) -> None:
    """What has arrived is parsed until the buffer is full, and so without a turn for others."""
    server.handler = _chunked(40_000)
    with pytest.raises(TransportUnclearError, match="more than 1024 pieces") as caught:
        await transport.send(HttpRequest("POST", f"http://127.0.0.1:{server.port}/"), 60)
    assert caught.value.__cause__ is not None
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__cause__.__traceback__)]
    assert frames[-1].f_locals["content"].total_bytes < 2500


def test_a_connection_receives_little_at_a_time() -> None:
    local: Any = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80))
    guard = AddressGuard(parse_networks("127.0.0.0/8"))
    connections = AiohttpTransport()._connector, AiohttpNotificationSender(guard, FakeClock())._connector

    async def sizes() -> list[int]:
        found = []
        for connector in [make() for make in connections]:
            with connector._socket_factory(local) as made:  # type: ignore[misc]
                found.append(made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
            await connector.close()
        return found

    assert asyncio.run(sizes()) == [2 * 16 * 1024] * 2


async def test_a_compressed_answer_is_limited_by_what_it_becomes(server: RawServer, transport: AiohttpTransport) -> None:
    bodies: list[tuple[str, bytes]] = []

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        encoding, body = bodies.pop()
        head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    server.handler = answer
    raw_deflate = zlib.compressobj(wbits=-15)
    for encoding, body, wanted in (
        ("gzip", gzip.compress(b"{}"), b"{}"),
        ("GZIP", gzip.compress(b"{}"), b"{}"),
        ("deflate", zlib.compress(b"{}"), b"{}"),
        ("deflate", raw_deflate.compress(b"{}") + raw_deflate.flush(), b"{}"),
        ("identity", b"{}", b"{}"),
        ("gzip", b"", b""),
        ("gzip", gzip.compress(b"") * 1000, b""),  # in several parts: the first
    ):
        bodies.append((encoding, body))
        assert (await transport.send(HttpRequest("POST", f"http://127.0.0.1:{server.port}/"), 60)).body == wanted
    bodies.append(("gzip", gzip.compress(bytes(1 << 26))))
    with pytest.raises(TransportUnclearError, match="the answer is larger than 262144 bytes"):
        await transport.send(HttpRequest("POST", f"http://127.0.0.1:{server.port}/"), 60)
    assert b"\r\nAccept-Encoding: gzip, deflate\r\n" in server.received[0]
    assert len(_decoded(gzip.compress(bytes(1 << 26)), "gzip", 100)) == 100  # no more of it is ever in memory
