"""Decisions about cases: refund, accept, close, retry; with a second operator above the limit of the app.

Every decision locks the case and checks it again, so that of two operators who decide at the same moment one is carried out. Rows
are locked in the order refund, order, attempt, notification, case. Channels are called between the transactions.
"""

from __future__ import annotations

from uuid import UUID

from paycenter_server.channels.protocol import RefundStatus
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.cases import SURPLUS, CaseKind, Decision, PayCase
from paycenter_server.domain.events import CASE_RETRIED, Cause, Subject, acting
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.money import fee
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.schedule import FAILED_REFUND, REQUEST_LIFE, next_look
from paycenter_server.domain.states import CaseEvent, CaseState, OrderState, RefundState
from paycenter_server.domain.validation import Check
from paycenter_server.services import accounts_errors
from paycenter_server.services import cases_errors as errors
from paycenter_server.services import notifications_payloads as payloads
from paycenter_server.services.attempts import AttemptSettlement, SettleResult
from paycenter_server.services.cases import Cases
from paycenter_server.services.cases_authority import CaseAuthority, Work, record_decision
from paycenter_server.services.cases_desk import CaseDesk, CaseView
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller
from paycenter_server.services.refunds_settlement import RefundSettlement, is_stuck
from paycenter_server.storage import accounts as account_rows
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import channels as channel_rows
from paycenter_server.storage import events as event_rows
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage import payments as payment_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage import refunds_numbers as number_rows
from paycenter_server.storage.cases import Decided
from paycenter_server.storage.database import Transaction
from paycenter_server.storage.refunds import Certainty

REASON_MAX = 512
CLOSED_BY_OPERATOR = "CLOSED_BY_OPERATOR"
NOT_RETURNED = "NOT_RETURNED"


