"""When deliveries happen: the whole schedule, slow receivers, secrets in rotation, lost workers, results that come late."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import pytest
from paycenter.notifications import NotificationError, NotificationVerifier
from paycenter_server.domain import schedule
from paycenter_server.domain.addresses import endpoint_of
from paycenter_server.domain.notifications import NotificationType
from paycenter_server.domain.schedule import NOTIFICATION_DELAYS, NOTIFICATION_MAX_TIMES
from paycenter_server.domain.states import NotificationEvent, NotificationState
from paycenter_server.services.notifications_delivery import LEASE, DeliveryResponse, NotificationDelivery
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage import notifications_delivery as delivery_rows
from paycenter_server.storage.notifications_delivery import DeliveryResult, claim_due
from standardwebhooks import Webhook
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, OPERATOR, PayCenterSystem
from support.waiting import eventually


@dataclass
class Gate:
    """A sender that delays what it posts until it is opened."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    sent: Counter[str] = field(default_factory=Counter)
    answer: DeliveryResponse = field(default_factory=lambda: DeliveryResponse(200, "ok"))

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> DeliveryResponse:
        self.sent[headers["webhook-id"]] += 1
        await self.open.wait()
        return self.answer


async def task_row(system: PayCenterSystem) -> dict[str, object]:
    (row,) = await system.rows("SELECT * FROM pay_notify_task")
    return dict(row)


async def test_the_whole_schedule(system: PayCenterSystem) -> None:
    """18 deliveries over three days, then none; a resend starts the schedule again."""
    system.services.context.random_bits = lambda bits: 0
    system.sender.default = DeliveryResponse(500, "down")
    await system.paid("mock")
    for round_ in (0, 1):
        first = NOTIFICATION_MAX_TIMES * round_
        assert len(await system.deliver()) == 1
        for step, delay in enumerate(NOTIFICATION_DELAYS, 1):
            row = await task_row(system)
            assert (row["state"], row["notify_times"]) == ("REQUEST_SUCCESS", first + step)
            wait = row["next_notify_time"] - system.clock.now()  # type: ignore[operator]
            assert timedelta(seconds=delay - 5) < wait <= timedelta(seconds=delay)
            system.clock.advance(wait.total_seconds() - 1)
            assert await system.deliver() == []
            system.clock.advance(1.5)
            assert len(await system.deliver()) == 1, step
        row = await task_row(system)
        assert (row["state"], row["notify_times"], row["next_notify_time"]) == ("FAILURE", first + NOTIFICATION_MAX_TIMES, None)
        for _ in range(3):
            system.clock.advance(86_400 * 30)
            assert await system.deliver() == []
        if round_ == 0:
            number = system.sender.sent[0].headers["webhook-id"]
            task = await system.services.notifications.resend(system.caller, number)
            assert (task.state, task.max_notify_times) == (NotificationState.WAITING, 2 * NOTIFICATION_MAX_TIMES)
    assert NOTIFICATION_MAX_TIMES == 18
    assert sum(NOTIFICATION_DELAYS) >= 72 * 3600
    logs = await system.rows("SELECT * FROM pay_notify_log ORDER BY id")
    assert [row["notify_times"] for row in logs] == list(range(1, 37))
    assert {row["state"] for row in logs} == {"REQUEST_SUCCESS", "FAILURE"}
    assert [row["state"] for row in logs].count("FAILURE") == 2
    async with system.services.context.database.connection() as connection:
        entries = await notification_rows.list_logs(connection, UUID(str(row["id"])))
    assert len(entries) == 36
    for entry in entries:
        assert (entry.http_status, entry.answer, entry.url) == (500, "down", "http://merchant.test/shop/order")
        assert entry.duration_ms >= 0
        assert entry.request == system.sender.sent[0].body.decode()
    assert len({post.headers["webhook-id"] for post in system.sender.sent}) == 1
    assert len({post.headers["webhook-timestamp"] for post in system.sender.sent}) > 30


async def test_jitter_increases_the_delay_by_a_tenth_at_most(system: PayCenterSystem) -> None:
    system.services.context.random_bits = lambda bits: (1 << bits) - 1
    system.sender.default = DeliveryResponse(0, "no answer")
    await system.paid("mock")
    await system.deliver()
    row = await task_row(system)
    wait = (row["next_notify_time"] - system.clock.now()).total_seconds()  # type: ignore[operator]
    assert 15 < wait <= 16.5
    assert row["state"] == "REQUEST_FAILURE"


