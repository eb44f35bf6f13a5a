"""Connections and transactions over one asyncpg pool. A transaction marks its task for `domain.guard`."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, Protocol, cast
from uuid import UUID

import asyncpg
import asyncpg.pgproto.pgproto
import structlog

from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.guard import transaction_open

log = structlog.get_logger(__name__)
CheckViolation = asyncpg.CheckViolationError
UniqueViolation = asyncpg.UniqueViolationError
ForeignKeyViolation = asyncpg.ForeignKeyViolationError
LockTimeout = asyncpg.LockNotAvailableError
Conflict = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    LockTimeout,
    # A migration changed a table between two statements of a transaction. Outside a transaction asyncpg prepares again.
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)
CONFLICT_RETRY_SECONDS = 0.2
HARDLY_WAITING = "hardly_waiting AS MATERIALIZED (SELECT set_config('lock_timeout', '200ms', true))"
"""A CTE for a statement that several callers share: once it is read, the statement waits 200 ms for a lock at most (LockTimeout).
So a row that one of the callers has to wait for does not hold up the others. With less, a slow disk would end statements too."""
TAKE_SECONDS = 10.0
IDLE_IN_TRANSACTION_SECONDS = 60.0
# A table or column that this version uses is missing: the database is not migrated yet, or was migrated to another version.
_NO_SCHEMA = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
# Read-only, no space, no memory, I/O error: the server answers, and refuses what writes.
_NO_WRITES = (asyncpg.ReadOnlySQLTransactionError, asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError)
Record = Mapping[str, Any]


key_of: Callable[[bytes], UUID] = asyncpg.pgproto.pgproto.UUID
"""The key of 16 bytes, of the class that asyncpg reads keys as: a UUID that is made, hashed and written in C."""


class Connection(Protocol):
    """For reading: each statement sees what was committed before it began. asyncpg ships no types, so these are ours."""

    async def fetch(self, query: str, *arguments: object) -> list[Record]:
        """All rows."""
        ...

    async def fetchrow(self, query: str, *arguments: object) -> Record | None:
        """The first row, None if there is none."""
        ...

    async def fetchval(self, query: str, *arguments: object) -> Any:
        """The first column of the first row, None if there is none."""
        ...


class WriteConnection(Connection, Protocol):
    """For statements that write. Outside a transaction each is a transaction of its own."""

    async def execute(self, query: str, *arguments: object) -> str:
        """Run a statement that answers nothing."""
        ...


class Transaction(WriteConnection, Protocol):
    """An open transaction: row locks last until it ends."""

    def is_in_transaction(self) -> bool:
        """Always true here; tells this type apart from WriteConnection."""
        ...


def is_connection_loss(error: BaseException) -> bool:
    """Whether the database went away, as opposed to having refused a statement.

    A backend killed under asyncpg may surface as InternalClientError, so names alone do not tell.
    """
    lost = (
        asyncpg.PostgresConnectionError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        asyncpg.CannotConnectNowError,
        asyncpg.TooManyConnectionsError,
        OSError,
        TimeoutError,
        asyncio.TimeoutError,
    )
    # asyncpg's error for a value that does not fit a column is an InterfaceError too, and a ValueError.
    return isinstance(error, lost) and not isinstance(error, ValueError)


# A refund that was sent, whose success could not be stored, is one of these: nobody may take it for one that was never made.
_REPEAT = (
    "What it has stored or sent before stays. Repeat it in a moment, with the same number: an order or a refund is created once."
)


def unavailable(error: BaseException) -> PayCenterError:
    """What callers see while the database is away, accepts no writes, or has another schema than this version needs.

    A statement that the database has refused changed nothing. One whose answer was lost may have been committed.
    """
    what = f"a statement of this call was not stored. {_REPEAT}"
    if is_connection_loss(error):
        what = (
            "this call may have been carried out, or not. Read the resource, or repeat the call with the same number in a "
            "moment: an order or a refund is created once."
        )
    return PayCenterError(
        Reason.DATABASE_UNAVAILABLE,
        f"The database {database_problem(error)}; {what}",
        metadata={"cause": type(error).__name__},
        retry_after=1.0,
    )


def database_problem(error: BaseException) -> str:
    """A predicate for "The database …", without details that callers must not see."""
    if isinstance(error, _NO_WRITES):
        return "accepts no writes"
    if isinstance(error, _NO_SCHEMA):
        return "has not the schema of this version"
    return "does not answer" if is_connection_loss(error) else "refuses a small write"


def conflict(error: BaseException) -> PayCenterError:
    """What callers see of a deadlock, a serialization failure, or a schema change under a transaction."""
    return PayCenterError(
        Reason.DATABASE_CONFLICT,
        f"Another call or a migration used the same rows at the same time, so a statement of this call was not stored. {_REPEAT}",
        metadata={"cause": type(error).__name__},
        retry_after=CONFLICT_RETRY_SECONDS,
    )


def retryable_error(error: BaseException) -> PayCenterError | None:
    """The error for the caller if a repetition of the same call may succeed; None for every other exception."""
    if isinstance(error, Conflict):
        return conflict(error)
    if is_connection_loss(error) or isinstance(error, (*_NO_WRITES, *_NO_SCHEMA)):
        return unavailable(error)
    return None


async def read_time(connection: Connection) -> datetime:
    """The time of the database, aware and in UTC."""
    found = await connection.fetchval("SELECT clock_timestamp()")
    assert isinstance(found, datetime)
    return found


_JSONB_VERSION = b"\x01"  # jsonb_send and jsonb_recv: the version of the format, then the text


to_json = json.JSONEncoder(default=dict).encode


class JsonText(str):
    """The text of a JSON value, for a parameter of the type jsonb."""

    __slots__ = ()


def _jsonb(value: object) -> bytes:
    return _JSONB_VERSION + (value if isinstance(value, JsonText) else to_json(value)).encode()


_read_json = json.JSONDecoder().raw_decode


def _from_jsonb(value: bytes) -> Any:
    return _read_json(value[1:].decode())[0]  # PostgreSQL writes no white space around it


async def prepare(connection: Any) -> None:
    """What each connection is given when it is made."""
    # In the binary format: asyncpg writes arrays of the text format character by character, 25 us for a kilobyte.
    await connection.set_type_codec("jsonb", encoder=_jsonb, decoder=_from_jsonb, schema="pg_catalog", format="binary")


async def _reset(connection: Any) -> None:
    # The default reset query costs a round trip for each use. The statements of this package change no session state.
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")


class _Lent:
    """A connection for the time of a block. A class, because a generator costs as much as a short statement."""

    __slots__ = ("_connections", "_lent")

    def __init__(self, connections: _Connections) -> None:
        self._connections = connections

    async def __aenter__(self) -> Any:
        self._lent = await self._connections.take()
        return self._lent

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or (isinstance(error, (asyncpg.PostgresError, PayCenterError)) and not is_connection_loss(error)):
            self._connections.put(self._lent)
        elif isinstance(error, TimeoutError):
            # The connection may be lost: whoever has waited for the statement does not wait for its cancellation too.
            self._connections.give_back_later(self._lent)
        else:
            await self._connections.give_back(self._lent)  # a statement may be in progress


class _Connections:
    """Connections of asyncpg's pool that are kept when a task does not need them any more: the pool's own release costs more
    than a short statement. One that broke, or whose statement was cancelled, goes back to the pool, which repairs it."""

    def __init__(self, pool: Any, size: int) -> None:
        self._pool = pool
        self._size = size
        self._taken = 0
        self._idle: list[Any] = []
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._giving_back: set[asyncio.Task[None]] = set()

    async def take(self) -> Any:
        """A connection. Waiting tasks get one in the order in which they asked. TimeoutError after TAKE_SECONDS."""
        while self._idle:
            if _is_usable(lent := self._idle.pop()):
                return lent
            await self.give_back(lent)
        if self._taken >= self._size:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            try:
                async with asyncio.timeout(TAKE_SECONDS):
                    lent = await future
            except BaseException:
                if future.done() and not future.cancelled():
                    self._pass_on(future.result())
                raise
            if lent is not None:
                return lent
        else:
            self._taken += 1
        try:
            return await self._pool.acquire(timeout=TAKE_SECONDS)
        except BaseException:
            self._pass_on(None)
            raise

    def put(self, lent: Any) -> None:
        """Keep a connection for the next task."""
        if _is_usable(lent) and not lent.is_in_transaction():
            self._pass_on(lent)
        else:
            self.give_back_later(lent)

    def give_back_later(self, lent: Any) -> None:
        """The same as `give_back`, without waiting."""
        task = asyncio.ensure_future(self.give_back(lent))
        self._giving_back.add(task)
        task.add_done_callback(self._given_back)

    def _given_back(self, task: asyncio.Task[None]) -> None:
        self._giving_back.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("database_connection_not_released", why=f"{type(error).__name__}: {error}"[:300])

    async def give_back(self, lent: Any) -> None:
        """Return a connection to the pool, which waits for the cancellation of its statement, or replaces it."""
        try:
            await self._pool.release(lent)
        finally:
            self._pass_on(None)

    def _pass_on(self, lent: Any) -> None:
        """To the first task that still waits: the connection, or (None) the right to get another one from the pool."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(lent)
                return
        if lent is None:
            self._taken -= 1
        else:
            self._idle.append(lent)

    async def close(self) -> None:
        """Return what is not used."""
        while self._idle:
            await self.give_back(self._idle.pop())


