"""The dependencies of the use cases: the database, the ports, and their settings."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Any, Protocol, TypeVar
from uuid import UUID

from paycenter_server.channels.protocol import RequestContext
from paycenter_server.channels.registry import Registry
from paycenter_server.channels.transport import Transport
from paycenter_server.domain.ids import RANDOM_BITS, key_bytes, time_and_random
from paycenter_server.services.secrets import SecretBox
from paycenter_server.services.signing import Signing
from paycenter_server.storage.database import Database, key_of

T = TypeVar("T")

deadline: ContextVar[float | None] = ContextVar("paycenter_deadline", default=None)
"""The caller's deadline by the clock of the event loop. A channel call ends before it."""


class Clock(Protocol):
    """A port: the source of the time."""

    def now(self) -> datetime:
        """The current time, aware and in UTC."""
        ...


class WakeUp(Protocol):
    """A port: wakes a worker when a notification is due. It may be lost, because the rows are the outbox."""

    def send(self) -> None:
        """Send a wake-up after a commit. It never waits and never fails."""
        ...


class NoWakeUp:
    """A wake-up for processes that have none; the workers' poll finds the rows."""

    def send(self) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of the use cases. The callback URLs are without the channel id, that of the cashier is without the token.

    `sync_batch`: how many expired orders are claimed together. The `account_…` values limit the jobs (`accounts_places.py`).
    The `…_retention_months` are whole months before the present one; 0 keeps everything (`partitions.py`).
    """

    order_callback_url: str
    refund_callback_url: str
    production: bool
    cashier_url: str = ""
    channel_timeout: float = 10.0
    sync_batch: int = 50
    account_places: int = 16
    event_retention_months: int = 0
    notification_log_retention_months: int = 0
    account_calls_per_second: float = 50.0
    account_calls_burst: int = 100
    account_breaker_failures: int = 5


class KeyGenerator:
    """Generates keys in ascending order, also if the clock goes back. Thread-safe."""

    def __init__(self) -> None:
        self._last = -1
        self._lock = Lock()

    def next(self, now: datetime, random: int) -> UUID:
        """The next UUIDv7; `random` is its 74 random bits."""
        with self._lock:
            self._last = last = time_and_random(now, random, self._last)
        return key_of(key_bytes(last))


@dataclass
class Context:
    """The dependencies; a process has one.

    `other_workers`: how a worker wakes another one when more is due than it has places for.
    """

    database: Database
    clock: Clock
    wake_up: WakeUp
    registry: Registry
    transport: Transport
    box: SecretBox
    options: Options
    signers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="sign"))
    other_workers: WakeUp = field(default_factory=NoWakeUp)
    random_bits: Callable[[int], int] = secrets.randbits
    _keys: KeyGenerator = field(default_factory=KeyGenerator)
    _running: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._signing = Signing(self.signers)

    def now(self) -> datetime:
        """The current time of the clock."""
        return self.clock.now()

    def new_key(self, now: datetime) -> UUID:
        """A new UUIDv7, larger than all earlier ones of this process."""
        return self._keys.next(now, self.random_bits(RANDOM_BITS))

    def new_request_context(self) -> RequestContext:
        """The time and a nonce for one channel operation."""
        return RequestContext(self.now(), secrets.token_hex(16))

    async def signed(self, work: Callable[[], T]) -> T:
        """Run work that builds and signs a request."""
        return await self._signing.make(work)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run work that takes the processor longer than the event loop may be blocked (hashing, parsing keys)."""
        return await asyncio.get_running_loop().run_in_executor(self.signers, work)

    async def run_to_completion(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work that must not stop halfway. If the caller is cancelled, the work continues."""
        return await asyncio.shield(self.start(work))

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work that belongs to no caller. `drain` waits for it."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that a cancelled caller causes no warning

    async def drain(self, seconds: float) -> None:
        """Wait for work whose callers were cancelled."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=seconds)

    def close(self) -> None:
        """Stop the signing threads."""
        self.signers.shutdown(wait=False, cancel_futures=True)
