"""Conversion of gRPC errors to typed errors, by the `google.rpc.Status` in the trailing metadata."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from paycenter.errors import DeadlineExceededError, PayCenterError, UnreachableError, Violation
from paycenter.reasons import Reason

_DOMAIN = "paycenter"
_DETAILS = "grpc-status-details-bin"


def from_rpc_error(error: grpc.RpcError) -> PayCenterError:
    """The typed error of a failed call. It never raises: what cannot be decoded becomes a PayCenterError by status code."""
    call: Any = error
    code: grpc.StatusCode = call.code()
    message: str = call.details() or code.name
    for key, value in _pairs(call.trailing_metadata()):
        if key == _DETAILS and isinstance(value, bytes):
            try:
                return _from_status(code, message, status_pb2.Status.FromString(value))
            except DecodeError:
                break
    return _plain(code, message)


def _pairs(metadata: Any) -> Iterable[tuple[str, str | bytes]]:
    return metadata or ()


def _plain(code: grpc.StatusCode, message: str) -> PayCenterError:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        text = "The call's deadline passed; whether it took effect is not known. Read the resource, or repeat the same call."
        return DeadlineExceededError(text, reason=Reason.DEADLINE_EXCEEDED, code=code)
    if code is grpc.StatusCode.UNAVAILABLE:
        return UnreachableError(message, code=code)
    return PayCenterError(message, code=code)


def _from_status(code: grpc.StatusCode, message: str, status: Any) -> PayCenterError:
    info, bad_request, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    retry_after: float | None = None
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(bad_request.DESCRIPTOR):
            detail.Unpack(bad_request)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    if info.domain != _DOMAIN:
        return _plain(code, status.message or message)
    # A reason that this client does not know stays the server's text.
    reason = Reason(info.reason) if info.reason in Reason.__members__ else info.reason
    kind = PayCenterError.by_reason.get(reason, PayCenterError)
    return kind(
        status.message or message,
        reason=reason,
        code=code,
        metadata=dict(info.metadata),
        violations=[Violation(violation.field, violation.description) for violation in bad_request.field_violations],
        retry_after=retry_after,
    )
