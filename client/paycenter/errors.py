"""Typed errors: a class for each reason, derived from a class for each kind, derived from PayCenterError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import grpc

from paycenter.reasons import Reason


@dataclass(frozen=True, slots=True)
class Violation:
    """One invalid field of a request: its path, and what is wrong with it."""

    field: str
    description: str


class PayCenterError(Exception):
    """A call that failed.

    `reason`: a member of Reason, or the server's text if this client does not know it. `message`: what happened and what to do.
    `metadata`: numbers and names that belong to the reason. `violations`: the invalid fields of INVALID_FIELD. `retry_after`:
    seconds after which the same call may be repeated, or None. `code`: the gRPC status.
    """

    by_reason: ClassVar[dict[str, type[PayCenterError]]] = {}

    def __init_subclass__(cls, *, reason: Reason | None = None) -> None:
        if reason is not None:
            PayCenterError.by_reason[reason.value] = cls

    def __init__(
        self,
        message: str,
        *,
        reason: str = Reason.UNSPECIFIED,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        # Task queues pickle errors, and the default loses keyword arguments.
        return _rebuilt, (type(self), self.message, dict(self.__dict__))


def _rebuilt(kind: type[PayCenterError], message: str, values: dict[str, object]) -> PayCenterError:
    error = kind.__new__(kind, message)
    error.__dict__.update(values)
    return error


class InvalidRequestError(PayCenterError):
    """The request is invalid (INVALID_ARGUMENT). The same request always fails."""


class UnauthenticatedError(PayCenterError):
    """The credentials are missing or wrong (UNAUTHENTICATED)."""


class NotFoundError(PayCenterError):
    """The object does not exist, or belongs to another app (NOT_FOUND)."""


class AlreadyExistsError(PayCenterError):
    """Another object has the number or key (ALREADY_EXISTS)."""


class PreconditionError(PayCenterError):
    """The state of the object does not allow the call (FAILED_PRECONDITION)."""


class UnavailableError(PayCenterError):
    """There is no result at present (UNAVAILABLE). The same call may be repeated."""


class UnreachableError(UnavailableError):
    """There is no connection to PayCenter. The call may or may not have arrived, and may be repeated."""


class WaitTimeoutError(PayCenterError):
    """The waiting time ended without a result. This decides nothing. `last` is the last object that was read, or None."""

    def __init__(self, message: str, last: object = None) -> None:
        super().__init__(message, code=grpc.StatusCode.DEADLINE_EXCEEDED)
        self.last = last


class InternalError(PayCenterError, reason=Reason.INTERNAL):
    """An error in PayCenter; its log has it under the request id in the metadata."""


class InvalidFieldError(InvalidRequestError, reason=Reason.INVALID_FIELD):
    """One or more fields are invalid; `violations` names each of them."""


class PageTokenInvalidError(InvalidRequestError, reason=Reason.PAGE_TOKEN_INVALID):
    """The page token does not belong to this list, or belongs to other filters."""


class CredentialsMissingError(UnauthenticatedError, reason=Reason.CREDENTIALS_MISSING):
    """The call has no `authorization` metadata."""


class CredentialsInvalidError(UnauthenticatedError, reason=Reason.CREDENTIALS_INVALID):
    """The credential is unknown or disabled, or its secret is wrong."""


class PermissionDeniedError(PayCenterError, reason=Reason.PERMISSION_DENIED):
    """This kind of credential may not make this call, or the call names another app."""


class DatabaseConflictError(PayCenterError, reason=Reason.DATABASE_CONFLICT):
    """Two calls locked the same rows, so a statement of this call was not stored. What it has stored or sent before stays. Repeat
    it with the same number after `retry_after`."""


class DatabaseUnavailableError(UnavailableError, reason=Reason.DATABASE_UNAVAILABLE):
    """The database does not answer, or takes no writes. The message says whether the call may have been carried out. Repeat it with
    the same number, or read the resource."""


class ServerStoppingError(UnavailableError, reason=Reason.SERVER_STOPPING):
    """The server is stopping and has not begun the call; repeat it."""


class TooManyCallsError(PayCenterError, reason=Reason.TOO_MANY_CALLS):
    """The server, or the app, has as many calls in progress as are allowed. Nothing was begun. Repeat it after `retry_after`."""


class DeadlineExceededError(PayCenterError, reason=Reason.DEADLINE_EXCEEDED):
    """The caller's deadline passed. Read the object to get its state."""


