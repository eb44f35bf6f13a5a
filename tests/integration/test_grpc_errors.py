"""Errors on the wire: their details, no texts of exceptions, and no input of a caller causes INTERNAL."""

from __future__ import annotations

import asyncio
import gc
import threading
import types
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from paycenter import PayCenterError
from paycenter.v1 import pay_app_service_pb2 as app_pb
from paycenter.v1 import pay_case_service_pb2 as case_pb
from paycenter.v1 import pay_channel_service_pb2 as channel_pb
from paycenter.v1 import pay_credential_service_pb2 as credential_pb
from paycenter.v1 import pay_notification_service_pb2 as notifications_pb
from paycenter.v1 import pay_order_service_pb2 as order_pb
from paycenter.v1 import pay_refund_service_pb2 as refund_pb
from paycenter.v1.pay_order_service_pb2_grpc import PayOrderServiceStub
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.telemetry import add_request
from support.grpc_rig import Rig, fails, open_rig, raw_call, refused
from support.system import PayCenterSystem, open_system
from support.waiting import eventually

SECRET = "password=hunter2"
BAD = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
TEXTS = ["\0", "a\0b", "\U0001f600" * 500, "x" * 20_000, "'; DROP TABLE pay_order; --", "%", "\ufeff", "\u202e", "\x7f", "O" * 27]


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


class Leaking:
    """A channel whose failure contains a secret."""

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        raise RuntimeError(f"cannot connect: {SECRET}")


class LeakingClock:
    def now(self) -> datetime:
        raise KeyError(SECRET)


@pytest.fixture
def logged_requests() -> Iterator[None]:
    """Each line of the log names its call, as that of a process does."""
    before = structlog.get_config()
    structlog.configure(processors=[add_request, *before["processors"]])
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("logged_requests")
async def test_an_unexpected_exception_shows_only_its_request_id(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        open_system(database_url, redis_url, keys_dir, master_key_file, transport=Leaking()) as system,
        open_rig(system) as rig,
    ):
        order = await rig.order()
        async with fails("INTERNAL", grpc.StatusCode.INTERNAL) as caught:
            await rig.shop.submit_order(order, "wx_native")
        assert SECRET not in f"{caught[0]} {caught[0].metadata}"
        request_id = caught[0].metadata["request_id"]
        assert request_id in caught[0].message
        logged = capsys.readouterr()
        assert request_id in logged.out + logged.err
        system.services.context.clock = LeakingClock()
        async with fails("INTERNAL") as caught:
            await rig.order()
        assert SECRET not in f"{caught[0]} {caught[0].metadata}"
        assert caught[0].metadata["request_id"] != request_id
        system.services.context.clock = system.clock


async def test_details_of_bad_fields(rig: Rig) -> None:
    async with rig.bare() as channel:
        metadata = (("authorization", rig.system.secrets["shop:authorization"]),)
        error = await refused(PayOrderServiceStub(channel).CreatePayOrder(order_pb.CreatePayOrderRequest(), metadata=metadata))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert (error.info.reason, error.info.domain) == ("INVALID_FIELD", "paycenter")
        assert set(error.fields) == {"merchant_order_id", "subject", "amount", "user_ip"}
        assert error.status.code == error.code.value[0]
        assert error.status.message == error.text
        assert error.retry is None
        assert error.pushback is None


async def test_details_of_errors_that_may_be_repeated(rig: Rig) -> None:
    order = await rig.order()
    async with rig.bare() as channel:
        request = order_pb.SubmitPayOrderRequest(id=order.id, channel_code="mock", channel_extras={"behaviour": "lost"})
        metadata = (("authorization", rig.system.secrets["shop:authorization"]),)
        error = await refused(PayOrderServiceStub(channel).SubmitPayOrder(request, metadata=metadata))
        assert (error.code, error.info.reason) == (grpc.StatusCode.UNAVAILABLE, "CHANNEL_UNCLEAR")
        assert set(error.info.metadata) == {"channel_code", "request_id"}
        assert error.info.metadata["channel_code"] == "mock"
        assert error.retry is not None
        assert error.retry.retry_delay.seconds == 3
        assert error.pushback == "3000"


