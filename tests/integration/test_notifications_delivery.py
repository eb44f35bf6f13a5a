"""Deliveries by endpoint: isolation, the breaker, the end of what waits for one, addresses."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from paycenter_server.domain.cases import Decision
from paycenter_server.services import notifications_delivery, notifications_endpoints
from paycenter_server.services.notifications_delivery import (
    GIVE_UP_AFTER,
    OPEN_BEFORE_GIVING_UP,
    DeliveryResponse,
    NotificationDelivery,
)
from paycenter_server.storage.notifications_delivery import DueNotification
from support.cases import ANNE, decide, last_case
from support.notifications import fill, states
from support.system import PayCenterSystem
from support.waiting import eventually

DEAD, ALIVE = "http://dead.test/notifications", "http://alive.test/notifications"
CASES = "SELECT kind, app_id, order_id, refund_id, reference, detail FROM pay_case WHERE kind = 'NOTIFICATION_GIVEN_UP'"


@dataclass
class Network:
    """A sender for which some hosts never answer: those in `hanging` until `end`, those in `silent` at once."""

    hanging: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    sent: Counter[str] = field(default_factory=Counter)
    end: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> DeliveryResponse:
        self.sent[url] += 1
        if url in self.hanging:
            await self.end.wait()
            return DeliveryResponse(0, "no answer within 10 seconds")
        return DeliveryResponse(0, "no answer within 10 seconds") if url in self.silent else DeliveryResponse(200, "ok")


async def test_an_endpoint_that_hangs_delays_no_other(system: PayCenterSystem) -> None:
    """10,000 older notifications hang, or wait. The very next claim takes those of the other endpoint, as many as it has places.

    None of the others ends before all of them are delivered.
    """
    await fill(system, DEAD, 10_000, 3600)
    network = Network(hanging={DEAD})
    delivery = NotificationDelivery(system.services.context, network)
    await delivery.deliver_due()
    await eventually(lambda: network.sent[DEAD] == notifications_endpoints.FIRST_PLACES)
    await fill(system, ALIVE, 200)
    begun = network.sent[ALIVE]
    assert await delivery.deliver_due() >= notifications_endpoints.FIRST_PLACES
    claimed = "SELECT count(*) FROM pay_notify_task WHERE notification_url = $1 AND (next_notify_time > now() OR state = 'SUCCESS')"
    assert await system.value(claimed, ALIVE) >= notifications_endpoints.FIRST_PLACES
    assert await system.value(claimed, DEAD) == notifications_endpoints.FIRST_PLACES
    await eventually(lambda: network.sent[ALIVE] >= begun + notifications_endpoints.FIRST_PLACES)

    async def all_received() -> bool:
        return (await states(system, ALIVE)).get("SUCCESS") == 200

    await eventually(all_received)
    assert network.sent[DEAD] == notifications_endpoints.FIRST_PLACES
    delivery.stop()
    network.end.set()
    await delivery.settle()


async def test_after_a_stop_nothing_more_is_claimed(system: PayCenterSystem) -> None:
    await fill(system, DEAD, 50)
    network = Network(hanging={DEAD})
    delivery = NotificationDelivery(system.services.context, network)
    await delivery.deliver_due()
    delivery.stop()
    network.end.set()
    await delivery.settle()
    assert await delivery.deliver_due() == 0
    assert sum(network.sent.values()) == notifications_endpoints.FIRST_PLACES
    assert await system.value("SELECT count(*) FROM pay_notify_log") == notifications_endpoints.FIRST_PLACES


async def test_while_the_breaker_is_open_only_trials_are_sent(system: PayCenterSystem) -> None:
    """The others stay due, and no delivery is counted for them."""
    await fill(system, DEAD, 100, 60)
    network = Network(silent={DEAD})
    delivery = NotificationDelivery(system.services.context, network)

    async def run() -> int:
        before = network.sent[DEAD]
        await delivery.deliver_due()
        await delivery.settle()
        return network.sent[DEAD] - before

    assert await run() == notifications_endpoints.FIRST_PLACES
    assert await run() == 0
    system.clock.advance(notifications_endpoints.FIRST_PAUSE.total_seconds() + 1)
    assert await run() == 1
    assert await run() == 0
    waiting = 100 - notifications_endpoints.FIRST_PLACES - 1
    assert await states(system, DEAD) == {"WAITING": waiting, "REQUEST_FAILURE": 100 - waiting}
    assert await system.value("SELECT count(*) FROM pay_notify_task WHERE notify_times = 0") == waiting
    network.silent.clear()
    system.clock.advance(notifications_endpoints.LONGEST_PAUSE.total_seconds() + 1)
    assert await run() == 1
    assert await run() == 99
    assert await states(system, DEAD) == {"SUCCESS": 100}


async def test_what_waits_for_a_breaker_ends_all_the_same(system: PayCenterSystem) -> None:
    """Without trials the retry schedule of a notification stands still. It ends when it was due for the length of the schedule."""
    await fill(system, DEAD, 29, 60)
    await fill(system, DEAD, 1)
    # The last one is superseded by another one of its object: it ends as superseded, and not as given up.
    (last,) = await system.rows("SELECT id, data_id FROM pay_notify_task ORDER BY next_notify_time DESC LIMIT 1")
    await system.rows(
        """UPDATE pay_notify_task SET data_id = $1, data_version = 2
           WHERE id = (SELECT id FROM pay_notify_task WHERE id <> $2 LIMIT 1)""",
        last["data_id"], last["id"],
    )  # fmt: skip
    network = Network(silent={DEAD})
    delivery = NotificationDelivery(system.services.context, network)

    async def run() -> None:
        await delivery.deliver_due()
        await delivery.settle()

    await run()
    system.clock.advance(OPEN_BEFORE_GIVING_UP.total_seconds() + 1)
    await run()
    assert "FAILURE" not in await states(system, DEAD), "it was not due for long enough"
    system.clock.advance(GIVE_UP_AFTER.total_seconds())
    await run()
    found = await states(system, DEAD)
    assert found["FAILURE"] >= 29 - notifications_endpoints.FIRST_PLACES - 1
    assert await system.value("SELECT state FROM pay_notify_task WHERE id = $1", last["id"]) == "SUPERSEDED"
    untold = await system.rows("SELECT * FROM pay_notify_log WHERE answer LIKE 'not sent: http://dead.test:80 has not answered%'")
    assert {(row["state"], row["http_status"]) for row in untold} == {("FAILURE", 0)}
    assert 0 in {row["notify_times"] for row in untold}, "what was never sent has no delivery"
    assert len(await system.rows(CASES)) == found["FAILURE"]


async def test_a_breaker_that_opened_just_now_ends_nothing(system: PayCenterSystem) -> None:
    """After days in which no worker ran, a receiver that is away for a moment loses nothing."""
    await fill(system, DEAD, 30, GIVE_UP_AFTER.total_seconds() + 60)
    network = Network(silent={DEAD})
    delivery = NotificationDelivery(system.services.context, network)
    for _ in range(3):
        await delivery.deliver_due()
        await delivery.settle()
    assert "FAILURE" not in await states(system, DEAD)


async def test_giving_up_opens_a_case(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    refund = await system.refund(order, 10)
    system.sender.default = DeliveryResponse(410, "gone")
    await system.deliver()
    by_order, by_refund = sorted(await system.rows(CASES), key=lambda case: case["refund_id"] is not None)
    assert (by_order["order_id"], by_order["refund_id"]) == (order.id, None)
    assert (by_refund["order_id"], by_refund["refund_id"]) == (order.id, refund.id)
    assert json.loads(json.dumps(by_order["detail"]))["why"] == "HTTP 410: gone"
    assert by_order["detail"]["event"] == "pay_order.success"
    number = by_order["detail"]["notification"]
    await system.services.notifications.resend(system.caller, number)
    await system.deliver()
    again = [case["reference"] for case in await system.rows(CASES) if case["order_id"] and not case["refund_id"]]
    assert sorted(again) == [f"{number}:1", f"{number}:2"]


async def test_a_result_that_is_not_recorded_opens_no_case(system: PayCenterSystem) -> None:
    """Another worker has recorded a success meanwhile."""
    await system.paid("mock")
    network = Network(hanging={"http://merchant.test/shop/order"})

    class Gone:
        async def send(self, url: str, headers: dict[str, str], body: bytes) -> DeliveryResponse:
            await network.end.wait()
            return DeliveryResponse(410, "gone")

    delivery = NotificationDelivery(system.services.context, Gone())
    await delivery.deliver_due()
    await system.rows("UPDATE pay_notify_task SET state = 'SUCCESS', next_notify_time = NULL, notify_times = 1")
    network.end.set()
    await delivery.settle()
    assert await system.value("SELECT state FROM pay_notify_task") == "SUCCESS"
    assert await system.rows(CASES) == []


async def test_what_is_given_up_again_without_a_delivery_is_a_case_again(system: PayCenterSystem) -> None:
    """It is resent while the breaker of its endpoint is open, and ends once more before its turn for a trial."""
    await system.paid("mock")
    endpoint = await system.value("SELECT endpoint FROM pay_notify_task")
    breakers = system.services.delivery._endpoints.places.breakers
    for _ in range(notifications_endpoints.BREAKER_FAILURES):
        breakers.unanswered(endpoint, system.clock.now())
    for times in (1, 2):
        breakers.get(endpoint).trial_time = system.clock.now() + timedelta(days=30)
        system.clock.advance(GIVE_UP_AFTER.total_seconds() + OPEN_BEFORE_GIVING_UP.total_seconds())
        assert await system.deliver() == []
        assert await system.value("SELECT state FROM pay_notify_task") == "FAILURE"
        assert len(await system.rows(CASES)) == times
        assert await system.value("SELECT count(*) FROM pay_case WHERE state = 'OPEN'") == 1
        await decide(system, ANNE, await last_case(system), Decision.RETRY)


async def test_what_is_due_longest_comes_first(system: PayCenterSystem) -> None:
    """And not what has the first name."""
    for number in range(3):
        await fill(system, f"http://shop{number}.test/", 2, seconds_ago=number)
    assert await system.services.delivery._due() == ["http://shop2.test:80", "http://shop1.test:80", "http://shop0.test:80"]


@pytest.mark.parametrize("count", [8, 9, 10])
async def test_a_pass_goes_on_after_the_last_endpoint_of_the_one_before(
    system: PayCenterSystem, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """None is skipped, whatever their number is, and one that is not due yet is no end. A pass looks at 3 of them."""
    monkeypatch.setattr(notifications_delivery, "LOOKED_AT", 3)
    for number in range(count):
        await fill(system, f"http://shop{number}.test/", 1)
    await system.rows(
        "UPDATE pay_notify_task SET next_notify_time = now() + interval '1 hour' WHERE endpoint = 'http://shop2.test:80'"
    )
    looked = []
    for _ in range(2 * count):
        endpoints = await system.services.delivery._due()
        assert len(endpoints) <= 6, "at the end those of the beginning follow"
        looked += endpoints
    times = Counter(looked)
    assert len(times) == count - 1
    assert min(times.values()) >= 3


async def test_after_the_last_endpoint_a_pass_begins_again(system: PayCenterSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that each pass looks at all of them, if there are no more than it may look at."""
    monkeypatch.setattr(notifications_delivery, "LOOKED_AT", 3)
    for number in range(3):
        await fill(system, f"http://shop{number}.test/", 1)
    for _ in range(5):
        assert len(await system.services.delivery._due()) == 3


