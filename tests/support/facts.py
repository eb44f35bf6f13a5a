"""The facts that a channel states about a payment or a refund, as values, for tests behind the codecs."""

from __future__ import annotations

from typing import Any

from paycenter_server.channels.protocol import Payment, RefundFacts, RefundOutcome, RefundStatus
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.services.channels_configured import ConfiguredChannel

from support.system import PayCenterSystem


async def configured(system: PayCenterSystem, code: str) -> ConfiguredChannel:
    """A channel of the system by its code (`other:mock` for that of another app)."""
    key = decode(Prefix.CHANNEL, system.channels[code])
    assert key is not None
    return await system.services.gateway.channels.get(key)


def payment_of(channel: ConfiguredChannel, attempt: PayAttempt, **changes: Any) -> Payment:
    """The payment that matches an attempt, except for the changes."""
    values: dict[str, Any] = {
        "out_trade_no": attempt.out_trade_no, "channel_order_no": f"C-{attempt.out_trade_no}", "amount": attempt.amount,
        "currency": attempt.currency, "account": dict(channel.codec.account), **changes,
    }  # fmt: skip
    return Payment(**values)


def refund_facts(channel: ConfiguredChannel, refund: PayRefund, **changes: Any) -> RefundFacts:
    """The facts that match a refund, except for the changes."""
    values: dict[str, Any] = {
        "out_refund_no": refund.out_refund_no, "out_trade_no": refund.out_trade_no, "amount": refund.amount,
        "account": dict(channel.codec.account), **changes,
    }  # fmt: skip
    return RefundFacts(**values)


def refunded(channel: ConfiguredChannel, refund: PayRefund, **changes: Any) -> RefundOutcome:
    """The channel has made this refund."""
    return RefundOutcome(RefundStatus.SUCCESS, refund_facts(channel, refund, **changes))


def failed(channel: ConfiguredChannel, refund: PayRefund, **changes: Any) -> RefundOutcome:
    """The channel has finally refused this refund."""
    return RefundOutcome(RefundStatus.FAILED, refund_facts(channel, refund, **changes), "REFUSED", "no")
