"""The scheduler of the simulator ends when it is cancelled."""

from __future__ import annotations

import asyncio

import pytest
from paycenter_server.simulator.clock import Clock, Scheduler


async def step(count: int) -> None:
    """So many turns of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)  # noqa: TID251 - not a wait


@pytest.mark.parametrize("steps", range(4))
async def test_a_cancellation_that_comes_with_a_new_job_ends_it(steps: int) -> None:
    done: list[int] = []

    async def job() -> None:
        done.append(1)

    clock = Clock()
    scheduler = Scheduler(clock)
    scheduler.schedule(clock.now() + 1000, job)
    task = asyncio.create_task(scheduler.run())
    await step(2)
    scheduler.schedule(0, job)
    await step(steps)
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled(), "it goes on"
