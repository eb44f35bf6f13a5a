"""The process that is killed, what it was doing, and how another one finishes and checks it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from faults.crash.points import KillPoint
from faults.deployment.books import Report, compare_books
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import OrderState
from paycenter_server.services.notifications_delivery import LEASE
from support.system import OPERATOR, PayCenterSystem
from support.waiting import eventually

SECONDS = 60.0
"""The longest time of an operation."""


@dataclass
class Prepared:
    """What is killed, and what happens afterwards. `repeat`: the caller or the channel does it again. `state`, `paid`, `refunded`:
    of the order in the end; `known`: several ends are right."""

    order: PayOrder
    operation: str
    arguments: list[Any]
    repeat: Callable[[], Awaitable[Any]] | None
    ends: set[tuple[str, int, int]]
    told: set[str] = field(default_factory=set)
    cases: set[str] = field(default_factory=set)
    elsewhere: int = 0
    """The amount that was refunded at the channel by others."""
    stated: int = 0
    """The amount that went back by an operator's statement, which is not true."""
    unreachable: str = ""
    """The code of a channel that cannot be reached: an attempt whose send was begun stays undecided, and is looked at again."""


class Killer:
    """A process that forks one for each operation. It serves many tests, because its start takes longer than most of them."""

    def __init__(self) -> None:
        self._process = self._started()

    @staticmethod
    def _started() -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")}
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("process.py"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment, start_new_session=True,
        )  # fmt: skip

    async def perform(self, system: PayCenterSystem, prepared: Prepared, at: int) -> tuple[bool, set[KillPoint]]:
        """Whether the operation was killed, and its kill points."""
        command = {
            "operation": prepared.operation, "arguments": prepared.arguments, "at": at, "settings": _settings(system),
            "offset": system.clock.offset.total_seconds(),
        }  # fmt: skip
        asked = asyncio.ensure_future(asyncio.to_thread(self._ask, json.dumps(command)))
        done, _ = await asyncio.wait({asked}, timeout=SECONDS)
        if not done or not asked.result():
            self.end()
            await asked
            self._process = self._started()
            raise AssertionError(f"{prepared.operation} hangs at {at}, or its process has died")
        answer = json.loads(asked.result())
        assert not answer.get("failed"), f"{prepared.operation} ended with an exception at {at}"
        return answer["killed"], {KillPoint(*point) for point in answer["points"]}

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return ""
        return self._process.stdout.readline()

    def end(self) -> None:
        """With what it has forked, which has its standard output."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _settings(system: PayCenterSystem) -> dict[str, str]:
    names = (
        "mode", "database_url", "redis_url", "master_key_file", "order_callback_url", "refund_callback_url", "channel_timeout",
        "notification_allowed_networks",
    )  # fmt: skip
    return {f"PAYCENTER_{name.upper()}": str(getattr(system.settings, name)) for name in names}


@asynccontextmanager
async def receiving(system: PayCenterSystem) -> AsyncIterator[None]:
    """A receiver of the notifications that the operations deliver."""
    app = web.Application()

    async def receive(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=410 if request.path == "/gone" else 200)

    app.router.add_post("/{kind}", receive)
    receiver = TestServer(app)
    await receiver.start_server()
    base = str(receiver.make_url("")).rstrip("/")
    changed = {"order_notification_url": f"{base}/order", "refund_notification_url": f"{base}/refund"}
    await system.services.apps.update(OPERATOR, "shop", changed)
    try:
        yield
    finally:
        await receiver.close()


# What is made due: orders only after their expiry.
_DUE = {"pay_attempt": "true", "pay_refund": "true", "pay_order": "expire_time < now() + interval '61 s'"}


async def finish(system: PayCenterSystem, prepared: Prepared) -> None:
    """Everything that workers do, until nothing of the order is open. What the killed process claimed is due again by its lease."""
    await system.session.delete(f"{system.simulator.base}/simulator/faults")
    await system.simulator.advance(5)

    async def done() -> bool:
        # Each time, not once: the server may commit the claim of the killed process after its socket was closed.
        # The clock goes back to real time: channels refuse signatures that are five minutes off.
        for table, due in _DUE.items():
            own = "id" if table == "pay_order" else "order_id"
            await system.rows(
                f"""UPDATE {table} SET next_check_time = now() - interval '1 s'
                    WHERE next_check_time IS NOT NULL AND ({due}) AND {own} = $1""",
                prepared.order.id,
            )
        system.clock.offset = timedelta(seconds=61)
        for job in ("sync_orders", "expire_orders", "sync_refunds"):
            await getattr(system.services.jobs, job)()
        system.clock.offset = LEASE
        await system.rows("UPDATE pay_notify_task SET next_notify_time = now() WHERE next_notify_time IS NOT NULL")
        await system.deliver()
        system.clock.offset = timedelta()
        order = await system.read(prepared.order)
        left = await system.value(
            """SELECT (SELECT count(*) FROM pay_attempt WHERE order_id = $1 AND state IN ('WAITING', 'UNKNOWN')
                         AND NOT (channel_code = $2 AND next_check_time IS NOT NULL))
                 + (SELECT count(*) FROM pay_refund WHERE order_id = $1 AND state = 'WAITING')
                 + (SELECT count(*) FROM pay_notify_task WHERE next_notify_time IS NOT NULL)""",
            order.id, prepared.unreachable,
        )  # fmt: skip
        end = (order.state.value, order.paid_amount, order.refunded_amount)
        return not left and end in prepared.ends

    await eventually(done, 20)
    await system.simulator.post("/simulator/clock", {"reset": True})


async def check(system: PayCenterSystem, prepared: Prepared, at: int) -> None:
    """The order's end, its cases, what the app was told, and the books of both sides."""
    order = prepared.order
    after = await system.read(order)
    assert (after.state.value, after.paid_amount, after.refunded_amount) in prepared.ends, at
    assert after.reserved_amount == 0, at
    cases = await system.rows("SELECT kind, state FROM pay_case WHERE order_id = $1", order.id)
    assert {f"{case['kind']} {case['state']}" for case in cases} == prepared.cases, (at, cases)
    tasks = await system.rows(
        """SELECT event, data_version, count(*) AS count FROM pay_notify_task WHERE data_id = $1
             OR data_id IN (SELECT id FROM pay_refund WHERE order_id = $1) GROUP BY data_id, event, data_version""",
        order.id,
    )
    assert all(task["count"] == 1 for task in tasks), at
    told = {task["event"] for task in tasks} - {"pay_case.opened", "pay_case.resolved"}
    assert told <= prepared.told | {"pay_refund.failure"}, (at, told)
    assert told or after.state is OrderState.WAITING, at
    report = Report()
    await compare_books(report, system.rows, [system.simulator], order.id)
    if prepared.elsewhere:
        assert [found for found in report.doubled if f": {prepared.elsewhere} went back" in found] == report.doubled, at
        report.doubled.clear()
    if prepared.stated:
        assert [found for found in report.lost if f": {prepared.stated} went back by the books, 0 " in found] == report.lost, at
        report.lost.clear()
    assert report.good, f"killed at {at}: {report}"


Prepare = Callable[[PayCenterSystem], Awaitable[Prepared]]
