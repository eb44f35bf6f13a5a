"""Which method of the table of roles (`domain/roles.py`) each page and each form is, by the HTTP method and the path of its route.

Empty: every operator may, also one who has to change the password first. A route that is not here is refused for everyone.
"""

from __future__ import annotations

from collections.abc import Mapping

_ORDER, _REFUND, _CASE = "PayOrderService/", "PayRefundService/", "PayCaseService/"
_NOTIFICATION, _APP, _CREDENTIAL = "PayNotificationService/", "PayAppService/", "PayCredentialService/"
_ACCOUNT, _CHANNEL = "PayAccountService/", "PayChannelService/"
_APPROVAL = "PayApprovalService/"
_OPERATOR, _AUDIT = "PayOperatorService/", "PayAuditService/"

METHODS: Mapping[str, str] = {
    "GET /login": "",
    "POST /login": "",
    "POST /logout": "",
    "POST /preferences": "",
    "GET /password": "",
    "POST /password": "",
    "GET /me": f"{_OPERATOR}ListOwnSessions",
    "POST /me/sessions/revoke": f"{_OPERATOR}RevokeOwnSession",
    "POST /me/totp": f"{_OPERATOR}ChangeOwnTotp",
    "POST /me/totp/confirm": f"{_OPERATOR}ChangeOwnTotp",
    "POST /me/totp/remove": f"{_OPERATOR}ChangeOwnTotp",
    "POST /me/keys": f"{_OPERATOR}CreateOwnCredential",
    "POST /me/keys/disable": f"{_OPERATOR}DisableOwnCredential",
    "GET /operators": f"{_OPERATOR}ListPayOperators",
    "POST /operators": f"{_OPERATOR}CreatePayOperator",
    "GET /operators/keys": f"{_CREDENTIAL}ListOperatorCredentials",
    "POST /operators/keys/disable": f"{_CREDENTIAL}DisableOperatorCredential",
    "GET /operators/{number}": f"{_OPERATOR}ListPayOperators",
    "POST /operators/{number}/edit": f"{_OPERATOR}UpdatePayOperator",
    "POST /operators/{number}/password": f"{_OPERATOR}ResetPassword",
    "POST /operators/{number}/unlock": f"{_OPERATOR}UnlockPayOperator",
    "POST /operators/{number}/revoke": f"{_OPERATOR}RevokeSession",
    "GET /audit": f"{_AUDIT}ListAuditEntries",
    "GET /audit/verify": f"{_AUDIT}ListAuditEntries",
    "GET /audit/{number}": f"{_AUDIT}ListAuditEntries",
    "GET /": "Console/ShowOverview",
    "GET /overview/figures": "Console/ShowOverview",
    "GET /search": "Console/Search",
    "GET /search/live": "Console/Search",
    "GET /health": "Console/ShowHealth",
    "POST /views": "Console/SaveView",
    "POST /views/delete": "Console/SaveView",
    "GET /orders/export": "Console/ExportOrders",
    "POST /orders/export": "Console/ExportOrders",
    "GET /refunds/export": "Console/ExportRefunds",
    "POST /refunds/export": "Console/ExportRefunds",
    "GET /orders": f"{_ORDER}ListPayOrders",
    "GET /orders/{number}": f"{_ORDER}GetPayOrderTimeline",
    "GET /orders/{number}/timeline": f"{_ORDER}GetPayOrderTimeline",
    "POST /orders/{number}/cashier": f"{_ORDER}CreateCashierLink",
    "POST /orders/{number}/refund": f"{_REFUND}CreatePayRefund",
    "POST /orders/{number}/sync": f"{_ORDER}SyncPayOrder",
    "POST /orders/{number}/close": f"{_ORDER}ClosePayOrder",
    "POST /orders/{number}/resend": f"{_NOTIFICATION}ResendPayNotification",
    "GET /refunds": f"{_REFUND}ListPayRefunds",
    "GET /refunds/{number}": f"{_REFUND}GetPayRefund",
    "POST /refunds/{number}/again": f"{_REFUND}CreatePayRefund",
    "POST /refunds/{number}/sync": f"{_REFUND}SyncPayRefund",
    "GET /notifications": f"{_NOTIFICATION}ListPayNotifications",
    "GET /notifications/resend": f"{_NOTIFICATION}ListPayNotifications",
    "POST /notifications/resend": f"{_NOTIFICATION}ResendPayNotifications",
    "GET /notifications/{number}": f"{_NOTIFICATION}GetPayNotification",
    "POST /notifications/{number}/resend": f"{_NOTIFICATION}ResendPayNotification",
    "POST /notifications/{number}/now": f"{_NOTIFICATION}SendPayNotificationNow",
    "GET /cases": f"{_CASE}ListPayCases",
    "GET /cases/{number}": f"{_CASE}GetPayCase",
    "POST /cases/{number}/decide": f"{_CASE}DecidePayCase",
    "POST /cases/{number}/comment": f"{_CASE}CommentPayCase",
    "POST /cases/{number}/assign": f"{_CASE}AssignPayCase",
    "GET /approvals": f"{_APPROVAL}ListPayApprovals",
    "GET /approvals/{number}": f"{_APPROVAL}GetPayApproval",
    "POST /approvals/{number}/approve": f"{_APPROVAL}ApprovePayApproval",
    "POST /approvals/{number}/refuse": f"{_APPROVAL}RefusePayApproval",
    "GET /apps": f"{_APP}ListPayApps",
    "GET /apps/new": f"{_APP}CreatePayApp",
    "POST /apps/new": f"{_APP}CreatePayApp",
    "GET /apps/{key}": f"{_APP}GetPayApp",
    "POST /apps/{key}/edit": f"{_APP}UpdatePayApp",
    "POST /apps/{key}/secret": f"{_APP}RotateNotificationSecret",
    "POST /apps/{key}/credentials": f"{_CREDENTIAL}CreateAppCredential",
    "POST /apps/{key}/credentials/disable": f"{_CREDENTIAL}DisableAppCredential",
    "POST /apps/{key}/test": f"{_APP}UpdatePayApp",
    "POST /apps/{key}/delete": f"{_APP}DeletePayApp",
    "GET /accounts": f"{_ACCOUNT}ListPayAccounts",
    "GET /accounts/new": f"{_ACCOUNT}CreatePayAccount",
    "POST /accounts/new": f"{_ACCOUNT}CreatePayAccount",
    "GET /accounts/{number}": f"{_ACCOUNT}GetPayAccount",
    "POST /accounts/{number}/edit": f"{_ACCOUNT}UpdatePayAccount",
    "POST /accounts/{number}/keys": f"{_ACCOUNT}UpdatePayAccount",
    "POST /accounts/{number}/delete": f"{_ACCOUNT}DeletePayAccount",
    "GET /apps/{key}/channels/{code}": f"{_CHANNEL}GetPayChannel",
    "POST /apps/{key}/channels/{code}": f"{_CHANNEL}CreatePayChannel",
    "GET /channels/{number}": f"{_CHANNEL}GetPayChannel",
    "POST /channels/{number}/edit": f"{_CHANNEL}UpdatePayChannel",
    "POST /channels/{number}/account": f"{_CHANNEL}UpdatePayChannel",
    "POST /channels/{number}/test": f"{_CHANNEL}UpdatePayChannel",
    "POST /channels/{number}/delete": f"{_CHANNEL}DeletePayChannel",
}


def method_of(http_method: str, path: str) -> str | None:
    """The method of a route; None if the table has not got it."""
    return METHODS.get(f"{'GET' if http_method == 'HEAD' else http_method} {path}")
