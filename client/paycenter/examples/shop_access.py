"""How the demo shop reaches PayCenter."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from aiohttp import web

from paycenter import AsyncPayCenter
from paycenter.notifications import NotificationVerifier


class Access:
    """How to reach PayCenter: from the environment, or from dev.json, which may appear and change while the shop runs."""

    def __init__(self, data_file: Path | None) -> None:
        self._file = data_file
        self._read: tuple[str, ...] = ()
        self._values: dict[str, str] | None = None
        self._client: AsyncPayCenter | None = None

    def values(self) -> dict[str, str] | None:
        """`target`, `key_id`, `key_secret`, `notification_secret`; None while they are not known."""
        if self._file is None:
            return {name: os.environ[name.upper()] for name in ("target", "key_id", "key_secret", "notification_secret")}
        # While the file is being written or is away, what worked before goes on working.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            document = json.loads(self._file.read_text())
            app = {name: document["app"][name] for name in ("key_id", "key_secret", "notification_secret")}
            NotificationVerifier(app["notification_secret"])
            self._values = {"target": document["addresses"]["grpc"], **app}
        return self._values

    async def client(self) -> AsyncPayCenter:
        """One connection for all requests, made anew when the values change."""
        values = self.values()
        if values is None:
            raise web.HTTPServiceUnavailable(text="PayCenter is not known yet. Try again.")
        read = (values["target"], values["key_id"], values["key_secret"])
        if self._client is None or read != self._read:
            await self.close()
            self._client, self._read = AsyncPayCenter(read[0], key_id=read[1], key_secret=read[2]), read
        return self._client

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            await self._client.close()
            self._client = None
