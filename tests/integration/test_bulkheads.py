"""The jobs by account: what hangs delays no other account, with places, tokens and a breaker for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from integration.test_refunds_elsewhere import paid, refund_in_the_console
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport, NotSentError, TransportUnclearError
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.schedule import EXPIRE_RETRY_DELAYS, STALE_AFTER
from paycenter_server.domain.states import OrderState, RefundState
from paycenter_server.services import accounts_places, channels_gateway, jobs_stale
from paycenter_server.services.context import deadline
from paycenter_server.services.jobs import CALLS_PER_ROW, lease
from paycenter_server.services.places import Limits, Places
from paycenter_server.workers.runner import make_jobs
from structlog.testing import capture_logs
from support.copies import accounts, copies
from support.locks import transaction
from support.server_process import server_process
from support.system import PayCenterSystem, SystemOn
from support.waiting import ended, eventually

ALIPAY, WECHAT = "gateway.do", "/v3/"
FIRST = accounts_places.FIRST_PLACES


@dataclass
class Network:
    """Calls of channels in `hanging` wait until `end`, those in `silent` have no answer. The others get what their names say."""

    inner: AiohttpTransport = field(default_factory=AiohttpTransport)
    hanging: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    unreachable: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    junk: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    end: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        self.calls.append(request.url)
        if any(part in request.url for part in self.hanging):
            await self.end.wait()
            if any(part in request.url for part in self.hanging):
                raise TransportUnclearError("no answer")
        if any(part in request.url for part in self.silent):
            raise TransportUnclearError("no answer")
        if any(part in request.url for part in self.unreachable):
            raise NotSentError("connection refused")
        if any(part in request.url for part in self.broken):
            return HttpResponse(503, {}, b"")
        if any(part in request.url for part in self.junk):
            return HttpResponse(200, {}, b"junk")
        return await self.inner.send(request, seconds)

    def count(self, part: str) -> int:
        return sum(1 for url in self.calls if part in url)


@pytest.fixture
async def network() -> Network:
    return Network()


@pytest.fixture
async def system(network: Network, system_on: SystemOn) -> AsyncIterator[PayCenterSystem]:
    async with system_on(network) as opened:
        yield opened
        opened.services.jobs.stop()
        network.end.set()
        await opened.services.jobs.settle()


async def due_attempts(system: PayCenterSystem, count: int, code: str = "alipay_qr") -> PayOrder:
    """An order with so many unsettled attempts at this channel, all due."""
    order = await system.order()
    await system.submit(order, code)
    await copies(system, "pay_attempt", count - 1)
    await system.rows("UPDATE pay_attempt SET next_check_time = now() - interval '1 hour'")
    return order


async def paid_unheard(system: PayCenterSystem, code: str = "wx_native") -> PayOrder:
    """A paid order whose callback was lost, with a due attempt."""
    order = await system.order()
    attempt = await system.submit(order, code)
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    await system.rows("UPDATE pay_attempt SET next_check_time = now() WHERE id = $1", attempt.id)
    return order


async def test_200_attempts_that_hang_do_not_delay_another_account(system: PayCenterSystem, network: Network) -> None:
    """Its attempt is claimed by the next pass, while all places of the account that hangs are taken, and nothing ends meanwhile."""
    job = make_jobs(system.services.jobs, system.services.delivery)["pay_order_sync_job"]
    await due_attempts(system, 200)
    network.hanging.add(ALIPAY)
    before = network.count(ALIPAY)
    await job.run()
    await eventually(lambda: network.count(ALIPAY) == before + FIRST)
    order = await paid_unheard(system)
    claimed = "SELECT check_count FROM pay_attempt WHERE order_id = $1"
    assert await system.value(claimed, order.id) == 0
    await job.run()
    assert await system.value(claimed, order.id) == 1
    await system.until(order, "SUCCESS")
    assert not network.end.is_set()
    assert network.count(ALIPAY) == before + FIRST
    assert await system.value("SELECT count(*) FROM pay_attempt WHERE next_check_time < now()") == 200 - FIRST


async def test_a_refund_that_hangs_does_not_delay_another_account(system: PayCenterSystem, network: Network) -> None:
    order = await system.paid("alipay_qr")
    refund = await system.refund(order, 10)
    await system.rows("UPDATE pay_refund SET state = 'WAITING', success_time = NULL")
    await copies(system, "pay_refund", 100)
    system.books_are_checked = False
    network.hanging.add(ALIPAY)
    before = network.count(ALIPAY)
    await system.services.jobs.start_refund_sync()
    await eventually(lambda: network.count(ALIPAY) == before + FIRST)
    other = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "reset_before_commit")
    quick = await system.refund(other, 10)
    assert quick.state.value == "WAITING"
    assert refund.id != quick.id
    await system.rows("UPDATE pay_refund SET next_check_time = now() WHERE id = $1", quick.id)
    await system.services.jobs.start_refund_sync()

    async def decided() -> bool:
        # Sent by the job; what it did not decide at once is queried.
        await system.rows("UPDATE pay_refund SET next_check_time = now() WHERE id = $1 AND state = 'WAITING'", quick.id)
        await system.services.jobs.start_refund_sync()
        return bool(await system.value("SELECT state FROM pay_refund WHERE id = $1", quick.id) == "SUCCESS")

    await eventually(decided)
    assert network.count(ALIPAY) == before + FIRST


async def test_expired_orders_that_hang_do_not_delay_another_account(system: PayCenterSystem, network: Network) -> None:
    """Neither an order without attempts, nor one with an attempt at another account."""
    soon = system.clock.now() + timedelta(seconds=60)
    bare, paid = await system.order(expire_time=soon), await system.order(expire_time=soon)
    attempt = await system.submit(paid)
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    hanging = await system.order(expire_time=soon)
    await system.submit(hanging, "alipay_qr")
    await system.rows(
        """WITH made AS (INSERT INTO pay_order SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(),
             'merchant_order_id', 'H' || n, 'next_check_time', now()))).* FROM pay_order t, generate_series(1, 100) n
             WHERE t.id = $1 RETURNING id)
           INSERT INTO pay_attempt SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(), 'order_id', made.id,
             'next_check_time', now()))).* FROM pay_attempt t, made WHERE t.order_id = $1""",
        hanging.id,
    )  # fmt: skip
    network.hanging.add(ALIPAY)
    system.clock.advance(61)
    await system.services.jobs.start_order_expiry()
    assert (await system.read(bare)).state is OrderState.CLOSED
    await system.until(paid, "SUCCESS")
    assert await system.value("SELECT count(*) FROM pay_order WHERE state = 'WAITING'") == 101
    assert not network.end.is_set()


async def test_the_end_of_the_last_attempt_closes_an_expired_order(system: PayCenterSystem) -> None:
    order = await system.order(expire_time=system.clock.now() + timedelta(seconds=60))
    await system.submit(order)
    await system.submit(order, "mock", behaviour="never")
    system.clock.advance(61)
    await system.services.jobs.sync_orders()
    assert (await system.read(order)).state is OrderState.CLOSED


async def test_an_attempt_is_checked_at_its_expiry(system: PayCenterSystem, network: Network) -> None:
    """The job that closes expired orders makes no calls, so the attempt must be due then. Then it is checked as often as an
    expired order."""
    order = await system.order(expire_time=system.clock.now() + timedelta(seconds=200))
    attempt = await system.submit(order)
    await system.rows("UPDATE pay_attempt SET check_count = 6")
    system.clock.advance(31)
    await system.services.jobs.sync_orders()
    due = "SELECT next_check_time FROM pay_attempt"
    assert await system.value(due) == attempt.expire_time
    system.clock.advance(170)
    network.silent.add(WECHAT)
    await system.services.jobs.sync_orders()
    assert abs(await system.value(due) - system.clock.now() - timedelta(seconds=EXPIRE_RETRY_DELAYS[0])) < timedelta(seconds=2)


@pytest.mark.parametrize("how", ["silent", "unreachable", "broken", "junk"])
async def test_behind_an_open_breaker_only_trials_are_made(system: PayCenterSystem, network: Network, how: str) -> None:
    """The other rows stay due, and are not changed."""
    await due_attempts(system, 60)
    getattr(network, how).add(ALIPAY)

    async def run() -> int:
        before = network.count(ALIPAY)
        await system.services.jobs.sync_orders()
        return network.count(ALIPAY) - before

    assert await run() == FIRST
    assert await run() == 0
    assert await system.value("SELECT count(*) FROM pay_attempt WHERE check_count = 0") == 60 - FIRST
    system.clock.advance(accounts_places.FIRST_PAUSE.total_seconds() + 1)
    assert await run() == 1
    assert await run() == 0
    getattr(network, how).clear()
    system.clock.advance(accounts_places.LONGEST_PAUSE.total_seconds() + 1)
    assert await run() == 1
    assert await run() >= 60 - FIRST - 2


async def test_the_breaker_of_an_account_is_that_of_both_jobs(system: PayCenterSystem, network: Network) -> None:
    order = await system.paid("alipay_qr")
    await system.simulator.fault("alipay.trade.refund", "reset_before_commit")
    await system.refund(order, 10)
    await due_attempts(system, 20)
    await system.rows("UPDATE pay_refund SET next_check_time = now()")
    network.silent.add(ALIPAY)
    await system.services.jobs.sync_orders()
    before = network.count(ALIPAY)
    await system.services.jobs.sync_refunds()
    assert network.count(ALIPAY) == before
    assert await system.value("SELECT check_count FROM pay_refund") == 0


async def test_answers_with_a_5xx_open_the_breaker(system: PayCenterSystem) -> None:
    """They are signed, and can be read."""
    await due_attempts(system, 20, "wx_native")
    await system.simulator.fault("wx.query", "error_before_commit", times=-1)
    await system.services.jobs.sync_orders()
    wechat, _ = await accounts(system)
    assert system.services.account_places.is_open(wechat)


async def test_a_deadline_of_a_caller_does_not_open_the_breaker(system: PayCenterSystem, network: Network) -> None:
    """A call that had less time than the setting says little about the channel."""
    order = await due_attempts(system, 1)
    network.silent.add(ALIPAY)
    token = deadline.set(asyncio.get_running_loop().time() + 2)
    for _ in range(6):
        with suppress(PayCenterError):
            await system.services.orders.sync(system.caller, order.number)
    deadline.reset(token)
    _, alipay = await accounts(system)
    assert network.count("alipay.trade.query") >= 6
    assert not system.services.account_places.is_open(alipay)


async def test_callers_are_not_held_up_and_their_answers_close_the_breaker(system: PayCenterSystem, network: Network) -> None:
    order = await due_attempts(system, 20)
    network.silent.add(ALIPAY)
    await system.services.jobs.sync_orders()
    _, alipay = await accounts(system)
    assert system.services.account_places.is_open(alipay)
    network.silent.clear()
    before = network.count(ALIPAY)
    await system.services.orders.sync(system.caller, order.number)
    assert network.count(ALIPAY) > before
    assert not system.services.account_places.is_open(alipay)


@pytest.mark.parametrize("what", ["attempt", "refund"])
async def test_what_waits_for_a_breaker_becomes_stale_by_its_age(
    system: PayCenterSystem, network: Network, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A case is opened although no call is made, page by page."""
    monkeypatch.setattr(jobs_stale, "PAGE", 10)
    job = system.services.jobs.sync_orders if what == "attempt" else system.services.jobs.sync_refunds
    if what == "attempt":
        await due_attempts(system, 35)
    else:
        system.books_are_checked = False
        await system.simulator.fault("alipay.trade.refund", "reset_before_commit")
        await system.refund(await system.paid("alipay_qr"), 10)
        await copies(
            system,
            "pay_refund",
            34,
            out_refund_key="overlay(t.out_refund_key::text placing substr(md5(random()::text), 1, 12) from 25)",
        )
        await system.rows("UPDATE pay_refund SET next_check_time = now() - interval '1 hour'")
    network.silent.add(ALIPAY)
    await job()
    assert await system.cases() == []
    system.clock.advance(7200 + STALE_AFTER.total_seconds() + 60)
    _, alipay = await accounts(system)
    calls = network.count(ALIPAY)
    for _ in range(5):
        # Nothing is tried meanwhile.
        system.services.account_places._breakers.get(alipay).trial_time = system.clock.now() + timedelta(minutes=1)
        await job()
    assert network.count(ALIPAY) == calls
    assert {case["kind"] for case in await system.cases()} == {f"STALE_{what.upper()}"}
    assert len(await system.cases()) == 35