class AppNotFoundError(NotFoundError, reason=Reason.APP_NOT_FOUND):
    """There is no such app."""


class AppDisabledError(PreconditionError, reason=Reason.APP_DISABLED):
    """The app is disabled. It can only read, sync and refund."""


class AppHasOrdersError(PreconditionError, reason=Reason.APP_HAS_ORDERS):
    """The app has pay orders and cannot be deleted."""


class AppHasRefundsError(PreconditionError, reason=Reason.APP_HAS_REFUNDS):
    """The app has refunds and cannot be deleted."""


class AppExistsError(AlreadyExistsError, reason=Reason.APP_EXISTS):
    """Another app has this app key."""


class CredentialNotFoundError(NotFoundError, reason=Reason.CREDENTIAL_NOT_FOUND):
    """There is no such credential."""


class CredentialLastError(PreconditionError, reason=Reason.CREDENTIAL_LAST):
    """The last enabled operator credential cannot be disabled."""


class ChannelNotFoundError(NotFoundError, reason=Reason.CHANNEL_NOT_FOUND):
    """The app has no such channel."""


class ChannelDisabledError(PreconditionError, reason=Reason.CHANNEL_DISABLED):
    """The channel is disabled."""


class ChannelExistsError(AlreadyExistsError, reason=Reason.CHANNEL_EXISTS):
    """The app has a channel with this code."""


class ChannelHasOrdersError(PreconditionError, reason=Reason.CHANNEL_HAS_ORDERS):
    """The channel has attempts and cannot be deleted. Disable it instead."""


class ChannelNotAllowedError(PreconditionError, reason=Reason.CHANNEL_NOT_ALLOWED):
    """The channel is for development and is refused in production mode."""


class ChannelRefusedError(PreconditionError, reason=Reason.CHANNEL_REFUSED):
    """The channel refused. The metadata `channel_error_code` and `channel_error_message` have its reason."""


class ChannelUnreachableError(UnavailableError, reason=Reason.CHANNEL_UNREACHABLE):
    """The request was not sent to the channel, which has created nothing. Repeat the call, or offer another channel."""


class ChannelUnclearError(UnavailableError, reason=Reason.CHANNEL_UNCLEAR):
    """The channel did not answer clearly, so nothing is decided. Repeat the same call."""


class AppChangedError(PayCenterError, reason=Reason.APP_CHANGED):
    """The app has changed since the change was requested that is approved now. Request it again."""


class ChannelChangedError(PayCenterError, reason=Reason.CHANNEL_CHANGED):
    """Another call changed the channel at the same time. Read it and repeat the call."""


class AccountNotFoundError(NotFoundError, reason=Reason.ACCOUNT_NOT_FOUND):
    """There is no such account."""


class AccountExistsError(AlreadyExistsError, reason=Reason.ACCOUNT_EXISTS):
    """There is an account of this family with this identity. The metadata `account_id` names it."""


class AccountIdentityFixedError(PreconditionError, reason=Reason.ACCOUNT_IDENTITY_FIXED):
    """The identity of an account never changes. Create another account and move the channels to it."""


class AccountUnsettledError(PreconditionError, reason=Reason.ACCOUNT_UNSETTLED):
    """The account has attempts or refunds that are not settled, or open cases: `unsettled_attempts`, `unsettled_refunds` and
    `open_cases` in the metadata."""


class AccountInUseError(PreconditionError, reason=Reason.ACCOUNT_IN_USE):
    """Channels have or had the account, so it cannot be deleted. Disable it instead."""


class AccountDisabledError(PreconditionError, reason=Reason.ACCOUNT_DISABLED):
    """The account is disabled and takes no new payments and refunds."""


class AccountChangedError(PayCenterError, reason=Reason.ACCOUNT_CHANGED):
    """Another call changed the account at the same time. Read it and repeat the call."""


class OrderNotFoundError(NotFoundError, reason=Reason.ORDER_NOT_FOUND):
    """There is no such pay order."""


class OrderConflictError(AlreadyExistsError, reason=Reason.ORDER_CONFLICT):
    """An order with other content has the merchant_order_id."""


class OrderClosedError(PreconditionError, reason=Reason.ORDER_CLOSED):
    """The order is closed."""


class OrderPaidError(PreconditionError, reason=Reason.ORDER_PAID):
    """The order is already paid."""


