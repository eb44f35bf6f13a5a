"""Pay orders: create, read, list, close, change the price."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.models import PayAttempt, PayOrder
from paycenter_server.domain.states import OrderState
from paycenter_server.domain.validation import Check
from paycenter_server.services.attempts import AttemptSettlement, order_paid
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.paging import Page, Pager
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage.orders import OrderFilter

_CONTENT = ("subject", "body", "amount", "currency", "user_id", "return_url")


@dataclass(frozen=True, slots=True)
class NewOrder:
    """A create request. Amount in minor units."""

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


class Orders:
    """What apps do with their orders, channels aside."""

    def __init__(self, context: Context, identity: Identity, attempts: AttemptSettlement) -> None:
        self._context = context
        self._identity = identity
        self._attempts = attempts

    async def create(self, caller: Caller, new: NewOrder) -> PayOrder:
        """Idempotent by (app, merchant_order_id): the same content answers the same order, other content ORDER_CONFLICT.

        The expiry and the payer's IP are not content: a caller who tries again has moved on in time.
        """
        now = self._context.now()
        check = Check()
        check.text("merchant_order_id", new.merchant_order_id, 64, minimum=1)
        check.text("subject", new.subject, 32, minimum=1)
        check.text("body", new.body, 128)
        check.amount("amount", new.amount)
        check.currency("currency", new.currency)
        check.future("expire_time", new.expire_time, now)
        check.ip("user_ip", new.user_ip)
        check.text("user_id", new.user_id, 64)
        check.url("return_url", new.return_url)
        check.done()
        assert new.expire_time is not None
        app = await self._identity.app_of(caller, new.app_key, enabled=True)
        order = PayOrder(
            id=self._context.new_key(now), app_id=app.id, app_key=app.app_key, merchant_order_id=new.merchant_order_id,
            subject=new.subject, body=new.body, amount=new.amount, currency=new.currency, state=OrderState.WAITING,
            # Channels take whole seconds; ours is the same moment, so that both expire together.
            expire_time=new.expire_time.replace(microsecond=0), user_ip=new.user_ip, user_id=new.user_id,
            return_url=new.return_url, notification_url=app.order_notification_url,
            paid_amount=0, refunded_amount=0, reserved_amount=0,
            attempt_id=None, channel_id=None, channel_code=None, channel_order_no=None, channel_user_id=None,
            channel_fee_rate_ppm=0, channel_fee_amount=0, success_time=None, create_time=now, update_time=now,
        )  # fmt: skip
        async with self._context.database.connection() as connection:
            if await order_rows.insert_order(connection, order):
                return order
            existing = await order_rows.get_order_by_merchant_id(connection, app.id, new.merchant_order_id)
        if existing is None:
            raise order_not_found()
        differing = [name for name in _CONTENT if getattr(existing, name) != getattr(order, name)]
        if differing:
            raise PayCenterError(
                Reason.ORDER_CONFLICT,
                f"merchant_order_id {new.merchant_order_id!r} is taken by order {existing.number} with another "
                f"{', '.join(differing)}; use a new merchant_order_id, or send the same content.",
                metadata={
                    "pay_order_id": existing.number,
                    "merchant_order_id": existing.merchant_order_id,
                    "differing_fields": ",".join(differing),
                },
            )
        return existing

    async def load(self, caller: Caller, number: str) -> PayOrder:
        """By our number; ORDER_NOT_FOUND also for another app's."""
        key = decode(Prefix.ORDER, number)
        async with self._context.database.connection() as connection:
            order = await order_rows.get_order(connection, key) if key else None
        return self._owned(caller, order)

    async def load_by_merchant_id(self, caller: Caller, app_key: str, merchant_order_id: str) -> PayOrder:
        """By the app's own number."""
        app = await self._identity.app_of(caller, app_key)
        async with self._context.database.connection() as connection:
            order = await order_rows.get_order_by_merchant_id(connection, app.id, merchant_order_id)
        return self._owned(caller, order)

    def _owned(self, caller: Caller, order: PayOrder | None) -> PayOrder:
        if order is None or not self._identity.owns(caller, order.app_id):
            raise order_not_found()
        return order

    async def attempts(self, order: PayOrder) -> list[PayAttempt]:
        """Oldest first."""
        async with self._context.database.connection() as connection:
            return await attempt_rows.list_attempts(connection, order.id)

    async def search(self, caller: Caller, app_key: str, where: OrderFilter, pager: Pager) -> Page[PayOrder]:
        """Newest first. App credentials see their own app; operators may leave the app out."""
        app_id = await self.list_scope(caller, app_key)
        where = replace(where, app_id=app_id)
        async with self._context.database.connection() as connection:
            rows = await order_rows.list_orders(connection, where, limit=pager.size + 1, before=pager.before(where))
        return pager.page(rows, where)

    async def list_scope(self, caller: Caller, app_key: str) -> UUID | None:
        """The app that a list is limited to; None: all, for operators."""
        if caller.is_operator and not app_key:
            return None
        return (await self._identity.app_of(caller, app_key)).id

    async def sync(self, caller: Caller, number: str) -> PayOrder:
        """Ask the channels about every open attempt, newest first."""
        order = await self.load(caller, number)
        await self.sync_order(order)
        return await self.load(caller, number)

    async def sync_order(self, order: PayOrder) -> None:
        """Book what the channels say of a WAITING order."""
        if order.state is not OrderState.WAITING:
            return
        async with self._context.database.connection() as connection:
            attempts = await attempt_rows.open_attempts(connection, order.id)
        for attempt in reversed(attempts):
            await self._context.run_to_completion(self._attempts.query(attempt))

    async def close(self, caller: Caller, number: str) -> PayOrder:
        """Close an unpaid order, at its channels too. A closed one answers itself again."""
        order = await self.load(caller, number)
        if order.state is OrderState.CLOSED:
            return order
        if order.state is not OrderState.WAITING:
            raise order_paid()
        await self._context.run_to_completion(self._close(order))
        return await self.load(caller, number)

    async def _close(self, order: PayOrder) -> None:
        await self._attempts.close_all(order.id)
        if await self._attempts.close_order(order.id) is None:
            raise order_changed()

    async def update_price(self, caller: Caller, number: str, amount: int) -> PayOrder:
        """WAITING only. Attempts at the old price are closed at their channels first."""
        check = Check()
        check.amount("amount", amount)
        check.done()
        order = await self.load(caller, number)
        if order.state is OrderState.CLOSED:
            raise order_closed()
        if order.state is not OrderState.WAITING:
            raise order_paid()
        if order.amount != amount:
            await self._context.run_to_completion(self._update_price(order, amount))
        return await self.load(caller, number)

    async def _update_price(self, order: PayOrder, amount: int) -> None:
        await self._attempts.close_all(order.id)
        async with self._context.database.transaction() as connection:
            await order_rows.get_order(connection, order.id, lock=True)
            done = await order_rows.update_price(connection, order.id, order.amount, amount, self._context.now())
        if not done:
            raise order_changed()


def order_not_found() -> PayCenterError:
    """The one error for an order that is not there, or not the caller's."""
    return PayCenterError(Reason.ORDER_NOT_FOUND, "There is no such pay order of this app; check the number.")


def order_closed() -> PayCenterError:
    """The order is closed."""
    return PayCenterError(Reason.ORDER_CLOSED, "The order is closed; create a new one under a new merchant_order_id.")


def order_changed() -> PayCenterError:
    """Somebody else was faster."""
    return PayCenterError(
        Reason.ORDER_CHANGED, "The order changed while this call was running; read it and decide again.", retry_after=0.5
    )