@asynccontextmanager
async def limited(system_on: SystemOn, network: Network, **more: Any) -> AsyncIterator[PayCenterSystem]:
    async with system_on(network, **more) as system:
        yield system
        system.services.jobs.stop()
        network.end.set()
        await system.services.jobs.settle()


async def test_calls_a_second_are_limited(network: Network, system_on: SystemOn) -> None:
    async with limited(system_on, network, account_calls_burst=3, account_calls_per_second=0.01) as system:
        await due_attempts(system, 20, "wx_native")
        before = network.count(WECHAT)
        await system.services.jobs.start_order_sync()
        await eventually(lambda: network.count(WECHAT) == before + 3)
        await system.services.jobs.start_order_sync()
        assert await system.value("SELECT count(*) FROM pay_attempt WHERE check_count > 0") == 3
        system.clock.advance(201)
        await system.services.jobs.start_order_sync()
        await eventually(lambda: network.count(WECHAT) == before + 5)
        assert await system.value("SELECT count(*) FROM pay_attempt WHERE check_count > 0") == 5


async def test_rows_that_fail_without_a_call_take_tokens_too(network: Network, system_on: SystemOn) -> None:
    """A worker without the key of an account's secrets would otherwise claim and log its rows as fast as it can."""
    async with limited(system_on, network, account_calls_burst=3, account_calls_per_second=0.01) as system:
        await due_attempts(system, 20, "wx_native")
        await system.rows(
            """UPDATE pay_account SET version = version + 1, config = replace(config::text, '"v1:', '"v1:gone')::jsonb
               WHERE id = (SELECT account_id FROM pay_attempt LIMIT 1)"""
        )
        system.services.gateway.channels.forget_account(await system.value("SELECT account_id FROM pay_attempt LIMIT 1"))
        before = network.count(WECHAT)
        with capture_logs() as logs:
            for _ in range(2):
                await system.services.jobs.start_order_sync()
                await eventually(lambda: [line["event"] for line in logs].count("job_item_postponed") == 3)
        assert await system.value("SELECT count(*) FROM pay_attempt WHERE check_count > 0") == 3
        assert network.count(WECHAT) == before
        (why,) = [line for line in logs if line["event"] != "job_item_postponed"]
        assert (why["event"], "add it to the master key file" in why["why"]) == ("account_unusable", True)
        assert not any("exc_info" in line for line in logs)


