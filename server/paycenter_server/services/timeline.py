"""The timeline of an order: why it is where it is. It joins the event ledger with the notifications and the next checks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.cases import PayCase
from paycenter_server.domain.events import PayEvent, Subject
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.notifications import NotificationLog, PayNotification
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.states import CaseState
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller
from paycenter_server.services.orders import Orders
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import events as event_rows
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage.database import Connection

MAX_ENTRIES = 500
EVIDENCE_SHOWN = 2000
"""The characters that are shown of each text of the evidence, so that an answer stays below gRPC's limit of 4 MiB."""
_PREFIXES = {
    Subject.ORDER: Prefix.ORDER,
    Subject.ATTEMPT: Prefix.ATTEMPT,
    Subject.REFUND: Prefix.REFUND,
    Subject.CASE: Prefix.CASE,
    Subject.NOTIFICATION: Prefix.NOTIFICATION,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened. `amount` in minor units. `evidence`: a JSON object as text, "" if there is none."""

    time: datetime
    subject: Subject
    number: str
    event: str
    from_state: str = ""
    to_state: str = ""
    amount: int = 0
    actor_kind: str = ""
    actor: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Next:
    """Something that is not settled yet. `time`: its next check or delivery; None if it waits for a person."""

    subject: Subject
    number: str
    state: str
    what: str
    time: datetime | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """Entries, oldest first, and what is not settled. `left_off`: older entries that are not in it."""

    order: PayOrder
    entries: Sequence[Entry]
    left_off: bool
    next: Sequence[Next]


class Timelines:
    """Reads timelines."""

    def __init__(self, context: Context, orders: Orders) -> None:
        self._context = context
        self._orders = orders

    async def of_order(self, caller: Caller, number: str) -> Timeline:
        """The timeline of an order. ORDER_NOT_FOUND also for an order of another app. Only operators see the evidence."""
        order = await self._orders.load(caller, number)
        async with self._context.database.connection() as connection:
            attempts = await attempt_rows.list_attempts(connection, order.id)
            refunds = await refund_rows.list_of_order(connection, order.id)
            cases = await case_rows.list_of_order(connection, order.id)
            subjects = [order.id, *(refund.id for refund in refunds), *(case.id for case in cases)]
            events = await event_rows.list_events(connection, order.id, MAX_ENTRIES + 1)
            notifications, entries = await _entries(connection, events, subjects, evidence=caller.is_operator)
        left_off = len(entries) > MAX_ENTRIES
        return Timeline(order, entries[-MAX_ENTRIES:], left_off, _next(order, attempts, refunds, cases, notifications))

    async def of_case(self, case: PayCase) -> tuple[list[Entry], bool]:
        """What happened to a case and to its order, for operators; and whether older entries are left off."""
        async with self._context.database.connection() as connection:
            if case.order_id is None:
                events = await event_rows.list_events_of_case(connection, case.id, MAX_ENTRIES + 1)
                subjects = [case.id]
            else:
                events = await event_rows.list_events(connection, case.order_id, MAX_ENTRIES + 1)
                refunds = await refund_rows.list_of_order(connection, case.order_id)
                subjects = [case.order_id, case.id, *(refund.id for refund in refunds)]
            _, entries = await _entries(connection, events, subjects, evidence=True)
        return entries[-MAX_ENTRIES:], len(entries) > MAX_ENTRIES


async def _entries(
    connection: Connection, events: Sequence[PayEvent], subjects: Sequence[UUID], *, evidence: bool
) -> tuple[list[PayNotification], list[Entry]]:
    """The notifications about these objects; and the events, the notifications and their deliveries, oldest first."""
    notifications = await notification_rows.list_about(connection, subjects, MAX_ENTRIES)
    logs = await notification_rows.list_logs_of(connection, [task.id for task in notifications], MAX_ENTRIES)
    entries = [_of_event(event, evidence=evidence) for event in events]
    delivered = {log.task_id for log in logs}
    # A delivery tells that its notification was created.
    entries += [_of_notification(task) for task in notifications if task.id not in delivered]
    entries += [_of_delivery(log) for log in logs]
    entries.sort(key=lambda entry: entry.time)
    return notifications, entries


def _of_event(event: PayEvent, *, evidence: bool) -> Entry:
    return Entry(
        event.create_time, event.subject, encode(_PREFIXES[event.subject], event.subject_id), event.event,
        event.from_state or "", event.to_state or "", event.amount or 0, event.actor_kind.value, event.actor,
        json.dumps(_shown(event.evidence), ensure_ascii=False) if evidence and event.evidence else "",
    )  # fmt: skip


def _shown(evidence: Any) -> Any:
    if isinstance(evidence, Mapping):
        return {name: _shown(value) for name, value in evidence.items()}
    if isinstance(evidence, str) and len(evidence) > EVIDENCE_SHOWN:
        return f"{evidence[:EVIDENCE_SHOWN]}… ({len(evidence)} characters)"
    return evidence


def _of_notification(task: PayNotification) -> Entry:
    return Entry(task.create_time, Subject.NOTIFICATION, task.number, f"created: {task.event}")


def _of_delivery(log: NotificationLog) -> Entry:
    result = f"HTTP {log.http_status}" if log.http_status else log.answer[:100]
    number = encode(Prefix.NOTIFICATION, log.task_id)
    event = f"delivery {log.notify_times}: {result}, {log.duration_ms} ms"
    return Entry(log.create_time, Subject.NOTIFICATION, number, event, to_state=log.state.value)


def _next(
    order: PayOrder,
    attempts: Sequence[PayAttempt],
    refunds: Sequence[PayRefund],
    cases: Sequence[PayCase],
    notifications: Sequence[PayNotification],
) -> list[Next]:
    found = [Next(Subject.ORDER, order.number, order.state.value, "expiry", order.next_check_time)]
    found += [Next(Subject.ATTEMPT, a.out_trade_no, a.state.value, "query", a.next_check_time) for a in attempts]
    found += [Next(Subject.REFUND, r.number, r.state.value, "query", r.next_check_time) for r in refunds]
    found += [Next(Subject.NOTIFICATION, n.number, n.state.value, "delivery", n.next_notify_time) for n in notifications]
    waiting = [
        Next(Subject.CASE, case.number, case.state.value, "decision of an operator", None)
        for case in cases
        if case.state is CaseState.OPEN
    ]
    return [item for item in found if item.time is not None] + waiting
