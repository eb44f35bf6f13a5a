"""Roles of operators, and the one table of who may call which method.

The names are those of the gRPC methods without the package. The console uses the same names for its actions. A method that is not
in the table is refused for everyone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What an operator may do. VIEWER: read. FINANCE: also refund and decide cases. DEVELOPER: also administer apps, accounts,
    channels, credentials and notifications. ADMIN: everything, also operators and the audit."""

    VIEWER = "viewer"
    FINANCE = "finance"
    DEVELOPER = "developer"
    ADMIN = "admin"

    def covers(self, other: Role) -> bool:
        """Whether this role may do everything that the other may."""
        return self is other or self is Role.ADMIN or other is Role.VIEWER

    def limited_to(self, other: Role | None) -> Role:
        """The larger role that both cover. None limits nothing."""
        if other is None or other.covers(self):
            return self
        return other if self.covers(other) else Role.VIEWER


@dataclass(frozen=True, slots=True)
class Permission:
    """Who may call a method.

    `apps`: apps may. `disabled_apps`: also while they are disabled, because it takes no new payment and changes no order.
    `limited`: operators that are limited to some apps may; the use case then accepts the objects of these apps only. `always`: also
    operators that must change their password first.
    """

    roles: frozenset[Role]
    apps: bool = False
    disabled_apps: bool = False
    limited: bool = True
    always: bool = False


_ALL = frozenset(Role)
_ADMIN = frozenset({Role.ADMIN})
_FINANCE = _ADMIN | {Role.FINANCE}
_DEVELOPER = _ADMIN | {Role.DEVELOPER}
_BOTH = _FINANCE | _DEVELOPER
_READ_SHARED = Permission(_ALL, apps=True, disabled_apps=True)
_READ = Permission(_ALL)
# What concerns more than single apps: operators that are limited to some apps may not call it.
_ADMIN_ONLY = Permission(_ADMIN, limited=False)
_OWN = Permission(_ALL)

