"""A load generator for HTTP/1.1: requests that are given as bytes, each sent once, on connections with one request at a time.

Prints how many were answered 204, how many otherwise, and the times as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import uvloop


class Load:
    """The requests of one run and what became of them."""

    def __init__(self, requests: list[bytes], connections: int) -> None:
        self._requests: Iterator[bytes] = iter(requests)
        self._connections = connections
        self.latencies: list[float] = []
        self.failed = 0
        self.over = asyncio.Event()

    def request(self) -> bytes | None:
        """The next request; None if there is no other."""
        return next(self._requests, None)

    def end_connection(self) -> None:
        """A connection has nothing left to do. The last one ends the run."""
        self._connections -= 1
        if self._connections == 0:
            self.over.set()


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._began = 0.0
        self._answer = b""
        self._running = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        request = self._load.request()
        self._running = request is not None
        if request is None:
            self._transport.close()
            return
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Send the next request after a whole answer."""
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return
        _, named, length = head.lower().partition(b"content-length:")
        if named and len(body) < int(length.split()[0]):
            return
        self._answer = b""
        if head.startswith(b"HTTP/1.1 204 "):
            self._load.latencies.append(time.perf_counter() - self._began)
        else:
            self._load.failed += 1
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a request without an answer."""
        self._load.failed += self._running
        self._load.end_connection()


async def _run(options: argparse.Namespace) -> dict[str, float]:
    load = Load([bytes.fromhex(line) for line in options.requests.read_text().split()], options.parallel)
    loop = asyncio.get_running_loop()
    started, processor = time.perf_counter(), time.process_time()
    for _ in range(options.parallel):
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", options.port)
    await asyncio.wait_for(load.over.wait(), 60)
    seconds, used = time.perf_counter() - started, time.process_time() - processor
    times = sorted(load.latencies)
    at = [times[min(len(times) - 1, int(len(times) * part))] * 1000 if times else 0.0 for part in (0.5, 0.99)]
    return {
        "calls": len(times), "failed": load.failed, "rate": len(times) / seconds, "p50_ms": at[0], "p99_ms": at[1],
        "generator_cpu": used / seconds,
    }  # fmt: skip


def main() -> None:
    """Run as told by the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True, help="a file with a request in hexadecimal in each line")
    parser.add_argument("--parallel", type=int, default=64)
    json.dump(uvloop.run(_run(parser.parse_args())), sys.stdout)


if __name__ == "__main__":
    main()
