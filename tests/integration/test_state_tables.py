"""Every event of every state table, from every state, through the real SQL: it is possible exactly where the table has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from paycenter_server.domain.approvals import LIFE, ApprovalKind, new_approval
from paycenter_server.domain.apps import PayApp
from paycenter_server.domain.attempts import PayAttempt, new_attempt
from paycenter_server.domain.cases import CaseKind, new_case
from paycenter_server.domain.notifications import NotificationType, PayNotification, new_notification
from paycenter_server.domain.orders import PayOrder, new_order
from paycenter_server.domain.refunds import PayRefund, new_refund
from paycenter_server.domain.states import (
    APPROVAL,
    ATTEMPT,
    CASE,
    MACHINES,
    NOTIFICATION,
    ORDER,
    REFUND,
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
)
from paycenter_server.storage import approvals as approval_rows
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import attempts_submission as submission_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import channels as channel_rows
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage import notifications_delivery as delivery_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage import orders_insert, refunds_shared
from paycenter_server.storage import payments as payment_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage import refunds_numbers as number_rows
from paycenter_server.storage.database import Transaction
from paycenter_server.storage.refunds import Certainty
from paycenter_server.storage.refunds_shared import Success
from support.system import CAUSE, MONEY, PayCenterSystem, delete_all

PAID_ORDER = (OrderState.SUCCESS.value, OrderState.REFUND.value)


@dataclass
class Rows:
    """An order with an attempt, a refund, a notification, a case and an approval, stored in one transaction."""

    transaction: Transaction
    now: datetime
    app: PayApp
    order: PayOrder
    attempt: PayAttempt
    refund: PayRefund
    notification: PayNotification
    case_id: UUID
    approval_id: UUID

    async def set(self, table: str, key: UUID, state: str) -> None:
        """Put a row into a state, with the amounts that its CHECKs require."""
        paid = {"pay_order": PAID_ORDER, "pay_attempt": (AttemptState.SUCCESS.value,)}.get(table)
        amounts = f", paid_amount = {100 if state in paid else 0}" if paid is not None else ""
        reserved = f", reserved_amount = {50 if state in PAID_ORDER else 0}" if table == "pay_order" else ""
        resolved = f", resolve_time = {'now()' if state == 'RESOLVED' else 'NULL'}" if table == "pay_case" else ""
        await self.transaction.execute(f"UPDATE {table} SET state = $2{amounts}{reserved}{resolved} WHERE id = $1", key, state)

    def booking(self) -> payment_rows.Booking:
        return payment_rows.Booking(
            self.order.id,
            self.attempt.id,
            self.attempt.channel_id,
            self.attempt.channel_code,
            100,
            "4200",
            "payer",
            self.now,
            0,
            0,
        )

    async def settle(self, event: OrderEvent, *, closed_attempt: bool) -> bool:
        return await payment_rows.settle(
            self.transaction,
            self.booking(),
            replace(self.notification, id=self.case_id, data_version=1),
            self.now,
            event,
            CAUSE,
            closed_attempt=closed_attempt,
        )


async def stored(system: PayCenterSystem, transaction: Transaction) -> Rows:
    context, now = system.services.context, system.clock.now()
    app = await app_rows.get_app(transaction, "shop")
    assert app is not None
    channel = await channel_rows.get_channel_by_code(transaction, app.id, "mock")
    assert channel is not None
    binding = await channel_rows.get_binding(transaction, channel.binding_id)
    assert binding is not None
    order = new_order(
        context.new_key(now), now, app, merchant_order_id="M1", subject="s", body="", amount=100, currency="CNY",
        expire_time=now + timedelta(hours=1), user_ip="::1", user_id="", return_url="",
    )  # fmt: skip
    attempt = new_attempt(
        context.new_key(now), now, order, channel_id=channel.id, account_id=binding.account_id, binding_id=binding.id,
        channel_code="mock", wanted_mode="", channel_extras={}, return_url="", user_ip="::1", expire_time=now, next_check_time=now,
    )  # fmt: skip
    refund = new_refund(
        context.new_key(now), context.new_key(now), now, order, attempt=attempt, merchant_refund_no="R1",
        amount=50, total_amount=100, currency="CNY", reason="r", notification_url="http://x.test/",
        next_check_time=now,
    )  # fmt: skip
    notification = new_notification(
        context.new_key(now), now, app_id=app.id, app_key=app.app_key, kind=NotificationType.ORDER, event="pay_order.success",
        data_id=refund.id, data_version=0, merchant_order_id="M1", merchant_refund_no="", notification_url="http://x.test/",
        payload="{}",
    )  # fmt: skip
    case = new_case(context.new_key(now), now, CaseKind.LATE_PAYMENT, "c", app_id=app.id)
    assert await orders_insert.insert_orders(transaction, [(order, CAUSE)])
    assert await submission_rows.insert_attempt(transaction, attempt, order, CAUSE)
    await refund_rows.insert_refund(transaction, refund, CAUSE)
    assert await notification_rows.insert_notification(transaction, notification)
    assert await case_rows.insert_case(transaction, case, CAUSE)
    approval = new_approval(
        context.new_key(now), now, ApprovalKind.REFUND, app_id=app.id, app_key=app.app_key, about=order.number, request={},
        content=b"c", shown={}, amount=1, currency="CNY", requested_by="anne",
    )  # fmt: skip
    assert await approval_rows.insert_approval(transaction, approval)
    return Rows(transaction, now, app, order, attempt, refund, notification, case.id, approval.id)


def delivered(rows: Rows, event: NotificationEvent) -> Awaitable[Any]:
    result = delivery_rows.DeliveryResult(rows.notification.id, 0, event, None, "u", 200, 1, "", rows.now)
    return delivery_rows.record(rows.transaction, [result])


def decided(rows: Rows, event: ApprovalEvent) -> Awaitable[Any]:
    return approval_rows.decide(rows.transaction, rows.approval_id, event, "ben", "", rows.now)


async def taken_back(rows: Rows, refunded: int) -> int:
    """`refunded`: of the order, if it is paid; the refund is 50 of it."""
    await rows.transaction.execute("UPDATE pay_order SET reserved_amount = 0, refunded_amount = $1 WHERE paid_amount > 0", refunded)
    return await refund_rows.take_back(
        rows.transaction, rows.refund, CAUSE, code="", message="", known=False, now=rows.now, next_look=None
    )


Act = Callable[[Rows], Awaitable[Any]]
# By type too: events of two tables may have the same text.
ACTS: Mapping[tuple[type[StrEnum], StrEnum], Act] = {
    (OrderEvent, OrderEvent.CHANGE_PRICE): lambda r: order_rows.update_price(r.transaction, r.order.id, 100, 100, r.now, CAUSE),
    (OrderEvent, OrderEvent.PAID): lambda r: r.settle(OrderEvent.PAID, closed_attempt=False),
    (OrderEvent, OrderEvent.LATE_PAYMENT_ACCEPTED): lambda r: r.settle(OrderEvent.LATE_PAYMENT_ACCEPTED, closed_attempt=True),
    (OrderEvent, OrderEvent.CLOSE): lambda r: order_rows.close_order(r.transaction, r.order.id, r.now, CAUSE),
    (OrderEvent, OrderEvent.REFUNDED): lambda r: refund_rows.succeed(
        r.transaction,
        r.refund,
        CAUSE,
        replace(r.notification, id=r.case_id, data_version=r.refund.version + 1),
        channel_refund_no="",
        success_time=r.now,
        now=r.now,
    ),
    (OrderEvent, OrderEvent.REFUND_TAKEN_BACK): lambda r: taken_back(r, 60),
    (OrderEvent, OrderEvent.LAST_REFUND_TAKEN_BACK): lambda r: taken_back(r, 50),
    (AttemptEvent, AttemptEvent.ANSWERED): lambda r: submission_rows.answered(
        r.transaction, r.attempt.id, "", "x", r.now, r.now, CAUSE
    ),
    (AttemptEvent, AttemptEvent.UNCLEAR): lambda r: attempt_rows.unclear(r.transaction, r.attempt.id, "", "", r.now, r.now, CAUSE),
    (AttemptEvent, AttemptEvent.CLOSE): lambda r: attempt_rows.close_attempt(
        r.transaction, r.attempt.id, r.now, CAUSE, next_look=None
    ),
    (AttemptEvent, AttemptEvent.PAID): lambda r: r.settle(OrderEvent.PAID, closed_attempt=False),
    (AttemptEvent, AttemptEvent.PAID_LATE): lambda r: attempt_rows.pay_late(
        r.transaction, r.attempt.id, CAUSE, amount=100, channel_order_no="4200", channel_user_id="", success_time=r.now, now=r.now
    ),
    (RefundEvent, RefundEvent.UNDECIDED): lambda r: refund_rows.note(
        r.transaction, r.refund, CAUSE, None, code="noted", message="", next_check=r.now, now=r.now
    ),
    (RefundEvent, RefundEvent.SUCCEED): lambda r: refund_rows.succeed(
        r.transaction, r.refund, CAUSE, channel_refund_no="", success_time=r.now, now=r.now
    ),
    (RefundEvent, RefundEvent.FAIL): lambda r: refund_rows.fail(
        r.transaction, r.refund, CAUSE, Certainty(final=True), code="", message="", now=r.now, next_look=None
    ),
    (RefundEvent, RefundEvent.SUCCEED_LATE): lambda r: refund_rows.succeed_late(
        r.transaction, r.refund, CAUSE, channel_refund_no="", success_time=r.now, now=r.now
    ),
    (RefundEvent, RefundEvent.TAKE_BACK): lambda r: taken_back(r, 50),
    (RefundEvent, RefundEvent.SEND_AGAIN): lambda r: number_rows.send_again(
        r.transaction, r.refund, r.case_id, r.now, r.now, CAUSE
    ),
    (NotificationEvent, NotificationEvent.RECEIVED): lambda r: delivered(r, NotificationEvent.RECEIVED),
    (NotificationEvent, NotificationEvent.REFUSED): lambda r: delivered(r, NotificationEvent.REFUSED),
    (NotificationEvent, NotificationEvent.UNANSWERED): lambda r: delivered(r, NotificationEvent.UNANSWERED),
    (NotificationEvent, NotificationEvent.GIVE_UP): lambda r: delivered(r, NotificationEvent.GIVE_UP),
    (NotificationEvent, NotificationEvent.SUPERSEDE): lambda r: notification_rows.insert_notification(
        r.transaction, replace(r.notification, id=r.case_id, data_version=1)
    ),
    (NotificationEvent, NotificationEvent.RESEND): lambda r: notification_rows.resend(
        r.transaction, [r.notification.id], r.now, CAUSE
    ),
    (CaseEvent, CaseEvent.REFUND): lambda r: case_rows.move_case(r.transaction, r.case_id, CaseEvent.REFUND, r.now, CAUSE),
    (CaseEvent, CaseEvent.RESOLVE): lambda r: case_rows.move_case(r.transaction, r.case_id, CaseEvent.RESOLVE, r.now, CAUSE),
    (CaseEvent, CaseEvent.ACCEPT): lambda r: case_rows.move_case(r.transaction, r.case_id, CaseEvent.ACCEPT, r.now, CAUSE),
    (CaseEvent, CaseEvent.CLOSE): lambda r: case_rows.move_case(r.transaction, r.case_id, CaseEvent.CLOSE, r.now, CAUSE),
    (CaseEvent, CaseEvent.REFUND_FAILED): lambda r: case_rows.move_case(
        r.transaction, r.case_id, CaseEvent.REFUND_FAILED, r.now, CAUSE
    ),
    (ApprovalEvent, ApprovalEvent.APPROVE): lambda r: decided(r, ApprovalEvent.APPROVE),
    (ApprovalEvent, ApprovalEvent.REFUSE): lambda r: decided(r, ApprovalEvent.REFUSE),
    (ApprovalEvent, ApprovalEvent.EXPIRE): lambda r: approval_rows.expire(r.transaction, r.now + LIFE),
}
STATES: Mapping[str, type[StrEnum]] = {
    "pay_order": OrderState, "pay_attempt": AttemptState, "pay_refund": RefundState, "pay_notify_task": NotificationState,
    "pay_case": CaseState, "pay_approval": ApprovalState,
}  # fmt: skip
EVENTS = [(name, event) for name, table in MACHINES.items() for event in dict.fromkeys(event for _, event in table)]


def key_of(rows: Rows, table: str) -> UUID:
    keys = {
        "pay_order": rows.order.id, "pay_attempt": rows.attempt.id, "pay_refund": rows.refund.id,
        "pay_notify_task": rows.notification.id, "pay_case": rows.case_id, "pay_approval": rows.approval_id,
    }  # fmt: skip
    return keys[table]


_TAKEN_BACK = (OrderEvent.REFUND_TAKEN_BACK, OrderEvent.LAST_REFUND_TAKEN_BACK)


async def prepare(rows: Rows, table: str, event: StrEnum) -> None:
    """Put the other rows into the states in which the event can happen."""
    if table == "pay_order":
        attempt = AttemptState.WAITING if event in (OrderEvent.PAID, OrderEvent.LATE_PAYMENT_ACCEPTED) else AttemptState.CLOSED
        await rows.set("pay_attempt", rows.attempt.id, attempt.value)
    if event in _TAKEN_BACK:
        await rows.set("pay_refund", rows.refund.id, RefundState.SUCCESS.value)
    if table == "pay_refund" and event is not RefundEvent.SEND_AGAIN:
        paid = OrderState.REFUND if event is RefundEvent.TAKE_BACK else OrderState.SUCCESS
        await rows.set("pay_order", rows.order.id, paid.value)


async def state_after(rows: Rows, table: str, event: StrEnum, before: StrEnum) -> str:
    """The state of the row after the event; a CHECK that refuses it leaves everything as it was."""
    opened: Any = rows.transaction
    await prepare(rows, table, event)
    await rows.set(table, key_of(rows, table), before.value)
    try:
        async with opened.transaction():
            await ACTS[type(event), event](rows)
    except asyncpg.CheckViolationError:
        pass
    return str(await rows.transaction.fetchval(f"SELECT state FROM {table} WHERE id = $1", key_of(rows, table)))


async def compare_ledger(rows: Rows, table: str, event: StrEnum, before: StrEnum, last: int) -> None:
    """An event that happened is in the ledger, once; one that did not happen is not."""
    if table in ("pay_notify_task", "pay_approval"):
        return  # the log of deliveries is their ledger, and that of approvals is the audit
    # Not the older notification that the new one of the change replaces.
    found = await rows.transaction.fetch(
        "SELECT subject_id, event, from_state, to_state FROM pay_event WHERE id > $1 AND subject <> 'NOTIFICATION'", last
    )
    machine: Any = MACHINES[table]
    after = machine.get((before, event))
    if after is None:
        assert not found, (event, before)
    elif event in (OrderEvent.PAID, OrderEvent.LATE_PAYMENT_ACCEPTED):
        assert [(row["subject_id"], row["event"]) for row in found] == [(rows.attempt.id, event.value)]
    elif event is OrderEvent.REFUNDED:
        assert [(row["subject_id"], row["to_state"]) for row in found] == [(rows.refund.id, "SUCCESS")]
    elif event in _TAKEN_BACK:
        assert [(row["subject_id"], row["to_state"]) for row in found] == [(rows.refund.id, "FAILURE")]
    else:
        assert [(row["subject_id"], row["from_state"], row["to_state"]) for row in found] == [
            (key_of(rows, table), before.value, after.value)
        ], (event, before)


@pytest.mark.parametrize(("name", "event"), EVENTS, ids=[f"{name}-{event.value}" for name, event in EVENTS])
async def test_an_event_happens_where_the_table_says_so(system: PayCenterSystem, name: str, event: StrEnum) -> None:
    table: Any = MACHINES[name]
    for before in STATES[name]:
        async with system.services.context.database.transaction() as transaction:
            rows = await stored(system, transaction)
            if (None, event) in table:
                created = table[None, event].value
                if event is not CaseEvent.CREATE_WITH_REFUND:
                    state = await transaction.fetchval(f"SELECT state FROM {name} WHERE id = $1", key_of(rows, name))
                    assert state == created
                else:
                    case = new_case(rows.order.id, rows.now, CaseKind.LATE_PAYMENT, "", event=event, app_id=rows.app.id)
                    assert await case_rows.insert_case(transaction, case, CAUSE)
                    assert await transaction.fetchval("SELECT state FROM pay_case WHERE id = $1", case.id) == created
            else:
                expected = table.get((before, event), before)
                last = await transaction.fetchval("SELECT max(id) FROM pay_event")
                assert await state_after(rows, name, event, before) == expected.value, before
                await compare_ledger(rows, name, event, before, last)
            await transaction.execute(delete_all(MONEY))


@pytest.mark.parametrize("before", list(OrderState))
@pytest.mark.parametrize("attempt", list(AttemptState))
async def test_the_money_of_a_case_is_accepted_where_the_table_says_so(
    system: PayCenterSystem, before: OrderState, attempt: AttemptState
) -> None:
    async with system.services.context.database.transaction() as transaction:
        rows = await stored(system, transaction)
        await rows.set("pay_attempt", rows.attempt.id, attempt.value)
        await rows.set("pay_order", rows.order.id, before.value)
        done = await payment_rows.accept_late(transaction, rows.booking(), rows.now, CAUSE)
        possible = (before, OrderEvent.LATE_PAYMENT_ACCEPTED) in ORDER and attempt is AttemptState.SUCCESS
        assert done == possible
        after = ORDER.get((before, OrderEvent.LATE_PAYMENT_ACCEPTED), before) if possible else before
        assert await transaction.fetchval("SELECT state FROM pay_order WHERE id = $1", rows.order.id) == after.value
        await transaction.execute(delete_all(MONEY))


async def _succeed_late(rows: Rows) -> int:
    await rows.set("pay_refund", rows.refund.id, RefundState.FAILURE.value)
    return await refund_rows.succeed_late(
        rows.transaction, rows.refund, CAUSE, channel_refund_no="", success_time=rows.now, now=rows.now
    )


async def _succeed_shared(rows: Rows) -> int:
    task = replace(rows.notification, id=rows.case_id, type=NotificationType.REFUND, data_version=rows.refund.version + 1)
    success = Success(rows.refund, task, "", rows.now, rows.now, CAUSE)
    (refund,) = await refunds_shared.succeed_each(rows.transaction, [success])
    return refund.version if refund is not None else 0


SUCCESSES: Mapping[str, Act] = {
    "succeed-shared": _succeed_shared,
    "succeed": ACTS[RefundEvent, RefundEvent.SUCCEED],
    "succeed-and-tell": ACTS[OrderEvent, OrderEvent.REFUNDED],
    "succeed-late": _succeed_late,
}


@pytest.mark.parametrize("before", list(OrderState))
@pytest.mark.parametrize("act", SUCCESSES.values(), ids=SUCCESSES)
async def test_money_goes_back_where_the_table_of_the_order_says_so(system: PayCenterSystem, act: Act, before: OrderState) -> None:
    async with system.services.context.database.transaction() as transaction:
        rows = await stored(system, transaction)
        await rows.set("pay_order", rows.order.id, before.value)
        after = ORDER.get((before, OrderEvent.REFUNDED))
        # What is refused is no error: nothing is changed, and the caller is told so.
        assert await act(rows) == (0 if after is None else rows.refund.version + 1)
        assert await transaction.fetchval("SELECT state FROM pay_order WHERE id = $1", rows.order.id) == (after or before).value
        refunded = await transaction.fetchval("SELECT state FROM pay_refund WHERE id = $1", rows.refund.id) == "SUCCESS"
        assert refunded == (after is not None)
        await transaction.execute("TRUNCATE pay_notify_task, pay_refund, pay_case, pay_attempt, pay_order, pay_approval CASCADE")


async def test_only_a_failed_refund_is_sent_again(system: PayCenterSystem) -> None:
    async with system.services.context.database.transaction() as transaction:
        rows = await stored(system, transaction)
        for state in RefundState:
            await rows.set("pay_refund", rows.refund.id, state.value)
            done = await number_rows.send_again(transaction, rows.refund, rows.refund.out_refund_key, rows.now, rows.now, CAUSE)
            assert done == ((state, RefundEvent.SEND_AGAIN) in REFUND), state
        await transaction.execute(delete_all(MONEY))


def test_every_event_is_executed() -> None:
    tables: tuple[Any, ...] = (ORDER, ATTEMPT, REFUND, NOTIFICATION, CASE, APPROVAL)
    creating = {(type(event), event) for table in tables for state, event in table if state is None}
    assert {(type(event), event) for _, event in EVENTS} == {*ACTS, *creating}
