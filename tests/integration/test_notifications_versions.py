"""Versions: each notification says how new it is, and an older open one of the same object is superseded by the newer one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from paycenter.notifications import Notification, NotificationVerifier
from paycenter_server.domain.apps import SurplusPolicy
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import NotificationEvent
from paycenter_server.services.notifications_delivery import LEASE, DeliveryResponse
from paycenter_server.storage import notifications_delivery as delivery_rows
from paycenter_server.storage.notifications_delivery import DeliveryResult
from support.locks import transaction, waiting_for_lock
from support.system import OPERATOR, PayCenterSystem, SentNotification
from support.waiting import eventually

PLACES = {"http://merchant.test:80": 100}


async def tasks(system: PayCenterSystem) -> list[tuple[str, int, str]]:
    """Notification type, version and state, in the order of creation."""
    rows = await system.rows("SELECT event, data_version, state FROM pay_notify_task ORDER BY id")
    return [(row["event"], row["data_version"], row["state"]) for row in rows]


async def numbers(system: PayCenterSystem) -> list[str]:
    return [encode(Prefix.NOTIFICATION, row["id"]) for row in await system.rows("SELECT id FROM pay_notify_task ORDER BY id")]


def verified(system: PayCenterSystem, post: SentNotification) -> Notification:
    return NotificationVerifier(system.secrets["shop"]).verify(post.headers, post.body, now=system.clock.now())


async def closed(system: PayCenterSystem) -> tuple[PayOrder, Any]:
    """An order that was closed, whose late payment would be accepted, and its attempt."""
    await system.services.apps.update(OPERATOR, "shop", {"surplus_policy": SurplusPolicy.ACCEPT.value})
    order = await system.order()
    attempt = await system.submit(order, "wx_native")
    await system.services.orders.close(system.caller, order.number)
    return order, attempt


async def accepted_late(system: PayCenterSystem) -> PayOrder:
    """An order that was closed, and whose late payment was accepted."""
    order, attempt = await closed(system)
    await system.simulator.pay(attempt.out_trade_no, force=True)
    return await system.until(order, "SUCCESS")


async def refused_then_refunded(system: PayCenterSystem) -> Any:
    """A refund that failed, and succeeded when it was sent again."""
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "refund_closed")
    await system.decided(await system.refund(order, 40, merchant_refund_no="R"))
    return await system.decided(await system.refund(order, 40, merchant_refund_no="R"))


async def test_a_receiver_that_was_down_hears_only_the_newest_state(system: PayCenterSystem) -> None:
    order = await accepted_late(system)
    assert (order.version, await tasks(system)) == (
        2, [("pay_order.closed", 1, "SUPERSEDED"), ("pay_order.success", 2, "WAITING")],
    )  # fmt: skip
    (post,) = await system.deliver()
    told = verified(system, post)
    assert (told.type, told.object_id, told.version) == ("pay_order.success", order.number, 2)


async def test_a_refund_that_succeeds_supersedes_its_failure(system: PayCenterSystem) -> None:
    refund = await refused_then_refunded(system)
    assert refund.version == 2
    assert await tasks(system) == [
        ("pay_order.success", 1, "WAITING"), ("pay_refund.failure", 1, "SUPERSEDED"), ("pay_refund.success", 2, "WAITING"),
    ]  # fmt: skip
    told = {one.type: one for one in (verified(system, post) for post in await system.deliver())}
    assert set(told) == {"pay_order.success", "pay_refund.success"}
    assert (told["pay_refund.success"].object_id, told["pay_refund.success"].version) == (refund.number, 2)


async def test_what_was_delivered_in_order_counts_up(system: PayCenterSystem) -> None:
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "refund_closed")
    await system.decided(await system.refund(order, 40, merchant_refund_no="R"))
    first = {one.type: one for one in (verified(system, post) for post in await system.deliver())}
    await system.decided(await system.refund(order, 40, merchant_refund_no="R"))
    (post,) = await system.deliver()
    success = verified(system, post)
    assert success.is_newer_than(first["pay_refund.failure"])
    assert not first["pay_refund.failure"].is_newer_than(success)
    assert [state for _, _, state in await tasks(system)] == ["SUCCESS"] * 3


async def test_the_newer_notification_and_the_end_of_the_older_are_one_commit(system: PayCenterSystem) -> None:
    """The older one waits for a retry. Until the newer is committed the older stays, and then it is not sent any more."""
    system.sender.default = DeliveryResponse(500, "down")
    order, attempt = await closed(system)
    assert len(await system.deliver()) == 1
    system.sender.default = DeliveryResponse(200, "ok")
    await system.simulator.pay(attempt.out_trade_no, force=True)
    await system.until(order, "SUCCESS")
    system.clock.advance(86_400)
    assert [verified(system, post).type for post in await system.deliver()] == ["pay_order.success"]
    assert await tasks(system) == [("pay_order.closed", 1, "SUPERSEDED"), ("pay_order.success", 2, "SUCCESS")]


async def test_what_was_delivered_before_a_late_payment_stays_delivered(system: PayCenterSystem) -> None:
    order, attempt = await closed(system)
    assert len(await system.deliver()) == 1
    await system.simulator.pay(attempt.out_trade_no, force=True)
    await system.until(order, "SUCCESS")
    assert [verified(system, post).type for post in await system.deliver()] == ["pay_order.success"]
    assert await tasks(system) == [("pay_order.closed", 1, "SUCCESS"), ("pay_order.success", 2, "SUCCESS")]


@pytest.mark.parametrize("event", [NotificationEvent.RECEIVED, NotificationEvent.UNANSWERED, NotificationEvent.GIVE_UP])
async def test_a_delivery_in_progress_does_not_reopen_what_was_superseded(
    system: PayCenterSystem, event: NotificationEvent
) -> None:
    order = await system.order()
    await system.services.orders.close(system.caller, order.number)
    database, now = system.services.context.database, system.clock.now()
    async with database.connection() as connection:
        (claimed,) = await delivery_rows.claim_due(connection, now, now + LEASE, PLACES)
        await system.rows("UPDATE pay_notify_task SET state = 'SUPERSEDED', next_notify_time = NULL")
        later = now if event is NotificationEvent.UNANSWERED else None
        result = DeliveryResult(claimed.id, claimed.notify_times, event, later, "u", 0, 1, "", now)
        assert not (await delivery_rows.record(connection, [result])).changed
    assert await tasks(system) == [("pay_order.closed", 1, "SUPERSEDED")]
    assert await system.cases() == []


async def test_an_older_notification_cannot_be_sent_again(system: PayCenterSystem) -> None:
    """Neither one that was superseded nor one that was received before the newer one."""
    order = await system.order()
    await system.services.orders.close(system.caller, order.number)
    await system.deliver()
    (old,) = await numbers(system)
    await system.rows(
        """INSERT INTO pay_notify_task SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(),
             'event', 'pay_order.success', 'data_version', 2))).* FROM pay_notify_task t"""
    )
    newer = (set(await numbers(system)) - {old}).pop()
    for state in ("SUCCESS", "FAILURE", "SUPERSEDED"):
        await system.rows("UPDATE pay_notify_task SET state = $2 WHERE id = $1", decode(Prefix.NOTIFICATION, old), state)
        for call in (system.services.notifications.resend, system.services.notifications.send_now):
            with pytest.raises(PayCenterError) as caught:
                await call(system.caller, old)
            assert caught.value.reason is Reason.NOTIFICATION_SUPERSEDED
            assert newer in caught.value.message
            assert caught.value.metadata["replaced_by"] == newer
    assert (await system.services.notifications.resend(system.caller, newer)).state.value == "WAITING"


async def test_an_older_one_that_is_open_all_the_same_is_not_sent(system: PayCenterSystem) -> None:
    """A resend whose statement began before the newer notification was committed: the claim looks for a newer one."""
    order = await accepted_late(system)
    await system.rows("UPDATE pay_notify_task SET state = 'WAITING', next_notify_time = create_time")
    assert [verified(system, post).type for post in await system.deliver()] == ["pay_order.success"]
    assert await tasks(system) == [("pay_order.closed", 1, "SUPERSEDED"), ("pay_order.success", 2, "SUCCESS")]
    log = (await system.rows("SELECT * FROM pay_notify_log WHERE state = 'SUPERSEDED'"))[0]
    assert (log["notify_times"], log["answer"]) == (0, "not sent: a newer notification replaces it")
    assert order.version == 2


async def test_a_payment_is_not_booked_under_a_version_that_has_passed(system: PayCenterSystem) -> None:
    """The payload was built from a row that another call has changed since. The slow path reads it again under lock."""
    order = await system.order()
    attempt = await system.submit(order, "wx_native")
    async with transaction(system) as held:
        await held.execute("UPDATE pay_order SET version = 7 WHERE id = $1", order.id)
        await system.simulator.pay(attempt.out_trade_no)
        # The callback follows the simulator's answer, so its end says nothing: the booking waits while this transaction is open.
        open_still = asyncio.create_task(asyncio.Event().wait())
        await waiting_for_lock(system, [open_still], 1)
        open_still.cancel()
    await system.until(order, "SUCCESS")
    (post,) = await system.deliver()
    assert (verified(system, post).version, (await system.read(order)).version) == (8, 8)


async def test_surplus_money_never_supersedes_the_payment(system: PayCenterSystem) -> None:
    """Its notification is about the refund of the surplus, which is another object than the order."""
    order = await system.order()
    first = await system.submit(order, "alipay_qr")
    second = await system.submit(order, "wx_native")
    await system.simulator.pay(second.out_trade_no)
    await system.until(order, "SUCCESS")
    await system.simulator.pay(first.out_trade_no, force=True)
    await eventually(system.cases)

    async def resolved() -> bool:
        await system.services.jobs.sync_refunds()
        system.clock.advance(11)
        return bool((await system.cases())[0]["state"] == "RESOLVED")

    await eventually(resolved)
    assert [task for task in await tasks(system) if not task[0].startswith("pay_case.")] == [
        ("pay_order.success", 1, "WAITING"), ("pay_order.surplus_refunded", 1, "WAITING"),
    ]  # fmt: skip
    told = {one.type: one for one in (verified(system, post) for post in await system.deliver())}
    (case,) = await system.cases()
    surplus = told["pay_order.surplus_refunded"]
    assert surplus.data["pay_case_id"] == encode(Prefix.CASE, case["id"])
    assert (surplus.data["amount"], surplus.data["out_trade_no"]) == (100, first.out_trade_no)
    assert surplus.object_id.startswith("F")
    assert "merchant_refund_no" not in surplus.data
    assert told["pay_order.success"].object_id == order.number
