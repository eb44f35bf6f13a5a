"""Inserts of orders that arrive together share one statement."""

from __future__ import annotations

from collections.abc import Sequence

from paycenter_server.domain.events import Cause
from paycenter_server.domain.orders import PayOrder
from paycenter_server.services.context import Context
from paycenter_server.services.gathering import Gathering
from paycenter_server.storage import orders_insert as order_rows
from paycenter_server.storage.database import LockTimeout, WriteConnection


class OrderInserts:
    """Inserts orders."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._gathering = Gathering(context, _insert)

    async def insert(self, order: PayOrder, cause: Cause) -> bool:
        """Insert an order. False if the app has an order with this merchant_order_id. It is committed when this returns."""
        try:
            return await self._gathering.add((order, cause))
        except LockTimeout:
            pass  # it waits below, where it holds up nobody else
        async with self._context.database.connection() as connection:
            return await order_rows.insert_order(connection, order, cause)


async def _insert(connection: WriteConnection, orders: Sequence[tuple[PayOrder, Cause]]) -> list[bool]:
    made = await order_rows.insert_orders(connection, orders)
    return [order.id in made for order, _ in orders]
