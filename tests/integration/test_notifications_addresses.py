"""Where notifications go, what a blocked address says, and what operators do with notifications."""

from __future__ import annotations

from typing import Any

import pytest
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import NotificationState
from paycenter_server.services import notifications_endpoints
from paycenter_server.services.notifications_delivery import (
    DeliveryResponse,
    NotificationDelivery,
)
from paycenter_server.services.paging import Pager
from paycenter_server.storage.notifications import NotificationFilter
from paycenter_server.workers.notification_sender import BLOCKED, AddressGuard, AiohttpNotificationSender, parse_networks
from support.notifications import fill, states
from support.system import OPERATOR, PayCenterSystem

DEAD, ALIVE = "http://dead.test/notifications", "http://alive.test/notifications"


async def test_a_resend_goes_to_the_repaired_address(system: PayCenterSystem) -> None:
    system.sender.default = DeliveryResponse(410, "gone")
    await system.paid("mock")
    (post,) = await system.deliver()
    assert post.url == "http://merchant.test/shop/order"
    await system.services.apps.update(OPERATOR, "shop", {"order_notification_url": "https://new.test/order"})
    number = encode(Prefix.NOTIFICATION, await system.value("SELECT id FROM pay_notify_task"))
    task = await system.services.notifications.resend(system.caller, number)
    assert task.notification_url == "https://new.test/order"
    system.sender.default = DeliveryResponse(200, "ok")
    (post,) = await system.deliver()
    assert post.url == "https://new.test/order"
    assert await system.value("SELECT endpoint FROM pay_notify_task") == "https://new.test:443"


async def test_a_new_address_moves_what_waits_to_its_endpoint(system: PayCenterSystem) -> None:
    """Except what has an address of its own."""
    order = await system.paid("mock")
    await system.refund(order, 10)
    await system.paid("mock", notification_url="https://own.test:8443/order")
    await system.services.apps.update(OPERATOR, "shop", {"order_notification_url": "https://new.test/order"})
    rows = await system.rows("SELECT endpoint FROM pay_notify_task ORDER BY id")
    assert [row["endpoint"] for row in rows] == ["https://new.test:443", "http://merchant.test:80", "https://own.test:8443"]
    assert sorted(post.url for post in await system.deliver()) == [
        "http://merchant.test/shop/refund", "https://new.test/order", "https://own.test:8443/order",
    ]  # fmt: skip


async def test_an_address_of_its_own_is_content(system: PayCenterSystem) -> None:
    own = "https://own.test/refund"
    order = await system.paid("mock")
    refund = await system.refund(order, 10, notification_url=own, merchant_refund_no="R1")
    assert refund.notification_url == own
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 10, merchant_refund_no="R1")
    assert caught.value.metadata["differing_fields"] == "notification_url"
    with pytest.raises(PayCenterError) as caught:
        await system.order(merchant_order_id=order.merchant_order_id, notification_url=own)
    assert caught.value.metadata["differing_fields"] == "notification_url"
    with pytest.raises(PayCenterError) as caught:
        await system.order(notification_url="ftp://x")
    assert [item.field for item in caught.value.violations] == ["notification_url"]


async def test_a_blocked_delivery_says_so_everywhere(system: PayCenterSystem, capsys: pytest.CaptureFixture[str]) -> None:
    await system.services.apps.update(OPERATOR, "shop", {"order_notification_url": "http://127.0.0.1:9/order"})
    sender = AiohttpNotificationSender(AddressGuard([]), system.clock, timeout=2)
    delivery = NotificationDelivery(system.services.context, sender)
    for _ in range(notifications_endpoints.BREAKER_FAILURES + 1):
        await system.paid("mock")
    await delivery.deliver_due()
    await delivery.settle()
    await sender.aclose()
    rows = await system.rows("SELECT t.problem, l.answer FROM pay_notify_task t JOIN pay_notify_log l ON l.task_id = t.id")
    assert len(rows) == notifications_endpoints.BREAKER_FAILURES + 1, "a block is no sign that the endpoint hangs"
    assert {row["problem"] for row in rows} == {row["answer"] for row in rows} == {f"{BLOCKED} (127.0.0.1)"}
    assert BLOCKED == "blocked: private address, allow its network in PAYCENTER_NOTIFICATION_ALLOWED_NETWORKS"
    assert "notification_blocked" in capsys.readouterr().out


