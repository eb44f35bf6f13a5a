"""What operators do beside deciding about cases, for the crash matrix: notifications sent again, keys, the books check."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from faults.crash.cases import case_of
from faults.crash.killer import Prepare, Prepared
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.services.books import check_books
from paycenter_server.services.notifications_delivery import DeliveryResponse
from paycenter_server.services.paging import Pager
from paycenter_server.services.refunds import NewRefund
from paycenter_server.storage.notifications import NotificationFilter
from support.merchants import change_own_keys, merchant_of
from support.system import OPERATOR, PayCenterSystem


async def _notification(system: PayCenterSystem, answer: int) -> tuple[PayOrder, str]:
    """A paid order, and the number of its notification, which was delivered once and got this answer."""
    order = await system.paid("mock")
    system.sender.default = DeliveryResponse(answer, "")
    await system.deliver()
    system.sender.default = DeliveryResponse(200, "ok")
    return order, encode(Prefix.NOTIFICATION, await system.value("SELECT id FROM pay_notify_task WHERE data_id = $1", order.id))


async def _sent_again(how: str, answer: int, cases: set[str], system: PayCenterSystem) -> Prepared:
    """A notification is sent again: it was received, or it waits for its next delivery."""
    order, number = await _notification(system, answer)

    async def repeat() -> None:
        with suppress(PayCenterError):
            await getattr(system.services.notifications, how)(OPERATOR, number)

    return Prepared(order, how, [number], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"}, cases)


async def _all_sent_again(system: PayCenterSystem) -> Prepared:
    """Every notification that was given up is sent again."""
    order, _ = await _notification(system, 410)

    async def repeat() -> None:
        everything = NotificationFilter()
        await system.services.notifications.resend_matching(OPERATOR, "", everything, Pager(200, ""), dry_run=False)
        assert not await system.value("SELECT count(*) FROM pay_notify_task WHERE state = 'FAILURE'")

    return Prepared(
        order, "resend_matching", [], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"}, {"NOTIFICATION_GIVEN_UP OPEN"}
    )


async def _books_differ(system: PayCenterSystem) -> Prepared:
    """The books check finds a difference, which is a case of its order, once."""
    order = await system.paid("mock")
    system.books_are_checked = False
    await system.rows("UPDATE pay_order SET state = 'REFUND', refunded_amount = 1 WHERE id = $1", order.id)

    async def repeat() -> None:
        async for found in check_books(system.services.context.database, cases=system.services.cases):
            assert len(found.differences) == 1
        assert await case_of(system, order)
        await system.rows("UPDATE pay_order SET state = 'SUCCESS', refunded_amount = 0 WHERE id = $1", order.id)

    return Prepared(order, "books_differ", [], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"}, {"BOOKS_DIFFER OPEN"})


async def _pay(system: PayCenterSystem, order: PayOrder) -> None:
    attempt = await system.submit(order)
    await system.simulator.pay(attempt.out_trade_no)
    await system.until(order, "SUCCESS")


async def _approved_keys(system: PayCenterSystem) -> Prepared:
    """A second operator approves the new keys of an account. Payments go on with them."""
    order, accounts = await system.order(), system.services.accounts
    for view in (await accounts.search(OPERATOR, "wechatpay", Pager(10, ""))).items:
        await accounts.update(OPERATOR, view.account.number, {"change_approval": True}, "", None)
    merchant = merchant_of(system.keys_dir, system.simulator)
    number = ""
    try:
        await change_own_keys(system.services, system.simulator, merchant.configs, "wechatpay")
    except PayCenterError as error:
        number = error.metadata["pay_approval_id"]

    async def repeat() -> None:
        done = await system.services.approval_desk.approve(Caller("again", None, ""), number, "")
        assert done.state.value == "APPROVED"
        await _pay(system, order)

    return Prepared(order, "approve", [number], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"})


async def _changed_channel(system: PayCenterSystem) -> Prepared:
    """A channel of another app goes on with the other version of WeChat Pay, and has both of them then, once."""
    order, app_key = await system.paid("mock"), system.next_id("app").lower()
    await system.add_app(app_key, codes=("wx_native",))
    number = system.channels[f"{app_key}:wx_native"]
    family, config = merchant_of(system.keys_dir, system.simulator).config("wx_native", "v2")

    async def repeat() -> None:
        await system.services.channels.update(OPERATOR, number, {}, family, config)
        versions = await system.rows(
            "SELECT b.config ->> 'api_version' AS version, b.id = c.binding_id AS current FROM pay_binding b "
            "JOIN pay_channel c ON c.id = b.channel_id WHERE c.id = $1 ORDER BY b.id", decode(Prefix.CHANNEL, number),
        )  # fmt: skip
        assert [(row["version"] or "v3", row["current"]) for row in versions] == [("v3", False), ("v2", True)]

    return Prepared(order, "update_channel", [number, family, config], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"})


async def _asked(system: PayCenterSystem, caller: Caller, order: PayOrder, refund_no: str) -> str:
    """The number of the approval that the refund needs."""
    try:
        await system.services.refunds.create(caller, NewRefund("shop", order.merchant_order_id, refund_no, 40, "退货"))
    except PayCenterError as error:
        return error.metadata["pay_approval_id"]
    raise AssertionError("it needs none")


async def _refund_that_needs_two(system: PayCenterSystem) -> Prepared:
    """An operator asks for a refund that needs a second one. Asked again, it is the same."""
    await system.services.apps.update(OPERATOR, "shop", {"refund_approval_limit": 40})
    order, refund_no = await system.paid("wx_native"), system.next_id("R")

    async def repeat() -> None:
        number = await _asked(system, Caller("killed", None, ""), order, refund_no)
        assert await system.value("SELECT count(*) FROM pay_approval WHERE object = $1", order.number) == 1
        await system.services.approval_desk.approve(OPERATOR, number, "")

    return Prepared(
        order, "refund", [order.merchant_order_id, refund_no], repeat, {("REFUND", 100, 40)},
        {"pay_order.success", "pay_refund.success"},
    )  # fmt: skip


async def _refused_refund(system: PayCenterSystem) -> Prepared:
    """The second operator refuses it."""
    await system.services.apps.update(OPERATOR, "shop", {"refund_approval_limit": 40})
    order = await system.paid("wx_native")
    number = await _asked(system, OPERATOR, order, system.next_id("R"))

    async def repeat() -> None:
        await system.services.approval_desk.refuse(Caller("again", None, ""), number, "refused in a test")

    return Prepared(order, "refuse", [number], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"})


OPERATIONS: dict[str, Prepare] = {
    "send a notification again": partial(_sent_again, "resend", 200, set()),
    "send a waiting notification now": partial(_sent_again, "send_now", 500, set()),
    "send all notifications again that were given up": _all_sent_again,
    "open a case for a difference of the books": _books_differ,
    "approve new keys of an account": _approved_keys,
    "change the version of a channel": _changed_channel,
    "ask for a refund that needs two operators": _refund_that_needs_two,
    "refuse a refund that needs two operators": _refused_refund,
}
