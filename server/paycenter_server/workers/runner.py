"""The worker process: its jobs on arq, the wake-ups, and a scheduler that does not need Redis.

arq's worker ends when Redis restarts, so it is started again, with a pause. Whatever has not run for two of its periods (no
Redis, a lost queue) is run by that scheduler. The jobs read PostgreSQL only: without Redis they run later, and do the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from arq import cron
from arq.worker import Worker

from paycenter_server.services.jobs import Jobs
from paycenter_server.services.notifications_delivery import NotificationDelivery
from paycenter_server.services.partitions import Partitions
from paycenter_server.workers.wake_up import WakeUps, redis_settings

log = structlog.get_logger(__name__)

CRON_QUEUE = "paycenter:cron"
MAX_JOBS = 100
POLL_DELAY = 0.25
# arq cancels a job that takes longer. The pass that the job began goes on.
JOB_TIMEOUT = 300.0
_RESTART_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
STOP_SECONDS = 12.0


def serialize(value: dict[str, Any]) -> bytes:
    """Jobs are sent as JSON, never as pickles."""
    return json.dumps(value, default=str).encode()


def deserialize(raw: bytes) -> dict[str, Any]:
    """The job that `serialize` wrote."""
    return dict(json.loads(raw))


@dataclass
class Job:
    """One of the jobs that operators know by name. `period` in seconds."""

    name: str
    work: Callable[[], Awaitable[int]]
    period: float
    last: float = 0.0
    again: bool = False
    done: int = field(default=0)
    passes: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether there is a pass."""
        return self.passes is not None and not self.passes.done()

    async def run(self) -> None:
        """One pass at a time. A call during a pass makes another pass follow it. Errors are logged; the rows stay due.

        A pass is a task of its own: it goes on if the caller is cancelled, by arq's time-out or because Redis went away.
        """
        self.again = True
        if self.running:
            return
        self.passes = asyncio.create_task(self._run())
        await asyncio.shield(self.passes)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self.again:
                self.again = False
                self.last = loop.time()
                self.done += await self.work()
        except Exception as error:
            log.warning("job_failed", job=self.name, why=f"{type(error).__name__}: {error}")
        finally:
            self.last = loop.time()


def make_jobs(jobs: Jobs, delivery: NotificationDelivery) -> dict[str, Job]:
    """The four jobs that settle and deliver, by name."""
    made = (
        Job("pay_notify_job", delivery.deliver_due, 1),
        Job("pay_order_sync_job", jobs.start_order_sync, 2),
        Job("pay_order_expire_job", jobs.start_order_expiry, 2),
        Job("pay_refund_sync_job", jobs.start_refund_sync, 2),
    )
    return {job.name: job for job in made}


def partition_job(partitions: Partitions) -> Job:
    """The job that makes the monthly partitions ahead and drops old ones. It asks for their names, and mostly has nothing to do."""
    return Job("pay_partition_job", partitions.run, 60)


def _log_close_failure(closing: asyncio.Future[None]) -> None:
    if closing.cancelled() or closing.exception() is not None:
        log.debug("worker_close_failed")


class Working(Protocol):
    """What goes on after the passes that started it: deliveries, the settlement of attempts and refunds."""

    def stop(self) -> None:
        """Claim nothing more."""
        ...

    async def settle(self) -> None:
        """Wait until what was claimed has ended."""
        ...


class Runner:
    """Runs until `stop`. `working`: what the jobs start, and what is waited for at the end."""

    def __init__(self, jobs: Mapping[str, Job], redis_url: str, *working: Working) -> None:
        self._jobs = jobs
        self._redis_url = redis_url
        self._working = working

    def _function(self, job: Job) -> Any:
        async def call(context: dict[Any, Any]) -> None:
            await job.run()

        call.__qualname__ = call.__name__ = job.name
        return call

    def _worker(self) -> Worker:
        crons = [
            cron(
                self._function(job), name=job.name, second=set(range(0, 60, int(job.period))), unique=True, keep_result=0,
                max_tries=1,
            )
            for job in self._jobs.values()
        ]  # fmt: skip
        return Worker(
            functions=[], cron_jobs=crons, queue_name=CRON_QUEUE, redis_settings=redis_settings(self._redis_url),
            handle_signals=False, keep_result=0, max_jobs=MAX_JOBS, job_timeout=JOB_TIMEOUT, poll_delay=POLL_DELAY,
            job_serializer=serialize, job_deserializer=deserialize, max_tries=1, health_check_interval=3600,
        )  # fmt: skip

    async def _run_worker(self) -> None:
        while True:
            worker = self._worker()
            try:
                await worker.async_run()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.warning("worker_ended", queue=CRON_QUEUE, why=f"{type(error).__name__}: {error}")
            finally:
                # arq's close raises the CancelledError of its jobs. Awaited here, it would look like a cancellation of this task.
                closing = asyncio.ensure_future(worker.close())
                closing.add_done_callback(_log_close_failure)
                await asyncio.wait([closing], timeout=_CLOSE_SECONDS)
            await asyncio.sleep(_RESTART_SECONDS)

    async def _run_overdue_jobs(self) -> None:
        loop = asyncio.get_running_loop()
        running: set[asyncio.Task[None]] = set()
        while True:
            for job in self._jobs.values():
                if not job.running and loop.time() - job.last > 2 * job.period:
                    task = asyncio.create_task(job.run())
                    running.add(task)
                    task.add_done_callback(running.discard)
            await asyncio.sleep(0.5)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. Then nothing more is claimed, and what was claimed is waited for. What takes longer is due by its lease."""
        wake_ups = WakeUps(self._redis_url, self._jobs["pay_notify_job"].run)
        tasks = [asyncio.create_task(work) for work in (self._run_worker(), wake_ups.run(), self._run_overdue_jobs())]
        log.info("workers_running", jobs=list(self._jobs))
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for working in self._working:
                working.stop()
            settling = [asyncio.create_task(working.settle()) for working in self._working]
            passes = [job.passes for job in self._jobs.values() if job.passes is not None]
            _, pending = await asyncio.wait([*settling, *passes], timeout=STOP_SECONDS)
            if pending:
                log.warning("work_abandoned", why="it is due again when its lease runs out")
            for task in settling:
                task.cancel()
            await asyncio.gather(*settling, return_exceptions=True)
