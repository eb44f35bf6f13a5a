"""Deliveries by endpoint: isolation, the breaker, the end of what waits for one, the cost of a claim, addresses."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from paycenter_server.domain.addresses import endpoint_of
from paycenter_server.services import notifications_endpoints
from paycenter_server.services.notifications_delivery import (
    GIVE_UP_AFTER,
    LEASE,
    OPEN_BEFORE_GIVING_UP,
    DeliveryResponse,
    NotificationDelivery,
)
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage import refunds as refund_rows
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
    """10,000 older notifications hang. None of them ends before those of the other endpoint are all delivered."""
    await fill(system, DEAD, 10_000, 3600)
    network = Network(hanging={DEAD})
    delivery = NotificationDelivery(system.services.context, network)
    await delivery.deliver_due()
    await eventually(lambda: network.sent[DEAD] == notifications_endpoints.FIRST_PLACES)
    await fill(system, ALIVE, 200)
    await delivery.deliver_due()

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


def rows_read(plan: dict[str, Any]) -> int:
    """The rows that the scans of a plan have read, with those that a filter removed."""
    removed = sum(int(plan.get(name, 0)) for name in ("Rows Removed by Filter", "Rows Removed by Index Recheck"))
    own = (plan["Actual Rows"] + removed) * plan["Actual Loops"] if "Scan" in plan["Node Type"] else 0
    return int(own) + sum(rows_read(inner) for inner in plan.get("Plans", ()))


async def explained(system: PayCenterSystem, statement: str, *arguments: Any) -> int:
    """The rows that a statement reads under a generic plan, without statistics, in a transaction that is rolled back."""
    connection = await asyncpg.connect(
        system.database_url, server_settings={"plan_cache_mode": "force_generic_plan", "jit": "off", "enable_seqscan": "off"}
    )
    try:
        opened = connection.transaction()
        await opened.start()
        (line,) = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
        await opened.rollback()
        return rows_read(json.loads(line[0])[0]["Plan"])
    finally:
        await connection.close()


@pytest.mark.parametrize("backlog", [10, 20_000])
async def test_a_claim_reads_the_rows_that_it_takes(system: PayCenterSystem, backlog: int) -> None:
    await system.rows("TRUNCATE pay_notify_task, pay_notify_log")
    await fill(system, DEAD, backlog, 3600)
    await fill(system, ALIVE, 10)
    now = system.clock.now()
    places = {endpoint_of(DEAD): 5, endpoint_of(ALIVE): 5}
    taken = await explained(system, notification_rows._CLAIM, now, now + LEASE, list(places), list(places.values()))
    looked = await explained(system, notification_rows._DUE_ENDPOINTS, now)
    print(f"backlog {backlog}: a claim of 10 reads {taken} rows, the due endpoints {looked}")
    assert taken <= 100
    assert looked <= 10


OTHER_CLAIMS = {
    "pay_order": order_rows.claim_expired, "pay_attempt": attempt_rows.claim_due, "pay_refund": refund_rows.claim_due,
}  # fmt: skip


class Spy:
    """A connection that keeps the statement that is executed, with its arguments."""

    def __init__(self) -> None:
        self.seen: tuple[Any, ...] = ()

    async def fetch(self, *statement: Any) -> list[Any]:
        self.seen = statement
        return []


@pytest.mark.parametrize("table", OTHER_CLAIMS)
async def test_the_other_claims_read_the_rows_that_they_take(system: PayCenterSystem, table: str) -> None:
    system.books_are_checked = False
    order = await system.paid("mock")
    await system.refund(order, 10)
    keys = {"merchant_order_id": "M", "merchant_refund_no": "R"}
    columns = {row["column_name"] for row in await columns_of(system, table)}
    changed = ", ".join(f"'{name}', '{letter}' || n" for name, letter in keys.items() if name in columns)
    also = ", 'out_refund_key', gen_random_uuid()" if table == "pay_refund" else ""
    await system.rows(
        f"""INSERT INTO {table} SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(),
              'next_check_time', now() - interval '1 hour'{"," if changed else ""} {changed}{also}))).*
            FROM {table} t, generate_series(1, 4000) n"""
    )
    spy, now = Spy(), system.clock.now()
    await OTHER_CLAIMS[table](spy, now, now + LEASE, 10)  # type: ignore[arg-type]
    assert await explained(system, *spy.seen) <= 100


async def columns_of(system: PayCenterSystem, table: str) -> list[asyncpg.Record]:
    return await system.rows("SELECT column_name FROM information_schema.columns WHERE table_name = $1", table)
