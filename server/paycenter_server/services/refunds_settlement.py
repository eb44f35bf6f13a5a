"""Settlement of refunds: send, query, look again, and receive callbacks."""

from __future__ import annotations

from dataclasses import replace

import structlog

from paycenter_server.channels.protocol import QueryStatus, Refunded, RefundOutcome, RefundStatus
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.errors import invalid
from paycenter_server.domain.events import CALLBACK_RECEIVED, CALLBACK_REFUSED, CALLBACK_REPEATED, QUERIED, Cause
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.schedule import FAILED_REFUND, REFUND_SYNC_DELAYS, REQUEST_LIFE, due_after, next_look
from paycenter_server.domain.states import RefundState
from paycenter_server.services import channels_errors, refunds_errors
from paycenter_server.services.attempts import attempt_ref
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.services.events import cause as cause_of
from paycenter_server.services.events import with_verdict
from paycenter_server.services.payments import FactsMismatchError
from paycenter_server.services.refunds_booking import RefundBooking
from paycenter_server.services.refunds_numbers import UndecidedError, knows
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage.refunds import Sending

log = structlog.get_logger(__name__)


class RefundSettlement(RefundBooking):
    """Settles refunds: first sends, repeated sends, queries and callbacks."""

    async def check_limits(self, refund: PayRefund, attempt: PayAttempt) -> None:
        """INVALID_FIELD names every field that the channel would refuse, before anything is reserved."""
        configured = await self._gateway.channels.bound(refund.binding_id)
        if wrong := configured.spec.refund_limits(self._request_of(refund, configured, attempt)):
            raise invalid(list(wrong))

    async def send(self, refund: PayRefund, attempt: PayAttempt | None = None) -> PayRefund | None:
        """Send a new refund, or one that is sent again under a new number. The row says that it is sent (`unclear_send_time`).

        `attempt`: the one that paid, if the caller has read it. The refund as it is then; None if it must be read.
        """
        configured = await self._gateway.channels.bound(refund.binding_id)
        request = self._request_of(refund, configured, attempt) if attempt else await self._request(refund, configured)
        outcome = await self._gateway.perform(configured, lambda codec, context: codec.refund(request, context))
        sending = Sending(refund.unclear_send_time, None) if refund.unclear_send_time is not None else None
        return await self._apply_or_note(configured, refund, outcome, _answered(outcome, sending))

    async def check(self, refund: PayRefund, *, asked: bool = False) -> None:
        """Query a refund. If the channel does not know a WAITING one, it is sent again under the same number (rule 2).

        With the same number every channel regards a repeated request as the same refund. A refusal of it is final only if no
        earlier request can be carried out any more.

        The numbers that it had before are queried first, if they are due by the verification schedule; `asked`: the last ones in
        any case.
        """
        configured = await self._gateway.channels.bound(refund.binding_id)
        held = refund.send_count > 1 and await self._look_at_earlier(configured, refund, asked=asked)
        if refund.state is not RefundState.SUCCESS:
            await self._check_current(configured, refund, held=held)
        elif await self.was_accepted(refund):
            await self._second_look(configured, refund, await self._query(configured, await self._request(refund, configured)))

    async def was_accepted(self, refund: PayRefund) -> bool:
        """Whether it is SUCCESS because an operator has decided that it went back."""
        async with self._context.database.connection() as connection:
            return await case_rows.refund_was_accepted(connection, refund.attempt_id, refund.id)

    async def _check_current(self, configured: ConfiguredChannel, refund: PayRefund, *, held: bool) -> None:
        """`held`: an earlier number is in progress at the channel, so this one is not sent again now."""
        request = await self._request(refund, configured)
        asked = self._context.now()
        outcome = await self._query(configured, request)
        if refund.state is RefundState.FAILURE:
            await self._second_look(configured, refund, outcome)
            return
        sending = None
        if outcome.status is RefundStatus.NOT_FOUND:
            await self._note_query(refund, outcome)
            if held or await self._went_back_before(refund):
                why = f"an earlier number of it {'is in progress' if held else 'succeeded'}"
                await self._note(refund, "REFUND_UNDER_REVIEW", why, cause_of(), None)
                return
            async with self._context.database.connection() as connection:
                sending = await refund_rows.begin_send(connection, refund, self._context.now())
            if sending is None:
                return
            outcome = await self._gateway.perform(configured, lambda codec, context: codec.refund(request, context))
            sending = _answered(outcome, sending)
            if outcome.status is RefundStatus.TRADE_DECIDES and await self._all_went_back(refund, configured):
                # The last refund of the trade may be this one, from an earlier request.
                last = await self._query(configured, request)
                await self._note_query(refund, last)
                outcome = replace(outcome, status=RefundStatus.FAILED) if last.status is RefundStatus.NOT_FOUND else last
        await self._apply_or_note(configured, refund, outcome, sending, clear_before=asked - REQUEST_LIFE)

    async def _second_look(self, configured: ConfiguredChannel, refund: PayRefund, outcome: RefundOutcome) -> None:
        """A refund that failed here: if it succeeded at the channel after all, it is booked. Otherwise it is looked at again.

        Also if its success cannot be booked, because there is no room or its facts do not match: then the looks end too.

        As long as the channel knows it, and does not say that it failed, it is looked at soon, also if it is "not found" now.

        A refund that an operator has accepted is SUCCESS here: if it did not go back at the channel, this becomes a case.
        """
        if refund.state is RefundState.SUCCESS:
            await self._look_at_accepted(configured, refund, outcome)
        elif outcome.status is RefundStatus.SUCCESS:
            await self._apply_or_note(configured, refund, outcome, None)
        else:
            await self._note_query(refund, outcome)
        now = self._context.now()
        undecided = outcome.status not in (RefundStatus.NOT_FOUND, RefundStatus.FAILED, RefundStatus.SUCCESS)
        soon = due_after(now, REFUND_SYNC_DELAYS, refund.check_count)
        when = soon if undecided else next_look(FAILED_REFUND, refund.update_time, now)
        async with self._context.database.connection() as connection:
            await refund_rows.set_next_look(connection, refund, when, now, soon if refund.state is RefundState.FAILURE else None)

    async def _look_at_accepted(self, configured: ConfiguredChannel, refund: PayRefund, outcome: RefundOutcome) -> None:
        """That the channel has no such refund contradicts it as much as a failure does: no send of it can be carried out now."""
        verdict = ""
        try:
            if outcome.status is RefundStatus.SUCCESS:
                self._compare(configured, refund, outcome.facts)
            elif outcome.status is RefundStatus.FAILED:
                self._compare_failed(refund, outcome.facts)
        except FactsMismatchError as error:
            log.error("refund_facts_mismatch", out_refund_no=refund.out_refund_no, why=str(error))
            verdict = str(error)
        await self._note_query(refund, outcome, verdict)
        if not verdict and outcome.status in (RefundStatus.FAILED, RefundStatus.NOT_FOUND):
            await self._contradict(refund, cause_of(outcome.call))

    async def look_at_failed(self, refund: PayRefund) -> PayRefund:
        """Query a refund in state FAILURE before it is sent again under a new number, and read it again.

        CHANNEL_UNCLEAR if the channel does not answer clearly, REFUND_UNDER_REVIEW if it is processing the old number or has said
        that it knows it, or if a conflict about the payment is open: the money may be with the payer already.
        """
        configured = await self._gateway.channels.bound(refund.binding_id)
        request = await self._request(refund, configured)
        outcome = await self._query(configured, request)
        if outcome.status is RefundStatus.UNKNOWN:
            await self._note_query(refund, outcome)
            raise channels_errors.channel_unclear(refund.channel_code)
        await self._second_look(configured, refund, outcome)
        if outcome.status is RefundStatus.PENDING:
            raise refunds_errors.refund_under_review(refund, "")
        async with self._context.database.connection() as connection:
            conflict = await case_rows.open_conflict(connection, refund.attempt_id)
            current = await refund_rows.get_refund(connection, refund.id)
        if current is not None and current.state is RefundState.FAILURE and current.known_time is not None:
            raise refunds_errors.refund_under_review(refund, "")
        if conflict is not None and (current is None or current.state is RefundState.FAILURE):
            raise refunds_errors.refund_under_review(refund, encode(Prefix.CASE, conflict))
        return current or refund

    async def asked_again(self, refund: PayRefund) -> RefundOutcome:
        """Query a refund that is SUCCESS here, and of which the channel has said that it did not go back. CHANNEL_UNCLEAR if the
        answer is not clear, or is about another refund."""
        configured = await self._gateway.channels.bound(refund.binding_id)
        outcome = await self._query(configured, await self._request(refund, configured))
        await self._note_query(refund, outcome)
        try:
            self._compare_failed(refund, outcome.facts)
        except FactsMismatchError as error:
            raise channels_errors.channel_unclear(refund.channel_code) from error
        if outcome.status is RefundStatus.UNKNOWN:
            raise channels_errors.channel_unclear(refund.channel_code)
        return outcome

    async def _all_went_back(self, refund: PayRefund, configured: ConfiguredChannel) -> bool:
        """Whether the channel has refunded the whole trade."""
        async with self._context.database.connection() as connection:
            attempt = await attempt_rows.get_attempt(connection, refund.attempt_id)
        if attempt is None:
            return False
        trade = await self._gateway.perform(configured, lambda codec, context: codec.query(attempt_ref(attempt), context))
        await self._attempts.note(attempt, QUERIED, cause_of(trade.call))
        # A bar code trade that is fully refunded is CLOSED.
        payment = trade.payment if trade.status in (QueryStatus.PAID, QueryStatus.CLOSED) else None
        return payment is not None and (payment.out_trade_no, payment.refunded) == (attempt.out_trade_no, Refunded.ALL)

    async def refund_of(self, out_refund_no: str) -> PayRefund | None:
        """Read the refund that has this out_refund_no now; None if there is none."""
        key = decode(Prefix.OUT_REFUND, out_refund_no)
        async with self._context.database.connection() as connection:
            return await refund_rows.get_refund_by_out_key(connection, key) if key else None

    async def receive_callback(self, configured: ConfiguredChannel, outcome: RefundOutcome, cause: Cause) -> None:
        """Book a callback about a refund. A refund that was not made by PayCenter becomes a case."""
        facts = outcome.facts
        if facts is None:
            return
        refund = await self.refund_of(facts.out_refund_no)
        if refund is not None and refund.account_id != configured.account.id:
            refund = None
        if refund is None:
            await self._not_ours(configured, outcome, facts, cause)
        elif outcome.status is not RefundStatus.PENDING:
            await self._apply_callback(configured, refund, outcome, cause)
        else:
            # The callback proves nothing by itself (WeChat Pay v2) or states no amount (Alipay): the channel is queried.
            await self._note_event(refund, CALLBACK_RECEIVED, cause, knows(refund, outcome))
            if refund.state is RefundState.WAITING:
                await self.check(refund)
            elif refund.state is RefundState.FAILURE:
                confirmed = await self._confirm(configured, await self._request(refund, configured), refund)
                if confirmed.status is RefundStatus.SUCCESS:
                    await self.apply(configured, refund, confirmed, cause)
            elif outcome.error_code:
                await self._doubt_success(configured, refund)

    async def _apply_callback(self, configured: ConfiguredChannel, refund: PayRefund, outcome: RefundOutcome, cause: Cause) -> None:
        try:
            if not await self.apply(configured, refund, outcome, cause):
                ended = outcome.status is RefundStatus.FAILED
                await self._note_event(refund, CALLBACK_REPEATED, cause, False if ended else None)
                if ended:
                    await self._doubt_success(configured, refund)
        except FactsMismatchError as error:
            await self._note_event(refund, CALLBACK_REFUSED, with_verdict(cause, str(error)), knows(refund, outcome))
            raise

    async def _doubt_success(self, configured: ConfiguredChannel, refund: PayRefund) -> None:
        """A callback says of a refund that is SUCCESS that it failed or is stuck. It may be about an earlier state, so the channel
        is queried. If it says the same, this becomes a case; UndecidedError if its answer is not clear. One that is SUCCESS by the
        decision of an operator is contradicted without a query, and looked at by itself."""
        async with self._context.database.connection() as connection:
            current = await refund_rows.get_refund(connection, refund.id)
        if current is None or (current.state, current.out_refund_key) != (RefundState.SUCCESS, refund.out_refund_key):
            return
        if await self.was_accepted(current):
            return
        outcome = await self._query(configured, await self._request(refund, configured))
        await self._note_query(refund, outcome)
        if outcome.facts is None:
            raise UndecidedError("the channel gave no clear answer about a refund that it reports as not successful")
        self._compare_failed(refund, outcome.facts)
        if outcome.status is RefundStatus.FAILED or is_stuck(outcome):
            async with self._context.database.transaction() as transaction:
                await self._cases.failed_after_success(transaction, current, cause_of(outcome.call))


def is_stuck(outcome: RefundOutcome) -> bool:
    """Whether the refund waits for somebody at the channel: it did not go back, and may still."""
    return outcome.status is RefundStatus.PENDING and bool(outcome.error_code)


def _answered(outcome: RefundOutcome, sending: Sending | None) -> Sending | None:
    """The send, if the channel answered it clearly or it was not sent; None if it may still be carried out.

    One that the channel has accepted is being carried out: its query may say "not found" for a while, and a repeated send may be
    refused because of it.
    """
    return sending if outcome.not_sent or outcome.status not in (RefundStatus.UNKNOWN, RefundStatus.PENDING) else None
