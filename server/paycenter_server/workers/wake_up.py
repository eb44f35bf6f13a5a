"""The wake-up: after a commit, a message in Redis tells a worker to read the outbox. It may be lost; the poll finds the rows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import cast

import structlog
from arq.connections import ArqRedis, RedisSettings, create_pool

log = structlog.get_logger(__name__)

WAKE_UPS = "paycenter:wake_ups"
"""A list with at most one element: it is there if a wake-up has not been heard yet."""
_PAUSE_SECONDS = 0.02
SHORTEST_PASS_SECONDS = 0.02
_BLOCK_SECONDS = 2
_RESTART_SECONDS = 1.0


def redis_settings(url: str) -> RedisSettings:
    """With short time-outs, so that an unreachable Redis delays no process."""
    settings = RedisSettings.from_dsn(url)
    settings.conn_timeout, settings.conn_retries, settings.conn_retry_delay = 1, 0, 0
    return settings


class RedisWakeUp:
    """Sends at most one message every 20 ms, from a task of its own, so that callers never wait for Redis."""

    def __init__(self, url: str) -> None:
        self._settings = redis_settings(url)
        self._redis: ArqRedis | None = None
        self._requested = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def send(self) -> None:
        """See `services.context.WakeUp`. Nothing after `aclose`: work that goes on after a stop may still send."""
        if self._closed:
            return
        if self._task is None or self._task.done():
            # In a context of its own: the task outlives the call that starts it, and is not to log that call's request id.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())
        self._requested.set()

    async def _run(self) -> None:
        while True:
            await self._requested.wait()
            self._requested.clear()
            try:
                async with asyncio.timeout(1):
                    if self._redis is None:
                        self._redis = await create_pool(self._settings)
                    both = self._redis.pipeline(transaction=True)
                    both.lpush(WAKE_UPS, 1)
                    both.ltrim(WAKE_UPS, 0, 0)
                    await both.execute()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.warning("wake_up_failed", why=f"{type(error).__name__}: {error}")
                await self._disconnect()
                await asyncio.sleep(1)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _disconnect(self) -> None:
        redis, self._redis = self._redis, None
        await _close(redis)

    async def aclose(self) -> None:
        """Stop the task and close the connection."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._disconnect()


class WakeUps:
    """Hears wake-ups, each of which is heard by one of the workers. `heard`: what a wake-up starts.

    After a pause it starts at once, and then every 20 ms at most: what comes meanwhile shares the next pass.
    """

    def __init__(self, url: str, heard: Callable[[], Awaitable[object]], block_seconds: int = _BLOCK_SECONDS) -> None:
        """`block_seconds`: how long Redis is asked to wait for a wake-up. If it has not answered after twice the time, it is
        connected to anew."""
        self._settings = redis_settings(url)
        self._heard = heard
        self._block_seconds = block_seconds

    async def run(self) -> None:
        """Until it is cancelled. Without Redis it tries again each second."""
        while True:
            redis: ArqRedis | None = None
            try:
                async with asyncio.timeout(2 * self._block_seconds):
                    redis = await create_pool(self._settings)
                while True:
                    await self._hear(redis)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                    raise  # this task, and not something that a pass has waited for
                log.warning("wake_ups_not_heard", why=f"{type(error).__name__}: {error}")
            finally:
                await _close(redis)
            await asyncio.sleep(_RESTART_SECONDS)

    async def _hear(self, redis: ArqRedis) -> None:
        async with asyncio.timeout(2 * self._block_seconds):
            if await cast(Awaitable[object], redis.blpop([WAKE_UPS], timeout=self._block_seconds)) is None:
                return
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await self._heard()
        await asyncio.sleep(max(0.0, begun + SHORTEST_PASS_SECONDS - loop.time()))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def _close(redis: ArqRedis | None) -> None:
    if redis is not None:
        try:
            await redis.aclose()
        except Exception:
            log.debug("redis_close_failed")
