"""The messages about refunds, and the numbers that are not being settled here: earlier ones, and those of the channel's console."""

from __future__ import annotations

from dataclasses import replace

import structlog

from paycenter_server.channels.protocol import Payment, Refunded, RefundFacts, RefundOutcome, RefundRequest, RefundStatus
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.events import CALLBACK_RECEIVED, QUERIED, Cause, Subject
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.schedule import REFUND_SYNC_DELAYS, due_after
from paycenter_server.domain.states import AttemptState
from paycenter_server.services.attempts import AttemptSettlement
from paycenter_server.services.cases import Cases
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.services.channels_gateway import ChannelGateway
from paycenter_server.services.context import Context
from paycenter_server.services.events import cause as cause_of
from paycenter_server.services.events import with_verdict
from paycenter_server.services.payments import FactsMismatchError, compare_account
from paycenter_server.services.refunds_statements import RefundStatements
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import events as event_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage import refunds_numbers as number_rows

log = structlog.get_logger(__name__)
# The earlier numbers of a refund that are queried in one look. If more are due, it is due again at once.
EARLIER_AT_ONCE = 2


class UndecidedError(Exception):
    """A callback proves nothing by itself, and the query gave no clear answer. The channel must send it again."""


class RefundNumbers:
    """Queries refunds. What it finds under a number that is not being settled becomes a case."""

    def __init__(self, context: Context, gateway: ChannelGateway, attempts: AttemptSettlement, cases: Cases) -> None:
        self._context = context
        self._gateway = gateway
        self._attempts = attempts
        self._cases = cases
        self.statements = RefundStatements(context)

    async def _request(self, refund: PayRefund, configured: ConfiguredChannel) -> RefundRequest:
        async with self._context.database.connection() as connection:
            attempt = await attempt_rows.get_attempt(connection, refund.attempt_id)
        return self._request_of(refund, configured, attempt)

    def _request_of(self, refund: PayRefund, configured: ConfiguredChannel, attempt: PayAttempt | None) -> RefundRequest:
        """`attempt`: the one that paid. Of it only what never changes is used."""
        _, callback_url = self._gateway.callback_urls(configured.channel)
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

    async def _look_at_earlier(self, configured: ConfiguredChannel, refund: PayRefund, *, asked: bool) -> bool:
        """Query earlier numbers of a refund, which failed and may be carried out all the same. They are never sent again.

        A success becomes a case, as if a callback had reported it. What has no clear answer is queried again soon.

        True if one is in progress at the channel. It stays due, so it is queried each time until it has ended.
        """
        async with self._context.database.connection() as connection:
            numbers = await number_rows.earlier_numbers(connection, refund.id)
        if numbers is None:
            return False
        now = self._context.now()
        due = numbers.due(now)[:EARLIER_AT_ONCE]
        looked_at, in_progress = set(), False
        for key in due or (numbers.keys[-EARLIER_AT_ONCE:] if asked else ()):
            status = await self._look_at_number(configured, replace(refund, out_refund_key=key))
            in_progress = in_progress or status is RefundStatus.PENDING
            if status not in (RefundStatus.PENDING, RefundStatus.UNKNOWN):
                looked_at.add(key)
        if due:
            left = numbers.after(looked_at, now)
            unclear = len(looked_at) < len(due)
            when = due_after(now, REFUND_SYNC_DELAYS, refund.check_count) if unclear else left
            async with self._context.database.connection() as connection:
                await number_rows.set_earlier_look(connection, refund.id, numbers, left, when, now)
        return in_progress

    async def _look_at_number(self, configured: ConfiguredChannel, earlier: PayRefund) -> RefundStatus:
        """Query a refund under an earlier number."""
        outcome = await self._query(configured, await self._request(earlier, configured))
        verdict = ""
        if outcome.status is RefundStatus.SUCCESS and outcome.facts is not None:
            try:
                self._compare(configured, earlier, outcome.facts)
                await self._not_ours(configured, outcome, outcome.facts, cause_of(outcome.call))
            except FactsMismatchError as error:
                log.error("refund_facts_mismatch", out_refund_no=earlier.out_refund_no, why=str(error))
                verdict = str(error)
        await self._note_query(earlier, outcome, verdict)
        return outcome.status

    async def _went_back_before(self, refund: PayRefund) -> bool:
        """Whether a case is open that says that the money of this refund went back under an earlier number."""
        if refund.send_count == 1:
            return False
        async with self._context.database.connection() as connection:
            return await case_rows.open_conflict(connection, refund.attempt_id, refund_id=refund.id) is not None

    async def _note_query(self, refund: PayRefund, outcome: RefundOutcome, verdict: str = "") -> None:
        """Note in the ledger a query after which no change of the refund names it. `verdict`: why its answer is not used."""
        because = cause_of(outcome.call)
        await self._note_event(refund, QUERIED, with_verdict(because, verdict) if verdict else because, knows(refund, outcome))

    async def _note_event(self, refund: PayRefund, event: str, because: Cause, known: bool | None = None) -> None:
        """Note in the ledger a message that changed no state. `known`: what it says, as `knows`."""
        if known is not None:
            await self._set_known(refund, known)
        async with self._context.database.connection() as connection:
            await event_rows.insert_event(connection, Subject.REFUND, refund.id, refund.order_id, event, because)

    async def _set_known(self, refund: PayRefund, known: bool) -> None:
        async with self._context.database.connection() as connection:
            await number_rows.set_known(connection, refund, known, self._context.now())

    def _compare(self, configured: ConfiguredChannel, refund: PayRefund, facts: RefundFacts | None) -> None:
        if facts is None:
            raise FactsMismatchError("the message names no refund")
        compare_account(configured, facts.account, self._context.now())
        theirs = (facts.out_refund_no, facts.out_trade_no, facts.amount)
        if theirs != (refund.out_refund_no, refund.out_trade_no, refund.amount):
            raise FactsMismatchError("the message's numbers or amount are not the refund's")

    async def _not_ours(self, configured: ConfiguredChannel, outcome: RefundOutcome, facts: RefundFacts, cause: Cause) -> None:
        """A refund that was made in the channel's console, or under a number that is final here."""
        if outcome.status is RefundStatus.PENDING:
            number, amount = facts.out_refund_no, facts.amount or 0
            request = RefundRequest(facts.out_trade_no, number, amount, 0, "CNY", "", "", self._context.now())
            await self._note_of_trade(configured, facts.out_trade_no, CALLBACK_RECEIVED, cause)
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

    async def compare_refunded(self, payment: Payment, cause: Cause) -> None:
        """A callback of a booked payment states that some or all of it went back: a case, unless refunds of it that are made
        here, or are in progress, or cases about refunds that were made elsewhere, explain it."""
        attempt = await self._attempts.attempt_of(payment.out_trade_no)
        if attempt is None or attempt.state is not AttemptState.SUCCESS:
            return
        async with self._context.database.transaction() as connection:
            ours = await refund_rows.refunded_of_attempt(connection, attempt.id)
            total = attempt.paid_amount if payment.refunded is Refunded.ALL else payment.refunded_amount or 0
            if ours == 0 or ours < total:
                elsewhere = await case_rows.refunded_elsewhere(connection, attempt.id)
                if elsewhere == 0 or ours + elsewhere < total:
                    await self._cases.refunded_elsewhere(connection, attempt, total - ours - elsewhere, cause)

    async def _note_of_trade(self, configured: ConfiguredChannel, out_trade_no: str, event: str, because: Cause) -> None:
        """Note a message about a refund that was not made here, if its payment is one of this account."""
        attempt = await self._attempts.attempt_of(out_trade_no)
        if attempt is not None and attempt.account_id == configured.account.id:
            await self._attempts.note(attempt, event, because)

    async def _confirm(
        self, configured: ConfiguredChannel, request: RefundRequest, refund: PayRefund | None = None
    ) -> RefundOutcome:
        """Query a refund that a callback reports without proof. UndecidedError if the answer is not clear. `refund`: ours."""
        outcome = await self._query(configured, request)
        if refund is not None:
            await self._note_query(refund, outcome)
        else:
            await self._note_of_trade(configured, request.out_trade_no, QUERIED, cause_of(outcome.call))
        if outcome.status in (RefundStatus.PENDING, RefundStatus.UNKNOWN):
            raise UndecidedError("the channel has not decided this refund yet")
        return outcome


def knows(refund: PayRefund, outcome: RefundOutcome) -> bool | None:
    """True if the channel says that it knows the refund under its number: it accepted it, or states facts about it. False if it
    says that this very refund failed. None if it says neither: "not found" is true at its time only."""
    facts = outcome.facts
    if facts is None:
        return True if outcome.status is RefundStatus.PENDING else None
    if (facts.out_refund_no, facts.out_trade_no) != (refund.out_refund_no, refund.out_trade_no):
        return None
    return outcome.status is not RefundStatus.FAILED or facts.amount not in (None, refund.amount)
