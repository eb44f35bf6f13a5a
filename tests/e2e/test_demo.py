"""`paycenter demo`, as a new user runs it, and `paycenter demo --running` when something is wrong."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from paycenter_server.local.demo_steps import CHANNELS

from .conftest import RunningPayCenter, plain_environment

STEPS = [
    "created",
    "submitted",
    "paid",
    "callback",
    "order_success",
    "notified",
    "refunded",
    "refund_success",
    "refund_notified",
]


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "paycenter_server.cli", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=90, env={**plain_environment(), **env})


def steps_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files that the database's user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="paycenter-demo-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("E2E_MARK") == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_demo(temporary: Path) -> None:
    mark = uuid.uuid4().hex
    env = {**plain_environment(), "TMPDIR": str(temporary), "E2E_MARK": mark}
    started = time.monotonic()
    argv = [sys.executable, "-m", "paycenter_server.cli", "demo", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as demo:
        assert demo.stdout is not None and demo.stderr is not None
        first = demo.stdout.readline()
        family = {process.pid for process in psutil.Process(demo.pid).children(recursive=True)}
        seen = {process.pid for process in marked(mark)}
        output, problems = first + demo.stdout.read(), demo.stderr.read()
    took = time.monotonic() - started
    assert demo.returncode == 0, output + problems
    assert took < 30
    steps = steps_of(output)
    assert [(step["channel"], step["step"]) for step in steps] == [(channel, step) for channel in CHANNELS for step in STEPS]
    assert all(step["ok"] and step["ms"] >= 0 for step in steps)
    assert len(family) >= 6 and len(seen) >= 6
    assert marked(mark) == []
    assert not [pid for pid in family if psutil.pid_exists(pid)]
    assert os.listdir(temporary) == []


def test_running_for_people(running_paycenter: RunningPayCenter) -> None:
    done = run("demo", "--running", "--data-file", str(running_paycenter.file), PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "weixin://wxpay/" in done.stdout
    assert "▄▄▄▄▄" in done.stdout
    assert "Every step succeeded" in done.stdout


def test_running_without_unicode(running_paycenter: RunningPayCenter) -> None:
    done = run("demo", "--running", "--data-file", str(running_paycenter.file), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.isascii()


def test_running_says_which_step_failed(running_paycenter: RunningPayCenter, tmp_path: Path) -> None:
    broken = json.loads(running_paycenter.file.read_text())
    broken["addresses"]["shop"] = "http://127.0.0.1:1"
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(broken))
    done = run("demo", "--running", "--data-file", str(file), "--json")
    assert done.returncode == 1
    failed = [(step["channel"], step["step"]) for step in steps_of(done.stdout) if not step["ok"]]
    assert failed == [(channel, "notified") for channel in CHANNELS]
    assert done.stderr.count("notified") == len(CHANNELS)
    assert "Traceback" not in done.stderr


def test_running_with_wrong_credentials(running_paycenter: RunningPayCenter, tmp_path: Path) -> None:
    broken = json.loads(running_paycenter.file.read_text())
    broken["app"]["key_secret"] = "wrong"
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(broken))
    done = run("demo", "--running", "--data-file", str(file), "--json")
    assert done.returncode == 1
    assert {step["detail"]["reason"] for step in steps_of(done.stdout)} == {"CREDENTIALS_INVALID"}


def test_running_without_a_system(tmp_path: Path) -> None:
    done = run("demo", "--running", "--data-file", str(tmp_path / "dev.json"))
    assert done.returncode == 1
    assert "paycenter dev" in done.stderr
    (tmp_path / "dev.json").write_text("{}")
    done = run("demo", "--running", "--data-file", str(tmp_path / "dev.json"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_the_same_system_over_json(running_paycenter: RunningPayCenter) -> None:
    """`dev` answers the Connect protocol."""
    app, url = running_paycenter.data["app"], running_paycenter.addresses["connect"]
    basic = base64.b64encode(f"{app['key_id']}:{app['key_secret']}".encode()).decode()
    request = urllib.request.Request(
        f"{url}/paycenter.v1.PayChannelService/ListEnabledChannelCodes",
        data=b"{}",
        headers={"Content-Type": "application/json", "Authorization": f"Basic {basic}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert "wx_native" in json.loads(answer.read())["codes"]
