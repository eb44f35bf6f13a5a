"""The soak: a steady load on a deployment for hours. Memory, connections and backlog must stay flat; then the books are compared.

    python -m faults.deployment.soak --seconds 7200 --rate 4        (with tests/ on PYTHONPATH)

It prints a line each minute and ends with 0 only if nothing grew and every book agrees.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
from faults.deployment.books import compare, settle
from faults.deployment.processes import Deployment, deployed
from faults.deployment.run import Campaign, campaign
from support.waiting import pause

SAMPLE_SECONDS = 60.0
# The median of the last quarter may exceed that of the second one by this much.
GROWTH = 1.10
_BACKLOG = """
SELECT (SELECT count(*) FROM pay_notify_task WHERE next_notify_time < now() - interval '5 s') AS notifications,
       (SELECT count(*) FROM pay_attempt WHERE next_check_time < now() - interval '15 s') AS attempts,
       (SELECT count(*) FROM pay_refund WHERE next_check_time < now() - interval '15 s') AS refunds,
       (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'paycenter') AS connections
"""


@dataclass(frozen=True)
class Sample:
    """`memory`: MiB of each process. `backlog`: rows that are due and not claimed. `connections`: to PostgreSQL."""

    orders: int
    memory: dict[str, float]
    backlog: int
    connections: int

    def __str__(self) -> str:
        memory = " ".join(f"{name} {size:.0f}" for name, size in self.memory.items())
        return f"{self.orders} orders; MiB: {memory}; backlog {self.backlog}; connections {self.connections}"


async def take(deployment: Deployment, orders: int) -> Sample:
    """What the processes use now. The simulators keep every trade, so they are not measured."""
    memory = {}
    for name in deployment.names:
        pid = deployment.pid(name)
        assert pid is not None, f"{name} has ended: {deployment.log(name)[-2000:]}"
        memory[name] = psutil.Process(pid).memory_info().rss / 2**20
    (row,) = await deployment.rows(_BACKLOG)
    return Sample(orders, memory, row["notifications"] + row["attempts"] + row["refunds"], row["connections"])


def grown(samples: Sequence[Sample]) -> list[str]:
    """What was larger in the last quarter than in the second one."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    found = []
    for name in samples[0].memory:
        before, after = (median(sample.memory[name] for sample in part) for part in (early, late))
        if after > before * GROWTH:
            found.append(f"{name} grew from {before:.0f} to {after:.0f} MiB")
    for what in ("backlog", "connections"):
        before, after = (median(getattr(sample, what) for sample in part) for part in (early, late))
        if after > before * GROWTH + 5:
            found.append(f"{what} grew from {before:.0f} to {after:.0f}")
    return found


async def load(running: Campaign, seconds: float, rate: float) -> list[Sample]:
    """Orders at this rate a second, and a sample each minute."""
    samples: list[Sample] = []
    tasks: set[asyncio.Task[None]] = set()
    began, count = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        if now >= count / rate:
            task = asyncio.create_task(running.order(count))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            count += 1
        if now >= len(samples) * SAMPLE_SECONDS:
            samples.append(await take(running.deployment, count))
            print(f"{now:6.0f} s: {samples[-1]}", flush=True)
        await pause(0.5 / rate)
    if tasks:
        await asyncio.wait(tasks, timeout=60)
    return samples


async def soak(folder: Path, seed: int, seconds: float, rate: float) -> int:
    """The exit code."""
    async with (
        deployed(folder, skew=False, channel_timeout=10.0) as deployment,
        campaign(deployment, random.Random(seed), 0.02) as running,
    ):
        samples = await load(running, seconds, rate)
        running.receiver.trouble = 0.0
        await settle(deployment, 600)
        report = await compare(deployment, running.receiver, running.payer.paid, running.shop.unexpected)
    report.seed, report.seconds = seed, seconds
    problems = grown(samples) if len(samples) >= 8 else []
    print(report)
    print(f"first {samples[0]}\nlast  {samples[-1]}")
    print("flat" if not problems else "\n".join(problems))
    return 0 if report.good and not problems else 1


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randint(0, 10**6))
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--rate", type=float, default=4, help="orders a second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(soak(Path(folder), options.seed, options.seconds, options.rate)))


if __name__ == "__main__":
    main()
