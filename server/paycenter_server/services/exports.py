"""Reading whole lists of orders and refunds, page by page, for files. Each export is an act of the audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, TypeVar

from paycenter_server.domain.callers import Caller
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.services.audit import Act, record
from paycenter_server.services.context import Context
from paycenter_server.services.errors import too_many_exports
from paycenter_server.services.identity import Identity
from paycenter_server.services.orders import Orders
from paycenter_server.services.paging import SCANNED, Page, Pager, bounded
from paycenter_server.services.refunds import Refunds
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage import refunds_lists as refund_lists
from paycenter_server.storage.orders import OrderFilter
from paycenter_server.storage.refunds_lists import RefundFilter

T = TypeVar("T")
PAGE = 1000
"""Rows of one statement. No more are in memory at a time."""
MOST, MOST_OF_ONE = 4, 2
"""Exports at the same time in a process, and those of an operator. Each needs a large part of a processor and a page in memory."""
COUNTED = 100_000
"""The newest rows of the list that are looked at to count."""


class Exports:
    """Lists as they are exported: the same filters and the same limits of the caller as in the lists."""

    def __init__(self, context: Context, identity: Identity, orders: Orders, refunds: Refunds) -> None:
        self._context = context
        self._identity = identity
        self._orders = orders
        self._refunds = refunds
        self._running = Counter[str]()

    def orders(self, caller: Caller, app_key: str, where: OrderFilter) -> AsyncIterator[Sequence[PayOrder]]:
        """The orders of a list, newest first, in pages. Those that are created meanwhile are left out."""

        async def read(pager: Pager) -> Page[PayOrder]:
            return await self._orders.search(caller, app_key, where, pager, scan=SCANNED)

        return self._pages(caller, Act("Console/ExportOrders", "pay_order", app_key), read)

    def refunds(self, caller: Caller, app_key: str, where: RefundFilter) -> AsyncIterator[Sequence[PayRefund]]:
        """The refunds of a list, as `orders`."""

        async def read(pager: Pager) -> Page[PayRefund]:
            return await self._refunds.search(caller, app_key, where, pager, scan=SCANNED)

        return self._pages(caller, Act("Console/ExportRefunds", "pay_refund", app_key), read)

    async def _pages(self, caller: Caller, act: Act, read: Callable[[Pager], Awaitable[Page[T]]]) -> AsyncIterator[Sequence[T]]:
        """The audit has how many rows were read, also if the reader stops before the end. TOO_MANY_CALLS if it may not begin."""
        token, rows, whole = "", 0, False
        with self._place(caller.person):
            try:
                while not whole:
                    page = await read(Pager(PAGE, token, most=PAGE))
                    rows, token, whole = rows + len(page.items), page.next_token, not page.next_token
                    if page.items:
                        yield page.items
            finally:
                await self._context.run_to_completion(self._record(caller, act, rows, whole=whole))

    @contextmanager
    def _place(self, operator: str) -> Iterator[None]:
        of_yours, of_all = self._running[operator], self._running.total()
        if of_yours >= MOST_OF_ONE or of_all >= MOST:
            raise too_many_exports(of_yours, of_all)
        self._running[operator] += 1
        try:
            yield
        finally:
            self._running[operator] -= 1
            self._running += Counter()  # without those that have none

    async def _record(self, caller: Caller, act: Act, rows: int, *, whole: bool) -> None:
        async with self._context.database.transaction() as transaction:
            await record(transaction, caller, act, None, {"rows": rows, "whole": whole})

    async def count_orders(self, caller: Caller, app_key: str, where: OrderFilter) -> tuple[int, bool]:
        """How many match, and whether that is all: only the newest COUNTED rows of the list are looked at."""
        app_id = await self._identity.list_scope(caller, app_key)
        return await self._count("pay_order", replace(where, app_id=app_id))

    async def count_refunds(self, caller: Caller, app_key: str, where: RefundFilter) -> tuple[int, bool]:
        """As `count_orders`."""
        app_id = await self._identity.list_scope(caller, app_key)
        return await self._count("pay_refund", replace(where, app_id=app_id))

    async def _count(self, table: Literal["pay_order", "pay_refund"], where: Any) -> tuple[int, bool]:
        async with self._context.database.connection() as connection:
            narrowed = await bounded(connection, table, where, None, COUNTED)
            count = order_rows.count_orders if table == "pay_order" else refund_lists.count_refunds
            return await count(connection, narrowed), narrowed.first_id is None
