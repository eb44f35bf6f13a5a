"""The wake-up: after a commit, a job in Redis tells a worker to read the outbox. The job may be lost; the poll finds the rows."""

from __future__ import annotations

import asyncio
import json
from contextvars import Context
from typing import Any

import structlog
from arq.connections import ArqRedis, RedisSettings, create_pool

log = structlog.get_logger(__name__)

WAKE_UP_QUEUE = "paycenter:wake_up"
CRON_QUEUE = "paycenter:cron"
_PAUSE_SECONDS = 0.02


def serialize(value: dict[str, Any]) -> bytes:
    """Jobs are sent as JSON, never as pickles."""
    return json.dumps(value, default=str).encode()


def deserialize(raw: bytes) -> dict[str, Any]:
    """The job that `serialize` wrote."""
    return dict(json.loads(raw))


def redis_settings(url: str) -> RedisSettings:
    """With short time-outs, so that an unreachable Redis delays no process."""
    settings = RedisSettings.from_dsn(url)
    settings.conn_timeout, settings.conn_retries, settings.conn_retry_delay = 1, 0, 0
    return settings


class ArqWakeUp:
    """Sends at most one job every 20 ms, from a task of its own, so that callers never wait for Redis."""

    def __init__(self, url: str) -> None:
        self._settings = redis_settings(url)
        self._redis: ArqRedis | None = None
        self._requested = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def send(self) -> None:
        """See `services.context.WakeUp`."""
        if self._task is None or self._task.done():
            # In a context of its own: the task outlives the call that starts it, and is not to log that call's request id.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())
        self._requested.set()

    async def _run(self) -> None:
        while True:
            await self._requested.wait()
            self._requested.clear()
            try:
                if self._redis is None:
                    self._redis = await create_pool(
                        self._settings, job_serializer=serialize, job_deserializer=deserialize, default_queue_name=WAKE_UP_QUEUE
                    )
                async with asyncio.timeout(1):
                    await self._redis.enqueue_job("pay_notify_job", _queue_name=WAKE_UP_QUEUE)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.warning("wake_up_failed", why=f"{type(error).__name__}: {error}")
                await self._disconnect()
                await asyncio.sleep(1)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _disconnect(self) -> None:
        redis, self._redis = self._redis, None
        if redis is not None:
            try:
                await redis.aclose()
            except Exception:
                log.debug("wake_up_close_failed")

    async def aclose(self) -> None:
        """Stop the task and close the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._disconnect()
