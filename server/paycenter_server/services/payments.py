"""Booking what a channel says was paid. Every payment comes through here: callbacks, queries and immediate answers."""

from __future__ import annotations

from contextlib import AsyncExitStack
from enum import StrEnum
from typing import Any

import structlog

from paycenter_server.channels.protocol import Payment, Refunded
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.models import CaseKind, PayApp, PayAttempt, PayCase, PayOrder, PayRefund, SurplusPolicy
from paycenter_server.domain.money import fee
from paycenter_server.domain.states import AttemptState, CaseState, OrderEvent, OrderState, RefundState
from paycenter_server.services import notifications_payloads as payloads
from paycenter_server.services.channels_gateway import ConfiguredChannel
from paycenter_server.services.context import Context
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage import payments as payment_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage.database import Connection

log = structlog.get_logger(__name__)
CALLBACK_DATA_MAX = 16_384
# Marks of the cases about all that was given back of a trade.
TOLD = ("refunded", "cancelled")


class Booked(StrEnum):
    """BOOKED: the order is paid by this. ALREADY: it was before. SURPLUS: a case holds it."""

    BOOKED = "BOOKED"
    ALREADY = "ALREADY"
    SURPLUS = "SURPLUS"


class FactsMismatchError(Exception):
    """A verified message whose facts are not ours: another account, or no amount. It books nothing (rule 4)."""


class BeingCancelledError(Exception):
    """The channel was asked to cancel this payment, which gives the money back; only a query asked well after that decides."""


