"""Approvals: acts of operators that wait for a second operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from paycenter_server.domain.apps import PayApp
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import APPROVAL, ApprovalEvent, ApprovalState, created

LIFE = timedelta(hours=24)
"""How long an act waits. Afterwards it has to be requested again."""


class ApprovalKind(StrEnum):
    """What waits. REFUND: a refund. ACCOUNT: other keys, or another switch, of an account. CHANNEL: another account of a channel,
    or other keys of its account. NEW_CHANNEL: a channel of an app that asks for it. APP: the loss of a protection of an app."""

    REFUND = "REFUND"
    ACCOUNT = "ACCOUNT"
    CHANNEL = "CHANNEL"
    NEW_CHANNEL = "NEW_CHANNEL"
    APP = "APP"


METHODS: Mapping[ApprovalKind, str] = {
    ApprovalKind.REFUND: "PayRefundService/CreatePayRefund",
    ApprovalKind.ACCOUNT: "PayAccountService/UpdatePayAccount",
    ApprovalKind.CHANNEL: "PayChannelService/UpdatePayChannel",
    ApprovalKind.NEW_CHANNEL: "PayChannelService/CreatePayChannel",
    ApprovalKind.APP: "PayAppService/UpdatePayApp",
}
"""The method of each kind. Who approves it must be allowed to call it."""


@dataclass(frozen=True, slots=True)
class PayApproval:
    """An act that waits, or waited, for a second operator.

    `object`: the number of the order, account or channel, or the key of the app. `request`: the values of the call, its secrets
    sealed; empty once it is decided. `content`: a MAC of the values, by which a repeated call finds its approval; None once it is
    decided. `shown`: what would change, without secrets, as {"before": …, "after": …}. `decided_by` and `reason`: of the second
    operator.
    """

    id: UUID
    kind: ApprovalKind
    state: ApprovalState
    app_id: UUID | None
    app_key: str | None
    object: str
    request: Mapping[str, Any] = field(repr=False)
    content: bytes | None = field(repr=False)
    shown: Mapping[str, Any]
    amount: int | None
    currency: str | None
    requested_by: str
    decided_by: str
    reason: str
    expire_time: datetime
    decide_time: datetime | None
    create_time: datetime
    update_time: datetime

    @property
    def number(self) -> str:
        """The id in its printed form."""
        return encode(Prefix.APPROVAL, self.id)

    @property
    def method(self) -> str:
        """The method of the act."""
        return METHODS[self.kind]


def new_approval(
    key: UUID,
    now: datetime,
    kind: ApprovalKind,
    *,
    app_id: UUID | None,
    app_key: str | None,
    about: str,
    request: Mapping[str, Any],
    content: bytes,
    shown: Mapping[str, Any],
    amount: int | None,
    currency: str | None,
    requested_by: str,
) -> PayApproval:
    """Build an approval that waits."""
    return PayApproval(
        id=key, kind=kind, state=created(APPROVAL, ApprovalEvent.REQUEST), app_id=app_id, app_key=app_key, object=about,
        request=dict(request), content=content, shown=dict(shown), amount=amount, currency=currency, requested_by=requested_by,
        decided_by="", reason="", expire_time=now + LIFE, decide_time=None, create_time=now, update_time=now,
    )  # fmt: skip


def refund_needs_second(limit: int | None, refunded: int, reserved: int) -> bool:
    """Whether a refund by an operator needs a second one. `refunded`, `reserved`: of its order, with this refund.

    All refunds of the order count together, so that several small ones do not pass the limit. None and 0 limit nothing.
    """
    return bool(limit) and refunded + reserved >= (limit or 0)


def loosened(before: PayApp, changes: Mapping[str, Any]) -> bool:
    """Whether changes of an app take away what needs a second operator: a higher limit or none, or the end of `channel_approval`.

    Otherwise one operator could remove the limit, and then do alone what it is there for.
    """
    for name in ("case_decision_limit", "refund_approval_limit"):
        limit, wanted = getattr(before, name), changes.get(name, getattr(before, name))
        if limit is not None and (wanted is None or wanted > limit):
            return True
    return before.channel_approval and not changes.get("channel_approval", True)
