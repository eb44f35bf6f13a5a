"""The payer at the bar: the merchant scanned a code, and the money comes at once, later, or never; the same for every protocol."""

from __future__ import annotations

from paycenter_server.simulator import actions
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.model import Trade
from paycenter_server.simulator.state import Simulator

__all__ = ["WAITING", "asked", "charge", "decline"]

WAITING = ("user_paying", "in_process", "bank_error")
"""Faults with which the payer has to confirm first."""


def charge(simulator: Simulator, trade: Trade, rule: FaultRule | None) -> bool:
    """Take the money, and notify whom the channel notifies; False if the payer has yet to confirm."""
    if rule is None or rule.fault not in WAITING:
        actions.pay(simulator, trade, actions.PayOptions())
        return True
    trade.state, trade.queries_left = "USERPAYING", -1 if rule.queries is None else max(rule.queries, 0)
    trade.record(simulator.clock.now(), "the payer has to confirm")
    simulator.ledger.save(trade)
    return False


def decline(simulator: Simulator, trade: Trade, why: str) -> None:
    """The payer's means refuse; the trade can never be paid."""
    trade.state = "PAYERROR"
    trade.record(simulator.clock.now(), f"declined: {why}")
    simulator.ledger.save(trade)


def asked(simulator: Simulator, trade: Trade | None) -> None:
    """The merchant queries: a payer who was to confirm after so many queries does so when they are over."""
    if trade is None or trade.state != "USERPAYING" or trade.queries_left < 0:
        return
    if trade.queries_left == 0 and not trade.expired(simulator.clock.now()):
        actions.pay(simulator, trade, actions.PayOptions())
    elif trade.queries_left:
        trade.queries_left -= 1
        simulator.ledger.save(trade)
