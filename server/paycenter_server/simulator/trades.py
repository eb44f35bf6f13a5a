"""Trades and refunds of all simulated channels, and their state changes, independent of the protocol.

Amounts are integers in fen. Times are seconds of the simulator's clock.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from paycenter_server.simulator.clock import Clock, Scheduler
from paycenter_server.simulator.store import DocumentStore

__all__ = [
    "ALIPAY",
    "CODE_PAYMENT",
    "WECHATPAY_V3",
    "NotPayableError",
    "Refund",
    "Trade",
    "TradeStore",
    "new_refund_id",
    "random_digits",
    "random_text",
]

WECHATPAY_V3 = "wechatpay_v3"
ALIPAY = "alipay"
CODE_PAYMENT = "micropay"
_MAX_EVENTS = 100


@dataclass(slots=True)
class Refund:
    """One refund of a trade.

    number is the merchant's number (`out_refund_no`, `out_request_no`). state is PROCESSING until the clock reaches `finishes`,
    then `outcome` (SUCCESS, ABNORMAL or CLOSED). signer is the key that signs the notification. xml: the notification has the
    format of WeChat Pay v2, which has no signature.
    """

    number: str
    refund_id: str
    amount: int
    total: int
    reason: str
    notify_url: str
    created: float
    finishes: float
    outcome: str = "SUCCESS"
    state: str = "PROCESSING"
    finished: float = 0.0
    signer: str = ""
    by_console: bool = False
    xml: bool = False

    @property
    def counts(self) -> bool:
        """Whether its amount reduces the refundable amount."""
        return self.state != "CLOSED"


@dataclass(slots=True)
class Trade:
    """One trade of one merchant at one channel.

    state is NOTPAY, SUCCESS, CLOSED, USERPAYING, PAYERROR or REVOKED. Each protocol derives from it and from the refunds what its
    queries show. exists is false for an Alipay trade whose QR code has not been scanned. expires is 0 if the trade does not expire.
    digest identifies the parameters of the create, so that a repetition with other parameters is refused. queries_left is the
    number of queries after which the payer of a payment code confirms; the payer never confirms if it is negative. v2: the trade
    was created over WeChat Pay v2, so its payment notification has the v2 format.
    """

    protocol: str
    api: str
    number: str
    transaction_id: str
    amount: int
    subject: str
    app_id: str
    merchant_id: str
    notify_url: str
    code: str
    digest: str
    created: float
    expires: float = 0.0
    return_url: str = ""
    attach: str = ""
    state: str = "NOTPAY"
    exists: bool = True
    finished: bool = False
    paid_amount: int = 0
    paid_at: float = 0.0
    closed_at: float = 0.0
    payer: str = ""
    signer: str = ""
    quit_url: str = ""
    queries_left: int = -1
    v2: bool = False
    refunds: list[Refund] = field(default_factory=list)
    events: list[list[Any]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Unique across protocols."""
        return f"{self.protocol}:{self.number}"

    @property
    def waiting(self) -> bool:
        """Whether the payer may still pay."""
        return self.state in ("NOTPAY", "USERPAYING")

    @property
    def is_code_payment(self) -> bool:
        """Whether the merchant scanned the payer's payment code."""
        return self.api == CODE_PAYMENT

    @property
    def paid(self) -> bool:
        """Whether a payment succeeded, even if it has been refunded since."""
        return self.paid_at > 0

    @property
    def refunded(self) -> int:
        """Fen of all refunds that succeeded or are in progress."""
        return sum(refund.amount for refund in self.refunds if refund.counts)

    def expired(self, now: float) -> bool:
        """Whether the time to pay is over."""
        return bool(self.expires) and now >= self.expires

    def refund(self, number: str) -> Refund | None:
        """The refund with this number."""
        return next((refund for refund in self.refunds if refund.number == number), None)

    def record(self, moment: float, what: str) -> None:
        """Add a line to the history of the trade."""
        self.events.append([moment, what])
        del self.events[:-_MAX_EVENTS]

    def document(self) -> dict[str, Any]:
        """For the document store."""
        return asdict(self)

    def restore(self, document: dict[str, Any]) -> None:
        """Reset all fields to the stored document. Refunds keep their identity, because scheduled jobs refer to them."""
        known = {refund.number: refund for refund in self.refunds}
        self.refunds = []
        for stored in document.pop("refunds"):
            refund = known.get(stored["number"]) or Refund(**stored)
            for name, value in stored.items():
                setattr(refund, name, value)
            self.refunds.append(refund)
        for name, value in document.items():
            setattr(self, name, value)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Trade:
        """From the document store."""
        refunds = [Refund(**refund) for refund in document.pop("refunds")]
        return cls(**document, refunds=refunds)


