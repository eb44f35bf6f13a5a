"""The wire log: the last requests and notifications with the result of the signature check, in memory."""

from __future__ import annotations

import itertools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from paycenter_server.simulator.trades import ALIPAY, WECHATPAY_V3

__all__ = ["MAX_PER_TRADE", "Exchange", "WireLog"]

MAX_PER_TRADE = 60
"""The limit per trade, so that frequent queries of one trade do not evict the exchanges of others."""
_MAX_WITHOUT_TRADE = 500
_MAX_ENTRIES = 5000
_MAX_TEXT_BYTES = 4096
_MAX_NUMBER_LENGTH = 64
_MAX_HEADER_LENGTH = 1000
_MAX_HEADERS = 40
_REQUEST_HEADERS = ("Host", "Authorization", "Wechatpay-Serial", "Content-Type", "Content-Length", "User-Agent", "Accept")

TradeKey = tuple[str, str]


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and its answer. direction: `in` (a call of the merchant) or `out` (a notification). verdict: the result
    of the signature check of a call, or how a notification was signed. status is 0 if there was no answer."""

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
        """v2 and v3 of WeChat Pay share their trades."""
        return ALIPAY if self.protocol == ALIPAY else WECHATPAY_V3

    @property
    def trade_key(self) -> TradeKey:
        """The channel and the number of the trade, or two empty strings."""
        return (self.channel, self.number) if self.number else ("", "")

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def set_answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Record the answer, truncated."""
        kept = itertools.islice(headers.items(), _MAX_HEADERS)
        self.status, self.answer_headers = status, {name: value[:_MAX_HEADER_LENGTH] for name, value in kept}
        self.answer_body = WireLog.text(body)


class WireLog:
    """The newest exchanges, limited per trade and in total. Adding an entry takes constant time."""

    def __init__(self) -> None:
        self._entries: OrderedDict[int, Exchange] = OrderedDict()
        self._by_trade: defaultdict[TradeKey, deque[Exchange]] = defaultdict(deque)
        self._dropped: defaultdict[TradeKey, int] = defaultdict(int)
        self._serials = itertools.count(1)

    def add(self, moment: float, direction: str, protocol: str, api: str, number: str, method: str, url: str) -> Exchange:
        """Add an entry; the caller fills in the rest."""
        number = number if len(number) <= _MAX_NUMBER_LENGTH else ""
        entry = Exchange(next(self._serials), moment, direction, protocol, api, number, method, url[:_MAX_TEXT_BYTES])
        self._entries[entry.serial] = entry
        self._add_to_trade(entry)
        if len(self._entries) > _MAX_ENTRIES:
            self._drop(next(iter(self._entries.values())))
        return entry

    def set_number(self, entry: Exchange, number: str) -> None:
        """Assign an entry to a trade."""
        if number == entry.number:
            return
        if entry.serial in self._entries:  # the entry may have been dropped
            self._by_trade[entry.trade_key].remove(entry)
            entry.number = number
            self._add_to_trade(entry)

    def _add_to_trade(self, entry: Exchange) -> None:
        entries = self._by_trade[entry.trade_key]
        entries.append(entry)
        if len(entries) > (MAX_PER_TRADE if entry.number else _MAX_WITHOUT_TRADE):
            self._drop(entries[0])

    def _drop(self, entry: Exchange) -> None:
        entries = self._by_trade[entry.trade_key]
        entries.remove(entry)
        del self._entries[entry.serial]
        self._dropped[entry.trade_key] += 1
        if not entries:
            del self._by_trade[entry.trade_key]

    def newest(self, number: str = "", protocol: str = "") -> Iterator[Exchange]:
        """Entries, newest first; of one trade if a number is given, of one channel if a protocol is given."""
        if not number:
            return (entry for entry in reversed(self._entries.values()) if protocol in ("", entry.protocol, entry.channel))
        found = [entry for key in _trade_keys(number, protocol) if key in self._by_trade for entry in self._by_trade[key]]
        return iter(sorted(found, key=lambda entry: entry.serial, reverse=True))

    def dropped(self, number: str = "", protocol: str = "") -> int:
        """How many older entries of a trade, or of all trades, were dropped."""
        if not number:
            return sum(self._dropped.values())
        return sum(self._dropped.get(key, 0) for key in _trade_keys(number, protocol))

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self._by_trade.clear()
        self._dropped.clear()

    @staticmethod
    def headers(headers: Mapping[str, str]) -> dict[str, str]:
        """The logged part of a request's headers."""
        return {name: headers[name][:_MAX_HEADER_LENGTH] for name in _REQUEST_HEADERS if name in headers}

    @staticmethod
    def text(raw: bytes) -> str:
        """The logged part of a body."""
        text = raw[:_MAX_TEXT_BYTES].decode("utf-8", "backslashreplace")
        return text + ("…" if len(raw) > _MAX_TEXT_BYTES else "")


def _trade_keys(number: str, protocol: str) -> list[TradeKey]:
    return [(name, number) for name in (WECHATPAY_V3, ALIPAY) if protocol in ("", name)]
