"""Functions of storage/ that the use cases rarely reach, each called by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

from paycenter_server.domain.sessions import LoginDelays
from paycenter_server.services.notifications_payloads import refund_settled
from paycenter_server.storage import (
    accounts,
    attempts,
    attempts_submission,
    audit,
    cases,
    channels,
    credentials,
    events,
    notifications,
    notifications_delivery,
    orders,
    orders_insert,
    partitions,
    refunds,
    refunds_numbers,
    search,
    sessions,
)
from paycenter_server.storage.attempts import Cancelling
from support.system import CAUSE, PayCenterSystem


@asynccontextmanager
async def undone(system: PayCenterSystem) -> AsyncIterator[Any]:
    """A transaction that is rolled back."""
    async with system.services.context.database.connection() as connection:
        opened = connection.transaction()  # type: ignore[attr-defined]
        await opened.start()
        try:
            yield connection
        finally:
            await opened.rollback()


async def of_orders(system: PayCenterSystem) -> None:
    """Orders and attempts."""
    now = system.clock.now()
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="never")
    paid = await system.paid("mock")
    async with undone(system) as connection:
        await orders.set_next_check(connection, order.id, now)
        await orders.get_order_by_merchant_id(connection, order.app_id, order.merchant_order_id)
        await orders_insert.insert_orders(connection, [(order, CAUSE)])
        await orders.count_for_submits(connection, order.id)
        await orders.postpone_open(connection, [order.id], now, [60, 600])
        await orders.claim_expired(connection, now + timedelta(hours=3), now, 10)
        current = await orders.get_order(connection, order.id) or order
        another = replace(attempt, id=system.services.context.new_key(now))
        assert await attempts_submission.insert_attempt(connection, another, current, CAUSE)
        assert await attempts_submission.answered(connection, another.id, "qr_code", "weixin://", now, now, CAUSE)
        await attempts.look_again(connection, attempt.id, now)
        await attempts.set_next_check(connection, attempt.id, now, only_open=False)
        await attempts.list_waiting(connection, attempt.account_id, now, (now - timedelta(days=9), uuid4()), 10)
        begun = await attempts.begin_cancel(connection, attempt.id, now, now, CAUSE)
        await attempts.end_cancel(connection, attempt.id, begun or Cancelling(now, None), None, CAUSE)
        await attempts.unclear(connection, attempt.id, "E", "error", now, now, CAUSE)
        await events.list_events(connection, paid.id, 100)
        await search.orders_by_channel_no(connection, "L77")
        await search.order_of_attempt(connection, attempt.id)


async def of_refunds(system: PayCenterSystem) -> None:
    """Refunds."""
    now = system.clock.now()
    order = await system.paid("mock")
    refund = await system.refund(order, 10)
    await system.rows("UPDATE pay_attempt SET channel_extras = $2 WHERE order_id = $1", order.id, {"refund": "pending"})
    waiting = await system.refund(order, 10)
    async with undone(system) as connection:
        key = system.services.context.new_key(now)
        another = replace(waiting, id=key, out_refund_key=key, merchant_refund_no="R-another", version=0)
        assert await refunds.reserve_and_insert(connection, another, CAUSE)
        task = refund_settled(waiting, system.services.context.new_key(now), now, version=1, success_time=now)
        done = await refunds.succeed(connection, waiting, CAUSE, task, channel_refund_no="", success_time=now, now=now)
        assert done == 1
        booked = await refunds.get_refund(connection, waiting.id) or waiting
        taken = await refunds.take_back(connection, booked, CAUSE, code="", message="", known=False, now=now, next_look=now)
        assert taken == 2
        await refunds.reserve(connection, order.id, 1, now)
        await refunds_numbers.find_earlier_key(connection, refund.attempt_id, uuid4())
        await refunds.refunded_of_attempt(connection, refund.attempt_id)
        await cases.refunded_elsewhere(connection, refund.attempt_id)
        earlier = await refunds_numbers.earlier_numbers(connection, refund.id)
        assert earlier is not None
        await refunds_numbers.set_earlier_look(connection, refund.id, earlier, now, now, now)
        await refunds.begin_looks(connection, refund, now)
        await refunds.set_next_look(connection, refund, now, now)
        await refunds.list_waiting(connection, refund.account_id, now, (now - timedelta(days=9), uuid4()), 10)
        await refunds_numbers.send_again(connection, refund, system.services.context.new_key(now), now, now, CAUSE)
        await search.refund_of_out_key(connection, refund.out_refund_key)


async def of_others(system: PayCenterSystem) -> None:
    """Cases, notifications, credentials, the audit."""
    now = system.clock.now()
    case = await system.value("SELECT id FROM pay_case WHERE resolve_time IS NULL ORDER BY id DESC LIMIT 1")
    order = await system.value("SELECT order_id FROM pay_case WHERE id = $1", case)
    delays = LoginDelays(free=0, first=60, longest=60)
    key = await system.value("SELECT key_id FROM pay_credential LIMIT 1")
    async with undone(system) as connection:
        await cases.mark_stale(connection, case, now, CAUSE)
        await cases.held_case(connection, order)
        await cases.list_of_order(connection, order)
        await credentials.has_expired(connection, key)
        await credentials.lock_operator_credentials(connection)
        await credentials.another_is_usable(connection, key)
        await notifications.newest_of(connection, order)
        endpoint = await system.value("SELECT endpoint FROM pay_notify_task WHERE next_notify_time IS NOT NULL LIMIT 1")
        await notifications_delivery.due_endpoints(connection, now, endpoint, 1)
        await notifications_delivery.due_of_endpoints(connection, now, [endpoint])
        for _ in range(3):
            await sessions.begin_login(connection, "name:blocked", delays)
        await audit.read_head(connection)
        await audit.read_after(connection, 0, 100)
        await audit.read_one(connection, 1)


async def of_administration(system: PayCenterSystem) -> None:
    """Accounts, channels, bindings, partitions."""
    now = system.clock.now()
    app = await system.value("SELECT id FROM pay_app WHERE app_key = 'shop'")
    account = await system.value("SELECT account_id FROM pay_binding LIMIT 1")
    async with undone(system) as connection:
        found = await accounts.get_account(connection, account)
        assert found is not None
        await accounts.insert_account(connection, found)
        await accounts.get_account_by_identity(connection, found.family, found.identity)
        await channels.usable_codes(connection, app)
        await channels.apps_of_account(connection, account)
        for _, binding in await channels.list_account_bindings(connection, account):
            await channels.update_binding(connection, binding, now)
        await partitions.newest_event(connection)
        await partitions.first_month_kept(connection)
