"""Results of deliveries are recorded together, and one that cannot be recorded does not lose those of the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from paycenter_server.domain.states import NotificationEvent
from paycenter_server.services.notifications_delivery import DeliveryResponse, NotificationDelivery
from paycenter_server.storage import notifications_delivery as delivery_rows
from paycenter_server.storage.notifications_delivery import DeliveryResult, DueNotification
from support.locks import transaction
from support.notifications import fill, states
from support.system import PayCenterSystem
from support.waiting import eventually

ONE, OTHERS = "http://one.test/notifications", "http://others.test/notifications"
LOGGED = "SELECT count(*) FROM pay_notify_log"
WAITS = """SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
             AND query LIKE 'WITH hardly_waiting%pay_notify_log%'"""


class Together:
    """A sender whose answers come when all have been sent, so that their results share a statement. One URL gets its own answer."""

    def __init__(self, count: int, one: DeliveryResponse) -> None:
        self._count, self._one = count, one
        self.sent: Counter[str] = Counter()
        self.answers = asyncio.Event()

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> DeliveryResponse:
        self.sent[url] += 1
        await self.answers.wait()
        return self._one if url == ONE else DeliveryResponse(200, "ok")

    def all_sent(self) -> bool:
        return self.sent.total() == self._count


async def sent_together(system: PayCenterSystem, one: DeliveryResponse) -> tuple[NotificationDelivery, Together]:
    """Eight notifications and the one in their middle are sent, and wait for their answers."""
    for url, count in ((OTHERS, 4), (ONE, 1), (OTHERS, 4)):
        await fill(system, url, count)
    sender = Together(9, one)
    delivery = NotificationDelivery(system.services.context, sender)
    await delivery.deliver_due()
    await eventually(sender.all_sent)
    return delivery, sender


async def received(system: PayCenterSystem, url: str, count: int) -> bool:
    return await states(system, url) == {"SUCCESS": count}


async def test_a_locked_notification_waits_alone(system: PayCenterSystem) -> None:
    """The others are recorded while it is locked. When it is free it is recorded too, once, and nothing is sent again."""
    delivery, sender = await sent_together(system, DeliveryResponse(200, "ok"))
    async with transaction(system) as held:
        await held.execute("SELECT FROM pay_notify_task WHERE notification_url = $1 FOR UPDATE", ONE)
        sender.answers.set()
        await eventually(lambda: received(system, OTHERS, 8))
        assert await states(system, ONE) == {"WAITING": 1}
    await delivery.settle()
    assert await received(system, ONE, 1)
    assert await system.value(LOGGED) == sender.sent.total() == 9


async def test_a_statement_leaves_out_what_is_locked(system: PayCenterSystem) -> None:
    await fill(system, OTHERS, 3)
    now = system.clock.now()
    async with system.services.context.database.connection() as connection:
        tasks = await delivery_rows.claim_due(connection, now, now, {"http://others.test:80": 3})
        results = [_received(task, system) for task in tasks]
        async with transaction(system) as held:
            await held.execute("SELECT FROM pay_notify_task WHERE id = $1 FOR NO KEY UPDATE", tasks[1].id)
            recorded = await delivery_rows.record(connection, results)
        assert (recorded.changed, recorded.locked) == ({tasks[0].id, tasks[2].id}, {tasks[1].id})
        assert await system.value(LOGGED) == 2  # its delivery is logged when it is recorded
        await system.rows("DELETE FROM pay_notify_task WHERE id = $1", tasks[1].id)
        recorded = await delivery_rows.record(connection, [results[1]])
        assert (recorded.changed, recorded.locked) == (set(), set())


def _received(task: DueNotification, system: PayCenterSystem) -> DeliveryResult:
    return DeliveryResult(
        task_id=task.id, claimed_times=0, event=NotificationEvent.RECEIVED, next_notify_time=None, url="u", http_status=200,
        duration_ms=1, answer="", at=system.clock.now(),
    )  # fmt: skip


async def test_a_result_whose_case_waits_does_not_hold_up_the_others(system: PayCenterSystem) -> None:
    """It is given up, and no case can be inserted. The shared transaction ends soon, and each result is recorded alone."""
    delivery, sender = await sent_together(system, DeliveryResponse(410, "gone"))
    async with transaction(system) as held:
        await held.execute("LOCK TABLE pay_case IN SHARE MODE")
        sender.answers.set()
        await eventually(lambda: received(system, OTHERS, 8))
        assert await states(system, ONE) == {"WAITING": 1}
    await delivery.settle()
    assert await states(system, ONE) == {"FAILURE": 1}
    assert await system.value("SELECT count(*) FROM pay_case") == 1
    assert await system.value(LOGGED) == sender.sent.total() == 9


async def test_a_result_that_cannot_be_recorded_loses_itself_only(system: PayCenterSystem) -> None:
    """Its status is no 32-bit number."""
    delivery, sender = await sent_together(system, DeliveryResponse(2**40, "ok"))
    sender.answers.set()
    await delivery.settle()
    assert await received(system, OTHERS, 8)
    assert await states(system, ONE) == {"WAITING": 1}
    assert await system.value(LOGGED) == 8


async def test_after_a_lost_connection_nothing_is_recorded_again(system: PayCenterSystem) -> None:
    """The statement may have been committed. What was not is sent again after the lease."""
    delivery, sender = await sent_together(system, DeliveryResponse(200, "ok"))

    async def waiting() -> Any:
        return await system.rows(WAITS)

    async with transaction(system) as held:
        await held.execute("LOCK TABLE pay_notify_log IN ACCESS EXCLUSIVE MODE")
        sender.answers.set()
        ((pid,),) = await eventually(waiting)
        await system.rows("SELECT pg_terminate_backend($1)", pid)
        await eventually(lambda: delivery._recorder is None)
    await delivery.settle()
    found = [await states(system, url) for url in (ONE, OTHERS)]
    assert found == [{"WAITING": 1}, {"WAITING": 8}]