class OrderExpiredError(PreconditionError, reason=Reason.ORDER_EXPIRED):
    """The order has expired."""


class OrderNotRefundableError(PreconditionError, reason=Reason.ORDER_NOT_REFUNDABLE):
    """The order was not paid, so nothing can be refunded."""


class OrderChangedError(PayCenterError, reason=Reason.ORDER_CHANGED):
    """The order changed during the call. Read it and decide again."""


class OrderUnderReviewError(PreconditionError, reason=Reason.ORDER_UNDER_REVIEW):
    """Money of the order waits for the decision of an operator; `metadata["pay_case_id"]` is the case."""


class AttemptNotFoundError(NotFoundError, reason=Reason.ATTEMPT_NOT_FOUND):
    """There is no such attempt."""


class AttemptPendingError(PreconditionError, reason=Reason.ATTEMPT_PENDING):
    """An earlier attempt of the order is not decided at the channel yet. Repeat the call after `retry_after`."""


class TooManyAttemptsError(PreconditionError, reason=Reason.TOO_MANY_ATTEMPTS):
    """The order has had as many attempts as are allowed. Close it, and create a new one under a new merchant_order_id."""


class RefundNotFoundError(NotFoundError, reason=Reason.REFUND_NOT_FOUND):
    """There is no such refund."""


class RefundConflictError(AlreadyExistsError, reason=Reason.REFUND_CONFLICT):
    """A refund with other content has the merchant_refund_no."""


class RefundExceedsPaidError(PreconditionError, reason=Reason.REFUND_EXCEEDS_PAID):
    """The amount is more than what remains of the paid amount."""


class RefundUnderReviewError(PreconditionError, reason=Reason.REFUND_UNDER_REVIEW):
    """The refund failed, but its money may be with the payer already, so it is not sent again now."""


class NotificationNotFoundError(NotFoundError, reason=Reason.NOTIFICATION_NOT_FOUND):
    """There is no such notification."""


class NotificationOpenError(PreconditionError, reason=Reason.NOTIFICATION_OPEN):
    """The notification is still being delivered and cannot be resent."""


class NotificationFinishedError(PreconditionError, reason=Reason.NOTIFICATION_FINISHED):
    """No delivery of the notification is due. Resend it."""


class NotificationSupersededError(PreconditionError, reason=Reason.NOTIFICATION_SUPERSEDED):
    """A newer notification of the same object replaces this one; `metadata["replaced_by"]` is its number."""


class OperatorNotFoundError(NotFoundError, reason=Reason.OPERATOR_NOT_FOUND):
    """There is no such operator."""


class OperatorExistsError(AlreadyExistsError, reason=Reason.OPERATOR_EXISTS):
    """Another operator has this name."""


class OperatorLastAdminError(PreconditionError, reason=Reason.OPERATOR_LAST_ADMIN):
    """The last enabled admin of all apps keeps its role. Give another operator that role first."""


class SessionNotFoundError(NotFoundError, reason=Reason.SESSION_NOT_FOUND):
    """There is no such session, it has ended, or it belongs to another operator."""


class ApprovalNotFoundError(NotFoundError, reason=Reason.APPROVAL_NOT_FOUND):
    """There is no such approval."""


class ApprovalNeededError(PreconditionError, reason=Reason.APPROVAL_NEEDED):
    """The act of an operator was stored and waits for a second operator. The metadata has `pay_approval_id`."""


class ApprovalDecidedError(PreconditionError, reason=Reason.APPROVAL_DECIDED):
    """The approval was approved, was refused, or has expired."""


class ApprovalOwnError(PreconditionError, reason=Reason.APPROVAL_OWN):
    """Who requested the act cannot approve it. Another operator must."""


class CaseNotFoundError(NotFoundError, reason=Reason.CASE_NOT_FOUND):
    """There is no such case."""


class CaseDecisionNotPossibleError(PreconditionError, reason=Reason.CASE_DECISION_NOT_POSSIBLE):
    """The state or the kind of the case does not allow the decision. The metadata has `state`, `decision` and `possible`."""


class CaseNeedsSecondOperatorError(PreconditionError, reason=Reason.CASE_NEEDS_SECOND_OPERATOR):
    """This operator has proposed the decision. Another one must confirm it."""


class CaseChangedError(PayCenterError, reason=Reason.CASE_CHANGED):
    """The case, its refund or its order changed during the call. Read the case and decide again."""
