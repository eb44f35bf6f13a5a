"""Errors that callers receive: a stable reason, a message, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """The stable reasons. The names are those of `ErrorReason` in the protos, which documents each of them."""

    INTERNAL = "INTERNAL"
    INVALID_FIELD = "INVALID_FIELD"
    PAGE_TOKEN_INVALID = "PAGE_TOKEN_INVALID"  # noqa: S105
    CREDENTIALS_MISSING = "CREDENTIALS_MISSING"
    CREDENTIALS_INVALID = "CREDENTIALS_INVALID"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    DATABASE_CONFLICT = "DATABASE_CONFLICT"
    APP_NOT_FOUND = "APP_NOT_FOUND"
    APP_DISABLED = "APP_DISABLED"
    APP_HAS_ORDERS = "APP_HAS_ORDERS"
    APP_HAS_REFUNDS = "APP_HAS_REFUNDS"
    APP_EXISTS = "APP_EXISTS"
    CREDENTIAL_NOT_FOUND = "CREDENTIAL_NOT_FOUND"
    CREDENTIAL_LAST = "CREDENTIAL_LAST"
    APP_CHANGED = "APP_CHANGED"
    CHANNEL_NOT_FOUND = "CHANNEL_NOT_FOUND"
    CHANNEL_DISABLED = "CHANNEL_DISABLED"
    CHANNEL_EXISTS = "CHANNEL_EXISTS"
    CHANNEL_HAS_ORDERS = "CHANNEL_HAS_ORDERS"
    CHANNEL_NOT_ALLOWED = "CHANNEL_NOT_ALLOWED"
    CHANNEL_REFUSED = "CHANNEL_REFUSED"
    CHANNEL_UNCLEAR = "CHANNEL_UNCLEAR"
    CHANNEL_CHANGED = "CHANNEL_CHANGED"
    CHANNEL_UNREACHABLE = "CHANNEL_UNREACHABLE"
    ORDER_NOT_FOUND = "ORDER_NOT_FOUND"
    ORDER_CONFLICT = "ORDER_CONFLICT"
    ORDER_CLOSED = "ORDER_CLOSED"
    ORDER_PAID = "ORDER_PAID"
    ORDER_EXPIRED = "ORDER_EXPIRED"
    ORDER_NOT_REFUNDABLE = "ORDER_NOT_REFUNDABLE"
    ORDER_CHANGED = "ORDER_CHANGED"
    ORDER_UNDER_REVIEW = "ORDER_UNDER_REVIEW"
    ATTEMPT_NOT_FOUND = "ATTEMPT_NOT_FOUND"
    ATTEMPT_PENDING = "ATTEMPT_PENDING"
    TOO_MANY_ATTEMPTS = "TOO_MANY_ATTEMPTS"
    REFUND_NOT_FOUND = "REFUND_NOT_FOUND"
    REFUND_CONFLICT = "REFUND_CONFLICT"
    REFUND_EXCEEDS_PAID = "REFUND_EXCEEDS_PAID"
    REFUND_UNDER_REVIEW = "REFUND_UNDER_REVIEW"
    NOTIFICATION_NOT_FOUND = "NOTIFICATION_NOT_FOUND"
    NOTIFICATION_OPEN = "NOTIFICATION_OPEN"
    NOTIFICATION_FINISHED = "NOTIFICATION_FINISHED"
    NOTIFICATION_SUPERSEDED = "NOTIFICATION_SUPERSEDED"
    ACCOUNT_NOT_FOUND = "ACCOUNT_NOT_FOUND"
    ACCOUNT_EXISTS = "ACCOUNT_EXISTS"
    ACCOUNT_IDENTITY_FIXED = "ACCOUNT_IDENTITY_FIXED"
    ACCOUNT_UNSETTLED = "ACCOUNT_UNSETTLED"
    ACCOUNT_IN_USE = "ACCOUNT_IN_USE"
    ACCOUNT_DISABLED = "ACCOUNT_DISABLED"
    ACCOUNT_CHANGED = "ACCOUNT_CHANGED"
    CASE_NOT_FOUND = "CASE_NOT_FOUND"
    CASE_DECISION_NOT_POSSIBLE = "CASE_DECISION_NOT_POSSIBLE"
    CASE_NEEDS_SECOND_OPERATOR = "CASE_NEEDS_SECOND_OPERATOR"
    CASE_CHANGED = "CASE_CHANGED"
    OPERATOR_NOT_FOUND = "OPERATOR_NOT_FOUND"
    OPERATOR_EXISTS = "OPERATOR_EXISTS"
    OPERATOR_LAST_ADMIN = "OPERATOR_LAST_ADMIN"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    APPROVAL_NOT_FOUND = "APPROVAL_NOT_FOUND"
    APPROVAL_NEEDED = "APPROVAL_NEEDED"
    APPROVAL_DECIDED = "APPROVAL_DECIDED"
    APPROVAL_OWN = "APPROVAL_OWN"
    SERVER_STOPPING = "SERVER_STOPPING"
    TOO_MANY_CALLS = "TOO_MANY_CALLS"


@dataclass(frozen=True, slots=True)
class Violation:
    """One invalid field: its path in the request, and what is wrong with it."""

    field: str
    description: str


class PayCenterError(Exception):
    """An error for the caller. `retry_after`: seconds after which the same call may be repeated, None if it should not be."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after


def invalid(violations: Sequence[Violation]) -> PayCenterError:
    """The error for invalid input. It names each invalid field."""
    names = ", ".join(violation.field for violation in violations)
    text = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
    return PayCenterError(
        Reason.INVALID_FIELD,
        f"Correct these fields and call again: {text}",
        metadata={"fields": names},
        violations=violations,
    )
