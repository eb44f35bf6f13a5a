"""PayOrderService, PayRefundService and PayNotificationService over the wire, with the real client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from paycenter import AttemptState, DisplayMode, NotificationState, NotificationType, OrderState, RefundState
from paycenter_server.services.notifications_delivery import DeliveryResponse
from support.grpc_rig import Rig, fails, key_of, open_rig
from support.system import PayCenterSystem


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


async def test_an_order_from_end_to_end(rig: Rig) -> None:
    expiry = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)
    order = await rig.order(amount=10_000, body="大杯", expire_time=expiry, user_id="u-1", return_url="https://shop.test/back")
    assert (order.state, order.currency, order.app_key, order.user_id) == (OrderState.WAITING, "CNY", "shop", "u-1")
    assert order.expire_time.ToDatetime(UTC) == expiry
    submitted = await rig.shop.submit_order(order, "wx_native")
    assert submitted.display_mode == DisplayMode.QR_CODE
    assert submitted.display_content.startswith("weixin://")
    assert submitted.state == OrderState.WAITING
    again = await rig.shop.submit_order(order.id, "wx_native")
    assert again.out_trade_no == submitted.out_trade_no
    await rig.system.simulator.pay(submitted.out_trade_no)
    paid = await rig.shop.wait_for_order(order, timeout=5)
    assert (paid.state, paid.paid_amount, paid.channel_fee_amount) == (OrderState.SUCCESS, 10_000, 60)
    assert (paid.channel_code, paid.channel_id) == ("wx_native", rig.system.channels["wx_native"])
    assert paid.out_trade_no == submitted.out_trade_no
    assert paid.channel_order_no
    assert paid.success_time.seconds
    assert [item.state for item in paid.attempts] == [AttemptState.SUCCESS]
    by_own = await rig.shop.get_order(merchant_order_id=order.merchant_order_id)
    assert by_own.id == order.id

    refund = await rig.shop.create_refund(
        merchant_order_id=order.merchant_order_id, merchant_refund_no="R1", amount=2_500, reason="凉了"
    )
    refund = await rig.shop.wait_for_refund(refund, timeout=5)
    assert (refund.state, refund.amount, refund.pay_order_id) == (RefundState.SUCCESS, 2_500, order.id)
    assert refund.out_refund_no.startswith("R")
    assert (await rig.shop.get_refund(merchant_refund_no="R1")).id == refund.id
    assert (await rig.shop.sync_refund(refund)).state == RefundState.SUCCESS
    after = await rig.shop.get_order(id=order.id)
    assert (after.state, after.refunded_amount, after.reserved_amount) == (OrderState.REFUND, 2_500, 0)
    async with fails("REFUND_EXCEEDS_PAID", grpc.StatusCode.FAILED_PRECONDITION):
        await rig.shop.create_refund(merchant_order_id=order.merchant_order_id, merchant_refund_no="R2", amount=7_501, reason="x")
    async with fails("REFUND_CONFLICT", grpc.StatusCode.ALREADY_EXISTS):
        await rig.shop.create_refund(merchant_order_id=order.merchant_order_id, merchant_refund_no="R1", amount=1, reason="x")


async def test_close_price_sync_and_conflicts(rig: Rig) -> None:
    order = await rig.order(merchant_order_id="A1", amount=100)
    assert (await rig.order(merchant_order_id="A1", amount=100)).id == order.id
    async with fails("ORDER_CONFLICT", grpc.StatusCode.ALREADY_EXISTS) as caught:
        await rig.order(merchant_order_id="A1", amount=101)
    assert caught[0].metadata["pay_order_id"] == order.id
    assert (await rig.shop.update_price(order, 90)).amount == 90
    assert (await rig.shop.sync_order(order)).state == OrderState.WAITING
    async with fails("ORDER_NOT_REFUNDABLE", grpc.StatusCode.FAILED_PRECONDITION):
        await rig.shop.create_refund(merchant_order_id="A1", merchant_refund_no="R1", amount=1, reason="x")
    assert (await rig.shop.close_order(order)).state == OrderState.CLOSED
    for call in (rig.shop.update_price(order, 80), rig.shop.submit_order(order, "mock")):
        async with fails("ORDER_CLOSED", grpc.StatusCode.FAILED_PRECONDITION):
            await call
    paid = await rig.order()
    assert (await rig.shop.submit_order(paid, "mock")).state == OrderState.SUCCESS
    for call in (rig.shop.close_order(paid), rig.shop.update_price(paid, 80), rig.shop.submit_order(paid, "mock")):
        async with fails("ORDER_PAID", grpc.StatusCode.FAILED_PRECONDITION):
            await call
    late = await rig.order()
    rig.system.clock.advance(3600)
    async with fails("ORDER_EXPIRED", grpc.StatusCode.FAILED_PRECONDITION):
        await rig.shop.submit_order(late, "mock")


async def test_the_channels_error_is_returned(rig: Rig) -> None:
    order = await rig.order()
    async with fails("CHANNEL_REFUSED", grpc.StatusCode.FAILED_PRECONDITION) as caught:
        await rig.shop.submit_order(order, "mock", {"behaviour": "failure"})
    assert caught[0].metadata["channel_error_code"] == "MOCK_FAILURE"
    async with fails("CHANNEL_UNCLEAR", grpc.StatusCode.UNAVAILABLE) as caught:
        await rig.shop.submit_order(order, "mock", {"behaviour": "lost"})
    assert caught[0].retry_after == 3.0
    assert {item.state for item in (await rig.shop.get_order(id=order.id)).attempts} == {AttemptState.CLOSED, AttemptState.UNKNOWN}
    async with fails("INVALID_FIELD") as caught:
        await rig.shop.submit_order(order, "wx_native", display_mode=DisplayMode.FORM)
    assert [item.field for item in caught[0].violations] == ["display_mode"]


async def test_lists_filter_and_page(rig: Rig) -> None:
    made = [await rig.order(amount=100 + index) for index in range(5)]
    await rig.shop.submit_order(made[0], "mock")
    number = made[0].merchant_order_id
    for index in range(3):
        await rig.shop.create_refund(merchant_order_id=number, merchant_refund_no=f"R{index}", amount=1, reason="x")
    assert [item.id async for item in rig.shop.list_orders()] == [item.id for item in reversed(made)]
    assert [item.id async for item in rig.shop.list_orders(state=OrderState.REFUND)] == [made[0].id]
    assert [item.id async for item in rig.shop.list_orders(channel_code="mock")] == [made[0].id]
    paid = await rig.shop.get_order(id=made[0].id)
    assert [item.id async for item in rig.shop.list_orders(out_trade_no=paid.out_trade_no)] == [paid.id]
    assert [item.id async for item in rig.shop.list_orders(out_trade_no="P" + "0" * 26)] == []
    assert [item.id async for item in rig.shop.list_orders(out_trade_no="junk")] == []
    assert len([item async for item in rig.shop.list_refunds()]) == 3
    assert len([item async for item in rig.shop.list_refunds(state=RefundState.SUCCESS, merchant_refund_no="R1")]) == 1
    assert [item async for item in rig.shop.list_refunds(state=RefundState.FAILURE)] == []
    events = [item.event async for item in rig.shop.list_notifications()]
    assert events == ["pay_refund.success"] * 3 + ["pay_order.success"]
    assert len([item async for item in rig.shop.list_notifications(type=NotificationType.ORDER)]) == 1
    assert len([item async for item in rig.shop.list_notifications(data_id=paid.id)]) == 1
    assert [item async for item in rig.shop.list_notifications(data_id="junk")] == []
    assert [item.id async for item in rig.op.list_orders(app_key="shop", merchant_order_id=number)] == [paid.id]


async def test_notifications_are_sent_again_by_filter(rig: Rig) -> None:
    system = rig.system
    system.sender.default = DeliveryResponse(410, "gone")
    own = await rig.shop.create_order(
        merchant_order_id="OWN", subject="Tea", amount=100, user_ip="::1", notification_url="https://own.test/order"
    )
    assert (own.notification_url, own.version) == ("https://own.test/order", 0)
    paid = [await system.paid("mock") for _ in range(3)]
    await system.deliver()
    dry = [page async for page in rig.shop.resend_notifications(dry_run=True, page_size=2)]
    assert [(page.matched_count, page.resent_count, page.remaining_count) for page in dry] == [(2, 0, 1), (1, 0, 0)]
    assert [page.matched_count async for page in rig.shop.resend_notifications(data_id="junk")] == [0]
    (one,) = [page async for page in rig.op.resend_notifications(app_key="shop", data_id=paid[0].number)]
    assert (one.matched_count, one.resent_count) == (1, 1)
    assert [page.resent_count async for page in rig.shop.resend_notifications()] == [2]
    system.sender.default = DeliveryResponse(200, "ok")
    assert len(await system.deliver()) == 3
    async with fails("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT):
        [page async for page in rig.shop.resend_notifications(state=NotificationState.SUPERSEDED)]


async def test_a_superseded_notification_names_the_one_that_replaces_it(rig: Rig) -> None:
    system = rig.system
    order = await rig.shop.create_order(merchant_order_id="A", subject="Tea", amount=100, user_ip="::1")
    assert (await rig.shop.close_order(order)).version == 1
    (task,) = [item async for item in rig.shop.list_notifications()]
    await system.rows(
        """INSERT INTO pay_notify_task SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(),
             'event', 'pay_order.success', 'data_version', 2))).* FROM pay_notify_task t"""
    )
    await system.deliver()
    async with fails("NOTIFICATION_SUPERSEDED", grpc.StatusCode.FAILED_PRECONDITION):
        await rig.shop.resend_notification(task.id)
    found = [item async for item in rig.shop.list_notifications(state=NotificationState.SUPERSEDED)]
    assert [item.id for item in found] == [task.id]


async def test_a_notification_is_read_with_its_log_and_sent_again(rig: Rig) -> None:
    system = rig.system
    system.sender.answers = [DeliveryResponse(500, "not \0 now")]
    await system.paid("mock")
    await system.deliver()
    (task,) = [item async for item in rig.shop.list_notifications()]
    assert (task.state, task.notify_times, task.max_notify_times) == (NotificationState.REQUEST_SUCCESS, 1, 18)
    async with fails("NOTIFICATION_OPEN", grpc.StatusCode.FAILED_PRECONDITION):
        await rig.shop.resend_notification(task.id)
    assert (task.problem, task.data_version, task.endpoint) == ("HTTP 500: not  now", 1, "http://merchant.test:80")
    now = await rig.shop.send_notification_now(task.id)
    assert (now.id, now.state) == (task.id, NotificationState.REQUEST_SUCCESS)
    await system.deliver()
    async with fails("NOTIFICATION_FINISHED", grpc.StatusCode.FAILED_PRECONDITION):
        await rig.shop.send_notification_now(task.id)
    got = await rig.shop.get_notification(task.id)
    assert got.pay_notification.state == NotificationState.SUCCESS
    assert not got.pay_notification.HasField("next_notify_time")
    assert [(item.notify_times, item.http_status, item.answer) for item in got.logs] == [(1, 500, "not  now"), (2, 200, "ok")]
    assert got.logs[0].request == system.sender.sent[0].body.decode()
    again = await rig.shop.resend_notification(task.id)
    assert (again.state, again.max_notify_times) == (NotificationState.WAITING, 20)
    assert len(await system.deliver()) == 1
    got = await rig.shop.get_notification(task.id)
    assert [item.notify_times for item in got.logs] == [1, 2, 3]
    assert system.sender.sent[-1].headers["webhook-id"] == task.id


async def test_an_app_cannot_access_objects_of_another_app(rig: Rig) -> None:
    order = await rig.system.paid("mock")
    refund = await rig.system.refund(order, 10)
    (task, _) = [item async for item in rig.op.list_notifications()]
    async with await rig.app("other") as other:
        wanted: dict[str, list[Any]] = {
            "ORDER_NOT_FOUND": [
                other.get_order(id=order.number), other.close_order(order.number), other.update_price(order.number, 5),
                other.sync_order(order.number), other.submit_order(order.number, "mock"),
                other.get_order(merchant_order_id=order.merchant_order_id),
                other.create_refund(
                    merchant_order_id=order.merchant_order_id, merchant_refund_no="X", amount=1, reason="x"
                ),
            ],
            "REFUND_NOT_FOUND": [
                other.get_refund(id=refund.number), other.sync_refund(refund.number),
                other.get_refund(merchant_refund_no=refund.merchant_refund_no),
            ],
            "NOTIFICATION_NOT_FOUND": [other.get_notification(task.id), other.resend_notification(task.id)],
        }  # fmt: skip
        for reason, calls in wanted.items():
            for call in calls:
                async with fails(reason, grpc.StatusCode.NOT_FOUND):
                    await call
        assert [item async for item in other.list_orders()] == []
        assert [item async for item in other.list_refunds()] == []
        assert [item async for item in other.list_notifications()] == []
        for listing in (
            other.list_orders(app_key="shop"),
            other.list_refunds(app_key="shop"),
            other.list_notifications(app_key="shop"),
        ):
            async with fails("PERMISSION_DENIED", grpc.StatusCode.PERMISSION_DENIED):
                [item async for item in listing]
        assert await other.list_channel_codes() == ["mock"]
    # An operator accesses everything, and names the app where it is required.
    assert (await rig.op.get_order(id=order.number)).app_key == "shop"
    assert (await rig.op.get_order(merchant_order_id=order.merchant_order_id, app_key="shop")).id == order.number
    assert (await rig.order(rig.op, app_key="other")).app_key == "other"
    async with fails("APP_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
        await rig.order(rig.op)
    assert len([item async for item in rig.op.list_orders()]) == 2
    assert key_of(rig.system)[0].startswith("app_")