def _is_usable(lent: Any) -> bool:
    try:
        return not lent.is_closed()
    except asyncpg.InterfaceError:
        return False  # it was lost, and the pool has it back


class Database:
    """A pool of a few connections. Waiting tasks get one in the order in which they asked."""

    def __init__(
        self,
        url: str,
        *,
        size: int = 8,
        command_timeout: float = 15.0,
        idle_in_transaction: float = IDLE_IN_TRANSACTION_SECONDS,
        lock_wait: float = 0.0,
    ) -> None:
        """`lock_wait`: seconds after which a statement that waits for a lock fails (LockTimeout); 0 if it waits until
        `command_timeout`."""
        self._url = url.replace("postgresql+asyncpg://", "postgresql://")
        self._size = size
        self._timeout = command_timeout
        self._idle_in_transaction = f"{round(idle_in_transaction * 1000)}ms"
        self._lock_wait = f"{round(lock_wait * 1000)}ms"
        self._pool: Any = None
        self._connections: _Connections | None = None

    async def open(self) -> None:
        """Connect. Raises OSError or an asyncpg error if the server is not there."""
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=self._size,
            max_inactive_connection_lifetime=0,
            command_timeout=self._timeout,
            timeout=5,
            init=prepare,
            reset=_reset,
            # A statement that is prepared while its tables are small or have no statistics would keep a plan that reads the
            # whole table. Each of these tables has an index for each hot statement, so no plan needs a sequential scan.
            # No transaction waits for anything outside. One whose process is frozen must not hold its locks until somebody ends it.
            server_settings={
                "application_name": "paycenter",
                "timezone": "UTC",
                "jit": "off",
                "enable_seqscan": "off",
                "plan_cache_mode": "force_generic_plan",
                "idle_in_transaction_session_timeout": self._idle_in_transaction,
                "lock_timeout": self._lock_wait,
            },
        )
        self._connections = _Connections(self._pool, self._size)

    async def close(self) -> None:
        """Close the connections; after 3 seconds without waiting for their statements."""
        if self._pool is not None and self._connections is not None:
            try:
                async with asyncio.timeout(3):
                    await self._connections.close()
                    await self._pool.close()
            except TimeoutError:
                self._pool.terminate()

    def connection(self) -> AbstractAsyncContextManager[WriteConnection]:
        """A connection in autocommit: each statement is its own transaction."""
        assert self._connections is not None
        return cast(AbstractAsyncContextManager[WriteConnection], _Lent(self._connections))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A READ COMMITTED transaction. Inside it the transport refuses to send."""
        assert self._connections is not None
        async with _Lent(self._connections) as connection:
            with transaction_open():
                async with connection.transaction():
                    yield cast(Transaction, connection)
