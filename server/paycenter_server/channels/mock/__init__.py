"""The channel for development: success, failure, time-out and late payment on request, without a network.

The `channel_extras` of a submit select the behaviour:
- `behaviour`: "success" (paid at once), "failure", "timeout" (unclear, then paid), "lost" (unclear, then not found), "late" (paid
  after `late_seconds`), "late_after_close" (as "late", and cannot be closed), "never";
- `late_seconds`: default 2;
- `refund`: "success" (default), "failure", "timeout" (unclear, then refunded), "pending" (refunded after 2 seconds),
  "lost" (accepted, then not found).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from paycenter_server.channels.protocol import (
    AttemptRef,
    Call,
    Callback,
    CallbackError,
    CallbackRequest,
    CallbackResponse,
    CloseOutcome,
    CloseStatus,
    Payment,
    PayOutcome,
    PayRequest,
    PayStatus,
    QueryOutcome,
    QueryStatus,
    RefundFacts,
    RefundOutcome,
    RefundRequest,
    RefundStatus,
    RequestContext,
)
from paycenter_server.channels.specs import Browser, CashierOffer, ChannelSpec, ConfigField, FieldKind, Scope
from paycenter_server.domain.errors import Violation

BEHAVIOURS = ("success", "failure", "timeout", "lost", "late", "late_after_close", "never")


class MockCodec:
    """Its answers depend on the request only, so that it has no state and survives restarts."""

    code = "mock"

    def __init__(self, config: Mapping[str, str]) -> None:
        self._behaviour = config.get("behaviour") or "success"
        self.account: Mapping[str, str] = {"mock": "mock"}

    def _behaviour_of(self, extras: Mapping[str, str]) -> str:
        return extras.get("behaviour") or self._behaviour

    def _payment(self, number: str, amount: int, currency: str, at: datetime) -> Payment:
        return Payment(number, f"MOCK-P-{number}", amount, currency, self.account, "mock-payer", at)

    def pay(self, request: PayRequest, context: RequestContext) -> PayOutcome:
        """The outcome depends on the behaviour."""
        behaviour = self._behaviour_of(request.extras)
        if behaviour == "success":
            payment = self._payment(request.out_trade_no, request.amount, request.currency, context.now)
            return PayOutcome(PayStatus.PAID, payment=payment)
        if behaviour == "failure":
            return PayOutcome(PayStatus.REFUSED, error_code="MOCK_FAILURE", error_message="the mock channel was asked to refuse")
        if behaviour in ("timeout", "lost"):
            return PayOutcome(PayStatus.UNKNOWN, error_code="MOCK_TIMEOUT", error_message="the mock channel was asked to time out")
        return PayOutcome(PayStatus.WAITING)

    def query(self, attempt: AttemptRef, context: RequestContext) -> QueryOutcome:
        """The outcome depends on the behaviour and the age of the attempt."""
        behaviour = self._behaviour_of(attempt.extras)
        late = attempt.create_time + timedelta(seconds=_late_seconds(attempt.extras))
        paid = behaviour in ("success", "timeout") or (behaviour.startswith("late") and context.now >= late)
        if paid:
            at = late if behaviour.startswith("late") else attempt.create_time
            return QueryOutcome(QueryStatus.PAID, self._payment(attempt.out_trade_no, attempt.amount, attempt.currency, at))
        if behaviour == "lost":
            return QueryOutcome(QueryStatus.NOT_FOUND)
        return QueryOutcome(QueryStatus.CLOSED if behaviour == "failure" else QueryStatus.WAITING)

    def close(self, attempt: AttemptRef, context: RequestContext) -> CloseOutcome:
        """The attempt is closed, unless it is paid or its behaviour is late_after_close."""
        if self.query(attempt, context).status is QueryStatus.PAID:
            return CloseOutcome(CloseStatus.PAID)
        stubborn = self._behaviour_of(attempt.extras) == "late_after_close"
        return CloseOutcome(CloseStatus.STILL_PAYABLE if stubborn else CloseStatus.CLOSED)

    def _refunded(self, request: RefundRequest, at: datetime) -> RefundOutcome:
        facts = RefundFacts(
            request.out_refund_no, request.out_trade_no, request.amount, self.account, f"MOCK-R-{request.out_refund_no}", at
        )
        return RefundOutcome(RefundStatus.SUCCESS, facts)

    def refund(self, request: RefundRequest, context: RequestContext) -> RefundOutcome:
        """The outcome depends on `refund` in the extras of the attempt."""
        behaviour = request.extras.get("refund") or "success"
        if behaviour == "failure":
            return RefundOutcome(RefundStatus.FAILED, None, "MOCK_FAILURE", "the mock channel was asked to refuse")
        if behaviour == "timeout":
            return RefundOutcome(RefundStatus.UNKNOWN, None, "MOCK_TIMEOUT", "the mock channel was asked to time out")
        if behaviour in ("pending", "lost"):
            return RefundOutcome(RefundStatus.PENDING)
        return self._refunded(request, context.now)

    def query_refund(self, request: RefundRequest, context: RequestContext) -> RefundOutcome:
        """The refund is done, unless its behaviour is failure or it is still pending."""
        behaviour = request.extras.get("refund") or "success"
        if behaviour == "failure":
            facts = RefundFacts(request.out_refund_no, request.out_trade_no, request.amount, self.account)
            return RefundOutcome(RefundStatus.FAILED, facts, "MOCK_FAILURE", "the mock channel was asked to refuse")
        if behaviour == "lost":
            return RefundOutcome(RefundStatus.NOT_FOUND)
        if behaviour == "pending" and context.now < request.create_time + timedelta(seconds=2):
            return RefundOutcome(RefundStatus.PENDING)
        return self._refunded(request, context.now)

    def parse_callback(self, request: CallbackRequest, now: datetime) -> Callback:
        """The mock channel sends no callbacks, because anybody could forge them."""
        raise CallbackError("the mock channel sends no callbacks")

    def acknowledge(self, received: bool, message: str) -> CallbackResponse:
        """The acknowledgement is plain text."""
        return CallbackResponse(200, b"success") if received else CallbackResponse(400, message.encode())

    def keys_due(self, now: datetime) -> bool:
        """It has no keys."""
        return False

    def fetch_keys(self, serial: str | None, context: RequestContext) -> Call[bool] | None:
        """It has no keys."""
        return None


def _late_seconds(extras: Mapping[str, str]) -> float:
    """The seconds of `late_seconds`; 2 if it is not a number of seconds up to a day."""
    given = extras.get("late_seconds", "")
    return float(given) if re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", given) else 2.0


def check(config: Mapping[str, str]) -> Sequence[Violation]:
    """The behaviour must be a known one."""
    behaviour = config.get("behaviour", "")
    if behaviour and behaviour not in BEHAVIOURS:
        return [Violation("behaviour", f"must be one of {', '.join(BEHAVIOURS)}")]
    return []


CHANNELS = (
    ChannelSpec(
        code="mock",
        family="mock",
        own_config=True,
        title="Mock",
        short_title="Mock",
        family_title="Test",
        display_modes=("",),
        config_fields=(
            ConfigField(
                "behaviour", scope=Scope.CHANNEL, label="Behaviour", kind=FieldKind.SELECT,
                choices=(("", "Pays at once"), *((name, name) for name in BEHAVIOURS[1:])),
            ),
        ),
        check=check,
        build=MockCodec,
        development_only=True,
        signed=False,
        cashier=CashierOffer(
            tuple(Browser), 90, {"zh": "模拟支付（开发）", "en": "Mock payment (development)"}, extras={"behaviour": "success"}
        ),
    ),
)  # fmt: skip
