"""A proxy in front of PostgreSQL that counts the round trips of a client: its Sync and Query messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

_SSL_REQUEST = 80877103


class RoundTrips:
    """`count`: the round trips so far, over all connections. `arguments`: the last Bind message, which has those of a statement."""

    def __init__(self) -> None:
        self.count = 0
        self.arguments = b""
        self._tasks: set[asyncio.Task[None]] = set()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server: asyncio.StreamWriter | None = None
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            from_server, to_server = await asyncio.open_connection(self._host, self._port)
            task = asyncio.ensure_future(_copy(from_server, writer))
            self._tasks.add(task)
            starting = True
            while True:
                kind = b"" if starting else await reader.readexactly(1)
                length = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(length, "big") - 4)
                # A request for TLS is followed by the start-up message, which has no type either.
                starting = starting and int.from_bytes(body[:4], "big") == _SSL_REQUEST
                # The end of an extended query, and a simple one (BEGIN, COMMIT), wait for an answer.
                self.count += kind in (b"S", b"Q")
                self.arguments = body if kind == b"B" else self.arguments
                to_server.write(kind + length + body)
        for stream in (writer, to_server):
            if stream is not None:
                stream.close()

    @asynccontextmanager
    async def before(self, database_url: str) -> AsyncIterator[str]:
        """The URL of the database through the proxy."""
        parts = urlsplit(database_url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 5432
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}"))
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()
