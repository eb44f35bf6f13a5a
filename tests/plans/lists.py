"""Lists with their filters: each alone, each with those beside which it is used, and the page after the first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from itertools import combinations
from typing import Any

from paycenter_server.domain.approvals import ApprovalKind
from paycenter_server.domain.cases import CaseKind
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.notifications import NotificationType
from paycenter_server.domain.states import ApprovalState, CaseState, NotificationState, OrderState, RefundState
from paycenter_server.services.paging import Pager
from paycenter_server.storage.audit import AuditFilter
from paycenter_server.storage.cases_desk import CaseFilter
from paycenter_server.storage.notifications import NotificationFilter
from paycenter_server.storage.orders import OrderFilter
from paycenter_server.storage.refunds_lists import RefundFilter
from support.system import OPERATOR, PayCenterSystem


def chosen(filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """No filter, each alone, and each two together."""
    for size in range(3):
        for names in combinations(filters, size):
            yield {key: value for name in names for key, value in filters[name].items()}


async def pages(search: Callable[[str, Pager], Awaitable[Any]]) -> None:
    """The first page and the next one: of an app that has all rows, of one that has none, and of all apps."""
    for app in ("", "shop", "few"):
        page = await search(app, Pager(1, ""))
        if page.next_token:
            await search(app, Pager(1, page.next_token))


async def orders_and_refunds(system: PayCenterSystem) -> None:
    """The lists of orders and refunds."""
    services, now = system.services, system.clock.now()
    paid = await system.paid("mock")
    refund = await system.refund(paid, 1)
    day = {"create_time_from": now - timedelta(days=10), "create_time_to": now - timedelta(days=9)}
    paid_day = {"success_time_from": now - timedelta(days=10), "success_time_to": now - timedelta(days=9)}
    for where in chosen({
        "channel": {"channel_code": "wx_lite"}, "state": {"state": OrderState.CLOSED}, "day": day, "paid": paid_day,
        "merchant": {"merchant_order_id": "L77"}, "channel number": {"channel_order_no": "L77"},
        "attempt": {"attempt_id": paid.attempt_id}, "order": {"order_ids": (paid.id,)},
    }):  # fmt: skip
        await pages(lambda app, pager, where=where: services.orders.search(OPERATOR, app, OrderFilter(**where), pager))  # type: ignore[misc]
    await services.orders.marks([paid])
    for where in chosen({
        "channel": {"channel_code": "wx_lite"}, "state": {"state": RefundState.FAILURE}, "day": day,
        "merchant": {"merchant_order_id": "L77"}, "refund": {"merchant_refund_no": "L77"},
        "channel number": {"channel_refund_no": "L77"}, "one": {"refund_ids": (refund.id,)},
    }):  # fmt: skip
        await pages(lambda app, pager, where=where: services.refunds.search(OPERATOR, app, RefundFilter(**where), pager))  # type: ignore[misc]
    for app in ("", "shop"):
        await services.exports.count_orders(OPERATOR, app, OrderFilter(state=OrderState.CLOSED))
        await services.exports.count_refunds(OPERATOR, app, RefundFilter(state=RefundState.FAILURE))
        async for _ in services.exports.orders(OPERATOR, app, OrderFilter(state=OrderState.WAITING)):
            break
        async for _ in services.exports.refunds(OPERATOR, app, RefundFilter(state=RefundState.FAILURE)):
            break


async def notifications(system: PayCenterSystem) -> None:
    """The list of notifications."""
    services, now = system.services, system.clock.now()
    paid = await system.paid("mock")
    for where in chosen({
        "type": {"type": NotificationType.CASE}, "state": {"state": NotificationState.FAILURE}, "failing": {"failing": True},
        "day": {"create_time_from": now - timedelta(days=10), "create_time_to": now - timedelta(days=9)},
        "order": {"merchant_order_id": "L77"}, "refund": {"merchant_refund_no": "L77"}, "object": {"data_id": paid.id},
        "endpoint": {"endpoint": "http://elsewhere.test:80"},
    }):  # fmt: skip
        await pages(
            lambda app, pager, where=where: services.notifications.search(OPERATOR, app, NotificationFilter(**where), pager)  # type: ignore[misc]
        )


async def cases_and_audit(system: PayCenterSystem) -> None:
    """The lists of cases, approvals and audit rows."""
    services, now = system.services, system.clock.now()
    order = encode(Prefix.ORDER, await system.value("SELECT order_id FROM pay_case WHERE order_id IS NOT NULL ORDER BY id LIMIT 1"))
    account = encode(Prefix.ACCOUNT, await system.value("SELECT id FROM pay_account LIMIT 1"))
    for where in chosen({
        "kind": {"kind": CaseKind.STALE_REFUND}, "state": {"state": CaseState.REFUNDING}, "unresolved": {"unresolved": True},
        "resolved": {"state": CaseState.RESOLVED}, "account": {"account": account}, "order": {"order": order},
        "assignee": {"assignee": "anne"}, "amount": {"amount_from": 90, "amount_to": 91}, "stale": {"stale": True},
        "time": {"opened_after": now - timedelta(days=10), "opened_before": now - timedelta(days=9)},
    }):  # fmt: skip
        numbers = {name: where.pop(name) for name in ("account", "order") if name in where}

        async def search(app: str, pager: Pager, where: Any = where, numbers: Any = numbers) -> Any:
            return await services.case_desk.search(OPERATOR, CaseFilter(**where), pager, app_key=app, **numbers)

        await pages(search)
    for where in chosen({
        "operator": {"operator": "anne"}, "act": {"act": "PayAppService/UpdatePayApp"}, "object": {"object": "O77"},
        "app": {"app_key": "shop"}, "outcome": {"outcome": "PERMISSION_DENIED"},
        "time": {"time_from": now - timedelta(hours=30), "time_to": now - timedelta(hours=29)},
    }):  # fmt: skip
        page = await services.audit.search(AuditFilter(**where), Pager(1, ""))
        if page.next_token:
            await services.audit.search(AuditFilter(**where), Pager(1, page.next_token))
    for where in chosen({
        "state": {"state": ApprovalState.PENDING}, "kind": {"kind": ApprovalKind.REFUND}, "object": {"about": order},
    }):  # fmt: skip
        await services.approval_desk.search(OPERATOR, Pager(1, ""), app_key="shop", **where)
    await services.approval_desk.count(OPERATOR)


async def overview(system: PayCenterSystem) -> None:
    """The sums of the overview, and what is found by a number."""
    services = system.services
    await services.overview.days(OPERATOR)
    await services.overview.attention(OPERATOR)
    await services.overview.queues(OPERATOR)
    paid = await system.paid("wx_native")
    refund = await system.refund(paid, 1)
    key = await system.value("SELECT out_refund_key FROM pay_refund WHERE id = $1", refund.id)
    attempt = encode(Prefix.ATTEMPT, paid.attempt_id) if paid.attempt_id else ""
    for number in (paid.merchant_order_id, refund.merchant_refund_no, attempt, encode(Prefix.OUT_REFUND, key), "L77"):
        await services.search.find(OPERATOR, number)