@pytest.mark.parametrize(("after", "low", "high"), [(300.0, 295, 300), (1.0, 14, 16.5), (10**7, 86_395, 86_400)])
async def test_retry_after_is_obeyed_up_to_a_day(system: PayCenterSystem, after: float, low: float, high: float) -> None:
    system.sender.default = DeliveryResponse(429, "slow down", after)
    await system.paid("mock")
    await system.deliver()
    wait = ((await task_row(system))["next_notify_time"] - system.clock.now()).total_seconds()  # type: ignore[operator]
    assert low <= wait <= high


async def test_status_410_ends_the_deliveries(system: PayCenterSystem) -> None:
    system.sender.default = DeliveryResponse(410, "gone")
    await system.paid("mock")
    await system.deliver()
    row = await task_row(system)
    assert (row["state"], row["next_notify_time"]) == ("FAILURE", None)
    system.clock.advance(86_400 * 9)
    assert await system.deliver() == []


async def test_two_rotations_on_one_day_leave_every_secret_valid(system: PayCenterSystem) -> None:
    """The app may still use any of the three. The second rotation does not end the secret that the first one replaced."""
    secrets = [system.secrets["shop"]]
    for _ in range(2):
        secrets.append(await system.services.apps.rotate_notification_secret(OPERATOR, "shop"))
        system.clock.advance(3600)
    await system.paid("mock")
    (post,) = await system.deliver()
    signatures = post.headers["webhook-signature"].split(" ")
    assert len(signatures) == 3
    assert all(signature.startswith("v1,") for signature in signatures)
    for secret in secrets:
        NotificationVerifier(secret).verify(post.headers, post.body, now=system.clock.now())
    # Each ends a day after it was replaced; a third rotation ends the oldest at once.
    await system.services.apps.rotate_notification_secret(OPERATOR, "shop")
    await system.paid("mock")
    (post,) = await system.deliver()
    assert len(post.headers["webhook-signature"].split(" ")) == 3
    with pytest.raises(NotificationError, match="no signature matches"):
        NotificationVerifier(secrets[0]).verify(post.headers, post.body, now=system.clock.now())


async def test_two_rotations_at_once_lose_no_secret(system: PayCenterSystem) -> None:
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_app FOR NO KEY UPDATE")
        rotate = system.services.apps.rotate_notification_secret
        calls = [asyncio.create_task(rotate(OPERATOR, "shop")) for _ in range(2)]
        await waiting_for_lock(system, calls)
    made = await asyncio.gather(*calls)
    await system.paid("mock")
    (post,) = await system.deliver()
    for secret in (system.secrets["shop"], *made):
        Webhook(secret).verify(post.body, post.headers)


async def test_a_late_result_never_overwrites_success(system: PayCenterSystem) -> None:
    """Two deliveries of one notification: in any order, a recorded SUCCESS stays (reference, issue #350)."""
    await system.paid("mock")
    database, now, places = system.services.context.database, system.clock.now(), {"http://merchant.test:80": 10}
    async with database.connection() as connection:
        (slow,) = await claim_due(connection, now, now + LEASE, places)
        system.clock.advance(61)
        now = system.clock.now()
        (quick,) = await claim_due(connection, now, now + LEASE, places)
        assert slow.id == quick.id

        def result(event: NotificationEvent, claimed: int) -> DeliveryResult:
            waiting = event is NotificationEvent.UNANSWERED
            return DeliveryResult(
                task_id=slow.id, claimed_times=claimed, event=event, next_notify_time=now if waiting else None, url="u",
                http_status=200, duration_ms=1, answer="", at=now,
            )  # fmt: skip

        assert (await delivery_rows.record(connection, [result(NotificationEvent.RECEIVED, quick.notify_times)])).changed
        for claimed in (0, 1, 2):
            assert not (await delivery_rows.record(connection, [result(NotificationEvent.UNANSWERED, claimed)])).changed
        row = await task_row(system)
        assert (row["state"], row["notify_times"], row["next_notify_time"]) == ("SUCCESS", 1, None)
        # Both in one statement: one of them is stored, and the row is consistent.
        await notification_rows.resend(connection, [slow.id], now, CAUSE)
        both = [result(NotificationEvent.RECEIVED, 1), result(NotificationEvent.UNANSWERED, 1)]
        assert len((await delivery_rows.record(connection, both)).changed) == 1
        row = await task_row(system)
        assert (row["state"] == "SUCCESS") is (row["next_notify_time"] is None)
        assert row["notify_times"] == 2
    assert await system.deliver() == [] or row["state"] != "SUCCESS"


