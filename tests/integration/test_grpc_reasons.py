"""The reasons are the same everywhere: in the domain, in the protos, in the client, and in the table of status codes."""

from __future__ import annotations

import re
from pathlib import Path

from google.rpc.error_details_pb2 import ErrorInfo
from paycenter.reasons import Reason as ClientReason
from paycenter.v1.error_reason_pb2 import ErrorReason
from paycenter_server.domain.errors import PayCenterError, Reason, Violation
from paycenter_server.grpc_server.errors import CODES, to_status

PROTO = Path(__file__).resolve().parents[2] / "protos" / "paycenter" / "v1" / "error_reason.proto"
PREFIX = "ERROR_REASON_"


def commented_codes() -> dict[str, str]:
    """The status that starts the comment of each reason."""
    found = re.findall(r"// ([A-Z_]+)\. [^\n]*\n  ERROR_REASON_(\w+) = ", PROTO.read_text())
    return {reason: code for code, reason in found}


def test_every_reason_is_known_everywhere() -> None:
    in_proto = {name.removeprefix(PREFIX) for name in ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert in_proto == {reason.value for reason in Reason}
    assert in_proto == {reason.value for reason in ClientReason} - {""}
    assert set(CODES) == set(Reason)


def test_each_status_is_the_one_that_the_proto_promises() -> None:
    promised = commented_codes()
    assert promised == {reason.value: code.name for reason, code in CODES.items()}


def test_numbers_are_unique_and_values_are_their_names() -> None:
    assert len(set(ErrorReason.values())) == len(ErrorReason.keys())
    assert all(reason.name == reason.value for reason in Reason)


def test_a_status_fits_into_the_headers_of_http2() -> None:
    """gRPC refuses trailers over 8 KiB, and texts of callers are part of messages, metadata and field names."""
    wide = "\U0001f600" * 3000
    error = PayCenterError(
        Reason.INVALID_FIELD, wide, metadata={"app_key": wide, "fields": wide},
        violations=[Violation(f"channel_extras.{wide}"[:100], wide)] * 60, retry_after=1.5,
    )  # fmt: skip
    status = to_status(error, "r" * 64)
    # The message travels percent-encoded, three bytes for one; the details in base64, four for three.
    size = len(status.message.encode()) * 3 + len(status.SerializeToString()) * 4 // 3
    assert size < 7 * 1024
    assert status.message.startswith("\U0001f600")
    assert len(status.details) == 3
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.metadata["request_id"] == "r" * 64
