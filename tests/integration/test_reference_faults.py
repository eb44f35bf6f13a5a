"""The faults of the reference system that apply here, by the numbers of its analysis (§7.2).

Not here: R3, R12, R20 (wallets), R14 (transfers), R27 (the console). R15 is rule 1; R10 also stands in test_orders.
R23 is the codecs' acknowledgements (tests/contract); R24 the benchmarks.
"""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport
from paycenter_server.domain.apps import NotificationSuccess, SurplusPolicy
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.schedule import NOTIFICATION_MAX_TIMES
from paycenter_server.domain.states import OrderState, RefundState
from paycenter_server.services.apps import NewApp
from paycenter_server.services.notifications_delivery import DeliveryResponse
from support.system import OPERATOR, PayCenterSystem, open_system


class Recorder:
    """Keeps the requests that go to the channels; may hold one back."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.requests: list[HttpRequest] = []
        self.hold: asyncio.Event | None = None

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        self.requests.append(request)
        response = await self.inner.send(request, seconds)
        if self.hold is not None and request.url.endswith("/refunds"):
            await self.hold.wait()
        return response


async def test_R1_only_one_attempt_stays_payable_where_the_channel_can_close(system: PayCenterSystem) -> None:
    order = await system.order()
    first = await system.submit(order, "wx_native")
    await system.submit(order, "alipay_qr")
    with pytest.raises(AssertionError, match="409"):
        await system.simulator.pay(first.out_trade_no)


async def test_R2_expiry_goes_to_every_channel_and_equals_ours(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    recorder = Recorder()
    async with open_system(database_url, redis_url, keys_dir, master_key_file, transport=recorder) as system:
        order = await system.order()
        local = order.expire_time + timedelta(hours=8)
        await system.submit(order, "wx_native")
        assert f'"time_expire":"{local:%Y-%m-%dT%H:%M:%S}+08:00"'.encode() in recorder.requests[-1].body
        other = await system.order(expire_time=order.expire_time)
        await system.submit(other, "alipay_qr")
        body = dict(parse_qsl(recorder.requests[-1].body.decode()))["biz_content"]
        assert f'"time_expire":"{local:%Y-%m-%d %H:%M:%S}"' in body
        page = await system.order(expire_time=order.expire_time)
        attempt = await system.submit(page, "alipay_pc")
        assert (
            f'"time_expire":"{local:%Y-%m-%d %H:%M:%S}"' in dict(parse_qsl(urlsplit(attempt.display_content).query))["biz_content"]
        )
        await recorder.inner.aclose()


async def test_R4_a_cancelled_order_cannot_be_paid_unnoticed(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order)
    await system.services.orders.close(system.caller, order.number)
    with pytest.raises(AssertionError, match="409"):
        await system.simulator.pay(attempt.out_trade_no)


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_R5_a_payment_at_the_old_price_is_surplus(system: PayCenterSystem, code: str) -> None:
    order = await system.order(amount=100)
    attempt = await system.submit(order, code)
    await system.services.orders.update_price(system.caller, order.number, 80)
    await system.simulator.pay(attempt.out_trade_no, force=True)
    async with asyncio.timeout(5):
        while not (cases := await system.cases()):
            await asyncio.sleep(0.01)
    assert (cases[0]["kind"], cases[0]["amount"]) == ("WRONG_AMOUNT", 100)
    assert (await system.read(order)).state is OrderState.WAITING


async def test_R6_a_time_out_is_not_a_failure(system: PayCenterSystem) -> None:
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "timeout_after_commit", seconds=20)
    await system.simulator.fault("wx.notify", "drop")
    refund = await system.refund(order, 100)
    assert refund.state is RefundState.WAITING
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 1)
    assert caught.value.reason is Reason.REFUND_EXCEEDS_PAID
    system.clock.advance(11)
    await asyncio.sleep(0.1)
    await system.services.jobs.sync_refunds()
    assert (await system.services.refunds.load(system.caller, refund.number)).state is RefundState.SUCCESS


async def test_R7_the_refund_job_cannot_fail_a_refund_in_flight(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    recorder = Recorder()
    async with open_system(database_url, redis_url, keys_dir, master_key_file, transport=recorder) as system:
        order = await system.paid("wx_native")
        recorder.hold = asyncio.Event()
        call = asyncio.create_task(system.refund(order, 60))
        await asyncio.sleep(0.3)
        system.clock.advance(30)
        job = asyncio.create_task(system.services.jobs.sync_refunds())
        await asyncio.sleep(0.2)
        assert await system.value("SELECT state FROM pay_refund") != "FAILURE"
        recorder.hold.set()
        await asyncio.gather(call, job)
        assert await system.value("SELECT state FROM pay_refund") in ("WAITING", "SUCCESS")
        trade = await system.simulator.get(
            f"/simulator/trades/{(await system.services.refunds.load(system.caller, call.result().number)).out_trade_no}"
        )
        assert len(trade["refunds"]) == 1
        await recorder.inner.aclose()


@pytest.mark.parametrize("fault", ["error_after_commit", "error_before_commit", "unsigned", "bad_signature", "http_503"])
async def test_R8_an_error_of_a_query_closes_nothing(system: PayCenterSystem, fault: str) -> None:
    order = await system.order(expire_time=system.clock.now() + timedelta(seconds=60))
    attempt = await system.submit(order, "alipay_qr")
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    await system.simulator.fault("alipay.trade.query", fault, times=1)
    system.clock.advance(61)
    await system.services.jobs.expire_orders()
    assert (await system.read(order)).state is OrderState.WAITING
    system.clock.advance(12)
    await system.services.jobs.expire_orders()
    assert (await system.read(order)).state is OrderState.SUCCESS


async def test_R9_two_refunds_that_finish_together_are_both_counted(system: PayCenterSystem) -> None:
    order = await system.paid("wx_native")
    first, second = await asyncio.gather(system.refund(order, 40), system.refund(order, 50))
    async with asyncio.timeout(5):
        while (await system.read(order)).refunded_amount != 90:
            await asyncio.sleep(0.02)
    assert (await system.read(order)).reserved_amount == 0
    assert first.id != second.id


async def test_R10_natural_keys_are_unique(system: PayCenterSystem) -> None:
    new = NewApp(
        "twice", "x", "", "http://a.test/", "http://a.test/", SurplusPolicy.REFUND, NotificationSuccess.HTTP_2XX
    )  # fmt: skip
    results = await asyncio.gather(*(system.services.apps.create(OPERATOR, new) for _ in range(5)), return_exceptions=True)
    assert sum(1 for item in results if isinstance(item, PayCenterError) and item.reason is Reason.APP_EXISTS) == 4


async def test_R11_a_disabled_channel_books_syncs_expires_and_refunds(system: PayCenterSystem) -> None:
    by_callback, by_sync, expiring = (
        await system.order(), await system.order(), await system.order(expire_time=system.clock.now() + timedelta(seconds=60)),
    )  # fmt: skip
    first, second, _ = [await system.submit(order) for order in (by_callback, by_sync, expiring)]
    await system.services.channels.update(OPERATOR, system.channels["wx_native"], {"enabled": False}, "", None)
    system.services.gateway._known.clear()
    await system.simulator.pay(first.out_trade_no)
    paid = await system.until(by_callback, "SUCCESS")
    await system.simulator.pay(second.out_trade_no, notify=False)
    system.clock.advance(61)
    await system.services.jobs.sync_orders()
    assert (await system.read(by_sync)).state is OrderState.SUCCESS
    await system.services.jobs.expire_orders()
    assert (await system.read(expiring)).state is OrderState.CLOSED
    assert (await system.refund(paid, 10)).state is RefundState.WAITING
    assert (await system.submit(await system.order(), "mock")).state.value == "SUCCESS"


async def test_R13_a_failed_refund_is_sent_again_under_the_same_number(system: PayCenterSystem) -> None:
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "refund_closed")
    refund = await system.refund(order, 40, merchant_refund_no="AFTERSALE-1")
    async with asyncio.timeout(5):
        while refund.state is not RefundState.FAILURE:
            await asyncio.sleep(0.05)
            refund = await system.services.refunds.sync(system.caller, refund)
    assert (await system.read(order)).reserved_amount == 0
    again = await system.refund(order, 40, merchant_refund_no="AFTERSALE-1")
    assert again.id == refund.id
    assert again.out_refund_no != refund.out_refund_no
    async with asyncio.timeout(5):
        while again.state is not RefundState.SUCCESS:
            await asyncio.sleep(0.05)
            again = await system.services.refunds.sync(system.caller, again)
    assert (await system.read(order)).refunded_amount == 40
    assert sorted(post.json["type"] for post in await system.deliver()) == [
        "pay_order.success", "pay_refund.failure", "pay_refund.success",
    ]  # fmt: skip


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
    for _ in range(10):
        system.clock.advance(11)
        await system.services.jobs.sync_refunds()
        await asyncio.sleep(0.1)
    after = await system.services.refunds.load(system.caller, refund.number)
    assert (after.state, after.out_refund_no) == (RefundState.SUCCESS, refund.out_refund_no)


async def test_R16_the_schedule_is_what_it_says(system: PayCenterSystem) -> None:
    await system.paid("mock")
    system.sender.default = DeliveryResponse(500, "no")
    task = (await system.rows("SELECT * FROM pay_notify_task"))[0]
    assert task["schedule_start_times"] == 0
    for _ in range(NOTIFICATION_MAX_TIMES):
        assert len(await system.deliver()) == 1
        system.clock.advance(17 * 3600)
    task = (await system.rows("SELECT * FROM pay_notify_task"))[0]
    assert (task["state"], task["notify_times"], task["next_notify_time"]) == ("FAILURE", NOTIFICATION_MAX_TIMES, None)
    system.clock.advance(30 * 86400)
    assert await system.deliver() == []
    system.sender.default = DeliveryResponse(200, "ok")
    await system.services.notifications.resend(OPERATOR, (await _task_number(system)))
    assert len(await system.deliver()) == 1
    assert await system.value("SELECT state FROM pay_notify_task") == "SUCCESS"


async def _task_number(system: PayCenterSystem) -> str:
    from paycenter_server.domain.ids import encode

    return encode(Prefix.NOTIFICATION, await system.value("SELECT id FROM pay_notify_task"))


async def test_R17_no_transaction_is_held_while_a_receiver_answers(system: PayCenterSystem) -> None:
    await system.paid("mock")
    open_while_posting = []

    class Looking:
        async def send(self, url: str, headers: dict[str, str], body: bytes) -> DeliveryResponse:
            open_while_posting.append(
                await system.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'")
            )
            return DeliveryResponse(200, "")

    system.services.delivery._sender = Looking()
    await system.deliver()
    assert open_while_posting == [0]


async def test_R18_a_huge_or_odd_answer_is_recorded_and_ends(system: PayCenterSystem) -> None:
    await system.paid("mock")
    system.sender.default = DeliveryResponse(500, "\0\ud800x" * 100_000)
    await system.deliver()
    task = (await system.rows("SELECT * FROM pay_notify_task"))[0]
    assert (task["notify_times"], task["state"]) == (1, "REQUEST_SUCCESS")
    assert await system.deliver() == []


async def test_R19_sync_covers_the_whole_life_of_an_order(system: PayCenterSystem) -> None:
    order = await system.order(expire_time=system.clock.now() + timedelta(hours=2))
    attempt = await system.submit(order, "mock", behaviour="late", late_seconds="6000")
    for _ in range(40):
        system.clock.advance(180)
        await system.services.jobs.sync_orders()
        if (await system.read(order)).state is OrderState.SUCCESS:
            break
    assert (await system.read(order)).attempt_id == attempt.id


async def test_R21_alipay_amounts_are_exact_and_the_payer_is_the_buyer(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    recorder = Recorder()
    async with open_system(database_url, redis_url, keys_dir, master_key_file, transport=recorder) as system:
        order = await system.order(amount=1_000_000_000)
        attempt = await system.submit(order, "alipay_qr")
        body = dict(parse_qsl(recorder.requests[-1].body.decode()))["biz_content"]
        assert '"total_amount":"10000000.00"' in body
        await system.simulator.pay(attempt.out_trade_no, payer="2088123456789012")
        paid = await system.until(order, "SUCCESS")
        assert paid.channel_user_id == "2088123456789012"
        await recorder.inner.aclose()


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
async def test_R22_times_do_not_follow_the_servers_zone(system: PayCenterSystem, zone: str) -> None:
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        order = await system.paid("alipay_qr")
        assert order.success_time is not None
        assert abs((order.success_time - system.clock.now()).total_seconds()) < 30
    finally:
        os.environ.pop("TZ") if before is None else os.environ.__setitem__("TZ", before)
        time.tzset()


async def test_R25_concurrent_first_uses_build_one_codec(system: PayCenterSystem) -> None:
    key = decode(Prefix.CHANNEL, system.channels["wx_native"])
    assert key is not None
    found = await asyncio.gather(*(system.services.gateway.get(key) for _ in range(20)))
    assert len({id(item.codec) for item in found}) == 1


async def test_R26_a_channel_settles_only_its_own_numbers(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "alipay_qr")
    # A genuine callback, delivered to another channel of the same merchant.
    await system.simulator.fault("alipay.notify", "drop")
    await system.simulator.pay(attempt.out_trade_no)
    await asyncio.sleep(0.2)
    pc = decode(Prefix.CHANNEL, system.channels["alipay_pc"])
    assert pc is not None
    configured = await system.services.gateway.get(pc)
    from paycenter_server.channels.protocol import Payment

    payment = Payment(attempt.out_trade_no, "1", 100, "CNY", dict(configured.codec.account))
    assert (await system.services.payments.book(configured, payment, "")).value == "SURPLUS"
    assert (await system.read(order)).state is OrderState.WAITING
    assert [case["kind"] for case in await system.cases()] == ["UNKNOWN_ORDER"]


async def test_R29_fee_rates_have_a_range(system: PayCenterSystem) -> None:
    for rate in (-1, 1_000_001):
        with pytest.raises(PayCenterError) as caught:
            await system.services.channels.update(OPERATOR, system.channels["mock"], {"fee_rate_ppm": rate}, "", None)
        assert caught.value.reason is Reason.INVALID_FIELD


async def test_R18_a_task_whose_secret_does_not_open_ends_too(system: PayCenterSystem) -> None:
    await system.paid("mock")
    await system.rows("UPDATE pay_app SET notification_secret = 'v1:0:AAAA'")
    assert await system.deliver() == []
    task = (await system.rows("SELECT * FROM pay_notify_task"))[0]
    assert (task["state"], task["notify_times"]) == ("REQUEST_FAILURE", 1)
    assert "master key" in await system.value("SELECT answer FROM pay_notify_log")
