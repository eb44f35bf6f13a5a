"""The last requests and notifications, with the verdict on their signatures, for the pages and for tests."""

from __future__ import annotations

import itertools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from paycenter_server.simulator.model import ALIPAY, WECHATPAY_V3

__all__ = ["KEPT_OF_TRADE", "Exchange", "WireLog"]

KEPT_OF_TRADE = 60
"""Exchanges of one trade; so a trade that is polled for ever crowds out nobody else's."""
_KEPT_OF_NO_TRADE = 500
_KEPT = 5000
_TEXT = 4096
_LONGEST_NUMBER = 64
_HEADER_TEXT = 1000
_HEADERS_KEPT = 40
_REQUEST_HEADERS = ("Host", "Authorization", "Wechatpay-Serial", "Content-Type", "Content-Length", "User-Agent", "Accept")

Owner = tuple[str, str]


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and its answer. direction: `in` (a merchant calls) or `out` (the channel notifies). verdict: of the request's
    signature when it came in, of what we did to it when it went out. status 0: there was no answer."""

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

    @property
    def channel(self) -> str:
        """v2 and v3 of WeChat are doors to the same trades."""
        return ALIPAY if self.protocol == ALIPAY else WECHATPAY_V3

    @property
    def owner(self) -> Owner:
        """Whose it is: the channel, and the trade's number or ""."""
        return (self.channel, self.number) if self.number else ("", "")

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def answered(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Note the answer, trimmed."""
        kept = itertools.islice(headers.items(), _HEADERS_KEPT)
        self.status, self.answer_headers = status, {name: value[:_HEADER_TEXT] for name, value in kept}
        self.answer_body = WireLog.text(body)


class WireLog:
    """Bounded, in memory: the newest of each trade, and a bound on the whole, beyond which the oldest go. Adding costs the same
    however many there are."""

    def __init__(self) -> None:
        self._entries: OrderedDict[int, Exchange] = OrderedDict()
        self._owned: defaultdict[Owner, deque[Exchange]] = defaultdict(deque)
        self._dropped: defaultdict[Owner, int] = defaultdict(int)
        self._serials = itertools.count(1)

    def add(self, moment: float, direction: str, protocol: str, api: str, number: str, method: str, url: str) -> Exchange:
        """Begin an entry; the caller fills in the rest. A number that is known only later is given by `name`."""
        number = number if len(number) <= _LONGEST_NUMBER else ""
        entry = Exchange(next(self._serials), moment, direction, protocol, api, number, method, url[:_TEXT])
        self._entries[entry.serial] = entry
        self._own(entry)
        if len(self._entries) > _KEPT:
            self._drop(next(iter(self._entries.values())))
        return entry

    def name(self, entry: Exchange, number: str) -> None:
        """Say which trade an entry is about."""
        if number == entry.number:
            return
        if entry.serial in self._entries:  # it may have been dropped by now
            self._owned[entry.owner].remove(entry)
            entry.number = number
            self._own(entry)

    def _own(self, entry: Exchange) -> None:
        owned = self._owned[entry.owner]
        owned.append(entry)
        if len(owned) > (KEPT_OF_TRADE if entry.number else _KEPT_OF_NO_TRADE):
            self._drop(owned[0])

    def _drop(self, entry: Exchange) -> None:
        owned = self._owned[entry.owner]
        owned.remove(entry)
        del self._entries[entry.serial]
        self._dropped[entry.owner] += 1
        if not owned:
            del self._owned[entry.owner]

    def newest(self, number: str = "", protocol: str = "") -> Iterator[Exchange]:
        """Entries, newest first; of one trade if a number is given, at one channel if a protocol is too."""
        if not number:
            return (entry for entry in reversed(self._entries.values()) if protocol in ("", entry.protocol, entry.channel))
        found = [entry for owner in _owners(number, protocol) if owner in self._owned for entry in self._owned[owner]]
        return iter(sorted(found, key=lambda entry: entry.serial, reverse=True))

    def dropped(self, number: str = "", protocol: str = "") -> int:
        """How many older entries of a trade (or of all) are gone."""
        if not number:
            return sum(self._dropped.values())
        return sum(self._dropped.get(owner, 0) for owner in _owners(number, protocol))

    def clear(self) -> None:
        """Forget all entries."""
        self._entries.clear()
        self._owned.clear()
        self._dropped.clear()

    @staticmethod
    def headers(headers: Mapping[str, str]) -> dict[str, str]:
        """What is kept of a request's headers: those that decide how it is read."""
        return {name: headers[name][:_HEADER_TEXT] for name in _REQUEST_HEADERS if name in headers}

    @staticmethod
    def text(raw: bytes) -> str:
        """What is kept of a body."""
        text = raw[:_TEXT].decode("utf-8", "backslashreplace")
        return text + ("…" if len(raw) > _TEXT else "")


def _owners(number: str, protocol: str) -> list[Owner]:
    return [(name, number) for name in (WECHATPAY_V3, ALIPAY) if protocol in ("", name)]
