"""An operator that is limited to some apps: the objects of another app are not found, and lists have those of its apps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.message import Message
from paycenter import PayCenterError as WireError
from paycenter.v1 import pay_app_service_pb2 as app_pb
from paycenter.v1 import pay_approval_service_pb2 as approval_pb
from paycenter.v1 import pay_case_service_pb2 as case_pb
from paycenter.v1 import pay_channel_service_pb2 as channel_pb
from paycenter.v1 import pay_credential_service_pb2 as credential_pb
from paycenter.v1 import pay_notification_service_pb2 as notification_pb
from paycenter.v1 import pay_order_service_pb2 as order_pb
from paycenter.v1 import pay_refund_service_pb2 as refund_pb
from paycenter_server.domain.roles import PERMISSIONS, Role
from support.cases import hold, last_case, late
from support.grpc_rig import Rig, fails, key_of, open_rig
from support.operators import key_of_person, person
from support.system import OPERATOR, PayCenterSystem

CREATE_ORDER: dict[str, Any] = {"merchant_order_id": "M1", "subject": "x", "amount": 1, "user_ip": "203.0.113.9"}
REFUND: dict[str, Any] = {"merchant_refund_no": "R1", "amount": 1, "reason": "x"}


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


async def other_app(rig: Rig) -> dict[str, str]:
    """The numbers of objects of the app `shop`, to which the operator is not limited."""
    system = rig.system
    order = await system.paid("mock")
    refund = await system.refund(order, 10)
    await hold(system)
    await late(system)
    return {
        "order": order.number,
        "merchant_order_id": order.merchant_order_id,
        "refund": refund.number,
        "merchant_refund_no": refund.merchant_refund_no,
        "channel": system.channels["mock"],
        "key_id": key_of(system)[0],
        "case": (await last_case(system)).number,
        "notification": await notification(rig),
        "approval": await approval(rig, order.merchant_order_id),
        "account": (
            await rig.op.channels.GetPayChannel(channel_pb.GetPayChannelRequest(id=system.channels["mock"]))
        ).pay_channel.account_id,
    }


async def approval(rig: Rig, merchant_order_id: str) -> str:
    await rig.system.services.apps.update(OPERATOR, "shop", {"refund_approval_limit": 1})
    async with fails("APPROVAL_NEEDED") as caught:
        await rig.op.refunds.CreatePayRefund(
            refund_pb.CreatePayRefundRequest(app_key="shop", merchant_order_id=merchant_order_id, **REFUND)
        )
    return str(caught[0].metadata["pay_approval_id"])


async def notification(rig: Rig) -> str:
    listed = await rig.op.notifications.ListPayNotifications(notification_pb.ListPayNotificationsRequest(app_key="shop"))
    return str(listed.pay_notifications[0].id)


def calls(client: Any, of: dict[str, str]) -> dict[str, tuple[Any, Message, str]]:
    """A call of each method with an object of the other app, and the reason that it must fail with."""
    orders, refunds, notes, apps = client.orders, client.refunds, client.notifications, client.apps
    channels, credentials, cases = client.channels, client.credentials, client.cases
    o, r, n, a = order_pb, refund_pb, notification_pb, app_pb
    order, app = of["order"], "shop"
    return {
        "CreatePayOrder": (orders, o.CreatePayOrderRequest(app_key=app, **CREATE_ORDER), "APP"),
        "SubmitPayOrder": (orders, o.SubmitPayOrderRequest(id=order, channel_code="mock"), "ORDER"),
        "CreateCashierLink": (orders, o.CreateCashierLinkRequest(id=order), "ORDER"),
        "GetPayOrder": (orders, o.GetPayOrderRequest(id=order), "ORDER"),
        "ListPayOrders": (orders, o.ListPayOrdersRequest(app_key=app), "APP"),
        "GetPayOrderTimeline": (orders, o.GetPayOrderTimelineRequest(id=order), "ORDER"),
        "SyncPayOrder": (orders, o.SyncPayOrderRequest(id=order), "ORDER"),
        "ClosePayOrder": (orders, o.ClosePayOrderRequest(id=order), "ORDER"),
        "UpdatePayOrderPrice": (orders, o.UpdatePayOrderPriceRequest(id=order, amount=2), "ORDER"),
        "CreatePayRefund": (
            refunds, r.CreatePayRefundRequest(app_key=app, merchant_order_id=of["merchant_order_id"], **REFUND), "APP",
        ),
        "GetPayRefund": (refunds, r.GetPayRefundRequest(id=of["refund"]), "REFUND"),
        "ListPayRefunds": (refunds, r.ListPayRefundsRequest(app_key=app), "APP"),
        "SyncPayRefund": (refunds, r.SyncPayRefundRequest(id=of["refund"]), "REFUND"),
        "ListPayCases": (cases, case_pb.ListPayCasesRequest(app_key=app), "APP"),
        "GetPayCase": (cases, case_pb.GetPayCaseRequest(id=of["case"]), "CASE"),
        "DecidePayCase": (
            cases, case_pb.DecidePayCaseRequest(id=of["case"], decision=case_pb.PAY_CASE_DECISION_CLOSE, reason="x"), "CASE",
        ),
        "CommentPayCase": (cases, case_pb.CommentPayCaseRequest(id=of["case"], text="x"), "CASE"),
        "AssignPayCase": (cases, case_pb.AssignPayCaseRequest(id=of["case"], assignee="x"), "CASE"),
        "ListPayApprovals": (client.approvals, approval_pb.ListPayApprovalsRequest(app_key=app), "APP"),
        "GetPayApproval": (client.approvals, approval_pb.GetPayApprovalRequest(id=of["approval"]), "APPROVAL"),
        "ApprovePayApproval": (client.approvals, approval_pb.ApprovePayApprovalRequest(id=of["approval"]), "APPROVAL"),
        "RefusePayApproval": (client.approvals, approval_pb.RefusePayApprovalRequest(id=of["approval"], reason="x"), "APPROVAL"),
        "ListPayNotifications": (notes, n.ListPayNotificationsRequest(app_key=app), "APP"),
        "GetPayNotification": (notes, n.GetPayNotificationRequest(id=of["notification"]), "NOTIFICATION"),
        "ResendPayNotification": (notes, n.ResendPayNotificationRequest(id=of["notification"]), "NOTIFICATION"),
        "ResendPayNotifications": (notes, n.ResendPayNotificationsRequest(app_key=app), "APP"),
        "SendPayNotificationNow": (notes, n.SendPayNotificationNowRequest(id=of["notification"]), "NOTIFICATION"),
        "UpdatePayApp": (apps, a.UpdatePayAppRequest(app_key=app, enabled=False), "APP"),
        "GetPayApp": (apps, a.GetPayAppRequest(app_key=app), "APP"),
        "RotateNotificationSecret": (apps, a.RotateNotificationSecretRequest(app_key=app), "APP"),
        "CreatePayChannel": (channels, channel_pb.CreatePayChannelRequest(app_key=app, code="mock"), "APP"),
        "UpdatePayChannel": (channels, channel_pb.UpdatePayChannelRequest(id=of["channel"], enabled=False), "CHANNEL"),
        "DeletePayChannel": (channels, channel_pb.DeletePayChannelRequest(id=of["channel"]), "CHANNEL"),
        "GetPayChannel": (channels, channel_pb.GetPayChannelRequest(id=of["channel"]), "CHANNEL"),
        "ListEnabledChannelCodes": (channels, channel_pb.ListEnabledChannelCodesRequest(app_key=app), "APP"),
        "CreateAppCredential": (credentials, credential_pb.CreateAppCredentialRequest(app_key=app, name="x"), "APP"),
        "ListAppCredentials": (credentials, credential_pb.ListAppCredentialsRequest(app_key=app), "APP"),
        "DisableAppCredential": (
            credentials, credential_pb.DisableAppCredentialRequest(app_key=app, key_id=of["key_id"]), "APP",
        ),
    }  # fmt: skip


# Those name no app and no object.
LISTS = {"ListPayApps", "ListPayChannels"}


async def limited(rig: Rig, *app_keys: str) -> Any:
    one = await person(rig.system, f"limited to {len(app_keys)}", Role.ADMIN, app_keys)
    return rig.client(*await key_of_person(rig.system, one))


async def test_each_method_with_an_object_of_another_app(rig: Rig) -> None:
    of = await other_app(rig)
    await rig.app("books")
    client = await limited(rig, "books")
    made = calls(client, of)
    allowed = {
        name.partition("/")[2]
        for name, row in PERMISSIONS.items()
        if row.limited and not name.startswith(("PayOperatorService/", "Console/"))
    }
    assert made.keys() | LISTS == allowed
    for name, (stub, request, kind) in made.items():
        with pytest.raises(WireError) as info:
            await getattr(stub, name)(request)
        assert info.value.reason == f"{kind}_NOT_FOUND", (name, info.value)
    assert await rig.system.value("SELECT enabled FROM pay_app WHERE app_key = 'shop'")
    assert await rig.system.value("SELECT count(*) FROM pay_order WHERE merchant_order_id = 'M1'") == 0
    await client.close()


async def test_lists_have_what_belongs_to_the_apps(rig: Rig) -> None:
    await other_app(rig)
    for app_key in ("books", "games"):
        opened = await rig.app(app_key)
        await rig.order(opened)
        await opened.close()
    one, both = await limited(rig, "books"), await limited(rig, "books", "games")
    assert {item.app_key for item in (await one.apps.ListPayApps(app_pb.ListPayAppsRequest())).pay_apps} == {"books"}
    assert {item.app_key for item in (await both.apps.ListPayApps(app_pb.ListPayAppsRequest())).pay_apps} == {"books", "games"}
    listed = await both.channels.ListPayChannels(channel_pb.ListPayChannelsRequest())
    assert {item.app_key for item in listed.pay_channels} == {"books", "games"}
    assert not (await both.channels.ListPayChannels(channel_pb.ListPayChannelsRequest(app_key="shop"))).pay_channels
    # The only app is meant if none is named; of several one must be named.
    orders = await one.orders.ListPayOrders(order_pb.ListPayOrdersRequest())
    assert {item.app_key for item in orders.pay_orders} == {"books"}
    for stub, request in (
        (both.orders.ListPayOrders, order_pb.ListPayOrdersRequest()),
        (both.refunds.ListPayRefunds, refund_pb.ListPayRefundsRequest()),
        (both.cases.ListPayCases, case_pb.ListPayCasesRequest()),
        (both.notifications.ListPayNotifications, notification_pb.ListPayNotificationsRequest()),
        (both.notifications.ResendPayNotifications, notification_pb.ResendPayNotificationsRequest()),
    ):
        async with fails("INVALID_FIELD") as caught:
            await stub(request)
        assert "books, games" in caught[0].message
    orders = await both.orders.ListPayOrders(order_pb.ListPayOrdersRequest(app_key="games"))
    assert {item.app_key for item in orders.pay_orders} == {"games"}
    await one.close()
    await both.close()


async def test_an_account_of_another_app_is_not_used_or_changed(rig: Rig) -> None:
    of = await other_app(rig)
    await (await rig.app("books")).close()
    client = await limited(rig, "books")
    own = (await client.channels.ListPayChannels(channel_pb.ListPayChannelsRequest())).pay_channels[0]
    async with fails("ACCOUNT_NOT_FOUND"):
        await client.channels.UpdatePayChannel(channel_pb.UpdatePayChannelRequest(id=own.id, account_id=of["account"]))
    async with fails("ACCOUNT_NOT_FOUND"):
        await client.channels.CreatePayChannel(
            channel_pb.CreatePayChannelRequest(app_key="books", code="wx_native", account_id=await wechat_account(rig))
        )
    await client.channels.UpdatePayChannel(channel_pb.UpdatePayChannelRequest(id=own.id, enabled=False))
    await client.close()


async def wechat_account(rig: Rig) -> str:
    view = await rig.op.channels.GetPayChannel(channel_pb.GetPayChannelRequest(id=rig.system.channels["wx_native"]))
    return str(view.pay_channel.account_id)


async def test_a_limit_whose_app_is_gone_opens_nothing(rig: Rig) -> None:
    await (await rig.app("books")).close()
    client = await limited(rig, "books")
    await rig.op.apps.DeletePayApp(app_pb.DeletePayAppRequest(app_key="books"))
    rig.system.services.identity._credentials._known.clear()
    assert not (await client.apps.ListPayApps(app_pb.ListPayAppsRequest())).pay_apps
    async with fails("APP_NOT_FOUND"):
        await client.orders.ListPayOrders(order_pb.ListPayOrdersRequest())
    await client.close()
