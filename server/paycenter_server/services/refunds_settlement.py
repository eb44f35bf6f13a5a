"""Settlement of refunds: send, query, and book the result."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import structlog

from paycenter_server.channels.protocol import QueryStatus, Refunded, RefundFacts, RefundOutcome, RefundRequest, RefundStatus
from paycenter_server.domain.errors import invalid
from paycenter_server.domain.events import QUERIED, Cause, Subject
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.notifications import PayNotification
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.schedule import FAILED_REFUND, REFUND_SYNC_DELAYS, REQUEST_LIFE, due_after, next_look
from paycenter_server.domain.states import AttemptState, CaseEvent, RefundState
from paycenter_server.services import errors
from paycenter_server.services import notifications_payloads as payloads
from paycenter_server.services.attempts import AttemptSettlement, attempt_ref
from paycenter_server.services.cases import Cases
from paycenter_server.services.channels_gateway import ChannelGateway, ConfiguredChannel
from paycenter_server.services.context import Context
from paycenter_server.services.events import cause as cause_of
from paycenter_server.services.payments import FactsMismatchError, compare_account
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import events as event_rows
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage.database import Transaction
from paycenter_server.storage.refunds import Certainty, Sending

log = structlog.get_logger(__name__)
# The earlier numbers of a refund that are queried in one look. If more are due, it is due again at once.
EARLIER_AT_ONCE = 2


class UndecidedError(Exception):
    """A callback proves nothing by itself, and the query gave no clear answer. The channel must send it again."""


class RefundSettlement:
    """Settles refunds: first sends, repeated sends, queries and callbacks."""

    def __init__(self, context: Context, gateway: ChannelGateway, attempts: AttemptSettlement, cases: Cases) -> None:
        self._context = context
        self._gateway = gateway
        self._attempts = attempts
        self._cases = cases

    async def _request(self, refund: PayRefund, configured: ConfiguredChannel) -> RefundRequest:
        _, callback_url = self._gateway.callback_urls(configured.channel)
        async with self._context.database.connection() as connection:
            attempt = await attempt_rows.get_attempt(connection, refund.attempt_id)
        return RefundRequest(
            out_trade_no=refund.out_trade_no,
            out_refund_no=refund.out_refund_no,
            amount=refund.amount,
            total=refund.total_amount,
            currency=refund.currency,
            reason=refund.reason,
            callback_url=callback_url,
            create_time=refund.create_time,
            extras=attempt.channel_extras if attempt else {},
        )

    async def _query(self, configured: ConfiguredChannel, request: RefundRequest) -> RefundOutcome:
        return await self._gateway.perform(configured, lambda codec, context: codec.query_refund(request, context))

    async def check_limits(self, refund: PayRefund) -> None:
        """INVALID_FIELD names every field that the channel would refuse, before anything is reserved."""
        configured = await self._gateway.bound(refund.binding_id)
        if wrong := configured.spec.refund_limits(await self._request(refund, configured)):
            raise invalid(list(wrong))

    async def send(self, refund: PayRefund) -> None:
        """Send a new refund, or one that is sent again under a new number. The row says that it is sent (`unclear_send_time`)."""
        configured = await self._gateway.bound(refund.binding_id)
        request = await self._request(refund, configured)
        outcome = await self._gateway.perform(configured, lambda codec, context: codec.refund(request, context))
        sending = Sending(refund.unclear_send_time, None) if refund.unclear_send_time is not None else None
        await self._apply_or_note(configured, refund, outcome, _answered(outcome, sending))

    async def check(self, refund: PayRefund, *, asked: bool = False) -> None:
        """Query a refund. If the channel does not know a WAITING one, it is sent again under the same number (rule 2).

        With the same number every channel regards a repeated request as the same refund. A refusal of it is final only if no
        earlier request can be carried out any more.

        The numbers that it had before are queried first, if they are due by the verification schedule; `asked`: the last ones in
        any case.
        """
        configured = await self._gateway.bound(refund.binding_id)
        if refund.send_count > 1:
            await self._look_at_earlier(configured, refund, asked=asked)
        if refund.state is not RefundState.SUCCESS:
            await self._check_current(configured, refund)

    async def _check_current(self, configured: ConfiguredChannel, refund: PayRefund) -> None:
        request = await self._request(refund, configured)
        asked = self._context.now()
        outcome = await self._query(configured, request)
        if refund.state is RefundState.FAILURE:
            await self._second_look(configured, refund, outcome)
            return
        sending = None
        if outcome.status is RefundStatus.NOT_FOUND:
            await self._note_query(refund, outcome)
            if await self._went_back_before(refund):
                await self._note(refund, "REFUND_UNDER_REVIEW", "an earlier number of it succeeded", cause_of(), None)
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
                outcome = replace(outcome, status=RefundStatus.FAILED) if last.status is RefundStatus.NOT_FOUND else last
        await self._apply_or_note(configured, refund, outcome, sending, clear_before=asked - REQUEST_LIFE)

    async def _second_look(self, configured: ConfiguredChannel, refund: PayRefund, outcome: RefundOutcome) -> None:
        """A refund that failed here: if it succeeded at the channel after all, it is booked. Otherwise it is looked at again.

        Also if its success cannot be booked, because there is no room or its facts do not match: then the looks end too.
        """
        if outcome.status is RefundStatus.SUCCESS:
            await self._apply_or_note(configured, refund, outcome, None)
        else:
            await self._note_query(refund, outcome)
        now = self._context.now()
        undecided = outcome.status not in (RefundStatus.NOT_FOUND, RefundStatus.FAILED, RefundStatus.SUCCESS)
        soon = due_after(now, REFUND_SYNC_DELAYS, refund.check_count)
        when = soon if undecided else next_look(FAILED_REFUND, refund.update_time, now)
        async with self._context.database.connection() as connection:
            await refund_rows.set_next_look(connection, refund, when)

    async def _look_at_earlier(self, configured: ConfiguredChannel, refund: PayRefund, *, asked: bool) -> None:
        """Query earlier numbers of a refund, which failed and may be carried out all the same. They are never sent again.

        A success becomes a case, as if a callback had reported it. What has no clear answer is queried again soon.
        """
        async with self._context.database.connection() as connection:
            numbers = await refund_rows.earlier_numbers(connection, refund.id)
        if numbers is None:
            return
        now = self._context.now()
        due = numbers.due(now)[:EARLIER_AT_ONCE]
        looked_at = set()
        for key in due or (numbers.keys[-EARLIER_AT_ONCE:] if asked else ()):
            if await self._look_at_number(configured, replace(refund, out_refund_key=key)):
                looked_at.add(key)
        if due:
            left = numbers.after(looked_at, now)
            unclear = len(looked_at) < len(due)
            when = due_after(now, REFUND_SYNC_DELAYS, refund.check_count) if unclear else left
            async with self._context.database.connection() as connection:
                await refund_rows.set_earlier_look(connection, refund.id, numbers, left, when, now)

    async def _look_at_number(self, configured: ConfiguredChannel, earlier: PayRefund) -> bool:
        """Query a refund under an earlier number. False if the answer is not clear."""
        outcome = await self._query(configured, await self._request(earlier, configured))
        await self._note_query(earlier, outcome)
        if outcome.status is RefundStatus.SUCCESS and outcome.facts is not None:
            try:
                self._compare(configured, earlier, outcome.facts)
                await self._not_ours(configured, outcome, outcome.facts, cause_of(outcome.call))
            except FactsMismatchError as error:
                log.error("refund_facts_mismatch", out_refund_no=earlier.out_refund_no, why=str(error))
        return outcome.status not in (RefundStatus.PENDING, RefundStatus.UNKNOWN)

    async def _went_back_before(self, refund: PayRefund) -> bool:
        """Whether a case is open that says that the money of this refund went back under an earlier number."""
        if refund.send_count == 1:
            return False
        async with self._context.database.connection() as connection:
            return await case_rows.open_conflict(connection, refund.attempt_id, refund_id=refund.id) is not None

    async def look_at_failed(self, refund: PayRefund) -> PayRefund:
        """Query a refund in state FAILURE before it is sent again under a new number, and read it again.

        CHANNEL_UNCLEAR if the channel does not answer clearly, REFUND_UNDER_REVIEW if it is processing the old number, or if a
        conflict about the payment is open: the money may be with the payer already.
        """
        configured = await self._gateway.bound(refund.binding_id)
        request = await self._request(refund, configured)
        outcome = await self._query(configured, request)
        if outcome.status is RefundStatus.UNKNOWN:
            raise errors.channel_unclear(refund.channel_code)
        await self._second_look(configured, refund, outcome)
        if outcome.status is RefundStatus.PENDING:
            raise errors.refund_under_review(refund, "")
        async with self._context.database.connection() as connection:
            conflict = await case_rows.open_conflict(connection, refund.attempt_id)
            current = await refund_rows.get_refund(connection, refund.id)
        if conflict is not None and (current is None or current.state is RefundState.FAILURE):
            raise errors.refund_under_review(refund, encode(Prefix.CASE, conflict))
        return current or refund

    async def _note_query(self, refund: PayRefund, outcome: RefundOutcome) -> None:
        """Note in the ledger a query that another call follows, so that no change of the refund names it."""
        async with self._context.database.connection() as connection:
            await event_rows.insert_event(connection, Subject.REFUND, refund.id, refund.order_id, QUERIED, cause_of(outcome.call))

    async def _all_went_back(self, refund: PayRefund, configured: ConfiguredChannel) -> bool:
        """Whether the channel has refunded the whole trade."""
        async with self._context.database.connection() as connection:
            attempt = await attempt_rows.get_attempt(connection, refund.attempt_id)
        if attempt is None:
            return False
        trade = await self._gateway.perform(configured, lambda codec, context: codec.query(attempt_ref(attempt), context))
        # A bar code trade that is fully refunded is CLOSED.
        payment = trade.payment if trade.status in (QueryStatus.PAID, QueryStatus.CLOSED) else None
        return payment is not None and (payment.out_trade_no, payment.refunded) == (attempt.out_trade_no, Refunded.ALL)

    async def _apply_or_note(
        self,
        configured: ConfiguredChannel,
        refund: PayRefund,
        outcome: RefundOutcome,
        sending: Sending | None,
        clear_before: datetime | None = None,
    ) -> None:
        """`sending`: the send that was answered clearly. `clear_before`: no send from before this time can be carried out."""
        certainty = Certainty(sending, clear_before, final=outcome.facts is not None)
        try:
            await self.apply(configured, refund, outcome, cause_of(outcome.call), certainty)
        except FactsMismatchError as error:
            log.error("refund_facts_mismatch", out_refund_no=refund.out_refund_no, why=str(error))
            await self._note(refund, "FACTS_MISMATCH", str(error), cause_of(outcome.call), None)

    async def apply(
        self,
        configured: ConfiguredChannel,
        refund: PayRefund,
        outcome: RefundOutcome,
        cause: Cause,
        certainty: Certainty | None = None,
    ) -> None:
        """Book an outcome. FactsMismatchError if its facts are not those of this refund.

        `certainty`: None for a callback, whose facts are about this very refund.
        """
        certainty = certainty or Certainty(final=outcome.facts is not None)
        if outcome.status is RefundStatus.SUCCESS:
            self._compare(configured, refund, outcome.facts)
            await self._succeed(refund, outcome.facts, cause)
        elif outcome.status is RefundStatus.FAILED:
            self._compare_failed(refund, outcome.facts)
            await self._fail(refund, outcome, cause, certainty)
        else:
            await self._note(refund, outcome.error_code, outcome.error_message, cause, certainty.sending)

    def _compare(self, configured: ConfiguredChannel, refund: PayRefund, facts: RefundFacts | None) -> None:
        if facts is None:
            raise FactsMismatchError("the message names no refund")
        compare_account(configured, facts.account, self._context.now())
        theirs = (facts.out_refund_no, facts.out_trade_no, facts.amount)
        if theirs != (refund.out_refund_no, refund.out_trade_no, refund.amount):
            raise FactsMismatchError("the message's numbers or amount are not the refund's")

    @staticmethod
    def _compare_failed(refund: PayRefund, facts: RefundFacts | None) -> None:
        """A failure releases the reserved amount, so its facts must match too. An error code alone states no facts."""
        if facts is None:
            return
        same = (facts.out_refund_no, facts.out_trade_no) == (refund.out_refund_no, refund.out_trade_no)
        if not same or facts.amount not in (None, refund.amount):
            raise FactsMismatchError("the message's numbers or amount are not the refund's")

    async def _succeed(self, refund: PayRefund, facts: RefundFacts | None, cause: Cause) -> None:
        now = self._context.now()
        success_time: datetime = (facts.success_time if facts else None) or now
        async with self._context.database.transaction() as connection:
            done = await refund_rows.succeed(
                connection,
                refund,
                cause,
                channel_refund_no=(facts.channel_refund_no if facts else "")[:64],
                success_time=success_time,
                now=now,
            )
            if done:
                task = payloads.refund_settled(refund, self._context.new_key(now), now, version=done, success_time=success_time)
                await self._tell(connection, refund, task, CaseEvent.RESOLVE, cause)
            else:
                done = await self._succeed_late(connection, refund, facts, success_time, cause)
        if done:
            self._context.wake_up.send()

    async def _succeed_late(
        self, transaction: Transaction, refund: PayRefund, facts: RefundFacts | None, success_time: datetime, cause: Cause
    ) -> int:
        """Book a refund that failed here and succeeded at the channel. Its new version.

        0 if the payment has not that much left, or if the refund has another number now: then it becomes a case.
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
            await self._tell(transaction, current, task, CaseEvent.RESOLVE, cause)
            return version
        await self._cases.succeeded_after_failure(transaction, refund, cause)
        return 0

    async def _tell(
        self, transaction: Transaction, refund: PayRefund, task: PayNotification, event: CaseEvent, cause: Cause
    ) -> None:
        """Notify of a settled refund, and change its case, if it has one."""
        if refund.case_id is not None:
            await notification_rows.lock_notifications(transaction, refund.id, refund.case_id)
        await notification_rows.insert_notification(transaction, task)
        await self._cases.refund_settled(transaction, refund, event, task.create_time, cause)

    async def _fail(self, refund: PayRefund, outcome: RefundOutcome, cause: Cause, certainty: Certainty) -> None:
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
                await self._tell(connection, refund, task, CaseEvent.REFUND_FAILED, cause)
        if done:
            self._context.wake_up.send()
        else:
            # Settled meanwhile, or an earlier request may still be carried out: then it stays WAITING and is queried again.
            if certainty.final:
                await self._contradict(refund, cause)
            await self._note(refund, outcome.error_code, outcome.error_message, cause, certainty.sending)

    async def _contradict(self, refund: PayRefund, cause: Cause) -> None:
        async with self._context.database.transaction() as connection:
            current = await refund_rows.lock_refund(connection, refund.id)
            if current is not None and (current.state, current.out_refund_key) == (RefundState.SUCCESS, refund.out_refund_key):
                await self._cases.failed_after_acceptance(connection, current, cause)

    async def _note(self, refund: PayRefund, code: str, message: str, cause: Cause, sending: Sending | None) -> None:
        now = self._context.now()
        async with self._context.database.connection() as connection:
            await refund_rows.note(
                connection, refund, cause, sending, code=code, message=message, now=now,
                next_check=due_after(now, REFUND_SYNC_DELAYS, refund.check_count),
            )  # fmt: skip

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
            await self.apply(configured, refund, outcome, cause)
        elif refund.state is RefundState.WAITING:
            # The callback proves nothing by itself (WeChat Pay v2) or states no amount (Alipay): the channel is queried.
            await self.check(refund)
        elif refund.state is RefundState.FAILURE:
            confirmed = await self._confirm(configured, await self._request(refund, configured))
            if confirmed.status is RefundStatus.SUCCESS:
                await self.apply(configured, refund, confirmed, cause)

    async def _not_ours(self, configured: ConfiguredChannel, outcome: RefundOutcome, facts: RefundFacts, cause: Cause) -> None:
        """A refund that was made in the channel's console, or under a number that is final here."""
        if outcome.status is RefundStatus.PENDING:
            number, amount = facts.out_refund_no, facts.amount or 0
            request = RefundRequest(facts.out_trade_no, number, amount, 0, "CNY", "", "", self._context.now())
            outcome = await self._confirm(configured, request)
        if outcome.status is not RefundStatus.SUCCESS:
            return
        attempt = await self._attempts.attempt_of(facts.out_trade_no)
        if attempt is not None and attempt.account_id != configured.account.id:
            attempt = None
        if attempt is not None and attempt.state is not AttemptState.SUCCESS:
            if attempt.cancel_until is not None:
                return  # our own cancellation of a bar code payment refunded it, and nothing was booked
            # The refund is reported before its payment, so the payment is queried and booked first.
            await self._attempts.query(attempt)
            attempt = await self._attempts.attempt_of(facts.out_trade_no)
            if attempt is None or attempt.state is not AttemptState.SUCCESS:
                raise UndecidedError("a refund of a payment that is not known here yet")
        async with self._context.database.transaction() as connection:
            if attempt is not None:
                await attempt_rows.lock_attempt(connection, attempt.id)  # one case, in whatever order the messages arrive
            await self._cases.unknown_refund(
                connection, configured.channel, configured.account, outcome.facts or facts, attempt, cause
            )

    async def _confirm(self, configured: ConfiguredChannel, request: RefundRequest) -> RefundOutcome:
        """Query a refund that a callback reports without proof. UndecidedError if the answer is not clear."""
        outcome = await self._query(configured, request)
        if outcome.status in (RefundStatus.PENDING, RefundStatus.UNKNOWN):
            raise UndecidedError("the channel has not decided this refund yet")
        return outcome


def _answered(outcome: RefundOutcome, sending: Sending | None) -> Sending | None:
    """The send, if the channel answered it clearly or it was not sent; None if it may still be carried out."""
    return sending if outcome.not_sent or outcome.status is not RefundStatus.UNKNOWN else None
