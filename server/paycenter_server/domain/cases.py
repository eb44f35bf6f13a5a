"""Cases: money that needs a decision of an operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import CASE, CaseEvent, CaseState, created


class CaseKind(StrEnum):
    """The reason of a case.

    REFUND_MISMATCH: a refund whose number, amount or state contradicts ours. REFUND_ELSEWHERE: a refund that was made in the
    channel's console.
    """

    LATE_PAYMENT = "LATE_PAYMENT"
    DUPLICATE_PAYMENT = "DUPLICATE_PAYMENT"
    WRONG_AMOUNT = "WRONG_AMOUNT"
    WRONG_CURRENCY = "WRONG_CURRENCY"
    UNKNOWN_ORDER = "UNKNOWN_ORDER"
    REFUND_MISMATCH = "REFUND_MISMATCH"
    REFUND_ELSEWHERE = "REFUND_ELSEWHERE"
    STALE_ATTEMPT = "STALE_ATTEMPT"
    STALE_REFUND = "STALE_REFUND"
    NOTIFICATION_GIVEN_UP = "NOTIFICATION_GIVEN_UP"
    BOOKS_DIFFER = "BOOKS_DIFFER"


class Decision(StrEnum):
    """What an operator decides. RETRY: do again what the case is about."""

    REFUND = "REFUND"
    ACCEPT = "ACCEPT"
    CLOSE = "CLOSE"
    RETRY = "RETRY"


_D = Decision
_SURPLUS = (_D.REFUND, _D.ACCEPT, _D.CLOSE, _D.RETRY)
DECISIONS: Mapping[CaseKind, tuple[Decision, ...]] = {
    CaseKind.LATE_PAYMENT: _SURPLUS,
    CaseKind.DUPLICATE_PAYMENT: _SURPLUS,
    CaseKind.WRONG_AMOUNT: _SURPLUS,
    # Not REFUND: PayCenter sends refunds in the currency of the attempt only.
    CaseKind.WRONG_CURRENCY: (_D.ACCEPT, _D.CLOSE),
    # There is no attempt through which it could be refunded.
    CaseKind.UNKNOWN_ORDER: (_D.CLOSE,),
    # ACCEPT: a refund that is SUCCESS here did not go back, as the channel says. Of other contradictions only CLOSE.
    CaseKind.REFUND_MISMATCH: (_D.ACCEPT, _D.CLOSE),
    CaseKind.REFUND_ELSEWHERE: (_D.CLOSE,),
    CaseKind.STALE_ATTEMPT: (_D.RETRY, _D.CLOSE),
    # ACCEPT: it went back. CLOSE: it did not. Who knows neither decides RETRY.
    CaseKind.STALE_REFUND: (_D.RETRY, _D.ACCEPT, _D.CLOSE),
    CaseKind.NOTIFICATION_GIVEN_UP: (_D.RETRY, _D.CLOSE),
    CaseKind.BOOKS_DIFFER: (_D.RETRY, _D.CLOSE),
}
"""The decisions that make sense for each kind, while a case is OPEN."""

SURPLUS = (CaseKind.LATE_PAYMENT, CaseKind.DUPLICATE_PAYMENT, CaseKind.WRONG_AMOUNT, CaseKind.WRONG_CURRENCY)
"""The kinds that are about a payment which its order cannot take."""
DID_NOT_GO_BACK = "did_not_go_back"
"""The name in the detail of a REFUND_MISMATCH case that takes ACCEPT."""
CONFLICTS = (CaseKind.REFUND_MISMATCH, CaseKind.REFUND_ELSEWHERE)
"""The kinds that say that money of a payment may be with the payer already. An open one stops another refund."""


@dataclass(frozen=True, slots=True)
class PayCase:
    """Money that needs a decision of an operator. `occurrence`: the number of earlier cases of this kind and reference.

    `amount` in minor units, None if it is not known. `version` counts the changes that are notified.

    `decision` is the last one that was carried out, `decided_by` the name of its operator; it is empty if a policy of the app
    decided. `proposed_decision` waits for a second operator. `stale_time`: since then its refund has not been decided for a day.
    `resolve_time` is None as long as it is not RESOLVED.
    """

    id: UUID
    kind: CaseKind
    state: CaseState
    app_id: UUID | None
    app_key: str | None
    channel_id: UUID | None
    account_id: UUID | None
    order_id: UUID | None
    attempt_id: UUID | None
    refund_id: UUID | None
    reference: str
    occurrence: int
    amount: int | None
    currency: str | None
    detail: Mapping[str, Any]
    version: int
    assignee: str
    decision: str
    decision_reason: str
    decided_by: str
    proposed_decision: str
    proposed_reason: str
    proposed_by: str
    proposed_time: datetime | None
    stale_time: datetime | None
    resolve_time: datetime | None
    create_time: datetime
    update_time: datetime

    @property
    def number(self) -> str:
        """The id in its printed form."""
        return encode(Prefix.CASE, self.id)

    @property
    def possible(self) -> tuple[Decision, ...]:
        """The decisions that are possible now. The refund of a REFUNDING case is decided by its channel, unless it is stale."""
        if self.state is CaseState.REFUNDING and self.stale_time is not None:
            return (Decision.RETRY, Decision.CLOSE)
        if self.state is not CaseState.OPEN:
            return ()
        not_possible = set()
        if self.kind in SURPLUS and self.refund_id is None:
            not_possible.add(Decision.RETRY)
        if self.kind is CaseKind.REFUND_MISMATCH and not self.did_not_go_back:
            not_possible.add(Decision.ACCEPT)
        return tuple(item for item in DECISIONS[self.kind] if item not in not_possible)

    @property
    def did_not_go_back(self) -> bool:
        """Whether it says that a refund of an order, which is SUCCESS here, did not go back."""
        return self.detail.get(DID_NOT_GO_BACK) is True

    @property
    def resolution(self) -> str:
        """What became of it, in words; empty if it is not resolved."""
        if self.state is not CaseState.RESOLVED:
            return ""
        if self.decision == Decision.ACCEPT:
            if self.kind is CaseKind.STALE_REFUND:
                return "booked as refunded"
            if self.kind is CaseKind.REFUND_MISMATCH:
                return "booked as not refunded"
            return "booked as paid" if self.kind is CaseKind.LATE_PAYMENT else "kept without booking"
        if self.decision == Decision.CLOSE:
            return "closed by an operator"
        return "refunded" if self.kind in SURPLUS else "settled"

    def needs_reason(self, decision: Decision) -> bool:
        """Whether a decision about it needs a reason: it says what happened outside."""
        about_refund = self.kind in (CaseKind.STALE_REFUND, CaseKind.REFUND_MISMATCH)
        return decision is Decision.CLOSE or (about_refund and decision is Decision.ACCEPT)


def needs_second_operator(case: PayCase, limit: int | None) -> bool:
    """Whether a decision needs a second operator. `limit`: that of the case's app in minor units; None if it has none.

    An amount that is not known, or is in another currency, counts as above the limit.
    """
    if limit is None:
        return False
    return case.amount is None or case.kind is CaseKind.WRONG_CURRENCY or case.amount > limit


def new_case(
    key: UUID,
    now: datetime,
    kind: CaseKind,
    reference: str,
    *,
    event: CaseEvent = CaseEvent.CREATE,
    app_id: UUID | None = None,
    app_key: str | None = None,
    channel_id: UUID | None = None,
    account_id: UUID | None = None,
    order_id: UUID | None = None,
    attempt_id: UUID | None = None,
    refund_id: UUID | None = None,
    amount: int | None = None,
    currency: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> PayCase:
    """Build a case. There is one unresolved case per kind and `reference`, of which at most 255 characters are stored."""
    return PayCase(
        id=key,
        kind=kind,
        state=created(CASE, event),
        app_id=app_id,
        app_key=app_key,
        channel_id=channel_id,
        account_id=account_id,
        order_id=order_id,
        attempt_id=attempt_id,
        refund_id=refund_id,
        reference=reference[:255],
        occurrence=0,
        amount=amount,
        currency=currency[:8] if currency is not None else None,
        detail=dict(detail or {}),
        version=1,
        assignee="",
        decision=Decision.REFUND.value if event is CaseEvent.CREATE_WITH_REFUND else "",
        decision_reason="",
        decided_by="",
        proposed_decision="",
        proposed_reason="",
        proposed_by="",
        proposed_time=None,
        stale_time=None,
        resolve_time=None,
        create_time=now,
        update_time=now,
    )
