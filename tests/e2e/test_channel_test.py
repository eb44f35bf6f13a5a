"""`paycenter channel test`, typed beside a running `paycenter dev`: no settings needed, and every demo channel works."""

from __future__ import annotations

import json
import subprocess
import sys

from .conftest import RunningPayCenter, plain_environment


def channel_test(running: RunningPayCenter, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "paycenter_server.cli", "channel", "test", *words]
    env = {**plain_environment(), "PAYCENTER_DATA_DIR": str(running.file.parent)}
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env, check=False)


def test_every_demo_channel_works(running_paycenter: RunningPayCenter) -> None:
    for code in json.loads(running_paycenter.file.read_text())["channels"]:
        done = channel_test(running_paycenter, code, "--app", "demo")
        assert done.returncode == 0, (code, done.stdout, done.stderr)
        assert "answers" in done.stdout
        assert "settings of `paycenter dev`" in done.stderr


def test_a_channel_that_is_not_there(running_paycenter: RunningPayCenter) -> None:
    done = channel_test(running_paycenter, "wx_nativ", "--app", "demo")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no channel 'wx_nativ'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_running_system(tmp_path: object) -> None:
    argv = [sys.executable, "-m", "paycenter_server.cli", "channel", "test", "wx_native", "--app", "demo"]
    env = {**plain_environment(), "PAYCENTER_DATA_DIR": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.returncode == 2
    assert "PAYCENTER_DATABASE_URL" in done.stderr
