"""What happened in a span of days, read from the ledger for the bills. Money is int fen, days are China's."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from paycenter_server.simulator.clock import CHINA, Clock
from paycenter_server.simulator.ledger import Ledger
from paycenter_server.simulator.model import Refund, Trade

__all__ = ["BillShelf", "Fact", "Span", "fee_of", "fund_facts", "plain_text", "trade_facts", "two_decimals"]

_FEE_PER_MILLE = 6
_KEPT = 100


def fee_of(fen: int) -> int:
    """0.6 %, to the nearest fen."""
    return (fen * _FEE_PER_MILLE + 500) // 1000


def two_decimals(fen: int) -> str:
    """Yuan with two decimals, negative ones too."""
    return f"{'-' if fen < 0 else ''}{abs(fen) // 100}.{abs(fen) % 100:02d}"


def plain_text(text: str) -> str:
    """A merchant's text that cannot break a line of CSV."""
    return text.replace(",", "，").replace("\r", " ").replace("\n", " ").replace("\t", " ").replace("`", "'")


@dataclass(frozen=True)
class Span:
    """From the start of `first` to the end of `last`."""

    first: datetime.date
    last: datetime.date

    @classmethod
    def parse(cls, text: str, form: str) -> Span:
        """One day (`%Y-%m-%d`, `%Y%m%d`) or a month (`%Y-%m`). ValueError if it is neither."""
        day = datetime.datetime.strptime(text, form).replace(tzinfo=CHINA).date()
        if day.strftime(form) != text:
            raise ValueError("not written in full")
        if not 2000 <= day.year < 2100:
            raise ValueError("outside the time that the simulator knows")
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
class Fact:
    """A payment (no refund) or a refund, and when."""

    moment: float
    trade: Trade
    refund: Refund | None = None

    @property
    def amount(self) -> int:
        """Fen that moved, always positive."""
        return self.refund.amount if self.refund else self.trade.paid_amount


def _of(trades: Iterable[Trade], protocol: str, *, done: bool) -> list[Fact]:
    facts = []
    for trade in trades:
        if trade.protocol != protocol or not trade.paid:
            continue
        facts.append(Fact(trade.paid_at, trade))
        for refund in trade.refunds:
            if not done:
                facts.append(Fact(refund.created, trade, refund))
            elif refund.state == "SUCCESS":
                facts.append(Fact(refund.finished, trade, refund))
    return sorted(facts, key=lambda fact: fact.moment)


def trade_facts(ledger: Ledger, protocol: str, span: Span) -> list[Fact]:
    """Payments, and refunds on the day they were accepted, whatever became of them."""
    return [fact for fact in _of(ledger.newest(), protocol, done=False) if fact.moment in span]


def fund_facts(ledger: Ledger, protocol: str) -> list[Fact]:
    """Since the beginning (balances need it): payments, and refunds when their money went."""
    return _of(ledger.newest(), protocol, done=True)


class BillShelf:
    """Files that wait for their download, in memory; a restart forgets them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._files: dict[str, tuple[float, bytes]] = {}

    def put(self, content: bytes, seconds: float) -> str:
        """The token under which it can be fetched for so long."""
        token = secrets.token_urlsafe(24)
        self._files[token] = (self._clock.now() + seconds, content)
        while len(self._files) > _KEPT:
            del self._files[next(iter(self._files))]
        return token

    def get(self, token: str) -> bytes | None:
        """The file, if its time is not over."""
        due, content = self._files.get(token, (0.0, b""))
        return content if self._clock.now() < due else None

    def clear(self) -> None:
        """Forget all."""
        self._files.clear()
