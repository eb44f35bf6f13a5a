"""A load generator for unary gRPC calls: HTTP/2 frames over plain TCP. It costs a few microseconds a call, unlike a Python client.

Each call is checked: only a call that succeeds has a message in its answer (gRPC over HTTP/2, "Responses"), so an answer without
one counts as failed. It is a process of its own and prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import struct
import sys
import time
from pathlib import Path
from typing import cast

import uvloop

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_LARGEST_WINDOW = (1 << 31) - 1
_MAX_CONCURRENT_STREAMS = 3
# As the server asks of those whose call it has refused (grpc-retry-pushback-ms).
_PUSHBACK_SECONDS = 0.2


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _text(value: str) -> bytes:
    raw = value.encode()
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    rest, more = len(raw) - 127, b""
    while rest >= 128:
        more += bytes((rest % 128 + 128,))
        rest //= 128
    return b"\x7f" + more + bytes((rest,)) + raw


def header_block(authority: str, path: str, authorization: str) -> bytes:
    """The HPACK block of every call: indexed names, literal values that are not added to the table (RFC 7541, 6.2.2)."""
    block = b"\x83\x86" + b"\x04" + _text(path) + b"\x01" + _text(authority) + b"\x0f\x10" + _text("application/grpc")
    block += b"\x00" + _text("te") + _text("trailers")
    return block + (b"\x0f\x08" + _text(authorization) if authorization else b"")


class Connection(asyncio.Protocol):
    """One connection with a fixed number of calls at the same time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = bytearray()
        self._next_stream = 1
        self._open: dict[int, tuple[float, bool]] = {}
        self._window = 65_535
        self._waiting = 0
        self._most = 1 << 31

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface, and begin the calls."""
        self._transport = cast(asyncio.Transport, transport)
        settings = struct.pack(">HI", 4, _LARGEST_WINDOW)
        self._transport.write(_PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW, 0, 0, struct.pack(">I", 1 << 30)))
        self.begin(self._load.each)

    def begin(self, count: int) -> None:
        """Begin so many calls."""
        if self._load.over:
            return
        self._transport.write(b"".join(self._call() for _ in range(count)))

    def connection_lost(self, error: Exception | None) -> None:
        """Calls that have no answer have failed."""
        self._load.failed += len(self._open)
        self._load.lost.set()

    def _call(self) -> bytes:
        message = self._load.message()
        if message is None:
            if not self._open:
                self._load.end_connection()
            return b""
        if len(self._open) >= self._most:
            self._load.held_back += 1
            return b""
        size = len(message) + 5
        if self._window < size:
            self._waiting += 1
            return b""
        self._window -= size
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._open[stream] = (time.perf_counter(), False)
        return frame(_HEADERS, _END_HEADERS, stream, self._load.headers) + frame(
            _DATA, _END_STREAM, stream, b"\0" + struct.pack(">I", len(message)) + message
        )

    def data_received(self, data: bytes) -> None:
        """Read whole frames; begin a call for each that has ended."""
        buffer = self._buffer
        buffer += data
        at, out = 0, []
        while len(buffer) - at >= 9:
            length = int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) - at < 9 + length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            payload = bytes(buffer[at + 9 : at + 9 + length]) if kind in (_PING, _WINDOW, _SETTINGS) else b""
            at += 9 + length
            out.append(self._frame(kind, flags, stream, length, payload))
        del buffer[:at]
        self._transport.write(b"".join(out))

    def _frame(self, kind: int, flags: int, stream: int, length: int, payload: bytes) -> bytes:
        if kind == _DATA:
            if length and stream in self._open:
                self._open[stream] = (self._open[stream][0], True)
            return b""
        if (kind == _HEADERS and flags & _END_STREAM) or kind == _RESET:
            started, answered = self._open.pop(stream, (0.0, False))
            succeeded = answered and kind == _HEADERS
            self._load.ended(started, succeeded)
            if self._load.over or self._load.open_loop:
                return b""
            if succeeded:
                return self._call()
            asyncio.get_running_loop().call_later(_PUSHBACK_SECONDS, self.begin, 1)
            return b""
        if kind == _WINDOW and stream == 0:
            self._window += int.from_bytes(payload, "big")
            waiting, self._waiting = self._waiting, 0
            return b"".join(self._call() for _ in range(waiting))
        if kind == _SETTINGS and not flags & _ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                self._most = value if name == _MAX_CONCURRENT_STREAMS else self._most
            return frame(_SETTINGS, _ACK, 0, b"")
        if kind == _PING and not flags & _ACK:
            return frame(_PING, _ACK, 0, payload)
        if kind == _GOAWAY:
            self._load.lost.set()
        return b""


class Load:
    """The calls of one run. `marker`: the bytes of the message that a number of the same length takes the place of in each call.

    `each`: the calls of a connection at the same time; 0 if calls are begun at a rate, whether others have ended or not.
    """

    def __init__(
        self, headers: bytes, message: bytes, marker: bytes, first: int, each: int, messages: list[bytes], span: int
    ) -> None:
        self.headers, self.each, self.open_loop = headers, each, each == 0
        self._messages = iter(messages)
        self._listed = bool(messages)
        before, found, after = message.partition(marker) if marker else (message, b"", b"")
        self._before, self._digits, self._after = before, len(found), after
        self._first, self._count, self._span = first, 0, span
        self.latencies: list[float] = []
        self.failed = 0
        self.held_back = 0
        self.over = False
        self.lost = asyncio.Event()
        self.connections = 0

    def message(self) -> bytes | None:
        """The message of the next call; None if there is no other."""
        if self._listed:
            return next(self._messages, None)
        if not self._digits:
            return self._before
        self._count += 1
        number = self._first + (1 + self._count % self._span if self._span else self._count)
        return self._before + str(number).zfill(self._digits).encode() + self._after

    def end_connection(self) -> None:
        """A connection has nothing left to do. The last one ends the run."""
        self.connections -= 1
        if self.connections <= 0:
            self.lost.set()

    def ended(self, started: float, succeeded: bool) -> None:
        """Count a call that began at `started`."""
        if self.over:
            return
        if succeeded:
            self.latencies.append(time.perf_counter() - started)
        else:
            self.failed += 1


async def _at_rate(load: Load, connections: list[Connection], rate: float, seconds: float) -> None:
    """Begin calls at a rate, on the connections in turn, every millisecond those that are due."""
    started, begun = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds and not load.lost.is_set():
        due = int(passed * rate) - begun
        for at, connection in enumerate(connections):
            connection.begin((due + at) // len(connections))
        begun += due
        await asyncio.sleep(0.001)


async def _run(options: argparse.Namespace) -> dict[str, float]:
    host, _, port = options.target.rpartition(":")
    headers = header_block(options.target, options.path, options.authorization)
    messages = [bytes.fromhex(line) for line in options.messages.read_text().split()] if options.messages else []
    each = 0 if options.rate else max(1, options.parallel // options.connections)
    load = Load(headers, bytes.fromhex(options.message), options.marker.encode(), options.first, each, messages, options.span)
    load.connections = options.connections
    loop = asyncio.get_running_loop()
    started, processor = time.perf_counter(), time.process_time()
    tls = None
    if options.tls:
        tls = ssl.create_default_context(cafile=options.tls)
        tls.set_alpn_protocols(["h2"])
    connections = [
        (await loop.create_connection(lambda: Connection(load), host, int(port), ssl=tls))[1] for _ in range(options.connections)
    ]
    if options.rate:
        await _at_rate(load, connections, options.rate, options.seconds)
    else:
        try:
            await asyncio.wait_for(load.lost.wait(), options.seconds)
        except TimeoutError:
            pass
    load.over = True
    seconds, used = time.perf_counter() - started, time.process_time() - processor
    times = sorted(load.latencies)
    at = [times[min(len(times) - 1, int(len(times) * part))] * 1000 if times else 0.0 for part in (0.5, 0.99)]
    return {
        "calls": len(times), "failed": load.failed, "held_back": load.held_back, "seconds": seconds, "rate": len(times) / seconds,
        "p50_ms": at[0], "p99_ms": at[1],
        "generator_cpu": used / seconds,
    }  # fmt: skip


def main() -> None:
    """Run as told by the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--authorization", default="")
    parser.add_argument("--message", default="", help="the request in hexadecimal")
    parser.add_argument("--messages", type=Path, help="a file with a request in each line, each for one call")
    parser.add_argument("--marker", default="")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--span", type=int, default=0, help="how many numbers are used again and again; 0: each once")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--parallel", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.0, help="calls to begin in a second, instead of --parallel")
    parser.add_argument("--tls", default="", help="a PEM file with the certificate that the server must have")
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    json.dump(uvloop.run(_run(options)), sys.stdout)


if __name__ == "__main__":
    main()
