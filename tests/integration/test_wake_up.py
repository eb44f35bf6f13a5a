"""Wake-ups through Valkey: each is heard by one worker, none is kept twice, and a Redis that is silent is connected to anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
from paycenter_server.workers.wake_up import SHORTEST_PASS_SECONDS, WAKE_UPS, RedisWakeUp, WakeUps
from support.grpc_rig import Line
from support.server_process import server_process
from support.system import PayCenterSystem
from support.waiting import eventually


@asynccontextmanager
async def client_of(redis_url: str) -> AsyncIterator[Any]:
    """A Redis without wake-ups."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.delete(WAKE_UPS)
        yield client


class Listener:
    """Hears wake-ups until the block ends. `begun`: the times of its passes, of which each ends when `go_on` is set."""

    def __init__(self, url: str, block_seconds: int = 1) -> None:
        self.begun: list[float] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.cancelled = False
        self._wake_ups = WakeUps(url, self._pass, block_seconds)

    async def _pass(self) -> None:
        self.begun.append(asyncio.get_running_loop().time())
        await self.go_on.wait()
        if self.cancelled:
            self.cancelled = False
            raise asyncio.CancelledError  # what it has waited for was cancelled

    async def __aenter__(self) -> Listener:
        self._task = asyncio.create_task(self._wake_ups.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def test_a_wake_up_is_heard_by_one_worker(redis_url: str) -> None:
    async with client_of(redis_url) as client, Listener(redis_url) as first, Listener(redis_url) as second:
        first.go_on.clear()
        second.go_on.clear()
        await client.lpush(WAKE_UPS, 1)
        await eventually(lambda: len(first.begun) + len(second.begun) == 1)
        # The one that does not work on it hears the next.
        await client.lpush(WAKE_UPS, 1)
        await eventually(lambda: len(first.begun) == len(second.begun) == 1)


async def test_a_pass_whose_parts_are_cancelled_is_not_the_last_one(redis_url: str) -> None:
    async with client_of(redis_url) as client, Listener(redis_url) as listener:
        listener.cancelled = True
        await client.lpush(WAKE_UPS, 1)
        await eventually(lambda: len(listener.begun) == 1)
        await client.lpush(WAKE_UPS, 1)
        await eventually(lambda: len(listener.begun) == 2)


async def test_wake_ups_that_nobody_has_heard_are_one(redis_url: str) -> None:
    async with client_of(redis_url) as client:
        wake_up = RedisWakeUp(redis_url)
        for _ in range(4):
            wake_up.send()
            await eventually(lambda: not wake_up._requested.is_set())

        async def there() -> bool:
            return bool(await client.llen(WAKE_UPS) == 1)

        await eventually(there)
        await wake_up.aclose()
        async with Listener(redis_url) as listener:
            await eventually(lambda: len(listener.begun) == 1)
            assert await client.llen(WAKE_UPS) == 0


async def test_nothing_is_sent_after_the_end(redis_url: str) -> None:
    async with client_of(redis_url) as client:
        wake_up = RedisWakeUp(redis_url)
        await wake_up.aclose()
        wake_up.send()
        assert wake_up._task is None
        assert await client.llen(WAKE_UPS) == 0


async def test_passes_begin_with_a_pause(redis_url: str) -> None:
    async with client_of(redis_url) as client, Listener(redis_url) as listener:
        await client.lpush(WAKE_UPS, 1, 1, 1, 1)
        await eventually(lambda: len(listener.begun) == 4)
    pauses = [after - before for before, after in zip(listener.begun, listener.begun[1:], strict=False)]
    assert min(pauses) >= SHORTEST_PASS_SECONDS * 0.9, pauses


async def test_a_redis_that_is_silent_is_connected_to_anew(redis_url: str) -> None:
    line = Line(redis_url)
    await line.mend()
    async with client_of(redis_url) as client, Listener(line.url) as listener:
        await client.lpush(WAKE_UPS, 1)
        await eventually(lambda: len(listener.begun) == 1)
        before = line.accepted
        line.silent = True
        await eventually(lambda: line.accepted > before, 10)
        line.silent = False

        async def heard_again() -> bool:
            # The connection that was silent may take one with it, as a wake-up may be lost.
            await client.lpush(WAKE_UPS, 1)
            return len(listener.begun) > 1

        await eventually(heard_again, 10)
    await line.cut()


async def test_a_worker_with_more_than_it_has_places_for_wakes_others(system: PayCenterSystem, redis_url: str) -> None:
    """A new endpoint has eight places. The other one listens without a pause: in one, the worker might hear itself."""
    async with client_of(redis_url):
        for _ in range(9):
            await system.submit(await system.order(), "mock")
        async with Listener(redis_url, 60) as other, server_process(system, "worker") as worker:
            other.go_on.clear()
            await eventually(lambda: len(other.begun) == 1, 30)
            await worker.until_logged("workers_running")
