"""A channel moves to another account while money is on its way: everything is settled at the account that it began with (A1)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from paycenter_server.domain.states import OrderState, RefundState
from support.merchants import Merchant, another_merchant, merchant_of
from support.system import OPERATOR, PayCenterSystem

WAYS = [("wx_native", "v3"), ("wx_native", "v2"), ("alipay_qr", "")]
REFUND = dict(zip(WAYS, ("wx.refund", "wx2.refund", "alipay.trade.refund"), strict=True))


@pytest.fixture
async def other(system: PayCenterSystem, other_keys_dir: Path) -> AsyncIterator[Merchant]:
    async with another_merchant(system, other_keys_dir) as merchant:
        yield merchant


async def use(system: PayCenterSystem, merchant: Merchant, code: str, version: str) -> None:
    """Configure the shop's channel for this merchant, as an operator does."""
    family, config = merchant.config(code, version)
    await system.services.channels.update(OPERATOR, system.channels[code], {}, family, config)


def own(system: PayCenterSystem) -> Merchant:
    """The merchant that the system begins with."""
    return merchant_of(system.keys_dir, system.simulator)


@pytest.mark.parametrize(("code", "version"), WAYS)
async def test_an_open_attempt_is_paid_after_the_switch_by_its_callback(
    system: PayCenterSystem, other: Merchant, code: str, version: str
) -> None:
    await use(system, own(system), code, version)
    order = await system.order()
    attempt = await system.submit(order, code)
    await use(system, other, code, version)
    await system.simulator.pay(attempt.out_trade_no)
    paid = await system.until(order, "SUCCESS")
    assert paid.attempt_id == attempt.id
    assert await system.cases() == []


@pytest.mark.parametrize(("code", "version"), WAYS)
async def test_an_open_attempt_is_paid_after_the_switch_by_the_sync_job(
    system: PayCenterSystem, other: Merchant, code: str, version: str
) -> None:
    """The callback is lost, so the job queries. The order must not be closed, although the new account knows no such trade."""
    await use(system, own(system), code, version)
    order = await system.order(expire_time=system.clock.now() + timedelta(minutes=3))
    attempt = await system.submit(order, code)
    await system.simulator.fault("alipay.notify" if code == "alipay_qr" else "wx.notify", "drop", times=-1)
    await use(system, other, code, version)
    await system.simulator.pay(attempt.out_trade_no)
    system.clock.advance(240)  # beyond the expiry of the order, and within the 5 minutes by which clocks may differ
    await system.services.jobs.sync_orders()
    await system.services.jobs.expire_orders()
    assert (await system.read(order)).state is OrderState.SUCCESS
    assert await system.cases() == []


@pytest.mark.parametrize(("code", "version"), WAYS)
async def test_a_refund_after_the_switch_goes_to_the_account_of_the_payment(
    system: PayCenterSystem, other: Merchant, code: str, version: str
) -> None:
    await use(system, own(system), code, version)
    order = await system.paid(code)
    await use(system, other, code, version)
    refund = await system.decided(await system.refund(order, 40))
    assert refund.state is RefundState.SUCCESS, refund.channel_error_message
    assert (await system.read(order)).refunded_amount == 40
    assert await system.cases() == []


@pytest.mark.parametrize(("code", "version"), WAYS)
async def test_a_refund_that_is_open_at_the_switch_succeeds(
    system: PayCenterSystem, other: Merchant, code: str, version: str
) -> None:
    await use(system, own(system), code, version)
    order = await system.paid(code)
    await system.simulator.fault(REFUND[code, version], "reset_before_commit")
    refund = await system.refund(order, 40)
    assert refund.state is RefundState.WAITING
    await use(system, other, code, version)
    system.clock.advance(240)
    await system.services.jobs.sync_refunds()
    assert (await system.decided(refund)).state is RefundState.SUCCESS


@pytest.mark.parametrize(("code", "version"), WAYS)
async def test_new_payments_are_made_at_the_new_account(system: PayCenterSystem, other: Merchant, code: str, version: str) -> None:
    await use(system, own(system), code, version)
    await system.submit(await system.order(), code)
    await use(system, other, code, version)
    order = await system.order()
    attempt = await system.submit(order, code)
    await other.simulator.pay(attempt.out_trade_no)
    await system.until(order, "SUCCESS")
    refund = await system.decided(await system.refund(order, 100))
    assert refund.state is RefundState.SUCCESS


async def test_a_submit_after_the_switch_closes_the_attempt_at_its_own_account(system: PayCenterSystem, other: Merchant) -> None:
    order = await system.order()
    before = await system.submit(order)
    await use(system, other, "wx_native", "v3")
    after = await system.submit(order)
    assert after.id != before.id
    with pytest.raises(AssertionError, match=r"40\d"):
        await system.simulator.pay(before.out_trade_no)
    await other.simulator.pay(after.out_trade_no)
    await system.until(order, "SUCCESS")


async def test_a_blocked_account_does_not_stop_new_payments(system: PayCenterSystem, other: Merchant) -> None:
    """The earlier account gives no clear answer any more. The attempt there stays open, and is queried by the sync job."""
    order = await system.order()
    before = await system.submit(order)
    await use(system, other, "wx_native", "v3")
    await system.simulator.fault("wx.query", "reset_before_commit", times=-1)
    after = await system.submit(order)
    assert after.account_id != before.account_id
    await other.simulator.pay(after.out_trade_no)
    assert (await system.until(order, "SUCCESS")).attempt_id == after.id
    states = {
        row["id"]: row["state"] for row in await system.rows("SELECT id, state FROM pay_attempt WHERE next_check_time IS NOT NULL")
    }
    assert states == {before.id: "WAITING"}
