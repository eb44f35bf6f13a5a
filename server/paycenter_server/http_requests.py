"""HTTP requests over the connections of aiohttp's pool.

`ClientSession.request` makes a request, a response, a task that writes the body and two timers for each call, which costs more than
twice as much as what is here. From aiohttp are the pool, the resolution of names, TLS, and the parser of answers with its limits
and chunks. There are no redirects, cookies, proxies and repetitions, and a request may take as long as its caller lets
it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import aiohttp
import structlog
import yarl
from aiohttp.http import HttpProcessingError

from paycenter_server.descriptors import descriptor_limit
from paycenter_server.domain.values import value

log = structlog.get_logger(__name__)
Headers = Collection[tuple[str, str]]
Tls = ssl.SSLContext | bool

_KEPT = 1024
_ENCODINGS = "gzip, deflate"
# What each request sends itself, and `Accept-Encoding`: aiohttp's depends on what is installed.
_OWN = frozenset({"accept", "accept-encoding", "content-length", "content-type", "user-agent"})
_MOST_INTERIM = 8
"""Interim answers (1xx) before an answer. They are read without a pause, so a server that sends nothing else must not go on."""
_MOST_UNASKED = 16
"""Connections with an answer to no request that are given up one after the other. A server that greets would otherwise be connected
to a thousand times a second."""
_WITHOUT_BODY = frozenset({"GET", "HEAD"})
_MOST_PIECES = 1024
"""Pieces of an answer. A server decides how many there are, and how many of them arrive between two turns of the event loop: each
takes a microsecond, and nothing else runs meanwhile."""
_BUFFER = 16 * 1024
"""Bytes that a connection receives before it is read (the kernel takes twice as many), and that wait to be read. aiohttp pauses
also after a sixteenth of it in pieces."""


class OtherAiohttpError(aiohttp.ClientError):
    """The request may have been written, and then a part of aiohttp was not there: it must not be sent at once by another way."""


class UnreadableError(aiohttp.ClientPayloadError):
    """The answer is not HTTP, or cannot be read for another reason, which its text says."""


@value
class Answer:
    """The answer to a request. `body`: as much of it as was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Requests(Protocol):
    """A way of sending requests. To be made and used in one event loop."""

    async def send(self, method: str, url: str, headers: Headers, body: bytes, most: int, tls: Tls = True) -> Answer:
        """Send a request, and read the answer, at most `most` bytes of its body. `tls`: the context for https, True for the usual
        one.

        Raises aiohttp.ClientError, OSError, or, before anything is sent, ValueError for what cannot be a request.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True, slots=True)
class _Origin:
    """Scheme, host and port. `request`: what aiohttp's connector has to know of them. `lines`: the headers that are always the
    same."""

    request: aiohttp.ClientRequest
    lines: str


def _parts(url: str, encoded: bool) -> tuple[yarl.URL, str]:
    """The address of a server, and what of the URL is sent to it."""
    parsed = yarl.URL(url, encoded=encoded)
    if parsed.scheme not in ("http", "https") or not parsed.raw_host:
        raise ValueError(f"{url!r} is not an http or https URL")
    return yarl.URL.build(scheme=parsed.scheme, authority=parsed.raw_authority, encoded=True), parsed.raw_path_qs


def _origin(server: yarl.URL, tls: Tls) -> _Origin:
    request = aiohttp.ClientRequest("POST", server, loop=asyncio.get_running_loop(), ssl=tls)
    lines = [f"{name}: {value}\r\n" for name, value in request.headers.items() if name.lower() not in _OWN]
    return _Origin(request, "".join([*lines, f"Accept-Encoding: {_ENCODINGS}\r\n"]))


def _lines(headers: Headers) -> str:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header has a line break")
    return lines


class PoolRequests:
    """Requests by the connector of aiohttp.

    AttributeError or TypeError, before anything is written, and OtherAiohttpError show a version of aiohttp with other parts.
    """

    def __init__(self, connector: aiohttp.TCPConnector, *, encoded: bool = False, connect_seconds: float | None = None) -> None:
        """`encoded`: URLs are sent as they are given. `connect_seconds`: for one attempt to connect."""
        self._connector = connector
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds)
        self._keep_below = descriptor_limit() // 2
        self._parts = lru_cache(maxsize=_KEPT)(lambda url: _parts(url, encoded))
        self._origin = lru_cache(maxsize=_KEPT)(_origin)

    async def send(self, method: str, url: str, headers: Headers, body: bytes, most: int, tls: Tls = True) -> Answer:
        """See `Requests`. aiohttp.ConnectionTimeoutError if no connection was made in time."""
        server, target = self._parts(url)
        origin = self._origin(server, tls)
        lines = _lines(headers)
        length = "" if method in _WITHOUT_BODY and not body else f"content-length: {len(body)}\r\n"
        data = f"{method} {target} HTTP/1.1\r\n{origin.lines}{lines}{length}\r\n".encode() + body
        connection, unasked = await self._connect(origin), 0
        while connection.protocol is not None and connection.protocol.should_close:
            # It holds an answer to no request, which would be taken for the answer to this one.
            connection.close()
            unasked += 1
            if unasked > _MOST_UNASKED:
                raise UnreadableError(f"{unasked} connections brought an answer before a request")
            connection = await self._connect(origin)
        try:
            answer = await _exchange(connection, data, most)
        except BaseException as error:
            connection.close()
            if isinstance(error, HttpProcessingError):
                raise UnreadableError(f"the answer is not HTTP: {error.message}") from error
            if isinstance(error, AttributeError | TypeError):
                raise OtherAiohttpError(f"{type(error).__name__}: {error}") from error
            if isinstance(error, ValueError):
                raise UnreadableError(f"the answer cannot be read: {error}") from error
            raise
        # The connector closes it if the answer was not read to its end, or if the server closes it.
        if _descriptor(connection) < self._keep_below:
            connection.release()
        else:  # idle connections to many servers must not use up the descriptors of the process: they are given from the lowest on
            connection.close()
        return answer

    async def _connect(self, origin: _Origin) -> Any:
        try:
            return await self._connector.connect(origin.request, traces=[], timeout=self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {origin.request.url}") from error

    async def aclose(self) -> None:
        """See `Requests`."""
        await self._connector.close()


def _descriptor(connection: Any) -> int:
    transport = connection.transport
    made = None if transport is None else transport.get_extra_info("socket")
    return -1 if made is None else int(made.fileno())


async def _exchange(connection: Any, data: bytes, most: int) -> Answer:
    protocol, transport = connection.protocol, connection.transport
    if transport is None or transport.is_closing():
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
    protocol.set_response_params(read_until_eof=True, auto_decompress=False, read_bufsize=_BUFFER)
    transport.write(data)
    message, content = await protocol.read()
    interim = 0
    while 100 <= message.code < 200 and message.code != 101:
        interim += 1
        if interim > _MOST_INTERIM:
            raise UnreadableError(f"more than {_MOST_INTERIM} interim answers came instead of an answer")
        message, content = await protocol.read()
    body = content.read_nowait(most) if content.is_eof() else await _read(content, most)
    return Answer(message.code, message.headers, _decoded(body, message.headers.get("Content-Encoding", ""), most))


async def _read(content: aiohttp.StreamReader, most: int) -> bytes:
    raw, pieces = bytearray(), 0
    async for piece, _ in content.iter_chunks():
        raw += piece[: most - len(raw)]
        if len(raw) >= most:
            break
        pieces += 1
        if pieces > _MOST_PIECES:
            raise UnreadableError(f"the answer comes in more than {_MOST_PIECES} pieces")
    return bytes(raw)


def _decoded(body: bytes, encoding: str, most: int) -> bytes:
    """The body behind a Content-Encoding, at most `most` bytes of it. Of a body in several parts the first: a server may send
    thousands of empty ones."""
    name = encoding.strip().lower()
    if not body or name not in ("gzip", "deflate"):
        return body
    raw_deflate = name == "deflate" and body[0] & 0xF != 8  # what some servers send for it
    try:
        return zlib.decompressobj(wbits=-zlib.MAX_WBITS if raw_deflate else zlib.MAX_WBITS | 32).decompress(body, most)
    except zlib.error as error:
        raise UnreadableError(f"the answer cannot be decoded as {name}: {error}") from error


def small_socket(info: Any) -> socket.socket:
    """A socket for aiohttp's connector that receives little at a time."""
    family, kind, proto, _, _ = info
    made = socket.socket(family, kind, proto)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