class NotPayableError(Exception):
    """The trade is paid, closed or expired."""


_CHARACTERS = string.ascii_letters + string.digits


def random_digits(count: int) -> str:
    """Random decimal digits, for the channel's own numbers."""
    return f"{secrets.randbelow(10**count):0{count}}"


def random_text(count: int) -> str:
    """Random letters and digits, for codes, nonces and open ids."""
    # One call of the random source: one for each character would be a fifth of the time of a request.
    number, characters = secrets.randbelow(len(_CHARACTERS) ** count), []
    for _ in range(count):
        number, place = divmod(number, len(_CHARACTERS))
        characters.append(_CHARACTERS[place])
    return "".join(characters)


def new_refund_id() -> str:
    """The channel's own number of a refund, in the format of WeChat Pay."""
    return "503" + random_digits(26)


class TradeStore:
    """All trades. Every change is written to the document store before the method returns."""

    def __init__(self, store: DocumentStore, clock: Clock, scheduler: Scheduler) -> None:
        self._store, self.clock, self._scheduler = store, clock, scheduler
        self._trades: dict[str, Trade] = {}
        self._by_transaction: dict[str, str] = {}
        self._by_refund: dict[tuple[str, str], str] = {}
        self.refund_finished: Callable[[Trade, Refund], None] = lambda trade, refund: None
        """Called when a refund leaves PROCESSING."""

    def load(self) -> None:
        """Read the document store and schedule the refunds that are PROCESSING."""
        for document in sorted(self._store.all("trade"), key=lambda item: float(item["created"])):
            trade = Trade.from_document(document)
            self._index(trade)
            for refund in trade.refunds:
                if refund.state == "PROCESSING":
                    self._schedule(trade, refund)

    def clear(self) -> None:
        """Remove all trades from memory. The caller clears the document store."""
        self._trades.clear()
        self._by_transaction.clear()
        self._by_refund.clear()

    def save(self, trade: Trade) -> None:
        """Store the trade. If that fails, the trade in memory is reset to the stored state."""
        try:
            self._store.put("trade", trade.key, trade.document())
        except Exception:
            self.reload(trade)
            raise
        self._index(trade)

    def reload(self, trade: Trade) -> None:
        """Reset the trade to the stored state; a trade that is not stored is removed."""
        document = self._store.get("trade", trade.key)
        if document is not None:
            trade.restore(document)
        elif self._trades.get(trade.key) is trade:
            del self._trades[trade.key]
            self._by_transaction.pop(trade.transaction_id, None)

    def _index(self, trade: Trade) -> None:
        self._trades[trade.key] = trade
        self._by_transaction[trade.transaction_id] = trade.key
        for refund in trade.refunds:
            self._by_refund[trade.protocol, refund.number] = trade.key

    def get(self, protocol: str, number: str = "", transaction_id: str = "") -> Trade | None:
        """A trade by the merchant's number, or by the channel's number if that is empty."""
        key = f"{protocol}:{number}" if number else self._by_transaction.get(transaction_id, "")
        trade = self._trades.get(key)
        return trade if trade is not None and trade.protocol == protocol else None

    def by_key(self, key: str) -> Trade | None:
        """A trade by `Trade.key`."""
        return self._trades.get(key)

    def by_refund(self, protocol: str, number: str) -> Trade | None:
        """The trade that has the refund with this number, which is unique per merchant at WeChat Pay."""
        return self._trades.get(self._by_refund.get((protocol, number), ""))

    def by_refund_id(self, protocol: str, refund_id: str) -> Trade | None:
        """The trade that has the refund with the channel's own number."""
        return next(
            (
                trade
                for trade in self._trades.values()
                if trade.protocol == protocol and any(item.refund_id == refund_id for item in trade.refunds)
            ),
            None,
        )

    def find(self, number: str, protocol: str = "") -> Trade | None:
        """The newest trade with this number, of the given protocol or of any."""
        known = (self._trades.get(f"{name}:{number}") for name in (WECHATPAY_V3, ALIPAY) if protocol in ("", name))
        return max((trade for trade in known if trade is not None), key=lambda trade: trade.created, default=None)

    def by_code(self, code: str) -> Trade | None:
        """The trade whose QR code contains this text."""
        return next((trade for trade in self._trades.values() if trade.code == code), None)

    def newest(self) -> Iterable[Trade]:
        """All trades, newest first."""
        return reversed(self._trades.values())

    def pay(self, trade: Trade, *, amount: int | None = None, payer: str = "", force: bool = False) -> None:
        """Record a payment. NotPayableError if the trade is paid or, unless `force` is set, closed or expired."""
        now = self.clock.now()
        if trade.paid:
            raise NotPayableError("the trade is paid already")
        if not force:
            if not trade.waiting:
                raise NotPayableError(f"the trade is {trade.state}")
            if trade.expired(now):
                raise NotPayableError("the trade has expired")
        trade.record(now, f"paid {trade.amount if amount is None else amount} fen" + (" although not payable" if force else ""))
        trade.exists = True
        trade.state, trade.queries_left = "SUCCESS", -1
        trade.paid_amount = trade.amount if amount is None else amount
        trade.paid_at = now
        trade.payer = payer or trade.payer or "o" + random_text(27)
        self.save(trade)

    def close(self, trade: Trade, why: str) -> None:
        """Close the trade: it cannot be paid any more."""
        self._end(trade, "CLOSED", why)

    def revoke(self, trade: Trade, why: str) -> None:
        """Reverse a code payment. The caller adds the refund of a paid one."""
        self._end(trade, "REVOKED", why)

    def _end(self, trade: Trade, state: str, why: str) -> None:
        trade.state, trade.queries_left = state, -1
        trade.closed_at = self.clock.now()
        trade.record(trade.closed_at, why)
        self.save(trade)

    def add_refund(self, trade: Trade, refund: Refund) -> None:
        """Add a refund. If it is PROCESSING, it finishes when the clock reaches `finishes`."""
        trade.refunds.append(refund)
        trade.record(refund.created, f"refund {refund.number} of {refund.amount} fen, {refund.state}")
        self.save(trade)
        if refund.state == "PROCESSING":
            self._schedule(trade, refund)

    def retry_refund(self, trade: Trade, refund: Refund, finishes: float) -> None:
        """Process an ABNORMAL refund again; it will succeed."""
        refund.state, refund.outcome, refund.finishes = "PROCESSING", "SUCCESS", finishes
        trade.record(self.clock.now(), f"refund {refund.number} retried")
        self.save(trade)
        self._schedule(trade, refund)

    def _schedule(self, trade: Trade, refund: Refund) -> None:
        async def finish() -> None:
            # After a reset the trade may not exist, or a new trade may have its number.
            if refund.state != "PROCESSING" or self._trades.get(trade.key) is not trade:
                return
            refund.state = refund.outcome
            refund.finished = self.clock.now()
            trade.record(refund.finished, f"refund {refund.number} {refund.state}")
            self.save(trade)
            self.refund_finished(trade, refund)

        self._scheduler.schedule(refund.finishes, finish)
