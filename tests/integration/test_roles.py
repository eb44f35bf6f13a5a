"""The table of roles: every method of every service with every role, with an app, and with nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.credentials import CredentialLimits
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.roles import PERMISSIONS, Role, app_may_call, may_call
from paycenter_server.grpc_server.server import _NAMES
from support.grpc_rig import Rig, key_of, open_rig, raw_call, wire
from support.operators import audit_end, audited, key_of_person, person
from support.system import OPERATOR, PayCenterSystem

POOL = descriptor_pool.Default()
METHODS = {f"{name.rpartition('.')[2]}/{method.name}": method for name in _NAMES for method in POOL.FindServiceByName(name).methods}
OF_THE_CONSOLE = {
    "PayOperatorService/ChangeOwnPassword", "PayOperatorService/ChangeOwnTotp", "Console/ShowOverview", "Console/Search",
    "Console/ShowHealth", "Console/ExportOrders", "Console/ExportRefunds", "Console/SaveView",
}  # fmt: skip

# What each role may call beyond reading. Written down here once more, so that a change of the table has to be meant.
FINANCE = {
    "PayOrderService/ClosePayOrder", "PayOrderService/UpdatePayOrderPrice", "PayRefundService/CreatePayRefund",
    "PayCaseService/DecidePayCase", "PayCaseService/CommentPayCase", "PayCaseService/AssignPayCase",
}  # fmt: skip
BOTH = {"PayOrderService/CreateCashierLink", "PayOrderService/SyncPayOrder", "PayRefundService/SyncPayRefund",
    "PayApprovalService/ApprovePayApproval", "PayApprovalService/RefusePayApproval"}  # fmt: skip
DEVELOPER = {
    "PayOrderService/CreatePayOrder", "PayOrderService/SubmitPayOrder", "PayNotificationService/ResendPayNotification",
    "PayNotificationService/ResendPayNotifications", "PayNotificationService/SendPayNotificationNow",
    "PayAppService/CreatePayApp", "PayAppService/UpdatePayApp", "PayAppService/DeletePayApp",
    "PayAppService/RotateNotificationSecret", "PayChannelService/CreatePayChannel", "PayChannelService/UpdatePayChannel",
    "PayChannelService/DeletePayChannel", "PayAccountService/CreatePayAccount", "PayAccountService/UpdatePayAccount",
    "PayAccountService/DeletePayAccount", "PayCredentialService/CreateAppCredential",
    "PayCredentialService/ListAppCredentials", "PayCredentialService/DisableAppCredential",
}  # fmt: skip
ADMIN = {
    "PayCredentialService/ListOperatorCredentials", "PayCredentialService/DisableOperatorCredential",
    "PayOperatorService/CreatePayOperator", "PayOperatorService/UpdatePayOperator", "PayOperatorService/ListPayOperators",
    "PayOperatorService/ResetPassword", "PayOperatorService/UnlockPayOperator", "PayOperatorService/ListSessions",
    "PayOperatorService/RevokeSession",
    "PayAuditService/ListAuditEntries",
}  # fmt: skip
WRITES = FINANCE | BOTH | DEVELOPER | ADMIN
NOT_OF_SINGLE_APPS = ADMIN | {
    "PayAppService/CreatePayApp", "PayAppService/DeletePayApp", "PayAccountService/CreatePayAccount",
    "PayAccountService/UpdatePayAccount", "PayAccountService/DeletePayAccount", "PayAccountService/GetPayAccount",
    "PayAccountService/ListPayAccounts",
}  # fmt: skip
_ORDERS = (
    "CreatePayOrder", "SubmitPayOrder", "CreateCashierLink", "GetPayOrder", "ListPayOrders", "GetPayOrderTimeline", "SyncPayOrder",
    "ClosePayOrder", "UpdatePayOrderPrice",
)  # fmt: skip
_REFUNDS = ("CreatePayRefund", "GetPayRefund", "ListPayRefunds", "SyncPayRefund")
_NOTIFICATIONS = (
    "ListPayNotifications", "GetPayNotification", "ResendPayNotification", "ResendPayNotifications", "SendPayNotificationNow",
)  # fmt: skip
OF_APPS = {
    *(f"PayOrderService/{name}" for name in _ORDERS),
    *(f"PayRefundService/{name}" for name in _REFUNDS),
    *(f"PayNotificationService/{name}" for name in _NOTIFICATIONS),
    "PayAppService/GetPayApp",
    "PayChannelService/ListEnabledChannelCodes",
}


def allowed(role: Role, method: str) -> bool:
    extra = {
        Role.VIEWER: set(),
        Role.FINANCE: FINANCE | BOTH,
        Role.DEVELOPER: DEVELOPER | BOTH,
        Role.ADMIN: WRITES,
    }[role]
    return method not in WRITES or method in extra


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


def test_every_method_is_in_the_table_and_nothing_else() -> None:
    assert METHODS.keys() | OF_THE_CONSOLE == PERMISSIONS.keys()
    for name, method in METHODS.items():
        # Another kind of method would not pass the check of the caller in the interceptor.
        assert not method.client_streaming, name
        assert not method.server_streaming, name


def test_a_method_that_is_not_in_the_table_is_for_nobody() -> None:
    for role in Role:
        assert not may_call("PayOrderService/Nothing", role, limited=False)
    assert not app_may_call("PayOrderService/Nothing")


async def test_a_method_that_is_not_in_the_table_is_refused_at_run_time(system: PayCenterSystem) -> None:
    for caller in (Caller("test", None, ""), system.caller):
        with pytest.raises(PayCenterError) as info:
            await system.services.identity.require(caller, "PayOrderService/Nothing")
        assert info.value.reason == "PERMISSION_DENIED"


@pytest.mark.parametrize("role", list(Role))
def test_the_table_says_what_the_roles_are_for(role: Role) -> None:
    for method in METHODS:
        assert may_call(method, role, limited=False) is allowed(role, method), method
        expected = allowed(role, method) and method not in NOT_OF_SINGLE_APPS
        assert may_call(method, role, limited=True) is expected, method
        assert not may_call(method, role, limited=False, must_change_password=True), method
    assert may_call("PayOperatorService/ChangeOwnPassword", role, limited=True, must_change_password=True)


async def answers(rig: Rig, key: tuple[str, str] | None) -> dict[str, str]:
    """The reason of the error of each method, "" if it succeeds. Every request is empty."""
    import base64

    found: dict[str, str] = {}
    metadata: Any = ()
    if key is not None:
        metadata = (("authorization", "Basic " + base64.b64encode(":".join(key).encode()).decode()),)
    async with rig.bare() as channel:
        for name, method in METHODS.items():
            request = GetMessageClass(method.input_type)()
            try:
                await raw_call(channel, f"/paycenter.v1.{name}")(request.SerializeToString(), metadata=metadata)
                found[name] = ""
            except grpc.aio.AioRpcError as error:
                found[name] = wire(error).info.reason
    return found


async def test_what_a_disabled_app_may_call(rig: Rig) -> None:
    """It reads, syncs and refunds. It takes no payment, and changes no order and no notification."""
    await rig.system.services.apps.update(OPERATOR, "shop", {"enabled": False})
    found = await answers(rig, key_of(rig.system))
    assert {name for name, reason in found.items() if reason == "APP_DISABLED"} == {
        "PayOrderService/CreatePayOrder", "PayOrderService/SubmitPayOrder", "PayOrderService/CreateCashierLink",
        "PayOrderService/ClosePayOrder", "PayOrderService/UpdatePayOrderPrice", "PayNotificationService/ResendPayNotification",
        "PayNotificationService/ResendPayNotifications", "PayNotificationService/SendPayNotificationNow",
    }  # fmt: skip


async def test_every_method_with_every_role(rig: Rig) -> None:
    for role in Role:
        for app_keys in ((), ("shop",)):
            one = await person(rig.system, f"{role.value} {len(app_keys)}", role, app_keys)
            found = await answers(rig, await key_of_person(rig.system, one))
            expected = {name for name in METHODS if not allowed(role, name) or (app_keys and name in NOT_OF_SINGLE_APPS)}
            assert {name for name, reason in found.items() if reason == "PERMISSION_DENIED"} == expected, (role, app_keys)
            assert not set(found.values()) & {"INTERNAL", "CREDENTIALS_INVALID"}


async def test_every_method_with_an_app_and_with_nobody(rig: Rig) -> None:
    from support.grpc_rig import key_of

    found = await answers(rig, key_of(rig.system))
    assert {name for name, reason in found.items() if reason != "PERMISSION_DENIED"} == OF_APPS
    assert set((await answers(rig, None)).values()) == {"CREDENTIALS_MISSING"}
    assert set((await answers(rig, ("op_x", "y"))).values()) == {"CREDENTIALS_INVALID"}


async def test_a_credential_may_do_at_most_what_it_is_limited_to(rig: Rig) -> None:
    one = await person(rig.system, "anne")
    found = await answers(rig, await key_of_person(rig.system, one, CredentialLimits(Role.VIEWER)))
    assert {name for name, reason in found.items() if reason == "PERMISSION_DENIED"} == WRITES
    found = await answers(rig, await key_of_person(rig.system, one, CredentialLimits(None, ("shop",))))
    assert {name for name, reason in found.items() if reason == "PERMISSION_DENIED"} == NOT_OF_SINGLE_APPS


async def test_refused_attempts_are_in_the_audit(rig: Rig) -> None:
    one = await person(rig.system, "anne", Role.VIEWER)
    key_id, secret = await key_of_person(rig.system, one)
    before = await audit_end(rig.system)
    client = rig.client(key_id, secret)
    from paycenter.v1 import pay_app_service_pb2 as pb
    from support.grpc_rig import fails

    async with fails("PERMISSION_DENIED", grpc.StatusCode.PERMISSION_DENIED) as caught:
        await client.apps.DeletePayApp(pb.DeletePayAppRequest(app_key="shop"))
    assert caught[0].message == (
        "The role 'viewer' may not call PayAppService/DeletePayApp; ask an admin for a role that may, or to do it."
    )
    (row,) = await audited(rig.system, before)
    assert (row.actor_kind, row.actor, row.operator, row.act, row.outcome) == (
        "OPERATOR", key_id, "anne", "PayAppService/DeletePayApp", "PERMISSION_DENIED",
    )  # fmt: skip
    assert row.peer.startswith("ipv4:127.0.0.1:")
    assert row.request_id
    await asyncio.gather(client.close())