async def test_orders_that_somebody_has_locked_do_not_hold_up_a_worker(system: PayCenterSystem) -> None:
    """Each takes a connection until its statement gives up, and all jobs share the connections."""
    locked = [await paid_unheard(system) for _ in range(2)]
    free = await paid_unheard(system)
    await system.rows("UPDATE pay_attempt SET next_check_time = now() - interval '1 minute' WHERE order_id = $1", free.id)
    await system.rows(
        "UPDATE pay_attempt SET next_check_time = now() - interval '1 hour' WHERE order_id = ANY($1)", [one.id for one in locked]
    )
    async with transaction(system) as holder:
        await holder.execute("SELECT id FROM pay_order WHERE id = ANY($1) FOR UPDATE", [one.id for one in locked])
        async with server_process(system, "worker", database_pool="1") as worker:
            await system.until(free, "SUCCESS")
            await eventually(lambda: worker.log.count("DATABASE_CONFLICT") == 2)
            assert "job_failed" not in worker.log


async def test_every_call_of_a_row_takes_a_token(network: Network, system_on: SystemOn) -> None:
    """A query and a close: the second one is not held up, but what follows is."""
    async with limited(system_on, network, account_calls_burst=2, account_calls_per_second=0.01) as system:
        await due_attempts(system, 20, "wx_native")
        await system.rows("UPDATE pay_attempt SET expire_time = now() - interval '1 s', create_time = now() - interval '1 hour'")
        before = network.count(WECHAT)
        await system.services.jobs.start_order_sync()
        await eventually(lambda: network.count(WECHAT) == before + 4)
        claims = system.services.jobs._order_sync
        await eventually(lambda: not claims._working)
        started = claims.started  # by a pass or by the task that claims as places become free

        async def look() -> None:
            # That task may have the place, and its statement be in progress: several passes see what is claimed.
            for _ in range(3):
                await system.services.jobs.start_order_sync()
                await eventually(lambda: not claims._working)

        system.clock.advance(201)  # two tokens, of which two are owed
        await look()
        assert claims.started == started
        system.clock.advance(101)
        await look()
        await eventually(lambda: claims.started > started)
        await look()
        assert claims.started == started + 1


