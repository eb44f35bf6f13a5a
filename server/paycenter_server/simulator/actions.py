"""What a person or a script makes a payer, or the merchant's console, do; the same for every protocol."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import quote

from paycenter_server.simulator import (
    alipay_notices,
    alipay_trades,
    wechat_notices,
    wechat_orders,
    wechat_v2_notices,
    wechat_xml,
)
from paycenter_server.simulator.clock import rfc3339
from paycenter_server.simulator.inputs import MOST_FEN, MOST_SECONDS, finite, whole
from paycenter_server.simulator.ledger import random_text
from paycenter_server.simulator.model import ALIPAY, Notice, Refund, Trade
from paycenter_server.simulator.state import Simulator
from paycenter_server.simulator.wechat_refunds import new_refund_id

__all__ = [
    "ActionRefusedError",
    "PayOptions",
    "close",
    "expire_if_due",
    "fail",
    "finish",
    "pay",
    "refund",
    "refund_finished",
    "resend",
    "scan",
    "trade_document",
    "wire_state",
]

_FORCED_STATES = ("NOTPAY", "USERPAYING", "PAYERROR", "REVOKED", "CLOSED")
_MOST_SENDS = 100
_LONGEST_PAYER = 128


class ActionRefusedError(Exception):
    """The trade is not in a state for this."""


@dataclass(frozen=True, slots=True)
class PayOptions:
    """How a payment is played. amount: fen that the channel claims, for a channel that lies. times: sends of the notification.
    delay_seconds: of the clock, before the first send. bad_signature: how many sends are wrongly signed first (true is 1). force:
    pay although closed or expired, a late payment."""

    amount: int | None = None
    times: int = 1
    delay_seconds: float = 0.0
    bad_signature: int = 0
    notify: bool = True
    payer: str = ""
    force: bool = False

    @classmethod
    def parse(cls, document: object) -> PayOptions:
        """From JSON; ValueError says what is wrong."""
        if not isinstance(document, dict):
            raise ValueError("the body must be a JSON object")
        known = {item.name for item in fields(cls)}
        if set(document) - known:
            raise ValueError(f"unknown fields: {', '.join(sorted(set(document) - known))}; known: {', '.join(sorted(known))}")
        options = cls(**document)
        if options.amount is not None:
            whole(options.amount, "amount", 0, MOST_FEN)
        whole(options.times, "times", 0, _MOST_SENDS)
        if not isinstance(options.bad_signature, bool):  # true stands for one
            whole(options.bad_signature, "bad_signature", 0, _MOST_SENDS)
        finite(options.delay_seconds, "delay_seconds", 0, MOST_SECONDS)
        if (
            not isinstance(options.payer, str)
            or len(options.payer) > _LONGEST_PAYER
            or not all(isinstance(value, bool) for value in (options.notify, options.force))
        ):
            raise ValueError(f"payer must be text of at most {_LONGEST_PAYER} characters, notify and force true or false")
        return options


def wire_state(trade: Trade) -> str:
    """What the channel's own query shows."""
    if trade.protocol == ALIPAY:
        return alipay_trades.trade_status(trade) if trade.exists else "TRADE_NOT_EXIST"
    return wechat_orders.trade_state(trade)


def expire_if_due(simulator: Simulator, trade: Trade) -> None:
    """Alipay closes what nobody paid in time; WeChat leaves it NOTPAY."""
    if trade.protocol == ALIPAY and trade.exists and trade.waiting and trade.expired(simulator.clock.now()):
        simulator.ledger.close(trade, "closed because nobody paid in time")


def scan(simulator: Simulator, trade: Trade) -> None:
    """The payer opens the cashier: an Alipay QR code becomes a trade."""
    if not trade.exists and not trade.expired(simulator.clock.now()):
        trade.exists = True
        trade.record(simulator.clock.now(), "scanned")
        simulator.ledger.save(trade)


def pay(simulator: Simulator, trade: Trade, options: PayOptions) -> None:
    """Money and notification become durable together. NotPayableError as in Ledger.pay."""
    with simulator.together(trade):
        simulator.ledger.pay(trade, amount=options.amount, payer=options.payer, force=options.force)
        if options.notify and options.times:
            _notify_payment(simulator, trade, options)


def _notify_payment(simulator: Simulator, trade: Trade, options: PayOptions) -> None:
    delay, copies, wrong = float(options.delay_seconds), options.times, int(options.bad_signature)
    notifier = simulator.notifier
    if trade.protocol == ALIPAY:
        alipay_notices.notify_payment(notifier, simulator.keys, trade, delay=delay, copies=copies, wrong_signatures=wrong)
    elif trade.v2:
        wechat_v2_notices.notify_payment(notifier, trade, delay=delay, copies=copies, wrong_signatures=wrong)
    else:
        wechat_notices.notify_payment(notifier, trade, delay=delay, copies=copies, wrong_signatures=wrong)


