"""Loopback ports."""

import contextlib
import socket
from collections.abc import Container

HOST = "127.0.0.1"


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
