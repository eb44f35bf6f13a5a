"""Child processes that cannot outlive the process that started them.

A child is started through a short trampoline (a bare interpreter, about 12 ms) that drops to an unprivileged user if asked, asks
the kernel for a signal at its parent's death and then becomes the program by `exec`; so the pid stays the same. It is a
trampoline and not a `preexec_fn`, because a `preexec_fn` runs Python between fork and exec, which may deadlock in a process that
has threads (pytest with gRPC, for one).
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from paycenter_server.local.errors import LocalError

TRAMPOLINE_FAILED = 126

# PR_SET_PDEATHSIG is set after setuid because a change of credentials clears it; the parent is compared afterwards, because it
# may have died before the request was made. The interpreter ignores SIGPIPE for itself and `exec` would pass that on.
_TRAMPOLINE = """
import os, signal, sys
parent, death, uid, gid = map(int, sys.argv[1:5])
try:
    libc = None
    if sys.platform.startswith("linux"):
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
    for name in ("SIGPIPE", "SIGXFSZ", "SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o077)
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if libc is not None and libc.prctl(1, death, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(126)
    os.execv(sys.argv[5], sys.argv[5:])
except BaseException as error:
    os.write(2, ("cannot start %s: %s\\n" % (sys.argv[5], error)).encode())
    os._exit(126)
"""


@dataclass(frozen=True, slots=True)
class User:
    """A system user that a child runs as."""

    name: str
    uid: int
    gid: int


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    output: IO[bytes] | int | None,
    death_signal: signal.Signals = signal.SIGKILL,
    user: User | None = None,
    cwd: Path | None = None,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
) -> "subprocess.Popen[bytes]":
    """Start `argv` (an absolute program path first) in a session of its own, bound to the life of this process.

    Files that it makes are closed to others (umask 077): as root the data folder can be entered by all.
    A session of its own keeps the terminal's Ctrl-C away from it. `output` takes stdout and stderr; None inherits both.
    Raises LocalError off the main thread: the kernel sends the death signal when the *thread* that started the child ends.
    """
    if threading.current_thread() is not threading.main_thread():
        raise LocalError("Local servers are started from the main thread only: they would end together with another thread.")
    uid, gid = (user.uid, user.gid) if user is not None else (-1, -1)
    head = [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()), str(int(death_signal)), str(uid), str(gid)]
    return subprocess.Popen(
        [*head, *argv],
        env=dict(env),
        stdin=stdin,
        stdout=output,
        stderr=output if output is None else subprocess.STDOUT,
        cwd=cwd,
        start_new_session=True,
    )


def wait_exit(process: "subprocess.Popen[bytes]", timeout: float) -> bool:
    """Wait up to `timeout` seconds for the end of `process`; whether it ended. Polls: `Popen.wait` polls too, more coarsely."""
    deadline = time.monotonic() + timeout
    while not exited(process):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)
    return True


def exited(process: "subprocess.Popen[bytes]") -> bool:
    """Whether `process` has ended. What is left of its process group is killed first, while its pid still reserves the number."""
    if process.returncode is not None:
        return True
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return process.poll() is not None
    try:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        process.poll()
        return True
    if ended is None:
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def stop(process: "subprocess.Popen[bytes]", steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Send each step's signal and wait its seconds, until the process has ended; at last kill its whole group."""
    for signum, seconds in steps:
        if exited(process):
            return
        process.send_signal(signum)
        if wait_exit(process, seconds):
            return
    if not exited(process):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        wait_exit(process, 10)


def pid_alive(pid: int) -> bool:
    """Whether a process of this number runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    return True


def command_line(pid: int) -> str:
    """The command line of a process, words parted by blanks; empty if it cannot be known."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, timeout=5).stdout.strip()
    return ""


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, for an error message; at most 8 KiB."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"
