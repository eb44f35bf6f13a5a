"""Callbacks, refunds and notifications, for the crash matrix."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from faults.crash.killer import Prepare, Prepared
from paycenter_server.channels.protocol import CallbackRequest, CallbackResponse
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.ids import RANDOM_BITS, uuid7
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.schedule import STALE_AFTER
from paycenter_server.services.callbacks import UNAVAILABLE
from paycenter_server.services.notifications_delivery import DeliveryResponse
from paycenter_server.services.refunds import NewRefund
from support.facts import configured, refunded
from support.system import CAUSE, OPERATOR, PayCenterSystem
from support.waiting import eventually


async def caught_callback(system: PayCenterSystem, number: str, cause: Callable[[], Awaitable[Any]]) -> list[Any]:
    """The next callback of a channel about this trade that `cause` brings about, not stored, as the killed process takes it."""
    caught: list[CallbackRequest] = []
    receive = system.services.callbacks.receive

    async def catch(channel_number: str, request: CallbackRequest) -> CallbackResponse:
        caught.append(request)
        return UNAVAILABLE

    system.services.callbacks.receive = catch  # type: ignore[method-assign]
    try:
        await cause()
        await eventually(lambda: caught)
    finally:
        system.services.callbacks.receive = receive  # type: ignore[method-assign]
    request = caught[0]
    return [dict(request.headers), base64.b64encode(request.body).decode(), request.query]


def _callback(code: str) -> Prepare:
    async def prepare(system: PayCenterSystem) -> Prepared:
        order = await system.order()
        attempt = await system.submit(order, code)
        number = attempt.out_trade_no
        request = await caught_callback(system, number, lambda: system.simulator.pay(number))
        return Prepared(
            order, "callback", [system.channels[code], *request], lambda: acknowledged(system, code, request),
            {("SUCCESS", 100, 0)}, {"pay_order.success"},
        )  # fmt: skip

    return prepare


async def acknowledged(system: PayCenterSystem, code: str, request: list[Any]) -> None:
    """The channel sends the same callback until it is acknowledged."""
    headers, body, query = request
    sent = CallbackRequest(headers, base64.b64decode(body), query)

    async def received() -> bool:
        answer = await system.services.callbacks.receive(system.channels[code], sent)
        return answer.status < 300

    await eventually(received)


async def _late_callback(system: PayCenterSystem) -> Prepared:
    """A payment of a closed order: a case, and its refund."""
    order = await system.order()
    attempt = await system.submit(order)
    await system.services.orders.close(OPERATOR, order.number)
    number = attempt.out_trade_no
    request = await caught_callback(system, number, lambda: system.simulator.pay(number, force=True))
    return Prepared(
        order, "callback", [system.channels["wx_native"], *request], lambda: acknowledged(system, "wx_native", request),
        {("CLOSED", 0, 0)}, {"pay_order.closed", "pay_order.surplus_refunded"}, {"LATE_PAYMENT RESOLVED"},
    )  # fmt: skip


async def _wrong_amount(system: PayCenterSystem) -> Prepared:
    order = await system.order()
    attempt = await system.submit(order)
    number = attempt.out_trade_no
    request = await caught_callback(system, number, lambda: system.simulator.pay(number, amount=77))

    async def repeat() -> None:
        await acknowledged(system, "wx_native", request)
        await system.services.orders.close(OPERATOR, order.number)

    return Prepared(
        order, "callback", [system.channels["wx_native"], *request], repeat, {("CLOSED", 0, 0)},
        {"pay_order.closed", "pay_order.surplus_refunded"}, {"WRONG_AMOUNT RESOLVED"},
    )  # fmt: skip


def _refund(code: str, *, by_app: bool = False) -> Prepare:
    async def prepare(system: PayCenterSystem) -> Prepared:
        order = await system.paid(code)
        number = system.next_id("R")
        operation, who = ("refund_of_app", [str(order.app_id)]) if by_app else ("refund", [])
        return Prepared(
            order, operation, [*who, order.merchant_order_id, number], lambda: _refund_again(system, order, number),
            {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"},
        )  # fmt: skip

    return prepare


async def _refund_again(system: PayCenterSystem, order: PayOrder, number: str) -> None:
    refund = await system.refund(order, 40, app_key="shop", merchant_refund_no=number)
    await system.decided(refund)


async def _approved_refund(system: PayCenterSystem) -> Prepared:
    """A second operator approves the refund of the first one."""
    await system.services.apps.update(OPERATOR, "shop", {"refund_approval_limit": 40})
    order = await system.paid("wx_native")
    new = NewRefund("shop", order.merchant_order_id, system.next_id("R"), 40, "退货")
    try:
        await system.services.refunds.create(OPERATOR, new)
    except PayCenterError as error:
        number = error.metadata["pay_approval_id"]

    async def again() -> None:
        done = await system.services.approval_desk.approve(Caller("again", None, ""), number, "")
        assert done.state.value == "APPROVED"

    return Prepared(order, "approve", [number], again, {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"})


async def _refund_that_failed(system: PayCenterSystem) -> Prepared:
    """The app repeats a refund in state FAILURE: the channel is queried, then the refund is sent under a new number."""
    order = await system.paid("wx_native")
    number = system.next_id("R")
    await system.simulator.fault("wx.refund", "refund_closed")
    failed = await system.decided(await system.refund(order, 40, app_key="shop", merchant_refund_no=number))
    assert failed.state.value == "FAILURE"
    return Prepared(
        order, "refund", [order.merchant_order_id, number], lambda: _refund_again(system, order, number),
        {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"},
    )  # fmt: skip


def _refund_callback(code: str, api: str) -> Prepare:
    async def prepare(system: PayCenterSystem) -> Prepared:
        order = await system.paid(code)
        refund: list[Any] = []

        async def make() -> None:
            refund.append(await system.refund(order, 40))

        await system.simulator.fault(api, "refund_pending", seconds=1)
        number = (await system.services.orders.attempts(order))[0].out_trade_no

        async def cause() -> None:
            await make()
            await system.simulator.advance(2)

        request = await caught_callback(system, number, cause)
        return Prepared(
            order, "callback", [system.channels[code], *request], lambda: acknowledged(system, code, request),
            {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"},
        )  # fmt: skip

    return prepare


async def _refund_fails(system: PayCenterSystem) -> Prepared:
    """The channel ends the refund as failed, and the job learns it."""
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "refund_closed")
    await system.simulator.fault("wx.notify", "drop", times=-1)
    await system.refund(order, 40)
    await system.simulator.advance(2)
    system.clock.advance(12)
    return Prepared(order, "job", ["sync_refunds"], None, {("SUCCESS", 100, 0)}, {"pay_order.success", "pay_refund.failure"})


async def _refund_succeeds_late(system: PayCenterSystem) -> Prepared:
    """Failed here, and carried out at the channel: the second look books it, and no callback does."""
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.notify", "drop", times=-1)
    refund = await system.decided(await system.refund(order, 40))
    system.books_are_checked = False
    await system.rows(
        """WITH failed AS (UPDATE pay_refund SET state = 'FAILURE', success_time = NULL, next_check_time = now() WHERE id = $1
             RETURNING order_id)
           UPDATE pay_order o SET state = 'SUCCESS', refunded_amount = 0 FROM failed WHERE o.id = failed.order_id""",
        refund.id,
    )
    return Prepared(order, "job", ["sync_refunds"], None, {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"})


def _refund_contradicted(state: str) -> Prepare:
    async def prepare(system: PayCenterSystem) -> Prepared:
        """A callback says that a refund was closed, or is abnormal, after another one has said that it succeeded."""
        order = await system.paid("wx_native")
        number = (await system.services.orders.attempts(order))[0].out_trade_no
        refund: list[PayRefund] = []

        async def cause() -> None:
            refund.append(await system.refund(order, 40))
            await system.simulator.advance(2)

        await system.simulator.fault("wx.refund", f"refund_{state}")
        request = await caught_callback(system, number, cause)
        channel = await configured(system, "wx_native")
        await system.services.refund_settlement.receive_callback(channel, refunded(channel, refund[0]), CAUSE)
        return Prepared(
            order, "callback", [system.channels["wx_native"], *request], lambda: acknowledged(system, "wx_native", request),
            {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"}, {"REFUND_MISMATCH OPEN"}, stated=40,
        )  # fmt: skip

    return prepare


async def _refund_elsewhere(system: PayCenterSystem) -> Prepared:
    """The callback of a refund that was made in the channel's console."""
    order = await system.paid("wx_native")
    number = (await system.services.orders.attempts(order))[0].out_trade_no
    body = {"amount": 40, "notify_url": f"{system.sidecar}/callback/refund/{system.channels['wx_native']}"}
    request = await caught_callback(system, number, lambda: system.simulator.post(f"/simulator/refund/{number}", body))
    return Prepared(
        order, "callback", [system.channels["wx_native"], *request], lambda: acknowledged(system, "wx_native", request),
        {("SUCCESS", 100, 0)}, {"pay_order.success"}, cases={"REFUND_ELSEWHERE OPEN"}, elsewhere=40,
    )  # fmt: skip


