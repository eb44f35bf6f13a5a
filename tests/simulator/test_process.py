"""The simulator as its own process: its imports, its start time, and malformed HTTP requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from paycenter_server.channels.crypto import load_certificate
from paycenter_server.simulator.keys import SimulatorKeys, generate_keys
from support.waiting import eventually

MALFORMED = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x00\xff\xfe\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET http://[bad/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20000 + b"\r\n\r\n",
    b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /v3/pay/transactions/native HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /gateway.do HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n",
    b"POST /gateway.do HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nab",
    b"POST /pay/unifiedorder HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
)


class Process:
    """A running `paycenter simulator`. seconds: the CPU time from the start of the process until it listens."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port = process, port
        times = psutil.Process(process.pid).cpu_times()
        self.seconds = times.user + times.system

    @classmethod
    async def start(cls, keys: SimulatorKeys) -> Process:
        arguments = ("-m", "paycenter_server.simulator", "--port", "0", "--keys", str(keys.directory))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        return cls(process, int(line.rsplit(":", 1)[1]))

    async def send(self, request: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 10)
        writer.close()

    async def stop(self) -> str:
        """Stop the process; returns its standard error."""
        self.process.terminate()
        _, errors = await asyncio.wait_for(self.process.communicate(), 30)
        return errors.decode()


@pytest_asyncio.fixture
async def process(keys: SimulatorKeys) -> AsyncIterator[Process]:
    started = await Process.start(keys)
    yield started
    if started.process.returncode is None:
        started.process.kill()
        await started.process.wait()


def test_the_process_loads_only_the_cryptography_of_the_server() -> None:
    code = (
        "import sys, paycenter_server.simulator.cli\n"
        "print(*sorted(name for name in sys.modules if name.startswith('paycenter') and '.simulator' not in name))\n"
        "print(*sorted({'sqlalchemy', 'asyncpg', 'grpc', 'arq', 'pydantic', 'structlog', 'uvloop'} & set(sys.modules)))"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=Path(__file__).parent)
    own, others = (line.split() for line in output.split("\n")[:2])
    assert own == ["paycenter_server", "paycenter_server.channels", "paycenter_server.channels.crypto"]
    assert others == []


@pytest.mark.asyncio
async def test_start_takes_less_than_a_second(keys: SimulatorKeys) -> None:
    """CPU time, because the wall time depends on the other processes of the machine."""
    seconds = []
    for _ in range(3):
        started = await Process.start(keys)
        await started.stop()
        seconds.append(started.seconds)
    assert min(seconds) < 1


@pytest.mark.asyncio
async def test_malformed_http_gives_no_traceback(process: Process) -> None:
    for request in MALFORMED:
        await process.send(request)
    errors = await process.stop()
    assert "malformed HTTP request" in errors
    assert "Traceback" not in errors


async def test_processes_that_create_the_keys_at_once_agree(tmp_path: Path) -> None:
    """`paycenter dev` starts the seed and the simulator at the same time."""
    script = (
        "import json, sys; from pathlib import Path; from paycenter_server.simulator.keys import generate_keys\n"
        "print(json.dumps(generate_keys(Path(sys.argv[1])).settings, sort_keys=True))"
    )
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(tmp_path / "keys"), stdout=asyncio.subprocess.PIPE)
        for _ in range(3)
    ]
    printed = {(await process.communicate())[0] for process in started}
    assert len(printed) == 1
    assert printed.pop().startswith(b'{"alipay"')


async def test_keys_of_an_interrupted_process_fit_together(tmp_path: Path) -> None:
    """The ids that certificates hold are stored before the certificates."""
    folder = tmp_path / "keys"
    script = (
        "import sys; from pathlib import Path; from paycenter_server.simulator.keys import generate_keys as g; g(Path(sys.argv[1]))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(folder))
    await eventually((folder / "wechatpay" / "apiclient_cert.pem").exists, 30)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    keys = generate_keys(folder)
    certificate = load_certificate((folder / "wechatpay" / "apiclient_cert.pem").read_bytes())
    assert keys.wechatpay["mchid"] in certificate.subject.rfc4514_string()
