"""`kill -9` in the middle of the first start of `paycenter dev`: the next start comes up."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from paycenter_server.local import place
from support.waiting import eventually_sync

from .conftest import plain_environment, wait_ready

CLI = (sys.executable, "-m", "paycenter_server.cli")


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="paycenter-e2e-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        place.remove_place(made / "data")
        shutil.rmtree(made, ignore_errors=True)


def start(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "output.log").open("ab") as output:
        argv = [*CLI, "dev", "--data-dir", str(folder / "data"), "--no-demo"]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=plain_environment())


def count(data: Path, table: str) -> int:
    """Rows of a table of the embedded database; 0 while there is no such table or no database."""

    async def ask() -> int:
        port, password = json.loads((data / "ports.json").read_text())["postgres"], (data / "secrets" / "postgres.password")
        url = f"postgresql://paycenter:{password.read_text().strip()}@127.0.0.1:{port}/paycenter"
        connection = await asyncpg.connect(url, timeout=5)
        try:
            return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))
        finally:
            await connection.close()

    try:
        return asyncio.run(ask())
    except (OSError, KeyError, ValueError, asyncpg.PostgresError):
        return 0


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "the cluster is being made": lambda data: bool(list(data.glob("postgres/cluster-*/global"))),
    "the keys are being made": lambda data: (data / "simulator-keys" / "wechatpay" / "apiclient_key.pem").exists(),
    "the app has no channels": lambda data: count(data, "pay_app") > 0,
    "the app has some channels": lambda data: count(data, "pay_channel") > 0,
    "the services start": lambda data: (data / "logs" / "serve.log").exists(),
}


def test_every_moment(folder: Path) -> None:
    data = folder / "data"
    for moment, reached in MOMENTS.items():
        dev = start(folder)
        family: list[psutil.Process] = []
        try:
            eventually_sync(lambda dev=dev, reached=reached: dev.poll() is not None or reached(data), 60)  # type: ignore[misc]
            assert dev.poll() is None, (moment, (folder / "output.log").read_text())
            family = psutil.Process(dev.pid).children(recursive=True)
        finally:
            dev.kill()
            dev.wait()
        psutil.wait_procs(family, timeout=20)
    dev = start(folder)
    try:
        running = wait_ready(dev, data / "dev.json", folder / "output.log")
        demo = subprocess.run(
            [*CLI, "demo", "--running", "--data-file", str(running.file), "--json"],
            env=plain_environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert demo.returncode == 0, demo.stdout + demo.stderr
        assert len(running.data["channels"]) == count(data, "pay_channel") == 13
        assert count(data, "pay_app") == 1
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(30) == 0
    finally:
        if dev.poll() is None:
            dev.kill()
            dev.wait()