async def _sync_refund(system: PayCenterSystem) -> Prepared:
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "reset_before_commit")
    await system.refund(order, 40)
    system.clock.advance(12)
    return Prepared(order, "job", ["sync_refunds"], None, {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"})


async def _stale_refund(system: PayCenterSystem) -> Prepared:
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "reset_before_commit")
    refund = await system.refund(order, 40)
    ago = uuid7(system.clock.now() - STALE_AFTER - timedelta(minutes=1), secrets.randbits(RANDOM_BITS), None)
    await system.rows("UPDATE pay_refund SET out_refund_key = $2, next_check_time = now() WHERE id = $1", refund.id, ago)
    return Prepared(
        order, "job", ["sync_refunds"], None, {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"},
        {"STALE_REFUND OPEN"},
    )  # fmt: skip


async def _earlier_number(system: PayCenterSystem) -> Prepared:
    """Refused, sent again and successful; then the channel carries the first number out too. Two days later it is looked at."""
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.notify", "drop", times=-1)
    await system.simulator.fault("wx.refund", "decline", code="RULE_LIMIT")
    number = system.next_id("R")
    first = await system.refund(order, 40, merchant_refund_no=number)
    again = await system.decided(await system.refund(order, 40, merchant_refund_no=number))
    settlement = system.services.refund_settlement
    configured = await system.services.gateway.channels.bound(first.binding_id)
    request = await settlement._request(first, configured)
    await system.services.gateway.perform(configured, lambda codec, context: codec.refund(request, context))
    await system.simulator.advance(2)
    ago = uuid7(system.clock.now() - 2 * STALE_AFTER, secrets.randbits(RANDOM_BITS), None)
    await system.rows(
        "UPDATE pay_refund SET earlier_out_refund_keys = $2, earlier_look_time = to_timestamp(0), next_check_time = now() "
        "WHERE id = $1", again.id, [str(first.out_refund_key), str(ago)],
    )  # fmt: skip
    return Prepared(
        order, "job", ["sync_refunds"], None, {("REFUND", 100, 40)}, {"pay_order.success", "pay_refund.success"},
        {"REFUND_MISMATCH OPEN"}, elsewhere=80,
    )  # fmt: skip


async def _case_refund(system: PayCenterSystem) -> Prepared:
    """The refund of a late payment is sent by the refund sync job."""
    order = await system.order()
    attempt = await system.submit(order)
    await system.services.orders.close(OPERATOR, order.number)
    await system.simulator.pay(attempt.out_trade_no, force=True)
    await eventually(lambda: system.value("SELECT count(*) FROM pay_case WHERE order_id = $1", order.id))  # not an earlier round's
    return Prepared(
        order, "job", ["sync_refunds"], None, {("CLOSED", 0, 0)}, {"pay_order.closed", "pay_order.surplus_refunded"},
        {"LATE_PAYMENT RESOLVED"},
    )  # fmt: skip


async def _case_refund_callback(system: PayCenterSystem) -> Prepared:
    """The channel calls back about the refund of a late payment."""
    order = await system.order()
    attempt = await system.submit(order)
    await system.services.orders.close(OPERATOR, order.number)
    await system.simulator.pay(attempt.out_trade_no, force=True)
    await eventually(lambda: system.value("SELECT count(*) FROM pay_case WHERE order_id = $1", order.id))  # not an earlier round's
    await system.simulator.fault("wx.refund", "refund_pending", seconds=1)

    async def sent() -> bool:
        """The breaker of the account may be open, because other operations got no answers."""
        await system.services.jobs.sync_refunds()
        return bool((await system.simulator.get(f"/simulator/trades/{attempt.out_trade_no}"))["refunds"])

    async def cause() -> None:
        await eventually(sent, 60)
        await system.simulator.advance(2)

    request = await caught_callback(system, attempt.out_trade_no, cause)
    return Prepared(
        order, "callback", [system.channels["wx_native"], *request], lambda: acknowledged(system, "wx_native", request),
        {("CLOSED", 0, 0)}, {"pay_order.closed", "pay_order.surplus_refunded"}, {"LATE_PAYMENT RESOLVED"},
    )  # fmt: skip


async def _refunded_before_known(system: PayCenterSystem) -> Prepared:
    """A payment whose callbacks were lost was refunded in the channel's console before a query found it."""
    order = await system.order()
    attempt = await system.submit(order)
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    await system.simulator.post(f"/simulator/refund/{attempt.out_trade_no}", {"notify_url": ""})
    await system.rows("UPDATE pay_attempt SET next_check_time = now() WHERE order_id = $1", order.id)
    return Prepared(
        order, "job", ["sync_orders"], None, {("SUCCESS", 100, 0)}, {"pay_order.success"},
        {"REFUND_ELSEWHERE OPEN"}, elsewhere=100,
    )  # fmt: skip


async def _stale_attempt(system: PayCenterSystem) -> Prepared:
    order = await system.order()
    attempt = await system.submit(order)
    await system.simulator.fault("wx.query", "error_before_commit", times=2)
    await system.rows(
        "UPDATE pay_attempt SET expire_time = now() - interval '25 hours', next_check_time = now() WHERE order_id = $1", order.id
    )

    async def repeat() -> None:
        await system.simulator.pay(attempt.out_trade_no, force=True, notify=False)

    return Prepared(
        order, "job", ["sync_orders"], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"},
        {"STALE_ATTEMPT OPEN"},
    )  # fmt: skip


async def _notify(system: PayCenterSystem) -> Prepared:
    order = await system.paid("mock")
    return Prepared(order, "notify", [], None, {("SUCCESS", 100, 0)}, {"pay_order.success"})


async def _give_up(system: PayCenterSystem) -> Prepared:
    """The receiver has gone for good: a case."""
    url = await system.value("SELECT order_notification_url FROM pay_app WHERE app_key = 'shop'")
    order = await system.paid("mock", notification_url=url.replace("/order", "/gone"))

    async def repeat() -> None:
        system.sender.default = DeliveryResponse(410, "gone")
        await system.rows("UPDATE pay_notify_task SET next_notify_time = now() WHERE next_notify_time IS NOT NULL")
        await system.deliver()
        system.sender.default = DeliveryResponse(200, "ok")

    return Prepared(order, "notify", [], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"}, {"NOTIFICATION_GIVEN_UP OPEN"})


OPERATIONS: dict[str, Prepare] = {
    "callback wx_native": _callback("wx_native"),
    "callback alipay_qr": _callback("alipay_qr"),
    "callback of a late payment": _late_callback,
    "refund wx_native": _refund("wx_native"),
    "refund alipay_qr": _refund("alipay_qr"),
    "refund of an app wx_native": _refund("wx_native", by_app=True),
    "refund of an app alipay_qr": _refund("alipay_qr", by_app=True),
    "approved refund": _approved_refund,
    "refund that failed": _refund_that_failed,
    "refund callback wx_native": _refund_callback("wx_native", "wx.refund"),
    "refund callback alipay_qr": _refund_callback("alipay_qr", "alipay.trade.refund"),
    "refund sync": _sync_refund,
    "case refund": _case_refund,
    "case refund callback": _case_refund_callback,
    "payment refunded before it was known": _refunded_before_known,
    "stale attempt": _stale_attempt,
    "notify": _notify,
    "refund that fails": _refund_fails,
    "refund that succeeds late": _refund_succeeds_late,
    "refund made elsewhere": _refund_elsewhere,
    "refund that is closed after its success": _refund_contradicted("closed"),
    "refund that is abnormal after its success": _refund_contradicted("abnormal"),
    "callback of a wrong amount": _wrong_amount,
    "stale refund": _stale_refund,
    "an earlier number of a refund": _earlier_number,
    "notification that is given up": _give_up,
}
