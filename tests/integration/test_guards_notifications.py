"""Guards of the outbox: claiming, recording, resending. `make mutants` removes each of them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from paycenter_server.domain.states import NOTIFICATION, NotificationEvent, target
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage import notifications_delivery as delivery_rows
from paycenter_server.storage.notifications_delivery import DeliveryResult, DueNotification
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, PayCenterSystem

LEASE = timedelta(seconds=60)
ENDPOINT = "http://merchant.test:80"


async def due_tasks(system: PayCenterSystem, count: int) -> list[Any]:
    """The keys of this many due notifications, oldest first."""
    for _ in range(count):
        await system.paid("mock")
    rows = await system.rows("SELECT id FROM pay_notify_task ORDER BY next_notify_time")
    return [row["id"] for row in rows]


async def claim(system: PayCenterSystem, connection: Any, places: int = 100, endpoint: str = ENDPOINT) -> list[DueNotification]:
    now = system.clock.now()
    return await delivery_rows.claim_due(connection, now, now + LEASE, {endpoint: places})


async def claim_beside(system: PayCenterSystem) -> list[DueNotification]:
    """Another worker's claim."""
    async with system.services.context.database.connection() as connection:
        return await claim(system, connection)


async def test_a_claim_passes_over_what_another_worker_holds(system: PayCenterSystem) -> None:
    await due_tasks(system, 2)
    async with transaction(system) as held:
        assert len(await claim(system, held)) == 2
        other = asyncio.create_task(claim_beside(system))
        await waiting_for_lock(system, [other])
        assert other.done(), "a claim must pass over rows that another worker holds, not wait for them"
        assert other.result() == []


async def test_a_claim_takes_only_what_is_due(system: PayCenterSystem) -> None:
    now_due, later = await due_tasks(system, 2)
    await system.rows("UPDATE pay_notify_task SET next_notify_time = now() + interval '1 hour' WHERE id = $1", later)
    assert [task.id for task in await claim_beside(system)] == [now_due]
    assert await claim_beside(system) == []


async def test_a_claim_takes_no_more_of_an_endpoint_than_its_places(system: PayCenterSystem) -> None:
    await due_tasks(system, 3)
    async with system.services.context.database.connection() as connection:
        assert len(await claim(system, connection, 2)) == 2
        assert await claim(system, connection, endpoint="http://merchant.test:81") == []
        assert len(await claim(system, connection)) == 1


def delivery(task: DueNotification, event: NotificationEvent, at: datetime, claimed: int | None = None) -> DeliveryResult:
    waits = event in (NotificationEvent.UNANSWERED, NotificationEvent.REFUSED)
    return DeliveryResult(
        task_id=task.id, claimed_times=task.notify_times if claimed is None else claimed, event=event,
        next_notify_time=at if waits else None, url="u", http_status=200, duration_ms=1, answer="", at=at,
    )  # fmt: skip


async def test_a_late_result_does_not_overwrite_a_later_one(system: PayCenterSystem) -> None:
    """Claimed twice because the first worker was slow. Its result is of delivery 1, and the row is at delivery 2."""
    await due_tasks(system, 1)
    (slow,) = await claim_beside(system)
    now = system.clock.now()
    async with system.services.context.database.connection() as connection:
        assert (await delivery_rows.record(connection, [delivery(slow, NotificationEvent.UNANSWERED, now)])).changed
        assert not (await delivery_rows.record(connection, [delivery(slow, NotificationEvent.RECEIVED, now, claimed=0)])).changed
    (row,) = await system.rows("SELECT state, notify_times FROM pay_notify_task")
    assert (row["state"], row["notify_times"]) == ("REQUEST_FAILURE", 1)


@pytest.mark.parametrize("end", [NotificationEvent.RECEIVED, NotificationEvent.GIVE_UP])
async def test_a_result_does_not_reopen_what_has_ended(system: PayCenterSystem, end: NotificationEvent) -> None:
    await due_tasks(system, 1)
    (task,) = await claim_beside(system)
    now = system.clock.now()
    async with system.services.context.database.connection() as connection:
        assert (await delivery_rows.record(connection, [delivery(task, end, now)])).changed
        assert not (await delivery_rows.record(connection, [delivery(task, NotificationEvent.UNANSWERED, now, claimed=1)])).changed
    (row,) = await system.rows("SELECT state, notify_times, next_notify_time FROM pay_notify_task")
    assert (row["state"], row["notify_times"], row["next_notify_time"]) == (target(NOTIFICATION, end), 1, None)


async def test_only_what_has_ended_is_sent_again(system: PayCenterSystem) -> None:
    (key,) = await due_tasks(system, 1)
    async with system.services.context.database.connection() as connection:
        assert not await notification_rows.resend(connection, [key], system.clock.now(), CAUSE)
        assert await system.value("SELECT schedule_start_times FROM pay_notify_task") == 0
        await system.deliver()
        assert await notification_rows.resend(connection, [key], system.clock.now(), CAUSE)
