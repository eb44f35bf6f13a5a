"""Cases: everything that opens or changes a `pay_case`. An operator decides what no rule decides."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import structlog

from paycenter_server.channels.protocol import Payment, RefundFacts
from paycenter_server.domain.accounts import PayAccount
from paycenter_server.domain.apps import PayApp, SurplusPolicy
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.cases import CaseKind, PayCase, new_case
from paycenter_server.domain.channels import PayChannel
from paycenter_server.domain.events import Cause
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.notifications import NotificationType
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund, new_refund
from paycenter_server.domain.schedule import STALE_AFTER
from paycenter_server.domain.states import CaseEvent
from paycenter_server.services.context import Context
from paycenter_server.services.events import cause as cause_now
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage.database import Transaction, WriteConnection
from paycenter_server.storage.notifications import DueNotification

log = structlog.get_logger(__name__)
# The reference of a REFUND_MISMATCH case about everything that was refunded of an attempt is its out_trade_no and one of these.
_WHOLE_ATTEMPT = ("refunded", "cancelled")


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

        The caller has locked order and attempt. Money in another currency is not refunded automatically.
        """
        now = self._context.now()
        refunds = app.surplus_policy is SurplusPolicy.REFUND and payment.currency == attempt.currency
        refund_key = self._context.new_key(now) if refunds else None
        case = new_case(
            self._context.new_key(now), now, kind, attempt.out_trade_no,
            event=CaseEvent.CREATE_WITH_REFUND if refunds else CaseEvent.CREATE, app_id=app.id, channel_id=attempt.channel_id,
            order_id=order.id, attempt_id=attempt.id, refund_id=refund_key, amount=payment.amount or 0,
            currency=payment.currency or "",
            detail={"channel_order_no": payment.channel_order_no, "order_state": order.state.value, "sent": attempt.amount},
        )  # fmt: skip
        if await case_rows.insert_case(transaction, case, cause) and refund_key is not None:
            # The money belongs to the attempt, so no order reserves it. A case has one refund.
            refund = new_refund(
                refund_key, self._context.new_key(now), now, order, attempt=attempt,
                merchant_refund_no=f"surplus-{case.number}", amount=case.amount or 0,
                total_amount=case.amount or 0, currency=attempt.currency, reason="重复或超时支付退款",
                notification_url="", next_check_time=now, case_id=case.id,
            )  # fmt: skip
            await refund_rows.insert_refund(transaction, refund, cause_now())

    async def unknown_payment(
        self, connection: WriteConnection, channel: PayChannel, account: PayAccount, payment: Payment, cause: Cause
    ) -> None:
        """Open a case for a payment whose number is not that of an attempt of this account. `channel`: where it was reported.

        The reference contains the channel's own number too, because two payments may have the same unknown number.
        """
        case = self._case(
            CaseKind.UNKNOWN_ORDER, f"{account.number}:{payment.out_trade_no}:{payment.channel_order_no}",
            {"account_id": account.number, "channel_order_no": payment.channel_order_no},
            app_id=channel.app_id, channel_id=channel.id, amount=payment.amount, currency=payment.currency or "",
        )  # fmt: skip
        if await case_rows.insert_case(connection, case, cause):
            log.error("payment_of_unknown_order", out_trade_no=payment.out_trade_no, channel=channel.number)

    async def unknown_refund(
        self,
        transaction: Transaction,
        channel: PayChannel,
        account: PayAccount,
        facts: RefundFacts,
        attempt: PayAttempt | None,
        cause: Cause,
    ) -> None:
        """Open a case for a refund whose number is not being settled here. The caller has locked the attempt, if there is one."""
        whole = [f"{attempt.out_trade_no}:{mark}" for mark in _WHOLE_ATTEMPT] if attempt else []
        if attempt is not None and await case_rows.open_conflict(transaction, attempt.id, whole) is not None:
            return  # a case about everything that was refunded of this attempt is open already
        key = decode(Prefix.OUT_REFUND, facts.out_refund_no)
        earlier = await refund_rows.find_earlier_key(transaction, attempt.id, key) if attempt and key else None
        why = "refunded at the channel under a number that is not being settled here"
        case = self._case(
            CaseKind.REFUND_MISMATCH, f"{account.number}:{facts.out_refund_no}",
            {"account_id": account.number, "why": why},
            app_id=channel.app_id, channel_id=channel.id, order_id=attempt.order_id if attempt else None,
            attempt_id=attempt.id if attempt else None, refund_id=earlier.id if earlier else None, amount=facts.amount,
        )  # fmt: skip
        await case_rows.insert_case(transaction, case, cause)
        log.error("refund_of_unknown_number", out_refund_no=facts.out_refund_no, channel=channel.number)

    async def refunded_before_booked(self, transaction: Transaction, attempt: PayAttempt, cause: Cause) -> None:
        """Open a case for a payment that was refunded at the channel before it was booked."""
        await self._whole_attempt(
            attempt, "refunded", "refunded at the channel before the payment was known here", cause, transaction
        )

    async def closed_after_booking(self, attempt: PayAttempt, cause: Cause) -> None:
        """Open a case for a payment that was closed or cancelled at the channel after it was booked."""
        why = "closed or cancelled at the channel after it was booked as paid here"
        await self._whole_attempt(attempt, "cancelled", why, cause)

    async def _whole_attempt(
        self, attempt: PayAttempt, mark: str, why: str, cause: Cause, transaction: Transaction | None = None
    ) -> None:
        case = self._case(
            CaseKind.REFUND_MISMATCH, f"{attempt.out_trade_no}:{mark}", {"why": why},
            app_id=attempt.app_id, channel_id=attempt.channel_id, order_id=attempt.order_id, attempt_id=attempt.id,
            currency=attempt.currency,
        )  # fmt: skip
        async with AsyncExitStack() as stack:
            if transaction is None:
                transaction = await stack.enter_async_context(self._context.database.transaction())
            await attempt_rows.lock_attempt(transaction, attempt.id)  # one case, in whatever order the messages arrive
            is_open = await case_rows.open_conflict(transaction, attempt.id) is not None
            if not is_open and await case_rows.insert_case(transaction, case, cause):
                log.error("refund_mismatch", out_trade_no=attempt.out_trade_no, why=why)

    async def succeeded_after_failure(self, transaction: Transaction, refund: PayRefund, cause: Cause) -> None:
        """Open a case for a refund that the channel reports as successful, but that failed here or has another number now."""
        why = "succeeded at the channel after it had failed there"
        log.error("refund_mismatch", refund=refund.number, why=why)
        await case_rows.insert_case(transaction, self._of_refund(CaseKind.REFUND_MISMATCH, refund, {"why": why}), cause)

    async def stale_attempt(self, attempt: PayAttempt) -> None:
        """Open a case for an attempt that is not decided a day after its expiry. The sync continues.

        A day after such a case was resolved, there is another one.
        """
        case = self._case(
            CaseKind.STALE_ATTEMPT, attempt.out_trade_no, {"state": attempt.state.value}, app_id=attempt.app_id,
            channel_id=attempt.channel_id, order_id=attempt.order_id, attempt_id=attempt.id, amount=attempt.amount,
            currency=attempt.currency,
        )  # fmt: skip
        async with self._context.database.connection() as connection:
            await case_rows.insert_case(connection, case, cause_now(), again_after=STALE_AFTER)

    async def stale_refund(self, refund: PayRefund) -> None:
        """Open a case for a refund that is not decided a day after it was sent under this number. The sync continues.

        A day after such a case was resolved, there is another one.
        """
        case = self._of_refund(CaseKind.STALE_REFUND, refund, {})
        async with self._context.database.connection() as connection:
            await case_rows.insert_case(connection, case, cause_now(), again_after=STALE_AFTER)

    async def notification_given_up(self, transaction: Transaction, task: DueNotification, why: str) -> None:
        """Open a case for a notification that ends without having been received. The app does not know what it reports.

        Its reference contains the number of deliveries, because a notification that is resent may be given up again.
        """
        is_order = task.type is NotificationType.ORDER
        refund = None if is_order else await refund_rows.get_refund(transaction, task.data_id)
        order = await order_rows.get_order(transaction, task.data_id if refund is None else refund.order_id)
        number = encode(Prefix.NOTIFICATION, task.id)
        case = self._case(
            CaseKind.NOTIFICATION_GIVEN_UP, f"{number}:{task.notify_times + 1}",
            {"notification": number, "event": task.event, "url": task.notification_url, "why": why[:500]}, app_id=task.app_id,
            order_id=order.id if order else None, refund_id=refund.id if refund else None,
        )  # fmt: skip
        await case_rows.insert_case(transaction, case, cause_now())

    async def refund_settled(
        self, transaction: Transaction, refund: PayRefund, event: CaseEvent, now: datetime, cause: Cause
    ) -> None:
        """Change the case of a refund that has succeeded (RESOLVE) or failed (REFUND_FAILED). A refund may have none."""
        if refund.case_id is not None:
            await case_rows.move_case(transaction, refund.case_id, event, now, cause)

    def _case(self, kind: CaseKind, reference: str, detail: Mapping[str, Any], **values: Any) -> PayCase:
        now = self._context.now()
        return new_case(self._context.new_key(now), now, kind, reference, detail=detail, **values)

    def _of_refund(self, kind: CaseKind, refund: PayRefund, detail: Mapping[str, Any]) -> PayCase:
        return self._case(
            kind, refund.out_refund_no, detail, app_id=refund.app_id, channel_id=refund.channel_id, order_id=refund.order_id,
            attempt_id=refund.attempt_id, refund_id=refund.id, amount=refund.amount, currency=refund.currency,
        )  # fmt: skip
