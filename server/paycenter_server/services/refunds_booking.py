"""Booking of what a channel says about a refund: it succeeded, failed, or is not decided."""

from __future__ import annotations

from datetime import datetime

import structlog

from paycenter_server.channels.protocol import RefundFacts, RefundOutcome, RefundStatus
from paycenter_server.domain.events import Cause
from paycenter_server.domain.notifications import PayNotification
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.schedule import FAILED_REFUND, REFUND_SYNC_DELAYS, due_after, next_look
from paycenter_server.domain.states import CaseEvent, RefundState
from paycenter_server.services import notifications_payloads as payloads
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.services.events import cause as cause_of
from paycenter_server.services.events import with_verdict
from paycenter_server.services.payments import FactsMismatchError
from paycenter_server.services.refunds_numbers import RefundNumbers, knows
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage import refunds_numbers as number_rows
from paycenter_server.storage.database import Transaction
from paycenter_server.storage.refunds import Certainty, Sending
from paycenter_server.storage.refunds_shared import Success

log = structlog.get_logger(__name__)


class RefundBooking(RefundNumbers):
    """Compares the facts of an answer or a callback with the refund, and books them."""

    async def _apply_or_note(
        self,
        configured: ConfiguredChannel,
        refund: PayRefund,
        outcome: RefundOutcome,
        sending: Sending | None,
        clear_before: datetime | None = None,
    ) -> PayRefund | None:
        """`sending`: the send that was answered clearly. `clear_before`: no send from before this time can be carried out.

        The refund as it is then; None if it must be read.
        """
        certainty = Certainty(sending, clear_before, final=outcome.facts is not None)
        try:
            done = await self._apply(configured, refund, outcome, cause_of(outcome.call), certainty)
            return done if isinstance(done, PayRefund) else None
        except FactsMismatchError as error:
            log.error("refund_facts_mismatch", out_refund_no=refund.out_refund_no, why=str(error))
            if refund.state is not RefundState.WAITING:
                await self._note_query(refund, outcome, str(error))
            because = with_verdict(cause_of(outcome.call), str(error))
            await self._note(refund, "FACTS_MISMATCH", str(error), because, None, knows(refund, outcome))
            return None

    async def apply(
        self,
        configured: ConfiguredChannel,
        refund: PayRefund,
        outcome: RefundOutcome,
        cause: Cause,
        certainty: Certainty | None = None,
    ) -> bool:
        """Book an outcome. False if it changes nothing. FactsMismatchError if its facts are not those of this refund.

        `certainty`: None for a callback, whose facts are about this very refund.
        """
        certainty = certainty or Certainty(final=outcome.facts is not None)
        return bool(await self._apply(configured, refund, outcome, cause, certainty))

    async def _apply(
        self, configured: ConfiguredChannel, refund: PayRefund, outcome: RefundOutcome, cause: Cause, certainty: Certainty
    ) -> PayRefund | bool:
        """The refund as it is then, if the statement that has booked it says so."""
        if outcome.status is RefundStatus.SUCCESS:
            self._compare(configured, refund, outcome.facts)
            return await self._succeed(refund, outcome.facts, cause)
        if outcome.status is RefundStatus.FAILED:
            self._compare_failed(refund, outcome.facts)
            return await self._fail(refund, outcome, cause, certainty)
        await self._note(refund, outcome.error_code, outcome.error_message, cause, certainty.sending, knows(refund, outcome))
        return True

    @staticmethod
    def _compare_failed(refund: PayRefund, facts: RefundFacts | None) -> None:
        """A failure releases the reserved amount, so its facts must match too. An error code alone states no facts."""
        if facts is None:
            return
        same = (facts.out_refund_no, facts.out_trade_no) == (refund.out_refund_no, refund.out_trade_no)
        if not same or facts.amount not in (None, refund.amount):
            raise FactsMismatchError("the message's numbers or amount are not the refund's")

    async def _succeed(self, refund: PayRefund, facts: RefundFacts | None, cause: Cause) -> PayRefund | bool:
        now = self._context.now()
        success_time: datetime = (facts.success_time if facts else None) or now
        number = (facts.channel_refund_no if facts else "")[:64]

        def task(version: int) -> PayNotification:
            return payloads.refund_settled(refund, self._context.new_key(now), now, version=version, success_time=success_time)

        done: PayRefund | bool = False
        if refund.case_id is None:
            done = await self.statements.succeed(Success(refund, task(refund.version + 1), number, success_time, now, cause))
        if not done:
            # It is that of a case, or it is not as it was read: then what has changed decides.
            async with self._context.database.transaction() as transaction:
                version = await refund_rows.succeed(
                    transaction, refund, cause, channel_refund_no=number, success_time=success_time, now=now
                )
                if version:
                    await self._store_notification_and_move_case(transaction, refund, task(version), CaseEvent.RESOLVE, cause)
                else:
                    version = await self._succeed_late(transaction, refund, facts, success_time, cause)
            done = bool(version)
        if done:
            self._context.wake_up.send()
        return done

    async def _succeed_late(
        self, transaction: Transaction, refund: PayRefund, facts: RefundFacts | None, success_time: datetime, cause: Cause
    ) -> int:
        """Book a refund that failed here and succeeded at the channel. Its new version.

        If the payment has not that much left, or if the refund has another number now, it becomes a case: -1. 0 if nothing is
        changed.
        """
        now = self._context.now()
        current = await refund_rows.lock_refund(transaction, refund.id)
        same = current is not None and current.out_refund_key == refund.out_refund_key
        if current is not None and same and current.state is RefundState.SUCCESS:
            return 0
        version = 0
        if current is not None and same:
            version = await refund_rows.succeed_late(
                transaction, current, cause, channel_refund_no=(facts.channel_refund_no if facts else "")[:64],
                success_time=success_time, now=now,
            )  # fmt: skip
        if current is not None and version:
            log.warning("refund_succeeded_late", refund=refund.number)
            task = payloads.refund_settled(current, self._context.new_key(now), now, version=version, success_time=success_time)
            await self._store_notification_and_move_case(transaction, current, task, CaseEvent.RESOLVE, cause)
            return version
        about = current if current is not None and same else refund
        if about.state is RefundState.FAILURE:
            await number_rows.set_known(transaction, about, False, now)  # the case holds it, until an operator decides
        return -1 if await self._cases.succeeded_after_failure(transaction, about, cause) else 0

    async def _store_notification_and_move_case(
        self, transaction: Transaction, refund: PayRefund, task: PayNotification, event: CaseEvent, cause: Cause
    ) -> None:
        """Notify of a settled refund, and change its case, if it has one."""
        if refund.case_id is not None:
            await notification_rows.lock_notifications(transaction, refund.id, refund.case_id)
        await notification_rows.insert_notification(transaction, task)
        await self._cases.refund_settled(transaction, refund, event, task.create_time, cause)

    async def _fail(self, refund: PayRefund, outcome: RefundOutcome, cause: Cause, certainty: Certainty) -> bool:
        now = self._context.now()
        async with self._context.database.transaction() as connection:
            done = await refund_rows.fail(
                connection, refund, cause, certainty, code=outcome.error_code, message=outcome.error_message, now=now,
                next_look=next_look(FAILED_REFUND, now, now),
            )  # fmt: skip
            if done:
                task = payloads.refund_settled(
                    refund, self._context.new_key(now), now, version=done, success_time=None, code=outcome.error_code,
                    message=outcome.error_message,
                )  # fmt: skip
                await self._store_notification_and_move_case(connection, refund, task, CaseEvent.REFUND_FAILED, cause)
        if done:
            self._context.wake_up.send()
        else:
            # Settled meanwhile; or an earlier request may still be carried out, or the channel knows the refund: then it stays
            # WAITING and is queried again.
            if certainty.final and await self._contradict(refund, cause):
                return True
            await self._note(refund, outcome.error_code, outcome.error_message, cause, certainty.sending)
        return bool(done)

    async def _contradict(self, refund: PayRefund, cause: Cause) -> bool:
        """A refund that is SUCCESS here did not go back. Whether this opened a case."""
        async with self._context.database.transaction() as connection:
            current = await refund_rows.lock_refund(connection, refund.id)
            if current is not None and (current.state, current.out_refund_key) == (RefundState.SUCCESS, refund.out_refund_key):
                return await self._cases.failed_after_acceptance(connection, current, cause)
        return False

    async def _note(
        self, refund: PayRefund, code: str, message: str, cause: Cause, sending: Sending | None, known: bool | None = None
    ) -> None:
        now = self._context.now()
        async with self._context.database.connection() as connection:
            done = await refund_rows.note(
                connection, refund, cause, sending, code=code, message=message, now=now,
                next_check=due_after(now, REFUND_SYNC_DELAYS, refund.check_count), known=bool(known),
            )  # fmt: skip
        if known and not done:
            # A slow answer: it was refused meanwhile, and must not be sent under a new number now.
            await self._set_known(refund, known)
