"""Whole payments: by the mock channel, at WeChat Pay with a callback, and by the second subject."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from callbacks import CallbackSubjects
from fixtures import open_attempts, order_numbers
from paid_orders import callback, http_request
from paycenter.v1 import pay_order_service_pb2 as orders
from processes import HERE, Processes, cpu_seconds
from subjects import SERVICE, Benchmark, Measured

PAID, PAID_AT_WECHAT, PAID_BY_ORM = 500, 300, 250


class WholePayments:
    """Payments from the create to the notification: how many a second over their parts, which follow each other, and the processor
    time of all processes for one. The starts of the load generator between the parts are not counted."""

    def __init__(self, made: Processes, benchmark: Benchmark, callbacks: CallbackSubjects) -> None:
        self._made = made
        self._benchmark = benchmark
        self._callbacks = callbacks

    def whole_payments(self) -> None:
        """Create, submit and notification, by the mock channel, which pays at once. Then create, submit at WeChat Pay Native,
        callback and notification; the simulator and the signatures of the callbacks are not counted."""
        (worker,) = self._benchmark.workers(1)
        pids = {**self._benchmark.pids, "worker": worker.pid}
        self._whole("whole payment", self._benchmark.target, pids, PAID)
        self._callbacks.prepared()
        pids["sidecar"] = self._callbacks.sidecar[1]
        self._whole("whole payment, WeChat", self._benchmark.target, pids, PAID_AT_WECHAT, "wx_native")
        worker.terminate()
        worker.wait(20)

    def whole_payments_by_orm(self) -> None:
        """The first of them by the second subject (`orm.py`): SQLAlchemy's ORM, one commit a step."""
        database = self._made.urls.database_url
        server, port = self._made.with_port(str(HERE / "orm.py"), "serve", database)
        worker, _ = self._made.with_port(str(HERE / "orm.py"), "deliver", database, f"{self._benchmark.receiver_url}/notify")
        target, pids = f"127.0.0.1:{port}", {**self._benchmark.pids, "server": server.pid, "worker": worker.pid}
        # The server has just started, so some payments are made before those that are measured.
        self._pay("warm, ORM", target, {}, 100)
        for part in ("create", "submit"):
            del self._benchmark.found[f"warm, ORM: {part}"]
        self._whole("whole payment, ORM", target, pids, PAID_BY_ORM)
        for process in (worker, server):
            process.terminate()
            process.wait(20)

    def _whole(self, name: str, target: str, pids: dict[str, int], count: int, channel: str = "mock") -> None:
        before = {key: cpu_seconds(pid) for key, pid in pids.items()}
        seconds = self._pay(name, target, pids, count, channel)
        measured = self._benchmark.found.setdefault(name, Measured())
        measured.rates.append(count / seconds)
        used = {key: (cpu_seconds(pid) - before[key]) / count * 1e6 for key, pid in pids.items()}
        for key, value in {**used, "all": sum(used.values())}.items():
            measured.cpu.setdefault(key, []).append(value)

    def _pay(self, name: str, target: str, pids: dict[str, int], count: int, channel: str = "mock") -> float:
        """Make payments, whose parts are measured too. The seconds that they took until the last notification."""
        prefix, benchmark = f"w{time.monotonic_ns()}-", self._benchmark
        creates = [
            orders.CreatePayOrderRequest(merchant_order_id=f"{prefix}{number}", subject="Tea", amount=1990, user_ip="203.0.113.7")
            for number in range(count)
        ]
        received = benchmark.received()
        benchmark.listed(f"{name}: create", SERVICE + "CreatePayOrder", creates, target, pids)
        ids = asyncio.run(order_numbers(self._made, prefix, "orm_order" if "ORM" in name else "pay_order"))
        submits = [orders.SubmitPayOrderRequest(id=number, channel_code=channel) for number in ids]
        benchmark.listed(f"{name}: submit", SERVICE + "SubmitPayOrder", submits, target, pids)
        parts = ["create", "submit"]
        if channel != "mock":
            parts.append("callback")
            port, _ = self._callbacks.sidecar
            self._callbacks.send(f"{name}: callback", port, pids, self._paid_callbacks(prefix), 64)
        started = time.monotonic()
        benchmark.wait_received(received + count, every=0.005)
        return time.monotonic() - started + sum(count / benchmark.found[f"{name}: {part}"].rates[-1] for part in parts)

    def _paid_callbacks(self, prefix: str) -> list[Any]:
        """The callbacks about payments of the attempts of these orders."""
        wechat = self._callbacks.prepared()
        return [
            http_request(wechat, *callback(wechat, out_trade_no)) for out_trade_no in asyncio.run(open_attempts(self._made, prefix))
        ]