class SessionRequests:
    """The same by `ClientSession`, of which everything is documented."""

    def __init__(self, connector: aiohttp.TCPConnector, *, encoded: bool = False, connect_seconds: float | None = None) -> None:
        """As of `PoolRequests`."""
        self._encoded = encoded
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, read_bufsize=_BUFFER,
            headers={"Accept-Encoding": _ENCODINGS},
        )  # fmt: skip

    async def send(self, method: str, url: str, headers: Headers, body: bytes, most: int, tls: Tls = True) -> Answer:
        """See `Requests`."""
        _parts(url, self._encoded)
        _lines(headers)
        address = yarl.URL(url, encoded=self._encoded)
        try:
            async with self._session.request(
                method, address, headers=list(headers), data=body or None, allow_redirects=False, ssl=tls
            ) as response:
                body = _decoded(await _read(response.content, most), response.headers.get("Content-Encoding", ""), most)
                return Answer(response.status, response.headers, body)
        except ValueError as error:
            raise UnreadableError(f"the answer cannot be read: {error}") from error

    async def aclose(self) -> None:
        """See `Requests`."""
        await self._session.close()


class Client:
    """Sends by `PoolRequests`. These use parts of aiohttp that are not documented: if a version of it has others, by
    `SessionRequests` from then on. After `aclose` it can be used again."""

    def __init__(
        self,
        connector: Callable[[], aiohttp.TCPConnector],
        *,
        encoded: bool = False,
        connect_seconds: float | None = None,
        first: Callable[..., Requests] = PoolRequests,
    ) -> None:
        """`connector`: makes the pool, when the first request is sent. `first`: for tests. The others are those of
        `PoolRequests`."""
        self._connector = connector
        self._encoded = encoded
        self._connect_seconds = connect_seconds
        self._first = first
        self._pool: Requests | None = None
        self._session: Requests | None = None

    async def send(self, method: str, url: str, headers: Headers, body: bytes, most: int, tls: Tls = True) -> Answer:
        """See `Requests`."""
        if self._session is None:
            if self._pool is None:
                self._pool = self._make(self._first)
            try:
                return await self._pool.send(method, url, headers, body, most, tls)
            except (AttributeError, TypeError) as error:
                self._use_session(error)
            except OtherAiohttpError as error:
                self._use_session(error)
                raise
        assert self._session is not None
        return await self._session.send(method, url, headers, body, most, tls)

    def _make(self, kind: Callable[..., Requests]) -> Requests:
        return kind(self._connector(), encoded=self._encoded, connect_seconds=self._connect_seconds)

    def _use_session(self, error: Exception) -> None:
        if self._session is None:
            action = "requests are sent, but need more processor time; report this version of aiohttp"
            log.error("aiohttp_has_changed", version=aiohttp.__version__, why=f"{type(error).__name__}: {error}", action=action)
            self._session = self._make(SessionRequests)

    async def aclose(self) -> None:
        """Close the connections."""
        used, self._pool, self._session = (self._pool, self._session), None, None
        for requests in used:
            if requests is not None:
                await requests.aclose()
