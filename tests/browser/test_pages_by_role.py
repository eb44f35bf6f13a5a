"""What an operator of each role can open in a browser, by the one table of roles."""

from __future__ import annotations

import pytest
from paycenter.v1 import pay_account_service_pb2 as accounts
from paycenter_server.domain.roles import Role, may_call
from paycenter_server.http_console.roles import METHODS
from playwright.sync_api import Browser

from .conftest import LiveSystem
from .person import Person

PLACES = {"{key}": "demo", "{code}": "wx_native"}


@pytest.fixture(scope="module")
def objects(live: LiveSystem) -> dict[str, str]:
    """A number for each kind of page with one."""
    with live.running.client() as pay, live.administrator() as admin:
        order = pay.create_order(merchant_order_id="roles-1", subject="Tea", amount=100, user_ip="203.0.113.9")
        pay.submit_order(order, "mock")
        paid = pay.wait_for_order(order, timeout=10)
        refund = pay.create_refund(merchant_order_id="roles-1", merchant_refund_no="roles-1-1", amount=10, reason="Too hot")
        told = next(pay.list_notifications(merchant_order_id="roles-1"))
        (account, *_) = admin.accounts.ListPayAccounts(accounts.ListPayAccountsRequest()).pay_accounts
        return {
            "orders": paid.id, "refunds": refund.id, "notifications": told.id, "accounts": account.id,
            "channels": live.running.data["channels"]["wx_native"],
        }  # fmt: skip


@pytest.mark.parametrize("role", list(Role))
def test_pages_of_each_role(browser: Browser, live: LiveSystem, objects: dict[str, str], role: Role) -> None:
    person = Person.start(browser, "en", "desk", f"role-{role.value}")
    person.allowed = "403"
    name = live.log_in(person, role.value.upper())
    assert name == "dev" or name.startswith(role.value)
    person.look("overview")
    for route, method in METHODS.items():
        verb, _, path = route.partition(" ")
        kind = path.split("/")[1]
        if verb != "GET" or (kind not in objects and "{number}" in path):
            continue
        for place, value in {**PLACES, "{number}": objects.get(kind, "")}.items():
            path = path.replace(place, value)
        if path in ("/login", "/search/live", "/overview/figures") or path.endswith("/timeline"):
            continue  # all but the first are parts of pages
        allowed = not method or may_call(method, role, limited=False)
        person.go(f"{live.console}{path}", status=200 if allowed else 403)
        if not allowed:
            assert person.page.locator("main form").count() == 0
    # Nothing that the navigation shows is refused.
    person.go(f"{live.console}/")
    for link in person.page.locator("nav.side a").evaluate_all("all => all.map(one => one.href)"):
        person.go(link)
    person.end()