async def test_no_more_is_in_progress_than_there_are_places(network: Network, system_on: SystemOn) -> None:
    async with limited(system_on, network, account_places=2) as system:
        await due_attempts(system, 20)
        network.hanging.add(ALIPAY)
        before = network.count(ALIPAY)
        for _ in range(3):
            await system.services.jobs.start_order_sync()
        await eventually(lambda: network.count(ALIPAY) == before + 2)
        assert await system.value("SELECT count(*) FROM pay_attempt WHERE check_count > 0") == 2


# Leases


@pytest.mark.parametrize("seconds", [5.0, 60.0])
async def test_a_lease_outlives_the_work_on_a_row(network: Network, system_on: SystemOn, seconds: float) -> None:
    """All claimed rows begin at once, so that is the work on one row: its calls, and what it may wait for beside them."""
    async with limited(system_on, network, channel_timeout=seconds) as system:
        await system.submit(await system.order(), "alipay_qr")
        refund = await system.refund(await system.paid("mock"), 10)
        await system.rows("UPDATE pay_refund SET state = 'WAITING', success_time = NULL, next_check_time = now()")
        await system.rows("UPDATE pay_attempt SET next_check_time = now() WHERE next_check_time IS NOT NULL")
        expiring = await system.order(expire_time=system.clock.now() + timedelta(seconds=60))
        await system.rows("UPDATE pay_order SET next_check_time = now() WHERE id = $1", expiring.id)
        now, until = system.clock.now(), CALLS_PER_ROW * timedelta(seconds=seconds) + timedelta(seconds=30)
        network.hanging.add(ALIPAY)
        jobs = system.services.jobs
        async with transaction(system) as held:
            # The work on these rows waits, so their times are those of the claim.
            await held.execute("SELECT 1 FROM pay_order FOR UPDATE")
            passes = [
                asyncio.create_task(one()) for one in (jobs.start_order_sync, jobs.start_refund_sync, jobs.start_order_expiry)
            ]

            async def claimed() -> bool:
                return await system.value(
                    """SELECT (SELECT bool_and(next_check_time > $1) FROM pay_attempt WHERE next_check_time IS NOT NULL)
                         AND (SELECT bool_and(next_check_time > $1) FROM pay_refund WHERE id = $2)""", now + until, refund.id
                ) is True  # fmt: skip

            await eventually(claimed)
        await asyncio.gather(*passes)
        system.books_are_checked = False


