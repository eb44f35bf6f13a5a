"""A PostgreSQL that a killed supervisor left behind."""

import contextlib
import os
import signal
import time
from pathlib import Path

from paycenter_server.local.errors import LocalError
from paycenter_server.local.process import command_line, pid_alive


def end_leftover(cluster: Path) -> None:
    """End the server that still runs on `cluster`, or remove the pid file it left. The caller holds the data folder's lock.

    At its supervisor's death a server begins a fast shutdown by itself (PDEATHSIG), so waiting is nearly always enough.
    Raises LocalError if it cannot be ended.
    """
    pid_file = cluster / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return
    for signum, seconds in ((None, 5.0), (signal.SIGINT, 5.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        if not _runs(pid, cluster):
            # The number may be another program's by now; PostgreSQL would then refuse to start.
            with contextlib.suppress(FileNotFoundError):
                pid_file.unlink()
            return
        if signum is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        deadline = time.monotonic() + seconds
        while _runs(pid, cluster) and time.monotonic() < deadline:
            time.sleep(0.01)
    if _runs(pid, cluster):
        raise LocalError(
            f"An older PostgreSQL (process {pid}) still runs on {cluster} and cannot be ended. End it, then start again."
        )
    with contextlib.suppress(FileNotFoundError):
        pid_file.unlink()


def _runs(pid: int, cluster: Path) -> bool:
    return pid_alive(pid) and str(cluster) in command_line(pid)
