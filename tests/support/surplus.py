"""No tests: surplus money, and the refund that its case makes."""

from __future__ import annotations

from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.storage import refunds as refund_rows

from support.facts import configured, payment_of
from support.system import CAUSE, PayCenterSystem


async def refund_of_case(system: PayCenterSystem) -> tuple[PayOrder, PayRefund]:
    """A closed order whose late payment became a case, and the refund of the case."""
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="late_after_close", late_seconds="80000")
    await system.services.orders.close(system.caller, order.number)
    channel = await configured(system, "mock")
    await system.services.payments.book(channel, payment_of(channel, attempt), CAUSE)
    (case,) = await system.cases()
    async with system.services.context.database.connection() as connection:
        surplus = await refund_rows.get_refund(connection, case["refund_id"])
    assert surplus is not None
    return order, surplus
