"""`serve --processes N`: server processes that share a port, and the process that starts them again.

Each listens with SO_REUSEPORT, so the kernel gives each new connection to one of them. They are programs and not forks, because
gRPC has threads.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

import structlog

from paycenter_server.cli.processes import check_address
from paycenter_server.cli.running import beside
from paycenter_server.settings import Settings, split_address

log = structlog.get_logger(__name__)

RESTART_SECONDS = 1.0
END_SECONDS = 30.0
"""A process that has got SIGTERM and has not ended by then is killed: it needs 15 seconds at most, unless it hangs."""
_PARENT_SECONDS = 0.5
LIFE_SECONDS = 1.0
"""How often a process shows that its event loop runs."""
FROZEN_LOOKS = 20
"""A process that has listened and shows no life in so many looks, one each LIFE_SECONDS, is killed: the kernel would go on giving
it connections. Looks and not seconds, because the machine may be suspended."""


def reserve(variable: str, address: str) -> tuple[socket.socket, str]:
    """A bound socket that keeps the port for the processes, and the address with its number. It never listens."""
    check_address(variable, address)
    host, port = split_address(address)
    family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    kept = socket.socket(family, kind, protocol)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    kept.bind(place)
    number = kept.getsockname()[1]
    return kept, f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


async def supervise(processes: int, settings: Settings, stop: asyncio.Event) -> None:
    """Run so many servers until `stop`. One that ends is started again; if one exits at its first start before it listens, all end,
    and so does this process."""
    with ExitStack() as stack:
        environment = dict(os.environ)
        kept, environment["PAYCENTER_GRPC_ADDRESS"] = reserve("PAYCENTER_GRPC_ADDRESS", settings.grpc_address)
        stack.enter_context(kept)
        if settings.connect_address:
            kept, environment["PAYCENTER_CONNECT_ADDRESS"] = reserve("PAYCENTER_CONNECT_ADDRESS", settings.connect_address)
            stack.enter_context(kept)
        log.info("server_processes", number=processes, address=environment["PAYCENTER_GRPC_ADDRESS"])
        codes = await asyncio.gather(*(_keep_running(environment, stop) for _ in range(processes)))
    if failed := next((code for code in codes if code), 0):
        raise SystemExit(failed)


async def _keep_running(environment: dict[str, str], stop: asyncio.Event) -> int:
    """One server, started again when it ends. 0, or the exit code of one that exited at its first start before it listened: its
    settings are wrong, and it would exit again."""
    first = True
    while not stop.is_set():
        try:
            pid, code, listened = await _run_once(environment, stop)
        except OSError as error:  # no memory, process or descriptor for it now; the others go on
            log.error("server_process_not_started", why=str(error), repeated_after_seconds=RESTART_SECONDS)
        else:
            if stop.is_set():
                break
            log.error("server_process_ended", pid=pid, code=code)
            if first and code >= 0 and not listened:
                stop.set()
                return code or 1
            first = False
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), RESTART_SECONDS)
    return 0


async def _run_once(environment: dict[str, str], stop: asyncio.Event) -> tuple[int, int, bool]:
    """Run one server until it ends. Its process id, its exit code, and whether it listened. OSError if it cannot be started."""
    with life_pipe() as (reading, writing):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "paycenter_server.cli", "serve", "--parent", str(os.getpid()), "--listens", str(writing),
            env=environment, pass_fds=(writing,),
        )  # fmt: skip
        life = Life(process, reading)
        watch = asyncio.create_task(life.watch())
        try:
            code = await until_end(process, stop)
        finally:
            watch.cancel()
        return process.pid, code, life.look()


class Life:
    """Whether a process shows life: it writes into a pipe, from when it listens."""

    def __init__(self, process: asyncio.subprocess.Process, reading: int, *, seconds: float = LIFE_SECONDS) -> None:
        self._process = process
        self._reading = reading
        self._seconds = seconds
        self._listened = False
        self._silent = 0

    def look(self) -> bool:
        """Whether it has listened."""
        if _read(self._reading):
            self._listened, self._silent = True, 0
        else:
            self._silent += 1
        return self._listened

    async def watch(self) -> None:
        """Kill the process when it is frozen."""
        while not self.look() or self._silent < FROZEN_LOOKS:  # noqa: ASYNC110 - it is about what does not come
            await asyncio.sleep(self._seconds)
        log.error("server_process_frozen", pid=self._process.pid, seconds=FROZEN_LOOKS * self._seconds)
        with suppress(ProcessLookupError):
            self._process.kill()


@asynccontextmanager
async def shows_life(writing: int, *, seconds: float = LIFE_SECONDS) -> AsyncIterator[None]:
    """Within the block, this process writes into the pipe of the one that started it."""

    async def write() -> None:
        while True:
            with suppress(OSError):  # the pipe is full, or the other process has ended
                os.write(writing, b"1")
            await asyncio.sleep(seconds)

    async with beside(write()):
        yield


@contextmanager
def life_pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe into which a process writes while it listens. Neither reading nor writing waits."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def _read(reading: int) -> bytes:
    try:
        return os.read(reading, 1000)
    except BlockingIOError:
        return b""


async def until_end(process: asyncio.subprocess.Process, stop: asyncio.Event, seconds: float = END_SECONDS) -> int:
    """The exit code. At `stop` the process gets SIGTERM, and ends its running calls; after so many seconds it is killed."""
    ended, stopped = asyncio.create_task(process.wait()), asyncio.create_task(stop.wait())
    await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ended.done():
        with suppress(ProcessLookupError):
            process.terminate()
        if not (await asyncio.wait({ended}, timeout=seconds))[0]:
            log.error("server_process_killed", pid=process.pid, seconds=seconds)
            with suppress(ProcessLookupError):
                process.kill()
    return await ended


@asynccontextmanager
async def parent_watched(parent: int, stop: asyncio.Event) -> AsyncIterator[None]:
    """Within the block, `stop` is set when the process that started this one has ended: nobody would start it again or end it."""

    async def watch() -> None:
        while os.getppid() == parent:  # noqa: ASYNC110 - the kernel has no event for it
            await asyncio.sleep(_PARENT_SECONDS)
        log.warning("parent_ended", parent=parent)
        stop.set()

    async with beside(watch()):
        yield
