"""Decisions about cases, for the crash matrix."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from faults.crash.killer import Prepare, Prepared
from faults.crash.money import acknowledged, caught_callback
from paycenter_server.channels.protocol import RefundOutcome, RefundStatus
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.cases import Decision
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.services.notifications_delivery import DeliveryResponse
from support.facts import configured, refund_facts, refunded
from support.system import CAUSE, OPERATOR, PayCenterSystem
from support.waiting import eventually


async def _late_payment(system: PayCenterSystem) -> tuple[PayOrder, str]:
    """A late payment that waits for an operator; the number of its case."""
    await system.rows("UPDATE pay_app SET surplus_policy = 'HOLD'")
    order = await system.order()
    attempt = await system.submit(order)
    await system.services.orders.close(OPERATOR, order.number)
    await system.simulator.pay(attempt.out_trade_no, force=True)
    return order, await case_of(system, order)


async def case_of(system: PayCenterSystem, order: PayOrder) -> str:
    """The number of the last case of an order, as soon as there is one."""

    async def found() -> Any:
        return await system.value("SELECT id FROM pay_case WHERE order_id = $1 ORDER BY id DESC LIMIT 1", order.id)

    return encode(Prefix.CASE, await eventually(found))


async def _again(system: PayCenterSystem, number: str, decision: Decision) -> None:
    """The operator decides the same again. It is refused if the case has gone on meanwhile."""
    with suppress(PayCenterError):
        await system.services.case_decisions.decide(OPERATOR, number, decision, "decided in a test")


async def _surplus(decision: Decision, end: tuple[str, int, int], told: str, system: PayCenterSystem) -> Prepared:
    order, number = await _late_payment(system)
    return Prepared(
        order, "decide", [number, decision.value], partial(_again, system, number, decision), {end}, {"pay_order.closed", told},
        {"LATE_PAYMENT RESOLVED"},
    )  # fmt: skip


async def _failed_refund(system: PayCenterSystem) -> Prepared:
    """The refund of the case failed. It is sent again under a new number."""
    order, number = await _late_payment(system)
    await system.simulator.fault("wx.refund", "refund_closed")
    await system.services.case_decisions.decide(OPERATOR, number, Decision.REFUND, "")

    async def failed() -> Any:
        await system.rows("UPDATE pay_refund SET next_check_time = now() WHERE state = 'WAITING' AND order_id = $1", order.id)
        await system.services.jobs.sync_refunds()
        return await system.value("SELECT state = 'FAILURE' FROM pay_refund WHERE order_id = $1", order.id)

    await eventually(failed)
    return Prepared(
        order, "decide", [number, "RETRY"], partial(_again, system, number, Decision.RETRY), {("CLOSED", 0, 0)},
        {"pay_order.closed", "pay_order.surplus_refund_failed", "pay_order.surplus_refunded"}, {"LATE_PAYMENT RESOLVED"},
    )  # fmt: skip


async def _resend(system: PayCenterSystem) -> Prepared:
    """A notification that was given up is sent again."""
    order = await system.paid("mock")
    system.sender.default = DeliveryResponse(410, "gone")
    await system.deliver()
    system.sender.default = DeliveryResponse(200, "ok")
    number = await case_of(system, order)
    return Prepared(
        order, "decide", [number, "RETRY"], partial(_again, system, number, Decision.RETRY), {("SUCCESS", 100, 0)},
        {"pay_order.success"}, {"NOTIFICATION_GIVEN_UP RESOLVED"},
    )  # fmt: skip


async def _stale(system: PayCenterSystem) -> Prepared:
    """A stale attempt is queried again, and is settled."""
    order = await system.order()
    await system.submit(order)
    await system.simulator.fault("wx.query", "error_before_commit")
    past = "UPDATE pay_attempt SET expire_time = now() - interval '25 hours', next_check_time = now() WHERE order_id = $1"
    await system.rows(past, order.id)
    await system.services.jobs.sync_orders()
    number = await case_of(system, order)

    async def repeat() -> None:
        await _again(system, number, Decision.RETRY)
        with suppress(PayCenterError):
            await system.services.orders.close(OPERATOR, order.number)

    return Prepared(
        order, "decide", [number, "RETRY"], repeat, {("CLOSED", 0, 0)}, {"pay_order.closed"}, {"STALE_ATTEMPT RESOLVED"}
    )


async def _stale_refund(decision: Decision, system: PayCenterSystem) -> Prepared:
    """An operator states about a refund without an answer that it went back, or that it did not."""
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.notify", "drop", times=-1)
    went_back = decision is Decision.ACCEPT
    await system.simulator.fault("wx.refund", "reset" if went_back else "reset_before_commit")
    refund = await system.refund(order, 40)
    await system.rows("UPDATE pay_refund SET unclear_send_time = now() - interval '1 day' WHERE id = $1", refund.id)
    await system.services.cases.stale_refund(refund)
    number = await case_of(system, order)
    return Prepared(
        order, "decide", [number, decision.value], partial(_again, system, number, decision),
        {("REFUND", 100, 40) if went_back else ("SUCCESS", 100, 0)},
        {"pay_order.success", "pay_refund.success" if went_back else "pay_refund.failure"}, {"STALE_REFUND RESOLVED"},
    )  # fmt: skip


async def _stale_refund_again(system: PayCenterSystem) -> Prepared:
    """A stale refund is looked at again: the channel has carried it out."""
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.notify", "drop", times=-1)
    await system.simulator.fault("wx.refund", "reset")
    refund = await system.refund(order, 40)
    await system.services.cases.stale_refund(refund)
    number = await case_of(system, order)
    return Prepared(
        order, "decide", [number, "RETRY"], partial(_again, system, number, Decision.RETRY), {("REFUND", 100, 40)},
        {"pay_order.success", "pay_refund.success"}, {"STALE_REFUND RESOLVED"},
    )  # fmt: skip


async def _two_operators(second: bool, system: PayCenterSystem) -> Prepared:
    """Above the limit: the process of the first or of the second operator is killed."""
    order, number = await _late_payment(system)
    await system.rows("UPDATE pay_app SET case_decision_limit = 10")
    decide = system.services.case_decisions.decide
    if second:
        await decide(OPERATOR, number, Decision.REFUND, "")

    async def repeat() -> None:
        for name in ("one", "two"):
            with suppress(PayCenterError):
                await decide(Caller(name, None, ""), number, Decision.REFUND, "")

    return Prepared(
        order, "decide", [number, "REFUND"], repeat, {("CLOSED", 0, 0)}, {"pay_order.closed", "pay_order.surplus_refunded"},
        {"LATE_PAYMENT RESOLVED"},
    )  # fmt: skip


async def _accepted_refund(answer: str, system: PayCenterSystem) -> Prepared:
    """A refund did not go back that an operator has accepted: the channel has none, or it failed there. A look finds it."""
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.notify", "drop", times=-1)
    await system.simulator.fault("wx.refund", answer)
    refund = await system.refund(order, 40)
    await system.simulator.advance(2)
    await system.rows("UPDATE pay_refund SET unclear_send_time = now() - interval '1 day' WHERE id = $1", refund.id)
    await system.services.cases.stale_refund(refund)
    await system.services.case_decisions.decide(OPERATOR, await case_of(system, order), Decision.ACCEPT, "seen in the console")
    await system.rows("UPDATE pay_refund SET next_check_time = now() WHERE id = $1", refund.id)
    return Prepared(
        order, "job", ["sync_refunds"], None, {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"},
        {"STALE_REFUND RESOLVED", "REFUND_MISMATCH OPEN"}, stated=40,
    )  # fmt: skip


async def _taken_back(system: PayCenterSystem) -> Prepared:
    """A refund did not go back, after the channel had said that it did. An operator takes it back."""
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.notify", "drop", times=-1)
    await system.simulator.fault("wx.refund", "refund_closed")
    refund, channel = await system.refund(order, 40), await configured(system, "wx_native")
    await system.simulator.advance(2)
    await system.services.refund_settlement.receive_callback(channel, refunded(channel, refund), CAUSE)
    closed = RefundOutcome(RefundStatus.FAILED, refund_facts(channel, refund), "CLOSED")
    await system.services.refund_settlement.receive_callback(channel, closed, CAUSE)
    number = await case_of(system, order)
    return Prepared(
        order, "decide", [number, "ACCEPT"], partial(_again, system, number, Decision.ACCEPT), {("SUCCESS", 100, 0)},
        {"pay_order.success", "pay_refund.success", "pay_refund.failure"}, {"REFUND_MISMATCH RESOLVED"},
    )  # fmt: skip


async def _refund_succeeds_without_room(system: PayCenterSystem) -> Prepared:
    """Failed here, and carried out at the channel, and most of the payment has gone back otherwise: a case."""
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.notify", "drop", times=-1)
    refund = await system.decided(await system.refund(order, 40))
    system.books_are_checked = False
    await system.rows(
        """WITH failed AS (UPDATE pay_refund SET state = 'FAILURE', success_time = NULL, next_check_time = now() WHERE id = $1
             RETURNING order_id)
           UPDATE pay_order o SET refunded_amount = 70 FROM failed WHERE o.id = failed.order_id""",
        refund.id,
    )
    return Prepared(
        order, "job", ["sync_refunds"], None, {("REFUND", 100, 70)}, {"pay_order.success", "pay_refund.success"},
        {"REFUND_MISMATCH OPEN"}, elsewhere=40,
    )  # fmt: skip


async def _unknown_payment(system: PayCenterSystem) -> Prepared:
    """A callback about a payment whose number is not known here."""
    order = await system.order()
    number = (await system.submit(order)).out_trade_no
    request = await caught_callback(system, number, lambda: system.simulator.pay(number))
    await system.rows("DELETE FROM pay_attempt WHERE order_id = $1", order.id)

    async def repeat() -> None:
        await acknowledged(system, "wx_native", request)
        found = "SELECT count(*) FROM pay_case WHERE kind = 'UNKNOWN_ORDER' AND reference LIKE '%' || $1 || '%'"
        assert await system.value(found, number) == 1

    return Prepared(order, "callback", [system.channels["wx_native"], *request], repeat, {("WAITING", 0, 0)})


OPERATIONS: dict[str, Prepare] = {
    "refund that succeeds late without room": _refund_succeeds_without_room,
    "callback of an unknown payment": _unknown_payment,
    "look at an accepted refund that the channel does not know": partial(_accepted_refund, "reset_before_commit"),
    "look at an accepted refund that failed": partial(_accepted_refund, "refund_closed"),
    "decide that a refund did not go back after all": _taken_back,
    "decide that a stale refund went back": partial(_stale_refund, Decision.ACCEPT),
    "decide that a stale refund did not go back": partial(_stale_refund, Decision.CLOSE),
    "decide to look at a stale refund again": _stale_refund_again,
    "decide as the first of two operators": partial(_two_operators, False),
    "decide as the second of two operators": partial(_two_operators, True),
    "decide refund": partial(_surplus, Decision.REFUND, ("CLOSED", 0, 0), "pay_order.surplus_refunded"),
    "decide accept": partial(_surplus, Decision.ACCEPT, ("SUCCESS", 100, 0), "pay_order.success"),
    "decide close": partial(_surplus, Decision.CLOSE, ("CLOSED", 0, 0), "pay_order.closed"),
    "decide to send a failed refund again": _failed_refund,
    "decide to send a notification again": _resend,
    "decide to look at a stale attempt again": _stale,
}
