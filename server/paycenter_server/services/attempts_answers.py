"""What a channel has answered to a submit, and its storage."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import structlog

from paycenter_server.channels.protocol import PayOutcome, PayStatus, QueryOutcome, QueryStatus
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.schedule import ORDER_SYNC_DELAYS, due_after
from paycenter_server.domain.states import AttemptState
from paycenter_server.services import channels_errors, orders_errors
from paycenter_server.services.attempts import BEING_CANCELLED, FACTS_MISMATCH, AttemptSettlement, SettleResult
from paycenter_server.services.attempts_statements import SubmitStatements
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.services.context import Context
from paycenter_server.services.events import cause
from paycenter_server.services.payments import BeingCancelledError, FactsMismatchError, Known, Payments
from paycenter_server.services.payments_direct import DirectPayments
from paycenter_server.storage import attempts as attempt_rows

log = structlog.get_logger(__name__)

Shown = tuple[PayOrder, PayAttempt] | None
"""The order with its attempt as a submit has left them; None if they must be read."""


class SubmitAnswers:
    """Stores the answers of channels to submits."""

    def __init__(
        self,
        context: Context,
        payments: Payments,
        direct: DirectPayments,
        attempts: AttemptSettlement,
        statements: SubmitStatements,
    ) -> None:
        self._context = context
        self._payments = payments
        self._direct = direct
        self._attempts = attempts
        self._statements = statements

    def showable(self, configured: ConfiguredChannel, attempt: PayAttempt) -> bool:
        """Whether the stored display content is still valid, so that the channel need not be called."""
        life = timedelta(minutes=configured.spec.content_minutes)
        fresh = attempt.state is AttemptState.WAITING and self._context.now() - attempt.update_time < life
        return bool(attempt.display_content) and fresh

    async def close_unsent(self, attempt: PayAttempt, outcome: PayOutcome) -> None:
        """Close an attempt whose request was not sent, unless a parallel call with the same content has got display content."""
        async with self._context.database.connection() as connection:
            await attempt_rows.close_attempt(
                connection, attempt.id, self._context.now(), cause(outcome.call), code=outcome.error_code,
                message=outcome.error_message, next_look=None, unshown=True,
            )  # fmt: skip

    async def store(self, configured: ConfiguredChannel, known: Known, outcome: PayOutcome) -> Shown:
        """Store an answer. CHANNEL_REFUSED, CHANNEL_UNCLEAR or ORDER_CHANGED if it leaves nothing to show."""
        attempt, now = known.attempt, self._context.now()
        next_check = due_after(now, ORDER_SYNC_DELAYS, 0)
        if outcome.status is PayStatus.PAID and outcome.payment is not None:
            try:
                if not await self._direct.book(configured, outcome.payment, cause(outcome.call)):
                    await self._payments.book(configured, outcome.payment, cause(outcome.call), known=known)
            except BeingCancelledError as error:
                # Paid while it was being cancelled: only queries from now on are valid, so the attempt is queried soon.
                await self._store_unclear(attempt, BEING_CANCELLED, str(error), outcome)
                await self._attempts.look_again(attempt)
                raise channels_errors.channel_unclear(attempt.channel_code) from error
            except FactsMismatchError as error:
                log.error("pay_facts_mismatch", out_trade_no=attempt.out_trade_no, why=str(error))
                await self._store_unclear(attempt, FACTS_MISMATCH, str(error), outcome)
                raise channels_errors.channel_unclear(attempt.channel_code) from error
        elif outcome.status is PayStatus.WAITING:
            done, shown = await self._statements.answered(known.order, attempt, outcome, now, next_check, cause(outcome.call))
            if not done:
                await self._accepted_too_late(attempt)
            return shown
        elif outcome.status is PayStatus.REFUSED:
            async with self._context.database.connection() as connection:
                closed = await attempt_rows.close_attempt(
                    connection, attempt.id, now, cause(outcome.call), code=outcome.error_code, message=outcome.error_message,
                    next_look=self._attempts.first_look(), unshown=True,
                )  # fmt: skip
                current = await attempt_rows.get_attempt(connection, attempt.id)
            if not closed and current is not None and self.showable(configured, current):
                return None  # a parallel call with the same content was accepted, and its content is shown
            if current is not None and current.state is AttemptState.SUCCESS:
                return None
            if not closed and current is not None and current.state in (AttemptState.WAITING, AttemptState.UNKNOWN):
                await self._refused_again(current, outcome)
                return None
            raise channels_errors.channel_refused(attempt.channel_code, outcome.error_code, outcome.error_message)
        else:
            if not await self._store_unclear(attempt, outcome.error_code, outcome.error_message, outcome):
                await self._accepted_too_late(attempt)
            unclear = replace(attempt, channel_error_code=outcome.error_code, channel_error_message=outcome.error_message)
            # A bar code payment is queried by the waiting call after some seconds, not at once.
            if configured.spec.attempt_life is None and (await self.ask(unclear)).status is not QueryStatus.PAID:
                raise channels_errors.channel_unclear(attempt.channel_code)
        return None

    async def _accepted_too_late(self, attempt: PayAttempt) -> None:
        """The attempt is payable at the channel, or may be, but was paid or closed here meanwhile, for example by a parallel call
        whose own request was not sent."""
        async with self._context.database.connection() as connection:
            current = await attempt_rows.get_attempt(connection, attempt.id)
        if current is None or current.state is not AttemptState.CLOSED:
            return
        await self._attempts.look_again(current)
        await self._attempts.settle_or_close(current)
        raise orders_errors.order_changed()

    async def _refused_again(self, attempt: PayAttempt, outcome: PayOutcome) -> None:
        """A repeated request was refused, but the payer has seen the first one and may have paid it, so the channel is queried."""
        settled = await self._attempts.settle_or_close(attempt)
        if settled is SettleResult.PAID:
            return
        if settled is SettleResult.STILL_PAYABLE:
            await self._attempts.give_up_on(attempt)
        raise channels_errors.channel_refused(attempt.channel_code, outcome.error_code, outcome.error_message)

    async def _store_unclear(self, attempt: PayAttempt, code: str, message: str, outcome: PayOutcome) -> bool:
        """Store an unclear answer. False if the state of the attempt does not allow it any more."""
        now = self._context.now()
        async with self._context.database.connection() as connection:
            next_check = due_after(now, ORDER_SYNC_DELAYS, 0)
            return await attempt_rows.unclear(connection, attempt.id, code, message, now, next_check, cause(outcome.call))

    async def ask(self, attempt: PayAttempt) -> QueryOutcome:
        """Query the same number after an unclear answer (rule 2). CHANNEL_REFUSED, with the first error of the channel, if the
        attempt is closed there."""
        answer = await self._attempts.query(attempt)
        if answer.status is QueryStatus.CLOSED:
            code, message = attempt.channel_error_code or answer.error_code, attempt.channel_error_message or answer.error_message
            async with self._context.database.connection() as connection:
                await attempt_rows.close_attempt(
                    connection, attempt.id, self._context.now(), cause(), code=code, message=message,
                    next_look=self._attempts.first_look(),
                )  # fmt: skip
            raise channels_errors.channel_refused(attempt.channel_code, code, message)
        return answer
