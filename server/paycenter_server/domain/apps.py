"""Apps: the services that are connected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from paycenter_server.domain.addresses import endpoint_of
from paycenter_server.domain.cases import DECISIONS, CaseKind, Decision


class SurplusPolicy(StrEnum):
    """What happens to surplus money, which an order cannot take."""

    HOLD = "HOLD"
    REFUND = "REFUND"
    ACCEPT = "ACCEPT"


def possible_policies(kind: CaseKind) -> tuple[SurplusPolicy, ...]:
    """The policies that make sense for a kind. HOLD: a case waits for an operator.

    ACCEPT books the payment, which only an order can take that is closed.
    """
    refunds = (SurplusPolicy.REFUND,) if Decision.REFUND in DECISIONS[kind] else ()
    accepts = (SurplusPolicy.ACCEPT,) if kind is CaseKind.LATE_PAYMENT else ()
    return (SurplusPolicy.HOLD, *refunds, *accepts)


class NotificationSuccess(StrEnum):
    """Which answer confirms a notification."""

    HTTP_2XX = "HTTP_2XX"
    CODE_ZERO = "CODE_ZERO"


# How many replaced secrets still sign: two rotations within the overlap leave every secret of that time valid.
PREVIOUS_SECRETS = 2


def with_previous_secret(
    previous: Sequence[Mapping[str, str]], replaced: str, until: datetime, now: datetime
) -> list[Mapping[str, str]]:
    """The previous secrets after a rotation, newest first: `replaced` (sealed), and of the others the newest that are valid."""
    kept = [{"sealed": replaced, "until": until.isoformat()}]
    kept += [dict(item) for item in previous if datetime.fromisoformat(item["until"]) > now]
    return list(kept[:PREVIOUS_SECRETS])


def valid_previous_secrets(previous: Sequence[Mapping[str, str]], now: datetime) -> list[str]:
    """The sealed previous secrets that still sign."""
    return [item["sealed"] for item in previous if datetime.fromisoformat(item["until"]) > now]


@dataclass(frozen=True, slots=True)
class PayApp:
    """A connected service. The endpoints are those of its URLs.

    `surplus_policy` is the policy for all kinds of cases, `case_policies` has those of single kinds. `case_decision_limit`: a
    decision about a larger amount, in minor units, needs a second operator; None if none does. `refund_approval_limit`: from this
    amount of all refunds of an order, a refund by an operator needs a second one; None if none does.
    `channel_approval`: a new channel, and another account or other keys of one, need a second operator.

    `notification_secrets_previous` has the sealed secrets that were replaced (`sealed`) and when they end (`until`), newest first.
    """

    id: UUID
    app_key: str
    name: str
    enabled: bool
    remark: str
    order_notification_url: str
    refund_notification_url: str
    order_notification_endpoint: str
    refund_notification_endpoint: str
    surplus_policy: SurplusPolicy
    case_policies: Mapping[str, str]
    case_decision_limit: int | None
    refund_approval_limit: int | None
    channel_approval: bool
    notification_success: NotificationSuccess
    notification_secret: str = field(repr=False)
    notification_secrets_previous: Sequence[Mapping[str, str]] = field(repr=False)
    create_time: datetime
    update_time: datetime

    def policy(self, kind: CaseKind) -> SurplusPolicy:
        """The policy for a kind: its own, or else that of the app. HOLD where that makes no sense for the kind."""
        policy = SurplusPolicy(self.case_policies.get(kind.value, self.surplus_policy))
        return policy if policy in possible_policies(kind) else SurplusPolicy.HOLD


def new_app(
    key: UUID,
    now: datetime,
    *,
    app_key: str,
    name: str,
    remark: str,
    order_notification_url: str,
    refund_notification_url: str,
    surplus_policy: SurplusPolicy,
    case_policies: Mapping[str, str],
    case_decision_limit: int | None,
    refund_approval_limit: int | None,
    channel_approval: bool,
    notification_success: NotificationSuccess,
    notification_secret: str,
) -> PayApp:
    """Build an enabled app. `notification_secret` is a sealed secret."""
    return PayApp(
        id=key,
        app_key=app_key,
        name=name,
        enabled=True,
        remark=remark,
        order_notification_url=order_notification_url,
        refund_notification_url=refund_notification_url,
        order_notification_endpoint=endpoint_of(order_notification_url),
        refund_notification_endpoint=endpoint_of(refund_notification_url),
        surplus_policy=surplus_policy,
        case_policies=dict(case_policies),
        case_decision_limit=case_decision_limit,
        refund_approval_limit=refund_approval_limit,
        channel_approval=channel_approval,
        notification_success=notification_success,
        notification_secret=notification_secret,
        notification_secrets_previous=[],
        create_time=now,
        update_time=now,
    )
