"""The state machines as data.

Each table maps (state, event) to the next state. An event whose state is None creates the row. What is not in a table does not
happen. Storage takes the state that a statement writes from `target` and its `WHERE state = ANY(…)` from `sources`; the diagrams in
ARCHITECTURE.md are generated from the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

_S = TypeVar("_S", bound=StrEnum)
_E = TypeVar("_E", bound=StrEnum)


class OrderState(StrEnum):
    """The state of an order. REFUND: paid, and some or all of it refunded."""

    WAITING = "WAITING"
    SUCCESS = "SUCCESS"
    REFUND = "REFUND"
    CLOSED = "CLOSED"


class OrderEvent(StrEnum):
    """The events of an order. A refund is taken back if it did not go back to the payer after all."""

    CREATE = "create"
    CHANGE_PRICE = "change price"
    PAID = "paid"
    CLOSE = "close"
    REFUNDED = "refunded"
    REFUND_TAKEN_BACK = "refund taken back"
    LAST_REFUND_TAKEN_BACK = "last refund taken back"
    LATE_PAYMENT_ACCEPTED = "late payment accepted"


ORDER: Mapping[tuple[OrderState | None, OrderEvent], OrderState] = {
    (None, OrderEvent.CREATE): OrderState.WAITING,
    (OrderState.WAITING, OrderEvent.CHANGE_PRICE): OrderState.WAITING,
    (OrderState.WAITING, OrderEvent.PAID): OrderState.SUCCESS,
    (OrderState.WAITING, OrderEvent.CLOSE): OrderState.CLOSED,
    (OrderState.SUCCESS, OrderEvent.REFUNDED): OrderState.REFUND,
    (OrderState.REFUND, OrderEvent.REFUNDED): OrderState.REFUND,
    (OrderState.REFUND, OrderEvent.REFUND_TAKEN_BACK): OrderState.REFUND,
    (OrderState.REFUND, OrderEvent.LAST_REFUND_TAKEN_BACK): OrderState.SUCCESS,
    (OrderState.CLOSED, OrderEvent.LATE_PAYMENT_ACCEPTED): OrderState.SUCCESS,
}


class AttemptState(StrEnum):
    """The state of an attempt. UNKNOWN: the channel's answer was unclear, and the channel is queried."""

    WAITING = "WAITING"
    UNKNOWN = "UNKNOWN"
    SUCCESS = "SUCCESS"
    CLOSED = "CLOSED"


class AttemptEvent(StrEnum):
    """The events of an attempt."""

    CREATE = "create"
    ANSWERED = "answered"
    UNCLEAR = "unclear answer"
    PAID = "paid"
    CLOSE = "close"
    PAID_LATE = "paid late"


ATTEMPT: Mapping[tuple[AttemptState | None, AttemptEvent], AttemptState] = {
    (None, AttemptEvent.CREATE): AttemptState.WAITING,
    (AttemptState.WAITING, AttemptEvent.ANSWERED): AttemptState.WAITING,
    (AttemptState.WAITING, AttemptEvent.UNCLEAR): AttemptState.UNKNOWN,
    (AttemptState.WAITING, AttemptEvent.PAID): AttemptState.SUCCESS,
    (AttemptState.WAITING, AttemptEvent.CLOSE): AttemptState.CLOSED,
    (AttemptState.UNKNOWN, AttemptEvent.ANSWERED): AttemptState.WAITING,
    (AttemptState.UNKNOWN, AttemptEvent.UNCLEAR): AttemptState.UNKNOWN,
    (AttemptState.UNKNOWN, AttemptEvent.PAID): AttemptState.SUCCESS,
    (AttemptState.UNKNOWN, AttemptEvent.CLOSE): AttemptState.CLOSED,
    # Paid, but not as the order can take it: after its close, or with another amount, or for an order that is paid.
    (AttemptState.WAITING, AttemptEvent.PAID_LATE): AttemptState.SUCCESS,
    (AttemptState.UNKNOWN, AttemptEvent.PAID_LATE): AttemptState.SUCCESS,
    (AttemptState.CLOSED, AttemptEvent.PAID_LATE): AttemptState.SUCCESS,
}


class RefundState(StrEnum):
    """The state of a refund. WAITING includes refunds whose result is unknown; their amount stays reserved."""

    WAITING = "WAITING"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"


class RefundEvent(StrEnum):
    """The events of a refund."""

    CREATE = "create"
    UNDECIDED = "undecided answer"
    SUCCEED = "succeed"
    FAIL = "fail"
    SEND_AGAIN = "send again"
    SUCCEED_LATE = "succeed late"
    TAKE_BACK = "take back"


REFUND: Mapping[tuple[RefundState | None, RefundEvent], RefundState] = {
    (None, RefundEvent.CREATE): RefundState.WAITING,
    (RefundState.WAITING, RefundEvent.UNDECIDED): RefundState.WAITING,
    (RefundState.WAITING, RefundEvent.SUCCEED): RefundState.SUCCESS,
    (RefundState.WAITING, RefundEvent.FAIL): RefundState.FAILURE,
    (RefundState.FAILURE, RefundEvent.SEND_AGAIN): RefundState.WAITING,
    (RefundState.FAILURE, RefundEvent.SUCCEED_LATE): RefundState.SUCCESS,
    # Only an operator: the channel has said that it did not go back, after it had been booked.
    (RefundState.SUCCESS, RefundEvent.TAKE_BACK): RefundState.FAILURE,
}