async def test_addresses_are_checked_beforehand() -> None:
    guard = AddressGuard(parse_networks("10.0.0.0/8"))
    assert await guard.problem("http://10.1.2.3/x") == ""
    assert await guard.problem("http://192.168.0.1/x") == f"{BLOCKED} (192.168.0.1)"
    assert await guard.problem("https://1.1.1.1/x") == ""
    assert await guard.problem("http://no-such-host.invalid/") == "the host 'no-such-host.invalid' cannot be resolved now"


async def test_a_waiting_notification_is_sent_now(system: PayCenterSystem) -> None:
    system.sender.default = DeliveryResponse(500, "down")
    await system.paid("mock")
    await system.deliver()
    number = encode(Prefix.NOTIFICATION, await system.value("SELECT id FROM pay_notify_task"))
    assert await system.deliver() == []
    task = await system.services.notifications.send_now(system.caller, number)
    assert (task.state, task.schedule_start_times, task.problem) == (NotificationState.REQUEST_SUCCESS, 0, "HTTP 500: down")
    system.sender.default = DeliveryResponse(200, "ok")
    assert len(await system.deliver()) == 1
    with pytest.raises(PayCenterError) as caught:
        await system.services.notifications.send_now(system.caller, number)
    assert caught.value.reason is Reason.NOTIFICATION_FINISHED
    assert (await system.services.notifications.get(system.caller, number))[0].problem == ""


async def test_resend_by_filter(system: PayCenterSystem) -> None:
    """A dry run counts. Then each page is sent again, and says how many remain."""
    other = await system.add_app("other", codes=("mock",))
    await fill(system, DEAD, 5)
    await system.rows("UPDATE pay_notify_task SET state = 'FAILURE', next_notify_time = NULL")
    await fill(system, ALIVE, 3)
    # A merchant's number names the objects of an order.
    order = await system.order(merchant_order_id="M1")
    await system.rows(
        "UPDATE pay_notify_task SET data_id = $1 WHERE merchant_order_id = 'M1' AND notification_url = $2", order.id, DEAD
    )
    notifications = system.services.notifications

    async def pages(caller: Any, *, dry_run: bool, **filters: Any) -> list[tuple[int, int, int]]:
        found, token = [], ""
        while True:
            page = await notifications.resend_matching(caller, "", NotificationFilter(**filters), Pager(2, token), dry_run=dry_run)
            found.append((page.matched, page.resent, page.remaining))
            if not (token := page.next_token):
                return found

    assert await pages(system.caller, dry_run=True) == [(2, 0, 3), (2, 0, 1), (1, 0, 0)]
    assert await states(system, DEAD) == {"FAILURE": 5}
    assert await pages(other, dry_run=False) == [(0, 0, 0)]
    assert await pages(system.caller, dry_run=False, merchant_order_id="M1") == [(1, 1, 0)]
    assert await pages(system.caller, dry_run=False) == [(2, 2, 2), (2, 2, 0)]
    assert await states(system, DEAD) == {"WAITING": 5}
    with pytest.raises(PayCenterError) as caught:
        await pages(system.caller, dry_run=True, state=NotificationState.WAITING)
    assert [item.field for item in caught.value.violations] == ["state"]


async def test_a_lost_race_for_the_endpoint_is_repaired_by_the_delivery(system: PayCenterSystem) -> None:
    """The row got its endpoint from the app as it was before a change of the address."""
    await system.paid("mock")
    await system.rows("UPDATE pay_notify_task SET endpoint = 'http://old.test:80'")
    system.sender.default = DeliveryResponse(500, "down")
    assert [post.url for post in await system.deliver()] == ["http://merchant.test/shop/order"]
    assert await system.value("SELECT endpoint FROM pay_notify_task") == "http://merchant.test:80"
