"""A server that is stopped under load and started again loses no call, and one whose rows are locked goes on with others."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from paycenter import AsyncPayCenter, PayCenterError
from support.grpc_rig import key_of
from support.locks import transaction, waiting_for_lock
from support.server_process import server_process
from support.system import PayCenterSystem, free_port
from support.waiting import eventually


@pytest.mark.parametrize("clients", [1, 8])
async def test_a_restart_under_load_loses_no_call(system: PayCenterSystem, clients: int) -> None:
    """64 callers, over one connection and over eight."""
    address = f"127.0.0.1:{free_port()}"
    errors: Counter[str] = Counter()
    created: list[str] = []
    stopping = asyncio.Event()

    async def caller(pay: AsyncPayCenter, name: str) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            merchant_order_id = f"{name}-{number}"
            try:
                await pay.create_order(merchant_order_id=merchant_order_id, subject="s", amount=1, user_ip="203.0.113.9")
            except PayCenterError as error:
                errors[f"{error.code.name} {error}"[:150]] += 1
            else:
                created.append(merchant_order_id)

    async def progress(count: int) -> None:
        wanted = len(created) + count

        async def reached() -> bool:
            return len(created) >= wanted

        await eventually(reached, 30)

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(server_process(system, "serve", grpc_address=address))
        await first.until_logged("grpc_listening")
        key_id, secret = key_of(system)
        # On a busy machine a process needs some seconds for its start, so the clients repeat a call for longer than by default.
        connections = [
            await stack.enter_async_context(AsyncPayCenter(address, key_id=key_id, key_secret=secret, attempts=5, timeout=30))
            for _ in range(clients)
        ]
        callers = [asyncio.create_task(caller(connections[number % clients], f"c{number}")) for number in range(64)]
        await progress(300)
        stopped = asyncio.get_running_loop().time()
        first.stop()
        await first.wait()
        second = await stack.enter_async_context(server_process(system, "serve", grpc_address=address))
        await second.until_logged("grpc_listening")
        gap = asyncio.get_running_loop().time() - stopped
        await progress(300)
        stopping.set()
        await asyncio.gather(*callers)
    print(f"{len(created)} orders, {errors.total()} callers saw an error after {gap:.1f} s without a server: {dict(errors)}")
    assert not errors
    stored = {row["merchant_order_id"] for row in await system.rows("SELECT merchant_order_id FROM pay_order")}
    assert stored == set(created)
    assert len(created) == len(set(created))


async def test_calls_whose_orders_somebody_has_locked_do_not_hold_up_others(system: PayCenterSystem) -> None:
    """Each takes a connection until its statement gives up; then it has done nothing, and may be repeated."""
    address, order = f"127.0.0.1:{free_port()}", await system.order()
    async with server_process(system, "serve", grpc_address=address, database_pool="1") as server:
        await server.until_logged("grpc_listening")
        key_id, secret = key_of(system)
        async with AsyncPayCenter(address, key_id=key_id, key_secret=secret, attempts=1, timeout=8) as pay:
            await pay.list_channel_codes()
            async with transaction(system) as holder:
                await holder.execute("SELECT id FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
                closing = asyncio.create_task(pay.close_order(order.number))
                await waiting_for_lock(system, [closing])
                await pay.create_order(merchant_order_id="other", subject="s", amount=1, user_ip="203.0.113.9")
                with pytest.raises(PayCenterError) as refused:
                    await closing
                assert refused.value.reason == "DATABASE_CONFLICT"
