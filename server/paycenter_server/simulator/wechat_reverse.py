"""WeChat Pay: a bar payment is reversed, over either protocol (channel sheet 2.4 and 3)."""

from __future__ import annotations

from paycenter_server.simulator.ledger import random_digits
from paycenter_server.simulator.model import Refund, Trade
from paycenter_server.simulator.state import Simulator

__all__ = ["REVERSE_SECONDS", "reverse", "too_soon"]

REVERSE_SECONDS = 7 * 86400
_PATIENCE_SECONDS = 15


def too_soon(simulator: Simulator, trade: Trade) -> str:
    """What the log should say of a reversal that live merchants are asked not to send yet; "" if it is late enough."""
    if simulator.clock.now() - trade.created >= _PATIENCE_SECONDS:
        return ""
    return "sooner than 15 seconds after the payment: WeChat asks for 15 seconds"


def reverse(simulator: Simulator, trade: Trade) -> None:
    """An unpaid trade can never be paid any more, a paid one's money goes back; again and again. Nobody is notified."""
    if trade.state == "REVOKED":
        return
    now, left = simulator.clock.now(), trade.paid_amount - trade.refunded
    with simulator.together(trade):
        if trade.paid and left:
            refund = Refund(
                "reverse" + trade.number,
                "503" + random_digits(26),
                left,
                trade.paid_amount,
                "reverse",
                "",
                now,
                now,
                state="SUCCESS",
                finished=now,
            )
            simulator.ledger.add_refund(trade, refund)
        simulator.ledger.revoke(trade, "reversed by the merchant")
