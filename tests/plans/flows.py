"""Everything that happens to orders: paid, refunded, closed, looked at again, decided by operators, delivered."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

from paycenter_server.domain.cases import Decision
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import NotificationState
from paycenter_server.services.books import check_books
from paycenter_server.services.notifications_delivery import DeliveryResponse
from paycenter_server.services.paging import Pager
from paycenter_server.storage.notifications import NotificationFilter
from support import cases
from support.system import OPERATOR, PayCenterSystem


async def seed(system: PayCenterSystem) -> None:
    """A row of each table."""
    await system.add_app("few", codes=())
    order = await system.paid("mock")
    await system.refund(order, 10)
    await system.deliver()
    await cases.hold(system)
    await cases.late(system)
    await system.services.sessions.login("nobody", "wrong", "", "203.0.113.7", "test")


async def payments(system: PayCenterSystem) -> None:
    """Created, submitted, paid by a callback, late, twice, or not at all."""
    services = system.services
    new = system.new_order()
    order = await services.orders.create(system.caller, new)
    await services.orders.create(system.caller, new)
    await services.orders.read(system.caller, merchant_order_id=new.merchant_order_id)
    await services.orders.read(system.caller, number=order.number)
    await services.orders.update_price(system.caller, order.number, 200)
    await services.orders.attempts(order)
    await system.paid("wx_native")
    await system.paid("alipay_qr")
    unpaid = await system.order()
    await system.submit(unpaid, "mock", behaviour="never")
    await services.orders.sync(system.caller, unpaid.number)
    await services.orders.close(system.caller, unpaid.number)
    silent = await system.order()
    await system.simulator.fault("wx.native", "reset_before_commit")
    await system.simulator.fault("wx.query", "error_before_commit")
    with suppress(PayCenterError):
        await system.submit(silent)
    # Expired ones are closed by the jobs, after a query of their attempts.
    for code in ("wx_native", "mock"):
        expiring = await system.order(expire_time=system.clock.now() + timedelta(minutes=2))
        await system.submit(expiring, code, **({"behaviour": "never"} if code == "mock" else {}))


async def refunds(system: PayCenterSystem) -> None:
    """Refunds that succeed, and one that fails and is sent again."""
    order = await system.paid("mock")
    refund = await system.refund(order, 10, merchant_refund_no="R-plans")
    await system.services.refunds.load_by_merchant_no(system.caller, "", "R-plans")
    await system.services.refunds.load(system.caller, refund.number)
    await system.services.refunds.sync(system.caller, refund)
    await system.services.refunds.of_order(system.caller, order)
    with suppress(PayCenterError):
        await system.refund(order, 1000)
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $2 WHERE order_id = $1", order.id, {"refund": "failure"})
    refund = await system.refund(order, 20, merchant_refund_no="R-again")
    await system.services.refunds.sync(system.caller, refund)
    await system.rows("UPDATE pay_attempt SET channel_extras = $2 WHERE order_id = $1", order.id, {"refund": "success"})
    await system.refund(order, 20, merchant_refund_no="R-again")
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "reset_before_commit")
    refund = await system.refund(order, 10)
    await system.services.refunds.sync(system.caller, refund)
    await system.services.cases.stale_refund(refund)


async def jobs(system: PayCenterSystem) -> None:
    """Every job, when work is due for it."""
    services = system.services
    for seconds in (11, 60, 60):
        system.clock.advance(seconds)
        await services.jobs.sync_orders()
        await services.jobs.expire_orders()
        await services.jobs.sync_refunds()
        await system.deliver()
    await services.partitions.maintain()
    async for _ in check_books(services.context.database):
        break


async def decisions(system: PayCenterSystem) -> None:
    """Cases of each kind, and what operators do with them."""
    services = system.services
    for made in (cases.late, cases.duplicate, cases.wrong_amount):
        _, case = await made(system)
        await services.case_desk.comment(OPERATOR, case.number, "seen")
        await services.case_desk.assign(OPERATOR, case.number, "anne")
        await services.case_desk.timeline(OPERATOR, case.number)
        await cases.decide(system, OPERATOR, case, Decision.REFUND)
        await cases.run_refund_job(system)
    _, case = await cases.late(system)
    await cases.decide(system, OPERATOR, case, Decision.ACCEPT)
    unknown = await cases.unknown(system)
    await services.case_desk.timeline(OPERATOR, unknown.number)
    await cases.decide(system, OPERATOR, unknown, Decision.CLOSE, "ours")
    await cases.set_app(system, case_decision_limit=10)
    order, case = await cases.late(system)
    for by in (cases.ANNE, cases.BEN):
        await cases.decide(system, by, case, Decision.CLOSE, "agreed")
    await services.timelines.of_order(OPERATOR, order.number)
    await system.rows("UPDATE pay_app SET case_decision_limit = NULL")


async def notifications(system: PayCenterSystem) -> None:
    """Delivered, refused, given up, sent again."""
    services = system.services
    for answer in (500, 410, 200):
        system.sender.default = DeliveryResponse(answer, "")
        order = await system.paid("mock")
        await system.deliver()
        key = await system.value("SELECT id FROM pay_notify_task WHERE data_id = $1", order.id)
        number = encode(Prefix.NOTIFICATION, key)
        for again in (services.notifications.resend, services.notifications.send_now):
            with suppress(PayCenterError):
                await again(OPERATOR, number)
        await services.notifications.get(OPERATOR, number)
    merchant: tuple[dict[str, Any], ...] = ({}, {"merchant_order_id": order.merchant_order_id}, {"merchant_refund_no": "R-plans"})
    for state in (NotificationState.FAILURE, NotificationState.SUCCESS):
        for more in merchant:
            where = NotificationFilter(state=state, **more)
            await services.notifications.resend_matching(OPERATOR, "shop", where, Pager(2, ""), dry_run=True)