def stamps() -> list[Timestamp]:
    return [
        Timestamp(seconds=seconds, nanos=nanos)
        for seconds, nanos in ((2**62, 0), (-(2**62), 0), (253_402_300_800, 0), (-62_135_596_801, 0), (0, -1), (0, 2**30), (0, 0))
    ]


def order_request(**more: Any) -> order_pb.CreatePayOrderRequest:
    expiry = Timestamp()
    expiry.GetCurrentTime()
    expiry.seconds += 3600
    values = {"merchant_order_id": "M", "subject": "s", "amount": 1, "expire_time": expiry, "user_ip": "::1", **more}
    return order_pb.CreatePayOrderRequest(**values)


def junk(rig: Rig) -> list[tuple[Any, Any]]:
    """Every text field that reaches a query, with texts that databases and encodings refuse."""
    orders, refunds, apps, channels, notifications = (
        rig.op.orders,
        rig.op.refunds,
        rig.op.apps,
        rig.op.channels,
        rig.op.notifications,
    )
    credentials, cases = rig.op.credentials, rig.op.cases
    calls: list[tuple[Any, Any]] = []
    for text in TEXTS:
        calls += [
            (orders.CreatePayOrder, order_request(app_key=text)),
            (orders.CreatePayOrder, order_request(app_key="shop", merchant_order_id=text, subject=text, user_id=text, amount=0)),
            (orders.CreatePayOrder, order_request(app_key="shop", user_ip=text, currency=text, return_url=text)),
            (orders.GetPayOrder, order_pb.GetPayOrderRequest(id=text)),
            (orders.GetPayOrder, order_pb.GetPayOrderRequest(app_key="shop", merchant_order_id=text)),
            (orders.GetPayOrder, order_pb.GetPayOrderRequest(app_key=text, merchant_order_id="M")),
            (orders.SubmitPayOrder, order_pb.SubmitPayOrderRequest(id=text, channel_code=text)),
            (orders.ClosePayOrder, order_pb.ClosePayOrderRequest(id=text)),
            (orders.SyncPayOrder, order_pb.SyncPayOrderRequest(id=text)),
            (orders.UpdatePayOrderPrice, order_pb.UpdatePayOrderPriceRequest(id=text, amount=1)),
            (orders.ListPayOrders, order_pb.ListPayOrdersRequest(app_key=text)),
            (orders.ListPayOrders, order_pb.ListPayOrdersRequest(page_token=text)),
            (refunds.CreatePayRefund, refund_pb.CreatePayRefundRequest(
                app_key="shop", merchant_order_id=text, merchant_refund_no=text, amount=1, reason="r")),
            (refunds.GetPayRefund, refund_pb.GetPayRefundRequest(app_key="shop", merchant_refund_no=text)),
            (refunds.GetPayRefund, refund_pb.GetPayRefundRequest(id=text)),
            (refunds.SyncPayRefund, refund_pb.SyncPayRefundRequest(id=text)),
            (refunds.ListPayRefunds, refund_pb.ListPayRefundsRequest(page_token=text)),
            (apps.CreatePayApp, app_pb.CreatePayAppRequest(app_key=text, name=text, order_notification_url=text)),
            (apps.GetPayApp, app_pb.GetPayAppRequest(app_key=text)),
            (apps.DeletePayApp, app_pb.DeletePayAppRequest(app_key=text)),
            (apps.UpdatePayApp, app_pb.UpdatePayAppRequest(app_key=text, remark="r")),
            (credentials.DisableAppCredential, credential_pb.DisableAppCredentialRequest(app_key="shop", key_id=text)),
            (apps.RotateNotificationSecret, app_pb.RotateNotificationSecretRequest(app_key=text)),
            (apps.ListPayApps, app_pb.ListPayAppsRequest(page_token=text)),
            (channels.CreatePayChannel, channel_pb.CreatePayChannelRequest(app_key=text, code="mock")),
            (channels.CreatePayChannel, channel_pb.CreatePayChannelRequest(app_key="shop", code=text)),
            (channels.GetPayChannel, channel_pb.GetPayChannelRequest(id=text)),
            (channels.ListEnabledChannelCodes, channel_pb.ListEnabledChannelCodesRequest(app_key=text)),
            (notifications.GetPayNotification, notifications_pb.GetPayNotificationRequest(id=text)),
            (notifications.ResendPayNotification, notifications_pb.ResendPayNotificationRequest(id=text)),
            (notifications.ListPayNotifications, notifications_pb.ListPayNotificationsRequest(page_token=text)),
            (cases.GetPayCase, case_pb.GetPayCaseRequest(id=text)),
            (cases.DecidePayCase, case_pb.DecidePayCaseRequest(id=text, decision=case_pb.PAY_CASE_DECISION_CLOSE, reason="r")),
            (cases.CommentPayCase, case_pb.CommentPayCaseRequest(id=text, text="t")),
            (cases.AssignPayCase, case_pb.AssignPayCaseRequest(id=text, assignee="a")),
            (cases.ListPayCases, case_pb.ListPayCasesRequest(account_id=text)),
            (cases.ListPayCases, case_pb.ListPayCasesRequest(pay_order_id=text)),
            (cases.ListPayCases, case_pb.ListPayCasesRequest(page_token=text)),
        ]  # fmt: skip
    for stamp in stamps():
        calls.append((orders.CreatePayOrder, order_request(app_key="shop", expire_time=stamp)))
    for bad in stamps()[:-1]:
        calls += [
            (orders.ListPayOrders, order_pb.ListPayOrdersRequest(create_time_from=bad)),
            (orders.ListPayOrders, order_pb.ListPayOrdersRequest(success_time_to=bad)),
            (refunds.ListPayRefunds, refund_pb.ListPayRefundsRequest(create_time_to=bad)),
            (notifications.ListPayNotifications, notifications_pb.ListPayNotificationsRequest(create_time_from=bad)),
            (cases.ListPayCases, case_pb.ListPayCasesRequest(opened_after=bad)),
            (cases.ListPayCases, case_pb.ListPayCasesRequest(opened_before=bad)),
        ]
    for amount in (0, -1, 2**63 - 1, -(2**63)):
        calls.append((orders.CreatePayOrder, order_request(app_key="shop", amount=amount)))
        calls.append((refunds.CreatePayRefund, refund_pb.CreatePayRefundRequest(
            app_key="shop", merchant_order_id="M", merchant_refund_no="R", reason="r", amount=amount)))  # fmt: skip
    numbers: list[Any] = [99, -1, 2**31 - 1]
    for number in numbers:
        calls += [
            (orders.ListPayOrders, order_pb.ListPayOrdersRequest(state=number)),
            (refunds.ListPayRefunds, refund_pb.ListPayRefundsRequest(state=number)),
            (notifications.ListPayNotifications, notifications_pb.ListPayNotificationsRequest(state=number)),
            (notifications.ListPayNotifications, notifications_pb.ListPayNotificationsRequest(type=number)),
            (orders.SubmitPayOrder, order_pb.SubmitPayOrderRequest(id="O", display_mode=number)),
            (apps.UpdatePayApp, app_pb.UpdatePayAppRequest(app_key="shop", surplus_policy=number)),
            (cases.ListPayCases, case_pb.ListPayCasesRequest(kind=number)),
            (cases.ListPayCases, case_pb.ListPayCasesRequest(state=number)),
            (cases.DecidePayCase, case_pb.DecidePayCaseRequest(id="K", decision=number)),
            (apps.UpdatePayApp, app_pb.UpdatePayAppRequest(app_key="shop", notification_success=number)),
        ]
    lists: list[tuple[Any, Any]] = [
        (orders.ListPayOrders, order_pb.ListPayOrdersRequest),
        (refunds.ListPayRefunds, refund_pb.ListPayRefundsRequest),
        (apps.ListPayApps, app_pb.ListPayAppsRequest),
        (channels.ListPayChannels, channel_pb.ListPayChannelsRequest),
        (notifications.ListPayNotifications, notifications_pb.ListPayNotificationsRequest),
        (cases.ListPayCases, case_pb.ListPayCasesRequest),
    ]
    for call, kind in lists:
        calls += [(call, kind(page_size=-1)), (call, kind(page_size=-(2**31))), (call, kind(page_token="A" * 32))]
    calls += [(orders.GetPayOrder, order_pb.GetPayOrderRequest()), (refunds.GetPayRefund, refund_pb.GetPayRefundRequest())]
    return calls


