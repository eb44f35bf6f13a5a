"""The workers on a real Valkey: the wake-up, the poll, and a Redis that stops, loses its data or returns."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis.asyncio
from integration.test_bulkheads import Network
from paycenter_server.services.notifications_delivery import DeliveryResponse, NotificationDelivery
from paycenter_server.workers import runner as runner_module
from paycenter_server.workers.runner import Job, Runner, Working, make_jobs
from paycenter_server.workers.wake_up import RedisWakeUp
from support.system import PayCenterSystem, SystemOn
from support.waiting import eventually

WECHAT_QUERY = "/out-trade-no/"
NAMES = ("pay_notify_job", "pay_order_sync_job", "pay_order_expire_job", "pay_refund_sync_job")


@dataclass
class TimingSender:
    """Notes when each notification came; answers when `answers` is set."""

    at: dict[str, list[float]] = field(default_factory=dict)
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.answers.set()

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> DeliveryResponse:
        self.at.setdefault(headers["webhook-id"], []).append(time.monotonic())
        await self.answers.wait()
        return DeliveryResponse(200, "ok")


@dataclass
class Watched:
    """What the runner waits for at its end; `waited`: it has begun to."""

    working: Working
    waited: bool = False

    def stop(self) -> None:
        self.working.stop()

    async def settle(self) -> None:
        self.waited = True
        await self.working.settle()


@dataclass
class Running:
    system: PayCenterSystem
    wake_up: RedisWakeUp
    jobs: dict[str, Job]
    delivery: NotificationDelivery
    watched: Watched
    sender: TimingSender
    stop: asyncio.Event
    task: asyncio.Task[None]


@asynccontextmanager
async def workers(system: PayCenterSystem, sender: TimingSender, *, url: str | None = None) -> AsyncIterator[Running]:
    """A runner as in a worker process, and a wake-up through Valkey."""
    url = url or system.settings.redis_url
    delivery = NotificationDelivery(system.services.context, sender)
    jobs = make_jobs(system.services.jobs, delivery)
    wake_up, stop = RedisWakeUp(url), asyncio.Event()
    system.services.context.wake_up = wake_up
    watched = Watched(delivery)
    task = asyncio.create_task(Runner(jobs, url, watched).run(stop))
    try:
        yield Running(system, wake_up, jobs, delivery, watched, sender, stop, task)
    finally:
        stop.set()
        await task
        await wake_up.aclose()


async def flush(system: PayCenterSystem) -> None:
    async with redis.asyncio.Redis.from_url(system.settings.redis_url) as client:
        await client.flushall()


async def pay(system: PayCenterSystem) -> str:
    """The notification's number of a payment that was committed just now."""
    order = await system.order()
    await system.submit(order, "mock")
    return order.number


async def delivered(system: PayCenterSystem, wanted: int) -> bool:
    return bool(await system.value("SELECT count(*) FROM pay_notify_task WHERE state = 'SUCCESS'") >= wanted)


@pytest.fixture(autouse=True)
async def _empty_redis(system: PayCenterSystem) -> None:
    await flush(system)


async def settled(running: Running, seconds: float = 5.0) -> None:
    """The wake-up works: a notification is delivered faster than by the poll."""

    async def quick() -> bool:
        before = len(running.sender.at)
        await pay(running.system)
        # The poll takes seconds.
        try:
            await eventually(lambda: len(running.sender.at) > before, 0.15)
        except AssertionError:
            return False
        return True

    await eventually(quick, seconds)


async def test_the_wake_up_starts_the_first_delivery_within_a_tenth_of_a_second(system: PayCenterSystem) -> None:
    sender = TimingSender()
    async with workers(system, sender) as running:
        await settled(running)
        sender.at.clear()
        waits = []
        for _ in range(30):
            before = len(sender.at)
            await pay(system)
            committed = time.monotonic()

            async def came(before: int = before) -> bool:
                return len(sender.at) > before

            await eventually(came)
            waits.append(max(list(sender.at.values())[-1][0] - committed, 0.0) * 1000)
        waits.sort()
        print(f"commit to delivery: p50 {statistics.median(waits):.1f} ms, p99 {waits[-1]:.1f} ms, best {waits[0]:.1f} ms")
        assert statistics.median(waits) < 100
    assert all(len(times) == 1 for times in sender.at.values())


