"""How many round trips to PostgreSQL each operation needs, when it has run before. A change of a number is a change of the cost."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faults.crash.money import caught_callback
from paycenter_server.channels.protocol import CallbackRequest
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.ids import Prefix, decode
from structlog.testing import capture_logs
from support.grpc_rig import key_of
from support.notifications import fill
from support.round_trips import RoundTrips
from support.system import PayCenterSystem, open_system


class Counted:
    """A system behind the proxy."""

    def __init__(self, system: PayCenterSystem, trips: RoundTrips) -> None:
        self.system = system
        self.trips = trips

    async def of(self, work: Callable[[], Awaitable[Any]]) -> int:
        """The round trips of an operation."""
        before = self.trips.count
        await work()
        return self.trips.count - before

    async def least(self, found: dict[str, int], name: str, work: Callable[[], Awaitable[Any]]) -> None:
        """The fewest round trips of an operation so far: on a slow machine what is kept for a second may have to be read again."""
        found[name] = min(found.get(name, 1000), await self.of(work))


@pytest.fixture
async def counted(database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path) -> AsyncIterator[Counted]:
    trips = RoundTrips()
    async with trips.before(database_url) as url, open_system(url, redis_url, keys_dir, master_key_file) as system:
        yield Counted(system, trips)


async def test_orders(counted: Counted) -> None:
    system = counted.system
    orders = system.services.orders
    found: dict[str, int] = {}
    for _ in range(5):  # statements are prepared, and the app is known
        new = system.new_order()
        await counted.least(found, "create", lambda new=new: orders.create(system.caller, new))  # type: ignore[misc]
        await counted.least(found, "create again", lambda new=new: orders.create(system.caller, new))  # type: ignore[misc]

        async def read(new: Any = new) -> None:
            await orders.read(system.caller, merchant_order_id=new.merchant_order_id)

        await counted.least(found, "get", read)
        order = await orders.load_by_merchant_id(system.caller, "", new.merchant_order_id)
        await counted.least(found, "close", lambda order=order: orders.close(system.caller, order.number))  # type: ignore[misc]
    assert found == {"create": 1, "create again": 2, "get": 1, "close": 8}


async def test_orders_at_the_same_time(counted: Counted) -> None:
    """Creates that arrive together share statements, and so do reads."""
    system = counted.system
    orders = system.services.orders
    await orders.create(system.caller, system.new_order())
    new = [system.new_order() for _ in range(50)]

    async def create() -> None:
        await asyncio.gather(*(orders.create(system.caller, one) for one in new))

    async def read() -> None:
        await asyncio.gather(*(orders.read(system.caller, merchant_order_id=one.merchant_order_id) for one in new))

    assert await counted.of(create) <= 4, "the first, the others, and what a slow machine reads again"
    assert await counted.of(read) <= 4


async def test_a_credential_is_checked_once_for_all_that_wait(counted: Counted) -> None:
    """Calls of one credential arrive at the same time when its last check is 5 seconds ago."""
    identity, authorization = counted.system.services.identity, counted.system.secrets["shop:authorization"]
    await identity.authenticate(authorization)

    async def check(times: int) -> None:
        identity.forget(key_of(counted.system)[0])
        await asyncio.gather(*(identity.authenticate(authorization) for _ in range(times)))

    once = await counted.of(lambda: check(1))
    assert await counted.of(lambda: check(50)) == once


async def test_payments(counted: Counted) -> None:
    system = counted.system
    found: dict[str, int] = {}
    for _ in range(5):
        order = await system.order()
        await counted.least(found, "submit mock", lambda order=order: system.submit(order, "mock"))  # type: ignore[misc]
        await counted.least(found, "refund mock", lambda order=order: system.refund(order, 10))  # type: ignore[misc]
        order = await system.order()
        await counted.least(found, "submit", lambda order=order: system.submit(order))  # type: ignore[misc]
        (attempt,) = await system.services.orders.attempts(order)
        number = attempt.out_trade_no
        headers, body, query = await caught_callback(system, number, lambda number=number: system.simulator.pay(number))  # type: ignore[misc]
        request = CallbackRequest(headers, base64.b64decode(body), query)
        receive = partial(system.services.callbacks.receive, system.channels["wx_native"], request)
        await counted.least(found, "callback", receive)
        await counted.least(found, "callback again", receive)
    for _ in range(3):  # behind the others, because callbacks about refunds would come between
        order = await system.paid()
        await counted.least(found, "refund", lambda order=order: system.refund(order, 10))  # type: ignore[misc]
    assert found == {"submit mock": 4, "refund mock": 3, "submit": 3, "callback": 1, "callback again": 4, "refund": 4}


@pytest.mark.parametrize("code", ["wx_native", "mock"])
async def test_submits_at_the_same_time(counted: Counted, code: str) -> None:
    """Submits that arrive together share statements: alone each of them needs 3, or 4 if it is paid at once."""
    system = counted.system
    await system.submit(await system.order(), code)
    orders = [await system.order() for _ in range(50)]

    async def submit() -> None:
        await asyncio.gather(*(system.submit(order, code) for order in orders))

    assert await counted.of(submit) <= 50, "measured: 9 to 16"


async def test_refunds_at_the_same_time(counted: Counted) -> None:
    """Refunds of different orders share statements: alone each of them needs 3, if it succeeds at once."""
    system = counted.system
    orders = [await system.paid("mock") for _ in range(50)]
    await system.refund(orders[0], 10)

    async def refund() -> None:
        await asyncio.gather(*(system.refund(order, 10) for order in orders))

    assert await counted.of(refund) <= 50, "measured: 13 to 15"


async def callbacks_of(system: PayCenterSystem, code: str, count: int) -> list[CallbackRequest]:
    """The callbacks of this many payments, of orders of their own."""
    caught: list[CallbackRequest] = []
    for _ in range(count):
        number = (await system.submit(await system.order(), code)).out_trade_no
        headers, body, query = await caught_callback(system, number, lambda number=number: system.simulator.pay(number))  # type: ignore[misc]
        caught.append(CallbackRequest(headers, base64.b64decode(body), query))
    return caught


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_callbacks_that_arrive_together_share_statements(counted: Counted, code: str) -> None:
    """The first one goes alone, the others share the next one or two."""
    system = counted.system
    receive = partial(system.services.callbacks.receive, system.channels[code])
    requests = await callbacks_of(system, code, 50)
    answers = []

    async def all_at_once() -> None:
        answers.extend(await asyncio.gather(*(receive(request) for request in requests)))

    channel_id = decode(Prefix.CHANNEL, system.channels[code])
    assert channel_id is not None
    await system.services.gateway.channels.all_of(channel_id)  # which is kept for a second
    assert await counted.of(all_at_once) <= 4
    assert {answer.status for answer in answers} <= {200, 204}
    assert await system.value("SELECT count(*) FROM pay_order WHERE state = 'SUCCESS' AND version = 1") == 50
    assert await system.value("SELECT count(*) FROM pay_notify_task") == 50
    assert await system.cases() == []


async def test_callbacks_that_no_account_has_signed_read_nothing(counted: Counted) -> None:
    """What may have changed in another process is read once in a second: anybody may send them."""
    receive, found = counted.system.services.callbacks.receive, dict[str, int]()

    async def refused() -> None:
        for _ in range(10):
            assert (await receive(counted.system.channels["wx_native"], CallbackRequest({}, b"{}", ""))).status == 500

    for _ in range(5):
        await counted.least(found, "10 callbacks", refused)
    assert found["10 callbacks"] == 0


async def test_an_account_whose_keys_cannot_be_read_is_read_once_in_a_second(counted: Counted) -> None:
    """And not for each callback and each row of a job."""
    system, found = counted.system, dict[str, int]()
    await system.rows("UPDATE pay_account SET version = version + 1, config = replace(config::text, '\"v1:', '\"v1:gone')::jsonb")
    channel_id = decode(Prefix.CHANNEL, system.channels["wx_native"])
    assert channel_id is not None

    async def refused() -> None:
        for _ in range(10):
            with pytest.raises(PayCenterError, match="account_unusable"):
                await system.services.gateway.channels.all_of(channel_id)

    with capture_logs() as logs:
        for _ in range(5):
            await counted.least(found, "10 look-ups", refused)
    assert found["10 look-ups"] == 0
    assert 1 <= [line["event"] for line in logs].count("account_unusable") < 25
    await system.rows("UPDATE pay_account SET version = version + 1, config = replace(config::text, '\"v1:gone', '\"v1:')::jsonb")
    system.services.gateway.channels.forget(channel_id)
    assert await system.services.gateway.channels.all_of(channel_id)


async def test_deliveries(counted: Counted) -> None:
    system = counted.system
    found: dict[str, int] = {}
    for _ in range(5):
        await fill(system, "http://merchant.test/n", 60)
        await counted.least(found, "60 deliveries", system.deliver)
    assert found["60 deliveries"] == 3, "the due endpoints, the claim, and the results of 60 deliveries"


async def test_arrays_of_json_are_sent_as_they_are(counted: Counted) -> None:
    """In the text format asyncpg writes them character by character, with each quotation mark escaped."""
    value = {"text": 'a "quoted" 茶\n', "list": [1, None, {"x": True}]}
    async with counted.system.services.context.database.connection() as connection:
        assert await connection.fetchval("SELECT $1::jsonb[]", [value, None]) == [value, None]
        assert json.dumps(value).encode() in counted.trips.arguments
        assert await connection.fetchval("SELECT $1::jsonb", value) == value