@pytest.mark.parametrize("kind", ["attempt", "refund"])
async def test_a_pass_does_not_wait_for_stale_cases(system: PayCenterSystem, kind: str) -> None:
    """Each case is a transaction, and there may be a page of them."""
    if kind == "attempt":
        await system.submit(await system.order(), "mock", behaviour="never")
        begin = system.services.jobs.start_order_sync
    else:
        order = await system.paid("mock")
        await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "timeout"})
        await system.refund(order, 40)
        begin = system.services.jobs.start_refund_sync
    system.clock.advance(3 * 86_400)
    async with transaction(system) as held:
        await held.execute("LOCK TABLE pay_case")
        await asyncio.wait_for(begin(), 10)
    await system.services.jobs.settle()
    assert [case["kind"] for case in await system.cases()] == [f"STALE_{kind.upper()}"]


async def test_a_lease_outlives_the_work_on_a_batch_of_expired_orders(system: PayCenterSystem) -> None:
    """They are closed a few at a time."""
    options = system.services.context.options
    for batch in (options.sync_batch, 600):
        assert lease(replace(options, sync_batch=batch)) >= timedelta(seconds=batch + CALLS_PER_ROW * options.channel_timeout)


async def test_the_longest_work_on_a_row_has_as_many_calls_as_its_lease_allows(system: PayCenterSystem, network: Network) -> None:
    """Two earlier numbers are queried. A refund that is not found is sent again; its trade and then itself are queried. Each call
    may be delayed by a fetch of keys."""
    order, number = await paid(system, "alipay_qr")
    await refund_in_the_console(system, "alipay_qr", number, 100)
    await eventually(system.cases)  # its callback makes a call too
    await system.simulator.fault("alipay.trade.refund", "decline", code="ACQ.TRADE_STATUS_ERROR", times=2)
    assert (await system.refund(order, 40)).state is RefundState.WAITING
    earlier = [f"0000000{number}-0000-7000-8000-000000000000" for number in range(1, 5)]
    await system.rows(
        "UPDATE pay_refund SET next_check_time = now(), send_count = 5, earlier_look_time = to_timestamp(0), "
        "earlier_out_refund_keys = $1", earlier
    )  # fmt: skip
    before = len(network.calls)
    await system.services.jobs.sync_refunds()
    made = len(network.calls) - before
    assert made == 6
    assert 2 * made <= CALLS_PER_ROW


