"""The crash matrix: a process is ended with SIGKILL at each await of each operation. Another one finishes the work exactly once.

The kill points are found by running: `killed_process.py` steps every task of the process and ends it at its n-th suspension.
`test_every_await_is_a_kill_point` compares them with the source, so a new await without a kill point fails.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from faults.deployment.books import Report, compare_books
from faults.kill_points import KillPoint, static_points
from integration.test_bar_codes import KINDS, PointOfSale, make_point_of_sale
from paycenter_server.channels.protocol import CallbackRequest
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.ids import RANDOM_BITS, uuid7
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.schedule import STALE_AFTER
from paycenter_server.domain.states import OrderState
from paycenter_server.services.callbacks import UNAVAILABLE
from paycenter_server.services.notifications_delivery import LEASE, DeliveryResponse
from support.system import OPERATOR, PayCenterSystem, free_port
from support.waiting import eventually

# Every suspension with FAULTS=all (`make faults`); each seventh one otherwise, which is prime to what repeats in an operation.
STEP = 1 if os.environ.get("FAULTS") == "all" else 7
NEVER = 100_000


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


async def _create(system: PayCenterSystem) -> Prepared:
    new = system.new_order(app_key="shop")
    arguments = [new.merchant_order_id, new.expire_time.isoformat() if new.expire_time else ""]
    order = None

    async def repeat() -> None:
        nonlocal order
        made = await system.services.orders.create(OPERATOR, new)
        prepared.order = made

    prepared = Prepared(order, "create", arguments, repeat, {("WAITING", 0, 0)})  # type: ignore[arg-type]
    return prepared


async def _submit_again(system: PayCenterSystem, order: PayOrder, code: str, **extras: str) -> Any:
    """The attempt, after as many repetitions as it takes; None if the order is paid already."""

    async def submitted() -> Any:
        try:
            return await system.submit(order, code, **extras)
        except PayCenterError as error:
            return "paid" if error.reason is Reason.ORDER_PAID else None

    attempt = await eventually(submitted)
    return None if attempt == "paid" else attempt


def _submit(code: str, **extras: str) -> Callable[[PayCenterSystem], Awaitable[Prepared]]:
    async def prepare(system: PayCenterSystem) -> Prepared:
        order = await system.order()

        async def repeat() -> None:
            attempt = await _submit_again(system, order, code, **extras)
            count = await system.value("SELECT count(*) FROM pay_attempt WHERE order_id = $1", order.id)
            assert count == 1, "a second attempt"
            if attempt is not None and code != "mock":
                await system.simulator.pay(attempt.out_trade_no)
                await system.until(order, "SUCCESS")

        return Prepared(order, "submit", [order.number, code, extras], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"})

    return prepare


async def _submit_elsewhere(system: PayCenterSystem) -> Prepared:
    """The payer chooses another way to pay: the first attempt is closed at its channel."""
    order = await system.order()
    await system.submit(order, "wx_native")

    async def repeat() -> None:
        attempt = await system.submit(order, "alipay_qr")
        await system.simulator.pay(attempt.out_trade_no)
        await system.until(order, "SUCCESS")

    return Prepared(order, "submit", [order.number, "alipay_qr", {}], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"})


async def _submit_unclear(system: PayCenterSystem) -> Prepared:
    """The answer of the submit is lost, so the channel is queried."""
    order = await system.order()
    await system.simulator.fault("wx.native", "reset", times=1)

    async def repeat() -> None:
        attempt = await _submit_again(system, order, "wx_native")
        await system.simulator.pay(attempt.out_trade_no)
        await system.until(order, "SUCCESS")

    return Prepared(order, "submit", [order.number, "wx_native", {}], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"})


async def _submit_refused(system: PayCenterSystem) -> Prepared:
    order = await system.order()
    await system.simulator.fault("wx.native", "decline", code="NO_AUTH", times=2)

    async def repeat() -> None:
        with suppress(PayCenterError):
            await system.submit(order)
        await system.services.orders.close(OPERATOR, order.number)

    return Prepared(order, "submit", [order.number, "wx_native", {}], repeat, {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _submit_too_late(system: PayCenterSystem) -> Prepared:
    """The order is closed while the channel accepts the submit: the attempt must not stay payable."""
    order = await system.order()
    await system.simulator.fault("wx.native", "slow", seconds=0.4)

    async def repeat() -> None:
        with suppress(PayCenterError):
            await system.submit(order)
        with suppress(PayCenterError):
            await system.services.orders.close(OPERATOR, order.number)

    return Prepared(
        order, "submit_and_close", [order.number, "wx_native"], repeat, {("CLOSED", 0, 0)}, {"pay_order.closed"}
    )


async def caught_callback(system: PayCenterSystem, number: str, cause: Callable[[], Awaitable[Any]]) -> list[Any]:
    """The next callback of a channel about this trade that `cause` brings about, not stored, as the killed process takes it."""
    caught: list[CallbackRequest] = []
    receive = system.services.callbacks.receive

    async def catch(channel: str, request: CallbackRequest) -> Any:
        caught.append(request)
        return UNAVAILABLE

    system.services.callbacks.receive = catch  # type: ignore[method-assign]
    try:
        await cause()
        await eventually(lambda: caught)
    finally:
        system.services.callbacks.receive = receive  # type: ignore[method-assign]
    request = caught[0]
    return [dict(request.headers), base64.b64encode(request.body).decode(), request.query]


def _callback(code: str) -> Callable[[PayCenterSystem], Awaitable[Prepared]]:
    async def prepare(system: PayCenterSystem) -> Prepared:
        order = await system.order()
        attempt = await system.submit(order, code)
        number = attempt.out_trade_no
        request = await caught_callback(system, number, lambda: system.simulator.pay(number))
        return Prepared(
            order, "callback", [system.channels[code], *request], lambda: _again(system, code, request),
            {("SUCCESS", 100, 0)}, {"pay_order.success"},
        )  # fmt: skip

    return prepare


async def _again(system: PayCenterSystem, code: str, request: list[Any]) -> None:
    """The channel sends the same callback until it is acknowledged."""
    headers, body, query = request
    sent = CallbackRequest(headers, base64.b64decode(body), query)

    async def acknowledged() -> bool:
        answer = await system.services.callbacks.receive(system.channels[code], sent)
        return answer.status < 300

    await eventually(acknowledged)


async def _late_callback(system: PayCenterSystem) -> Prepared:
    """A payment of a closed order: a case, and its refund."""
    order = await system.order()
    attempt = await system.submit(order)
    await system.services.orders.close(OPERATOR, order.number)
    number = attempt.out_trade_no
    request = await caught_callback(system, number, lambda: system.simulator.pay(number, force=True))
    return Prepared(
        order, "callback", [system.channels["wx_native"], *request], lambda: _again(system, "wx_native", request),
        {("CLOSED", 0, 0)}, {"pay_order.closed", "pay_order.surplus_refunded"}, {"LATE_PAYMENT RESOLVED"},
    )  # fmt: skip


def _refund(code: str) -> Callable[[PayCenterSystem], Awaitable[Prepared]]:
    async def prepare(system: PayCenterSystem) -> Prepared:
        order = await system.paid(code)
        number = system.next_id("R")
        return Prepared(
            order, "refund", [order.merchant_order_id, number], lambda: _refund_again(system, order, number),
            {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"},
        )  # fmt: skip

    return prepare


async def _refund_again(system: PayCenterSystem, order: PayOrder, number: str) -> None:
    refund = await system.refund(order, 40, app_key="shop", merchant_refund_no=number)
    await system.decided(refund)


async def _refund_that_failed(system: PayCenterSystem) -> Prepared:
    """The app repeats a refund in state FAILURE: the channel is queried, then the refund is sent under a new number."""
    order = await system.paid("wx_native")
    number = system.next_id("R")
    await system.simulator.fault("wx.refund", "refund_closed")
    failed = await system.decided(await system.refund(order, 40, app_key="shop", merchant_refund_no=number))
    assert failed.state.value == "FAILURE"
    return Prepared(
        order, "refund", [order.merchant_order_id, number], lambda: _refund_again(system, order, number),
        {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"},
    )  # fmt: skip


def _refund_callback(code: str, api: str) -> Callable[[PayCenterSystem], Awaitable[Prepared]]:
    async def prepare(system: PayCenterSystem) -> Prepared:
        order = await system.paid(code)
        refund: list[Any] = []

        async def make() -> None:
            refund.append(await system.refund(order, 40))

        await system.simulator.fault(api, "refund_pending", seconds=1)
        number = (await system.services.orders.attempts(order))[0].out_trade_no

        async def cause() -> None:
            await make()
            await system.simulator.advance(2)

        request = await caught_callback(system, number, cause)
        return Prepared(
            order, "callback", [system.channels[code], *request], lambda: _again(system, code, request),
            {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"},
        )  # fmt: skip

    return prepare


async def _close(system: PayCenterSystem) -> Prepared:
    order = await system.order()
    await system.submit(order)

    async def repeat() -> None:
        await system.services.orders.close(OPERATOR, order.number)

    return Prepared(order, "close", [order.number], repeat, {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _update_price(system: PayCenterSystem) -> Prepared:
    order = await system.order()
    await system.submit(order)

    async def repeat() -> None:
        changed = await system.services.orders.update_price(OPERATOR, order.number, 70)
        attempt = await system.submit(changed)
        await system.simulator.pay(attempt.out_trade_no)
        await system.until(order, "SUCCESS")

    return Prepared(order, "update_price", [order.number, 70], repeat, {("SUCCESS", 70, 0)}, {"pay_order.success"})


async def _paid_without_callback(system: PayCenterSystem) -> PayOrder:
    order = await system.order(expire_time=system.clock.now() + timedelta(seconds=60))
    attempt = await system.submit(order)
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    return order


async def _sync_order(system: PayCenterSystem) -> Prepared:
    order = await _paid_without_callback(system)
    return Prepared(order, "sync_order", [order.number], None, {("SUCCESS", 100, 0)}, {"pay_order.success"})


def _job(name: str) -> Callable[[PayCenterSystem], Awaitable[Prepared]]:
    async def prepare(system: PayCenterSystem) -> Prepared:
        order = await _paid_without_callback(system)
        system.clock.advance(61 if name == "expire_orders" else 40)
        return Prepared(order, "job", [name], None, {("SUCCESS", 100, 0)}, {"pay_order.success"})

    return prepare


async def _expire_unpaid(system: PayCenterSystem) -> Prepared:
    order = await system.order(expire_time=system.clock.now() + timedelta(seconds=60))
    await system.submit(order)
    system.clock.advance(61)
    return Prepared(order, "job", ["expire_orders"], None, {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _second_look(system: PayCenterSystem) -> Prepared:
    """A closed attempt that was paid all the same, without a callback: the sync job finds it."""
    order = await system.order()
    attempt = await system.submit(order)
    await system.services.orders.close(OPERATOR, order.number)
    await system.simulator.pay(attempt.out_trade_no, force=True, notify=False)
    await system.rows("UPDATE pay_attempt SET next_check_time = now() - interval '1 s' WHERE order_id = $1", order.id)
    return Prepared(
        order, "job", ["sync_orders"], None, {("CLOSED", 0, 0)}, {"pay_order.closed", "pay_order.surplus_refunded"},
        {"LATE_PAYMENT RESOLVED"},
    )  # fmt: skip


async def _sync_refund(system: PayCenterSystem) -> Prepared:
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "reset_before_commit")
    await system.refund(order, 40)
    system.clock.advance(12)
    return Prepared(order, "job", ["sync_refunds"], None, {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"})


async def _case_refund(system: PayCenterSystem) -> Prepared:
    """The refund of a late payment is sent by the refund sync job."""
    order = await system.order()
    attempt = await system.submit(order)
    await system.services.orders.close(OPERATOR, order.number)
    await system.simulator.pay(attempt.out_trade_no, force=True)
    await eventually(system.cases)
    return Prepared(
        order, "job", ["sync_refunds"], None, {("CLOSED", 0, 0)}, {"pay_order.closed", "pay_order.surplus_refunded"},
        {"LATE_PAYMENT RESOLVED"},
    )  # fmt: skip


async def _notify(system: PayCenterSystem) -> Prepared:
    order = await system.paid("mock")
    return Prepared(order, "notify", [], None, {("SUCCESS", 100, 0)}, {"pay_order.success"})


async def _close_unscanned(system: PayCenterSystem) -> Prepared:
    """Alipay cannot close a QR code that nobody has scanned, so it is closed here and looked at again."""
    order = await system.order()
    await system.submit(order, "alipay_qr")

    async def repeat() -> None:
        await system.services.orders.close(OPERATOR, order.number)

    return Prepared(order, "close", [order.number], repeat, {("CLOSED", 0, 0)}, {"pay_order.closed"})


def _bar_code(fault: str) -> Callable[[PayCenterSystem], Awaitable[Prepared]]:
    async def prepare(system: PayCenterSystem) -> Prepared:
        """The payer is asked for a password, or the answer is lost: the waiting call queries."""
        code, auth_code, api, *_ = KINDS["v2"]
        if code not in system.channels:
            await system.add_channel(code)
        order = await system.order()
        await system.simulator.fault(api, fault, **({"queries": 1} if fault == "user_paying" else {}))

        async def repeat() -> None:
            with suppress(PayCenterError):
                await system.submit(order, code, auth_code=auth_code)

        return Prepared(
            order, "submit", [order.number, code, {"auth_code": auth_code}], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"}
        )

    return prepare


async def _submit_unreachable(system: PayCenterSystem) -> Prepared:
    """Nothing listens at the channel's address, so the request is not sent, and its attempt is closed."""
    order = await system.order()
    if "wx_app" not in system.channels:
        family, config = system.configs["wx_app"]
        system.configs["wx_app"] = family, {**config, "mchid": "1900009191", "gateway_url": f"http://127.0.0.1:{free_port()}"}
        await system.add_channel("wx_app")

    async def repeat() -> None:
        with suppress(PayCenterError):
            await system.submit(order, "wx_app")
        attempt = await _submit_again(system, order, "mock", behaviour="success")
        assert attempt is not None

    return Prepared(order, "submit", [order.number, "wx_app", {}], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"})


async def _sync_unpaid(system: PayCenterSystem) -> Prepared:
    order = await system.order()
    await system.submit(order)
    system.clock.advance(40)
    await system.rows("UPDATE pay_attempt SET next_check_time = now() WHERE order_id = $1", order.id)
    return Prepared(order, "job", ["sync_orders"], lambda: _close_it(system, order), {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _sync_closed_there(system: PayCenterSystem) -> Prepared:
    order = await system.order()
    attempt = await system.submit(order)
    await system.simulator.post(f"/simulator/close/{attempt.out_trade_no}")
    await system.rows("UPDATE pay_attempt SET next_check_time = now() WHERE order_id = $1", order.id)
    return Prepared(order, "job", ["sync_orders"], lambda: _close_it(system, order), {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _sync_expired(code: str, system: PayCenterSystem) -> Prepared:
    """The attempt expires before the expire job has looked at the order."""
    order = await system.order(expire_time=system.clock.now() + timedelta(seconds=60))
    await system.submit(order, code)
    system.clock.advance(61)
    await system.rows("UPDATE pay_attempt SET next_check_time = now() WHERE order_id = $1", order.id)
    return Prepared(order, "job", ["sync_orders"], None, {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _close_it(system: PayCenterSystem, order: PayOrder) -> None:
    await system.services.orders.close(OPERATOR, order.number)


async def _expire_unclear(system: PayCenterSystem) -> Prepared:
    """The channel gives no clear answer about an order that has expired."""
    order = await system.order(expire_time=system.clock.now() + timedelta(seconds=60))
    await system.submit(order)
    await system.simulator.fault("wx.query", "error_before_commit")
    system.clock.advance(61)
    return Prepared(order, "job", ["expire_orders"], None, {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _refund_fails(system: PayCenterSystem) -> Prepared:
    """The channel ends the refund as failed, and the job learns it."""
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "refund_closed")
    await system.refund(order, 40)
    await system.simulator.advance(2)
    system.clock.advance(12)
    return Prepared(order, "job", ["sync_refunds"], None, {("SUCCESS", 100, 0)}, {"pay_order.success", "pay_refund.failure"})


async def _refund_succeeds_late(system: PayCenterSystem) -> Prepared:
    """Failed here, and carried out at the channel: the second look books it."""
    order = await system.paid("wx_native")
    refund = await system.decided(await system.refund(order, 40))
    system.books_are_checked = False
    await system.rows(
        """WITH failed AS (UPDATE pay_refund SET state = 'FAILURE', success_time = NULL, next_check_time = now() WHERE id = $1
             RETURNING order_id)
           UPDATE pay_order o SET state = 'SUCCESS', refunded_amount = 0 FROM failed WHERE o.id = failed.order_id""",
        refund.id,
    )
    return Prepared(order, "job", ["sync_refunds"], None, {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"})


async def _refund_elsewhere(system: PayCenterSystem) -> Prepared:
    """The callback of a refund that was made in the channel's console."""
    order = await system.paid("wx_native")
    number = (await system.services.orders.attempts(order))[0].out_trade_no
    body = {"amount": 40, "notify_url": f"{system.sidecar}/callback/refund/{system.channels['wx_native']}"}
    request = await caught_callback(system, number, lambda: system.simulator.post(f"/simulator/refund/{number}", body))
    return Prepared(
        order, "callback", [system.channels["wx_native"], *request], lambda: _again(system, "wx_native", request),
        {("SUCCESS", 100, 0)}, {"pay_order.success", "pay_case.opened"}, cases={"REFUND_MISMATCH OPEN"}, elsewhere=40,
    )  # fmt: skip


async def _wrong_amount(system: PayCenterSystem) -> Prepared:
    order = await system.order()
    attempt = await system.submit(order)
    number = attempt.out_trade_no
    request = await caught_callback(system, number, lambda: system.simulator.pay(number, amount=77))

    async def repeat() -> None:
        await _again(system, "wx_native", request)
        await _close_it(system, order)

    return Prepared(
        order, "callback", [system.channels["wx_native"], *request], repeat, {("CLOSED", 0, 0)},
        {"pay_order.closed", "pay_order.surplus_refunded"}, {"WRONG_AMOUNT RESOLVED"},
    )  # fmt: skip


async def _stale_refund(system: PayCenterSystem) -> Prepared:
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "reset_before_commit")
    refund = await system.refund(order, 40)
    ago = uuid7(system.clock.now() - STALE_AFTER - timedelta(minutes=1), secrets.randbits(RANDOM_BITS), None)
    await system.rows("UPDATE pay_refund SET out_refund_key = $2, next_check_time = now() WHERE id = $1", refund.id, ago)
    return Prepared(
        order, "job", ["sync_refunds"], None, {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"},
        {"STALE_REFUND OPEN"},
    )  # fmt: skip


async def _give_up(system: PayCenterSystem) -> Prepared:
    """The receiver has gone for good: a case."""
    url = await system.value("SELECT order_notification_url FROM pay_app WHERE app_key = 'shop'")
    order = await system.paid("mock", notification_url=url.replace("/order", "/gone"))

    async def repeat() -> None:
        system.sender.default = DeliveryResponse(410, "gone")
        await system.rows("UPDATE pay_notify_task SET next_notify_time = now() WHERE next_notify_time IS NOT NULL")
        await system.deliver()
        system.sender.default = DeliveryResponse(200, "ok")

    return Prepared(order, "notify", [], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"}, {"NOTIFICATION_GIVEN_UP OPEN"})


def _cancel(kind: str) -> Callable[[PayCenterSystem], Awaitable[Prepared]]:
    async def prepare(system: PayCenterSystem) -> Prepared:
        """Paid at the last moment, and the job's query gives no clear answer: it is booked or refunded, never both."""
        known = KINDS[kind][0] in system.channels
        pos = PointOfSale(system, *KINDS[kind]) if known else await make_point_of_sale(system, kind)
        order = await system.order()
        await system.simulator.fault(pos.api, pos.waits)
        attempt = await pos.scan(order)
        await system.simulator.pay(attempt.out_trade_no, notify=False)
        await system.simulator.fault(pos.query, "error_before_commit", out_trade_no=attempt.out_trade_no)
        system.clock.advance(61)

        async def repeat() -> None:
            await eventually(lambda: _jobs_until_decided(system, attempt))
            await system.rows("UPDATE pay_attempt SET next_check_time = NULL WHERE order_id = $1", order.id)
            with suppress(PayCenterError):
                await system.services.orders.close(OPERATOR, order.number)

        return Prepared(
            order, "job", ["sync_orders"], repeat, {("SUCCESS", 100, 0), ("CLOSED", 0, 0)},
            {"pay_order.success", "pay_order.closed"},
        )  # fmt: skip

    return prepare


async def _jobs_until_decided(system: PayCenterSystem, attempt: Any) -> bool:
    await system.rows("UPDATE pay_attempt SET next_check_time = now() - interval '1 s' WHERE next_check_time IS NOT NULL")
    await system.services.jobs.sync_orders()
    return await system.value("SELECT state FROM pay_attempt WHERE id = $1", attempt.id) in ("SUCCESS", "CLOSED")


SCENARIOS: dict[str, Callable[[PayCenterSystem], Awaitable[Prepared]]] = {
    "create": _create,
    "submit wx_native": _submit("wx_native"),
    "submit alipay_qr": _submit("alipay_qr"),
    "submit mock": _submit("mock", behaviour="success"),
    "submit through another channel": _submit_elsewhere,
    "submit without an answer": _submit_unclear,
    "submit that is refused": _submit_refused,
    "submit of an order that is closed meanwhile": _submit_too_late,
    "callback wx_native": _callback("wx_native"),
    "callback alipay_qr": _callback("alipay_qr"),
    "callback of a late payment": _late_callback,
    "refund wx_native": _refund("wx_native"),
    "refund alipay_qr": _refund("alipay_qr"),
    "refund that failed": _refund_that_failed,
    "refund callback wx_native": _refund_callback("wx_native", "wx.refund"),
    "refund callback alipay_qr": _refund_callback("alipay_qr", "alipay.trade.refund"),
    "close": _close,
    "update price": _update_price,
    "sync by a caller": _sync_order,
    "sync": _job("sync_orders"),
    "expire": _job("expire_orders"),
    "expire unpaid": _expire_unpaid,
    "second look": _second_look,
    "refund sync": _sync_refund,
    "case refund": _case_refund,
    "notify": _notify,
    "close of an unscanned code": _close_unscanned,
    "submit of a bar code": _bar_code("user_paying"),
    "submit of a bar code without an answer": _bar_code("reset"),
    "submit to nobody": _submit_unreachable,
    "sync of an unpaid order": _sync_unpaid,
    "sync of a trade that the channel closed": _sync_closed_there,
    "sync after the expiry": partial(_sync_expired, "wx_native"),
    "sync after the expiry of an unscanned code": partial(_sync_expired, "alipay_qr"),
    "expire without a clear answer": _expire_unclear,
    "refund that fails": _refund_fails,
    "refund that succeeds late": _refund_succeeds_late,
    "refund made elsewhere": _refund_elsewhere,
    "callback of a wrong amount": _wrong_amount,
    "stale refund": _stale_refund,
    "notification that is given up": _give_up,
    "cancel alipay": _cancel("alipay"),
    "cancel v2": _cancel("v2"),
}


class Killer:
    """A process that forks one for each operation, and the receiver of the notifications that those deliver."""

    def __init__(self, process: asyncio.subprocess.Process, system: PayCenterSystem) -> None:
        self._process = process
        self._system = system

    async def perform(self, prepared: Prepared, at: int) -> tuple[bool, set[KillPoint]]:
        """Whether it was killed, and its kill points."""
        command = {
            "operation": prepared.operation, "arguments": prepared.arguments, "at": at,
            "offset": self._system.clock.offset.total_seconds(),
        }  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        answer = json.loads(await asyncio.wait_for(self._process.stdout.readline(), 60))
        assert not answer.get("failed"), f"{prepared.operation} ended with an exception at {at}"
        return answer["killed"], {KillPoint(*point) for point in answer["points"]}


@asynccontextmanager
async def killing(system: PayCenterSystem) -> AsyncIterator[Killer]:
    ours = system.settings
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")},
        **{
            f"PAYCENTER_{name.upper()}": str(getattr(ours, name))
            for name in (
                "mode", "database_url", "redis_url", "master_key_file", "order_callback_url", "refund_callback_url",
                "channel_timeout", "notification_allowed_networks",
            )
        },
    }  # fmt: skip
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
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("killed_process.py")), env=environment, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Killer(process, system)
    finally:
        process.kill()
        await process.wait()
        await receiver.close()


# What is made due: orders only after their expiry.
_DUE = {"pay_attempt": "true", "pay_refund": "state <> 'FAILURE'", "pay_order": "expire_time < now() + interval '61 s'"}


async def finish(system: PayCenterSystem, prepared: Prepared) -> None:
    """Everything that workers do, until nothing of the order is open. Claims of the killed process are due again by their leases."""
    await system.simulator.post("/simulator/faults", [])
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
            """SELECT (SELECT count(*) FROM pay_attempt WHERE order_id = $1 AND state IN ('WAITING', 'UNKNOWN'))
                 + (SELECT count(*) FROM pay_refund WHERE order_id = $1 AND state = 'WAITING')
                 + (SELECT count(*) FROM pay_notify_task WHERE next_notify_time IS NOT NULL)""",
            order.id,
        )
        end = (order.state.value, order.paid_amount, order.refunded_amount)
        return not left and end in prepared.ends

    await eventually(done, 20)


async def check(system: PayCenterSystem, prepared: Prepared, at: int) -> None:
    """The order's end, its cases, what the app was told, and the books of both sides."""
    order = prepared.order
    after = await system.read(order)
    assert (after.state.value, after.paid_amount, after.refunded_amount) in prepared.ends, at
    assert after.reserved_amount == 0, at
    cases = await system.rows("SELECT kind, state FROM pay_case WHERE order_id = $1", order.id)
    assert {f"{case['kind']} {case['state']}" for case in cases} == prepared.cases, at
    tasks = await system.rows(
        """SELECT event, data_version, count(*) AS count FROM pay_notify_task WHERE data_id = $1
             OR data_id IN (SELECT id FROM pay_refund WHERE order_id = $1) GROUP BY data_id, event, data_version""",
        order.id,
    )
    assert all(task["count"] == 1 for task in tasks), at
    told = {task["event"] for task in tasks}
    assert told <= prepared.told | {"pay_refund.failure"}, at
    assert told or after.state is OrderState.WAITING, at
    report = Report()
    await compare_books(report, system.rows, [system.simulator], order.id)
    if prepared.elsewhere:
        assert [found for found in report.doubled if f": {prepared.elsewhere} went back" in found] == report.doubled, at
        report.doubled.clear()
    assert report.good, f"killed at {at}: {report}"


@pytest.mark.parametrize("name", list(SCENARIOS))
@pytest.mark.timeout(600)
async def test_killed_anywhere(system: PayCenterSystem, name: str) -> None:
    at, killed = 1, True
    async with killing(system) as killer:
        while killed:
            prepared = await SCENARIOS[name](system)
            killed, _ = await killer.perform(prepared, at)
            if prepared.repeat is not None:
                await prepared.repeat()
            system.clock.offset = timedelta()
            await finish(system, prepared)
            await check(system, prepared, at)
            at += STEP
    assert at > 2 * STEP, "it was never killed"


# What a kill cannot hurt, by module or by module and function, with the reason.
NOT_MONEY: dict[str, str] = {}


@pytest.mark.timeout(600)
async def test_every_await_is_a_kill_point(system: PayCenterSystem) -> None:
    passed: set[KillPoint] = set()
    async with killing(system) as killer:
        for prepare in SCENARIOS.values():
            prepared = await prepare(system)
            killed, points = await killer.perform(prepared, NEVER)
            assert not killed
            passed |= points
            if prepared.repeat is not None:
                await prepared.repeat()
            system.clock.offset = timedelta()
    missing = [
        point for point in sorted(static_points() - passed)
        if point.module not in NOT_MONEY and f"{point.module} {point.function}" not in NOT_MONEY
    ]  # fmt: skip
    assert not missing, "no operation of this file is killed there:\n" + "\n".join(map(str, missing))
