"""The entries of bills, and the bill files. Amounts are integers in fen; days are in China time."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from paycenter_server.simulator.clock import CHINA, Clock
from paycenter_server.simulator.trades import Refund, Trade, TradeStore

__all__ = ["BillEntry", "BillFiles", "Period", "fee_of", "fund_entries", "plain_text", "trade_entries", "two_decimals"]

_FEE_PER_MILLE = 6
_MAX_FILES = 100


def fee_of(fen: int) -> int:
    """0.6 %, rounded to the nearest fen."""
    return (fen * _FEE_PER_MILLE + 500) // 1000


def two_decimals(fen: int) -> str:
    """Yuan with two decimals."""
    return f"{'-' if fen < 0 else ''}{abs(fen) // 100}.{abs(fen) % 100:02d}"


def plain_text(text: str) -> str:
    """A merchant's text without the characters that separate CSV fields."""
    return text.replace(",", "，").replace("\r", " ").replace("\n", " ").replace("\t", " ").replace("`", "'")


@dataclass(frozen=True)
class Period:
    """From the start of `first` to the end of `last`."""

    first: datetime.date
    last: datetime.date

    @classmethod
    def parse(cls, text: str, form: str) -> Period:
        """One day (`%Y-%m-%d`, `%Y%m%d`) or a month (`%Y-%m`). ValueError if it is neither."""
        day = datetime.datetime.strptime(text, form).replace(tzinfo=CHINA).date()
        if day.strftime(form) != text:
            raise ValueError("the date is not complete")
        if not 2000 <= day.year < 2100:
            raise ValueError("the year must be between 2000 and 2099")
        if "%d" in form:
            return cls(day, day)
        following = (day.replace(day=28) + datetime.timedelta(days=4)).replace(day=1)
        return cls(day, following - datetime.timedelta(days=1))

    def __contains__(self, moment: float) -> bool:
        return self.first <= datetime.datetime.fromtimestamp(moment, CHINA).date() <= self.last

    def over(self, now: float) -> bool:
        """Whether the last day has ended."""
        return datetime.datetime.fromtimestamp(now, CHINA).date() > self.last


@dataclass(frozen=True)
class BillEntry:
    """A payment (refund is None) or a refund, with its time."""

    moment: float
    trade: Trade
    refund: Refund | None = None

    @property
    def amount(self) -> int:
        """The amount in fen, always positive."""
        return self.refund.amount if self.refund else self.trade.paid_amount


def _of(trades: Iterable[Trade], protocol: str, *, done: bool) -> list[BillEntry]:
    entries = []
    for trade in trades:
        if trade.protocol != protocol or not trade.paid:
            continue
        entries.append(BillEntry(trade.paid_at, trade))
        for refund in trade.refunds:
            if not done:
                entries.append(BillEntry(refund.created, trade, refund))
            elif refund.state == "SUCCESS":
                entries.append(BillEntry(refund.finished, trade, refund))
    return sorted(entries, key=lambda entry: entry.moment)


def trade_entries(trades: TradeStore, protocol: str, period: Period) -> list[BillEntry]:
    """Payments, and all refunds on the day of their request."""
    return [entry for entry in _of(trades.newest(), protocol, done=False) if entry.moment in period]


def fund_entries(trades: TradeStore, protocol: str) -> list[BillEntry]:
    """Payments, and successful refunds on the day of their completion. All days, because the balance needs them."""
    return _of(trades.newest(), protocol, done=True)


class BillFiles:
    """Bill files that can be downloaded, in memory only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._files: dict[str, tuple[float, bytes]] = {}

    def put(self, content: bytes, seconds: float) -> str:
        """Add a file; returns the token of its download address, which is valid for `seconds`."""
        token = secrets.token_urlsafe(24)
        self._files[token] = (self._clock.now() + seconds, content)
        while len(self._files) > _MAX_FILES:
            del self._files[next(iter(self._files))]
        return token

    def get(self, token: str) -> bytes | None:
        """The file, if the token is valid."""
        due, content = self._files.get(token, (0.0, b""))
        return content if self._clock.now() < due else None

    def clear(self) -> None:
        """Remove all files."""
        self._files.clear()
