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
    """The reason of a case."""

    LATE_PAYMENT = "LATE_PAYMENT"
    DUPLICATE_PAYMENT = "DUPLICATE_PAYMENT"
    WRONG_AMOUNT = "WRONG_AMOUNT"
    UNKNOWN_ORDER = "UNKNOWN_ORDER"
    STALE_ATTEMPT = "STALE_ATTEMPT"
    STALE_REFUND = "STALE_REFUND"
    REFUND_MISMATCH = "REFUND_MISMATCH"
    NOTIFICATION_GIVEN_UP = "NOTIFICATION_GIVEN_UP"


@dataclass(frozen=True, slots=True)
class PayCase:
    """Money that needs a decision of an operator. `occurrence`: the number of earlier cases of this kind and reference."""

    id: UUID
    kind: CaseKind
    state: CaseState
    app_id: UUID | None
    channel_id: UUID | None
    order_id: UUID | None
    attempt_id: UUID | None
    refund_id: UUID | None
    reference: str
    occurrence: int
    amount: int | None
    currency: str | None
    detail: Mapping[str, Any]
    create_time: datetime
    update_time: datetime

    @property
    def number(self) -> str:
        """The id in its printed form."""
        return encode(Prefix.CASE, self.id)


def new_case(
    key: UUID,
    now: datetime,
    kind: CaseKind,
    reference: str,
    *,
    event: CaseEvent = CaseEvent.CREATE,
    app_id: UUID | None = None,
    channel_id: UUID | None = None,
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
        channel_id=channel_id,
        order_id=order_id,
        attempt_id=attempt_id,
        refund_id=refund_id,
        reference=reference[:255],
        occurrence=0,
        amount=amount,
        currency=currency[:8] if currency is not None else None,
        detail=dict(detail or {}),
        create_time=now,
        update_time=now,
    )
