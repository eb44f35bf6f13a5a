"""The faults of the reference system that apply here, by the numbers of its analysis (§7.2).

R6, R7, R9 and R13 are in test_reference_refunds.py. Not here: R3, R12, R20 (wallets), R14 (transfers), R27 (the console). R15 is
rule 1; R10 also stands in test_orders. R23 is the codecs' acknowledgements (tests/contract); R24 the benchmarks.
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
from support.locks import transaction, waiting_for_lock
from support.system import CAUSE, OPERATOR, PayCenterSystem, open_system
from support.waiting import ended, eventually


class Recorder:
    """Stores the requests to the channels, and can delay the next refund."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.requests: list[HttpRequest] = []
        self.hold, self.held = asyncio.Event(), asyncio.Event()
        self.hold_next_refund = False

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        self.requests.append(request)
        if self.hold_next_refund and request.url.endswith("/refunds"):
            self.hold_next_refund = False
            self.held.set()
            await self.hold.wait()
        return await self.inner.send(request, seconds)


async def test_R1_only_one_attempt_stays_payable_where_the_channel_can_close(system: PayCenterSystem) -> None:
    order = await system.order()
    first = await system.submit(order, "wx_native")
    await system.submit(order, "alipay_qr")
    with pytest.raises(AssertionError, match="409"):
        await system.simulator.pay(first.out_trade_no)


async def test_R1_two_submits_at_once_leave_one_attempt_payable(system: PayCenterSystem) -> None:
    """To two channels: neither has read the other's attempt when it closed the others, so one of them must be repeated."""
    order = await system.order()
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
        calls = [
            asyncio.create_task(system.submit(order, "wx_native")),
            asyncio.create_task(system.submit(order, "mock", behaviour="never")),
        ]
        await waiting_for_lock(system, calls)
    results = await ended(calls)
    assert [item.reason for item in results if isinstance(item, PayCenterError)] == [Reason.ORDER_CHANGED]
    assert await system.value("SELECT count(*) FROM pay_attempt") == 1


async def test_R1_what_cannot_be_closed_is_closed_as_soon_as_another_is_paid(system: PayCenterSystem) -> None:
    order = await system.order()
    first = await system.submit(order, "alipay_qr")
    second = await system.submit(order, "wx_native")
    # Opened by the payer, so that Alipay can close it from now on.
    await system.session.get(f"{system.simulator.base}/cashier/{first.out_trade_no}")
    await system.rows("UPDATE pay_attempt SET next_check_time = now() + interval '1 day'")
    await system.simulator.pay(second.out_trade_no)
    await system.until(order, "SUCCESS")
    assert await system.services.jobs.sync_orders() == 1
    with pytest.raises(AssertionError, match="409"):
        await system.simulator.pay(first.out_trade_no)


async def test_R2_expiry_goes_to_every_channel_and_equals_ours(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    recorder = Recorder()
    async with open_system(database_url, redis_url, keys_dir, master_key_file, transport=recorder) as system:
        asked = (system.clock.now() + timedelta(hours=2)).replace(microsecond=654_321)
        order = await system.order(expire_time=asked)
        # Channels take whole seconds: ours is the same moment, so that no payment is possible in between.
        assert order.expire_time == asked.replace(microsecond=0)
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
        # An order with a longer life has an attempt that ends at the channel's limit, which is sent to the channel.
        long = await system.order(expire_time=system.clock.now() + timedelta(days=30))
        shown = await system.submit(long, "wx_native")
        assert shown.expire_time <= system.clock.now() + timedelta(days=7)
        local = shown.expire_time + timedelta(hours=8)
        assert f'"time_expire":"{local:%Y-%m-%dT%H:%M:%S}+08:00"'.encode() in recorder.requests[-1].body
        await recorder.inner.aclose()


async def test_R4_a_payment_of_a_cancelled_order_becomes_a_case(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order)
    await system.services.orders.close(system.caller, order.number)
    with pytest.raises(AssertionError, match="409"):
        await system.simulator.pay(attempt.out_trade_no)
    # A payment at that moment belongs to no order: it becomes a case, and is refunded.
    await system.simulator.pay(attempt.out_trade_no, force=True)
    (case,) = await eventually(system.cases)
    assert (case["kind"], case["state"], case["amount"]) == ("LATE_PAYMENT", "REFUNDING", 100)
    assert (await system.read(order)).state is OrderState.CLOSED


async def test_R4_an_attempt_that_is_made_meanwhile_keeps_the_order_open(system: PayCenterSystem) -> None:
    order = await system.order()
    await system.submit(order)
    assert await system.services.attempts.close_order(order.id) is None
    assert (await system.read(order)).state is OrderState.WAITING


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_R5_a_payment_at_the_old_price_is_surplus(system: PayCenterSystem, code: str) -> None:
    order = await system.order(amount=100)
    attempt = await system.submit(order, code)
    await system.services.orders.update_price(system.caller, order.number, 80)
    await system.simulator.pay(attempt.out_trade_no, force=True)
    case = await system.first_case(order)
    assert (case["kind"], case["amount"]) == ("WRONG_AMOUNT", 100)
    assert (await system.read(order)).state is OrderState.WAITING


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
    system.services.gateway.channels._known.clear()
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


async def test_R16_the_retry_schedule(system: PayCenterSystem) -> None:
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
async def test_R22_times_are_independent_of_the_servers_zone(system: PayCenterSystem, zone: str) -> None:
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
    found = await asyncio.gather(*(system.services.gateway.channels.get(key) for _ in range(20)))
    assert len({id(item.codec) for item in found}) == 1


async def test_R26_an_account_settles_only_its_own_numbers(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "alipay_qr")
    # A genuine message of another account names our number: it is other money.
    native = decode(Prefix.CHANNEL, system.channels["wx_native"])
    assert native is not None
    configured = await system.services.gateway.channels.get(native)
    from paycenter_server.channels.protocol import Payment

    payment = Payment(attempt.out_trade_no, "1", 100, "CNY", dict(configured.codec.account))
    assert (await system.services.payments.book(configured, payment, CAUSE)).value == "SURPLUS"
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
