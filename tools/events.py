"""Write docs/events from protos/paycenter/v1/events.proto: a catalogue, and a JSON Schema for each notification type.

`--check` only compares.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from paycenter.v1 import events_pb2

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "events"
SOURCE = "paycenter/v1/events.proto"
_MESSAGES = 4  # the field number of `message_type` in FileDescriptorProto, and 2 is `field` in DescriptorProto
_FIELDS = 2
_INTEGERS = (FieldDescriptorProto.TYPE_INT32, FieldDescriptorProto.TYPE_INT64)
_TIME = ".google.protobuf.Timestamp"


class Contract:
    """The messages of events.proto with their comments."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._comments = {tuple(place.path): " ".join(place.leading_comments.split()) for place in file.source_code_info.location}
        self._messages = {message.name: (number, message) for number, message in enumerate(file.message_type)}

    def events(self) -> dict[str, DescriptorProto]:
        """The bodies by notification type, in the order of the file."""
        found: dict[str, DescriptorProto] = {}
        for name, (_, message) in self._messages.items():
            options = events_pb2.DESCRIPTOR.message_types_by_name[name].GetOptions()
            if kind := options.Extensions[events_pb2.notification_type]:
                found[kind] = message
        return found

    def comment(self, message: DescriptorProto, field: int | None = None) -> str:
        """The comment of a message, or of its field with this index."""
        number, _ = self._messages[message.name]
        return self._comments[(_MESSAGES, number) if field is None else (_MESSAGES, number, _FIELDS, field)]

    def data(self, field: FieldDescriptorProto) -> DescriptorProto:
        """The message of a field."""
        return self._messages[field.type_name.rpartition(".")[2]][1]

    def schema(self, message: DescriptorProto) -> dict[str, Any]:
        """The JSON Schema of a message. Fields may be added to it, so it permits others; those that it has are always present,
        except optional ones."""
        properties = {field.name: self._property(message, number, field) for number, field in enumerate(message.field)}
        required = [field.name for field in message.field if not field.proto3_optional]
        return {
            "description": self.comment(message), "type": "object", "required": required, "properties": properties,
        }  # fmt: skip

    def _property(self, message: DescriptorProto, number: int, field: FieldDescriptorProto) -> dict[str, Any]:
        comment = self.comment(message, number)
        if field.type_name == _TIME:
            return {"description": comment, "type": "string", "format": "date-time", "pattern": "Z$"}
        if field.type == FieldDescriptorProto.TYPE_MESSAGE:
            return self.schema(self.data(field))
        if field.type in _INTEGERS:
            return {"description": comment, "type": "integer", "minimum": 1}
        constant = comment.strip('".') if comment.startswith('"') else None
        return {"description": comment, **({"const": constant} if constant else {"type": "string"})}


def contract() -> Contract:
    """The contract, as buf reads it."""
    built = subprocess.run(
        [str(Path(sys.executable).with_name("buf")), "build", "-o", "-"], cwd=ROOT / "protos", check=True, capture_output=True
    )
    files = FileDescriptorSet.FromString(built.stdout).file
    return Contract(next(file for file in files if file.name == SOURCE))


def _type(field: FieldDescriptorProto) -> str:
    if field.type_name == _TIME:
        return "time"
    return "integer" if field.type in _INTEGERS else "text"


def render() -> dict[str, str]:
    """The files of docs/events by name."""
    known = contract()
    files: dict[str, str] = {}
    page = [
        "# Notifications",
        "",
        f"Generated from `protos/{SOURCE}` by `make events`; its comments define the JSON form. A body is:",
        "",
        "```json",
        '{"type": "pay_order.success", "timestamp": "2026-11-25T09:30:00.123456Z", "object_id": "O…", "version": 1, "data": {…}}',
        "```",
        "",
        "`version` counts the notified changes of the object `object_id`. Store it, and ignore a notification whose version is not",
        "larger (`Notification.is_newer_than` of the client). Ignore types and fields that you do not know.",
        "",
    ]
    for kind, message in known.events().items():
        name = f"{kind}.schema.json"
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": kind, **known.schema(message)}
        files[name] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        data = known.data(next(field for field in message.field if field.name == "data"))
        page += [f"## {kind}", "", known.comment(message), "", f"[JSON Schema]({name}). `data`:", ""]
        page += ["| field | type | meaning |", "|---|---|---|"]
        page += [f"| `{field.name}` | {_type(field)} | {known.comment(data, i)} |" for i, field in enumerate(data.field)]
        page.append("")
    files["README.md"] = "\n".join(page)
    return files


def main() -> int:
    """Write or compare. 0 if the files match."""
    wanted = render()
    FOLDER.mkdir(exist_ok=True)
    kept = {path.name: path.read_text() for path in FOLDER.iterdir()}
    if kept == wanted:
        print("docs/events matches the protos")
        return 0
    if "--check" in sys.argv:
        print("docs/events differs from protos/paycenter/v1/events.proto; run make events")
        return 1
    for name in kept.keys() - wanted.keys():
        (FOLDER / name).unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text)
    print(f"{len(wanted)} files written to docs/events")
    return 0


if __name__ == "__main__":
    sys.exit(main())
