"""The audit: administrative acts and refused attempts, as a chain of hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

FIRST_HASH = bytes(32)
"""The previous hash of the first row."""
TEXT_MAX = 200


@dataclass(frozen=True, slots=True)
class Origin:
    """From where a call came: the peer's address, and the request id that is in the log."""

    peer: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A row of the audit. `actor`: the key id of the credential, or the operator's name for a session. `operator`: the person.

    `act`: the name of the method. `outcome`: "OK", or the reason of the refusal. `before` and `after` hold what the act changed,
    without secrets.
    """

    id: int
    time: datetime
    actor_kind: str
    actor: str
    operator: str
    act: str
    object: str
    outcome: str
    app_key: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    peer: str
    request_id: str
    previous_hash: bytes
    hash: bytes

    def computed_hash(self) -> bytes:
        """SHA-256 over the previous hash and the canonical row."""
        row = {
            "id": self.id,
            "time": self.time.astimezone(UTC).isoformat(timespec="microseconds"),
            **{name: getattr(self, name) for name in _HASHED},
        }
        text = json.dumps(row, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(self.previous_hash + text.encode()).digest()


_HASHED = (
    "actor_kind", "actor", "operator", "act", "object", "outcome", "app_key", "before", "after", "peer", "request_id",
)  # fmt: skip


class Source(Protocol):
    """What knows from where a call came, as `Origin` does. The texts may be any."""

    @property
    def peer(self) -> str:
        """The peer's address."""
        ...

    @property
    def request_id(self) -> str:
        """The request id."""
        ...


_NOBODY = Origin()
_source: ContextVar[Source] = ContextVar("paycenter_source", default=_NOBODY)


def current_origin() -> Origin:
    """From where the call of this task came."""
    source = _source.get()
    return Origin(clean(source.peer), clean(source.request_id))


def set_origin(source: Source) -> None:
    """Name the origin of this task until it ends."""
    _source.set(source)


def clean(text: str, most: int = TEXT_MAX) -> str:
    """A text of a caller as the audit keeps it: at most `most` characters, all of them printable."""
    kept = text[:most]
    return kept if kept.isprintable() else "".join(character if character.isprintable() else "?" for character in kept)


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values that differ, before and after."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: before.get(name) for name in names}, {name: after.get(name) for name in names}
