"""Final states are looked at again: refunds that succeed after a refusal, and attempts that are paid after they were closed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from paycenter_server.bootstrap import open_services, set_clock
from paycenter_server.channels.protocol import HttpRequest, HttpResponse, RefundOutcome, RefundStatus
from paycenter_server.channels.transport import AiohttpTransport, TransportUnclearError
from paycenter_server.clock import DatabaseClock
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.cases import Decision
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.schedule import CLOSED_ATTEMPT, FAILED_REFUND, REQUEST_LIFE, VERIFY_DELAYS
from paycenter_server.domain.states import CaseEvent, OrderState, RefundState
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage import refunds_numbers as number_rows
from paycenter_server.storage.refunds import Certainty, Sending
from support.facts import configured, failed, refunded
from support.system import CAUSE, OPERATOR, PayCenterSystem, SystemOn

REFUND_CALLS = {"wx_native": ("/v3/refund/domestic/refunds", "wx.refund", "RULE_LIMIT"),
                "alipay_qr": ("method=alipay.trade.refund&", "alipay.trade.refund", "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL")}  # fmt: skip
SECOND = timedelta(seconds=1)


@dataclass
class SlowFirst:
    """A network on which the first send of a refund has no answer, and arrives when the test lets it."""

    path: str
    inner: AiohttpTransport = field(default_factory=AiohttpTransport)
    kept: HttpRequest | None = None

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if self.kept is None and request.method == "POST" and (request.url.endswith(self.path) or self.path in request.url):
            self.kept = request
            raise TransportUnclearError("on its way")
        return await self.inner.send(request, seconds)

    async def arrive(self) -> HttpResponse:
        assert self.kept is not None
        return await self.inner.send(self.kept, 5)


async def current(system: PayCenterSystem, refund: PayRefund) -> PayRefund:
    return await system.services.refunds.load(system.caller, refund.number)


async def books(system: PayCenterSystem, order: PayOrder) -> tuple[str, int, int, int]:
    now = await system.read(order)
    return (now.state.value, now.paid_amount, now.reserved_amount, now.refunded_amount)


async def job(system: PayCenterSystem, seconds: float) -> None:
    system.clock.advance(seconds)
    await system.services.jobs.sync_refunds()


@pytest.fixture(params=["wx_native", "alipay_qr"])
async def slow(request: pytest.FixtureRequest, system_on: SystemOn) -> AsyncIterator[tuple[PayCenterSystem, SlowFirst, str]]:
    network = SlowFirst(REFUND_CALLS[request.param][0])
    async with system_on(network) as system:
        yield system, network, request.param


async def without_callbacks(system: PayCenterSystem) -> None:
    for family in ("wx", "alipay"):
        await system.simulator.fault(f"{family}.notify", "drop", times=-1)


async def test_A2_a_refusal_after_an_unclear_send_decides_nothing(slow: tuple[PayCenterSystem, SlowFirst, str]) -> None:
    """The first send is slow; the query says "not found", the repeat is refused; then the first send is carried out."""
    system, network, code = slow
    order = await system.paid(code)
    await without_callbacks(system)
    refund = await system.refund(order, 40, merchant_refund_no="R1")
    assert network.kept is not None
    _, api, refusal = REFUND_CALLS[code]
    await system.simulator.fault(api, "decline", code=refusal, times=1)
    await job(system, 11)
    assert (await current(system, refund)).state is RefundState.WAITING
    assert (await books(system, order))[2:] == (40, 0)
    assert [event for event in await told(system) if "refund" in event] == []
    assert (await network.arrive()).status == 200
    again = await system.refund(order, 40, merchant_refund_no="R1")  # the app repeats, as the contract allows
    assert (await system.decided(refund)).state is RefundState.SUCCESS
    assert again.number == refund.number
    assert await books(system, order) == ("REFUND", 100, 0, 40)
    assert [event for event in await told(system) if "refund" in event] == ["pay_refund.success"]


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_a_refusal_after_a_send_that_was_accepted_decides_nothing(system: PayCenterSystem, code: str) -> None:
    """The refund is in progress at the channel, whose query does not find it yet. The repeat is refused."""
    order = await system.paid(code)
    await without_callbacks(system)
    _, api, refusal = REFUND_CALLS[code]
    await system.simulator.fault(api, "refund_pending", seconds=600)
    refund = await system.refund(order, 40, merchant_refund_no="R1")
    assert refund.state is RefundState.WAITING
    await system.simulator.fault("wx.refund_query", "decline", code="RESOURCE_NOT_EXISTS", times=1)
    await system.simulator.fault(api, "decline", code=refusal, times=1)
    await job(system, 11)
    found = await current(system, refund)
    assert (found.state, found.channel_error_code) == (RefundState.WAITING, refusal)
    assert (await books(system, order))[2:] == (40, 0)
    await system.simulator.advance(601)
    assert (await system.decided(refund)).state is RefundState.SUCCESS
    assert await books(system, order) == ("REFUND", 100, 0, 40)
    assert [event for event in await told(system) if "refund" in event] == ["pay_refund.success"]


async def told(system: PayCenterSystem) -> list[str]:
    return [row["event"] for row in await system.rows("SELECT event FROM pay_notify_task ORDER BY id")]


async def test_a_refusal_is_final_after_no_request_can_be_carried_out(slow: tuple[PayCenterSystem, SlowFirst, str]) -> None:
    system, _, code = slow
    order = await system.paid(code)
    await without_callbacks(system)
    refund = await system.refund(order, 40)
    _, api, refusal = REFUND_CALLS[code]
    await system.simulator.fault(api, "decline", code=refusal, times=-1)
    await job(system, 11)
    assert (await current(system, refund)).state is RefundState.WAITING
    # Not the clock: the channel refuses requests that are signed ten minutes from its own time.
    await system.rows(
        "UPDATE pay_refund SET unclear_send_time = unclear_send_time - $1::interval, next_check_time = now()", REQUEST_LIFE
    )
    await job(system, 0)
    found = await current(system, refund)
    assert (found.state, found.channel_error_code) == (RefundState.FAILURE, refusal)
    assert (await books(system, order))[2:] == (0, 0)


async def test_a_refusal_of_the_only_send_is_final_at_once(system: PayCenterSystem) -> None:
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "decline", code="RULE_LIMIT")
    assert (await system.refund(order, 40)).state is RefundState.FAILURE


async def test_a_refund_whose_process_ended_before_the_answer_is_unclear(system: PayCenterSystem) -> None:
    """Nothing was stored about the first send except that it began."""
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "timeout"})
    refund = await system.refund(order, 40)
    assert refund.unclear_send_time is not None
    now = system.clock.now()
    async with system.services.context.database.transaction() as connection:
        sending = await refund_rows.begin_send(connection, refund, now)
        assert sending is not None
        assert sending.before == refund.unclear_send_time
        no: dict[str, Any] = {"code": "NO", "message": "", "now": now, "next_look": None}
        early = Certainty(sending, refund.unclear_send_time - SECOND)
        assert not await refund_rows.fail(connection, refund, CAUSE, early, **no)
        assert not await refund_rows.fail(connection, refund, CAUSE, Certainty(sending), **no)
        assert not await refund_rows.fail(connection, refund, CAUSE, Certainty(Sending(now - SECOND, None)), **no)
        assert await refund_rows.fail(connection, refund, CAUSE, Certainty(sending, refund.unclear_send_time), **no)


async def test_a_clear_answer_ends_its_own_send_only(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "timeout"})
    refund = await system.refund(order, 40)
    now = system.clock.now()
    noted: dict[str, Any] = {"code": "PENDING", "message": "", "next_check": now, "now": now}
    async with system.services.context.database.connection() as connection:
        second = await refund_rows.begin_send(connection, refund, now)
        third = await refund_rows.begin_send(connection, refund, now + SECOND)
        await refund_rows.note(connection, refund, CAUSE, second, **noted)
        assert (await current(system, refund)).unclear_send_time == now + SECOND
        await refund_rows.note(connection, refund, CAUSE, third, **noted)
        assert (await current(system, refund)).unclear_send_time == now


async def failed_refund(system: PayCenterSystem, amount: int = 40, **more: Any) -> tuple[PayOrder, PayRefund]:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "failure"})
    refund = await system.refund(order, amount, **more)
    assert refund.state is RefundState.FAILURE
    return order, refund


async def succeeds_now(system: PayCenterSystem) -> None:
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "success"})


@pytest.mark.parametrize("how", ["sync", "job", "send_again", "callback"])
async def test_a_refund_that_succeeds_late_is_booked_and_told(system: PayCenterSystem, how: str) -> None:
    order, refund = await failed_refund(system, merchant_refund_no="R1")
    await succeeds_now(system)
    if how == "sync":
        await system.services.refunds.sync(system.caller, refund)
    elif how == "job":
        await job(system, VERIFY_DELAYS[FAILED_REFUND][0] + 1)
    elif how == "send_again":
        assert (await system.refund(order, 40, merchant_refund_no="R1")).send_count == 1
    else:
        channel = await configured(system, "mock")
        await system.services.refund_settlement.receive_callback(channel, refunded(channel, refund), CAUSE)
    assert (await current(system, refund)).state is RefundState.SUCCESS
    assert await books(system, order) == ("REFUND", 100, 0, 40)
    assert await told(system) == ["pay_order.success", "pay_refund.failure", "pay_refund.success"]
    assert await system.cases() == []


async def test_a_late_success_that_the_payment_has_no_room_for_is_a_case(system: PayCenterSystem) -> None:
    order, refund = await failed_refund(system, 60)
    await succeeds_now(system)
    other = await system.refund(order, 50)
    assert other.state is RefundState.SUCCESS
    assert (await system.services.refunds.sync(system.caller, refund)).state is RefundState.FAILURE
    assert await books(system, order) == ("REFUND", 100, 0, 50)
    assert [case["kind"] for case in await system.cases()] == ["REFUND_MISMATCH"]


async def test_a_late_success_is_booked_once(system: PayCenterSystem) -> None:
    order, refund = await failed_refund(system)
    channel = await configured(system, "mock")
    for _ in range(2):
        await system.services.refund_settlement.receive_callback(channel, refunded(channel, refund), CAUSE)
    assert await books(system, order) == ("REFUND", 100, 0, 40)
    assert await system.cases() == []


async def test_a_failed_refund_is_looked_at_in_minutes_an_hour_and_a_day(system: PayCenterSystem) -> None:
    _, refund = await failed_refund(system)
    looks = []
    for _ in range(5):
        found = await current(system, refund)
        if found.next_check_time is None:
            break
        looks.append((found.next_check_time - found.update_time).total_seconds())
        await job(system, (found.next_check_time - system.clock.now()).total_seconds() + 1)
    assert looks == list(VERIFY_DELAYS[FAILED_REFUND])
    assert (await current(system, refund)).state is RefundState.FAILURE


async def test_the_looks_at_a_success_that_cannot_be_booked_end(system: PayCenterSystem) -> None:
    order, refund = await failed_refund(system, 60)
    await succeeds_now(system)
    await system.refund(order, 50)
    looks = []
    for _ in range(5):
        found = await current(system, refund)
        if found.next_check_time is None:
            break
        looks.append((found.next_check_time - found.update_time).total_seconds())
        await job(system, (found.next_check_time - system.clock.now()).total_seconds() + 1)
    assert looks == list(VERIFY_DELAYS[FAILED_REFUND])
    assert [case["kind"] for case in await system.cases()] == ["REFUND_MISMATCH"]


async def test_a_retry_about_a_success_that_cannot_be_booked_settles_it(system: PayCenterSystem) -> None:
    """The REFUND_MISMATCH case stays open."""
    order, refund = await failed_refund(system, 60)
    await succeeds_now(system)
    await system.refund(order, 50)
    system.clock.advance(3 * 86_400)
    await system.services.cases.stale_refund(refund)
    (case,) = await system.cases()
    await system.services.case_decisions.decide(OPERATOR, encode(Prefix.CASE, case["id"]), Decision.RETRY, "")
    assert [(case["kind"], case["state"]) for case in await system.cases()] == [
        ("STALE_REFUND", "RESOLVED"),
        ("REFUND_MISMATCH", "OPEN"),
    ]


async def test_an_unclear_second_look_is_repeated_soon(system: PayCenterSystem) -> None:
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "decline", code="RULE_LIMIT")
    refund = await system.refund(order, 40)
    await system.simulator.fault("wx.refund_query", "error_before_commit", times=1)
    await job(system, VERIFY_DELAYS[FAILED_REFUND][0] + 1)
    found = await current(system, refund)
    assert found.next_check_time is not None
    assert found.next_check_time - system.clock.now() < timedelta(minutes=2)


async def test_late_success_changes_no_order_unless_the_refund_failed(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "pending"})
    refund, now = await system.refund(order, 40), system.clock.now()
    async with system.services.context.database.transaction() as connection:
        assert not await refund_rows.succeed_late(connection, refund, CAUSE, channel_refund_no="", success_time=now, now=now)
    assert await books(system, order) == ("SUCCESS", 100, 40, 0)


async def test_a_send_under_a_new_number_is_unclear_until_it_is_answered(system: PayCenterSystem) -> None:
    _, refund = await failed_refund(system)
    async with system.services.context.database.transaction() as connection:
        now = system.clock.now()
        assert await number_rows.send_again(connection, refund, refund.order_id, now, now, CAUSE)
        assert await refund_rows.reserve(connection, refund.order_id, refund.amount, now)
    assert (await current(system, refund)).unclear_send_time == now


async def test_an_open_conflict_blocks_sending_again(system: PayCenterSystem) -> None:
    order, refund = await failed_refund(system, 60, merchant_refund_no="R1")
    await succeeds_now(system)
    await system.refund(order, 50)
    await system.services.refunds.sync(system.caller, refund)  # it succeeded, and there is no room for it: a case
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "failure"})
    with pytest.raises(PayCenterError, match="is not sent again") as caught:
        await system.refund(order, 60, merchant_refund_no="R1")
    assert caught.value.reason is Reason.REFUND_UNDER_REVIEW
    assert caught.value.metadata["pay_case_id"].startswith("K")


async def test_a_number_that_may_still_succeed_blocks_sending_again(system: PayCenterSystem) -> None:
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "decline", code="RULE_LIMIT")
    refund = await system.refund(order, 40, merchant_refund_no="R1")
    await system.simulator.fault("wx.refund_query", "error_before_commit", times=1)
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 40, merchant_refund_no="R1")
    assert caught.value.reason is Reason.CHANNEL_UNCLEAR
    assert (await current(system, refund)).send_count == 1
    await system.refund(order, 40, merchant_refund_no="R1")
    assert (await current(system, refund)).send_count == 2


async def test_a_failure_that_the_channel_reports_is_final(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "timeout"})
    refund = await system.refund(order, 40)
    channel = await configured(system, "mock")
    await system.services.refund_settlement.apply(channel, refund, failed(channel, refund), CAUSE)
    assert (await current(system, refund)).state is RefundState.FAILURE


async def test_a_bare_refusal_is_not(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "timeout"})
    refund = await system.refund(order, 40)
    channel = await configured(system, "mock")
    refusal = RefundOutcome(RefundStatus.FAILED, None, "NO", "no")
    await system.services.refund_settlement.apply(channel, refund, refusal, CAUSE, Certainty())
    assert (await current(system, refund)).state is RefundState.WAITING


# Attempts


async def closed_and_paid(system: PayCenterSystem, code: str = "wx_native") -> tuple[PayOrder, PayAttempt]:
    """Closed here and there; then the channel contradicts itself, and reports it as paid. Its callback is lost."""
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="late_after_close", late_seconds="120")
    await system.rows("UPDATE pay_attempt SET state = 'CLOSED', next_check_time = now() + interval '5 min'")
    await system.services.orders.close(system.caller, order.number)
    assert isinstance(attempt, PayAttempt)
    return order, attempt


@pytest.mark.parametrize("how", ["sync", "job"])
async def test_a_closed_attempt_that_was_paid_is_found(system: PayCenterSystem, how: str) -> None:
    order, _ = await closed_and_paid(system)
    assert (await system.read(order)).state is OrderState.CLOSED
    system.clock.advance(VERIFY_DELAYS[CLOSED_ATTEMPT][0] + 1)
    if how == "sync":
        await system.services.orders.sync(system.caller, order.number)
    else:
        await system.services.jobs.sync_orders()
    assert [case["kind"] for case in await system.cases()] == ["LATE_PAYMENT"]


async def test_a_closed_attempt_is_looked_at_in_minutes_an_hour_and_a_day(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="never")
    await system.services.orders.close(system.caller, order.number)
    looks = []
    for _ in range(5):
        (row,) = await system.rows("SELECT * FROM pay_attempt WHERE id = $1", attempt.id)
        if row["next_check_time"] is None:
            break
        looks.append(round((row["next_check_time"] - row["update_time"]).total_seconds()))
        system.clock.advance((row["next_check_time"] - system.clock.now()).total_seconds() + 1)
        await system.services.jobs.sync_orders()
    assert looks == list(VERIFY_DELAYS[CLOSED_ATTEMPT])
    assert await system.cases() == []


async def test_what_stays_payable_is_looked_at_until_its_expiry(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "alipay_qr")  # a QR code that nobody scanned cannot be closed
    await system.services.orders.close(system.caller, order.number)
    times = []
    while system.clock.now() < attempt.expire_time + timedelta(minutes=2):
        when = await system.value("SELECT next_check_time FROM pay_attempt WHERE id = $1", attempt.id)
        assert when is not None
        times.append(when)
        system.clock.advance((when - system.clock.now()).total_seconds() + 1)
        await system.services.jobs.sync_orders()
    gaps = [(b - a).total_seconds() for a, b in pairwise(times)]
    assert max(gaps) < 1900
    assert len(times) > 4


# What is stale


async def stale(system: PayCenterSystem) -> list[str]:
    return [case["kind"] for case in await system.cases()]


async def lost_key(system: PayCenterSystem) -> None:
    """Every work on the channel raises an exception from now on."""
    await system.rows("UPDATE pay_channel SET code = 'not_installed', version = version + 1 WHERE code = 'mock'")
    await system.rows("UPDATE pay_account SET version = version + 1")
    for number in system.channels.values():
        if key := decode(Prefix.CHANNEL, number):
            system.services.gateway.channels.forget(key)


async def test_an_attempt_that_only_raises_exceptions_becomes_stale(system: PayCenterSystem) -> None:
    await system.submit(await system.order(), "mock", behaviour="never")
    await lost_key(system)
    system.clock.advance(7200 + 86_000)
    await system.services.jobs.sync_orders()
    assert await stale(system) == []
    system.clock.advance(800)
    await system.services.jobs.sync_orders()
    assert await stale(system) == ["STALE_ATTEMPT"]


async def test_a_refund_that_only_raises_exceptions_becomes_stale(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "lost"})
    await system.refund(order, 40)
    await lost_key(system)
    await job(system, 86_600)
    assert await stale(system) == ["STALE_REFUND"]


@pytest.mark.parametrize("kind", ["refund", "attempt"])
async def test_looks_at_a_final_state_are_stale_a_day_after_the_last_one(system: PayCenterSystem, kind: str) -> None:
    if kind == "refund":
        await failed_refund(system)
    else:
        order = await system.order()
        await system.submit(order, "mock", behaviour="never")
        await system.services.orders.close(system.caller, order.number)
        system.clock.advance(7200)
    await lost_key(system)
    for _ in range(2):
        system.clock.advance(86_000)
        await system.services.jobs.sync_orders()
        await system.services.jobs.sync_refunds()
    assert await stale(system) == []
    system.clock.advance(1_000)
    await system.services.jobs.sync_orders()
    await system.services.jobs.sync_refunds()
    assert await stale(system) == [f"STALE_{kind.upper()}"]


async def test_a_stale_case_comes_again_a_day_after_it_was_resolved(system: PayCenterSystem) -> None:
    await system.submit(await system.order(), "mock", behaviour="never")
    await lost_key(system)
    system.clock.advance(7200 + 86_600)
    await system.services.jobs.sync_orders()
    (case,) = await system.cases()
    async with system.services.context.database.connection() as connection:
        await case_rows.move_case(connection, case["id"], CaseEvent.RESOLVE, system.clock.now(), CAUSE)
    system.clock.advance(80_000)
    await system.services.jobs.sync_orders()
    assert await stale(system) == ["STALE_ATTEMPT"]
    system.clock.advance(7_000)
    for _ in range(2):
        await system.services.jobs.sync_orders()
        system.clock.advance(1900)
    assert [(case["state"], case["occurrence"]) for case in await system.cases()] == [("RESOLVED", 0), ("OPEN", 1)]


async def test_a_refund_that_is_sent_again_is_not_stale_at_once(system: PayCenterSystem) -> None:
    order, _ = await failed_refund(system, merchant_refund_no="R1")
    system.clock.advance(200_000)
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "lost"})
    assert (await system.refund(order, 40, merchant_refund_no="R1")).send_count == 2
    await job(system, 11)
    assert await stale(system) == []
    await job(system, 86_600)
    assert await stale(system) == ["STALE_REFUND"]


# Time is the database's


async def test_a_process_whose_clock_is_wrong_has_the_time_of_the_database(system: PayCenterSystem) -> None:
    ahead = DatabaseClock(wall=lambda: datetime.now(UTC) + timedelta(minutes=3))
    assert ahead.now() - datetime.now(UTC) > timedelta(minutes=2)
    await set_clock(ahead, system.services.context.database)
    assert abs(ahead.now() - await system.value("SELECT clock_timestamp()")) < SECOND


async def test_the_services_have_the_time_of_the_database(system: PayCenterSystem) -> None:
    async with open_services(system.settings) as services:
        assert isinstance(services.context.clock, DatabaseClock)
        assert abs(services.context.now() - await system.value("SELECT clock_timestamp()")) < SECOND


def test_the_time_goes_on_by_the_monotonic_clock() -> None:
    ticks = [100.0]
    clock = DatabaseClock(wall=lambda: datetime(2020, 1, 1, tzinfo=UTC), monotonic=lambda: ticks[0])
    begun = clock.begin()
    ticks[0] += 2
    clock.set(datetime(2026, 1, 1, 8, tzinfo=timezone(timedelta(hours=8))), begun)
    ticks[0] += 10
    assert clock.now() == datetime(2026, 1, 1, 0, 0, 11, tzinfo=UTC)


async def test_the_same_create_after_a_price_change_answers_the_order(system: PayCenterSystem) -> None:
    new = system.new_order(amount=100)
    order = await system.services.orders.create(system.caller, new)
    await system.services.orders.update_price(system.caller, order.number, 90)
    again = await system.services.orders.create(system.caller, new)
    assert (again.number, again.amount) == (order.number, 90)
    with pytest.raises(PayCenterError) as caught:
        await system.services.orders.create(system.caller, system.new_order(
            amount=90, merchant_order_id=new.merchant_order_id, expire_time=new.expire_time))  # fmt: skip
    assert caught.value.reason is Reason.ORDER_CONFLICT
