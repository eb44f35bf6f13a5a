"""Orders that are created at the same time share one statement: each caller gets the answer about its own order."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.events import acting
from paycenter_server.domain.orders import PayOrder, new_order
from paycenter_server.services.apps_cache import AppCache
from paycenter_server.services.identity import Caller
from paycenter_server.services.orders import NewOrder
from paycenter_server.services.orders_insert import OrderInserts
from paycenter_server.storage import orders_insert as order_rows
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, OPERATOR, PayCenterSystem
from support.waiting import ended, pause


async def create(system: PayCenterSystem, new: NewOrder, caller: Caller | None = None) -> PayOrder:
    caller = caller or system.caller
    with acting(caller.actor):
        return await system.services.orders.create(caller, new)


async def test_each_caller_gets_its_own_order(system: PayCenterSystem) -> None:
    wanted = [system.new_order() for _ in range(20)]
    repeats = [new for new in wanted for _ in range(3)]
    made = await asyncio.gather(*(create(system, new) for new in repeats))
    assert [order.merchant_order_id for order in made] == [new.merchant_order_id for new in repeats]
    assert len({order.id for order in made}) == 20
    assert await system.value("SELECT count(*) FROM pay_order") == 20


async def test_a_created_order_is_what_is_stored(system: PayCenterSystem) -> None:
    """The statement leaves some columns to their defaults."""
    made = await asyncio.gather(*(create(system, system.new_order(amount=100 + number)) for number in range(5)))
    assert [await system.read(order) for order in made] == made


async def test_other_content_under_the_same_number_is_a_conflict(system: PayCenterSystem) -> None:
    new = system.new_order()
    found = await ended([asyncio.ensure_future(create(system, replace(new, amount=100 + number))) for number in range(10)])
    errors = [error.reason for error in found if isinstance(error, PayCenterError)]
    assert errors == [Reason.ORDER_CONFLICT] * 9


async def test_the_ledger_names_the_caller_of_each_order(system: PayCenterSystem) -> None:
    other = await system.add_app("other", codes=())
    callers = [system.caller, other, OPERATOR]
    orders = [system.new_order(app_key="other" if number % 3 == 1 else "shop") for number in range(12)]
    made = await asyncio.gather(*(create(system, new, callers[number % 3]) for number, new in enumerate(orders)))
    ids = [order.id for order in made]
    rows = await system.rows("SELECT subject_id, actor FROM pay_event WHERE event = 'create' AND order_id = ANY($1)", ids)
    assert {row["subject_id"]: row["actor"] for row in rows} == {
        order.id: callers[number % 3].actor.name for number, order in enumerate(made)
    }


async def test_an_app_whose_row_is_locked_holds_up_its_own_creates_only(system: PayCenterSystem) -> None:
    other = await system.add_app("other", codes=())
    async with transaction(system) as locking:
        await locking.execute("SELECT 1 FROM pay_app WHERE app_key = 'other' FOR UPDATE")
        tasks = [
            asyncio.ensure_future(create(system, system.new_order(app_key=key), other if key == "other" else None))
            for key in ("shop", "shop", "other", "shop", "other")
        ]
        await ended([tasks[0], tasks[1], tasks[3]])
        await waiting_for_lock(system, [tasks[2], tasks[4]])
        assert not (tasks[2].done() or tasks[4].done())
    assert {order.app_key for order in await ended([tasks[2], tasks[4]])} == {"other"}


async def draft(system: PayCenterSystem, merchant_order_id: str) -> PayOrder:
    app = await system.services.identity.app_of(system.caller, "")
    now = system.clock.now()
    return new_order(
        system.services.context.new_key(now), now, app, merchant_order_id=merchant_order_id, subject="Tea", body="", amount=100,
        currency="CNY", expire_time=now, user_ip="127.0.0.1", user_id="", return_url="",
    )  # fmt: skip


async def together(system: PayCenterSystem, orders: list[PayOrder]) -> list[asyncio.Task[Any]]:
    """Insert orders, of which all but the first share a statement."""
    inserts = OrderInserts(system.services.context)
    tasks = [asyncio.ensure_future(inserts.insert(order, CAUSE)) for order in orders]
    await pause(0)
    return tasks


async def test_one_order_that_cannot_be_inserted_does_not_fail_the_others(system: PayCenterSystem) -> None:
    orders = [await draft(system, f"M{number}") for number in range(5)]
    orders[2] = replace(orders[2], amount=-1)
    found = await ended(await together(system, orders))
    assert [type(result).__name__ for result in found] == ["bool", "bool", "CheckViolationError", "bool", "bool"]
    assert await system.value("SELECT count(*) FROM pay_order") == 4
    await system.rows("DELETE FROM pay_order")


async def test_a_caller_that_was_cancelled_gets_no_order(system: PayCenterSystem) -> None:
    tasks = await together(system, [await draft(system, f"M{number}") for number in range(4)])
    tasks[2].cancel()
    await asyncio.wait(tasks)
    made = [row["merchant_order_id"] for row in await system.rows("SELECT merchant_order_id FROM pay_order ORDER BY 1")]
    assert made == ["M0", "M1", "M3"]


async def test_a_batch_is_inserted_in_the_order_of_its_numbers(system: PayCenterSystem) -> None:
    """So that two processes with the same numbers in different orders never wait for each other in a circle."""
    first, second, other = [await draft(system, number) for number in "ABB"]
    async with transaction(system) as held:
        await order_rows.insert_orders(held, [(other, CAUSE)])
        async with system.services.context.database.connection() as connection:
            batch = asyncio.ensure_future(order_rows.insert_orders(connection, [(second, CAUSE), (first, CAUSE)]))
            await waiting_for_lock(system, [batch])
            again = asyncio.ensure_future(create(system, system.new_order(merchant_order_id="A")))
            await waiting_for_lock(system, [batch, again])
            assert not again.done(), "A is not inserted yet, but B is waited for"
    found = await ended([batch, again])
    assert Counter(type(result).__name__ for result in found)["PayCenterError"] == 1


async def test_the_app_of_a_create_is_read_once_a_second_and_after_its_change(system: PayCenterSystem) -> None:
    await create(system, system.new_order())
    await system.services.apps.update(OPERATOR, "shop", {"enabled": False})
    found = await ended([asyncio.ensure_future(create(system, system.new_order()))])
    assert isinstance(found[0], PayCenterError)
    assert found[0].reason is Reason.APP_DISABLED
    await system.services.apps.update(OPERATOR, "shop", {"enabled": True})
    await create(system, system.new_order())


@pytest.mark.parametrize("everything", [False, True])
async def test_what_was_read_before_a_change_is_not_kept(system: PayCenterSystem, everything: bool) -> None:
    """The change is committed while the app is being read."""
    cache = AppCache(system.services.context)
    async with transaction(system) as held:
        await held.execute("LOCK TABLE pay_app IN ACCESS EXCLUSIVE MODE")
        reading = [asyncio.ensure_future(cache.get("shop")) for _ in range(3)]
        await waiting_for_lock(system, reading, 1)
        if everything:
            cache.forget_all()
        else:
            cache.forget("shop")
    await ended(reading)
    await system.rows("UPDATE pay_app SET name = 'changed'")
    found = await cache.get("shop")
    assert found is not None
    assert found.name == "changed"
    assert (await cache.get("shop")) is found


async def test_an_app_that_was_deleted_elsewhere_is_not_found(system: PayCenterSystem) -> None:
    other = await system.add_app("other", codes=())
    new = system.new_order(app_key="other")
    await system.services.identity.app_of(other, "other", cached=True)
    await system.rows("DELETE FROM pay_credential WHERE app_id = $1", other.app_id)
    await system.rows("DELETE FROM pay_app WHERE id = $1", other.app_id)
    found = await ended([asyncio.ensure_future(create(system, new, other))])
    assert isinstance(found[0], PayCenterError)
    assert found[0].reason is Reason.APP_NOT_FOUND
