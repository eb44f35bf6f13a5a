"""Actions of the payer, of the merchant's console and of the channel itself, the same for every protocol."""

from __future__ import annotations

from dataclasses import dataclass, fields

from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.inputs import MAX_FEN, MAX_SECONDS, check_integer, check_number
from paycenter_server.simulator.notifications import Notification
from paycenter_server.simulator.state import Simulator
from paycenter_server.simulator.trades import ALIPAY, Refund, Trade, new_refund_id, random_text

__all__ = [
    "CONFIRMATION_FAULTS",
    "ActionRefusedError",
    "PayOptions",
    "charge",
    "close",
    "confirm_on_query",
    "decline",
    "fail",
    "finish",
    "pay",
    "refund",
    "resend",
    "scan",
]

_FORCED_STATES = ("NOTPAY", "USERPAYING", "PAYERROR", "REVOKED", "CLOSED")
_MAX_SENDS = 100
_MAX_PAYER_LENGTH = 128


class ActionRefusedError(Exception):
    """The state of the trade does not allow the action."""


@dataclass(frozen=True, slots=True)
class PayOptions:
    """Options of a payment. amount: fen that the channel reports as paid, if not the true amount. times: sends of the notification.
    delay_seconds: delay of the first send, by the clock. bad_signature: how many of the first sends have a wrong signature (true is
    1). force: pay a closed or expired trade."""

    amount: int | None = None
    times: int = 1
    delay_seconds: float = 0.0
    bad_signature: int = 0
    notify: bool = True
    payer: str = ""
    force: bool = False

    @classmethod
    def parse(cls, document: object) -> PayOptions:
        """From JSON. ValueError if an option is unknown or invalid."""
        if not isinstance(document, dict):
            raise ValueError("the body must be a JSON object")
        known = {item.name for item in fields(cls)}
        if set(document) - known:
            raise ValueError(f"unknown fields: {', '.join(sorted(set(document) - known))}; known: {', '.join(sorted(known))}")
        options = cls(**document)
        if options.amount is not None:
            check_integer(options.amount, "amount", 0, MAX_FEN)
        check_integer(options.times, "times", 0, _MAX_SENDS)
        if not isinstance(options.bad_signature, bool):  # true means 1
            check_integer(options.bad_signature, "bad_signature", 0, _MAX_SENDS)
        check_number(options.delay_seconds, "delay_seconds", 0, MAX_SECONDS)
        if (
            not isinstance(options.payer, str)
            or len(options.payer) > _MAX_PAYER_LENGTH
            or not all(isinstance(value, bool) for value in (options.notify, options.force))
        ):
            raise ValueError(f"payer must be text of at most {_MAX_PAYER_LENGTH} characters, notify and force true or false")
        return options


def scan(simulator: Simulator, trade: Trade) -> None:
    """The payer opens the cashier: an Alipay QR code becomes a trade."""
    if not trade.exists and not trade.expired(simulator.clock.now()):
        trade.exists = True
        trade.record(simulator.clock.now(), "scanned")
        simulator.trades.save(trade)


def pay(simulator: Simulator, trade: Trade, options: PayOptions) -> None:
    """Pay the trade and queue the notification, atomically. NotPayableError as in TradeStore.pay."""
    with simulator.transaction(trade):
        simulator.trades.pay(trade, amount=options.amount, payer=options.payer, force=options.force)
        if options.notify and options.times:
            _notify_payment(simulator, trade, options)


def _notify_payment(simulator: Simulator, trade: Trade, options: PayOptions) -> None:
    delay, wrong = float(options.delay_seconds), int(options.bad_signature)
    simulator.channel(trade).notify_payment(trade, delay=delay, copies=options.times, wrong_signatures=wrong)


