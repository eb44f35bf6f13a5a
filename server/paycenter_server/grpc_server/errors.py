"""Conversion of errors to google.rpc.Status with ErrorInfo, BadRequest and RetryInfo. One table maps reason to status code."""

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
STOPPING_RETRY_SECONDS = 2.0
_C = grpc.StatusCode

# The trailers of a call have a limit of 8 KiB, above which gRPC drops the answer and reports RESOURCE_EXHAUSTED. The message
# travels percent-encoded and once more in the details, and those in base64: these parts make 7 KiB at most.
_MESSAGE_BYTES = 1536
_METADATA_BYTES = 640
_VALUE_BYTES = 256
_FIELDS_BYTES = 1536

CODES: Mapping[Reason, grpc.StatusCode] = {
    Reason.INTERNAL: _C.INTERNAL,
    Reason.INVALID_FIELD: _C.INVALID_ARGUMENT,
    Reason.PAGE_TOKEN_INVALID: _C.INVALID_ARGUMENT,
    Reason.CREDENTIALS_MISSING: _C.UNAUTHENTICATED,
    Reason.CREDENTIALS_INVALID: _C.UNAUTHENTICATED,
    Reason.PERMISSION_DENIED: _C.PERMISSION_DENIED,
    Reason.DATABASE_UNAVAILABLE: _C.UNAVAILABLE,
    Reason.DATABASE_CONFLICT: _C.ABORTED,
    Reason.DEADLINE_EXCEEDED: _C.DEADLINE_EXCEEDED,
    Reason.APP_NOT_FOUND: _C.NOT_FOUND,
    Reason.APP_DISABLED: _C.FAILED_PRECONDITION,
    Reason.APP_HAS_ORDERS: _C.FAILED_PRECONDITION,
    Reason.APP_HAS_REFUNDS: _C.FAILED_PRECONDITION,
    Reason.APP_EXISTS: _C.ALREADY_EXISTS,
    Reason.APP_CHANGED: _C.ABORTED,
    Reason.CREDENTIAL_NOT_FOUND: _C.NOT_FOUND,
    Reason.CREDENTIAL_LAST: _C.FAILED_PRECONDITION,
    Reason.CHANNEL_NOT_FOUND: _C.NOT_FOUND,
    Reason.CHANNEL_DISABLED: _C.FAILED_PRECONDITION,
    Reason.CHANNEL_EXISTS: _C.ALREADY_EXISTS,
    Reason.CHANNEL_HAS_ORDERS: _C.FAILED_PRECONDITION,
    Reason.CHANNEL_NOT_ALLOWED: _C.FAILED_PRECONDITION,
    Reason.CHANNEL_REFUSED: _C.FAILED_PRECONDITION,
    Reason.CHANNEL_UNCLEAR: _C.UNAVAILABLE,
    Reason.CHANNEL_CHANGED: _C.ABORTED,
    Reason.CHANNEL_UNREACHABLE: _C.UNAVAILABLE,
    Reason.ACCOUNT_NOT_FOUND: _C.NOT_FOUND,
    Reason.ACCOUNT_EXISTS: _C.ALREADY_EXISTS,
    Reason.ACCOUNT_IDENTITY_FIXED: _C.FAILED_PRECONDITION,
    Reason.ACCOUNT_UNSETTLED: _C.FAILED_PRECONDITION,
    Reason.ACCOUNT_IN_USE: _C.FAILED_PRECONDITION,
    Reason.ACCOUNT_DISABLED: _C.FAILED_PRECONDITION,
    Reason.ACCOUNT_CHANGED: _C.ABORTED,
    Reason.APPROVAL_NOT_FOUND: _C.NOT_FOUND,
    Reason.APPROVAL_NEEDED: _C.FAILED_PRECONDITION,
    Reason.APPROVAL_DECIDED: _C.FAILED_PRECONDITION,
    Reason.APPROVAL_OWN: _C.FAILED_PRECONDITION,
    Reason.ORDER_NOT_FOUND: _C.NOT_FOUND,
    Reason.ORDER_CONFLICT: _C.ALREADY_EXISTS,
    Reason.ORDER_CLOSED: _C.FAILED_PRECONDITION,
    Reason.ORDER_PAID: _C.FAILED_PRECONDITION,
    Reason.ORDER_EXPIRED: _C.FAILED_PRECONDITION,
    Reason.ORDER_NOT_REFUNDABLE: _C.FAILED_PRECONDITION,
    Reason.ORDER_CHANGED: _C.ABORTED,
    Reason.ORDER_UNDER_REVIEW: _C.FAILED_PRECONDITION,
    Reason.ATTEMPT_NOT_FOUND: _C.NOT_FOUND,
    Reason.ATTEMPT_PENDING: _C.FAILED_PRECONDITION,
    Reason.TOO_MANY_ATTEMPTS: _C.FAILED_PRECONDITION,
    Reason.REFUND_NOT_FOUND: _C.NOT_FOUND,
    Reason.REFUND_CONFLICT: _C.ALREADY_EXISTS,
    Reason.REFUND_EXCEEDS_PAID: _C.FAILED_PRECONDITION,
    Reason.REFUND_UNDER_REVIEW: _C.FAILED_PRECONDITION,
    Reason.NOTIFICATION_NOT_FOUND: _C.NOT_FOUND,
    Reason.NOTIFICATION_OPEN: _C.FAILED_PRECONDITION,
    Reason.NOTIFICATION_FINISHED: _C.FAILED_PRECONDITION,
    Reason.NOTIFICATION_SUPERSEDED: _C.FAILED_PRECONDITION,
    Reason.CASE_NOT_FOUND: _C.NOT_FOUND,
    Reason.CASE_DECISION_NOT_POSSIBLE: _C.FAILED_PRECONDITION,
    Reason.CASE_NEEDS_SECOND_OPERATOR: _C.FAILED_PRECONDITION,
    Reason.CASE_CHANGED: _C.ABORTED,
    Reason.OPERATOR_NOT_FOUND: _C.NOT_FOUND,
    Reason.OPERATOR_EXISTS: _C.ALREADY_EXISTS,
    Reason.OPERATOR_LAST_ADMIN: _C.FAILED_PRECONDITION,
    Reason.SESSION_NOT_FOUND: _C.NOT_FOUND,
    Reason.SERVER_STOPPING: _C.UNAVAILABLE,
    Reason.TOO_MANY_CALLS: _C.RESOURCE_EXHAUSTED,
}


