"""Ports for programs that insist on binding by themselves."""

from __future__ import annotations

import random
import socket

_RANDOM = random.SystemRandom()


def free_port() -> int:
    """One that is free now. It is below those that Linux gives to every connection and to port 0 (32768 and more), so that it is
    still free when it is used, whatever other tests do meanwhile."""
    while True:
        port = _RANDOM.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
