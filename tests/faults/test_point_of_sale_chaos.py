"""A point of sale in chaos: callers, jobs, closings and the payer at once, on a network that loses and delays requests.

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
from integration.test_bar_codes import KINDS, PointOfSale, make_point_of_sale
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport, TransportUnclearError
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.states import OrderState
from support.system import PayCenterSystem, SystemOn
from support.waiting import pause

ROUNDS = 80 if os.environ.get("FAULTS") == "all" else 5
STARTS = (5, 16, 44, 46, 59, 61, 62)


class KilledError(BaseException):
    """The process ends here."""


class Chaos:
    """A network that loses requests and answers, and kills their callers."""

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
        await pause(chance.random() * 0.03)
        if chance.random() < 0.12:
            raise TransportUnclearError(what)


async def survive(work: Coroutine[Any, Any, Any]) -> None:
    with contextlib.suppress(KilledError, PayCenterError, asyncio.CancelledError):
        await work


async def act(system: PayCenterSystem, pos: PointOfSale, order: Any, chance: random.Random) -> None:
    await pause(chance.random() * 0.15)
    what = chance.choice(["ask", "ask", "job", "job", "expire", "close", "scan"])
    if what == "ask":
        await survive(system.services.orders.sync(system.caller, order.number))
    elif what == "job":
        await system.rows("UPDATE pay_attempt SET next_check_time = $1 WHERE next_check_time IS NOT NULL", system.clock.now())
        await survive(system.services.jobs.sync_orders())
    elif what == "expire":
        await survive(system.services.jobs.expire_orders())
    elif what == "close" and chance.random() < 0.3:
        await survive(system.services.orders.close(system.caller, order.number))
    elif what == "scan":
        await survive(pos.scan(order))


async def confirm(system: PayCenterSystem, attempt: Any, chance: random.Random) -> None:
    await pause(chance.random() * 0.2)
    with contextlib.suppress(AssertionError):  # cancelled already
        await system.simulator.pay(attempt.out_trade_no)


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_point_of_sale_in_chaos(kind: str, system_on: SystemOn) -> None:
    network = Chaos()
    async with system_on(network) as system:
        pos = await make_point_of_sale(system, kind)
        for seed in range(ROUNDS):
            chance = random.Random(seed)
            order = await system.order()
            await system.simulator.fault(pos.api, pos.waits)
            attempt = await pos.scan(order)
            if chance.random() < 0.3:
                await system.simulator.fault(pos.cancel, pos.again)
            system.clock.advance(chance.choice(STARTS))
            acts = [act(system, pos, order, chance) for _ in range(chance.randint(3, 9))]
            if chance.random() < 0.8:
                acts.append(confirm(system, attempt, chance))
            network.random = chance
            await asyncio.gather(*acts)
            network.random = None
            await system.simulator.post("/simulator/faults", [])
            for _ in range(14):
                system.clock.advance(45)
                await system.services.jobs.sync_orders()
                await system.services.jobs.expire_orders()
            await settled(system, pos, order, seed)
            # The channels check signatures by real time.
            system.clock.offset = timedelta()
        assert await system.cases() == []


async def settled(system: PayCenterSystem, pos: PointOfSale, order: Any, seed: int) -> None:
    after = await system.read(order)
    attempts = await system.services.orders.attempts(order)
    assert {attempt.state.value for attempt in attempts} <= {"SUCCESS", "CLOSED"}, seed
    kept = 0
    for attempt in attempts:
        with contextlib.suppress(AssertionError):  # never arrived at the channel
            trade = await pos.trade(attempt)
            kept += trade["paid"] and trade["refunded"] == 0
    assert kept == (1 if after.state is OrderState.SUCCESS else 0), seed
