"""The subject `callback` and its ceilings: payments that WeChat Pay reports to a sidecar."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fixtures import App
from paid_orders import (
    WechatChannel,
    callback,
    http_request,
    make_attempts,
    make_channel,
    proof_microseconds,
    settle_script,
    unpaid,
)
from paycenter_server.channels.protocol import CallbackRequest
from paycenter_server.domain.events import Actor, ActorKind, acting
from paycenter_server.local.ports import free_port
from paycenter_server.services.context import KeyGenerator
from paycenter_server.services.events import callback_cause
from paycenter_server.services.payments_direct import DirectPayments
from paycenter_server.storage.payments_direct import DirectBooking
from processes import HERE, Processes, cpu_seconds, listening
from subjects import Measured, run_pgbench

COUNT = 2000
CLIENTS = 16


class CallbackSubjects:
    """The subjects over the running system. The sidecar is started by the first of them."""

    def __init__(self, made: Processes, app: App, found: dict[str, Measured]) -> None:
        self._made = made
        self._app = app
        self._found = found
        self._channel: WechatChannel | None = None
        self._next = 1

    def prepared(self) -> WechatChannel:
        """The channel, whose account is at a simulator of its own."""
        if self._channel is None:
            folder, port = Path(tempfile.mkdtemp(dir=self._made.folder)), free_port()
            self._channel = asyncio.run(make_channel(self._made, self._app, folder, f"http://127.0.0.1:{port}"))
            self._made.start(["-m", "paycenter_server.cli", "simulator", "--port", str(port), "--keys", str(folder)])
            listening(port)
            self._port = free_port()
            self._sidecar = self._made.paycenter("callback", CALLBACK_ADDRESS=f"127.0.0.1:{self._port}")
            listening(self._port)
            self._bare, self._bare_port = self._made.with_port(str(HERE / "receiver.py"))
        return self._channel

    def _attempts(self, count: int) -> tuple[int, list[Any]]:
        first = self._next
        self._next += count
        return first, asyncio.run(make_attempts(self._made, self.prepared(), first, count))

    def send(self, name: str, port: int, pids: dict[str, int], requests: list[bytes], parallel: int) -> Measured:
        """Send requests, each of which is to be answered 204."""
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("\n".join(request.hex() for request in requests))
            file.flush()
            command = [sys.executable, str(HERE / "http1.py"), "--port", str(port), "--requests", file.name]
            command += ["--parallel", str(parallel)]
            before = {key: cpu_seconds(pid) for key, pid in pids.items()}
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            used = {key: (cpu_seconds(pid) - before[key]) / len(requests) * 1e6 for key, pid in pids.items()}
        measured = self._found.setdefault(name, Measured())
        measured.add(found)
        measured.failed += found["failed"]
        for key, microseconds in used.items():
            measured.cpu.setdefault(key, []).append(microseconds)
        return measured

    def bare_callback(self) -> None:
        """A bare handler with the same requests, and what every callback needs: its proof is added to its processor time."""
        channel = self.prepared()
        _, attempts = self._attempts(1)
        headers, body = callback(channel, attempts[0].out_trade_no)
        request = http_request(channel, headers, body)
        measured = self.send("bare callback", self._bare_port, {"server": self._bare.pid}, [request] * COUNT, 64)
        measured.cpu["server"][-1] += proof_microseconds(channel, headers, body)

    def callback(self) -> None:
        """Callbacks of payments, 64 at the same time."""
        self._callbacks("callback", 64)

    def callback_by_few(self) -> None:
        """The same, as many at the same time as pgbench has clients."""
        self._callbacks("callback, 16", CLIENTS)

    @property
    def sidecar(self) -> tuple[int, int]:
        """The port and the process of the sidecar."""
        return self._port, self._sidecar.pid

    def _callbacks(self, name: str, parallel: int) -> None:
        channel = self.prepared()
        first, attempts = self._attempts(COUNT)
        requests = [http_request(channel, *callback(channel, attempt.out_trade_no)) for attempt in attempts]
        pids = {"server": self._sidecar.pid, "postgres": self._made.postgres_pid}
        measured = self.send(name, self._port, pids, requests, parallel)
        measured.failed += asyncio.run(unpaid(self._made, first, COUNT))

    def pgbench_settle(self) -> None:
        """The statement that books callbacks, with one payment, prepared, by 16 clients of pgbench."""
        channel = self.prepared()
        each = 2 * COUNT // CLIENTS  # more, because each client makes its plans first
        first, attempts = self._attempts((each + 1) * CLIENTS)
        headers, body = callback(channel, attempts[0].out_trade_no)
        booking = booking_of(channel, headers, body)
        arguments = ["--transactions", str(each), "--define", "at=-1", "--define", f"first={first}"]
        run_pgbench(
            self._made, self._found, "pgbench settle", settle_script(channel, booking, CLIENTS), arguments, CLIENTS, each * CLIENTS
        )
        self._found["pgbench settle"].failed += asyncio.run(unpaid(self._made, first, each * CLIENTS))


def booking_of(channel: WechatChannel, headers: dict[str, str], body: bytes) -> DirectBooking:
    """What the sidecar gives to the statement for this callback."""
    request = CallbackRequest({name.lower(): value for name, value in headers.items()}, body)
    now, keys = datetime.now(UTC), KeyGenerator()
    context: Any = SimpleNamespace(now=lambda: now, new_key=lambda now: keys.next(now, 0))
    read = channel.configured.codec.parse_callback(request, now)
    assert read.payment is not None
    assert read.payment.payment is not None
    with acting(Actor(ActorKind.CALLBACK, channel.configured.channel.number)):
        cause = callback_cause(request, read)
    booking = DirectPayments(context).booking(channel.configured, read.payment.payment, cause)
    assert booking is not None
    return booking
