"""Inserts of orders that arrive together share one statement, and so one round trip and one commit."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from paycenter_server.domain.events import Cause
from paycenter_server.domain.orders import PayOrder
from paycenter_server.services.context import Context
from paycenter_server.storage import orders_insert as order_rows
from paycenter_server.storage.database import is_connection_loss

MOST_ROWS = 128


@dataclass(frozen=True, slots=True)
class _Waiting:
    order: PayOrder
    cause: Cause
    done: asyncio.Future[bool]


class OrderInserts:
    """One statement is in progress at a time. The first order is inserted at once; those that arrive meanwhile share the next."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: deque[_Waiting] = deque()
        self._busy = False
        self._writer: asyncio.Task[None] | None = None

    async def insert(self, order: PayOrder, cause: Cause) -> bool:
        """Insert an order. False if the app has an order with this merchant_order_id. It is committed when this returns."""
        if self._busy:
            item = _Waiting(order, cause, asyncio.get_running_loop().create_future())
            self._waiting.append(item)
            return await item.done
        self._busy = True
        try:
            async with self._context.database.connection() as connection:
                return order.id in await order_rows.insert_orders(connection, [(order, cause)])
        finally:
            self._next()

    def _next(self) -> None:
        """Start the writer if orders are waiting."""
        if self._waiting:
            self._writer = asyncio.ensure_future(self._write())
        else:
            self._busy = False

    async def _write(self) -> None:
        try:
            while self._waiting:
                rows = [self._waiting.popleft() for _ in range(min(MOST_ROWS, len(self._waiting)))]
                # A caller that was cancelled meanwhile wants no order any more.
                await self._insert([item for item in rows if not item.done.done()])
        finally:
            self._next()

    async def _insert(self, items: list[_Waiting]) -> None:
        if not items:
            return
        try:
            async with self._context.database.connection() as connection:
                made = await order_rows.insert_orders(connection, [(item.order, item.cause) for item in items])
        except Exception as error:
            if len(items) > 1 and not is_connection_loss(error):
                # The others must not fail because of one of them.
                for item in items:
                    await self._insert([item])
                return
            for item in items:
                if not item.done.done():
                    item.done.set_exception(error)
            return
        for item in items:
            if not item.done.done():
                item.done.set_result(item.order.id in made)