def server_stopping() -> PayCenterError:
    """The server is stopping and has not begun the call."""
    return PayCenterError(
        Reason.SERVER_STOPPING, "This server is stopping and has not begun the call; repeat the call.",
        retry_after=STOPPING_RETRY_SECONDS,
    )  # fmt: skip


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def to_status(error: PayCenterError, request_id: str) -> Status:
    """The rich status of an error, cut to what its trailers can hold. The request id is in its metadata, never cut."""
    metadata, room = {"request_id": request_id}, _METADATA_BYTES - len(request_id)
    for name, value in error.metadata.items():
        metadata[name] = _clipped(value, min(room, _VALUE_BYTES))
        room -= len(metadata[name].encode())
    details = [_packed(ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=metadata))]
    fields, room = [], _FIELDS_BYTES
    for violation in error.violations:
        made = BadRequest.FieldViolation(
            field=_clipped(violation.field, 120), description=_clipped(violation.description, _VALUE_BYTES)
        )
        room -= made.ByteSize() + 3
        if room < 0:
            break
        fields.append(made)
    if fields:
        details.append(_packed(BadRequest(field_violations=fields)))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        details.append(_packed(RetryInfo(retry_delay=delay)))
    return Status(code=CODES[error.reason].value[0], message=_message(error.message), details=details)


def _clipped(text: str, size: int) -> str:
    """At most so many bytes, in whole characters."""
    return text if len(text) * 4 <= size else text.encode("utf-8", "replace")[: max(size, 0)].decode("utf-8", "ignore")


def _message(text: str) -> str:
    """Cut by what it takes on the wire, where everything but printable ASCII takes three bytes for one."""
    room = _MESSAGE_BYTES
    for index, character in enumerate(text):
        room -= 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode("utf-8", "replace"))
        if room < 0:
            return text[:index]
    return text
