"""The state tables, the schedules, the guard."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paycenter_server.channels.protocol import HttpRequest
from paycenter_server.channels.transport import AiohttpTransport
from paycenter_server.domain import schedule
from paycenter_server.domain.guard import TransactionOpenError, refuse_in_transaction, transaction_open
from paycenter_server.domain.schedule import notification_delay, widening
from paycenter_server.domain.states import (
    ATTEMPT,
    CASE,
    MACHINES,
    NOTIFICATION,
    OPEN_ATTEMPT,
    OPEN_NOTIFICATION,
    ORDER,
    REFUND,
    UNPAID_ATTEMPT,
    ApprovalEvent,
    ApprovalState,
    AttemptEvent,
    AttemptState,
    CaseEvent,
    CaseState,
    NotificationEvent,
    NotificationState,
    OrderEvent,
    OrderState,
    RefundEvent,
    RefundState,
    created,
    sources,
    target,
)

STATES: dict[str, type[StrEnum]] = {
    "pay_order": OrderState, "pay_attempt": AttemptState, "pay_refund": RefundState, "pay_notify_task": NotificationState,
    "pay_case": CaseState, "pay_approval": ApprovalState,
}  # fmt: skip
EVENTS: dict[str, type[StrEnum]] = {
    "pay_order": OrderEvent, "pay_attempt": AttemptEvent, "pay_refund": RefundEvent, "pay_notify_task": NotificationEvent,
    "pay_case": CaseEvent, "pay_approval": ApprovalEvent,
}  # fmt: skip


@pytest.mark.parametrize("name", list(MACHINES))
def test_every_state_is_reachable_and_every_event_is_used(name: str) -> None:
    table: Any = MACHINES[name]
    waiting = [target for (source, _), target in table.items() if source is None]
    reached = set(waiting)
    while waiting:
        state = waiting.pop()
        following = {target for (source, _), target in table.items() if source is state} - reached
        reached |= following
        waiting += following
    assert reached == set(STATES[name])
    assert {event for _, event in table} == set(EVENTS[name])


@pytest.mark.parametrize(
    ("table", "event", "states"),
    [
        (ORDER, OrderEvent.PAID, ["WAITING"]),
        (ORDER, OrderEvent.CLOSE, ["WAITING"]),
        (ORDER, OrderEvent.REFUNDED, ["SUCCESS", "REFUND"]),
        (ORDER, OrderEvent.LATE_PAYMENT_ACCEPTED, ["CLOSED"]),
        (ATTEMPT, AttemptEvent.PAID, ["WAITING", "UNKNOWN"]),
        (ATTEMPT, AttemptEvent.CLOSE, ["WAITING", "UNKNOWN"]),
        (ATTEMPT, AttemptEvent.PAID_LATE, ["WAITING", "UNKNOWN", "CLOSED"]),
        (REFUND, RefundEvent.SUCCEED, ["WAITING"]),
        (REFUND, RefundEvent.FAIL, ["WAITING"]),
        (REFUND, RefundEvent.SEND_AGAIN, ["FAILURE"]),
        (NOTIFICATION, NotificationEvent.RECEIVED, ["WAITING", "REQUEST_SUCCESS", "REQUEST_FAILURE"]),
        (NOTIFICATION, NotificationEvent.GIVE_UP, ["WAITING", "REQUEST_SUCCESS", "REQUEST_FAILURE"]),
        (NOTIFICATION, NotificationEvent.RESEND, ["SUCCESS", "FAILURE"]),
        (CASE, CaseEvent.RESOLVE, ["OPEN", "REFUNDING"]),
        (CASE, CaseEvent.REFUND, ["OPEN"]),
    ],
)
def test_sources(table: Any, event: StrEnum, states: list[str]) -> None:
    assert sources(table, event) == states


def test_final_states_have_no_way_back_to_waiting() -> None:
    taken_back = {OrderEvent.REFUND_TAKEN_BACK, OrderEvent.LAST_REFUND_TAKEN_BACK}
    assert {event for state, event in ORDER if state is OrderState.REFUND} == {OrderEvent.REFUNDED, *taken_back}
    assert not [event for state, event in ATTEMPT if state is AttemptState.SUCCESS]
    assert [event for state, event in REFUND if state is RefundState.SUCCESS] == [RefundEvent.TAKE_BACK]
    assert not [event for state, event in CASE if state is CaseState.RESOLVED]


def test_open_states() -> None:
    assert OPEN_ATTEMPT == ["WAITING", "UNKNOWN"]
    assert UNPAID_ATTEMPT == ["WAITING", "UNKNOWN", "CLOSED"]
    assert {NotificationState.SUCCESS, NotificationState.FAILURE}.isdisjoint(OPEN_NOTIFICATION)


@pytest.mark.parametrize("name", list(MACHINES))
def test_every_event_leads_to_one_state(name: str) -> None:
    """A statement can write the state of an event independently of the previous state."""
    table: Any = MACHINES[name]
    for event in EVENTS[name]:
        assert target(table, event) in [state.value for state in STATES[name]]


def test_what_creates_a_row_has_no_other_source() -> None:
    for table in MACHINES.values():
        for (state, event), first in table.items():
            if state is None:
                assert sources(table, event) == []
                assert created(table, event) is first
    with pytest.raises(KeyError):
        created(ORDER, OrderEvent.PAID)


# Schedules


def _delay(times: int, jitter: float = 0.0, retry_after: float | None = None) -> float:
    delay = notification_delay(times, jitter, retry_after)
    assert delay is not None
    return delay.total_seconds()


def test_the_notify_schedule() -> None:
    times = range(1, schedule.NOTIFICATION_MAX_TIMES)
    delays = [_delay(number) for number in times]
    assert delays[:8] == [15, 15, 30, 180, 1800, 1800, 1800, 3600]
    assert delays == sorted(delays)
    assert schedule.NOTIFICATION_MAX_TIMES >= 16
    assert sum(delays) >= 72 * 3600
    assert notification_delay(schedule.NOTIFICATION_MAX_TIMES, 0) is None
    assert notification_delay(schedule.NOTIFICATION_MAX_TIMES + 1, 1, 5.0) is None


@given(times=st.integers(1, schedule.NOTIFICATION_MAX_TIMES - 1), jitter=st.floats(0, 1))
def test_jitter_only_increases_the_delay(times: int, jitter: float) -> None:
    assert _delay(times) <= _delay(times, jitter) <= _delay(times) * 1.1 + 0.001


@pytest.mark.parametrize(
    ("retry_after", "seconds"), [(0, 15), (14, 15), (120, 120), (86_400, 86_400), (1e9, 86_400), (-5, 15), (float("inf"), 86_400)]
)
def test_retry_after_is_obeyed_up_to_a_day(retry_after: float, seconds: float) -> None:
    assert _delay(1, 0, retry_after) == seconds


@pytest.mark.parametrize("delays", [schedule.ORDER_SYNC_DELAYS, schedule.REFUND_SYNC_DELAYS, schedule.EXPIRE_RETRY_DELAYS])
def test_sync_delays_grow_and_never_end(delays: tuple[int, ...]) -> None:
    steps = [widening(delays, times).total_seconds() for times in range(200)]
    assert steps == sorted(steps)
    assert steps[: len(delays)] == list(delays)
    assert set(steps[len(delays) :]) == {delays[-1]}
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert schedule.due_after(now, delays, 0) == now + timedelta(seconds=delays[0])


# The guard


async def test_a_channel_is_not_called_while_a_transaction_is_open() -> None:
    transport = AiohttpTransport()
    request = HttpRequest("GET", "http://127.0.0.1:1/")
    try:
        with transaction_open():
            with transaction_open():
                pass
            with pytest.raises(TransactionOpenError, match="commit, call, commit"):
                await transport.send(request, 1)
        refuse_in_transaction()
    finally:
        await transport.aclose()


async def test_the_guard_ends_with_an_exception_and_belongs_to_its_task() -> None:
    with pytest.raises(ValueError, match="x"), transaction_open():
        raise ValueError("x")
    refuse_in_transaction()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def holder() -> None:
        with transaction_open():
            entered.set()
            await leave.wait()
            with pytest.raises(TransactionOpenError):
                refuse_in_transaction()

    task = asyncio.create_task(holder())
    await entered.wait()
    refuse_in_transaction()
    leave.set()
    await task