def fail(simulator: Simulator, trade: Trade, state: str = "") -> None:
    """The payment fails without a notification. The trade stays payable, unless it is a code payment or `state` is given."""
    if trade.paid:
        raise ActionRefusedError("the trade is paid already")
    if state and state not in _FORCED_STATES:
        raise ValueError(f"state must be one of {', '.join(_FORCED_STATES)}")
    scan(simulator, trade)
    trade.state = state or ("PAYERROR" if trade.is_code_payment else trade.state)
    trade.queries_left = -1
    trade.record(simulator.clock.now(), "payment failed" + (f", state forced to {state}" if state else ""))
    simulator.trades.save(trade)


def close(simulator: Simulator, trade: Trade) -> None:
    """The channel closes the trade."""
    if trade.paid:
        raise ActionRefusedError("the trade is paid already")
    simulator.trades.close(trade, "closed by the channel")


def finish(simulator: Simulator, trade: Trade) -> None:
    """Alipay: the refund period ends (TRADE_FINISHED)."""
    if trade.protocol != ALIPAY or not trade.paid:
        raise ActionRefusedError("only a paid Alipay trade finishes")
    with simulator.transaction(trade):
        trade.finished = True
        trade.record(simulator.clock.now(), "finished")
        simulator.trades.save(trade)
        simulator.channel(trade).notify_payment(trade)


def refund(simulator: Simulator, trade: Trade, amount: int | None, notify_url: str | None = None) -> Refund:
    """A refund made in the merchant's console. Alipay notifies the payment's notify_url. WeChat Pay sends v2 XML to `notify_url`,
    or to the address in the console if that is None."""
    left = trade.paid_amount - trade.refunded
    amount = left if amount is None else amount
    if not trade.paid or not 0 < amount <= left:
        raise ActionRefusedError(f"{left} fen can be refunded")
    now = simulator.clock.now()
    created = Refund(
        "console" + random_text(16),
        new_refund_id(),
        amount,
        trade.paid_amount,
        "console",
        simulator.settings.refund_notify_url if notify_url is None else notify_url,
        now,
        now + simulator.channel(trade).refund_delay_seconds,
        signer=trade.signer,
        by_console=True,
        xml=True,
    )
    simulator.trades.add_refund(trade, created)
    return created


def resend(simulator: Simulator, trade: Trade, *, every: bool = False) -> list[Notification]:
    """Send the newest notification, or every one, again. A paid trade without a notification gets one now."""
    notifications = simulator.notifier.of(trade)
    if not notifications:
        if not trade.paid:
            raise ActionRefusedError("there is nothing to send yet")
        _notify_payment(simulator, trade, PayOptions())
        return simulator.notifier.of(trade)
    chosen = list(notifications) if every else notifications[-1:]
    for notification in chosen:
        simulator.notifier.resend(notification)
    return chosen


CONFIRMATION_FAULTS = ("user_paying", "in_process", "bank_error")
"""Faults after which the payer has to confirm the payment."""


def charge(simulator: Simulator, trade: Trade, rule: FaultRule | None) -> bool:
    """Pay a code payment. False if the payer has to confirm first."""
    if rule is None or rule.fault not in CONFIRMATION_FAULTS:
        pay(simulator, trade, PayOptions())
        return True
    trade.state, trade.queries_left = "USERPAYING", -1 if rule.queries is None else max(rule.queries, 0)
    trade.record(simulator.clock.now(), "the payer has to confirm")
    simulator.trades.save(trade)
    return False


def decline(simulator: Simulator, trade: Trade, why: str) -> None:
    """The payment is declined. The trade cannot be paid any more."""
    trade.state = "PAYERROR"
    trade.record(simulator.clock.now(), f"declined: {why}")
    simulator.trades.save(trade)


def confirm_on_query(simulator: Simulator, trade: Trade | None) -> None:
    """Count a query of the merchant. The payer confirms when the number of queries of the fault rule is reached."""
    if trade is None or trade.state != "USERPAYING" or trade.queries_left < 0:
        return
    if trade.queries_left == 0 and not trade.expired(simulator.clock.now()):
        pay(simulator, trade, PayOptions())
    elif trade.queries_left:
        trade.queries_left -= 1
        simulator.trades.save(trade)
