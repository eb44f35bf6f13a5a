"""Booking of payments, from callbacks, queries and immediate answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import structlog

from paycenter_server.channels.protocol import Payment, Refunded
from paycenter_server.domain.apps import PayApp, SurplusPolicy
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.cases import CaseKind
from paycenter_server.domain.events import Cause
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.money import fee
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import AttemptState, OrderEvent, OrderState
from paycenter_server.services import notifications_payloads as payloads
from paycenter_server.services.cases import Cases
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.services.context import Context
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage import payments as payment_rows
from paycenter_server.storage.database import Transaction, WriteConnection

log = structlog.get_logger(__name__)


class Booked(StrEnum):
    """BOOKED: the payment is booked. ALREADY: it was booked before. SURPLUS: there is a case for it."""

    BOOKED = "BOOKED"
    ALREADY = "ALREADY"
    SURPLUS = "SURPLUS"


class FactsMismatchError(Exception):
    """The facts of a verified message do not match: another account, or no amount. It books nothing (rule 4)."""


class BeingCancelledError(Exception):
    """The channel was requested to cancel this payment, which refunds it. Only a later query decides."""


def compare_identity(configured: ConfiguredChannel, account: Mapping[str, str], now: datetime) -> None:
    """FactsMismatchError if a message is not of the merchant whose keys verified it (rule 4).

    Only the merchant is compared: other applications of the merchant may pay over the same account.
    """
    if name := configured.differing_fact(account, now, identity=True):
        raise FactsMismatchError(f"the message's {name} is not the account's")


def compare_account(configured: ConfiguredChannel, account: Mapping[str, str], now: datetime) -> None:
    """FactsMismatchError if a message about an attempt or refund of this binding names another account or way to pay (rule 4)."""
    if name := configured.differing_fact(account, now):
        raise FactsMismatchError(f"the message's {name} is not the channel's")


@dataclass(frozen=True, slots=True)
class Known:
    """An attempt and its order, as they were read together. They may have changed since: the statement that books compares them."""

    order: PayOrder
    attempt: PayAttempt


class Payments:
    """Books verified payments, each once."""

    def __init__(self, context: Context, cases: Cases) -> None:
        self._context = context
        self._cases = cases

    async def known(self, out_trade_no: str) -> Known | None:
        """Read the attempt with this out_trade_no, and its order; None if there is none."""
        attempt_id = decode(Prefix.ATTEMPT, out_trade_no)
        async with self._context.database.connection() as connection:
            found = await order_rows.read_of_attempt(connection, attempt_id) if attempt_id else None
        return Known(*found) if found else None

    async def book(
        self,
        configured: ConfiguredChannel,
        payment: Payment,
        cause: Cause,
        snapshot: payment_rows.QuerySnapshot | None = None,
        *,
        known: Known | None = None,
    ) -> Booked:
        """Compare the facts with the attempt. Book them in one statement, or open a case if they cannot be booked.

        `configured`: the binding of the attempt; for a number that is not known here, the one that verified the message.

        `snapshot`: the query to which these facts are the answer. BeingCancelledError if they may be older than a cancellation.

        `known`: the rows of the number, if the caller has read them.
        """
        if payment.amount is None or payment.amount <= 0 or not payment.currency:
            raise FactsMismatchError("the message names no amount or currency")
        if known is None or known.attempt.out_trade_no != payment.out_trade_no:
            known = await self.known(payment.out_trade_no)
        attempt = self._ours(known, configured, payment)
        booked = attempt is not None and attempt.state is AttemptState.SUCCESS
        if known is not None and attempt is not None and not booked and self._fits(attempt, payment):
            async with self._context.database.connection() as connection:
                done = await self._settle(connection, configured, known.order, attempt, payment, cause, snapshot=snapshot)
            if done:
                self._context.wake_up.send()
                return Booked.BOOKED
        if attempt is not None and booked:
            if payment.amount != attempt.paid_amount:
                # The channel contradicts itself. Which amount is true is not to be guessed.
                await self._cases.another_amount(attempt, payment.amount, cause)
            return Booked.ALREADY
        if attempt is None:
            compare_identity(configured, payment.account, self._context.now())
            await self._cases.unknown_payment(configured.channel, configured.account, payment, cause)
            return Booked.SURPLUS
        return await self._surplus(configured, attempt, payment, cause, snapshot)

    def _ours(self, known: Known | None, configured: ConfiguredChannel, payment: Payment) -> PayAttempt | None:
        """The attempt of a payment; None if no attempt of this account has its number."""
        if known is None or known.attempt.account_id != configured.account.id:
            return None
        compare_account(configured, payment.account, self._context.now())
        return known.attempt

    @staticmethod
    def _fits(attempt: PayAttempt, payment: Payment) -> bool:
        return payment.amount == attempt.amount and payment.currency == attempt.currency and payment.refunded is Refunded.NOTHING

    async def _settle(
        self,
        connection: WriteConnection,
        configured: ConfiguredChannel,
        order: PayOrder,
        attempt: PayAttempt,
        payment: Payment,
        cause: Cause,
        event: OrderEvent = OrderEvent.PAID,
        *,
        closed_attempt: bool = False,
        snapshot: payment_rows.QuerySnapshot | None,
    ) -> bool:
        now = self._context.now()
        rate = attempt.booked_rate(configured.channel.fee_rate_ppm)
        success_time = payment.success_time or now
        booking = payment_rows.Booking(
            order_id=order.id,
            attempt_id=attempt.id,
            channel_id=attempt.channel_id,
            channel_code=attempt.channel_code,
            amount=attempt.amount,
            channel_order_no=payment.channel_order_no[:64],
            channel_user_id=payment.channel_user_id[:255],
            success_time=success_time,
            fee_rate_ppm=rate,
            fee_amount=fee(attempt.amount, rate),
        )
        task = payloads.order_paid(
            order,
            self._context.new_key(now),
            now,
            amount=attempt.amount,
            channel_code=attempt.channel_code,
            out_trade_no=attempt.out_trade_no,
            channel_order_no=booking.channel_order_no,
            success_time=success_time,
        )
        return await payment_rows.settle(
            connection, booking, task, now, event, cause, closed_attempt=closed_attempt, snapshot=snapshot
        )

    async def _surplus(
        self,
        configured: ConfiguredChannel,
        attempt: PayAttempt,
        payment: Payment,
        cause: Cause,
        snapshot: payment_rows.QuerySnapshot | None,
    ) -> Booked:
        """The booking statement changed nothing: read both rows again under lock, and decide."""
        now = self._context.now()
        async with self._context.database.transaction() as connection:
            order = await order_rows.lock_order(connection, attempt.order_id)
            current = await attempt_rows.lock_attempt(connection, attempt.id)
            if order is None or current is None:
                raise FactsMismatchError("the attempt has gone")
            if current.state is AttemptState.SUCCESS:
                if payment.amount is not None and payment.amount != current.paid_amount:
                    await self._cases.another_amount(current, payment.amount, cause, connection)
                return Booked.ALREADY
            if not (snapshot.counts(current.cancel_until) if snapshot else current.cancel_until is None):
                raise BeingCancelledError("the channel was requested to cancel it, and the result is not known yet")
            app = await app_rows.get_app_by_id(connection, order.app_id)
            if app is None:
                raise FactsMismatchError("the app has gone")
            kind = self._kind(order, current, payment)
            event = self._acceptable(kind, payment, app)
            if event is not None and await self._settle(
                connection, configured, order, current, payment, cause, event, closed_attempt=True, snapshot=snapshot
            ):
                result = Booked.BOOKED
            else:
                kind = kind or CaseKind.DUPLICATE_PAYMENT
                await self._book_as_case(connection, kind, app, order, current, payment, cause)
                result = Booked.SURPLUS
            if payment.refunded is not Refunded.NOTHING:
                await self._cases.refunded_before_booked(connection, current, payment.refunded, cause)
        log.warning("payment_is_surplus", kind=kind, result=result.value, out_trade_no=attempt.out_trade_no, at=now.isoformat())
        self._context.wake_up.send()
        return result

    @staticmethod
    def _kind(order: PayOrder, attempt: PayAttempt, payment: Payment) -> CaseKind | None:
        """Why the order cannot take the payment; None if it can (it is WAITING, and the amount matches)."""
        if payment.currency != attempt.currency:
            return CaseKind.WRONG_CURRENCY
        if payment.amount != attempt.amount:
            return CaseKind.WRONG_AMOUNT
        if order.state in (OrderState.SUCCESS, OrderState.REFUND):
            return CaseKind.DUPLICATE_PAYMENT
        if attempt.amount != order.amount:
            return CaseKind.WRONG_AMOUNT
        return CaseKind.LATE_PAYMENT if order.state is OrderState.CLOSED else None

    @staticmethod
    def _acceptable(kind: CaseKind | None, payment: Payment, app: PayApp) -> OrderEvent | None:
        """How the payment is booked; None if it becomes a case. A closed order does not take money that has been refunded."""
        if kind is None:
            return OrderEvent.PAID
        if kind is CaseKind.LATE_PAYMENT and payment.refunded is Refunded.NOTHING:
            return OrderEvent.LATE_PAYMENT_ACCEPTED if app.policy(kind) is SurplusPolicy.ACCEPT else None
        return None

    async def _book_as_case(
        self,
        transaction: Transaction,
        kind: CaseKind,
        app: PayApp,
        order: PayOrder,
        attempt: PayAttempt,
        payment: Payment,
        cause: Cause,
    ) -> None:
        now = self._context.now()
        await attempt_rows.pay_late(
            transaction,
            attempt.id,
            cause,
            amount=payment.amount or 0,
            channel_order_no=payment.channel_order_no[:64],
            channel_user_id=payment.channel_user_id[:255],
            success_time=payment.success_time or now,
            now=now,
        )
        await order_rows.count_for_submits(transaction, order.id)
        await self._cases.surplus(transaction, kind, app, order, attempt, payment, cause)
