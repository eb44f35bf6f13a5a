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
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.schedule import NOTIFY_MAX_TIMES
from paycenter_server.domain.states import OrderState, RefundState
from paycenter_server.services.apps import NewApp
from paycenter_server.services.notifying import Received
from support.world import OPERATOR, World, open_world


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


async def test_R1_only_one_attempt_stays_payable_where_the_channel_can_close(world: World) -> None:
    order = await world.order()
    first = await world.submit(order, "wx_native")
    await world.submit(order, "alipay_qr")
    with pytest.raises(AssertionError, match="409"):
        await world.simulator.pay(first.out_trade_no)


async def test_R2_expiry_goes_to_every_channel_and_equals_ours(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    recorder = Recorder()
    async with open_world(database_url, redis_url, keys_dir, master_key_file, transport=recorder) as world:
        order = await world.order()
        local = order.expire_time + timedelta(hours=8)
        await world.submit(order, "wx_native")
        assert f'"time_expire":"{local:%Y-%m-%dT%H:%M:%S}+08:00"'.encode() in recorder.requests[-1].body
        other = await world.order(expire_time=order.expire_time)
        await world.submit(other, "alipay_qr")
        body = dict(parse_qsl(recorder.requests[-1].body.decode()))["biz_content"]
        assert f'"time_expire":"{local:%Y-%m-%d %H:%M:%S}"' in body
        page = await world.order(expire_time=order.expire_time)
        attempt = await world.submit(page, "alipay_pc")
        assert (
            f'"time_expire":"{local:%Y-%m-%d %H:%M:%S}"' in dict(parse_qsl(urlsplit(attempt.display_content).query))["biz_content"]
        )
        await recorder.inner.aclose()


async def test_R4_a_cancelled_order_cannot_be_paid_unnoticed(world: World) -> None:
    order = await world.order()
    attempt = await world.submit(order)
    await world.services.orders.close(world.caller, order.number)
    with pytest.raises(AssertionError, match="409"):
        await world.simulator.pay(attempt.out_trade_no)


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_R5_a_payment_at_the_old_price_is_surplus(world: World, code: str) -> None:
    order = await world.order(amount=100)
    attempt = await world.submit(order, code)
    await world.services.orders.update_price(world.caller, order.number, 80)
    await world.simulator.pay(attempt.out_trade_no, force=True)
    async with asyncio.timeout(5):
        while not (cases := await world.cases()):
            await asyncio.sleep(0.01)
    assert (cases[0]["kind"], cases[0]["amount"]) == ("WRONG_AMOUNT", 100)
    assert (await world.read(order)).state is OrderState.WAITING


async def test_R6_a_time_out_is_not_a_failure(world: World) -> None:
    order = await world.paid("wx_native")
    await world.simulator.fault("wx.refund", "timeout_after_commit", seconds=20)
    await world.simulator.fault("wx.notify", "drop")
    refund = await world.refund(order, 100)
    assert refund.state is RefundState.WAITING
    with pytest.raises(PayCenterError) as caught:
        await world.refund(order, 1)
    assert caught.value.reason is Reason.REFUND_EXCEEDS_PAID
    world.clock.advance(11)
    await asyncio.sleep(0.1)
    await world.services.jobs.sync_refunds()
    assert (await world.services.refunds.load(world.caller, refund.number)).state is RefundState.SUCCESS


async def test_R7_the_refund_job_cannot_fail_a_refund_in_flight(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    recorder = Recorder()
    async with open_world(database_url, redis_url, keys_dir, master_key_file, transport=recorder) as world:
        order = await world.paid("wx_native")
        recorder.hold = asyncio.Event()
        call = asyncio.create_task(world.refund(order, 60))
        await asyncio.sleep(0.3)
        world.clock.advance(30)
        job = asyncio.create_task(world.services.jobs.sync_refunds())
        await asyncio.sleep(0.2)
        assert await world.value("SELECT state FROM pay_refund") != "FAILURE"
        recorder.hold.set()
        await asyncio.gather(call, job)
        assert await world.value("SELECT state FROM pay_refund") in ("WAITING", "SUCCESS")
        trade = await world.simulator.get(
            f"/simulator/trades/{(await world.services.refunds.load(world.caller, call.result().number)).out_trade_no}"
        )
        assert len(trade["refunds"]) == 1
        await recorder.inner.aclose()


@pytest.mark.parametrize("fault", ["error_after_commit", "error_before_commit", "unsigned", "bad_signature", "http_503"])
async def test_R8_an_error_of_a_query_closes_nothing(world: World, fault: str) -> None:
    order = await world.order(expire_time=world.clock.now() + timedelta(seconds=60))
    attempt = await world.submit(order, "alipay_qr")
    await world.simulator.pay(attempt.out_trade_no, notify=False)
    await world.simulator.fault("alipay.trade.query", fault, times=1)
    world.clock.advance(61)
    await world.services.jobs.expire_orders()
    assert (await world.read(order)).state is OrderState.WAITING
    world.clock.advance(12)
    await world.services.jobs.expire_orders()
    assert (await world.read(order)).state is OrderState.SUCCESS


async def test_R9_two_refunds_that_finish_together_are_both_counted(world: World) -> None:
    order = await world.paid("wx_native")
    first, second = await asyncio.gather(world.refund(order, 40), world.refund(order, 50))
    async with asyncio.timeout(5):
        while (await world.read(order)).refunded_amount != 90:
            await asyncio.sleep(0.02)
    assert (await world.read(order)).reserved_amount == 0
    assert first.id != second.id


async def test_R10_natural_keys_are_unique(world: World) -> None:
    new = NewApp(
        "twice", "x", "", "http://a.test/", "http://a.test/", *_policies()
    )  # fmt: skip
    results = await asyncio.gather(*(world.services.apps.create(OPERATOR, new) for _ in range(5)), return_exceptions=True)
    assert sum(1 for item in results if isinstance(item, PayCenterError) and item.reason is Reason.APP_EXISTS) == 4


def _policies() -> tuple[object, object]:
    from paycenter_server.domain.models import NotifySuccess, SurplusPolicy

    return SurplusPolicy.REFUND, NotifySuccess.HTTP_2XX


async def test_R11_a_disabled_channel_books_syncs_expires_and_refunds(world: World) -> None:
    by_callback, by_sync, expiring = (
        await world.order(), await world.order(), await world.order(expire_time=world.clock.now() + timedelta(seconds=60)),
    )  # fmt: skip
    first, second, _ = [await world.submit(order) for order in (by_callback, by_sync, expiring)]
    await world.services.channels.update(OPERATOR, world.channels["wx_native"], {"enabled": False}, "", None)
    world.services.gateway._known.clear()
    await world.simulator.pay(first.out_trade_no)
    paid = await world.until(by_callback, "SUCCESS")
    await world.simulator.pay(second.out_trade_no, notify=False)
    world.clock.advance(61)
    await world.services.jobs.sync_orders()
    assert (await world.read(by_sync)).state is OrderState.SUCCESS
    await world.services.jobs.expire_orders()
    assert (await world.read(expiring)).state is OrderState.CLOSED
    assert (await world.refund(paid, 10)).state is RefundState.WAITING
    assert (await world.submit(await world.order(), "mock")).state.value == "SUCCESS"


async def test_R13_a_failed_refund_is_sent_again_under_the_same_number(world: World) -> None:
    order = await world.paid("wx_native")
    await world.simulator.fault("wx.refund", "refund_closed")
    refund = await world.refund(order, 40, merchant_refund_no="AFTERSALE-1")
    async with asyncio.timeout(5):
        while refund.state is not RefundState.FAILURE:
            await asyncio.sleep(0.05)
            refund = await world.services.refunds.sync(world.caller, refund)
    assert (await world.read(order)).reserved_amount == 0
    again = await world.refund(order, 40, merchant_refund_no="AFTERSALE-1")
    assert again.id == refund.id
    assert again.out_refund_no != refund.out_refund_no
    async with asyncio.timeout(5):
        while again.state is not RefundState.SUCCESS:
            await asyncio.sleep(0.05)
            again = await world.services.refunds.sync(world.caller, again)
    assert (await world.read(order)).refunded_amount == 40
    assert sorted(post.json["type"] for post in await world.deliver()) == [
        "pay_order.success", "pay_refund.failure", "pay_refund.success",
    ]  # fmt: skip


async def test_R13_a_waiting_refund_blocks_no_other(world: World) -> None:
    order = await world.paid("mock")
    await world.rows('UPDATE pay_attempt SET channel_extras = \'{"refund": "pending"}\'')
    first = await world.refund(order, 10)
    second = await world.refund(order, 20)
    assert (first.state, second.state) == (RefundState.WAITING, RefundState.WAITING)
    assert (await world.read(order)).reserved_amount == 30


@pytest.mark.parametrize("api", ["wx.refund", "alipay.trade.refund"])
async def test_R13_not_enough_balance_waits_and_keeps_its_number(world: World, api: str) -> None:
    order = await world.paid("wx_native" if api == "wx.refund" else "alipay_qr")
    await world.simulator.fault(api, "not_enough")
    refund = await world.refund(order, 40)
    assert refund.state is RefundState.WAITING
    assert "NOT_ENOUGH" in (refund.channel_error_code or "")
    for _ in range(10):
        world.clock.advance(11)
        await world.services.jobs.sync_refunds()
        await asyncio.sleep(0.1)
    after = await world.services.refunds.load(world.caller, refund.number)
    assert (after.state, after.out_refund_no) == (RefundState.SUCCESS, refund.out_refund_no)


async def test_R16_the_schedule_is_what_it_says(world: World) -> None:
    await world.paid("mock")
    world.courier.default = Received(500, "no")
    task = (await world.rows("SELECT * FROM pay_notify_task"))[0]
    assert task["max_notify_times"] == NOTIFY_MAX_TIMES
    for _ in range(NOTIFY_MAX_TIMES):
        assert len(await world.deliver()) == 1
        world.clock.advance(17 * 3600)
    task = (await world.rows("SELECT * FROM pay_notify_task"))[0]
    assert (task["state"], task["notify_times"], task["next_notify_time"]) == ("FAILURE", NOTIFY_MAX_TIMES, None)
    world.clock.advance(30 * 86400)
    assert await world.deliver() == []
    world.courier.default = Received(200, "ok")
    await world.services.notify_admin.resend(OPERATOR, (await _task_number(world)))
    assert len(await world.deliver()) == 1
    assert await world.value("SELECT state FROM pay_notify_task") == "SUCCESS"


async def _task_number(world: World) -> str:
    from paycenter_server.domain.ids import encode

    return encode(Prefix.NOTIFY, await world.value("SELECT id FROM pay_notify_task"))


async def test_R17_no_transaction_is_held_while_a_receiver_answers(world: World) -> None:
    await world.paid("mock")
    open_while_posting = []

    class Looking:
        async def post(self, url: str, headers: dict[str, str], body: bytes) -> Received:
            open_while_posting.append(
                await world.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'")
            )
            return Received(200, "")

    world.services.notifying._courier = Looking()
    await world.deliver()
    assert open_while_posting == [0]


async def test_R18_a_huge_or_odd_answer_is_recorded_and_ends(world: World) -> None:
    await world.paid("mock")
    world.courier.default = Received(500, "\0\ud800x" * 100_000)
    await world.deliver()
    task = (await world.rows("SELECT * FROM pay_notify_task"))[0]
    assert (task["notify_times"], task["state"]) == (1, "REQUEST_SUCCESS")
    assert await world.deliver() == []


async def test_R19_sync_covers_the_whole_life_of_an_order(world: World) -> None:
    order = await world.order(expire_time=world.clock.now() + timedelta(hours=2))
    attempt = await world.submit(order, "mock", behaviour="late", late_seconds="6000")
    for _ in range(40):
        world.clock.advance(180)
        await world.services.jobs.sync_orders()
        if (await world.read(order)).state is OrderState.SUCCESS:
            break
    assert (await world.read(order)).attempt_id == attempt.id


async def test_R21_alipay_amounts_are_exact_and_the_payer_is_the_buyer(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    recorder = Recorder()
    async with open_world(database_url, redis_url, keys_dir, master_key_file, transport=recorder) as world:
        order = await world.order(amount=1_000_000_000)
        attempt = await world.submit(order, "alipay_qr")
        body = dict(parse_qsl(recorder.requests[-1].body.decode()))["biz_content"]
        assert '"total_amount":"10000000.00"' in body
        await world.simulator.pay(attempt.out_trade_no, payer="2088123456789012")
        paid = await world.until(order, "SUCCESS")
        assert paid.channel_user_id == "2088123456789012"
        await recorder.inner.aclose()


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
async def test_R22_times_do_not_follow_the_servers_zone(world: World, zone: str) -> None:
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        order = await world.paid("alipay_qr")
        assert order.success_time is not None
        assert abs((order.success_time - world.clock.now()).total_seconds()) < 30
    finally:
        os.environ.pop("TZ") if before is None else os.environ.__setitem__("TZ", before)
        time.tzset()


async def test_R25_concurrent_first_uses_build_one_codec(world: World) -> None:
    key = decode(Prefix.CHANNEL, world.channels["wx_native"])
    assert key is not None
    found = await asyncio.gather(*(world.services.gateway.get(key) for _ in range(20)))
    assert len({id(item.codec) for item in found}) == 1


async def test_R26_a_channel_settles_only_its_own_numbers(world: World) -> None:
    order = await world.order()
    attempt = await world.submit(order, "alipay_qr")
    # A genuine callback, delivered to another channel of the same merchant.
    await world.simulator.fault("alipay.notify", "drop")
    await world.simulator.pay(attempt.out_trade_no)
    await asyncio.sleep(0.2)
    pc = decode(Prefix.CHANNEL, world.channels["alipay_pc"])
    assert pc is not None
    configured = await world.services.gateway.get(pc)
    from paycenter_server.channels.protocol import Payment

    payment = Payment(attempt.out_trade_no, "1", 100, "CNY", dict(configured.codec.account))
    assert (await world.services.payments.book(configured, payment, "")).value == "SURPLUS"
    assert (await world.read(order)).state is OrderState.WAITING
    assert [case["kind"] for case in await world.cases()] == ["UNKNOWN_ORDER"]


async def test_R29_fee_rates_have_a_range(world: World) -> None:
    for rate in (-1, 1_000_001):
        with pytest.raises(PayCenterError) as caught:
            await world.services.channels.update(OPERATOR, world.channels["mock"], {"fee_rate_ppm": rate}, "", None)
        assert caught.value.reason is Reason.INVALID_FIELD


async def test_R18_a_task_whose_secret_does_not_open_ends_too(world: World) -> None:
    await world.paid("mock")
    await world.rows("UPDATE pay_app SET notify_secret = 'v1:0:AAAA'")
    assert await world.deliver() == []
    task = (await world.rows("SELECT * FROM pay_notify_task"))[0]
    assert (task["state"], task["notify_times"]) == ("REQUEST_FAILURE", 1)
    assert "master key" in await world.value("SELECT answer FROM pay_notify_log")
