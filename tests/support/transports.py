"""Transports in place of the one that sends requests to channels."""

from __future__ import annotations

import asyncio

from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport


class HangingTransport:
    """A channel that answers when `answer` is set, whatever time it is given. `given`: the seconds that each call gave it;
    `arrived` when a call has come."""

    def __init__(self) -> None:
        self._inner = AiohttpTransport()
        self.answer = asyncio.Event()
        self.given: list[float] = []
        self.arrived = asyncio.Event()

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        """The answer of the simulator, once it may be given."""
        self.given.append(seconds)
        self.arrived.set()
        await self.answer.wait()
        return await self._inner.send(request, 5)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._inner.aclose()