class CaseDecisions(CaseAuthority):
    """Carries the decisions of operators out."""

    def __init__(
        self, context: Context, desk: CaseDesk, cases: Cases, attempts: AttemptSettlement, refunds: RefundSettlement
    ) -> None:
        super().__init__(context, cases)
        self._desk = desk
        self._attempts = attempts
        self._refunds = refunds

    async def decide(self, caller: Caller, number: str, decision: Decision, reason: str) -> CaseView:
        """Carry a decision out, or store it as a proposal. The same decision again changes nothing."""
        case = await self._desk.load(caller, number)
        check = Check()
        check.text("reason", reason, REASON_MAX, minimum=1 if case.needs_reason(decision) else 0)
        check.done()
        evidence = {"decision": decision.value, "reason": reason, "proposed_by": case.proposed_by}
        cause = Cause(caller.actor, {k: v for k, v in evidence.items() if v})
        work = Work(Decided(decision, reason, caller.person), cause, caller)
        with acting(caller.actor):
            await self._context.run_to_completion(self._decide(case, work))
        self._context.wake_up.send()
        return await self._desk.get(caller, number)

    async def _decide(self, case: PayCase, work: Work) -> None:
        refunding = case.state is CaseState.REFUNDING
        if work.decision is Decision.CLOSE:
            if refunding or case.kind is CaseKind.STALE_REFUND:
                await self._end_refund(case, work, CaseEvent.CLOSE)
            else:
                await self._apply(case, work, CaseEvent.CLOSE)
        elif case.kind is CaseKind.STALE_REFUND and work.decision is Decision.ACCEPT:
            await self._end_refund(case, work, CaseEvent.ACCEPT)
        elif case.kind is CaseKind.REFUND_MISMATCH:
            await self._take_back(case, work)
        elif refunding and work.decision is Decision.RETRY:
            await self._retry(case, work)
        elif case.kind in SURPLUS:
            await self._decide_surplus(case, work)
        else:
            await self._retry(case, work)

    async def _decide_surplus(self, case: PayCase, work: Work) -> None:
        refund = None
        if case.refund_id is not None:
            # It failed, and may succeed after all: the channel is queried before anything else is decided about its money.
            if not await self._authorised(case, work):
                return
            refund = await self._look_at(case, case.refund_id)
            if refund.state is not RefundState.FAILURE:
                if work.decision is Decision.ACCEPT:
                    raise errors.decision_not_possible(await self._read(case), work.decision)
                return
        if work.decision is not Decision.ACCEPT:
            await self.refund(case, work, refund)
        elif case.kind is CaseKind.LATE_PAYMENT:
            await self.book(case, work, refund)
        else:
            await self._apply(case, work, CaseEvent.ACCEPT, refund)

    # Surplus money

    async def _look_at(self, case: PayCase, refund_id: UUID) -> PayRefund:
        """The failed refund of a case after a query. CHANNEL_UNCLEAR or REFUND_UNDER_REVIEW if its money may be with the payer."""
        async with self._context.database.connection() as connection:
            refund = await refund_rows.get_refund(connection, refund_id)
        if refund is None or refund.state is RefundState.WAITING:
            raise errors.case_changed(case)
        return await self._refunds.look_at_failed(refund) if refund.state is RefundState.FAILURE else refund

    async def _lock_failed(self, transaction: Transaction, case: PayCase, refund: PayRefund | None) -> None:
        """Lock the failed refund. CASE_CHANGED if it is not as it was when the channel was queried."""
        if refund is None:
            return
        current = await refund_rows.lock_refund(transaction, refund.id)
        as_queried = (RefundState.FAILURE, refund.out_refund_key, None)
        if current is None or (current.state, current.out_refund_key, current.known_time) != as_queried:
            raise errors.case_changed(case)

    async def refund(self, case: PayCase, work: Work, refund: PayRefund | None) -> None:
        """Create the refund, or send the failed one again under a new number. It is due at once for the refund sync job."""
        now = self._context.now()
        async with self._context.database.transaction() as transaction:
            await self._lock_failed(transaction, case, refund)
            attempt = await self._lock_attempt(transaction, case)
            current = await self._authorise(transaction, case, work)
            if current is None:
                return
            await self._refuse_conflict(transaction, current, attempt, work)
            if not await account_rows.hold_enabled(transaction, attempt.account_id):
                account = await account_rows.get_account(transaction, attempt.account_id)
                raise accounts_errors.account_disabled(account) if account else errors.case_changed(case)
            if refund is not None:
                if not await number_rows.send_again(transaction, refund, self._context.new_key(now), now, now, work.cause):
                    raise errors.case_changed(case)
                await self._move(transaction, current, work, CaseEvent.REFUND)
                return
            order = await order_rows.get_order(transaction, attempt.order_id)
            if order is None or attempt.paid_amount != current.amount:
                raise errors.case_changed(case)
            moved = await self._move(transaction, current, work, CaseEvent.REFUND, self._context.new_key(now))
            if moved is None:
                raise errors.case_changed(case)
            await refund_rows.insert_refund(transaction, self._cases.refund_of(moved, order, attempt), work.cause)

    async def book(self, case: PayCase, work: Work, refund: PayRefund | None) -> None:
        """Book a late payment: its closed order becomes SUCCESS, by the transition of the policy ACCEPT, and the app is told."""
        async with self._context.database.transaction() as transaction:
            await self._lock_failed(transaction, case, refund)
            order = await order_rows.lock_order(transaction, case.order_id) if case.order_id else None
            attempt = await self._lock_attempt(transaction, case)
            if order is None:
                raise errors.case_changed(case)
            await notification_rows.lock_notifications(transaction, order.id, case.id)
            current = await self._authorise(transaction, case, work)
            if current is None:
                return
            if order.state is not OrderState.CLOSED or attempt.paid_amount != order.amount:
                why = f"its order is {order.state.value} and cannot take the payment any more; decide REFUND, or CLOSE"
                raise errors.decision_not_possible(current, work.decision, why)
            await self._refuse_conflict(transaction, current, attempt, work)
            if not await self._accept_late(transaction, order, attempt, work):
                raise errors.case_changed(case)
            await self._move(transaction, current, work, CaseEvent.ACCEPT)

    async def _accept_late(self, transaction: Transaction, order: PayOrder, attempt: PayAttempt, work: Work) -> bool:
        now = self._context.now()
        channel = await channel_rows.get_channel(transaction, attempt.channel_id)
        rate = attempt.booked_rate(channel.fee_rate_ppm if channel else 0)
        booking = payment_rows.Booking(
            order_id=order.id, attempt_id=attempt.id, channel_id=attempt.channel_id, channel_code=attempt.channel_code,
            amount=attempt.paid_amount, channel_order_no=attempt.channel_order_no or "",
            channel_user_id=attempt.channel_user_id or "", success_time=attempt.success_time or now, fee_rate_ppm=rate,
            fee_amount=fee(attempt.paid_amount, rate),
        )  # fmt: skip
        if not await payment_rows.accept_late(transaction, booking, now, work.cause):
            return False
        task = payloads.order_paid(
            order, self._context.new_key(now), now, amount=booking.amount, channel_code=booking.channel_code,
            out_trade_no=attempt.out_trade_no, channel_order_no=booking.channel_order_no, success_time=booking.success_time,
        )  # fmt: skip
        return await notification_rows.insert_notification(transaction, task)

    async def _lock_attempt(self, transaction: Transaction, case: PayCase) -> PayAttempt:
        """Lock the attempt, so that no conflict about it is opened meanwhile."""
        attempt = await attempt_rows.lock_attempt(transaction, case.attempt_id) if case.attempt_id else None
        if attempt is None:
            raise errors.case_changed(case)
        return attempt

    async def _refuse_conflict(self, transaction: Transaction, case: PayCase, attempt: PayAttempt, work: Work) -> None:
        """CASE_DECISION_NOT_POSSIBLE if money of the payment may be with the payer already."""
        conflict = await case_rows.open_conflict(transaction, attempt.id, besides=case.id)
        if conflict is not None:
            why = f"case {encode(Prefix.CASE, conflict)} about refunds of the same payment is open; decide that one first"
            raise errors.decision_not_possible(case, work.decision, why)

    async def _apply(self, case: PayCase, work: Work, event: CaseEvent, refund: PayRefund | None = None) -> None:
        """Resolve the case without doing anything else."""
        async with self._context.database.transaction() as transaction:
            await self._lock_failed(transaction, case, refund)
            current = await self._authorise(transaction, case, work)
            if current is None:
                return
            if current.state is not case.state:
                raise errors.case_changed(current)  # its refund is in progress by now, and would be sent all the same
            await self._move(transaction, case, work, event)

    # Stale refunds

    async def _end_refund(self, case: PayCase, work: Work, event: CaseEvent) -> None:
        """Decide a refund about which the channel says nothing. ACCEPT: it went back, and is booked. CLOSE: it did not, and its
        amount is released. It is looked at again as every failed one. Of a refund that is FAILURE already CLOSE says so too: it can
        be sent again, also if the channel had said that it knows it.
        """
        now = self._context.now()
        async with self._context.database.transaction() as transaction:
            refund = await refund_rows.lock_refund(transaction, case.refund_id) if case.refund_id else None
            if refund is None:
                raise errors.case_changed(case)
            await order_rows.lock_order(transaction, refund.order_id)
            await notification_rows.lock_notifications(transaction, refund.id, case.id)
            current = await self._authorise(transaction, case, work)
            if current is None:
                return
            same = current.state is CaseState.REFUNDING or current.reference == refund.out_refund_no
            if refund.state is RefundState.WAITING and same:
                if refund.unclear_send_time is not None and refund.unclear_send_time > now - REQUEST_LIFE:
                    why = "its refund was sent in the last ten minutes, and the channel may still carry it out; decide again later"
                    raise errors.decision_not_possible(current, work.decision, why)
                await self._book_refund(transaction, refund, work, event)
            elif event is CaseEvent.ACCEPT or current.state is CaseState.REFUNDING:
                why = f"its refund is {refund.state.value} under the number {refund.out_refund_no}; decide CLOSE or RETRY"
                raise errors.decision_not_possible(current, work.decision, why)
            elif same:
                await number_rows.set_known(transaction, refund, False, now)
            await self._move(transaction, current, work, event)

    async def _book_refund(self, transaction: Transaction, refund: PayRefund, work: Work, event: CaseEvent) -> None:
        now, code, message = self._context.now(), "", ""
        first_look = next_look(FAILED_REFUND, now, now)
        if event is CaseEvent.ACCEPT:
            done = await refund_rows.succeed(transaction, refund, work.cause, channel_refund_no="", success_time=now, now=now)
            # Only the operator has said so: the channel may still say otherwise.
            await refund_rows.begin_looks(transaction, refund, first_look)
        else:
            code, message = CLOSED_BY_OPERATOR, "an operator has stated that it did not go back"
            done = await refund_rows.fail(
                transaction, refund, work.cause, Certainty(final=True), code=code, message=message, now=now,
                next_look=first_look,
            )  # fmt: skip
        task = payloads.refund_settled(
            refund, self._context.new_key(now), now, version=done, success_time=now if event is CaseEvent.ACCEPT else None,
            code=code, message=message,
        )  # fmt: skip
        await notification_rows.insert_notification(transaction, task)

    # Contradicted refunds

    async def _take_back(self, case: PayCase, work: Work) -> None:
        """Book that a refund which is SUCCESS here did not go back: it becomes FAILURE, and its amount can be refunded again.

        The channel is queried first. A success that it reports later is booked as that of every failed one.
        """
        if not await self._authorised(case, work):
            return
        async with self._context.database.connection() as connection:
            refund = await refund_rows.get_refund(connection, case.refund_id) if case.refund_id else None
        if refund is None or not _is_about(case, refund):
            raise errors.decision_not_possible(case, work.decision, "its refund has been decided otherwise since; decide CLOSE")
        outcome = await self._refunds.asked_again(refund)
        stuck = is_stuck(outcome)
        if outcome.status not in (RefundStatus.FAILED, RefundStatus.NOT_FOUND) and not stuck:
            why = f"the channel says now that its refund is {outcome.status.value}; decide CLOSE if it went back, or later"
            raise errors.decision_not_possible(case, work.decision, why)
        now = self._context.now()
        code, message = outcome.error_code or NOT_RETURNED, "an operator has confirmed that it did not go back"
        async with self._context.database.transaction() as transaction:
            await refund_rows.lock_refund(transaction, refund.id)
            await order_rows.lock_order(transaction, refund.order_id)
            attempt = await self._lock_attempt(transaction, case)
            await notification_rows.lock_notifications(transaction, refund.id, case.id)
            current = await self._authorise(transaction, case, work)
            if current is None:
                return
            await self._refuse_conflict(transaction, current, attempt, work)
            version = await refund_rows.take_back(
                transaction, refund, work.cause, code=code, message=message, known=stuck, now=now,
                next_look=next_look(FAILED_REFUND, now, now),
            )  # fmt: skip
            if not version:
                raise errors.case_changed(current)
            task = payloads.refund_settled(
                refund, self._context.new_key(now), now, version=version, success_time=None, code=code, message=message
            )
            await notification_rows.insert_notification(transaction, task)
            await self._move(transaction, current, work, CaseEvent.ACCEPT)

    # Retry

    async def _retry(self, case: PayCase, work: Work) -> None:
        """Do again what the case is about, and resolve it if that settles it."""
        if case.kind is CaseKind.NOTIFICATION_GIVEN_UP:
            await self._resend(case, work)
            return
        async with self._context.database.transaction() as transaction:
            if await self._authorise(transaction, case, work) is None:
                return
            await event_rows.insert_event(transaction, Subject.CASE, case.id, case.order_id, CASE_RETRIED, work.cause)
            await record_decision(transaction, case, work, {"retried": True})
        if await self._settled(case):
            await self._apply(case, work, CaseEvent.RESOLVE)

    async def _settled(self, case: PayCase) -> bool:
        """Whether what a stale case is about is settled, after a query to the channel; or the books agree."""
        async with self._context.database.connection() as connection:
            attempt = await attempt_rows.get_attempt(connection, case.attempt_id) if case.attempt_id else None
            refund = await refund_rows.get_refund(connection, case.refund_id) if case.refund_id else None
        if case.kind is CaseKind.BOOKS_DIFFER and case.order_id is not None:
            async with self._context.database.connection() as connection:
                compared = await event_rows.compare_amounts(connection, UUID(int=case.order_id.int - 1), 1)
            return compared.last == case.order_id and not compared.differences
        if case.state is CaseState.REFUNDING and refund is not None:
            await self._refunds.check(refund)  # which moves the case if it decides the refund
            return False
        if case.kind is CaseKind.STALE_ATTEMPT and attempt is not None:
            return await self._attempts.settle_or_close(attempt) in (SettleResult.PAID, SettleResult.CLOSED)
        if case.kind is not CaseKind.STALE_REFUND or refund is None:
            return False
        await self._refunds.check(refund)
        async with self._context.database.connection() as connection:
            after = await refund_rows.get_refund(connection, refund.id)
        if after is None or after.state is refund.state is not RefundState.WAITING:
            # The case is about looks at it without a clear answer. After the last clear one there is no further look.
            return after is not None and after.next_check_time is None
        return after.state is not RefundState.WAITING

    async def _resend(self, case: PayCase, work: Work) -> None:
        """Send the notification that was given up again, by its whole retry schedule."""
        task_id = decode(Prefix.NOTIFICATION, str(case.detail.get("notification", "")))
        now = self._context.now()
        async with self._context.database.transaction() as transaction:
            await notification_rows.lock_notifications(transaction, case.id, task_id=task_id)
            current = await self._authorise(transaction, case, work)
            if current is None:
                return
            if task_id is None or not await notification_rows.resend(transaction, [task_id], now, work.cause):
                why = "the notification is being sent already, or a newer one of its object replaces it; decide CLOSE"
                raise errors.decision_not_possible(current, work.decision, why)
            await self._move(transaction, case, work, CaseEvent.RESOLVE)


def _is_about(case: PayCase, refund: PayRefund) -> bool:
    """Whether a case contradicts a refund as it is now: the reference names its number and its version."""
    return refund.state is RefundState.SUCCESS and case.reference == f"{refund.out_refund_no}:{refund.version}"