async def test_all_four_jobs_run_by_the_names_that_operators_know(system: PayCenterSystem) -> None:
    async with workers(system, TimingSender()) as running:
        assert tuple(running.jobs) == NAMES

        async def all_ran() -> bool:
            return all(job.last > 0 for job in running.jobs.values())

        await eventually(all_ran)
    runner = Runner(running.jobs, system.settings.redis_url, running.delivery)
    assert {job.name for job in runner._worker().cron_jobs} == set(NAMES)


async def test_without_redis_nothing_waits_and_everything_arrives(system: PayCenterSystem, embedded: Any) -> None:
    sender = TimingSender()
    async with workers(system, sender) as running:
        await settled(running)
        embedded.servers.stop_redis()
        try:
            started = time.monotonic()
            for _ in range(1000):
                running.wake_up.send()
            assert time.monotonic() - started < 0.1
            count = len(sender.at)
            await asyncio.gather(*(pay(system) for _ in range(10)))
            assert time.monotonic() - started < 2
            await eventually(lambda: delivered(system, count + 10), 5)
            print(f"ten deliveries without Redis: {time.monotonic() - started:.1f} s")
        finally:
            embedded.servers.start_redis()
        # The workers are started again by themselves, and the wake-up is received.
        started = time.monotonic()
        await settled(running, 8)
        print(f"the wake_up is heard {time.monotonic() - started:.1f} s after Redis came back")
        assert not running.task.done()
    assert all(len(times) == 1 for times in sender.at.values())


async def test_a_redis_that_forgets_in_a_burst_loses_nothing(system: PayCenterSystem) -> None:
    sender = TimingSender()
    async with workers(system, sender) as running:
        await settled(running)

        async def forget() -> None:
            for step in range(8):
                await eventually(lambda step=step: len(sender.at) >= count + 10 * step)  # type: ignore[misc]
                await flush(system)

        count = len(sender.at)
        await asyncio.gather(*(pay(system) for _ in range(100)), forget())
        await eventually(lambda: delivered(system, count + 100), 8)
    assert all(len(times) == 1 for times in sender.at.values())
    logs = await system.rows("SELECT task_id, count(*) AS n FROM pay_notify_log GROUP BY 1")
    assert len(logs) == count + 100
    assert {row["n"] for row in logs} == {1}


async def test_two_workers_share_the_work(system: PayCenterSystem) -> None:
    sender = TimingSender()
    async with workers(system, sender) as first, workers(system, sender):
        await asyncio.gather(*(pay(system) for _ in range(120)))
        await eventually(lambda: delivered(system, 120), 8)
        assert not first.task.done()
    assert len(sender.at) == 120
    assert all(len(times) == 1 for times in sender.at.values())
    assert await system.value("SELECT count(*) FROM pay_notify_log") == 120


async def test_a_failing_job_does_not_affect_others(system: PayCenterSystem) -> None:
    sender = TimingSender()
    counts: Counter[str] = Counter()

    def failing(name: str, error: BaseException) -> Callable[[], Awaitable[int]]:
        async def work() -> int:
            counts[name] += 1
            raise error

        return work

    delivery = NotificationDelivery(system.services.context, sender)
    jobs = make_jobs(system.services.jobs, delivery)
    jobs["pay_order_sync_job"] = Job("pay_order_sync_job", failing("sync", RuntimeError("broken")), 1)
    jobs["pay_refund_sync_job"] = Job("pay_refund_sync_job", failing("refund", asyncio.CancelledError()), 1)
    wake_up, stop = RedisWakeUp(system.settings.redis_url), asyncio.Event()
    system.services.context.wake_up = wake_up
    task = asyncio.create_task(Runner(jobs, system.settings.redis_url, delivery).run(stop))
    await eventually(lambda: counts["sync"] and counts["refund"])
    await pay(system)
    await eventually(lambda: delivered(system, 1))

    async def again() -> bool:
        return counts["sync"] >= 2 and counts["refund"] >= 2

    await eventually(again, 4)
    await pay(system)
    await eventually(lambda: delivered(system, 2))
    assert not task.done()
    assert not any(jobs[name].running for name in ("pay_order_sync_job", "pay_refund_sync_job"))
    stop.set()
    await task
    await wake_up.aclose()


