"""Both clients against a real gRPC server: credentials, deadlines, retries, pages, waiting, parity."""

from __future__ import annotations

import asyncio
import base64
import inspect
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from paycenter import AsyncPayCenter, OrderState, PayCenter, RefundState, WaitTimeoutError, errors
from paycenter._options import Options, service_config
from paycenter._waiting import Pace
from paycenter.v1.pay_app_service_pb2 import CreatePayAppRequest
from paycenter.v1.pay_order_service_pb2 import DISPLAY_MODE_URL, GetPayOrderRequest
from support.client_fakes import KEY_ID, KEY_SECRET, FakePayCenter, plain, rich

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
NEW: dict[str, Any] = {"merchant_order_id": "A-1", "subject": "Tea", "amount": 1234, "user_ip": "203.0.113.7"}


def client_of(fake: FakePayCenter, **more: Any) -> PayCenter:
    return PayCenter(fake.target, key_id=KEY_ID, key_secret=KEY_SECRET, **more)


def async_client_of(fake: FakePayCenter, **more: Any) -> AsyncPayCenter:
    return AsyncPayCenter(fake.target, key_id=KEY_ID, key_secret=KEY_SECRET, **more)


class TestMetadataAndDeadlines:
    def test_every_call_has_credentials_and_a_deadline(self, fake: FakePayCenter, pay: PayCenter) -> None:
        order = pay.create_order(**NEW)
        pay.submit_order(order, "wx_native")
        pay.orders.GetPayOrder(GetPayOrderRequest(id=order.id))
        expected = "Basic " + base64.b64encode(f"{KEY_ID}:{KEY_SECRET}".encode()).decode()
        assert [seen.method for seen in fake.seen] == ["CreatePayOrder", "SubmitPayOrder", "GetPayOrder"]
        for seen in fake.seen:
            assert seen.metadata["authorization"] == expected
            assert seen.metadata["user-agent"].startswith("paycenter-client/")
            assert 9 < seen.remaining < 10.1

    def test_a_deadline_of_its_own(self, fake: FakePayCenter, pay: PayCenter) -> None:
        pay.create_order(**NEW, timeout=3)
        assert 2 < fake.seen[0].remaining < 3.1

    def test_metadata_of_the_caller_is_added(self, fake: FakePayCenter, pay: PayCenter) -> None:
        order = pay.create_order(**NEW)
        pay.orders.GetPayOrder(GetPayOrderRequest(id=order.id), metadata=(("x-trace", "1"),))
        assert fake.seen[-1].metadata["x-trace"] == "1"
        assert "authorization" in fake.seen[-1].metadata

    def test_deadline_passed(self, fake: FakePayCenter, pay: PayCenter) -> None:
        fake.delay = 1
        started = time.monotonic()
        with pytest.raises(errors.DeadlineExceededError, match="not known"):
            pay.create_order(**NEW, timeout=0.2)
        assert time.monotonic() - started < 0.9

    async def test_deadline_passed_in_asyncio(self, fake: FakePayCenter) -> None:
        fake.delay = 1
        async with async_client_of(fake, timeout=0.2) as pay:
            with pytest.raises(errors.DeadlineExceededError):
                await pay.create_order(**NEW)

    def test_the_stubs_other_ways_to_call(self, fake: FakePayCenter, pay: PayCenter) -> None:
        order = pay.create_order(**NEW)
        request = GetPayOrderRequest(id=order.id)
        answer, call = pay.orders.GetPayOrder.with_call(request)
        assert answer.pay_order.id == order.id
        assert call.code() is grpc.StatusCode.OK
        assert pay.orders.GetPayOrder.future(request).result().pay_order.id == order.id
        fake.failures["GetPayOrder"] = [rich(grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND")]
        with pytest.raises(errors.OrderNotFoundError):
            pay.orders.GetPayOrder.with_call(request)


class TestRetries:
    def test_unavailable_is_tried_again(self, fake: FakePayCenter, pay: PayCenter) -> None:
        fake.failures["CreatePayOrder"] = [plain(UNAVAILABLE), rich(UNAVAILABLE, "DATABASE_UNAVAILABLE")]
        assert pay.create_order(**NEW).merchant_order_id == "A-1"
        assert len(fake.calls("CreatePayOrder")) == 3

    async def test_unavailable_is_tried_again_in_asyncio(self, fake: FakePayCenter) -> None:
        fake.failures["CreatePayOrder"] = [plain(UNAVAILABLE), rich(UNAVAILABLE, "CHANNEL_UNCLEAR")]
        async with async_client_of(fake) as pay:
            await pay.create_order(**NEW)
        assert len(fake.calls("CreatePayOrder")) == 3

    def test_after_the_last_attempt_the_error_is_typed(self, fake: FakePayCenter, pay: PayCenter) -> None:
        order = pay.create_order(**NEW)
        fake.failures["SubmitPayOrder"] = [rich(UNAVAILABLE, "CHANNEL_UNCLEAR") for _ in range(9)]
        with pytest.raises(errors.ChannelUnclearError):
            pay.submit_order(order, "wx_native")
        assert len(fake.calls("SubmitPayOrder")) == 4

    def test_the_servers_pushback_is_obeyed(self, fake: FakePayCenter, pay: PayCenter) -> None:
        fake.failures["CreatePayOrder"] = [rich(UNAVAILABLE, "DATABASE_UNAVAILABLE", pushback_ms=700)]
        pay.create_order(**NEW)
        first, second = fake.calls("CreatePayOrder")
        assert 0.65 < second.at - first.at < 1.5
        fake.failures["CreatePayOrder"] = [rich(UNAVAILABLE, "DATABASE_UNAVAILABLE", pushback_ms=-1)]
        with pytest.raises(errors.DatabaseUnavailableError):
            pay.create_order(**NEW)

    def test_a_call_that_a_stopping_server_refused_or_cancelled_is_repeated(self, fake: FakePayCenter, pay: PayCenter) -> None:
        fake.failures["CreatePayOrder"] = [
            rich(UNAVAILABLE, "SERVER_STOPPING", pushback_ms=100),
            plain(grpc.StatusCode.CANCELLED),
        ]
        assert pay.create_order(**NEW).merchant_order_id == "A-1"
        assert len(fake.calls("CreatePayOrder")) == 3
        fake.failures["GetPayOrder"] = [rich(UNAVAILABLE, "SERVER_STOPPING", pushback_ms=-1)]
        with pytest.raises(errors.ServerStoppingError):
            pay.get_order(id="O1")

    def test_a_burst_of_failures_does_not_end_the_repetitions(self, fake: FakePayCenter, pay: PayCenter) -> None:
        """A restart fails every call that waits; the throttle must not take that for an overload."""
        fake.failures["CreatePayOrder"] = [rich(UNAVAILABLE, "SERVER_STOPPING", pushback_ms=50) for _ in range(100)]
        with ThreadPoolExecutor(50) as pool:
            for order in pool.map(lambda number: pay.create_order(**{**NEW, "merchant_order_id": f"A-{number}"}), range(50)):
                assert order.id

    def test_other_errors_are_not_repeated(self, fake: FakePayCenter, pay: PayCenter) -> None:
        fake.failures["CreatePayOrder"] = [plain(grpc.StatusCode.INTERNAL, "broken")]
        with pytest.raises(errors.PayCenterError, match="broken"):
            pay.create_order(**NEW)
        assert len(fake.seen) == 1

    def test_what_is_not_repeatable_is_not_repeated(self, fake: FakePayCenter, pay: PayCenter) -> None:
        fake.failures["CreatePayApp"] = [plain(UNAVAILABLE)]
        with pytest.raises(errors.UnreachableError):
            pay.apps.CreatePayApp(CreatePayAppRequest(app_key="demo"))
        fake.failures["ResendPayNotification"] = [plain(UNAVAILABLE)]
        with pytest.raises(errors.UnreachableError):
            pay.resend_notification("N1")
        assert len(fake.seen) == 2

    def test_retries_can_be_turned_off(self, fake: FakePayCenter) -> None:
        fake.failures["CreatePayOrder"] = [plain(UNAVAILABLE)]
        with client_of(fake, attempts=1) as pay, pytest.raises(errors.UnreachableError):
            pay.create_order(**NEW)
        assert len(fake.seen) == 1

    def test_no_server_listens(self) -> None:
        with PayCenter("127.0.0.1:1", key_id="a", key_secret="b", attempts=2) as pay, pytest.raises(errors.UnreachableError):
            pay.create_order(**NEW)

    def test_all_attempts_share_the_deadline(self, fake: FakePayCenter, pay: PayCenter) -> None:
        fake.failures["CreatePayOrder"] = [rich(UNAVAILABLE, "DATABASE_UNAVAILABLE", pushback_ms=5000)]
        started = time.monotonic()
        with pytest.raises(errors.PayCenterError):
            pay.create_order(**NEW, timeout=0.5)
        assert time.monotonic() - started < 2


class TestRequests:
    def test_expiry(self, fake: FakePayCenter, pay: PayCenter) -> None:
        def expiry() -> datetime:
            return fake.seen[-1].request.expire_time.ToDatetime(UTC)  # type: ignore[no-any-return]

        second = timedelta(seconds=5)
        pay.create_order(**NEW)
        assert abs(expiry() - datetime.now(UTC) - timedelta(minutes=30)) < second
        pay.create_order(**NEW, expire_in=timedelta(hours=2))
        assert abs(expiry() - datetime.now(UTC) - timedelta(hours=2)) < second
        moment = datetime(2030, 1, 1, 8, tzinfo=UTC)
        pay.create_order(**NEW, expire_time=moment)
        assert expiry() == moment
        with pytest.raises(ValueError, match="not both"):
            pay.create_order(**NEW, expire_in=timedelta(hours=1), expire_time=moment)
        with pytest.raises(ValueError, match="time zone"):
            pay.create_order(**NEW, expire_time=datetime(2030, 1, 1))  # noqa: DTZ001

    @pytest.mark.parametrize("amount", [12.34, 12.0, "12", True])
    def test_amounts_are_whole_fen(self, fake: FakePayCenter, pay: PayCenter, amount: Any) -> None:
        with pytest.raises(TypeError, match="fen"):
            pay.create_order(**{**NEW, "amount": amount})
        with pytest.raises(TypeError):
            pay.update_price("O1", amount)
        with pytest.raises(TypeError):
            pay.create_refund(merchant_order_id="A-1", merchant_refund_no="R", amount=amount, reason="x")
        assert fake.seen == []

    def test_exactly_one_number(self, pay: PayCenter) -> None:
        for call in (pay.get_order, pay.get_refund):
            with pytest.raises(TypeError, match="exactly one"):
                call()
        with pytest.raises(TypeError):
            pay.get_order(id="O1", merchant_order_id="A-1")

    def test_submit(self, fake: FakePayCenter, pay: PayCenter) -> None:
        pay.submit_order("O1", "wx_pub", {"openid": "o1"}, display_mode=DISPLAY_MODE_URL, user_ip="::1", return_url="https://x.y/")
        request = fake.seen[0].request
        assert dict(request.channel_extras) == {"openid": "o1"}
        assert (request.id, request.display_mode, request.user_ip, request.return_url) == (
            "O1",
            DISPLAY_MODE_URL,
            "::1",
            "https://x.y/",
        )


class TestPages:
    def test_all_pages_in_order(self, fake: FakePayCenter, pay: PayCenter) -> None:
        for _ in range(7):
            pay.create_order(**NEW)
        assert [order.id for order in pay.list_orders(page_size=3)] == list(fake.orders)
        pages = [seen.request for seen in fake.calls("ListPayOrders")]
        assert [(page.page_size, page.page_token) for page in pages] == [(3, ""), (3, "3"), (3, "6")]

    def test_pages_are_requested_as_they_are_read(self, fake: FakePayCenter, pay: PayCenter) -> None:
        for _ in range(4):
            pay.create_order(**NEW)
        next(pay.list_orders(page_size=2))
        assert len(fake.calls("ListPayOrders")) == 1

    def test_filters(self, fake: FakePayCenter, pay: PayCenter) -> None:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        list(pay.list_orders(state=OrderState.SUCCESS, create_time_from=start, merchant_order_id="A-1"))
        request = fake.seen[0].request
        assert (request.state, request.merchant_order_id, request.page_size) == (2, "A-1", 200)
        assert request.create_time_from.ToDatetime(UTC) == start
        with pytest.raises(ValueError, match="time zone"):
            list(pay.list_orders(create_time_to=datetime(2026, 1, 1)))  # noqa: DTZ001
        assert [task.id for task in pay.list_notifications()] == ["N1", "N1"]

    async def test_in_asyncio(self, fake: FakePayCenter) -> None:
        async with async_client_of(fake) as pay:
            for _ in range(5):
                await pay.create_order(**NEW)
            assert [order.id async for order in pay.list_orders(page_size=2)] == list(fake.orders)
            assert [task.id async for task in pay.list_notifications()] == ["N1", "N1"]


class TestWaiting:
    def test_until_paid(self, fake: FakePayCenter, pay: PayCenter) -> None:
        order = pay.wait_for_order(pay.create_order(**NEW), timeout=10)
        assert order.state == OrderState.SUCCESS
        assert len(fake.calls("GetPayOrder")) == 3
        assert not any(seen.request.sync for seen in fake.calls("GetPayOrder"))

    def test_time_is_up(self, fake: FakePayCenter, pay: PayCenter) -> None:
        fake.pay_after = 1000
        order = pay.create_order(**NEW)
        with pytest.raises(WaitTimeoutError, match=order.id) as caught:
            pay.wait_for_order(order.id, timeout=0.3)
        assert caught.value.last == order

    def test_a_condition_of_ones_own(self, fake: FakePayCenter, pay: PayCenter) -> None:
        fake.pay_after = 1000
        order = pay.create_order(**NEW)
        assert pay.wait_for_order(order, until=lambda seen: seen.amount == 1234).state == OrderState.WAITING

    def test_waiting_continues_during_an_outage(self, fake: FakePayCenter) -> None:
        with client_of(fake, attempts=1) as pay:
            order = pay.create_order(**NEW)
            fake.failures["GetPayOrder"] = [plain(UNAVAILABLE), plain(grpc.StatusCode.DEADLINE_EXCEEDED)]
            assert pay.wait_for_order(order, timeout=10).state == OrderState.SUCCESS

    def test_other_errors_end_it(self, fake: FakePayCenter, pay: PayCenter) -> None:
        order = pay.create_order(**NEW)
        fake.failures["GetPayOrder"] = [rich(grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND")]
        with pytest.raises(errors.OrderNotFoundError):
            pay.wait_for_order(order)

    def test_pace(self) -> None:
        pace, now, looks, syncs = Pace(100, 0.0), 0.0, 0, []
        while True:
            looks += 1
            if pace.sync(now):
                syncs.append(now)
            assert 1 <= pace.call_timeout(10, now) <= 10
            delay = pace.delay(now)
            if delay is None:
                break
            assert 0 < delay <= 5
            now += delay
        assert now == pytest.approx(100)
        assert 20 < looks < 40
        assert len(syncs) == 3 and syncs[0] >= 10


class TestParity:
    def test_same_methods_with_the_same_arguments(self) -> None:
        def public(kind: type) -> dict[str, list[inspect.Parameter]]:
            return {
                name: list(inspect.signature(member).parameters.values())
                for name, member in vars(kind).items()
                if inspect.isfunction(member) and (not name.startswith("_") or name == "__init__")
            }

        assert public(PayCenter) == public(AsyncPayCenter)

    async def test_every_method_in_asyncio(self, fake: FakePayCenter) -> None:
        async with async_client_of(fake) as pay:
            order = await pay.create_order(**NEW)
            assert (await pay.submit_order(order, "wx_native")).display_content.startswith("weixin://")
            assert (await pay.update_price(order, 99)).amount == 99
            assert (await pay.wait_for_order(order)).state == OrderState.SUCCESS
            assert (await pay.get_order(merchant_order_id="A-1")).id == order.id
            assert (await pay.sync_order(order)).id == order.id
            refund = await pay.create_refund(merchant_order_id="A-1", merchant_refund_no="R-1", amount=9, reason="less")
            assert (await pay.wait_for_refund(refund)).state == RefundState.SUCCESS
            assert (await pay.sync_refund(refund)).id == (await pay.get_refund(merchant_refund_no="R-1")).id
            assert [found.id async for found in pay.list_refunds()] == [refund.id]
            assert await pay.list_channel_codes() == ["alipay_qr", "wx_native"]
            assert (await pay.get_notification("N1")).logs[0].notify_times == 1
            assert (await pay.resend_notification("N1")).id == "N1"
            assert (await pay.send_notification_now("N1")).id == "N1"
            assert [page.resent_count async for page in pay.resend_notifications()] == [1, 1]
            assert (await pay.close_order(order)).state == OrderState.CLOSED
            call = pay.orders.GetPayOrder(GetPayOrderRequest(id=order.id))
            await call
            assert await call.code() is grpc.StatusCode.OK

    def test_resend_by_filter(self, fake: FakePayCenter, pay: PayCenter) -> None:
        assert pay.send_notification_now("N1").id == "N1"
        pages = list(pay.resend_notifications(dry_run=True, merchant_order_id="A-1"))
        assert [(page.resent_count, page.remaining_count) for page in pages] == [(0, 1), (0, 0)]
        asked = [seen.request for seen in fake.seen[-2:]]
        assert [(one.merchant_order_id, one.dry_run, one.page_token) for one in asked] == [("A-1", True, ""), ("A-1", True, "more")]

    def test_every_method(self, fake: FakePayCenter, pay: PayCenter) -> None:
        order = pay.create_order(**NEW)
        assert pay.update_price(order, 99).amount == 99
        assert pay.wait_for_order(order.id).id == pay.get_order(merchant_order_id="A-1").id == pay.sync_order(order).id
        refund = pay.create_refund(merchant_order_id="A-1", merchant_refund_no="R-1", amount=9, reason="less")
        assert pay.wait_for_refund(refund).state == RefundState.SUCCESS
        assert pay.sync_refund(refund).id == pay.get_refund(merchant_refund_no="R-1").id
        assert [found.id for found in pay.list_refunds()] == [refund.id]
        assert pay.list_channel_codes() == ["alipay_qr", "wx_native"]
        assert pay.get_notification("N1").pay_notification.id == "N1"
        assert pay.close_order(order).state == OrderState.CLOSED

    async def test_cancelling_ends_the_call(self, fake: FakePayCenter) -> None:
        fake.delay = 0.5
        async with async_client_of(fake) as pay:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pay.create_order(**NEW), 0.1)
            fake.delay = 0
            assert await asyncio.gather(pay.list_channel_codes(), pay.list_channel_codes())

    def test_asyncio_needs_a_loop(self, fake: FakePayCenter) -> None:
        with pytest.raises(RuntimeError):
            async_client_of(fake)


class TestOptions:
    @pytest.mark.parametrize(
        "wrong", [{"key_id": ""}, {"key_id": "a:b"}, {"key_secret": ""}, {"timeout": 0}, {"attempts": 6}, {"keepalive": 0}]
    )
    def test_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError):
            PayCenter("127.0.0.1:1", **{"key_id": "a", "key_secret": "b", **wrong})

    def test_own_arguments_win(self) -> None:
        options = Options("x:1", "a", "b", False, 10, 4, 30, [("grpc.primary_user_agent", "shop/1")])
        assert dict(options.arguments())["grpc.primary_user_agent"] == "shop/1"
        assert "retryPolicy" not in service_config(1)

    def test_tls_is_used(self, fake: FakePayCenter) -> None:
        with client_of(fake, tls=True, attempts=1, timeout=3) as pay, pytest.raises(errors.PayCenterError):
            pay.create_order(**NEW)
        assert fake.seen == []

    def test_the_secret_does_not_show(self, fake: FakePayCenter, pay: PayCenter) -> None:
        assert "s3cret" not in repr(pay)
        assert "s3cret" not in repr(Options("x:1", "a", "s3cret", False, 10, 4, 30, ()))
