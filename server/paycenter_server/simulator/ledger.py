"""The trades of all simulated channels and what can happen to them, whatever the protocol."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Iterable

from paycenter_server.simulator.agenda import Agenda
from paycenter_server.simulator.clock import Clock
from paycenter_server.simulator.model import ALIPAY, WECHATPAY_V3, Refund, Trade
from paycenter_server.simulator.store import Store

__all__ = ["Ledger", "NotPayableError", "random_digits", "random_text"]

RefundListener = Callable[[Trade, Refund], None]


class NotPayableError(Exception):
    """The trade is paid, closed or expired."""


def random_digits(count: int) -> str:
    """Decimal digits for the channels' own numbers."""
    return "".join(secrets.choice(string.digits) for _ in range(count))


def random_text(count: int) -> str:
    """Letters and digits, for codes, nonces and open ids."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(count))


class Ledger:
    """Every change goes to the store before the caller can answer anybody."""

    def __init__(self, store: Store, clock: Clock, agenda: Agenda) -> None:
        self._store, self.clock, self._agenda = store, clock, agenda
        self._trades: dict[str, Trade] = {}
        self._by_transaction: dict[str, str] = {}
        self._by_refund: dict[tuple[str, str], str] = {}
        self._listeners: dict[str, RefundListener] = {}

    def on_refund_finished(self, protocol: str, listener: RefundListener) -> None:
        """Who notifies when a refund of this protocol leaves PROCESSING."""
        self._listeners[protocol] = listener

    def load(self) -> None:
        """Read the store and take up the refunds that were under way."""
        for document in sorted(self._store.all("trade"), key=lambda item: float(item["created"])):
            trade = Trade.from_document(document)
            self._index(trade)
            for refund in trade.refunds:
                if refund.state == "PROCESSING":
                    self._schedule(trade, refund)

    def clear(self) -> None:
        """Forget all trades (the store is cleared by the caller)."""
        self._trades.clear()
        self._by_transaction.clear()
        self._by_refund.clear()

    def save(self, trade: Trade) -> None:
        """Write through; what cannot be stored is not in memory either."""
        try:
            self._store.put("trade", trade.key, trade.document())
        except Exception:
            self.reload(trade)
            raise
        self._index(trade)

    def reload(self, trade: Trade) -> None:
        """Back to what the store has, which may be nothing."""
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

    # -- finding

    def get(self, protocol: str, number: str = "", transaction_id: str = "") -> Trade | None:
        """A trade by the merchant's number or else the channel's."""
        key = f"{protocol}:{number}" if number else self._by_transaction.get(transaction_id, "")
        trade = self._trades.get(key)
        return trade if trade is not None and trade.protocol == protocol else None

    def by_key(self, key: str) -> Trade | None:
        """A trade by `Trade.key`."""
        return self._trades.get(key)

    def by_refund(self, protocol: str, number: str) -> Trade | None:
        """The trade that has the refund with this number, which is unique per merchant on WeChat."""
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
        """The newest trade with this number, of any protocol unless one is named."""
        known = (self._trades.get(f"{name}:{number}") for name in (WECHATPAY_V3, ALIPAY) if protocol in ("", name))
        return max((trade for trade in known if trade is not None), key=lambda trade: trade.created, default=None)

    def by_code(self, code: str) -> Trade | None:
        """The trade behind a QR code's text."""
        return next((trade for trade in self._trades.values() if trade.code == code), None)

    def newest(self) -> Iterable[Trade]:
        """All trades, newest first."""
        return reversed(self._trades.values())

    # -- happenings

    def pay(self, trade: Trade, *, amount: int | None = None, payer: str = "", force: bool = False) -> None:
        """Money comes in. NotPayableError if it cannot, unless forced (a late payment); a second payment is never possible."""
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
        """Nobody can pay any more."""
        self._end(trade, "CLOSED", why)

    def revoke(self, trade: Trade, why: str) -> None:
        """A bar payment is reversed; the money of a paid one goes back as a refund that the caller adds."""
        self._end(trade, "REVOKED", why)

    def _end(self, trade: Trade, state: str, why: str) -> None:
        trade.state, trade.queries_left = state, -1
        trade.closed_at = self.clock.now()
        trade.record(trade.closed_at, why)
        self.save(trade)

    def add_refund(self, trade: Trade, refund: Refund) -> None:
        """Accept a refund; it finishes when its time comes."""
        trade.refunds.append(refund)
        trade.record(refund.created, f"refund {refund.number} of {refund.amount} fen, {refund.state}")
        self.save(trade)
        if refund.state == "PROCESSING":
            self._schedule(trade, refund)

    def retry_refund(self, trade: Trade, refund: Refund, finishes: float) -> None:
        """Take up an abnormal refund again."""
        refund.state, refund.outcome, refund.finishes = "PROCESSING", "SUCCESS", finishes
        trade.record(self.clock.now(), f"refund {refund.number} taken up again")
        self.save(trade)
        self._schedule(trade, refund)

    def _schedule(self, trade: Trade, refund: Refund) -> None:
        async def finish() -> None:
            # After a reset the trade may be gone, or a new one may have its number.
            if refund.state != "PROCESSING" or self._trades.get(trade.key) is not trade:
                return
            refund.state = refund.outcome
            refund.finished = self.clock.now()
            trade.record(refund.finished, f"refund {refund.number} {refund.state}")
            self.save(trade)
            listener = self._listeners.get(trade.protocol)
            if listener is not None:
                listener(trade, refund)

        self._agenda.at(refund.finishes, finish)