class NotificationState(StrEnum):
    """The state of a notification. REQUEST_SUCCESS: answered, but not confirmed. REQUEST_FAILURE: not answered. FAILURE: no more
    deliveries. SUPERSEDED: a newer notification of the same object replaces it, and it is not sent any more."""

    WAITING = "WAITING"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REQUEST_SUCCESS = "REQUEST_SUCCESS"
    REQUEST_FAILURE = "REQUEST_FAILURE"
    SUPERSEDED = "SUPERSEDED"


class NotificationEvent(StrEnum):
    """The events of a notification."""

    CREATE = "create"
    RECEIVED = "received"
    REFUSED = "answered no"
    UNANSWERED = "not answered"
    GIVE_UP = "give up"
    RESEND = "resend"
    SUPERSEDE = "supersede"


OPEN_NOTIFICATION = (NotificationState.WAITING, NotificationState.REQUEST_SUCCESS, NotificationState.REQUEST_FAILURE)

NOTIFICATION: Mapping[tuple[NotificationState | None, NotificationEvent], NotificationState] = {
    (None, NotificationEvent.CREATE): NotificationState.WAITING,
    **{(state, NotificationEvent.RECEIVED): NotificationState.SUCCESS for state in OPEN_NOTIFICATION},
    **{(state, NotificationEvent.REFUSED): NotificationState.REQUEST_SUCCESS for state in OPEN_NOTIFICATION},
    **{(state, NotificationEvent.UNANSWERED): NotificationState.REQUEST_FAILURE for state in OPEN_NOTIFICATION},
    **{(state, NotificationEvent.GIVE_UP): NotificationState.FAILURE for state in OPEN_NOTIFICATION},
    **{(state, NotificationEvent.SUPERSEDE): NotificationState.SUPERSEDED for state in OPEN_NOTIFICATION},
    (NotificationState.SUCCESS, NotificationEvent.RESEND): NotificationState.WAITING,
    (NotificationState.FAILURE, NotificationEvent.RESEND): NotificationState.WAITING,
}


class CaseState(StrEnum):
    """The state of a case. REFUNDING: its refund is in progress."""

    OPEN = "OPEN"
    REFUNDING = "REFUNDING"
    RESOLVED = "RESOLVED"


class CaseEvent(StrEnum):
    """The events of a case. CREATE_WITH_REFUND: the app's policy refunds surplus money at once. RESOLVE: what it is about is
    settled."""

    CREATE = "create"
    CREATE_WITH_REFUND = "create with refund"
    REFUND = "refund"
    RESOLVE = "resolve"
    REFUND_FAILED = "refund failed"
    ACCEPT = "accept"
    CLOSE = "close"


CASE: Mapping[tuple[CaseState | None, CaseEvent], CaseState] = {
    (None, CaseEvent.CREATE): CaseState.OPEN,
    (None, CaseEvent.CREATE_WITH_REFUND): CaseState.REFUNDING,
    (CaseState.OPEN, CaseEvent.REFUND): CaseState.REFUNDING,
    (CaseState.OPEN, CaseEvent.RESOLVE): CaseState.RESOLVED,
    (CaseState.OPEN, CaseEvent.ACCEPT): CaseState.RESOLVED,
    (CaseState.OPEN, CaseEvent.CLOSE): CaseState.RESOLVED,
    (CaseState.REFUNDING, CaseEvent.RESOLVE): CaseState.RESOLVED,
    (CaseState.REFUNDING, CaseEvent.REFUND_FAILED): CaseState.OPEN,
    (CaseState.REFUNDING, CaseEvent.CLOSE): CaseState.RESOLVED,
}


class ApprovalState(StrEnum):
    """The state of an approval. PENDING: the act waits for a second operator."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    REFUSED = "REFUSED"
    EXPIRED = "EXPIRED"


class ApprovalEvent(StrEnum):
    """The events of an approval. APPROVE: the act was carried out, in the same transaction."""

    REQUEST = "request"
    APPROVE = "approve"
    REFUSE = "refuse"
    EXPIRE = "expire"


APPROVAL: Mapping[tuple[ApprovalState | None, ApprovalEvent], ApprovalState] = {
    (None, ApprovalEvent.REQUEST): ApprovalState.PENDING,
    (ApprovalState.PENDING, ApprovalEvent.APPROVE): ApprovalState.APPROVED,
    (ApprovalState.PENDING, ApprovalEvent.REFUSE): ApprovalState.REFUSED,
    (ApprovalState.PENDING, ApprovalEvent.EXPIRE): ApprovalState.EXPIRED,
}


def sources(table: Mapping[tuple[_S | None, _E], _S], *events: _E) -> list[str]:
    """The states in which one of the events is possible, each once, in the order of the table."""
    return list(dict.fromkeys(state.value for (state, known) in table if known in events and state is not None))


def target(table: Mapping[tuple[_S | None, _E], _S], event: _E) -> str:
    """The state to which the event leads. ValueError if the event leads to different states."""
    states = {state for (_, known), state in table.items() if known is event}
    if len(states) != 1:
        raise ValueError(f"{event!r} leads to {len(states)} states")
    return states.pop().value


def created(table: Mapping[tuple[_S | None, _E], _S], event: _E) -> _S:
    """The state of a row that the event creates. KeyError if the event does not create a row."""
    return table[None, event]


# The states of an attempt that may still be paid, and of one that may be found paid, including closed ones.
OPEN_ATTEMPT = sources(ATTEMPT, AttemptEvent.PAID)
UNPAID_ATTEMPT = sources(ATTEMPT, AttemptEvent.PAID, AttemptEvent.PAID_LATE)

MACHINES: Mapping[str, Mapping[Any, StrEnum]] = {
    "pay_order": ORDER,
    "pay_attempt": ATTEMPT,
    "pay_refund": REFUND,
    "pay_notify_task": NOTIFICATION,
    "pay_case": CASE,
    "pay_approval": APPROVAL,
}
