"""Operations on orders and attempts, for the crash matrix."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from faults.crash.killer import Prepare, Prepared
from integration.test_bar_codes import KINDS, PointOfSale, make_point_of_sale
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.orders import PayOrder
from support.system import OPERATOR, PayCenterSystem, free_port
from support.waiting import eventually


async def _create(system: PayCenterSystem) -> Prepared:
    new = system.new_order(app_key="shop")
    arguments = [new.merchant_order_id, new.expire_time.isoformat() if new.expire_time else ""]
    order = None

    async def repeat() -> None:
        nonlocal order
        made = await system.services.orders.create(OPERATOR, new)
        prepared.order = made

    prepared = Prepared(order, "create", arguments, repeat, {("WAITING", 0, 0)})  # type: ignore[arg-type]
    return prepared


async def _submit_again(system: PayCenterSystem, order: PayOrder, code: str, **extras: str) -> Any:
    """The attempt, after as many repetitions as it takes; None if the order is paid already."""

    async def submitted() -> Any:
        try:
            return await system.submit(order, code, **extras)
        except PayCenterError as error:
            return "paid" if error.reason is Reason.ORDER_PAID else None

    attempt = await eventually(submitted)
    return None if attempt == "paid" else attempt


def _submit(code: str, url: str = "", **extras: str) -> Prepare:
    """`url`: of the order's own notifications."""

    async def prepare(system: PayCenterSystem) -> Prepared:
        order = await system.order(notification_url=url)

        async def repeat() -> None:
            attempt = await _submit_again(system, order, code, **extras)
            count = await system.value("SELECT count(*) FROM pay_attempt WHERE order_id = $1", order.id)
            assert count == 1, "a second attempt"
            if attempt is not None and code != "mock":
                await system.simulator.pay(attempt.out_trade_no)
                await system.until(order, "SUCCESS")

        return Prepared(order, "submit", [order.number, code, extras], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"})

    return prepare


async def _submit_elsewhere(system: PayCenterSystem) -> Prepared:
    """The payer chooses another way to pay: the first attempt is closed at its channel."""
    order = await system.order()
    await system.submit(order, "wx_native")

    async def repeat() -> None:
        attempt = await system.submit(order, "alipay_qr")
        await system.simulator.pay(attempt.out_trade_no)
        await system.until(order, "SUCCESS")

    return Prepared(order, "submit", [order.number, "alipay_qr", {}], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"})


async def _submit_unclear(system: PayCenterSystem) -> Prepared:
    """The answer of the submit is lost, so the channel is queried."""
    order = await system.order()
    await system.simulator.fault("wx.native", "reset", times=1)

    async def repeat() -> None:
        attempt = await _submit_again(system, order, "wx_native")
        await system.simulator.pay(attempt.out_trade_no)
        await system.until(order, "SUCCESS")

    return Prepared(order, "submit", [order.number, "wx_native", {}], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"})


async def _submit_refused(system: PayCenterSystem) -> Prepared:
    order = await system.order()
    await system.simulator.fault("wx.native", "decline", code="NO_AUTH", times=2)

    async def repeat() -> None:
        with suppress(PayCenterError):
            await system.submit(order)
        await system.services.orders.close(OPERATOR, order.number)

    return Prepared(order, "submit", [order.number, "wx_native", {}], repeat, {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _submit_too_late(system: PayCenterSystem) -> Prepared:
    """The order is closed while the channel accepts the submit: the attempt must not stay payable."""
    order = await system.order()
    await system.simulator.fault("wx.native", "slow", seconds=2.0)

    async def repeat() -> None:
        with suppress(PayCenterError):
            await system.submit(order)
        with suppress(PayCenterError):
            await system.services.orders.close(OPERATOR, order.number)

    return Prepared(order, "submit_and_close", [order.number, "wx_native"], repeat, {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _submit_unreachable(system: PayCenterSystem) -> Prepared:
    """Nothing listens at the channel's address, so the request is not sent, and its attempt is closed."""
    order = await system.order()
    if "wx_app" not in system.channels:
        family, config = system.configs["wx_app"]
        system.configs["wx_app"] = family, {**config, "mchid": "1900009191", "gateway_url": f"http://127.0.0.1:{free_port()}"}
        await system.add_channel("wx_app")

    async def repeat() -> None:
        with suppress(PayCenterError):
            await system.submit(order, "wx_app")
        attempt = await _submit_again(system, order, "mock", behaviour="success")
        assert attempt is not None

    return Prepared(
        order, "submit", [order.number, "wx_app", {}], repeat, {("SUCCESS", 100, 0)}, {"pay_order.success"}, unreachable="wx_app"
    )


def _bar_code(fault: str) -> Prepare:
    async def prepare(system: PayCenterSystem) -> Prepared:
        """The payer is asked for a password, or the answer is lost: the waiting call queries.

        A bar code is sent once. Killed before the send it is never paid; the order stays payable, with another code.
        """
        code, auth_code, api, *_ = KINDS["v2"]
        if code not in system.channels:
            await system.add_channel(code)
        order = await system.order()
        await system.simulator.fault(api, fault, **({"queries": 1} if fault == "user_paying" else {}))

        async def repeat() -> None:
            with suppress(PayCenterError):
                await system.submit(order, code, auth_code=auth_code)

        return Prepared(
            order, "submit", [order.number, code, {"auth_code": auth_code}], repeat, {("SUCCESS", 100, 0), ("WAITING", 0, 0)},
            {"pay_order.success"},
        )  # fmt: skip

    return prepare


async def _close(system: PayCenterSystem) -> Prepared:
    order = await system.order()
    await system.submit(order)

    async def repeat() -> None:
        await system.services.orders.close(OPERATOR, order.number)

    return Prepared(order, "close", [order.number], repeat, {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _close_it(system: PayCenterSystem, order: PayOrder) -> None:
    await system.services.orders.close(OPERATOR, order.number)


async def _close_unscanned(system: PayCenterSystem) -> Prepared:
    """Alipay cannot close a QR code that nobody has scanned, so it is closed here and looked at again."""
    order = await system.order()
    await system.submit(order, "alipay_qr")

    async def repeat() -> None:
        await system.services.orders.close(OPERATOR, order.number)

    return Prepared(order, "close", [order.number], repeat, {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _update_price(system: PayCenterSystem) -> Prepared:
    order = await system.order()
    await system.submit(order)

    async def repeat() -> None:
        changed = await system.services.orders.update_price(OPERATOR, order.number, 70)
        attempt = await system.submit(changed)
        await system.simulator.pay(attempt.out_trade_no)
        await system.until(order, "SUCCESS")

    return Prepared(order, "update_price", [order.number, 70], repeat, {("SUCCESS", 70, 0)}, {"pay_order.success"})


async def _paid_without_callback(system: PayCenterSystem) -> PayOrder:
    order = await system.order(expire_time=system.clock.now() + timedelta(seconds=60))
    attempt = await system.submit(order)
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    return order


async def _sync_order(system: PayCenterSystem) -> Prepared:
    order = await _paid_without_callback(system)
    return Prepared(order, "sync_order", [order.number], None, {("SUCCESS", 100, 0)}, {"pay_order.success"})


def _job(name: str) -> Prepare:
    async def prepare(system: PayCenterSystem) -> Prepared:
        order = await _paid_without_callback(system)
        system.clock.advance(61 if name == "expire_orders" else 40)
        return Prepared(order, "job", [name], None, {("SUCCESS", 100, 0)}, {"pay_order.success"})

    return prepare


async def _sync_unpaid(system: PayCenterSystem) -> Prepared:
    order = await system.order()
    await system.submit(order)
    system.clock.advance(40)
    await system.rows("UPDATE pay_attempt SET next_check_time = now() WHERE order_id = $1", order.id)
    return Prepared(order, "job", ["sync_orders"], lambda: _close_it(system, order), {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _sync_closed_there(system: PayCenterSystem) -> Prepared:
    order = await system.order()
    attempt = await system.submit(order)
    await system.simulator.post(f"/simulator/close/{attempt.out_trade_no}")
    await system.rows("UPDATE pay_attempt SET next_check_time = now() WHERE order_id = $1", order.id)
    return Prepared(order, "job", ["sync_orders"], lambda: _close_it(system, order), {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _sync_expired(code: str, system: PayCenterSystem) -> Prepared:
    """The attempt expires before the expire job has looked at the order."""
    order = await system.order(expire_time=system.clock.now() + timedelta(seconds=60))
    await system.submit(order, code)
    system.clock.advance(61)
    await system.rows("UPDATE pay_attempt SET next_check_time = now() WHERE order_id = $1", order.id)
    return Prepared(order, "job", ["sync_orders"], None, {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _expire_unpaid(system: PayCenterSystem) -> Prepared:
    order = await system.order(expire_time=system.clock.now() + timedelta(seconds=60))
    await system.submit(order)
    system.clock.advance(61)
    return Prepared(order, "job", ["expire_orders"], None, {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _expire_unclear(system: PayCenterSystem) -> Prepared:
    """The channel gives no clear answer about an order that has expired."""
    order = await system.order(expire_time=system.clock.now() + timedelta(seconds=60))
    await system.submit(order)
    await system.simulator.fault("wx.query", "error_before_commit")
    system.clock.advance(61)
    return Prepared(order, "job", ["expire_orders"], None, {("CLOSED", 0, 0)}, {"pay_order.closed"})


async def _second_look(system: PayCenterSystem) -> Prepared:
    """A closed attempt that was paid all the same, without a callback: the sync job finds it."""
    order = await system.order()
    attempt = await system.submit(order)
    await system.services.orders.close(OPERATOR, order.number)
    await system.simulator.pay(attempt.out_trade_no, force=True, notify=False)
    await system.rows("UPDATE pay_attempt SET next_check_time = now() - interval '1 s' WHERE order_id = $1", order.id)
    return Prepared(
        order, "job", ["sync_orders"], None, {("CLOSED", 0, 0)}, {"pay_order.closed", "pay_order.surplus_refunded"},
        {"LATE_PAYMENT RESOLVED"},
    )  # fmt: skip


def _cancel(kind: str) -> Prepare:
    async def prepare(system: PayCenterSystem) -> Prepared:
        """Paid at the last moment, and the job's query gives no clear answer: it is booked or refunded, never both."""
        known = KINDS[kind][0] in system.channels
        pos = PointOfSale(system, *KINDS[kind]) if known else await make_point_of_sale(system, kind)
        order = await system.order()
        await system.simulator.fault(pos.api, pos.waits)
        attempt = await pos.scan(order)
        await system.simulator.pay(attempt.out_trade_no, notify=False)
        await system.simulator.fault(pos.query, "error_before_commit", out_trade_no=attempt.out_trade_no)
        system.clock.advance(61)

        async def repeat() -> None:
            await eventually(lambda: _jobs_until_decided(system, attempt))
            await system.rows("UPDATE pay_attempt SET next_check_time = NULL WHERE order_id = $1", order.id)
            with suppress(PayCenterError):
                await system.services.orders.close(OPERATOR, order.number)

        return Prepared(
            order, "job", ["sync_orders"], repeat, {("SUCCESS", 100, 0), ("CLOSED", 0, 0)},
            {"pay_order.success", "pay_order.closed"},
        )  # fmt: skip

    return prepare


async def _jobs_until_decided(system: PayCenterSystem, attempt: Any) -> bool:
    await system.rows("UPDATE pay_attempt SET next_check_time = now() - interval '1 s' WHERE next_check_time IS NOT NULL")
    await system.services.jobs.sync_orders()
    return await system.value("SELECT state FROM pay_attempt WHERE id = $1", attempt.id) in ("SUCCESS", "CLOSED")


OPERATIONS: dict[str, Prepare] = {
    "create": _create,
    "submit wx_native": _submit("wx_native"),
    "submit alipay_qr": _submit("alipay_qr"),
    "submit mock": _submit("mock", behaviour="success"),
    # The statement that books without a read leaves an order with such a URL to the other one.
    "submit mock, own URL": _submit("mock", "http://MERCHANT.test/notify", behaviour="success"),
    "submit through another channel": _submit_elsewhere,
    "submit without an answer": _submit_unclear,
    "submit that is refused": _submit_refused,
    "submit of an order that is closed meanwhile": _submit_too_late,
    "close": _close,
    "update price": _update_price,
    "sync by a caller": _sync_order,
    "sync": _job("sync_orders"),
    "expire": _job("expire_orders"),
    "expire unpaid": _expire_unpaid,
    "second look": _second_look,
    "close of an unscanned code": _close_unscanned,
    "submit of a bar code": _bar_code("user_paying"),
    "submit of a bar code without an answer": _bar_code("reset"),
    "submit to nobody": _submit_unreachable,
    "sync of an unpaid order": _sync_unpaid,
    "sync of a trade that the channel closed": _sync_closed_there,
    "sync after the expiry": partial(_sync_expired, "wx_native"),
    "sync after the expiry of an unscanned code": partial(_sync_expired, "alipay_qr"),
    "expire without a clear answer": _expire_unclear,
    "cancel alipay": _cancel("alipay"),
    "cancel v2": _cancel("v2"),
}
