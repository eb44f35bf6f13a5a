"""Errors on the wire: google.rpc.Status with ErrorInfo, BadRequest and RetryInfo. One table maps reason to status code."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from paycenter_server.domain.errors import PayCenterError, Reason

DOMAIN = "paycenter"
_C = grpc.StatusCode

CODES: Mapping[Reason, grpc.StatusCode] = {
    Reason.INTERNAL: _C.INTERNAL,
    Reason.INVALID_FIELD: _C.INVALID_ARGUMENT,
    Reason.PAGE_TOKEN_INVALID: _C.INVALID_ARGUMENT,
    Reason.CREDENTIALS_MISSING: _C.UNAUTHENTICATED,
    Reason.CREDENTIALS_INVALID: _C.UNAUTHENTICATED,
    Reason.PERMISSION_DENIED: _C.PERMISSION_DENIED,
    Reason.DATABASE_UNAVAILABLE: _C.UNAVAILABLE,
    Reason.DEADLINE_EXCEEDED: _C.DEADLINE_EXCEEDED,
    Reason.APP_NOT_FOUND: _C.NOT_FOUND,
    Reason.APP_DISABLED: _C.FAILED_PRECONDITION,
    Reason.APP_HAS_ORDERS: _C.FAILED_PRECONDITION,
    Reason.APP_HAS_REFUNDS: _C.FAILED_PRECONDITION,
    Reason.APP_EXISTS: _C.ALREADY_EXISTS,
    Reason.CREDENTIAL_NOT_FOUND: _C.NOT_FOUND,
    Reason.CHANNEL_NOT_FOUND: _C.NOT_FOUND,
    Reason.CHANNEL_DISABLED: _C.FAILED_PRECONDITION,
    Reason.CHANNEL_EXISTS: _C.ALREADY_EXISTS,
    Reason.CHANNEL_HAS_ORDERS: _C.FAILED_PRECONDITION,
    Reason.CHANNEL_NOT_ALLOWED: _C.FAILED_PRECONDITION,
    Reason.CHANNEL_REFUSED: _C.FAILED_PRECONDITION,
    Reason.CHANNEL_UNCLEAR: _C.UNAVAILABLE,
    Reason.ORDER_NOT_FOUND: _C.NOT_FOUND,
    Reason.ORDER_CONFLICT: _C.ALREADY_EXISTS,
    Reason.ORDER_CLOSED: _C.FAILED_PRECONDITION,
    Reason.ORDER_PAID: _C.FAILED_PRECONDITION,
    Reason.ORDER_EXPIRED: _C.FAILED_PRECONDITION,
    Reason.ORDER_NOT_REFUNDABLE: _C.FAILED_PRECONDITION,
    Reason.ORDER_CHANGED: _C.ABORTED,
    Reason.ATTEMPT_NOT_FOUND: _C.NOT_FOUND,
    Reason.ATTEMPT_PENDING: _C.FAILED_PRECONDITION,
    Reason.REFUND_NOT_FOUND: _C.NOT_FOUND,
    Reason.REFUND_CONFLICT: _C.ALREADY_EXISTS,
    Reason.REFUND_EXCEEDS_PAID: _C.FAILED_PRECONDITION,
    Reason.NOTIFY_TASK_NOT_FOUND: _C.NOT_FOUND,
    Reason.NOTIFY_TASK_OPEN: _C.FAILED_PRECONDITION,
}


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def to_status(error: PayCenterError) -> Status:
    """The rich status of an error."""
    # Metadata travels in HTTP/2 headers, which have a limit of about 8 KiB.
    metadata = {name: value[:512] for name, value in error.metadata.items()}
    details = [_packed(ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=metadata))]
    if error.violations:
        fields = [
            BadRequest.FieldViolation(field=violation.field, description=violation.description)
            for violation in error.violations[:40]
        ]
        details.append(_packed(BadRequest(field_violations=fields)))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        details.append(_packed(RetryInfo(retry_delay=delay)))
    return Status(code=CODES[error.reason].value[0], message=error.message[:2000], details=details)
