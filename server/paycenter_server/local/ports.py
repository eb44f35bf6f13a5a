"""Loopback ports, and which process listens on one."""

import contextlib
import os
import socket
import time
from collections.abc import Container
from pathlib import Path

from paycenter_server.local.process import command_line

HOST = "127.0.0.1"
LEFTOVER_SECONDS = 2.0
"""How long a port may stay taken by a process of the last start that was killed."""
_LISTEN = "0A"  # TCP_LISTEN, as /proc/net/tcp writes it
_SHOWN_COMMAND = 60  # characters


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a connection in TIME_WAIT must not look like a clash.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(taken: Container[int] = ()) -> int:
    """A port that is free now and not in `taken`. Somebody may take it before it is used: callers try again."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port


def wait_free(port: int, timeout: float) -> bool:
    """Wait up to `timeout` seconds until a server could listen on the port: processes that were killed need a moment to end."""
    deadline = time.monotonic() + timeout
    while not is_free(port):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def choose_port(preferred: int | None, taken: Container[int] = ()) -> tuple[int, bool]:
    """`(port, changed)`: the preferred port, or a free one if that is taken; `changed` says that the caller must tell."""
    if preferred and preferred not in taken and is_free(preferred):
        return preferred, False
    return free_port(taken), bool(preferred)


def accepts(port: int, timeout: float = 0.5) -> bool:
    """Whether something accepts a TCP connection on this loopback port; `timeout` in seconds."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout):
        return True
    return False


def listens(pid: int, port: int) -> bool:
    """Whether a socket of this process listens on the port. True where the system does not say (no /proc)."""
    inodes = _listening(port)
    return inodes is None or not inodes.isdisjoint(_sockets(pid))


def holder(port: int) -> str:
    """The process that listens on this loopback port, for a message: its pid and command line, or "another program"."""
    inodes = _listening(port) or set()
    with contextlib.suppress(OSError):
        for entry in os.listdir("/proc"):
            if inodes and entry.isdigit() and not inodes.isdisjoint(_sockets(int(entry))):
                return f"process {entry} ({command_line(int(entry))[:_SHOWN_COMMAND] or 'unknown command'})"
    return "another program"


def _listening(port: int) -> set[str] | None:
    """Inodes of the sockets that listen on the port, on any address; None where the system does not say."""
    found: set[str] = set()
    known = False
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
            known = True
    return found if known else None


def _sockets(pid: int) -> set[str]:
    """Inodes of the sockets of a process; empty if it has ended or is another user's."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{entry}")
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found
