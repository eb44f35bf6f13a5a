"""Races between processes on one database: whoever wins, the books are exact, and each thing happens once.

A round is repeated more often with FAULTS=all (`make faults`).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from paycenter_server.channels.protocol import CallbackRequest
from paycenter_server.domain.orders import PayOrder
from paycenter_server.services.callbacks import UNAVAILABLE
from support.system import PayCenterSystem
from support.waiting import eventually, pause

PROCESSES = 4
ROUNDS = 20 if os.environ.get("FAULTS") == "all" else 2
SCRIPT = Path(__file__).with_name("racer.py")
Call = list[Any]


class Racers:
    """The processes."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    async def race(self, calls: Sequence[Sequence[Call]]) -> list[str]:
        """Each process makes its calls, all at the same time. The results of all."""
        for process, own in zip(self._processes, calls, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(own).encode() + b"\n")
        results: list[str] = []
        for process in self._processes:
            assert process.stdout is not None
            line = await process.stdout.readline()
            assert line, "a process has ended"
            results += json.loads(line)
        return results

    async def everywhere(self, call: Call, times: int) -> list[str]:
        """Every process makes this call so many times."""
        return await self.race([[call] * times] * len(self._processes))


@pytest.fixture
async def racers(system: PayCenterSystem, master_key_file: Path) -> AsyncIterator[Racers]:
    environment = {
        **os.environ,
        "PAYCENTER_MODE": "development",
        "PAYCENTER_DATABASE_URL": system.database_url,
        "PAYCENTER_MASTER_KEY_FILE": str(master_key_file),
        "PAYCENTER_ORDER_CALLBACK_URL": system.settings.order_callback_url,
        "PAYCENTER_REFUND_CALLBACK_URL": system.settings.refund_callback_url,
        "PAYCENTER_NOTIFICATION_ALLOWED_NETWORKS": "127.0.0.0/8",
        "PAYCENTER_DATABASE_POOL": "4",
    }
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, str(SCRIPT), env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(PROCESSES)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        yield Racers(processes)
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        await asyncio.gather(*(process.wait() for process in processes))


async def paid_unheard(system: PayCenterSystem, code: str) -> tuple[PayOrder, Call]:
    """A paid order, and its callback, which no process has received yet."""
    caught: list[CallbackRequest] = []
    receive = system.services.callbacks.receive

    async def catch(channel_number: str, request: CallbackRequest) -> Any:
        caught.append(request)
        return UNAVAILABLE

    order = await system.order()
    attempt = await system.submit(order, code)
    system.services.callbacks.receive = catch  # type: ignore[method-assign]
    await system.simulator.pay(attempt.out_trade_no)
    await eventually(lambda: caught)
    system.services.callbacks.receive = receive  # type: ignore[method-assign]
    body = base64.b64encode(caught[0].body).decode()
    return order, ["callback", system.channels[code], dict(caught[0].headers), body]


async def make_expired(system: PayCenterSystem, order: PayOrder) -> None:
    """Order and attempt have expired, and are due."""
    await system.rows(
        "UPDATE pay_order SET expire_time = now() - interval '1 s', next_check_time = now() - interval '1 s' WHERE id = $1",
        order.id,
    )
    await system.rows(
        """UPDATE pay_attempt SET expire_time = now() - interval '1 s', next_check_time = now() - interval '1 s',
             create_time = create_time - interval '10 min' WHERE order_id = $1""",
        order.id,
    )


async def told(system: PayCenterSystem, order: PayOrder) -> list[str]:
    rows = await system.rows("SELECT event FROM pay_notify_task WHERE data_id = $1 AND state <> 'SUPERSEDED'", order.id)
    return [row["event"] for row in rows]


async def happened(system: PayCenterSystem, order: PayOrder, event: str) -> int:
    """How many times the order or its attempts had this event."""
    return int(await system.value("SELECT count(*) FROM pay_event WHERE order_id = $1 AND event = $2", order.id, event))