PERMISSIONS: Mapping[str, Permission] = {
    "PayOrderService/CreatePayOrder": Permission(_DEVELOPER, apps=True),
    "PayOrderService/SubmitPayOrder": Permission(_DEVELOPER, apps=True),
    "PayOrderService/CreateCashierLink": Permission(_BOTH, apps=True),
    "PayOrderService/GetPayOrder": _READ_SHARED,
    "PayOrderService/ListPayOrders": _READ_SHARED,
    "PayOrderService/GetPayOrderTimeline": _READ_SHARED,
    "PayOrderService/SyncPayOrder": Permission(_BOTH, apps=True, disabled_apps=True),
    "PayOrderService/ClosePayOrder": Permission(_FINANCE, apps=True),
    "PayOrderService/UpdatePayOrderPrice": Permission(_FINANCE, apps=True),
    "PayRefundService/CreatePayRefund": Permission(_FINANCE, apps=True, disabled_apps=True),
    "PayRefundService/GetPayRefund": _READ_SHARED,
    "PayRefundService/ListPayRefunds": _READ_SHARED,
    "PayRefundService/SyncPayRefund": Permission(_BOTH, apps=True, disabled_apps=True),
    "PayCaseService/ListPayCases": _READ,
    "PayCaseService/GetPayCase": _READ,
    "PayCaseService/DecidePayCase": Permission(_FINANCE),
    "PayCaseService/CommentPayCase": Permission(_FINANCE),
    "PayCaseService/AssignPayCase": Permission(_FINANCE),
    "PayApprovalService/ListPayApprovals": _READ,
    "PayApprovalService/GetPayApproval": _READ,
    # The use case asks for the method of the act as well.
    "PayApprovalService/ApprovePayApproval": Permission(_BOTH),
    "PayApprovalService/RefusePayApproval": Permission(_BOTH),
    "PayNotificationService/ListPayNotifications": _READ_SHARED,
    "PayNotificationService/GetPayNotification": _READ_SHARED,
    "PayNotificationService/ResendPayNotification": Permission(_DEVELOPER, apps=True),
    "PayNotificationService/ResendPayNotifications": Permission(_DEVELOPER, apps=True),
    "PayNotificationService/SendPayNotificationNow": Permission(_DEVELOPER, apps=True),
    "PayAppService/CreatePayApp": Permission(_DEVELOPER, limited=False),
    "PayAppService/UpdatePayApp": Permission(_DEVELOPER),
    "PayAppService/DeletePayApp": Permission(_DEVELOPER, limited=False),
    "PayAppService/GetPayApp": _READ_SHARED,
    "PayAppService/ListPayApps": _READ,
    "PayAppService/RotateNotificationSecret": Permission(_DEVELOPER),
    "PayChannelService/CreatePayChannel": Permission(_DEVELOPER),
    "PayChannelService/UpdatePayChannel": Permission(_DEVELOPER),
    "PayChannelService/DeletePayChannel": Permission(_DEVELOPER),
    "PayChannelService/GetPayChannel": _READ,
    "PayChannelService/ListPayChannels": _READ,
    "PayChannelService/ListEnabledChannelCodes": _READ_SHARED,
    "PayAccountService/CreatePayAccount": Permission(_DEVELOPER, limited=False),
    "PayAccountService/UpdatePayAccount": Permission(_DEVELOPER, limited=False),
    "PayAccountService/DeletePayAccount": Permission(_DEVELOPER, limited=False),
    "PayAccountService/GetPayAccount": Permission(_ALL, limited=False),
    "PayAccountService/ListPayAccounts": Permission(_ALL, limited=False),
    "PayCredentialService/CreateAppCredential": Permission(_DEVELOPER),
    "PayCredentialService/ListAppCredentials": Permission(_DEVELOPER),
    "PayCredentialService/DisableAppCredential": Permission(_DEVELOPER),
    "PayCredentialService/ListOperatorCredentials": _ADMIN_ONLY,
    "PayCredentialService/DisableOperatorCredential": _ADMIN_ONLY,
    "PayOperatorService/CreatePayOperator": _ADMIN_ONLY,
    "PayOperatorService/UpdatePayOperator": _ADMIN_ONLY,
    "PayOperatorService/ListPayOperators": _ADMIN_ONLY,
    "PayOperatorService/ResetPassword": _ADMIN_ONLY,
    "PayOperatorService/UnlockPayOperator": _ADMIN_ONLY,
    "PayOperatorService/ListSessions": _ADMIN_ONLY,
    "PayOperatorService/RevokeSession": _ADMIN_ONLY,
    "PayOperatorService/ListOwnSessions": _OWN,
    "PayOperatorService/RevokeOwnSession": _OWN,
    "PayOperatorService/CreateOwnCredential": _OWN,
    "PayOperatorService/ListOwnCredentials": _OWN,
    "PayOperatorService/DisableOwnCredential": _OWN,
    # Actions of the console that are no gRPC methods.
    "PayOperatorService/ChangeOwnPassword": Permission(_ALL, always=True),
    "PayOperatorService/ChangeOwnTotp": _OWN,
    "PayAuditService/ListAuditEntries": _ADMIN_ONLY,
    # Of the console alone. A file leaves the console and its limits, so a reader may not make one.
    "Console/ExportOrders": Permission(_FINANCE),
    "Console/ExportRefunds": Permission(_FINANCE),
    "Console/SaveView": _OWN,
    # They are about all apps.
    "Console/ShowOverview": Permission(_ALL, limited=False),
    "Console/Search": Permission(_ALL, limited=False),
    "Console/ShowHealth": Permission(_ALL, limited=False),
}


def may_call(method: str, role: Role, *, limited: bool, must_change_password: bool = False) -> bool:
    """Whether an operator may call the method. `limited`: the operator is limited to some apps."""
    row = PERMISSIONS.get(method)
    if row is None or role not in row.roles:
        return False
    return (row.limited or not limited) and (row.always or not must_change_password)


def app_may_call(method: str) -> bool:
    """Whether an app may call the method."""
    row = PERMISSIONS.get(method)
    return row is not None and row.apps


def disabled_app_may_call(method: str) -> bool:
    """Whether an app that is disabled may call the method."""
    row = PERMISSIONS.get(method)
    return row is not None and row.apps and row.disabled_apps
