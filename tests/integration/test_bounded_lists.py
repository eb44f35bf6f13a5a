"""Pages of lists with a filter that no index serves: they stop after a number of rows, and the next page goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from paycenter_server.domain.states import NotificationState, OrderState, RefundState
from paycenter_server.services import notifications, paging
from paycenter_server.services.notifications_delivery import DeliveryResponse
from paycenter_server.services.paging import Page, Pager
from paycenter_server.storage import audit as audit_rows
from paycenter_server.storage import search as search_rows
from paycenter_server.storage.audit import AuditFilter
from paycenter_server.storage.notifications import NotificationFilter
from paycenter_server.storage.orders import OrderFilter
from paycenter_server.storage.refunds_lists import RefundFilter
from support.system import OPERATOR, PayCenterSystem
from support.waiting import eventually


async def pages(search: Callable[[Pager], Awaitable[Page[Any]]], size: int = 10) -> list[list[Any]]:
    """The items of every page."""
    found, token, last = [], "", False
    while not last:
        page = await search(Pager(size, token))
        found.append(list(page.items))
        token, last = page.next_token, not page.next_token
    return found


@pytest.mark.parametrize("app", ["", "shop"])
async def test_orders_and_refunds(system: PayCenterSystem, monkeypatch: pytest.MonkeyPatch, app: str) -> None:
    monkeypatch.setattr(paging, "SCANNED", 2)
    closed = await system.order()
    await system.services.orders.close(system.caller, closed.number)
    paid = await system.paid("mock", merchant_order_id="paid")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "failure"})
    failed = await system.refund(paid, 1)
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "success"})
    for _ in range(3):
        await system.refund(paid, 1)
        await system.order()

    async def orders(**where: Any) -> list[list[str]]:
        found = await pages(lambda pager: system.services.orders.search(OPERATOR, app, OrderFilter(**where), pager))
        return [[order.number for order in page] for page in found]

    assert await orders(state=OrderState.CLOSED) == [[], [closed.number]]
    assert await orders(success_time_from=paid.success_time) == [[], [paid.number]]
    assert await orders(state=OrderState.REFUND, merchant_order_id="paid") == [[paid.number]], "a number has an index"
    assert [len(page) for page in await orders()] == [5], "no filter leaves out any"
    failure = RefundFilter(state=RefundState.FAILURE)
    refunds = await pages(lambda pager: system.services.refunds.search(OPERATOR, app, failure, pager))
    assert [[refund.number for refund in page] for page in refunds] == [[], [failed.number]]


async def test_the_number_of_a_channel_is_found_whatever_other_apps_have(
    system: PayCenterSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel of another merchant may use the same numbers."""
    monkeypatch.setattr(search_rows, "MOST", 1)
    ours = await system.paid("mock")
    refund = await system.refund(ours, 1)
    shop, system.caller = system.caller, await system.add_app("books", codes=("mock",))
    await system.refund(await system.paid("mock"), 1)
    await system.rows("UPDATE pay_order SET channel_order_no = 'X1'")
    await system.rows("UPDATE pay_refund SET channel_refund_no = 'X1'")
    orders = await system.services.orders.search(shop, "", OrderFilter(channel_order_no="X1"), Pager(10, ""))
    refunds = await system.services.refunds.search(shop, "", RefundFilter(channel_refund_no="X1"), Pager(10, ""))
    assert [order.number for order in orders.items] == [ours.number]
    assert [found.number for found in refunds.items] == [refund.number]


@pytest.mark.parametrize("app", ["", "shop"])
async def test_notifications(system: PayCenterSystem, monkeypatch: pytest.MonkeyPatch, app: str) -> None:
    """Those that were given up have an index: they are listed and sent again at once."""
    monkeypatch.setattr(paging, "SCANNED", 2)
    monkeypatch.setattr(notifications, "COUNT_LIMIT", 2)
    system.sender.default = DeliveryResponse(410, "gone")
    await system.paid("mock")
    await system.deliver()
    system.sender.default = DeliveryResponse(200, "ok")
    for _ in range(4):
        await system.paid("mock")
        await system.deliver()

    async def of(state: NotificationState) -> list[int]:
        where = NotificationFilter(state=state)
        return [len(page) for page in await pages(lambda pager: system.services.notifications.search(OPERATOR, app, where, pager))]

    assert await of(NotificationState.FAILURE) == [1]
    assert await of(NotificationState.WAITING) == [0, 0]
    assert await of(NotificationState.SUCCESS) == [3, 1]
    again = system.services.notifications.resend_matching
    page = await again(OPERATOR, app, NotificationFilter(), Pager(10, ""), dry_run=True)
    assert (page.matched, page.remaining, page.next_token) == (1, 0, "")
    success = NotificationFilter(state=NotificationState.SUCCESS)
    page = await again(OPERATOR, app, success, Pager(10, ""), dry_run=True)
    assert (page.matched, page.remaining, bool(page.next_token)) == (3, 1, True)
    matched, token = 0, page.next_token
    while token:
        page = await again(OPERATOR, app, success, Pager(10, token), dry_run=True)
        matched, token = matched + page.matched, page.next_token
    assert matched == 1


async def test_audit(system: PayCenterSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_rows, "SCANNED", 2)
    await system.services.apps.update(OPERATOR, "shop", {"remark": "rare"})
    channel = system.channels["mock"]
    for remark in ("a", "b", "c"):
        await system.services.channels.update(OPERATOR, channel, {"remark": remark}, "", None)
    update = "PayAppService/UpdatePayApp"
    alone = await pages(lambda pager: system.services.audit.search(AuditFilter(act=update), pager), 1)
    assert alone[0][0].object == "shop"
    both = await pages(lambda pager: system.services.audit.search(AuditFilter(app_key="shop", act=update), pager), 1)
    assert both[0] == [], "the two last rows of the app are other acts"
    assert next(entry.object for page in both for entry in page) == "shop"


@pytest.mark.parametrize("name", ["orders", "refunds", "notifications"])
async def test_the_app_is_joined_to_the_page_and_not_to_the_table(system: PayCenterSystem, name: str) -> None:
    """Without statistics a join before the LIMIT makes PostgreSQL sort all rows of the app for each page."""
    filters: dict[str, Any] = {"orders": OrderFilter(), "refunds": RefundFilter(), "notifications": NotificationFilter()}
    found: list[str] = []
    database = system.services.context.database
    async with AsyncExitStack() as stack:
        for _ in range(8):
            connection: Any = await stack.enter_async_context(database.connection())
            connection.add_query_logger(lambda record: found.append(record.query))
    await getattr(system.services, name).search(system.caller, "", filters[name], Pager(10, ""))
    await eventually(lambda: any("JOIN pay_app" in text for text in found))  # asyncpg tells it after the statement
    (text,) = [text for text in found if "JOIN pay_app" in text]
    assert text.index("LIMIT") < text.index("JOIN pay_app")