async def test_a_worker_that_dies_between_claim_and_record(system: PayCenterSystem) -> None:
    await system.paid("mock")
    gate = Gate()
    doomed = NotificationDelivery(system.services.context, gate)
    assert await doomed.deliver_due() == 1
    await eventually(lambda: gate.sent)
    for delivering in list(doomed._claims._working):
        delivering.cancel()
    assert await system.deliver() == []
    system.clock.advance(LEASE.total_seconds() + 1)
    assert len(await system.deliver()) == 1
    row = await task_row(system)
    assert (row["state"], row["notify_times"]) == ("SUCCESS", 1)
    assert sum(gate.sent.values()) == 1


async def test_an_answer_that_cannot_be_stored_does_not_affect_others(system: PayCenterSystem) -> None:
    for _ in range(6):
        await system.paid("mock")
    texts = ["\0", "\ud800 lone", "a\0b" * 9000, "\U0010ffff" * 5000, "\r\n\t\x01", "fine"]
    system.sender.answers = [DeliveryResponse(500, text) for text in texts]
    await system.deliver()
    rows = await system.rows("SELECT * FROM pay_notify_log")
    assert len(rows) == 6
    assert all(len(row["answer"]) <= 2000 for row in rows)
    assert await system.value("SELECT count(*) FROM pay_notify_task WHERE notify_times = 1") == 6


async def test_a_secret_that_cannot_be_opened_does_not_affect_others(system: PayCenterSystem) -> None:
    await system.add_app("broken", codes=("mock",))
    await system.rows("UPDATE pay_app SET notification_secret = 'v1:none:AAAA' WHERE app_key = 'broken'")
    await fill(system, "broken", 3)
    await fill(system, "shop", 3)
    posts = await system.deliver()
    assert len(posts) == 3
    assert await system.value("SELECT count(*) FROM pay_notify_task WHERE state = 'SUCCESS'") == 3


async def fill(system: PayCenterSystem, app_key: str, count: int, url: str = "http://merchant.test/x") -> None:
    """Many due notifications of an app."""
    await system.rows(
        """INSERT INTO pay_notify_task (id, app_id, type, event, data_id, data_version, merchant_order_id, merchant_refund_no,
             notification_url, endpoint, payload, state, notify_times, next_notify_time, schedule_start_time,
             schedule_start_times, create_time, update_time)
           SELECT gen_random_uuid(), a.id, $4, 'pay_order.success', gen_random_uuid(), 1, 'M' || n, '', $3, $5, '{"type":"x"}',
             'WAITING', 0, now() - interval '1 second' * (2 - n * 0.001), now(), 0, now(), now()
           FROM pay_app a, generate_series(1, $2) n WHERE a.app_key = $1""",
        app_key, count, url, NotificationType.ORDER.value, endpoint_of(url),
    )  # fmt: skip


async def test_how_many_are_delivered_in_a_second(system: PayCenterSystem) -> None:
    await fill(system, "shop", 600)
    gate = Gate()
    gate.open.set()
    delivery = NotificationDelivery(system.services.context, gate)
    started = time.monotonic()
    while await system.value("SELECT count(*) FROM pay_notify_task WHERE state <> 'SUCCESS'"):
        await delivery.deliver_due()
        await delivery.settle()
    took = time.monotonic() - started
    print(f"600 deliveries, claimed and recorded in batches: {600 / took:.0f}/s")
    assert set(gate.sent.values()) == {1}
    assert took < 5


@pytest.mark.parametrize("sent_before", [0, 3])
async def test_the_schedule_may_change_while_a_notification_is_in_it(
    system: PayCenterSystem, monkeypatch: pytest.MonkeyPatch, sent_before: int
) -> None:
    """The row stores at which delivery its schedule started, so another list of delays applies from its beginning."""
    await system.paid("mock")
    await system.rows("UPDATE pay_notify_task SET notify_times = $1, schedule_start_times = $1", sent_before)
    system.sender.default = DeliveryResponse(500, "no")
    monkeypatch.setattr(schedule, "NOTIFICATION_DELAYS", NOTIFICATION_DELAYS[:-1])
    await system.deliver()
    row = await task_row(system)
    waits = row["next_notify_time"] - row["last_execute_time"]  # type: ignore[operator]
    assert NOTIFICATION_DELAYS[0] <= waits.total_seconds() <= NOTIFICATION_DELAYS[0] * 1.2
