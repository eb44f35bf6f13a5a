"""The faults of the reference system that apply to refunds, by the numbers of its analysis (§7.2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from integration.test_reference_faults import Recorder
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.schedule import REQUEST_LIFE
from paycenter_server.domain.states import RefundState
from support.facts import configured, refunded
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, PayCenterSystem, SystemOn
from support.waiting import ended, eventually

R6_FAULTS = [
    (code, api, fault)
    for code, api in (("wx_native", "wx.refund"), ("alipay_qr", "alipay.trade.refund"))
    for fault in ("timeout_after_commit", "error_after_commit", "error_before_commit", "unsigned")
    # The time-out is that of the channel call, some seconds: once is enough.
    if (code, fault) != ("alipay_qr", "timeout_after_commit")
]


async def decided_by_the_job(system: PayCenterSystem, number: str) -> PayRefund:
    async def current() -> PayRefund | None:
        system.clock.advance(11)
        await system.services.jobs.sync_refunds()
        found = await system.services.refunds.load(system.caller, number)
        return found if found.state is not RefundState.WAITING else None

    found = await eventually(current)
    assert found is not None
    return found


@pytest.mark.parametrize(("code", "api", "fault"), R6_FAULTS)
async def test_R6_a_time_out_is_not_a_failure(system: PayCenterSystem, code: str, api: str, fault: str) -> None:
    """Executed or not: it stays reserved, and is queried or sent again under the same number."""
    order = await system.paid(code)
    await system.simulator.fault(api, fault, seconds=20)
    await system.simulator.fault("wx.notify" if code == "wx_native" else "alipay.notify", "drop", times=-1)
    refund = await system.refund(order, 100)
    assert refund.state is RefundState.WAITING
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 1)
    assert caught.value.reason is Reason.REFUND_EXCEEDS_PAID
    after = await decided_by_the_job(system, refund.number)
    assert (after.state, after.out_refund_no) == (RefundState.SUCCESS, refund.out_refund_no)
    trade = await system.simulator.get(f"/simulator/trades/{refund.out_trade_no}")
    assert [item["amount"] for item in trade["refunds"]] == [100]
    assert (await system.read(order)).refunded_amount == 100


@pytest.mark.parametrize(("code", "api", "query"), [
    ("wx_native", "wx.refund", "wx.refund_query"), ("alipay_qr", "alipay.trade.refund", "alipay.trade.fastpay.refund.query"),
])  # fmt: skip
async def test_R6_a_query_without_an_answer_is_not_a_failure(system: PayCenterSystem, code: str, api: str, query: str) -> None:
    """Also when no request can be carried out any more: it may have been carried out before."""
    order = await system.paid(code)
    await system.simulator.fault(api, "error_after_commit")
    await system.simulator.fault("wx.notify" if code == "wx_native" else "alipay.notify", "drop", times=-1)
    refund = await system.refund(order, 100)
    await system.rows("UPDATE pay_refund SET unclear_send_time = unclear_send_time - $1::interval", REQUEST_LIFE)
    await system.simulator.fault(query, "error_before_commit")
    system.clock.advance(11)
    await system.services.jobs.sync_refunds()
    asked = await system.services.refunds.load(system.caller, refund.number)
    assert (asked.state, asked.check_count) == (RefundState.WAITING, refund.check_count + 1)
    assert (await decided_by_the_job(system, refund.number)).state is RefundState.SUCCESS


async def test_R7_the_refund_job_cannot_fail_a_refund_in_progress(system_on: SystemOn) -> None:
    """The job queries before the first request arrives: "not found" is not a failure. It is sent again under the same number."""
    recorder = Recorder()
    async with system_on(recorder) as system:
        order = await system.paid("wx_native")
        await system.simulator.fault("wx.notify", "drop", times=-1)
        recorder.hold_next_refund = True
        call = asyncio.create_task(system.refund(order, 60))
        await recorder.held.wait()
        system.clock.advance(30)
        assert await system.services.jobs.sync_refunds() == 1
        (row,) = await system.rows("SELECT * FROM pay_refund")
        assert row["state"] in ("WAITING", "SUCCESS")
        assert (await system.read(order)).refunded_amount + (await system.read(order)).reserved_amount == 60
        recorder.hold.set()
        refund = await call
        sent = [request.body for request in recorder.requests if request.url.endswith("/refunds")]
        assert len(sent) == 2
        assert all(refund.out_refund_no.encode() in body for body in sent)

        async def settled() -> bool:
            # Due again without moving the clock, because the channel refuses requests with another time.
            await system.rows("UPDATE pay_refund SET next_check_time = create_time WHERE next_check_time IS NOT NULL")
            await system.services.jobs.sync_refunds()
            return (await system.services.refunds.load(system.caller, refund.number)).state is RefundState.SUCCESS

        await eventually(settled)
        trade = await system.simulator.get(f"/simulator/trades/{refund.out_trade_no}")
        assert [item["amount"] for item in trade["refunds"]] == [60]
        assert (await system.read(order)).refunded_amount == 60


async def test_R9_two_refunds_that_finish_together_are_both_counted(system: PayCenterSystem) -> None:
    """Both have read the order before either changes it: the lock is held until both wait for it."""
    order = await system.paid("mock")
    await system.rows('UPDATE pay_attempt SET channel_extras = \'{"refund": "pending"}\'')
    refunds = [await system.refund(order, amount) for amount in (40, 50)]
    channel = await configured(system, "mock")
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
        calls = [
            asyncio.create_task(system.services.refund_settlement.apply(channel, refund, refunded(channel, refund), CAUSE))
            for refund in refunds
        ]
        await waiting_for_lock(system, calls)
    assert await ended(calls) == [True, True]
    after = await system.read(order)
    assert (after.refunded_amount, after.reserved_amount) == (90, 0)


async def synced(system: PayCenterSystem, refund: Any, state: RefundState) -> Any:
    """The refund, once the channel reports this state."""

    async def asked() -> Any:
        current = await system.services.refunds.sync(system.caller, refund)
        return current if current.state is state else None

    return await eventually(asked)


async def test_R13_a_failed_refund_is_sent_again_under_the_same_number(system: PayCenterSystem) -> None:
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "refund_closed")
    refund = await system.refund(order, 40, merchant_refund_no="AFTERSALE-1")
    refund = await synced(system, refund, RefundState.FAILURE)
    assert (await system.read(order)).reserved_amount == 0
    again = await system.refund(order, 40, merchant_refund_no="AFTERSALE-1")
    assert again.id == refund.id
    assert again.out_refund_no != refund.out_refund_no
    again = await synced(system, again, RefundState.SUCCESS)
    assert (await system.read(order)).refunded_amount == 40
    # The failure was not delivered before the success, which supersedes it.
    assert sorted(post.json["type"] for post in await system.deliver()) == ["pay_order.success", "pay_refund.success"]


async def test_R13_a_waiting_refund_blocks_no_other(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows('UPDATE pay_attempt SET channel_extras = \'{"refund": "pending"}\'')
    first = await system.refund(order, 10)
    second = await system.refund(order, 20)
    assert (first.state, second.state) == (RefundState.WAITING, RefundState.WAITING)
    assert (await system.read(order)).reserved_amount == 30


@pytest.mark.parametrize("api", ["wx.refund", "alipay.trade.refund"])
async def test_R13_not_enough_balance_waits_and_keeps_its_number(system: PayCenterSystem, api: str) -> None:
    order = await system.paid("wx_native" if api == "wx.refund" else "alipay_qr")
    await system.simulator.fault(api, "not_enough")
    refund = await system.refund(order, 40)
    assert refund.state is RefundState.WAITING
    assert "NOT_ENOUGH" in (refund.channel_error_code or "")
    after = await decided_by_the_job(system, refund.number)
    assert (after.state, after.out_refund_no) == (RefundState.SUCCESS, refund.out_refund_no)
