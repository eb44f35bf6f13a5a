"""Typed errors: a class for each reason, below a class for each kind, below PayCenterError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import grpc

from paycenter.reasons import Reason


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field of a request: its path, and what is wrong with it."""

    field: str
    description: str


class PayCenterError(Exception):
    """A call that failed.

    `reason`: a member of Reason, or the server's own word if it is newer than this client. `message`: for people, says what to
    do. `metadata`: numbers and names that belong to the reason. `violations`: the wrong fields of INVALID_FIELD.
    `retry_after`: seconds after which the same call is worth repeating, or None. `code`: the gRPC status.
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
        # Keyword arguments are lost by the default; task queues pickle errors.
        return _rebuilt, (type(self), self.message, dict(self.__dict__))


def _rebuilt(kind: type[PayCenterError], message: str, values: dict[str, object]) -> PayCenterError:
    error = kind.__new__(kind, message)
    error.__dict__.update(values)
    return error


class InvalidRequestError(PayCenterError):
    """The request is wrong (INVALID_ARGUMENT); the same request will never work."""


class UnauthenticatedError(PayCenterError):
    """The credentials are missing or wrong (UNAUTHENTICATED)."""


class NotFoundError(PayCenterError):
    """What the call names does not exist, or belongs to another app (NOT_FOUND)."""


class AlreadyExistsError(PayCenterError):
    """A number or key is taken by something else (ALREADY_EXISTS)."""


class PreconditionError(PayCenterError):
    """The state of things does not allow the call (FAILED_PRECONDITION)."""


class UnavailableError(PayCenterError):
    """No clear answer for now (UNAVAILABLE); the same call may be repeated."""


class UnreachableError(UnavailableError):
    """There is no connection to PayCenter. Whether the call arrived is not known; it may be repeated."""


class WaitTimeoutError(PayCenterError):
    """What was waited for did not come in time. Nothing is decided by that; `last` is the last that was read, or None."""

    def __init__(self, message: str, last: object = None) -> None:
        super().__init__(message, code=grpc.StatusCode.DEADLINE_EXCEEDED)
        self.last = last


class InternalError(PayCenterError, reason=Reason.INTERNAL):
    """A fault of the server; its log has it under the request id in the metadata."""


class InvalidFieldError(InvalidRequestError, reason=Reason.INVALID_FIELD):
    """One or more fields are wrong; BadRequest names each of them."""


class PageTokenInvalidError(InvalidRequestError, reason=Reason.PAGE_TOKEN_INVALID):
    """The page token is not one that this list gave, or was given for other filters."""


class CredentialsMissingError(UnauthenticatedError, reason=Reason.CREDENTIALS_MISSING):
    """No `authorization` metadata."""


class CredentialsInvalidError(UnauthenticatedError, reason=Reason.CREDENTIALS_INVALID):
    """The credential is unknown, disabled, or the secret is wrong."""


class PermissionDeniedError(PayCenterError, reason=Reason.PERMISSION_DENIED):
    """This kind of credential may not make this call, or names another app."""


class DatabaseConflictError(PayCenterError, reason=Reason.DATABASE_CONFLICT):
    """Two calls locked the same rows; this one changed nothing. Repeat it after `retry_after`."""


class DatabaseUnavailableError(UnavailableError, reason=Reason.DATABASE_UNAVAILABLE):
    """The database does not answer; try again."""


class ServerStoppingError(UnavailableError, reason=Reason.SERVER_STOPPING):
    """The server is stopping and has not begun the call; repeat it."""


class DeadlineExceededError(PayCenterError, reason=Reason.DEADLINE_EXCEEDED):
    """The caller's deadline passed; read the resource to learn its state."""


class AppNotFoundError(NotFoundError, reason=Reason.APP_NOT_FOUND):
    """There is no such app."""


class AppDisabledError(PreconditionError, reason=Reason.APP_DISABLED):
    """The app is disabled."""


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
    """The channel carried payments and cannot be deleted; disable it."""


class ChannelNotAllowedError(PreconditionError, reason=Reason.CHANNEL_NOT_ALLOWED):
    """This channel is for development and is refused in production mode."""


class ChannelRefusedError(PreconditionError, reason=Reason.CHANNEL_REFUSED):
    """The channel refused; metadata `channel_error_code` and `channel_error_message` say why."""


class ChannelUnreachableError(UnavailableError, reason=Reason.CHANNEL_UNREACHABLE):
    """The request to the channel was not sent; nothing was made there. Repeat the call, or offer another channel."""


class ChannelUnclearError(UnavailableError, reason=Reason.CHANNEL_UNCLEAR):
    """The channel did not answer clearly. Nothing is decided: repeat the same call."""


class ChannelChangedError(PayCenterError, reason=Reason.CHANNEL_CHANGED):
    """The channel was changed by somebody else at the same time; read it and try again."""


class OrderNotFoundError(NotFoundError, reason=Reason.ORDER_NOT_FOUND):
    """There is no such pay order."""


class OrderConflictError(AlreadyExistsError, reason=Reason.ORDER_CONFLICT):
    """The merchant_order_id is taken by an order with other content."""


class OrderClosedError(PreconditionError, reason=Reason.ORDER_CLOSED):
    """The order is closed."""


class OrderPaidError(PreconditionError, reason=Reason.ORDER_PAID):
    """The order is already paid."""


class OrderExpiredError(PreconditionError, reason=Reason.ORDER_EXPIRED):
    """The order has expired."""


class OrderNotRefundableError(PreconditionError, reason=Reason.ORDER_NOT_REFUNDABLE):
    """The order was never paid, so there is nothing to refund."""


class OrderChangedError(PayCenterError, reason=Reason.ORDER_CHANGED):
    """The order changed while the call was running; read it and try again."""


class AttemptNotFoundError(NotFoundError, reason=Reason.ATTEMPT_NOT_FOUND):
    """There is no such attempt."""


class AttemptPendingError(PreconditionError, reason=Reason.ATTEMPT_PENDING):
    """An attempt of this order is still being decided at the channel; wait for it."""


class RefundNotFoundError(NotFoundError, reason=Reason.REFUND_NOT_FOUND):
    """There is no such refund."""


class RefundConflictError(AlreadyExistsError, reason=Reason.REFUND_CONFLICT):
    """The merchant_refund_no is taken by a refund with other content."""


class RefundExceedsPaidError(PreconditionError, reason=Reason.REFUND_EXCEEDS_PAID):
    """More than what is left of the paid amount."""


class NotificationNotFoundError(NotFoundError, reason=Reason.NOTIFICATION_NOT_FOUND):
    """There is no such notification."""


class NotificationOpenError(PreconditionError, reason=Reason.NOTIFICATION_OPEN):
    """The task is still being delivered, so there is nothing to resend."""