async def test_one_merchant_order_id_is_created_100_times(system: PayCenterSystem, racers: Racers) -> None:
    for number in range(ROUNDS):
        results = await racers.everywhere(["create", f"race-{number}"], 100 // PROCESSES)
        assert len(set(results)) == 1
        assert results[0].startswith("O")
        assert await system.value("SELECT count(*) FROM pay_order WHERE merchant_order_id = $1", f"race-{number}") == 1
        order = await system.value("SELECT id FROM pay_order WHERE merchant_order_id = $1", f"race-{number}")
        assert await system.value("SELECT count(*) FROM pay_event WHERE order_id = $1", order) == 1


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_one_callback_is_delivered_100_times(system: PayCenterSystem, racers: Racers, code: str) -> None:
    for _ in range(ROUNDS):
        order, callback = await paid_unheard(system, code)
        results = Counter(await racers.everywhere(callback, 100 // PROCESSES))
        assert set(results) <= {"200", "204"}, results
        after = await system.read(order)
        assert (after.state.value, after.paid_amount, after.version) == ("SUCCESS", 100, 1)
        assert await told(system, order) == ["pay_order.success"]
        assert await happened(system, order, "paid") == 1
    assert await system.cases() == []


async def test_callbacks_of_many_orders_reach_every_process(system: PayCenterSystem, racers: Racers) -> None:
    """The statements of each process are about the same payments, in another order, while orders are closed and queried."""
    for step in range(ROUNDS):
        heard = [await paid_unheard(system, "wx_native" if number % 2 else "alipay_qr") for number in range(12)]
        callbacks = [callback for _, callback in heard]
        for order, _ in heard[:4]:
            await make_expired(system, order)
        chosen = random.Random(step)
        closes: list[Call] = [["close", order.number] for order, _ in heard[2:6]]
        more = [closes, [["job", "sync_orders"]], [["job", "expire_orders"]], []]
        results = await racers.race([chosen.sample(callbacks, 12) + own for own in more])
        expected = {"200", "204", "done", "ORDER_PAID", "ORDER_CHANGED", "CHANNEL_UNCLEAR"}
        assert set(results) <= expected, results
        for order, _ in heard:
            after = await system.read(order)
            assert (after.state.value, after.paid_amount, after.version) == ("SUCCESS", 100, 1)
            assert await told(system, order) == ["pay_order.success"]
            assert await happened(system, order, "paid") == 1
    assert await system.cases() == []


@pytest.mark.parametrize("paid", [True, False])
async def test_callback_sync_expire_and_close_at_once(system: PayCenterSystem, racers: Racers, paid: bool) -> None:
    for _ in range(ROUNDS):
        if paid:
            order, callback = await paid_unheard(system, "wx_native")
        else:
            order, callback = await system.order(), ["job", "sync_orders"]
            await system.submit(order)
        await make_expired(system, order)
        results = await racers.race(
            [[callback] * 5, [["job", "sync_orders"]] * 2, [["job", "expire_orders"]] * 2, [["close", order.number]] * 3]
        )
        assert set(results) <= {"204", "done", "ORDER_PAID", "CLOSED", "ORDER_CHANGED", "CHANNEL_UNCLEAR"}, results
        after = await system.read(order)
        assert after.state.value == ("SUCCESS" if paid else "CLOSED"), results
        assert (after.paid_amount, after.version) == (100 if paid else 0, 1)
        assert await told(system, order) == ["pay_order.success" if paid else "pay_order.closed"]
    assert await system.cases() == []


async def test_one_refund_is_created_100_times(system: PayCenterSystem, racers: Racers) -> None:
    for number in range(ROUNDS):
        order = await system.paid("wx_native")
        results = await racers.everywhere(["refund", order.merchant_order_id, f"race-{number}"], 100 // PROCESSES)
        assert len(set(results)) == 1, Counter(results)
        (refund,) = await system.rows("SELECT * FROM pay_refund WHERE order_id = $1", order.id)

        async def decided(order: PayOrder = order, key: Any = refund["id"]) -> bool:
            await system.rows("UPDATE pay_refund SET next_check_time = now() WHERE id = $1 AND state = 'WAITING'", key)
            await racers.everywhere(["job", "sync_refunds"], 1)
            return (await system.read(order)).refunded_amount == 30

        await eventually(decided)
        trade = await system.simulator.get(f"/simulator/trades/{await out_trade_no(system, order)}")
        assert [item["amount"] for item in trade["refunds"]] == [30]
        assert (await system.read(order)).reserved_amount == 0
    assert await system.cases() == []


async def out_trade_no(system: PayCenterSystem, order: PayOrder) -> str:
    (attempt,) = await system.services.orders.attempts(order)
    return attempt.out_trade_no


async def test_price_update_against_callback(system: PayCenterSystem, racers: Racers) -> None:
    """The payer pays while the price is changed: the order is paid at the old price, or cannot be paid at it any more."""
    ends = Counter[str]()
    for step in range(3 * ROUNDS):
        order = await system.order()
        attempt = await system.submit(order)

        async def pay(number: str = attempt.out_trade_no, seconds: float = 0.02 * (step % 6)) -> bool:
            await pause(seconds)
            try:
                await system.simulator.pay(number)
            except AssertionError:
                return False  # closed at the channel
            return True

        prices: list[Call] = [["price", order.number, 80]]
        paid, _ = await asyncio.gather(pay(), racers.race([prices * 2] * PROCESSES))
        if paid:
            await system.until(order, "SUCCESS")
        after = await system.read(order)
        assert (after.state.value, after.amount, after.paid_amount) in (("SUCCESS", 100, 100), ("WAITING", 80, 0))
        assert paid == (after.state.value == "SUCCESS")
        ends[after.state.value] += 1
    print(f"price against callback: {dict(ends)}")
    assert await system.cases() == []


async def test_workers_on_the_same_notifications(system: PayCenterSystem, racers: Racers) -> None:
    received: Counter[str] = Counter()

    async def receive(request: web.Request) -> web.Response:
        received[request.headers["webhook-id"]] += 1
        return web.Response()

    application = web.Application()
    application.router.add_post("/", receive)
    async with TestServer(application) as receiver:
        for _ in range(ROUNDS):
            for _ in range(20):
                await system.submit(await system.order(notification_url=str(receiver.make_url("/"))), "mock")
            await racers.everywhere(["deliver"], 3)
    assert await system.value("SELECT count(*) FROM pay_notify_task WHERE state = 'SUCCESS'") == 20 * ROUNDS
    assert set(received.values()) == {1}
    assert len(received) == 20 * ROUNDS
    assert await system.value("SELECT count(*) FROM pay_notify_log") == 20 * ROUNDS