async def test_a_quick_endpoint_does_not_wait_for_its_turn(system: PayCenterSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside thousands of others, which a pass does not look at all at once."""
    await fill(system, ALIVE, 1)
    delivery = NotificationDelivery(system.services.context, Network())
    await delivery.deliver_due()
    await delivery.settle()
    monkeypatch.setattr(notifications_delivery, "LOOKED_AT", 3)
    for number in range(10):
        await fill(system, f"http://aa{number}.test/", 1)
        await fill(system, f"http://zz{number}.test/", 1)
    await fill(system, ALIVE, 1)
    for _ in range(5):
        assert "http://alive.test:80" in await delivery._due()


async def open_for_long(system: PayCenterSystem, delivery: NotificationDelivery, count: int, rows: int) -> None:
    """Endpoints whose breakers are open for long enough, each with so many notifications that are due for long enough."""
    for number in range(count):
        await fill(system, f"http://dead{number}.test/", rows, GIVE_UP_AFTER.total_seconds() + 60)
        for _ in range(notifications_endpoints.BREAKER_FAILURES):
            delivery._endpoints.unanswered(f"http://dead{number}.test:80", system.clock.now())
    system.clock.advance(OPEN_BEFORE_GIVING_UP.total_seconds() + 1)
    breakers = delivery._endpoints.places.breakers
    for number in range(count):
        breakers.get(f"http://dead{number}.test:80").trial_time = system.clock.now() + notifications_endpoints.LONGEST_PAUSE


async def test_a_pass_gives_up_so_many_at_most(system: PayCenterSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each endpoint the same number, and each pass goes on. What is due for a shorter time stays."""
    monkeypatch.setattr(notifications_delivery, "_GIVE_UP_BATCH", 4)
    delivery = NotificationDelivery(system.services.context, Network())
    await open_for_long(system, delivery, 6, 2)
    await fill(system, "http://dead0.test/", 3)
    counts = []
    for _ in range(4):
        await delivery.deliver_due()
        await delivery.settle()
        counts.append(await system.value("SELECT count(*) FROM pay_notify_task WHERE state = 'FAILURE'"))
    assert counts == [4, 8, 12, 12]
    assert await states(system, "http://dead0.test/") == {"FAILURE": 2, "WAITING": 3}
    assert len(await system.rows(CASES)) == 12


async def test_claims_do_not_wait_for_what_is_given_up(system: PayCenterSystem) -> None:
    """What is due for a shorter time stays, although there is room for it in the batch."""
    seen = []

    class Seen(NotificationDelivery):
        async def _take(self, places: Mapping[str, int]) -> list[DueNotification]:
            seen.append("claim")
            return await super()._take(places)

        async def _give_up_overdue(self) -> None:
            seen.append("give up")
            await super()._give_up_overdue()

    network = Network()
    delivery = Seen(system.services.context, network)
    await open_for_long(system, delivery, 2, 2)
    await fill(system, "http://dead0.test/", 3)
    await fill(system, ALIVE, 1)
    await delivery.deliver_due()
    await delivery.settle()
    assert seen == ["claim", "give up"]
    assert network.sent == {ALIVE: 1}
    assert await system.value("SELECT count(*) FROM pay_notify_task WHERE state = 'FAILURE'") == 4
