"""Cases: all that opens or changes a `pay_case`. An operator decides what no rule decides (`services/cases_decisions.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import structlog

from paycenter_server.channels.protocol import Payment, Refunded, RefundFacts
from paycenter_server.domain.accounts import PayAccount
from paycenter_server.domain.apps import PayApp, SurplusPolicy
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.cases import DID_NOT_GO_BACK, CaseKind, Decision, PayCase, new_case
from paycenter_server.domain.channels import PayChannel
from paycenter_server.domain.events import Cause
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.notifications import NotificationType
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund, new_refund
from paycenter_server.domain.schedule import STALE_AFTER
from paycenter_server.domain.states import CaseEvent, CaseState
from paycenter_server.services import notifications_payloads as payloads
from paycenter_server.services.context import Context
from paycenter_server.services.events import cause as cause_now
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage import refunds_numbers as number_rows
from paycenter_server.storage.cases import Decided
from paycenter_server.storage.database import Transaction
from paycenter_server.storage.events import Difference
from paycenter_server.storage.notifications_delivery import DueNotification

log = structlog.get_logger(__name__)
# The reference of a conflict about everything that was refunded of an attempt is its out_trade_no and one of these.
_WHOLE_ATTEMPT = ("refunded", "cancelled")
# What the payer reads about a refund of surplus money.
_REASON = "重复或超时支付退款"


class Cases:
    """Opens cases, one per kind and reference, and changes their state with the refunds that settle them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def surplus(
        self,
        transaction: Transaction,
        kind: CaseKind,
        app: PayApp,
        order: PayOrder,
        attempt: PayAttempt,
        payment: Payment,
        cause: Cause,
    ) -> None:
        """Open a case for surplus money. If the app's policy is REFUND its refund is created too, and is due at once.

        The caller has locked order and attempt. A payment of which something was refunded already waits for an operator.
        """
        now = self._context.now()
        refunds = app.policy(kind) is SurplusPolicy.REFUND and payment.refunded is Refunded.NOTHING
        case = new_case(
            self._context.new_key(now), now, kind, attempt.out_trade_no,
            event=CaseEvent.CREATE_WITH_REFUND if refunds else CaseEvent.CREATE, app_id=app.id, channel_id=attempt.channel_id,
            account_id=attempt.account_id, order_id=order.id, attempt_id=attempt.id,
            refund_id=self._context.new_key(now) if refunds else None, amount=payment.amount or 0,
            currency=payment.currency or "",
            detail={"channel_order_no": payment.channel_order_no, "order_state": order.state.value, "sent": attempt.amount},
        )  # fmt: skip
        if await self._open(transaction, case, cause) and refunds:
            await refund_rows.insert_refund(transaction, self.refund_of(case, order, attempt), cause_now())

    def refund_of(self, case: PayCase, order: PayOrder, attempt: PayAttempt) -> PayRefund:
        """The refund of surplus money, under the key `refund_id` of its case. The refund sync job sends it.

        The money belongs to the attempt, so no order reserves it. A case has one refund.
        """
        now, amount = self._context.now(), case.amount or 0
        assert case.refund_id is not None
        return new_refund(
            case.refund_id, self._context.new_key(now), now, order, attempt=attempt, merchant_refund_no=f"surplus-{case.number}",
            amount=amount, total_amount=amount, currency=attempt.currency, reason=_REASON, notification_url=order.notification_url,
            next_check_time=now, case_id=case.id,
        )  # fmt: skip

    async def unknown_payment(self, channel: PayChannel, account: PayAccount, payment: Payment, cause: Cause) -> None:
        """Open a case for a payment whose number is not that of an attempt of this account. `channel`: where it was reported.

        The reference contains the channel's own number too, because two payments may have the same unknown number.
        """
        case = self._case(
            CaseKind.UNKNOWN_ORDER, f"{account.number}:{payment.out_trade_no}:{payment.channel_order_no}",
            {"account_id": account.number, "channel_order_no": payment.channel_order_no},
            app_id=channel.app_id, channel_id=channel.id, account_id=account.id, amount=payment.amount,
            currency=payment.currency or "",
        )  # fmt: skip
        async with self._context.database.transaction() as transaction:
            opened = await self._open(transaction, case, cause)
        if opened:
            log.error("payment_of_unknown_order", out_trade_no=payment.out_trade_no, channel=channel.number)
            self._context.wake_up.send()

    async def unknown_refund(
        self,
        transaction: Transaction,
        channel: PayChannel,
        account: PayAccount,
        facts: RefundFacts,
        attempt: PayAttempt | None,
        cause: Cause,
    ) -> None:
        """Open a case for a refund whose number is not being settled here. The caller has locked the attempt, if there is one.

        A number in the form of ours contradicts our refunds; another one was given in the channel's console.
        """
        whole = [f"{attempt.out_trade_no}:{mark}" for mark in _WHOLE_ATTEMPT] if attempt else []
        if attempt is not None and await case_rows.open_conflict(transaction, attempt.id, whole) is not None:
            return  # a case about everything that was refunded of this attempt is open already
        key = decode(Prefix.OUT_REFUND, facts.out_refund_no)
        earlier = await number_rows.find_earlier_key(transaction, attempt.id, key) if attempt and key else None
        case = self._case(
            CaseKind.REFUND_ELSEWHERE if key is None else CaseKind.REFUND_MISMATCH, f"{account.number}:{facts.out_refund_no}",
            {"account_id": account.number, "why": "refunded at the channel under a number that is not being settled here"},
            app_id=channel.app_id, channel_id=channel.id, account_id=account.id, order_id=attempt.order_id if attempt else None,
            attempt_id=attempt.id if attempt else None, refund_id=earlier.id if earlier else None, amount=facts.amount,
            currency=attempt.currency if attempt else None,
        )  # fmt: skip
        await self._open(transaction, case, cause)
        log.error("refund_of_unknown_number", out_refund_no=facts.out_refund_no, channel=channel.number)

    async def refunded_before_booked(self, transaction: Transaction, attempt: PayAttempt, refunded: Refunded, cause: Cause) -> None:
        """Open a case for a payment that was refunded at the channel before it was booked. The app hears of it in this commit."""
        why = "refunded at the channel before the payment was known here"
        amount = attempt.amount if refunded is Refunded.ALL else None
        await self._whole_attempt(CaseKind.REFUND_ELSEWHERE, attempt, "refunded", why, cause, amount, transaction)

    async def refunded_elsewhere(self, transaction: Transaction, attempt: PayAttempt, amount: int, cause: Cause) -> None:
        """Open a case for a booked payment of which more went back than the refunds that are made here. `amount`: how much more, in
        minor units; not above 0 if it is not known."""
        why = "refunded at the channel, and not by a refund that was made here"
        more = amount if amount > 0 else None
        # What is known of it counts as explained, so another report that opens one is about still more.
        again = timedelta() if more is not None else None
        await self._whole_attempt(CaseKind.REFUND_ELSEWHERE, attempt, "refunded", why, cause, more, transaction, again_after=again)

    async def closed_after_booking(self, attempt: PayAttempt, cause: Cause) -> None:
        """Open a case for a payment that was closed or cancelled at the channel after it was booked."""
        why = "closed or cancelled at the channel after it was booked as paid here"
        await self._whole_attempt(CaseKind.REFUND_MISMATCH, attempt, "cancelled", why, cause)

    async def another_amount(self, attempt: PayAttempt, amount: int, cause: Cause, transaction: Transaction | None = None) -> None:
        """Open a case for a booked payment of which the channel now reports another amount. `amount` in minor units.

        Beside other conflicts, because the channel may not report this amount a second time.
        """
        why = f"the channel reports an amount of {amount} after {attempt.paid_amount} was booked here (minor units)"
        await self._whole_attempt(
            CaseKind.REFUND_MISMATCH, attempt, f"amount:{amount}", why, cause, amount, transaction, beside=True
        )

    async def _whole_attempt(
        self,
        kind: CaseKind,
        attempt: PayAttempt,
        mark: str,
        why: str,
        cause: Cause,
        amount: int | None = None,
        transaction: Transaction | None = None,
        *,
        beside: bool = False,
        again_after: timedelta | None = None,
    ) -> None:
        """`beside`: the case is opened beside an open conflict, which otherwise stands for it. `again_after`: see `_open`."""
        case = self._case(
            kind, f"{attempt.out_trade_no}:{mark}", {"why": why}, app_id=attempt.app_id, channel_id=attempt.channel_id,
            account_id=attempt.account_id, order_id=attempt.order_id, attempt_id=attempt.id, amount=amount,
            currency=attempt.currency,
        )  # fmt: skip
        async with AsyncExitStack() as stack:
            if transaction is None:
                transaction = await stack.enter_async_context(self._context.database.transaction())
            await attempt_rows.lock_attempt(transaction, attempt.id)  # one case, in whatever order the messages arrive
            is_open = not beside and await case_rows.open_conflict(transaction, attempt.id) is not None
            if not is_open and await self._open(transaction, case, cause, again_after):
                log.error("case_conflict", kind=kind.value, out_trade_no=attempt.out_trade_no, why=why)

    async def succeeded_after_failure(self, transaction: Transaction, refund: PayRefund, cause: Cause) -> bool:
        """Open a case for a refund that the channel reports as successful, but that failed here or has another number now. False
        if there is one already."""
        return await self._mismatch(transaction, refund, "succeeded at the channel after it had failed there", cause)

    async def failed_after_acceptance(self, transaction: Transaction, refund: PayRefund, cause: Cause) -> bool:
        """Open a case for a refund that did not go back, if an operator has decided that it did. Whether this opened one."""
        if await case_rows.refund_was_accepted(transaction, refund.attempt_id, refund.id):
            why = "the channel says that it did not go back, after an operator had decided that it did"
            return await self._mismatch(transaction, refund, why, cause, {DID_NOT_GO_BACK: refund.case_id is None})
        return False

    async def failed_after_success(self, transaction: Transaction, refund: PayRefund, cause: Cause) -> None:
        """Open a case for a refund that did not go back, after the channel had reported that it did."""
        why = "the channel says that it did not go back, after it had said that it did"
        await self._mismatch(transaction, refund, why, cause, {DID_NOT_GO_BACK: refund.case_id is None})

    async def _mismatch(
        self, transaction: Transaction, refund: PayRefund, why: str, cause: Cause, more: Mapping[str, Any] | None = None
    ) -> bool:
        """A case for each version of the refund: one that is FAILURE, SUCCESS and FAILURE again may be contradicted each time."""
        log.error("refund_mismatch", refund=refund.number, why=why)
        case = self._of_refund(CaseKind.REFUND_MISMATCH, refund, {"why": why, **(more or {})}, f":{refund.version}")
        return await self._open(transaction, case, cause)

    async def stale_attempt(self, attempt: PayAttempt) -> None:
        """Open a case for an attempt that is not decided a day after its expiry. The sync continues.

        A day after such a case was resolved, there is another one.
        """
        case = self._case(
            CaseKind.STALE_ATTEMPT, attempt.out_trade_no, {"state": attempt.state.value}, app_id=attempt.app_id,
            channel_id=attempt.channel_id, account_id=attempt.account_id, order_id=attempt.order_id, attempt_id=attempt.id,
            amount=attempt.amount, currency=attempt.currency,
        )  # fmt: skip
        async with self._context.database.transaction() as transaction:
            await self._open(transaction, case, cause_now(), STALE_AFTER)

    async def stale_refund(self, refund: PayRefund) -> None:
        """Open a case for a refund that is not decided a day after it was sent under this number. The sync continues.

        A day after such a case was resolved, there is another one. The refund of a case makes that case stale instead, as long as
        it is not resolved.
        """
        now = self._context.now()
        async with self._context.database.transaction() as transaction:
            if refund.case_id is not None and await case_rows.mark_stale(transaction, refund.case_id, now, cause_now()):
                return
            known = {"known_time": refund.known_time.isoformat()} if refund.known_time is not None else {}
            await self._open(transaction, self._of_refund(CaseKind.STALE_REFUND, refund, known), cause_now(), STALE_AFTER)

    async def notification_given_up(self, transaction: Transaction, task: DueNotification, why: str) -> None:
        """Open a case for a notification that ends without having been received. The app does not know what it reports.

        Its reference contains the number of deliveries, because a notification that is resent may be given up again. It may be
        given up again without another delivery, behind an open breaker: then the case comes again.
        """
        refund = await refund_rows.get_refund(transaction, task.data_id) if task.type is NotificationType.REFUND else None
        about = await case_rows.get_case(transaction, task.data_id) if task.type is NotificationType.CASE else None
        order_id = refund.order_id if refund else about.order_id if about else task.data_id
        order = await order_rows.get_order(transaction, order_id) if order_id else None
        number, money = encode(Prefix.NOTIFICATION, task.id), refund or about or order
        case = self._case(
            CaseKind.NOTIFICATION_GIVEN_UP, f"{number}:{task.notify_times + 1}",
            {"notification": number, "event": task.event, "url": task.notification_url, "why": why[:500]}, app_id=task.app_id,
            order_id=order.id if order else None, refund_id=refund.id if refund else None,
            amount=money.amount if money else None, currency=money.currency if money else None,
        )  # fmt: skip
        await self._open(transaction, case, cause_now(), timedelta())

    async def books_differ(self, difference: Difference, sentence: str) -> bool:
        """Open a case for an order whose amounts are not the sums of its events. False if there is an unresolved one.

        A day after such a case was resolved, there is another one if they still differ.
        """
        async with self._context.database.transaction() as transaction:
            order = await order_rows.get_order(transaction, difference.order_id)
            if order is None:
                return False
            case = self._case(
                CaseKind.BOOKS_DIFFER, order.number, {"why": sentence}, app_id=order.app_id, channel_id=order.channel_id,
                order_id=order.id, attempt_id=order.attempt_id, amount=difference.largest or None, currency=order.currency,
            )  # fmt: skip
            return await self._open(transaction, case, cause_now(), STALE_AFTER)

    async def refund_settled(
        self, transaction: Transaction, refund: PayRefund, event: CaseEvent, now: datetime, cause: Cause
    ) -> None:
        """Change the case of a refund that has succeeded (RESOLVE) or failed (REFUND_FAILED). A refund may have none."""
        if refund.case_id is None or await self.move(transaction, refund.case_id, event, now, cause) is not None:
            return
        case = await case_rows.get_case(transaction, refund.case_id)
        if event is CaseEvent.RESOLVE and case is not None and case.decision in (Decision.ACCEPT, Decision.CLOSE):
            # It had failed, an operator decided otherwise, and now the channel has carried it out after all.
            why = f"succeeded at the channel after its case {case.number} was decided otherwise ({case.decision})"
            await self._mismatch(transaction, refund, why, cause)

    async def move(
        self,
        transaction: Transaction,
        case_id: Any,
        event: CaseEvent,
        now: datetime,
        cause: Cause,
        *,
        refund_id: Any = None,
        decided: Decided | None = None,
    ) -> PayCase | None:
        """Apply an event, and tell the app if it resolves the case. None if the state of the case does not allow it."""
        await notification_rows.lock_notifications(transaction, case_id)  # they are locked before their case
        moved = await case_rows.move_case(transaction, case_id, event, now, cause, refund_id, decided)
        if moved is not None and moved.state is CaseState.RESOLVED:
            await self._insert_notification(transaction, payloads.CASE_RESOLVED, moved, now)
        return moved

    async def _open(self, transaction: Transaction, case: PayCase, cause: Cause, again_after: timedelta | None = None) -> bool:
        """Insert a case and tell the app. False if there is one already."""
        if not await case_rows.insert_case(transaction, case, cause, again_after):
            return False
        stored = await case_rows.get_case(transaction, case.id)
        await self._insert_notification(transaction, payloads.CASE_OPENED, stored or case, case.create_time)
        return True

    async def _insert_notification(self, transaction: Transaction, event: str, case: PayCase, now: datetime) -> None:
        # Of a notification that was given up the app is told by sending it again: otherwise the notification of that case,
        # which goes to the same endpoint, would be given up too, and open the next case.
        if case.app_id is None or case.app_key is None or case.kind is CaseKind.NOTIFICATION_GIVEN_UP:
            return
        order = await order_rows.get_order(transaction, case.order_id) if case.order_id else None
        task = payloads.case_changed(case, order, event, self._context.new_key(now), now)
        await notification_rows.insert_notification(transaction, task)

    def _case(self, kind: CaseKind, reference: str, detail: Mapping[str, Any], **values: Any) -> PayCase:
        now = self._context.now()
        return new_case(self._context.new_key(now), now, kind, reference, detail=detail, **values)

    def _of_refund(self, kind: CaseKind, refund: PayRefund, detail: Mapping[str, Any], mark: str = "") -> PayCase:
        return self._case(
            kind, f"{refund.out_refund_no}{mark}", detail, app_id=refund.app_id, channel_id=refund.channel_id,
            account_id=refund.account_id, order_id=refund.order_id, attempt_id=refund.attempt_id, refund_id=refund.id,
            amount=refund.amount, currency=refund.currency,
        )  # fmt: skip
