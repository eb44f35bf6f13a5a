"""The last requests and notifications, with the verdict on their signatures, for the pages and for tests."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Exchange", "WireLog"]

_KEPT = 500
_TEXT = 4096


@dataclass(slots=True)
class Exchange:
    """One request and its answer. direction: `in` (a merchant calls) or `out` (the channel notifies). verdict: of the request's
    signature when it came in, of what we did to it when it went out."""

    serial: int
    time: float
    direction: str
    protocol: str
    api: str
    number: str
    method: str
    url: str
    request_headers: dict[str, str] = field(default_factory=dict)
    request_body: str = ""
    verdict: str = ""
    fault: str = ""
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer_body: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


class WireLog:
    """A bounded log in memory."""

    def __init__(self) -> None:
        self._entries: deque[Exchange] = deque(maxlen=_KEPT)
        self._serials = itertools.count(1)

    def add(self, moment: float, direction: str, protocol: str, api: str, number: str, method: str, url: str) -> Exchange:
        """Begin an entry; the caller fills in the rest."""
        entry = Exchange(next(self._serials), moment, direction, protocol, api, number, method, url)
        self._entries.append(entry)
        return entry

    def newest(self, number: str = "") -> Iterator[Exchange]:
        """Entries, newest first, of one trade if a number is given."""
        return (entry for entry in reversed(self._entries) if not number or entry.number == number)

    def clear(self) -> None:
        """Forget all entries."""
        self._entries.clear()

    @staticmethod
    def text(raw: bytes) -> str:
        """What is kept of a body."""
        text = raw[:_TEXT].decode("utf-8", "backslashreplace")
        return text + ("…" if len(raw) > _TEXT else "")