async def test_malformed_input_is_the_caller_s_fault(rig: Rig) -> None:
    wrong = []
    for call, request in junk(rig):
        try:
            await call(request)
        except PayCenterError as error:
            if error.code not in BAD:
                wrong.append(f"{error.code.name} {error.reason} {type(request).__name__} {str(request)[:80]!r}")
        else:
            wrong.append(f"accepted {type(request).__name__} {str(request)[:80]!r}")
    assert wrong == []
    assert await rig.system.value("SELECT count(*) FROM pay_app") == 1


async def test_filters_accept_any_text(rig: Rig) -> None:
    """A filter that matches nothing finds nothing, with any content."""
    await rig.order()
    wrong = []
    for text in TEXTS:
        calls: list[tuple[Any, Any, str]] = [
            (rig.shop.orders.ListPayOrders, order_pb.ListPayOrdersRequest(merchant_order_id=text), "pay_orders"),
            (rig.shop.orders.ListPayOrders, order_pb.ListPayOrdersRequest(channel_code=text), "pay_orders"),
            (rig.shop.orders.ListPayOrders, order_pb.ListPayOrdersRequest(channel_order_no=text), "pay_orders"),
            (rig.shop.orders.ListPayOrders, order_pb.ListPayOrdersRequest(out_trade_no=text), "pay_orders"),
            (rig.shop.refunds.ListPayRefunds, refund_pb.ListPayRefundsRequest(merchant_refund_no=text), "pay_refunds"),
            (rig.shop.refunds.ListPayRefunds, refund_pb.ListPayRefundsRequest(channel_refund_no=text), "pay_refunds"),
            (
                rig.shop.notifications.ListPayNotifications,
                notifications_pb.ListPayNotificationsRequest(data_id=text),
                "pay_notifications",
            ),
            (
                rig.shop.notifications.ListPayNotifications,
                notifications_pb.ListPayNotificationsRequest(merchant_order_id=text),
                "pay_notifications",
            ),
            (rig.op.apps.ListPayApps, app_pb.ListPayAppsRequest(name=text), "pay_apps"),
            (rig.op.channels.ListPayChannels, channel_pb.ListPayChannelsRequest(app_key=text), "pay_channels"),
        ]
        for call, request, field in calls:
            try:
                if len(getattr(await call(request), field)):
                    wrong.append(f"found {type(request).__name__} {text[:9]!r}")
            except PayCenterError as error:
                if error.code is not grpc.StatusCode.INVALID_ARGUMENT:
                    wrong.append(f"{error.code.name} {error.reason} {type(request).__name__} {str(request)[:60]!r}")
    assert wrong == []
    assert len((await rig.shop.orders.ListPayOrders(order_pb.ListPayOrdersRequest(page_size=2**31 - 1))).pay_orders) == 1


