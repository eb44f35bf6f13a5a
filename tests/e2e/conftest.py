"""A whole PayCenter as a user starts it: `paycenter dev`, in processes of its own."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from paycenter import PayCenter, PayCenterError
from paycenter_server.local import place
from support.waiting import eventually_sync

START_SECONDS = 60.0
STOP_SECONDS = 30.0


def plain_environment() -> dict[str, str]:
    """Ours without settings of PayCenter: a test never touches a server that happens to be named there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")}


def fetch(url: str, method: str = "GET") -> Any:
    """JSON from a loopback address."""
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
        return json.loads(answer.read())


@dataclass(frozen=True)
class RunningPayCenter:
    """A development tree that answers. `file` is its dev.json, `data` what is in it."""

    file: Path
    data: dict[str, Any]
    log: Path

    @property
    def addresses(self) -> dict[str, str]:
        found: dict[str, str] = self.data["addresses"]
        return found

    def client(self) -> PayCenter:
        app = self.data["app"]
        return PayCenter(self.addresses["grpc"], key_id=app["key_id"], key_secret=app["key_secret"])


def _answers(file: Path) -> RunningPayCenter | None:
    try:
        running = RunningPayCenter(file, json.loads(file.read_text()), file.parent.parent / "output.log")
        fetch(f"{running.addresses['shop']}/notifications")
        with running.client() as pay:
            pay.list_channel_codes(timeout=2)
    except (OSError, ValueError, PayCenterError):
        return None
    return running


@contextmanager
def only_start() -> Iterator[None]:
    """One `dev` is started at a time on this machine: two that choose their ports at the same moment would choose the same ones."""
    with (Path(tempfile.gettempdir()) / "paycenter-e2e.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(argv: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=plain_environment())


@pytest.fixture(scope="session")
def running_paycenter() -> Iterator[RunningPayCenter]:
    """One for all tests of a process: on free ports if the usual ones are taken, on a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="paycenter-e2e-"))
    log = folder / "output.log"
    argv = [sys.executable, "-m", "paycenter_server.cli", "dev", "--data-dir", str(folder / "data"), "--no-demo"]
    with only_start():
        dev = _start(argv, log)
        try:
            running = wait_ready(dev, folder / "data" / "dev.json", log)
        except BaseException:
            dev.kill()
            raise
    try:
        yield running
        check = [sys.executable, "-m", "paycenter_server.cli", "books", "check"]
        environment = {**plain_environment(), "PAYCENTER_DATA_DIR": str(folder / "data")}
        books = subprocess.run(check, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert books.returncode == 0, books.stdout + books.stderr
        family = psutil.Process(dev.pid).children(recursive=True)
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(STOP_SECONDS) == 0
        assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    finally:
        if dev.poll() is None:
            dev.kill()
            dev.wait()
        place.remove_place(folder / "data")
        shutil.rmtree(folder, ignore_errors=True)


def wait_ready(dev: subprocess.Popen[bytes], file: Path, log: Path) -> RunningPayCenter:
    def ready() -> RunningPayCenter | None:
        if dev.poll() is not None:
            pytest.fail(f"paycenter dev ended with {dev.returncode}:\n{log.read_text()}")
        return _answers(file)

    try:
        running = eventually_sync(ready, START_SECONDS)
    except AssertionError:
        running = None
    if running is None:
        pytest.fail(f"paycenter dev was not ready within {START_SECONDS:g} s:\n{log.read_text()}")
    return running
