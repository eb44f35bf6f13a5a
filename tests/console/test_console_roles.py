"""Who may open which page and send which form: every route with every role, by the one table of roles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import CookieJar, web
from aiohttp.test_utils import TestClient, TestServer
from paycenter_server.cli.console import console_parts
from paycenter_server.domain.roles import PERMISSIONS, Role, may_call
from paycenter_server.http_console.app import create_app
from paycenter_server.http_console.roles import METHODS
from paycenter_server.services.operators import NewOperator
from support.console_rig import Browser
from support.operators import PASSWORD, add_admin
from support.system import OPERATOR, PayCenterSystem

_OPEN = ("/healthz", "/readyz", "/static/{version}/{name}")


@asynccontextmanager
async def logged_in(system: PayCenterSystem, role: Role, app_keys: tuple[str, ...] = ()) -> AsyncIterator[Browser]:
    """An operator of this role, who has chosen a password."""
    given = await system.services.operators.create(OPERATOR, NewOperator(f"person-{role.value}", role, app_keys))
    app = create_app(console_parts(system.services, system.settings))
    async with TestClient(TestServer(app), cookie_jar=CookieJar(unsafe=True)) as client:
        browser = Browser(system, client, f"person-{role.value}", given.password)
        await browser.post_raw("/login", name=browser.name, password=given.password)
        for path in ("/orders", "/apps", "/cases"):
            assert (await browser.get(path)).url == "/password", "nothing else before the password is changed"
        browser.csrf = (await browser.get("/password")).value("csrf")
        fields = {"current_password": given.password, "new_password": PASSWORD, "new_again": PASSWORD}
        assert (await browser.post("/password", **fields)).url == "/login"
        await browser.post_raw("/login", name=browser.name, password=PASSWORD)
        browser.csrf = (await browser.get("/password")).value("csrf")
        yield browser


def routes(system: PayCenterSystem) -> set[str]:
    app = create_app(console_parts(system.services, system.settings))
    found = {
        f"{route.method} {route.resource.canonical}" for route in app.router.routes()
        if route.resource is not None and route.resource.canonical not in _OPEN
    }  # fmt: skip
    return {name for name in found if not name.startswith("HEAD ")}


async def test_every_route_is_in_the_table(system: PayCenterSystem) -> None:
    assert routes(system) == METHODS.keys()
    assert set(METHODS.values()) - {""} <= PERMISSIONS.keys()


@pytest.mark.parametrize("role", list(Role))
async def test_every_route_with_every_role(system: PayCenterSystem, role: Role) -> None:
    order = await system.paid("mock")
    values: dict[str, Any] = {"number": order.number, "key": "shop", "code": "mock"}
    async with logged_in(system, role) as browser:
        for name, method in METHODS.items():
            verb, path = name.split(" ")
            if not method:
                continue
            url = path.format(**values)
            page = await (browser.get(url) if verb == "GET" else browser.post(url))
            allowed = may_call(method, role, limited=False, must_change_password=False)
            assert (page.status == 403) != allowed, (name, role, page.status)


async def test_an_operator_who_is_limited_to_an_app_sees_no_other(system: PayCenterSystem) -> None:
    other = await system.add_app("other", codes=("mock",))
    order = await system.paid("mock")
    assert other.app_key == "other"
    async with logged_in(system, Role.FINANCE, ("other",)) as browser:
        assert (await browser.get(f"/orders/{order.number}")).status == 404
        assert order.merchant_order_id not in (await browser.get("/orders")).text
        assert (await browser.post(f"/orders/{order.number}/close")).status == 404
        for path in ("/accounts", f"/search?q={order.merchant_order_id}", "/search/live?q=M", "/overview/figures", "/health"):
            assert (await browser.get(path)).status == 403, path
        assert (await browser.get("/")).url == "/orders"


async def test_a_wrong_present_password_changes_nothing(system: PayCenterSystem) -> None:
    async with logged_in(system, Role.VIEWER) as browser:
        fields = {"new_password": PASSWORD + "2", "new_again": PASSWORD + "2"}
        assert (await browser.post("/password", current_password="wrong", **fields)).status == 400
        assert (await browser.post("/password", current_password=PASSWORD, new_password="x" * 14, new_again="y" * 14)).status == 400
        assert (await browser.get("/orders")).status == 200


async def test_a_route_that_is_not_in_the_table_is_refused(system: PayCenterSystem) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="everything")

    await add_admin(system, "anne")
    app = create_app(console_parts(system.services, system.settings))
    app.router.add_get("/new", page)
    async with TestClient(TestServer(app), cookie_jar=CookieJar(unsafe=True)) as client:
        await client.post("/login", data={"name": "anne", "password": PASSWORD})
        assert (await client.get("/orders")).status == 200
        assert (await client.get("/new")).status == 403