def fail(simulator: Simulator, trade: Trade, state: str = "") -> None:
    """The payer tries and fails. Neither channel notifies, and the trade stays payable, unless it was a bar payment or a script
    forces a state."""
    if trade.paid:
        raise ActionRefusedError("the trade is paid already")
    if state and state not in _FORCED_STATES:
        raise ValueError(f"state must be one of {', '.join(_FORCED_STATES)}")
    scan(simulator, trade)
    trade.state = state or ("PAYERROR" if trade.at_the_bar else trade.state)
    trade.queries_left = -1
    trade.record(simulator.clock.now(), "payment failed" + (f", state forced to {state}" if state else ""))
    simulator.ledger.save(trade)


def close(simulator: Simulator, trade: Trade) -> None:
    """The channel closes the trade by itself."""
    if trade.paid:
        raise ActionRefusedError("the trade is paid already")
    simulator.ledger.close(trade, "closed by the channel")


def finish(simulator: Simulator, trade: Trade) -> None:
    """Alipay: the time for refunds is over (TRADE_FINISHED)."""
    if trade.protocol != ALIPAY or not trade.paid:
        raise ActionRefusedError("only a paid Alipay trade finishes")
    with simulator.together(trade):
        trade.finished = True
        trade.record(simulator.clock.now(), "finished")
        simulator.ledger.save(trade)
        alipay_notices.notify_payment(simulator.notifier, simulator.keys, trade, delay=0.0, copies=1, wrong_signatures=0)


def refund(simulator: Simulator, trade: Trade, amount: int | None, notify_url: str | None = None) -> Refund:
    """A refund made in the merchant's console. Alipay tells the payment's notify_url; WeChat the address that merchants configure,
    unless another (or "", none) is given here, and in v2 XML."""
    left = trade.paid_amount - trade.refunded
    amount = left if amount is None else amount
    if not trade.paid or not 0 < amount <= left:
        raise ActionRefusedError(f"{left} fen can be refunded")
    now = simulator.clock.now()
    delay = 0.0 if trade.protocol == ALIPAY else simulator.config.refund_delay_seconds
    created = Refund(
        "console" + random_text(16),
        new_refund_id(),
        amount,
        trade.paid_amount,
        "console",
        simulator.settings.refund_notify_url if notify_url is None else notify_url,
        now,
        now + delay,
        signer=trade.signer,
        by_console=True,
        xml=True,
    )
    simulator.ledger.add_refund(trade, created)
    return created


def refund_finished(simulator: Simulator, trade: Trade, item: Refund) -> None:
    """Told by the ledger when a refund leaves PROCESSING."""
    if trade.protocol == ALIPAY:
        alipay_notices.notify_refund(simulator.notifier, simulator.keys, trade, item)
    elif item.xml:
        payload = wechat_xml.refund_payload(trade, item)
        simulator.notifier.send(trade, "v2 refund", item.notify_url, payload, "", form=wechat_xml.WECHATPAY_V2)
    else:
        wechat_notices.notify_refund(simulator.notifier, trade, item)


def resend(simulator: Simulator, trade: Trade, *, every: bool = False) -> list[Notice]:
    """Send the newest notification (or every one) once more; a paid trade that never notified does so now."""
    notices = simulator.notifier.of(trade)
    if not notices:
        if not trade.paid:
            raise ActionRefusedError("there is nothing to send yet")
        _notify_payment(simulator, trade, PayOptions())
        return simulator.notifier.of(trade)
    chosen = list(notices) if every else notices[-1:]
    for notice in chosen:
        simulator.notifier.resend(notice)
    return chosen


def trade_document(simulator: Simulator, trade: Trade, base_url: str) -> dict[str, Any]:
    """A trade for scripts: amounts in fen, times RFC 3339."""
    expire_if_due(simulator, trade)
    stamp = {
        name: rfc3339(value) if value else ""
        for name, value in (
            ("created", trade.created),
            ("expires", trade.expires),
            ("paid_at", trade.paid_at),
            ("closed_at", trade.closed_at),
        )
    }
    return {
        "protocol": trade.protocol,
        "api": trade.api,
        "out_trade_no": trade.number,
        "transaction_id": trade.transaction_id,
        "state": trade.state,
        "wire_state": wire_state(trade),
        "paid": trade.paid,
        "expired": not trade.paid and trade.expired(simulator.clock.now()),
        "amount": trade.amount,
        "paid_amount": trade.paid_amount,
        "refunded": trade.refunded,
        "currency": "CNY",
        "subject": trade.subject,
        "payer": trade.payer,
        "notify_url": trade.notify_url,
        "code": trade.code,
        "cashier_url": f"{base_url}/cashier/{quote(trade.number, safe='')}?protocol={trade.protocol}",
        **stamp,
        "refunds": [
            {
                "number": item.number,
                "refund_id": item.refund_id,
                "amount": item.amount,
                "state": item.state,
                "reason": item.reason,
                "by_console": item.by_console,
            }
            for item in trade.refunds
        ],
        "notifications": [
            {
                "id": notice.id,
                "event": notice.event,
                "url": notice.url,
                "state": notice.state,
                "step": notice.step,
                "next": rfc3339(notice.due) if notice.state == "WAITING" else "",
                "attempts": list(notice.attempts),
            }
            for notice in simulator.notifier.of(trade)
        ],
        "events": [{"time": rfc3339(moment), "what": what} for moment, what in trade.events],
    }
