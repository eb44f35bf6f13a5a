"""`process.py`: a process that performs one operation and ends itself with SIGKILL at its n-th suspension.

It reads commands from standard input, one JSON object a line: `operation` (a key of OPERATIONS) with its `arguments`, `at` (the
number of the suspension at which it is killed), `offset` (seconds that its clock is ahead) and `settings` (environment variables).
For each command it forks, because
the start of an interpreter takes longer than the operation. It answers with one JSON line: `killed`, and `points`, the kill
points at which the process was when it ended; or all that it passed if it came to its end.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).parents[2]))

from faults.crash.points import KillPoint, step_all_tasks
from paycenter_server.bootstrap import Services, open_services, read_settings
from paycenter_server.channels.protocol import CallbackRequest, HttpRequest, HttpResponse
from paycenter_server.channels.transport import Transport
from paycenter_server.domain.cases import Decision
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.services.attempts_submission import NewSubmission
from paycenter_server.services.identity import Caller
from paycenter_server.services.orders import NewOrder
from paycenter_server.services.paging import Pager
from paycenter_server.services.refunds import NewRefund
from paycenter_server.storage.events import compare_amounts
from paycenter_server.storage.notifications import NotificationFilter
from paycenter_server.telemetry import configure_logging

CALLER = Caller("killed", None, "")


class _Clock:
    def __init__(self, offset: float) -> None:
        self._offset = timedelta(seconds=offset)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._offset


class _Watched:
    """A transport that tells when a request is being sent."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.sent = asyncio.Event()

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        self.sent.set()
        return await self._transport.send(request, seconds)


async def _create(services: Services, merchant_order_id: str, expire_time: str) -> None:
    new = NewOrder(
        app_key="shop", merchant_order_id=merchant_order_id, subject="一杯咖啡", body="", amount=100, currency="CNY",
        expire_time=datetime.fromisoformat(expire_time), user_ip="203.0.113.9", user_id="", return_url="",
    )  # fmt: skip
    await services.orders.create(CALLER, new)


async def _submit(services: Services, number: str, code: str, extras: dict[str, str]) -> None:
    await services.submission.submit(CALLER, NewSubmission(number, code, extras, "", "", ""))


async def _submit_and_close(services: Services, number: str, code: str) -> None:
    """Submit, and close while the channel has not answered yet."""
    transport = services.context.transport = _Watched(services.context.transport)
    work = asyncio.ensure_future(services.submission.submit(CALLER, NewSubmission(number, code, {}, "", "", "")))
    sent = asyncio.ensure_future(transport.sent.wait())
    await asyncio.wait({work, sent}, return_when=asyncio.FIRST_COMPLETED)
    sent.cancel()
    with contextlib.suppress(PayCenterError):
        await services.orders.close(CALLER, number)
    await work


async def _callback(services: Services, channel: str, headers: dict[str, str], body: str, query: str) -> None:
    await services.callbacks.receive(channel, CallbackRequest(headers, base64.b64decode(body), query))


async def _refund(services: Services, merchant_order_id: str, number: str) -> None:
    await services.refunds.create(CALLER, NewRefund("shop", merchant_order_id, number, 40, "退货"))


async def _refund_of_app(services: Services, app_id: str, merchant_order_id: str, number: str) -> None:
    caller = Caller("app", UUID(app_id), "shop")
    await services.refunds.create(caller, NewRefund("shop", merchant_order_id, number, 40, "退货"))


async def _close(services: Services, number: str) -> None:
    await services.orders.close(CALLER, number)


async def _update_price(services: Services, number: str, amount: int) -> None:
    await services.orders.update_price(CALLER, number, amount)


async def _sync_order(services: Services, number: str) -> None:
    await services.orders.sync(CALLER, number)


async def _job(services: Services, name: str) -> None:
    await getattr(services.jobs, name)()


async def _decide(services: Services, number: str, decision: str) -> None:
    await services.case_decisions.decide(CALLER, number, Decision(decision), "decided in a test")


async def _approve(services: Services, number: str) -> None:
    await services.approval_desk.approve(CALLER, number, "approved in a test")


async def _refuse(services: Services, number: str) -> None:
    await services.approval_desk.refuse(CALLER, number, "refused in a test")


async def _resend(services: Services, number: str) -> None:
    await services.notifications.resend(CALLER, number)


async def _send_now(services: Services, number: str) -> None:
    await services.notifications.send_now(CALLER, number)


async def _resend_matching(services: Services) -> None:
    await services.notifications.resend_matching(CALLER, "", NotificationFilter(), Pager(200, ""), dry_run=False)


async def _books_differ(services: Services) -> None:
    """What the books check does for each difference. The awaits of a generator are not found while it is suspended."""
    async with services.context.database.connection() as connection:
        compared = await compare_amounts(connection, None, 1000)
    for found in compared.differences:
        await services.cases.books_differ(found, "found in a test")


async def _update_channel(services: Services, number: str, family: str, config: dict[str, str]) -> None:
    await services.channels.update(CALLER, number, {}, family, config)


async def _notify(services: Services) -> None:
    await services.delivery.deliver_due()
    await services.delivery.settle()


OPERATIONS: dict[str, Callable[..., Awaitable[None]]] = {
    "create": _create,
    "submit": _submit,
    "submit_and_close": _submit_and_close,
    "callback": _callback,
    "refund": _refund,
    "refund_of_app": _refund_of_app,
    "close": _close,
    "update_price": _update_price,
    "sync_order": _sync_order,
    "job": _job,
    "notify": _notify,
    "decide": _decide,
    "approve": _approve,
    "refuse": _refuse,
    "resend": _resend,
    "send_now": _send_now,
    "resend_matching": _resend_matching,
    "books_differ": _books_differ,
    "update_channel": _update_channel,
}  # fmt: skip


class _Counter:
    """Ends the process at its n-th suspension."""

    def __init__(self, at: int, answer: Callable[[dict[str, Any]], None]) -> None:
        self._at = at
        self._answer = answer
        self.count = 0
        self.passed: set[KillPoint] = set()

    def suspended(self, points: list[KillPoint]) -> None:
        self.count += 1
        self.passed.update(points)
        if self.count == self._at:
            self._answer({"killed": True, "points": [dataclasses.astuple(point) for point in points]})
            os.kill(os.getpid(), signal.SIGKILL)


async def _perform(command: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
    counter = _Counter(command["at"], answer)
    async with open_services(read_settings(), clock=_Clock(command["offset"])) as services:
        step_all_tasks(asyncio.get_running_loop(), counter.suspended)
        work = asyncio.ensure_future(OPERATIONS[command["operation"]](services, *command["arguments"]))
        try:
            await work
        except PayCenterError as error:
            print(f"{command['operation']}: {error}", file=sys.stderr, flush=True)
        await services.context.drain(10)
    answer({"killed": False, "points": [dataclasses.astuple(point) for point in sorted(counter.passed)]})


def _answer(pipe: int, found: dict[str, Any]) -> None:
    os.write(pipe, json.dumps(found).encode())


def main() -> None:
    """Fork for each command until the end of the input."""
    configure_logging("json", "error")
    for line in sys.stdin:
        command = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.environ.update(command["settings"])
            asyncio.run(_perform(command, partial(_answer, writing)))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            found = pipe.read()
        os.waitpid(child, 0)
        print(found.decode() or json.dumps({"failed": True}), flush=True)


if __name__ == "__main__":
    main()
