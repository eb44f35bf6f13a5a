"""`serve --processes N`: processes that share a port are started again, end together, and never outlive the first one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import psutil
import pytest
from paycenter import AsyncPayCenter
from paycenter_server.cli.serving import FROZEN_LOOKS, Life, life_pipe, shows_life, until_end
from support.grpc_rig import key_of
from support.server_process import ServerProcess, server_process
from support.system import PayCenterSystem, free_port
from support.waiting import ended, eventually

CLIENTS = 16


@dataclass
class Shared:
    """The first process, and the address that the others share."""

    first: ServerProcess
    address: str
    system: PayCenterSystem

    def others(self) -> list[psutil.Process]:
        return [one for one in psutil.Process(self.first.pid).children() if one.is_running()]

    def connections(self) -> dict[int, int]:
        """How many connections each process has."""
        port = int(self.address.rpartition(":")[2])
        return {
            one.pid: sum(found.status == "ESTABLISHED" and found.laddr.port == port for found in one.net_connections("tcp"))
            for one in self.others()
        }

    async def call(self, number: int, stack: AsyncExitStack) -> None:
        key_id, secret = key_of(self.system)
        client = AsyncPayCenter(self.address, key_id=key_id, key_secret=secret, attempts=5, timeout=30)
        pay = await stack.enter_async_context(client)
        await pay.create_order(merchant_order_id=f"m{number}", subject="s", amount=1, user_ip="203.0.113.9")


@pytest.fixture
async def shared(system: PayCenterSystem) -> AsyncIterator[Shared]:
    address = f"127.0.0.1:{free_port()}"
    async with server_process(system, "serve --processes 2", grpc_address=address) as first:
        made = Shared(first, address, system)

        async def listening() -> bool:
            return first.log.count("grpc_listening") == 2

        await eventually(listening, 30)
        yield made


async def test_connections_are_distributed_and_a_process_that_dies_is_started_again(shared: Shared) -> None:
    async with AsyncExitStack() as stack:
        for number in range(CLIENTS):
            await shared.call(number, stack)
        counts = shared.connections()
        assert len(counts) == 2
        assert all(counts.values()), counts
        victim = next(iter(counts))
        os.kill(victim, signal.SIGKILL)
        for number in range(CLIENTS, 2 * CLIENTS):
            await shared.call(number, stack)

        async def again() -> bool:
            return shared.first.log.count("grpc_listening") == 3

        await eventually(again, 30)
        assert len(shared.others()) == 2
        assert victim not in {one.pid for one in shared.others()}
    assert "server_process_ended" in shared.first.log
    assert await shared.system.value("SELECT count(*) FROM pay_order") == 2 * CLIENTS


async def test_a_process_that_cannot_be_started_is_started_later(shared: Shared) -> None:
    """As long as there is no descriptor, process or memory for it. The other one goes on."""
    first, (victim, other) = psutil.Process(shared.first.pid), shared.others()
    limits = first.rlimit(psutil.RLIMIT_NOFILE)
    first.rlimit(psutil.RLIMIT_NOFILE, (3, limits[1]))
    victim.kill()
    await eventually(lambda: "server_process_not_started" in shared.first.log, 30)
    assert other.is_running()
    first.rlimit(psutil.RLIMIT_NOFILE, limits)
    await eventually(lambda: shared.first.log.count("grpc_listening") == 3, 30)
    assert other in shared.others()


async def test_a_process_that_is_ended_soon_after_its_start_is_started_again(shared: Shared) -> None:
    os.kill(shared.others()[0].pid, signal.SIGTERM)

    async def again() -> bool:
        return shared.first.log.count("grpc_listening") == 3

    await eventually(again, 30)
    assert len(shared.others()) == 2


async def test_they_end_together(shared: Shared) -> None:
    others = shared.others()
    shared.first.stop()
    assert await shared.first.wait() == 0
    assert not any(one.is_running() for one in others)


async def test_they_do_not_outlive_the_first_process(shared: Shared) -> None:
    others = shared.others()
    shared.first.kill()
    await shared.first.wait()

    async def ended() -> bool:
        return not any(one.is_running() for one in others)

    await eventually(ended, 30)


async def test_a_port_that_is_taken_is_said_once(system: PayCenterSystem) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with server_process(system, "serve --processes 2", grpc_address=address) as first:
            assert await first.wait() == 1
            assert first.log.count("PAYCENTER_GRPC_ADDRESS") == 1
            assert "Traceback" not in first.log


async def test_processes_that_cannot_start_are_not_started_again(system: PayCenterSystem) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with server_process(system, "serve --processes 2", grpc_address=address, master_key_file="/nowhere/master.key") as first:
        assert await first.wait() == 1
        assert 1 <= first.log.count("PAYCENTER_MASTER_KEY_FILE") <= 2
        assert "Traceback" not in first.log


async def test_a_process_that_is_frozen_is_killed() -> None:
    """The kernel would go on giving it connections, and nobody would answer."""
    program = "import os, signal, sys; os.write(int(sys.argv[1]), b'1'); os.kill(os.getpid(), signal.SIGSTOP)"
    with life_pipe() as (reading, writing):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(writing), pass_fds=(writing,))
        watch = asyncio.create_task(Life(process, reading, seconds=0.01).watch())
        (code,) = await ended([asyncio.create_task(process.wait())])
        assert code == -signal.SIGKILL
        await watch


async def test_a_process_that_shows_life_is_left_alone() -> None:
    """And so is one that has not listened yet: it may wait for the database."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(60)")
    with life_pipe() as (reading, writing):
        life, looks = Life(process, reading), 2 * FROZEN_LOOKS
        assert not any(life.look() for _ in range(looks))
        async with shows_life(writing, seconds=0.001):
            for _ in range(looks):
                await eventually(lambda: life.look() and life._silent == 0)  # each time what has come since
        process.kill()
        await process.wait()


async def test_a_process_that_does_not_end_is_killed() -> None:
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    stop = asyncio.Event()
    stop.set()
    (code,) = await ended([asyncio.ensure_future(until_end(process, stop, 0.1))])
    assert code == -signal.SIGKILL
