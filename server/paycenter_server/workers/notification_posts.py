"""One POST over a connection of aiohttp's pool.

`ClientSession.post` makes a request, a response, a task that writes the body and two timers for each call, which costs more than
twice as much as what is here. From aiohttp are the pool, the resolution of names, TLS, and the parser of answers with its limits,
chunks and compression. There are no redirects, cookies, proxies and repetitions.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import aiohttp
import yarl
from aiohttp.http import HttpProcessingError

from paycenter_server.deadlines import Deadlines
from paycenter_server.domain.values import value

_TARGETS_KEPT = 1024
# What each call sends itself.
_OWN = frozenset({"content-length", "content-type", "user-agent"})


class OtherAiohttpError(aiohttp.ClientError):
    """The request may have been written, and then a part of aiohttp was not there: it must not be sent at once by another way."""


@value
class Answer:
    """The answer to a POST. `body`: as much of it as was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL. `request`: what aiohttp's connector has to know of it. `head`: the request line and the headers that are always the
    same."""

    request: aiohttp.ClientRequest
    head: str


def _target(url: str) -> _Target:
    parsed = yarl.URL(url)
    if parsed.scheme not in ("http", "https"):
        raise ValueError(f"{url!r} is not an http or https URL")
    request = aiohttp.ClientRequest("POST", parsed, loop=asyncio.get_running_loop())
    lines = [f"{name}: {value}\r\n" for name, value in request.headers.items() if name.lower() not in _OWN]
    return _Target(request, f"POST {request.url.raw_path_qs} HTTP/1.1\r\n{''.join(lines)}")


class Posts:
    """Connections for POST requests. To be made and used in one event loop."""

    def __init__(self, socket_factory: Callable[[Any], socket.socket], timeout: float) -> None:
        """`timeout`: of a whole call, in seconds."""
        self._connector = aiohttp.TCPConnector(limit=0, limit_per_host=0, socket_factory=socket_factory)
        self._deadlines = Deadlines(timeout)
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._target = lru_cache(maxsize=_TARGETS_KEPT)(_target)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, most: int) -> Answer:
        """Post `body`, and read the answer, at most `most` bytes of its body.

        Raises TimeoutError, aiohttp.ClientError, OSError, or ValueError for a URL that is none. AttributeError or TypeError, before
        anything is written, and OtherAiohttpError show a version of aiohttp with other parts.
        """
        target = self._target(url)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
            raise ValueError("a header has a line break")
        data = f"{target.head}{lines}content-length: {len(body)}\r\n\r\n".encode() + body
        with self._deadlines.next():
            connection = await self._connector.connect(target.request, traces=[], timeout=self._timeout)
            while connection.protocol is not None and connection.protocol.should_close:
                # It holds an answer to no request, which would be taken for the answer to this one.
                connection.close()
                connection = await self._connector.connect(target.request, traces=[], timeout=self._timeout)
            try:
                answer = await _exchange(connection, data, most)
            except BaseException as error:
                connection.close()
                if isinstance(error, HttpProcessingError):
                    raise aiohttp.ClientPayloadError(f"the answer is not HTTP: {error.message}") from error
                if isinstance(error, AttributeError | TypeError):
                    raise OtherAiohttpError(f"{type(error).__name__}: {error}") from error
                raise
            # The connector closes it if the answer was not read to its end, or if the receiver closes it.
            connection.release()
            return answer

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connector.close()


async def _exchange(connection: Any, data: bytes, most: int) -> Answer:
    protocol, transport = connection.protocol, connection.transport
    if transport is None or transport.is_closing():
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
    protocol.set_response_params(read_until_eof=True, auto_decompress=True)
    transport.write(data)
    message, content = await protocol.read()
    while 100 <= message.code < 200 and message.code != 101:
        message, content = await protocol.read()
    if content.is_eof():
        return Answer(message.code, message.headers, content.read_nowait(most))
    return Answer(message.code, message.headers, await _read(content, most))


async def _read(content: aiohttp.StreamReader, most: int) -> bytes:
    raw = bytearray()
    async for chunk in content.iter_chunked(8192):
        raw += chunk[: most - len(raw)]
        if len(raw) >= most:
            break
    return bytes(raw)


class SessionPosts:
    """The same by `ClientSession`, of which everything is documented."""

    def __init__(self, socket_factory: Callable[[Any], socket.socket], timeout: float) -> None:
        """`timeout`: of a whole call, in seconds."""
        connector = aiohttp.TCPConnector(limit=0, limit_per_host=0, socket_factory=socket_factory)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=timeout), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, most: int) -> Answer:
        """See `Posts.post`."""
        async with self._session.post(yarl.URL(url), headers=headers, data=body, allow_redirects=False) as response:
            return Answer(response.status, response.headers, await _read(response.content, most))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()