def test_a_key_that_is_forgotten_keeps_no_old_breaker() -> None:
    limits = Limits(
        total=10, slow=5, each=2, first=2, fast_seconds=1.0, failures=1, first_pause=timedelta(seconds=1),
        longest_pause=timedelta(seconds=1), remembered=2,
    )  # fmt: skip
    places, now = Places[str](limits), datetime(2026, 11, 29, tzinfo=UTC)
    for name in ("a", "b", "c", "d"):
        places.give_back(name, places.reserve([name], now)[name])
    places.breakers.unanswered("d", now)
    assert places.reserve(["d"], now) == {}


async def test_calls_of_an_account_that_wait_for_its_channel_are_limited(
    system: PayCenterSystem, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no place among the calls of the server, and each has a connection. What is refused was not sent."""
    monkeypatch.setattr(channels_gateway, "MOST_WAITING", 3)
    orders = [await system.order() for _ in range(5)]
    network.hanging.add(WECHAT)
    hanging = [asyncio.ensure_future(system.submit(order, "wx_native")) for order in orders[:3]]
    await eventually(lambda: network.count(WECHAT) == 3)
    (refused,) = await ended([asyncio.ensure_future(system.submit(orders[3], "wx_native"))])
    assert isinstance(refused, PayCenterError)
    assert refused.reason is Reason.CHANNEL_UNREACHABLE
    assert "3 calls of the account wait" in refused.message
    assert await system.value("SELECT state FROM pay_attempt WHERE order_id = $1", orders[3].id) == "CLOSED"
    assert (await system.submit(orders[4], "alipay_qr")).display_content, "another account"
    assert network.count(WECHAT) == 3
    network.hanging.clear()
    network.end.set()
    await ended(hanging)
    assert (await system.submit(orders[3], "wx_native")).display_content
