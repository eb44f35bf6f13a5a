"""PayAppService."""

from __future__ import annotations

from typing import Any

from paycenter.v1 import pay_app_service_pb2 as pb
from paycenter.v1 import pay_case_service_pb2 as cases_pb
from paycenter.v1.pay_app_service_pb2_grpc import PayAppServiceServicer

from paycenter_server.domain.apps import NotificationSuccess, PayApp, SurplusPolicy
from paycenter_server.domain.cases import CaseKind
from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.grpc_server.calls import current_caller
from paycenter_server.grpc_server.convert import enum_value, numbers, stamp
from paycenter_server.services.apps import Apps, ListedApp, NewApp
from paycenter_server.services.paging import Pager

_PLAIN: Any = ("name", "enabled", "remark", "order_notification_url", "refund_notification_url")


POLICIES = numbers(pb.SurplusPolicy, "SURPLUS_POLICY", SurplusPolicy)
CASE_KINDS = numbers(cases_pb.PayCaseKind, "PAY_CASE_KIND", CaseKind)
NOTIFICATION_RULES = numbers(pb.NotificationSuccess, "NOTIFICATION_SUCCESS", NotificationSuccess)


def _policies(message: pb.CasePolicies) -> dict[str, str]:
    """The policies by kind. INVALID_FIELD for one without kind or policy, and for a kind that is named twice."""
    found: dict[str, str] = {}
    for number, item in enumerate(message.policies):
        kind = enum_value(CaseKind, f"case_policies.policies[{number}].kind", item.kind, CASE_KINDS)
        policy = enum_value(SurplusPolicy, f"case_policies.policies[{number}].policy", item.policy, POLICIES)
        if kind is None or policy is None or kind.value in found:
            raise invalid([Violation(f"case_policies.policies[{number}]", "needs a policy, and a kind that is not named before")])
        found[kind.value] = policy.value
    return found


def _policies_message(app: PayApp) -> pb.CasePolicies:
    return pb.CasePolicies(
        policies=[
            pb.CasePolicy(
                kind=cases_pb.PayCaseKind.Value(f"PAY_CASE_KIND_{kind}"), policy=pb.SurplusPolicy.Value(f"SURPLUS_POLICY_{policy}")
            )
            for kind, policy in sorted(app.case_policies.items())
        ]
    )


def app_message(listed: ListedApp) -> pb.PayApp:
    """An app, without secrets."""
    app = listed.app
    return pb.PayApp(
        app_key=app.app_key,
        name=app.name,
        enabled=app.enabled,
        remark=app.remark,
        order_notification_url=app.order_notification_url,
        refund_notification_url=app.refund_notification_url,
        surplus_policy=pb.SurplusPolicy.Value(f"SURPLUS_POLICY_{app.surplus_policy.value}"),
        notification_success=pb.NotificationSuccess.Value(f"NOTIFICATION_SUCCESS_{app.notification_success.value}"),
        channel_codes=listed.channel_codes,
        create_time=stamp(app.create_time),
        update_time=stamp(app.update_time),
        case_policies=_policies_message(app),
        case_decision_limit=app.case_decision_limit,
        refund_approval_limit=app.refund_approval_limit or 0,
        channel_approval=app.channel_approval,
    )


class AppServicer(PayAppServiceServicer):
    """Converts messages, and calls the use cases for apps."""

    def __init__(self, apps: Apps) -> None:
        self._apps = apps

    async def CreatePayApp(self, request: pb.CreatePayAppRequest, context: Any) -> pb.CreatePayAppResponse:
        """See the proto."""
        new = NewApp(
            app_key=request.app_key,
            name=request.name,
            remark=request.remark,
            order_notification_url=request.order_notification_url,
            refund_notification_url=request.refund_notification_url,
            surplus_policy=enum_value(SurplusPolicy, "surplus_policy", request.surplus_policy, POLICIES) or SurplusPolicy.REFUND,
            notification_success=enum_value(
                NotificationSuccess, "notification_success", request.notification_success, NOTIFICATION_RULES
            )
            or NotificationSuccess.HTTP_2XX,
            case_policies=_policies(request.case_policies),
            case_decision_limit=request.case_decision_limit if request.HasField("case_decision_limit") else None,
            refund_approval_limit=request.refund_approval_limit,
            channel_approval=request.channel_approval,
        )
        created = await self._apps.create(current_caller(), new)
        return pb.CreatePayAppResponse(
            pay_app=app_message(ListedApp(created.app, [])),
            notification_secret=created.notification_secret,
            key_id=created.key_id,
            key_secret=created.key_secret,
            warnings=created.warnings,
        )

    async def UpdatePayApp(self, request: pb.UpdatePayAppRequest, context: Any) -> pb.UpdatePayAppResponse:
        """See the proto."""
        changes: dict[str, Any] = {name: getattr(request, name) for name in _PLAIN if request.HasField(name)}
        policy = enum_value(SurplusPolicy, "surplus_policy", request.surplus_policy, POLICIES)
        rule = enum_value(NotificationSuccess, "notification_success", request.notification_success, NOTIFICATION_RULES)
        if policy is not None:
            changes["surplus_policy"] = policy.value
        if rule is not None:
            changes["notification_success"] = rule.value
        if request.HasField("case_policies"):
            changes["case_policies"] = _policies(request.case_policies)
        if request.HasField("case_decision_limit"):
            changes["case_decision_limit"] = None if request.case_decision_limit == -1 else request.case_decision_limit
        if request.HasField("refund_approval_limit"):
            changes["refund_approval_limit"] = request.refund_approval_limit
        if request.HasField("channel_approval"):
            changes["channel_approval"] = request.channel_approval
        listed = await self._apps.update(current_caller(), request.app_key, changes)
        return pb.UpdatePayAppResponse(pay_app=app_message(listed), warnings=listed.warnings)

    async def DeletePayApp(self, request: pb.DeletePayAppRequest, context: Any) -> pb.DeletePayAppResponse:
        """See the proto."""
        await self._apps.delete(current_caller(), request.app_key)
        return pb.DeletePayAppResponse()

    async def GetPayApp(self, request: pb.GetPayAppRequest, context: Any) -> pb.GetPayAppResponse:
        """See the proto."""
        return pb.GetPayAppResponse(pay_app=app_message(await self._apps.get(current_caller(), request.app_key)))

    async def ListPayApps(self, request: pb.ListPayAppsRequest, context: Any) -> pb.ListPayAppsResponse:
        """See the proto."""
        enabled = request.enabled if request.HasField("enabled") else None
        pager = Pager(request.page_size, request.page_token)
        page = await self._apps.search(current_caller(), request.name, enabled, pager)
        return pb.ListPayAppsResponse(pay_apps=[app_message(item) for item in page.items], next_page_token=page.next_token)

    async def RotateNotificationSecret(
        self, request: pb.RotateNotificationSecretRequest, context: Any
    ) -> pb.RotateNotificationSecretResponse:
        """See the proto."""
        secret = await self._apps.rotate_notification_secret(current_caller(), request.app_key)
        return pb.RotateNotificationSecretResponse(notification_secret=secret)