async def test_invalid_values_in_a_submit(rig: Rig) -> None:
    order = await rig.order()
    for request in (
        order_pb.SubmitPayOrderRequest(id=order.id, channel_code="a\0b"),
        order_pb.SubmitPayOrderRequest(id=order.id, channel_code="\U0001f600" * 5000),
        order_pb.SubmitPayOrderRequest(id=order.id, channel_code="mock", channel_extras={"a\0": "b"}),
        order_pb.SubmitPayOrderRequest(id=order.id, channel_code="mock", channel_extras={"\0" * 9: "b\0"}),
        order_pb.SubmitPayOrderRequest(
            id=order.id, channel_code="mock", channel_extras={"\U0001f600" * 100 + str(n): "\0" for n in range(99)}
        ),
        order_pb.SubmitPayOrderRequest(id=order.id, channel_code="mock", user_ip="1.2.3.4.5", return_url="javascript:1"),
    ):
        with pytest.raises(PayCenterError) as caught:
            await rig.shop.orders.SubmitPayOrder(request)
        assert caught.value.code in BAD, repr(caught.value)
        assert caught.value.reason, "the error must keep its reason on the wire"
    assert await rig.system.value("SELECT count(*) FROM pay_attempt") == 0


@pytest.mark.parametrize("known", [True, False], ids=["refused field", "no credential"])
async def test_what_a_failed_call_has_sent_is_not_kept(rig: Rig, known: bool) -> None:
    """gRPC keeps the exception that ends a call, with the frames that raised it, until the garbage collector finds them."""
    number = (await rig.order()).id
    message = order_pb.SubmitPayOrderRequest(id=number, channel_code="mock", channel_extras={f"{n:05}": "x" for n in range(10_000)})
    raw = message.SerializeToString()
    del message
    metadata = (("authorization", rig.system.secrets["shop:authorization"]),) if known else ()

    def kept() -> list[str]:
        objects = gc.get_objects()
        calls = [
            one for one in objects if isinstance(one, types.FrameType) and one.f_code.co_qualname == "Calls.wrap.<locals>.call"
        ]
        return [f"frame {len(one.f_locals['raw'])}" for one in calls if one.f_locals["raw"]] + [
            "message" for one in objects if isinstance(one, order_pb.SubmitPayOrderRequest) and one.channel_extras
        ]

    gc.collect()
    gc.disable()
    try:
        async with rig.bare() as channel:
            call = raw_call(channel, "/paycenter.v1.PayOrderService/SubmitPayOrder")
            for _ in range(5):
                error = await refused(call(raw, metadata=metadata))
                assert error.info.reason == ("INVALID_FIELD" if known else "CREDENTIALS_MISSING")
            await eventually(lambda: not kept())
    finally:
        gc.enable()


