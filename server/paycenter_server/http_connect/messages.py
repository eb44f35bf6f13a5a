"""Messages as JSON, and errors as the Connect protocol writes them (https://connectrpc.com/docs/protocol)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from paycenter_server.domain.errors import Violation, invalid

CODES: Mapping[int, tuple[str, int]] = {
    1: ("canceled", 499), 2: ("unknown", 500), 3: ("invalid_argument", 400), 4: ("deadline_exceeded", 504), 5: ("not_found", 404),
    6: ("already_exists", 409), 7: ("permission_denied", 403), 8: ("resource_exhausted", 429), 9: ("failed_precondition", 400),
    10: ("aborted", 409), 11: ("out_of_range", 400), 12: ("unimplemented", 501), 13: ("internal", 500), 14: ("unavailable", 503),
    15: ("data_loss", 500), 16: ("unauthenticated", 401),
}  # fmt: skip
"""Code and HTTP status of each number of a google.rpc.Status."""
_TYPE_PREFIX = "type.googleapis.com/"


def parse_json(kind: type[Message], raw: bytes) -> Message:
    """A message from its JSON. Raises PayCenterError, INVALID_FIELD, which names every field that the message does not have."""
    message = kind()
    try:
        if not raw.lstrip().startswith(b"{"):  # a list would be taken for an empty message
            raise json_format.ParseError("a message is an object")
        json_format.Parse(raw, message, max_recursion_depth=50)
        message.SerializeToString()  # unpaired surrogates are found here
    except (json_format.ParseError, ValueError, RecursionError) as error:
        try:
            unknown = list(_unknown(json.loads(raw), message.DESCRIPTOR, ""))
        except (ValueError, RecursionError):
            unknown = []
        if unknown:
            violations = [Violation(name, f"is not a field of {kind.DESCRIPTOR.full_name}") for name in unknown]
        else:
            violations = [Violation("request", f"is not this message as JSON: {error}"[:200])]
        raise invalid(violations) from None
    return message


def _unknown(value: object, kind: Any, prefix: str) -> Iterator[str]:
    """The names in the JSON that are not fields, with their paths."""
    if not isinstance(value, dict) or kind.full_name.startswith("google.protobuf."):
        return
    for name, item in value.items():
        field = kind.fields_by_name.get(name) or kind.fields_by_camelcase_name.get(name)
        if field is None:
            yield f"{prefix}{name}"
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for one in item if isinstance(item, list) else [item]:
                yield from _unknown(one, field.message_type, f"{prefix}{field.name}.")


def to_json(message: Message) -> bytes:
    """Its JSON in UTF-8, on one line. Names in lowerCamelCase, 64-bit numbers as text: the mapping of protobuf."""
    return json_format.MessageToJson(message, indent=None, ensure_ascii=False).encode()


def error_json(status: Status) -> tuple[int, bytes]:
    """HTTP status and body of an error."""
    code, http_status = CODES[status.code]
    details: list[dict[str, Any]] = []
    for packed in status.details:
        debug = json_format.MessageToDict(packed)
        debug.pop("@type", None)
        value = base64.b64encode(packed.value).decode().rstrip("=")
        details.append({"type": packed.type_url.removeprefix(_TYPE_PREFIX), "value": value, "debug": debug})
    body: dict[str, Any] = {"code": code, "message": status.message}
    if details:
        body["details"] = details
    return http_status, json.dumps(body, ensure_ascii=False).encode()
