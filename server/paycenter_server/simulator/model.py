"""What the simulated channels know: trades, refunds, notifications. Amounts are int fen, times seconds of the simulator's clock."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["ALIPAY", "BAR", "WECHATPAY_V3", "Notice", "Refund", "Trade"]

WECHATPAY_V3 = "wechatpay_v3"
ALIPAY = "alipay"
BAR = "micropay"
_EVENTS_KEPT = 100


@dataclass(slots=True)
class Refund:
    """One refund of a trade.

    number is the merchant's (`out_refund_no`, `out_request_no`); state is PROCESSING, then `outcome` (SUCCESS, ABNORMAL or CLOSED)
    when the clock passes `finishes`. signer names the key that signs its notification, unless that is v2 XML.
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
        """Whether its amount is taken from what may still be refunded."""
        return self.state != "CLOSED"


@dataclass(slots=True)
class Trade:
    """One trade of one merchant at one channel.

    state is NOTPAY, SUCCESS or CLOSED, or what a script forced (USERPAYING, PAYERROR, REVOKED); how refunds show is each protocol's
    affair. exists is false for an Alipay trade whose QR code nobody has scanned. expires 0 means never. digest stands for the
    parameters of the create, so that the same number with others is refused. queries_left: the payer of a bar payment pays
    unprompted after so many queries, never when negative. v2: WeChat, created over the XML protocol, so that is how it notifies.
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
        """Unique over protocols."""
        return f"{self.protocol}:{self.number}"

    @property
    def waiting(self) -> bool:
        """Whether the payer may still pay."""
        return self.state in ("NOTPAY", "USERPAYING")

    @property
    def at_the_bar(self) -> bool:
        """Whether the merchant scanned the payer's code, so that no cashier of the payer's is open."""
        return self.api == BAR

    @property
    def paid(self) -> bool:
        """Whether money came in, even if it went back since."""
        return self.paid_at > 0

    @property
    def refunded(self) -> int:
        """Fen given back or on their way back."""
        return sum(refund.amount for refund in self.refunds if refund.counts)

    def expired(self, now: float) -> bool:
        """Whether the time to pay is over."""
        return bool(self.expires) and now >= self.expires

    def refund(self, number: str) -> Refund | None:
        """The refund with this number."""
        return next((refund for refund in self.refunds if refund.number == number), None)

    def record(self, moment: float, what: str) -> None:
        """Add a line to the trade's own history."""
        self.events.append([moment, what])
        del self.events[:-_EVENTS_KEPT]

    def document(self) -> dict[str, Any]:
        """For the store."""
        return asdict(self)

    def restore(self, document: dict[str, Any]) -> None:
        """Be as the store has it again; refunds that are under way keep being the same objects."""
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
        """From the store."""
        refunds = [Refund(**refund) for refund in document.pop("refunds")]
        return cls(**document, refunds=refunds)


@dataclass(slots=True)
class Notice:
    """One notification and how its sending goes.

    payload is what is told, before encryption and signing. step counts the sends of the ladder that have been done, due is when the
    next one is; state is WAITING, DONE (accepted) or GAVE_UP. wrong_signatures is how many of the next sends carry a wrong one.
    held: a fault rule put the next send off once, and must not again.
    """

    id: str
    protocol: str
    trade_key: str
    event: str
    url: str
    payload: dict[str, Any]
    signer: str
    created: float
    due: float
    step: int = 0
    state: str = "WAITING"
    wrong_signatures: int = 0
    held: bool = False
    attempts: list[dict[str, Any]] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """For the store."""
        return asdict(self)