class Payments:
    """Turns verified facts into state, exactly once."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def book(
        self, configured: ConfiguredChannel, payment: Payment, raw: str, asked: payment_rows.QuerySnapshot | None = None
    ) -> Booked:
        """Compare the facts with the attempt, then book them in one statement, or open a case for what cannot be booked.

        `asked`: the question to which these facts are the answer. BeingCancelledError if they may be older than a cancellation.
        """
        self._compare_account(configured, payment)
        if payment.amount is None or payment.amount <= 0 or not payment.currency:
            raise FactsMismatchError("the message names no amount or currency")
        attempt_id = decode(Prefix.ATTEMPT, payment.out_trade_no)
        async with self._context.database.connection() as connection:
            attempt = await attempt_rows.get_attempt(connection, attempt_id) if attempt_id else None
            if attempt is None or attempt.channel_id != configured.channel.id:
                await self._unknown_order(connection, configured, payment, raw)
                return Booked.SURPLUS
            if attempt.state is AttemptState.SUCCESS:
                return Booked.ALREADY
            if payment.amount == attempt.amount and payment.currency == attempt.currency and payment.refunded is Refunded.NOTHING:
                order = await order_rows.get_order(connection, attempt.order_id)
                if order is not None and await self._settle(connection, configured, order, attempt, payment, raw, asked=asked):
                    self._context.wake_up.send()
                    return Booked.BOOKED
        return await self._surplus(configured, attempt, payment, raw, asked)

    def _compare_account(self, configured: ConfiguredChannel, payment: Payment) -> None:
        for name, ours in configured.codec.account.items():
            if payment.account.get(name) != ours:
                raise FactsMismatchError(f"the message's {name} is not the channel's")

    async def _settle(
        self,
        connection: Connection,
        configured: ConfiguredChannel,
        order: PayOrder,
        attempt: PayAttempt,
        payment: Payment,
        raw: str,
        event: OrderEvent = OrderEvent.PAID,
        *,
        closed_attempt: bool = False,
        asked: payment_rows.QuerySnapshot | None,
    ) -> bool:
        now = self._context.now()
        rate = configured.channel.fee_rate_ppm
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
            callback_data=raw[:CALLBACK_DATA_MAX],
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
        return await payment_rows.settle(connection, booking, task, now, event, closed_attempt=closed_attempt, asked=asked)

    async def _surplus(
        self,
        configured: ConfiguredChannel,
        attempt: PayAttempt,
        payment: Payment,
        raw: str,
        asked: payment_rows.QuerySnapshot | None,
    ) -> Booked:
        """The one statement did not apply: look again with both rows held, and decide."""
        now = self._context.now()
        async with self._context.database.transaction() as connection:
            order = await order_rows.get_order(connection, attempt.order_id, lock=True)
            current = await attempt_rows.get_attempt(connection, attempt.id, lock=True)
            if order is None or current is None:
                raise FactsMismatchError("the attempt has gone")
            if current.state is AttemptState.SUCCESS:
                return Booked.ALREADY
            if not (asked.counts(current.cancel_until) if asked else current.cancel_until is None):
                raise BeingCancelledError("the channel was asked to cancel it, and has not said yet how that ended")
            app = await app_rows.get_app_by_id(connection, order.app_id)
            if app is None:
                raise FactsMismatchError("the app has gone")
            kind = self._kind(order, current, payment)
            event = self._acceptable(kind, order, app)
            if event is not None and await self._settle(
                connection, configured, order, current, payment, raw, event, closed_attempt=True, asked=asked
            ):
                result = Booked.BOOKED
            else:
                kind = kind or CaseKind.DUPLICATE_PAYMENT
                await self._open_case(connection, configured, kind, app, order, current, payment, raw)
                result = Booked.SURPLUS
            if payment.refunded is not Refunded.NOTHING:
                # Booked for the first time, and given back already: not by a refund of ours.
                why = "refunded at the channel before the payment was known here"
                await self._conflict(current, "refunded", why, raw, connection)
        log.warning("payment_out_of_turn", kind=kind, result=result.value, out_trade_no=attempt.out_trade_no, at=now.isoformat())
        self._context.wake_up.send()
        return result

    @staticmethod
    def _kind(order: PayOrder, attempt: PayAttempt, payment: Payment) -> CaseKind | None:
        """Why the money does not fit; None if it does after all (the order waits, and the amount is the right one)."""
        if payment.amount != attempt.amount or payment.currency != attempt.currency:
            return CaseKind.WRONG_AMOUNT
        if order.state in (OrderState.SUCCESS, OrderState.REFUND):
            return CaseKind.DUPLICATE_PAYMENT
        if attempt.amount != order.amount:
            return CaseKind.WRONG_AMOUNT
        return CaseKind.LATE_PAYMENT if order.state is OrderState.CLOSED else None

    @staticmethod
    def _acceptable(kind: CaseKind | None, order: PayOrder, app: PayApp) -> OrderEvent | None:
        if kind is None:
            return OrderEvent.PAID
        if kind is CaseKind.LATE_PAYMENT and app.surplus_policy is SurplusPolicy.ACCEPT:
            return OrderEvent.LATE_PAYMENT_ACCEPTED
        return None

    async def _open_case(
        self,
        connection: Connection,
        configured: ConfiguredChannel,
        kind: CaseKind,
        app: PayApp,
        order: PayOrder,
        attempt: PayAttempt,
        payment: Payment,
        raw: str,
    ) -> None:
        now = self._context.now()
        amount = payment.amount or 0
        await attempt_rows.pay_late(
            connection,
            attempt.id,
            amount=amount,
            channel_order_no=payment.channel_order_no[:64],
            channel_user_id=payment.channel_user_id[:255],
            success_time=payment.success_time or now,
            callback_data=raw[:CALLBACK_DATA_MAX],
            now=now,
        )
        # A foreign currency cannot be refunded by an amount of ours: a person looks at it.
        refunds = app.surplus_policy is SurplusPolicy.REFUND and payment.currency == attempt.currency
        case = PayCase(
            id=self._context.new_key(now),
            kind=kind,
            state=CaseState.REFUNDING if refunds else CaseState.OPEN,
            app_id=app.id,
            channel_id=configured.channel.id,
            order_id=order.id,
            attempt_id=attempt.id,
            refund_id=self._context.new_key(now) if refunds else None,
            reference=attempt.out_trade_no,
            amount=amount,
            currency=(payment.currency or "")[:8],
            detail={"channel_order_no": payment.channel_order_no, "order_state": order.state.value, "sent": attempt.amount},
            create_time=now,
            update_time=now,
        )
        if await case_rows.insert_case(connection, case) and refunds:
            await refund_rows.insert_refund(connection, self._surplus_refund(case, app, order, attempt, amount))

    def _surplus_refund(self, case: PayCase, app: PayApp, order: PayOrder, attempt: PayAttempt, amount: int) -> PayRefund:
        """Due at once: the refund job sends it. It is the attempt's money, so no order reserves it; one per case."""
        now = case.create_time
        return PayRefund(
            id=case.refund_id or self._context.new_key(now),
            app_id=app.id,
            app_key=app.app_key,
            order_id=order.id,
            attempt_id=attempt.id,
            channel_id=attempt.channel_id,
            channel_code=attempt.channel_code,
            case_id=case.id,
            merchant_order_id=order.merchant_order_id,
            merchant_refund_no=f"surplus-{case.number}",
            out_refund_key=self._context.new_key(now),
            amount=amount,
            total_amount=amount,
            currency=attempt.currency,
            reason="重复或超时支付退款",
            notification_url=app.refund_notification_url,
            state=RefundState.WAITING,
            send_count=1,
            channel_refund_no=None,
            channel_error_code=None,
            channel_error_message=None,
            success_time=None,
            next_check_time=now,
            check_count=0,
            create_time=now,
            update_time=now,
        )

    async def _unknown_order(self, connection: Connection, configured: ConfiguredChannel, payment: Payment, raw: str) -> None:
        """Paid under a number that is not an attempt of this channel: kept for a person, whoever it belongs to."""
        now = self._context.now()
        detail: dict[str, Any] = {"channel_order_no": payment.channel_order_no, "raw": raw[:CALLBACK_DATA_MAX]}
        case = PayCase(
            id=self._context.new_key(now),
            kind=CaseKind.UNKNOWN_ORDER,
            state=CaseState.OPEN,
            app_id=configured.channel.app_id,
            channel_id=configured.channel.id,
            order_id=None,
            attempt_id=None,
            refund_id=None,
            reference=f"{configured.channel.number}:{payment.out_trade_no}"[:128],
            amount=payment.amount,
            currency=(payment.currency or "")[:8],
            detail=detail,
            create_time=now,
            update_time=now,
        )
        if await case_rows.insert_case(connection, case):
            log.error("payment_of_unknown_order", out_trade_no=payment.out_trade_no, channel=configured.channel.number)

    async def closed_after_booking(self, attempt: PayAttempt) -> None:
        """Booked as paid here, and then closed or cancelled at the channel: a person looks at it."""
        await self._conflict(attempt, "cancelled", "closed or cancelled at the channel after it was booked as paid here", "")

    async def _conflict(self, attempt: PayAttempt, mark: str, why: str, raw: str, connection: Connection | None = None) -> None:
        now = self._context.now()
        case = PayCase(
            id=self._context.new_key(now), kind=CaseKind.REFUND_MISMATCH, state=CaseState.OPEN, app_id=attempt.app_id,
            channel_id=attempt.channel_id, order_id=attempt.order_id, attempt_id=attempt.id, refund_id=None,
            reference=f"{attempt.out_trade_no}:{mark}", amount=None, currency=attempt.currency,
            detail={"why": why, "raw": raw[:CALLBACK_DATA_MAX]}, create_time=now, update_time=now,
        )  # fmt: skip
        async with AsyncExitStack() as stack:
            where = connection or await stack.enter_async_context(self._context.database.transaction())
            await attempt_rows.get_attempt(where, attempt.id, lock=True)  # one case, whoever tells of it first
            if not await case_rows.conflict_is_open(where, attempt.id) and await case_rows.insert_case(where, case):
                log.error("refund_conflict", out_trade_no=attempt.out_trade_no, why=why)

    async def stale(self, attempt: PayAttempt) -> None:
        """An attempt that the channel has not decided a day after its expiry: a person should look; the sync goes on."""
        now = self._context.now()
        case = PayCase(
            id=self._context.new_key(now), kind=CaseKind.STALE_ATTEMPT, state=CaseState.OPEN, app_id=attempt.app_id,
            channel_id=attempt.channel_id, order_id=attempt.order_id, attempt_id=attempt.id, refund_id=None,
            reference=encode(Prefix.ATTEMPT, attempt.id), amount=attempt.amount, currency=attempt.currency,
            detail={"state": attempt.state.value}, create_time=now, update_time=now,
        )  # fmt: skip
        async with self._context.database.connection() as connection:
            await case_rows.insert_case(connection, case)
