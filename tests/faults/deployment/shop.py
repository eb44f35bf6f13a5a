"""A shop over the client package: it pays, refunds, repeats what got no answer, and keeps what it was told."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, TypeVar

from aiohttp import web
from paycenter.aio import AsyncPayCenter
from paycenter.errors import PayCenterError
from paycenter.notifications import Notification, NotificationError, NotificationVerifier
from paycenter.reasons import Reason
from support.waiting import pause

T = TypeVar("T")
# What a shop repeats beside what says when to repeat it: nothing was decided, or nobody knows.
_AGAIN = frozenset(
    {Reason.UNSPECIFIED, Reason.CHANNEL_UNCLEAR, Reason.CHANNEL_UNREACHABLE, Reason.ORDER_CHANGED, Reason.DEADLINE_EXCEEDED}
)


@dataclass
class Receiver:
    """The address for notifications. It refuses some, answers some too late, and counts what it could not verify."""

    verifier: NotificationVerifier
    random: random.Random
    trouble: float = 0.0
    told: dict[str, dict[int, Notification]] = field(default_factory=lambda: defaultdict(dict))
    refused: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            found = self.verifier.verify(request.headers, body)
        except NotificationError as error:
            self.refused.append(str(error))
            return web.Response(status=401)
        chance = self.random.random()
        if chance < self.trouble:
            return web.Response(status=500)  # not stored
        known = self.told[found.object_id].get(found.version)
        assert known is None or known.data == found.data, "two contents under one version"
        self.told[found.object_id][found.version] = found
        self.counts[found.type] += known is None
        if chance < 2 * self.trouble:
            request.transport.close()  # type: ignore[union-attr]  # stored, and not answered
        return web.Response()

    def last_word(self, number: str) -> str:
        """The type of the newest notification about an order or refund; empty if there was none."""
        versions = self.told.get(number)
        return versions[max(versions)].type if versions else ""


@dataclass
class Shop:
    """Calls the servers in turn. `unexpected`: answers that no shop should see."""

    clients: list[AsyncPayCenter]
    unexpected: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._turn = cycle(self.clients)

    async def persist(self, what: str, call: Callable[[AsyncPayCenter], Awaitable[T]], tries: int = 60) -> T | PayCenterError:
        """The result, or the error that decides. What is not decided is repeated, at the other server."""
        error: PayCenterError | None = None
        for number in range(tries):
            client = next(self._turn)
            self.calls[what] += 1
            try:
                return await call(client)
            except PayCenterError as caught:
                error = caught
                if caught.reason == Reason.INTERNAL:
                    self.unexpected.append(f"{what}: {caught}")
                elif caught.retry_after is None and caught.reason not in _AGAIN:
                    return caught
            await pause(min(1.0, 0.05 * 1.4**number))
        assert error is not None
        return error


async def gathered(tasks: list[Any], at_once: int) -> list[Any]:
    """The results of coroutines, of which so many run at once."""
    places = asyncio.Semaphore(at_once)

    async def one(work: Any) -> Any:
        async with places:
            return await work

    return await asyncio.gather(*(one(work) for work in tasks))
