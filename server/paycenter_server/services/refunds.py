"""Refunds: create, read, list, sync."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from uuid import UUID

from paycenter_server.domain.approvals import ApprovalKind, refund_needs_second
from paycenter_server.domain.apps import PayApp
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund, new_refund
from paycenter_server.domain.schedule import REFUND_SYNC_DELAYS, due_after
from paycenter_server.domain.states import RefundState
from paycenter_server.domain.validation import Check
from paycenter_server.services import accounts_errors, orders_errors, refunds_errors
from paycenter_server.services.approvals import Approvals, Approved, Wanted
from paycenter_server.services.audit import Act, record
from paycenter_server.services.context import Context
from paycenter_server.services.events import cause
from paycenter_server.services.gathering import WAITS_OF_CHANNEL_CALLS, Gathering
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.paging import Page, Pager, among, bounded
from paycenter_server.services.refunds_settlement import RefundSettlement
from paycenter_server.storage import accounts as account_rows
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage import refunds_lists as refund_lists
from paycenter_server.storage import refunds_numbers as number_rows
from paycenter_server.storage import search as search_rows
from paycenter_server.storage.database import Connection, Transaction, UniqueViolation
from paycenter_server.storage.refunds_lists import RefundFilter


@dataclass(frozen=True, slots=True)
class NewRefund:
    """The values of a create request. The amount is in minor units."""

    app_key: str
    merchant_order_id: str
    merchant_refund_no: str
    amount: int
    reason: str
    notification_url: str = ""


def _act(refund: PayRefund) -> Act:
    return Act("PayRefundService/CreatePayRefund", refund.number, refund.app_key)


def _audited(refund: PayRefund) -> dict[str, object]:
    return {
        "merchant_order_id": refund.merchant_order_id,
        "merchant_refund_no": refund.merchant_refund_no,
        "amount": refund.amount,
        "currency": refund.currency,
        "reason": refund.reason,
    }


class _NeedsApprovalError(Exception):
    """A second operator is needed. It ends the transaction of the refund."""

    def __init__(self, order: PayOrder) -> None:
        super().__init__()
        self.order = order


@dataclass(frozen=True, slots=True)
class Work:
    """A create, with its caller and its app. `approved`: by a second operator; None if it was not."""

    caller: Caller
    app: PayApp
    new: NewRefund
    approved: Approved | None

    def audited(self, refund: PayRefund) -> dict[str, object]:
        """What the audit keeps of it."""
        return _audited(refund) | (self.approved.audited if self.approved else {})


async def _read(connection: Connection, ids: Sequence[UUID]) -> list[PayRefund | None]:
    found = await refund_rows.get_refunds(connection, ids)
    return [found.get(refund_id) for refund_id in ids]


class Refunds:
    """The operations of apps on their refunds."""

    def __init__(self, context: Context, identity: Identity, settlement: RefundSettlement, approvals: Approvals) -> None:
        self._context = context
        self._identity = identity
        self._settlement = settlement
        self._approvals = approvals
        self._to_refund = Gathering(context, order_rows.read_to_refund, waits=WAITS_OF_CHANNEL_CALLS)
        self._reads = Gathering(context, _read, waits=WAITS_OF_CHANNEL_CALLS)

    async def create(self, caller: Caller, new: NewRefund, approved: Approved | None = None) -> PayRefund:
        """Create a refund. It is idempotent by (app, merchant_refund_no): the same content returns the existing refund, and sends
        it again if it is in state FAILURE.

        APPROVAL_NEEDED, and the refund waits for a second operator, if the caller is an operator and the limit of the app is
        reached. `approved`: the second operator has approved it.
        """
        check = Check()
        check.text("merchant_order_id", new.merchant_order_id, 64, minimum=1)
        check.text("merchant_refund_no", new.merchant_refund_no, 64, minimum=1)
        check.amount("amount", new.amount)
        check.text("reason", new.reason, 80, minimum=1)
        check.url("notification_url", new.notification_url)
        check.done()
        # A disabled app can still refund. The limit of an operator is not read from memory.
        app = await self._identity.app_of(caller, new.app_key, cached=not caller.is_operator)
        work = Work(caller, app, new, approved)
        try:
            return await self._context.run_to_completion(self._create(work))
        except _NeedsApprovalError as needed:
            order = needed.order
        shown = {name: getattr(new, name) for name in ("merchant_order_id", "merchant_refund_no", "amount", "reason")}
        wanted = Wanted(
            ApprovalKind.REFUND, order.number, asdict(replace(new, app_key=app.app_key)), {"after": shown}, app=app,
            amount=new.amount, currency=order.currency,
        )  # fmt: skip
        raise await self._approvals.request(caller, wanted)

    async def _create(self, work: Work) -> PayRefund:
        app, new = work.app, work.new
        seen = await self._to_refund.add((app.id, new.merchant_order_id, new.merchant_refund_no))
        existing = await self._existing(app, new) if seen is None or seen.refund is not None else None
        if existing is None:
            if seen is None:
                raise refunds_errors.refund_of_no_order(new.merchant_order_id)
            if seen.attempt is None:
                raise refunds_errors.not_refundable(seen.order)
            created = await self._reserve_and_insert(work, seen.order, seen.attempt)
            if created is None:
                existing = await self._existing(app, new)
                if existing is None:
                    raise orders_errors.order_changed()
            else:
                return await self._send(created, seen.attempt)
        if existing.state is not RefundState.FAILURE:
            return existing
        existing = await self._settlement.look_at_failed(existing)
        if existing.state is not RefundState.FAILURE:
            return existing  # it succeeded at the channel after all, and is booked
        return await self._send(await self._reserve_and_send_again(work, existing))

    async def _existing(self, app: PayApp, new: NewRefund) -> PayRefund | None:
        async with self._context.database.connection() as connection:
            refund = await refund_rows.get_refund_by_merchant_no(connection, app.id, new.merchant_refund_no)
        if refund is None:
            return None
        content = ("merchant_order_id", "amount", "reason", "notification_url")
        differing = [name for name in content if getattr(refund, name) != getattr(new, name)]
        if differing or refund.case_id is not None:
            raise refunds_errors.refund_conflict(refund, differing)
        return refund

    async def _refuse_alone(self, transaction: Transaction, work: Work, order_id: UUID) -> None:
        """Ends the transaction if the refund needs a second operator. The order is locked, and the refund is reserved."""
        if not work.caller.is_operator or work.approved is not None:
            return
        limit = work.app.refund_approval_limit
        order = await order_rows.get_order(transaction, order_id) if limit else None
        if order is not None and refund_needs_second(limit, order.refunded_amount, order.reserved_amount):
            raise _NeedsApprovalError(order)

    async def _record(self, transaction: Transaction, work: Work, refund: PayRefund, **more: object) -> None:
        await record(transaction, work.caller, _act(refund), None, work.audited(refund) | more)
        if work.approved is not None:
            await self._approvals.record(transaction, work.approved)

    async def _reserve_and_insert(self, work: Work, order: PayOrder, attempt: PayAttempt) -> PayRefund | None:
        """Reserve the amount and store the intent. None if another call has stored the number."""
        new, now = work.new, self._context.now()
        if new.amount > order.paid_amount:
            raise refunds_errors.refund_exceeds_paid(order)
        refund = new_refund(
            self._context.new_key(now), self._context.new_key(now), now, order, attempt=attempt,
            merchant_refund_no=new.merchant_refund_no,
            amount=new.amount, total_amount=order.paid_amount, currency=order.currency, reason=new.reason,
            notification_url=new.notification_url, next_check_time=due_after(now, REFUND_SYNC_DELAYS, 0),
        )  # fmt: skip
        await self._settlement.check_limits(refund, attempt)
        try:
            alone = not work.caller.is_operator and work.approved is None
            if alone and await self._settlement.statements.reserve_and_insert(refund, cause()):
                return refund
            # A second operator, the audit, or something that the error names.
            async with self._context.database.transaction() as connection:
                if work.approved is not None:
                    await self._approvals.take(connection, work.approved)
                await self._hold_account(connection, refund.account_id)
                # The refund row comes first: a parallel call with the same number must find the refund, not REFUND_EXCEEDS_PAID.
                await refund_rows.insert_refund(connection, refund, cause())
                if not await refund_rows.reserve(connection, order.id, new.amount, now):
                    raise refunds_errors.refund_exceeds_paid(await order_rows.get_order(connection, order.id) or order)
                await self._refuse_alone(connection, work, order.id)
                await self._record(connection, work, refund)
        except UniqueViolation:
            return None
        return refund

    async def _reserve_and_send_again(self, work: Work, refund: PayRefund) -> PayRefund:
        """Make a refund in state FAILURE WAITING under a new out_refund_no. The channel does not accept the old one again."""
        now = self._context.now()
        key = self._context.new_key(now)
        async with self._context.database.transaction() as connection:
            if work.approved is not None:
                await self._approvals.take(connection, work.approved)
            await self._hold_account(connection, refund.account_id)
            next_check = due_after(now, REFUND_SYNC_DELAYS, 0)
            if not await number_rows.send_again(connection, refund, key, now, next_check, cause()):
                raise orders_errors.order_changed()
            if not await refund_rows.reserve(connection, refund.order_id, refund.amount, now):
                order = await order_rows.get_order(connection, refund.order_id)
                raise refunds_errors.refund_exceeds_paid(order) if order else orders_errors.order_changed()
            await attempt_rows.lock_attempt(connection, refund.attempt_id)  # so that no conflict about it is opened meanwhile
            conflict = await case_rows.open_conflict(connection, refund.attempt_id)
            if conflict is not None:
                raise refunds_errors.refund_under_review(refund, encode(Prefix.CASE, conflict))
            await self._refuse_alone(connection, work, refund.order_id)
            again = await refund_rows.get_refund(connection, refund.id)
            await self._record(connection, work, refund, sent="again")
        if again is None:
            raise orders_errors.order_changed()
        return again

    @staticmethod
    async def _hold_account(transaction: Transaction, account_id: UUID) -> None:
        """ACCOUNT_DISABLED if the account is disabled. Otherwise it stays enabled until the end of the transaction."""
        if not await account_rows.hold_enabled(transaction, account_id):
            account = await account_rows.get_account(transaction, account_id)
            raise accounts_errors.account_disabled(account) if account else accounts_errors.account_not_found()

    async def _send(self, refund: PayRefund, attempt: PayAttempt | None = None) -> PayRefund:
        """`attempt`: the one that paid, if the caller has read it."""
        booked = await self._settlement.send(refund, attempt)
        return booked or await self._reads.add(refund.id) or refund

    async def load(self, caller: Caller, number: str) -> PayRefund:
        """Read by number. REFUND_NOT_FOUND also for a refund of another app."""
        key = decode(Prefix.REFUND, number)
        async with self._context.database.connection() as connection:
            refund = await refund_rows.get_refund(connection, key) if key else None
        return self._owned(caller, refund)

    async def load_by_merchant_no(self, caller: Caller, app_key: str, merchant_refund_no: str) -> PayRefund:
        """Read by the app's own number."""
        app = await self._identity.app_of(caller, app_key, cached=True)
        async with self._context.database.connection() as connection:
            refund = await refund_rows.get_refund_by_merchant_no(connection, app.id, merchant_refund_no)
        return self._owned(caller, refund)

    def _owned(self, caller: Caller, refund: PayRefund | None) -> PayRefund:
        if refund is None or not self._identity.owns(caller, refund.app_id):
            raise refunds_errors.refund_not_found()
        return refund

    async def sync(self, caller: Caller, refund: PayRefund) -> PayRefund:
        """Query the channel about a refund that it has not reported as SUCCESS, and about its earlier numbers; read it again."""
        if refund.state is not RefundState.SUCCESS or refund.send_count > 1 or await self._settlement.was_accepted(refund):
            await self._context.run_to_completion(self._settlement.check(refund, asked=True))
        return await self.load(caller, refund.number)

    async def of_order(self, caller: Caller, order: PayOrder) -> list[PayRefund]:
        """The refunds of an order that the caller has read, oldest first, those of surplus money too."""
        async with self._context.database.connection() as connection:
            refunds = await refund_rows.list_of_order(connection, order.id)
        return [refund for refund in refunds if self._identity.owns(caller, refund.app_id)]

    async def search(
        self, caller: Caller, app_key: str, where: RefundFilter, pager: Pager, *, scan: int | None = None
    ) -> Page[PayRefund]:
        """List refunds, newest first. Apps list their own; operators may name an app. `scan`: as in `Orders.search`."""
        where = replace(where, app_id=await self._identity.list_scope(caller, app_key))
        async with self._context.database.connection() as connection:
            # The keys of what has a number are read first, so that no statistics can make another index look better.
            narrowed = where
            if where.merchant_refund_no:
                found = await search_rows.refunds_by_merchant_no(connection, where.merchant_refund_no, where.app_id)
                narrowed = replace(narrowed, refund_ids=among(narrowed.refund_ids, found))
            if where.merchant_order_id:
                found = await search_rows.orders_by_merchant_id(connection, where.merchant_order_id, where.app_id)
                found = await search_rows.objects_of_orders(connection, found)
                narrowed = replace(narrowed, refund_ids=among(narrowed.refund_ids, found))
            if where.channel_refund_no:
                found = await search_rows.refunds_by_channel_no(connection, where.channel_refund_no, where.app_id)
                narrowed = replace(narrowed, refund_ids=among(narrowed.refund_ids, found))
            before = pager.before(where)
            narrowed = await bounded(connection, "pay_refund", narrowed, before, scan)
            rows = await refund_lists.list_refunds(connection, narrowed, limit=pager.size + 1, before=before)
        return pager.page(rows, where, scanned=narrowed.first_id)