@dataclass
class LongPass:
    """The work of a job that ends when it is told to."""

    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0
    ended: int = 0
    cancelled: int = 0

    async def work(self) -> int:
        self.calls += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.ended += 1
        return 0


@asynccontextmanager
async def only_cron(system: PayCenterSystem, long: LongPass) -> AsyncIterator[Job]:
    """The cron worker without the poll, so that arq runs the job."""
    delivery = NotificationDelivery(system.services.context, TimingSender())
    job = Job("pay_order_sync_job", long.work, 1)
    runner = Runner({**make_jobs(system.services.jobs, delivery), job.name: job}, system.settings.redis_url, delivery)
    keeping = asyncio.create_task(runner._run_worker())
    try:
        yield job
        assert not keeping.done()
    finally:
        long.may_end.set()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_redis_goes_while_a_job_is_running(system: PayCenterSystem, embedded: Any) -> None:
    """arq ends its running jobs then; its own end must not keep it from being started again. The pass goes on."""
    long = LongPass()
    async with only_cron(system, long):
        await eventually(lambda: long.calls == 1)
        embedded.servers.stop_redis()
        embedded.servers.start_redis()
        long.may_end.set()
        await eventually(lambda: long.calls >= 2)
        assert (long.ended >= 1, long.cancelled) == (True, 0)


async def test_the_time_limit_of_arq_does_not_end_a_pass(system: PayCenterSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """arq cancels its job. The pass goes on, and a call meanwhile makes another pass follow it, not one beside it."""
    monkeypatch.setattr(runner_module, "JOB_TIMEOUT", 0.1)
    long = LongPass()
    async with only_cron(system, long) as job:
        await eventually(lambda: long.calls == 1)
        # arq has cancelled the first run and has begun another one.
        await eventually(lambda: job.again)
        assert (long.calls, long.ended, long.cancelled, job.running) == (1, 0, 0, True)
        long.may_end.set()
        await eventually(lambda: long.ended >= 2)
        assert long.cancelled == 0


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "lease"])
async def test_a_worker_that_stops_ends_its_rows_or_leaves_them_to_their_lease(
    system_on: SystemOn, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    network = Network(hanging={WECHAT_QUERY})
    async with system_on(network) as system:
        order = await system.order()
        attempt = await system.submit(order)
        await system.simulator.pay(attempt.out_trade_no, notify=False)
        await system.rows("UPDATE pay_attempt SET next_check_time = now()")
        monkeypatch.setattr(runner_module, "STOP_SECONDS", 10.0 if ends else 0.1)
        delivery = NotificationDelivery(system.services.context, TimingSender())
        jobs, stop = make_jobs(system.services.jobs, delivery), asyncio.Event()
        watched = Watched(system.services.jobs)
        running = asyncio.create_task(Runner(jobs, system.settings.redis_url, delivery, watched).run(stop))
        await eventually(lambda: network.count(WECHAT_QUERY))
        stop.set()
        if ends:
            await eventually(lambda: watched.waited)
            assert not running.done()
            network.hanging.clear()
            network.end.set()
        await running
        expected = "SUCCESS" if ends else "WAITING"
        assert (await system.read(order)).state.value == expected
        await system.submit(await system.order())
        await system.rows("UPDATE pay_attempt SET next_check_time = now() WHERE id <> $1", attempt.id)
        assert await jobs["pay_order_sync_job"].work() == 0, "nothing more is claimed"
        network.end.set()
        await system.services.jobs.settle()
        # Due by its lease, if it was not ended.
        due = await system.value("SELECT next_check_time > now() FROM pay_attempt WHERE id = $1", attempt.id)
        assert due is (None if ends else True)


async def test_the_end_waits_for_deliveries_under_way(system: PayCenterSystem) -> None:
    sender = TimingSender()
    sender.answers.clear()
    async with workers(system, sender) as running:
        await asyncio.gather(*(pay(system) for _ in range(5)))

        async def sent() -> bool:
            return len(sender.at) == 5

        await eventually(sent)
        running.stop.set()
        await eventually(lambda: running.watched.waited)
        assert not running.task.done()
        sender.answers.set()
        await running.task
        assert await delivered(system, 5)
    assert await system.value("SELECT count(*) FROM pay_notify_log") == 5
