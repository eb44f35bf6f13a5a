"""Orders: create, read, list, close, change the price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.orders import PayOrder, new_order
from paycenter_server.domain.states import OrderState
from paycenter_server.domain.validation import Check
from paycenter_server.domain.values import value
from paycenter_server.services import apps_errors, orders_errors
from paycenter_server.services.attempts import AttemptSettlement
from paycenter_server.services.audit import Act, record
from paycenter_server.services.context import Context
from paycenter_server.services.events import cause
from paycenter_server.services.gathering import Gathering
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.orders_insert import OrderInserts
from paycenter_server.services.paging import Page, Pager, among, bounded
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage import search as search_rows
from paycenter_server.storage.database import ForeignKeyViolation
from paycenter_server.storage.orders import OrderFilter, OrderMark

DEFAULT_LIFE = timedelta(minutes=30)
# `first_amount`: the amount of the create, which a price change leaves as it is.
_CONTENT = {"subject": "subject", "body": "body", "amount": "first_amount", "currency": "currency", "user_id": "user_id",
            "return_url": "return_url", "notification_url": "notification_url"}  # fmt: skip

_TEXTS = (("merchant_order_id", 1, 64), ("subject", 1, 32), ("body", 0, 128), ("user_id", 0, 64))


@value
class NewOrder:
    """The values of a create request. The amount is in minor units. Without `expire_time` the order expires after DEFAULT_LIFE."""

    app_key: str
    merchant_order_id: str
    subject: str
    body: str
    amount: int
    currency: str
    expire_time: datetime | None
    user_ip: str
    user_id: str
    return_url: str
    notification_url: str = ""


class Orders:
    """The operations of apps on their orders, except the submit."""

    def __init__(self, context: Context, identity: Identity, attempts: AttemptSettlement) -> None:
        self._context = context
        self._identity = identity
        self._attempts = attempts
        self._inserts = OrderInserts(context)
        self._reads = Gathering(context, order_rows.read_all_with_attempts)
        self._reads_by_id = Gathering(context, order_rows.read_with_attempts)

    async def create(self, caller: Caller, new: NewOrder) -> PayOrder:
        """Create an order. It is idempotent by (app, merchant_order_id): the same content returns the existing order, other
        content is ORDER_CONFLICT.

        The expiry and the payer's IP address are not content, because a caller may compute them anew when it repeats the call.
        """
        now = self._context.now()
        check = Check()
        check.texts(new, _TEXTS)
        check.amount("amount", new.amount)
        check.currency("currency", new.currency)
        if new.expire_time is not None:
            check.future("expire_time", new.expire_time, now)
        check.ip("user_ip", new.user_ip)
        check.url("return_url", new.return_url)
        check.url("notification_url", new.notification_url)
        check.done()
        expire_time = new.expire_time or now + DEFAULT_LIFE
        app = self._identity.known_app(caller, new.app_key) or await self._identity.app_of(
            caller, new.app_key, enabled=True, cached=True
        )
        order = new_order(
            self._context.new_key(now), now, app, merchant_order_id=new.merchant_order_id, subject=new.subject, body=new.body,
            # Channels accept whole seconds. The order has the same expiry, so that both expire together.
            amount=new.amount, currency=new.currency, expire_time=expire_time.replace(microsecond=0), user_ip=new.user_ip,
            user_id=new.user_id, return_url=new.return_url, notification_url=new.notification_url,
        )  # fmt: skip
        try:
            if await self._inserts.insert(order, cause()):
                return order
        except ForeignKeyViolation:
            raise apps_errors.app_not_found(app.app_key) from None  # deleted by another process within the last second
        async with self._context.database.connection() as connection:
            existing = await order_rows.get_order_by_merchant_id(connection, app.id, new.merchant_order_id)
        if existing is None:
            raise orders_errors.order_not_found()
        differing = [name for name, field in _CONTENT.items() if getattr(existing, field) != getattr(order, field)]
        if differing:
            raise orders_errors.order_conflict(existing, differing)
        return existing

    async def load(self, caller: Caller, number: str) -> PayOrder:
        """Read by number. ORDER_NOT_FOUND also for an order of another app."""
        key = decode(Prefix.ORDER, number)
        async with self._context.database.connection() as connection:
            order = await order_rows.get_order(connection, key) if key else None
        return self._owned(caller, order)

    async def load_by_merchant_id(self, caller: Caller, app_key: str, merchant_order_id: str) -> PayOrder:
        """Read by the app's own number."""
        app = await self._identity.app_of(caller, app_key, cached=True)
        async with self._context.database.connection() as connection:
            order = await order_rows.get_order_by_merchant_id(connection, app.id, merchant_order_id)
        return self._owned(caller, order)

    async def read(
        self, caller: Caller, *, number: str | None = None, app_key: str = "", merchant_order_id: str = ""
    ) -> tuple[PayOrder, list[PayAttempt]]:
        """Read by number, or by the app's own number, with the attempts, oldest first."""
        found = None
        if number is None:
            app = self._identity.known_app(caller, app_key) or await self._identity.app_of(caller, app_key, cached=True)
            found = await self._reads.add((app.id, merchant_order_id))
        elif (key := decode(Prefix.ORDER, number)) is not None:
            found = await self._reads_by_id.add(key)
        order = self._owned(caller, found[0] if found else None)
        return order, found[1] if found else []

    def _owned(self, caller: Caller, order: PayOrder | None) -> PayOrder:
        if order is None or not self._identity.owns(caller, order.app_id):
            raise orders_errors.order_not_found()
        return order

    async def attempts(self, order: PayOrder) -> list[PayAttempt]:
        """The attempts of an order, oldest first."""
        async with self._context.database.connection() as connection:
            return await attempt_rows.list_attempts(connection, order.id)

    async def search(
        self, caller: Caller, app_key: str, where: OrderFilter, pager: Pager, *, scan: int | None = None
    ) -> Page[PayOrder]:
        """List orders, newest first. Apps list their own; operators may name an app.

        `scan`: the most orders that a page reads; None: as `bounded` says. It may be shorter than its size and not be the last one.
        """
        app_id = await self._identity.list_scope(caller, app_key)
        where = replace(where, app_id=app_id)
        async with self._context.database.connection() as connection:
            narrowed = where
            # The keys of what has a number are read first, so that no statistics can make another index look better.
            if where.merchant_order_id:
                found = await search_rows.orders_by_merchant_id(connection, where.merchant_order_id, app_id)
                narrowed = replace(narrowed, order_ids=among(narrowed.order_ids, found))
            if where.channel_order_no:
                found = await search_rows.orders_by_channel_no(connection, where.channel_order_no, app_id)
                narrowed = replace(narrowed, order_ids=among(narrowed.order_ids, found))
            before = pager.before(where)
            narrowed = await bounded(connection, "pay_order", narrowed, before, scan)
            rows = await order_rows.list_orders(connection, narrowed, limit=pager.size + 1, before=before)
        return pager.page(rows, where, scanned=narrowed.first_id)

    async def marks(self, orders: Sequence[PayOrder]) -> Mapping[UUID, OrderMark]:
        """What a list says about orders that the caller has listed, beside their fields, by their ids."""
        async with self._context.database.connection() as connection:
            return await order_rows.list_marks(connection, [order.id for order in orders]) if orders else {}

    async def sync(self, caller: Caller, number: str) -> PayOrder:
        """Query the channels about the open attempts of a WAITING order, or all attempts of a CLOSED one, and read it again.

        A late payment that is found becomes surplus, or is booked if the app's policy is ACCEPT.
        """
        order = await self.load(caller, number)
        await self.sync_order(order)
        return await self.load(caller, number)

    async def sync_order(self, order: PayOrder) -> None:
        """Query the channels about the open attempts of a WAITING order, or all of a CLOSED one, newest first; book payments."""
        if order.state not in (OrderState.WAITING, OrderState.CLOSED):
            return
        async with self._context.database.connection() as connection:
            if order.state is OrderState.WAITING:
                attempts = await attempt_rows.open_attempts(connection, order.id)
            else:
                attempts = await attempt_rows.list_attempts(connection, order.id)
        for attempt in reversed(attempts):
            await self._context.run_to_completion(self._attempts.query(attempt))

    async def close(self, caller: Caller, number: str) -> PayOrder:
        """Close an unpaid order, at its channels too. A closed order is returned unchanged."""
        order = await self.load(caller, number)
        if order.state is OrderState.CLOSED:
            return order
        if order.state is not OrderState.WAITING:
            raise orders_errors.order_paid()
        await self._context.run_to_completion(self._close(caller, order))
        return await self.load(caller, number)

    async def _close(self, caller: Caller, order: PayOrder) -> None:
        await self._attempts.close_all(order.id)
        if await self._attempts.close_order(order.id, caller) is None:
            raise orders_errors.order_changed()

    async def update_price(self, caller: Caller, number: str, amount: int) -> PayOrder:
        """Change the amount of a WAITING order. Its attempts are closed at their channels first."""
        check = Check()
        check.amount("amount", amount)
        check.done()
        order = await self.load(caller, number)
        if order.state is OrderState.CLOSED:
            raise orders_errors.order_ended(order, self._context.now())
        if order.state is not OrderState.WAITING:
            raise orders_errors.order_paid()
        if order.amount != amount:
            await self._context.run_to_completion(self._update_price(caller, order, amount))
        return await self.load(caller, number)

    async def _update_price(self, caller: Caller, order: PayOrder, amount: int) -> None:
        await self._attempts.close_all(order.id)
        async with self._context.database.transaction() as connection:
            await order_rows.lock_order(connection, order.id)
            done = await order_rows.update_price(connection, order.id, order.amount, amount, self._context.now(), cause())
            if done:
                act = Act("PayOrderService/UpdatePayOrderPrice", order.number, order.app_key)
                await record(connection, caller, act, {"amount": order.amount}, {"amount": amount})
        if not done:
            raise orders_errors.order_changed()
