"""A till in chaos: callers, jobs, closings and the payer at once, over a network that loses, delays and kills.

Whatever happens, in the end an order that is paid has its money at the channel once, one that is not has none there, and nothing is
left open. The seed of a round that fails is in the assertion.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest
from integration.test_bar_codes import KINDS, Till, make_till
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport, TransportUnclearError
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.states import OrderState
from support.world import World, WorldOn

ROUNDS = 80 if os.environ.get("FAULTS") == "all" else 14
STARTS = (5, 16, 44, 46, 59, 61, 62)


class KilledError(BaseException):
    """The process ends here."""


class Chaos:
    """A network that loses requests and answers, and kills whoever waits for them."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.random: random.Random | None = None

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        chance = self.random
        if chance is None:
            return await self.inner.send(request, seconds)
        await self._trouble(chance, "lost on the way there")
        answer = await self.inner.send(request, seconds)
        await self._trouble(chance, "lost on the way back")
        return answer

    @staticmethod
    async def _trouble(chance: random.Random, what: str) -> None:
        if chance.random() < 0.06:
            raise KilledError
        await asyncio.sleep(chance.random() * 0.03)
        if chance.random() < 0.12:
            raise TransportUnclearError(what)


async def survive(work: Coroutine[Any, Any, Any]) -> None:
    with contextlib.suppress(KilledError, PayCenterError, asyncio.CancelledError):
        await work


async def act(world: World, till: Till, order: Any, chance: random.Random) -> None:
    await asyncio.sleep(chance.random() * 0.15)
    what = chance.choice(["ask", "ask", "job", "job", "expire", "close", "scan"])
    if what == "ask":
        await survive(world.services.orders.sync(world.caller, order.number))
    elif what == "job":
        await world.rows("UPDATE pay_attempt SET next_check_time = $1 WHERE next_check_time IS NOT NULL", world.clock.now())
        await survive(world.services.jobs.sync_orders())
    elif what == "expire":
        await survive(world.services.jobs.expire_orders())
    elif what == "close" and chance.random() < 0.3:
        await survive(world.services.orders.close(world.caller, order.number))
    elif what == "scan":
        await survive(till.scan(order))


async def confirm(world: World, attempt: Any, chance: random.Random) -> None:
    await asyncio.sleep(chance.random() * 0.2)
    with contextlib.suppress(AssertionError):  # cancelled already
        await world.simulator.pay(attempt.out_trade_no)


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_till_in_chaos(kind: str, world_on: WorldOn) -> None:
    network = Chaos()
    async with world_on(network) as world:
        till = await make_till(world, kind)
        for seed in range(ROUNDS):
            chance = random.Random(seed)
            order = await world.order()
            await world.simulator.fault(till.api, till.waits)
            attempt = await till.scan(order)
            if chance.random() < 0.3:
                await world.simulator.fault(till.cancel, till.again)
            world.clock.advance(chance.choice(STARTS))
            acts = [act(world, till, order, chance) for _ in range(chance.randint(3, 9))]
            if chance.random() < 0.8:
                acts.append(confirm(world, attempt, chance))
            network.random = chance
            await asyncio.gather(*acts)
            network.random = None
            await world.simulator.post("/simulator/faults", [])
            for _ in range(14):
                world.clock.advance(45)
                await world.services.jobs.sync_orders()
                await world.services.jobs.expire_orders()
            await settled(world, till, order, seed)
            # The channels check signatures by real time.
            world.clock.offset = timedelta()
        assert await world.cases() == []


async def settled(world: World, till: Till, order: Any, seed: int) -> None:
    after = await world.read(order)
    attempts = await world.services.orders.attempts(order)
    assert {attempt.state.value for attempt in attempts} <= {"SUCCESS", "CLOSED"}, seed
    kept = 0
    for attempt in attempts:
        with contextlib.suppress(AssertionError):  # never arrived at the channel
            trade = await till.trade(attempt)
            kept += trade["paid"] and trade["refunded"] == 0
    assert kept == (1 if after.state is OrderState.SUCCESS else 0), seed