async def test_thousands_of_extras_are_one_violation(rig: Rig) -> None:
    """A message may hold 30,000. To name each one of them took 30 ms of the event loop."""
    order, extras = await rig.order(), {f"\n{n:05}": "" for n in range(20_000)}
    violations = []
    calls: tuple[tuple[Any, Any], ...] = (
        (rig.shop.orders.SubmitPayOrder, order_pb.SubmitPayOrderRequest(id=order.id, channel_code="mock", channel_extras=extras)),
        (rig.shop.orders.CreateCashierLink, order_pb.CreateCashierLinkRequest(id=order.id, channel_extras=extras)),
    )
    for call, request in calls:
        async with fails("INVALID_FIELD") as caught:
            await call(request)
        violations.append([(one.field, one.description) for one in caught[0].violations])
    assert violations == [[("channel_extras", "has 20000 entries; the most is 16")]] * 2


async def test_a_message_that_is_too_large_or_no_message(rig: Rig) -> None:
    with pytest.raises(PayCenterError) as caught:
        await rig.order(body="x" * (2 << 20))
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    async with rig.bare() as channel:
        raw = raw_call(channel, "/paycenter.v1.PayOrderService/GetPayOrder")
        metadata = (("authorization", rig.system.secrets["shop:authorization"]),)
        # Not protobuf, a field cut off, a text that is not UTF-8.
        for body in (b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"):
            error = await refused(raw(body, metadata=metadata))
            assert (error.code, error.info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), body
            assert "Error" not in error.text
        error = await refused(raw(b"\xff\xff\xff"))
        assert error.info.reason == "CREDENTIALS_MISSING"
    assert (await rig.order()).id


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "app_key": st.sampled_from(["", "shop", "x", "\0"]) | st.text(max_size=5),
        "merchant_order_id": st.text(max_size=70),
        "subject": st.text(max_size=40),
        "body": st.text(max_size=140),
        "amount": st.integers(-(2**63), 2**63 - 1),
        "currency": st.sampled_from(["CNY", "USD", "cny"]) | st.text(max_size=4),
        "expire_time": st.builds(Timestamp, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-(2**31), 2**31 - 1)),
        "user_ip": st.ip_addresses().map(str) | st.text(max_size=10),
        "user_id": st.text(max_size=70),
        "return_url": st.text(max_size=40) | st.text(max_size=20).map(lambda text: f"https://a/{text}"),
    },
)


async def test_no_field_of_an_order_is_the_server_s_fault(rig: Rig) -> None:
    loop = asyncio.get_running_loop()
    codes: set[grpc.StatusCode | None] = set()

    async def create(values: dict[str, Any]) -> grpc.StatusCode | None:
        try:
            await rig.shop.orders.CreatePayOrder(order_request(**values))
        except PayCenterError as error:
            return error.code
        return None

    @settings(max_examples=150, database=None)
    @given(FIELDS)
    def check(values: dict[str, Any]) -> None:
        code = asyncio.run_coroutine_threadsafe(create(values), loop).result(10)
        codes.add(code)
        expected = {None, *BAD, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.PERMISSION_DENIED}
        assert code in expected, code

    failures: list[BaseException] = []

    def run() -> None:
        try:
            check()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    await eventually(lambda: not thread.is_alive(), 100)
    if failures:
        raise failures[0]
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
