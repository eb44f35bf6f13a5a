"""The connections of a process that speaks HTTP: at most so many, and none that sends no whole request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import structlog
from aiohttp import web

log = structlog.get_logger(__name__)

FIRST_REQUEST_SECONDS = 10.0
"""A connection must have sent a whole request head by then, and the body within so long again."""
KEEPALIVE_SECONDS = 30.0
"""A connection may be idle for so long after a request."""
MAX_CONNECTIONS = 10_000
_LOG_SECONDS = 10.0
# For the database, Redis, the channels, log files, and the connections that are accepted before one is closed.
_RESERVED_SHARE = 4
_RESERVED_LEAST = 64


def connection_limit(descriptors: int) -> int:
    """How many connections a process with so many file descriptors accepts."""
    return max(1, min(MAX_CONNECTIONS, descriptors - max(_RESERVED_LEAST, descriptors // _RESERVED_SHARE)))


class _Connection(asyncio.Protocol):
    """aiohttp's protocol for one connection, and its entry in the table."""

    def __init__(self, connections: Connections, inner: asyncio.Protocol) -> None:
        self._connections = connections
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._inner.connection_made(transport)
        self._connections.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._connections.remove(self._transport)
        self._inner.connection_lost(exc)


class Connections:
    """A table of the open connections. Those without a whole request are idle, the longest idle first."""

    def __init__(
        self, limit: int, *, first_request_seconds: float = FIRST_REQUEST_SECONDS, keepalive_seconds: float = KEEPALIVE_SECONDS
    ) -> None:
        self.limit = limit
        self._first_request_seconds = first_request_seconds
        self._keepalive_seconds = keepalive_seconds
        self._open = 0
        self._idle: dict[asyncio.Transport, float] = {}
        self._closed = 0
        self._logged = float("-inf")

    def __len__(self) -> int:
        return self._open

    @property
    def idle(self) -> int:
        """How many connections have no whole request."""
        return len(self._idle)

    def protocol(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """A factory of protocols for the event loop's server. What answers the requests of this server becomes that of the table,
        which costs less than a middleware."""
        answer = server.request_handler

        async def answer_busy(request: web.BaseRequest) -> web.StreamResponse:
            transport = self._begin(request)
            if transport is None:
                return await answer(request)
            try:
                return await answer(request)
            finally:
                self._end(transport)

        server.request_handler = answer_busy
        return lambda: _Connection(self, server())

    @asynccontextmanager
    async def listening(self, runner: web.AppRunner, host: str, port: int, **options: Any) -> AsyncIterator[int]:
        """Serve the application of the runner within the block; the bound port. `options`: of the event loop's `create_server`."""
        await runner.setup()
        assert runner.server is not None
        closing = asyncio.create_task(self.close_idle())
        try:
            listener = await asyncio.get_running_loop().create_server(self.protocol(runner.server), host, port, **options)
            try:
                yield int(listener.sockets[0].getsockname()[1])
            finally:
                listener.close()
        finally:
            closing.cancel()
            await runner.cleanup()

    def add(self, transport: asyncio.Transport) -> None:
        """A connection was accepted. Above the limit the one that is idle for longest is closed, which may be this one."""
        loop = asyncio.get_running_loop()
        self._open += 1
        self._idle[transport] = loop.time() + self._first_request_seconds
        if self._open <= self.limit:
            return
        oldest = next(iter(self._idle))
        del self._idle[oldest]
        oldest.abort()
        self._closed += 1
        if loop.time() - self._logged >= _LOG_SECONDS:
            log.warning("connection_limit_reached", limit=self.limit, closed=self._closed)
            self._logged, self._closed = loop.time(), 0

    def remove(self, transport: asyncio.Transport) -> None:
        """A connection is closed."""
        self._open -= 1
        self._idle.pop(transport, None)

    def _begin(self, request: web.BaseRequest) -> asyncio.Transport | None:
        """A request is handled: its connection is not idle until `_end`, once its body has come. Otherwise whoever announces a body
        and does not send it would keep the connection, and with many of them keep out all others.

        The connection; None if it is closed, or not idle already.
        """
        transport = request.transport
        if transport is None or self._idle.pop(transport, None) is None:
            return None
        if not request.content.is_eof():
            self._idle[transport] = asyncio.get_running_loop().time() + self._first_request_seconds
            request.content.on_eof(partial(self._has_come, transport))
        return transport

    def _has_come(self, transport: asyncio.Transport) -> None:
        """The body of its request."""
        self._idle.pop(transport, None)

    def _end(self, transport: asyncio.Transport) -> None:
        """The request is answered."""
        self._idle.pop(transport, None)
        if not transport.is_closing():
            self._idle[transport] = asyncio.get_running_loop().time() + self._keepalive_seconds

    async def close_idle(self) -> None:
        """Close the connections that sent no whole request in time. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self._first_request_seconds / 2))
            now = asyncio.get_running_loop().time()
            for transport in [transport for transport, until in self._idle.items() if until <= now]:
                del self._idle[transport]
                transport.abort()
