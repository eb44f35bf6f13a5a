"""Columns in the query, and views that an operator saves: its own, bounded, without JavaScript."""

from __future__ import annotations

import asyncio

import pytest
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.roles import Role
from paycenter_server.domain.views import MOST_VIEWS, ViewList
from support.console_rig import browser_of
from support.operators import person
from support.system import PayCenterSystem
from support.waiting import ended


async def test_columns_are_chosen_in_the_query(system: PayCenterSystem) -> None:
    order = await system.paid("mock", subject="coffee")
    await system.refund(order, 1, reason="wrong size")
    async with browser_of(system, await person(system, "anne", Role.VIEWER)) as browser:
        page = await browser.get("/orders?state=REFUND&column=subject&column=state&column=nonsense&page=x")
        assert page.url == "/orders?state=REFUND&columns=state.subject"
        page.check()
        assert "coffee" in page.text
        assert order.number not in page.html
        assert order.number in (await browser.get("/orders?columns=nonsense")).html, "none of them is known"
        assert "wrong size" not in (await browser.get("/refunds")).check().text
        assert "wrong size" in (await browser.get("/refunds?columns=reason.number")).check().text


async def test_a_view_is_saved_shown_replaced_and_deleted(system: PayCenterSystem) -> None:
    anne, ben = await person(system, "anne", Role.VIEWER), await person(system, "ben", Role.VIEWER)
    async with browser_of(system, anne) as first, browser_of(system, ben) as second:
        query = "state=CLOSED&columns=state.subject"
        page = await first.get(f"/orders?{query}&page=&done=saved")
        assert page.value("query") == "state=CLOSED&columns=state.subject"
        for name in ("<b>closed", "<b>closed"):
            saved = (await first.post("/views", list="orders", name=name, query=f"page=abc&{query}")).check()
            assert saved.url == f"/orders?{query}"
        assert f"/orders?{query}" in saved.links("/orders?state")
        assert "<b>closed" in saved.text
        assert "<b>closed" not in (await first.get("/refunds")).text
        assert "<b>closed" not in (await second.get("/orders")).text
        (key,) = [row["id"] for row in await system.rows("SELECT id FROM pay_operator_view")]
        await second.post("/views/delete", list="orders", view=str(key))
        assert "<b>closed" in (await first.get("/orders")).text, "it belongs to another operator"
        assert (await first.post("/views/delete", list="orders", view="x")).status == 404
        assert (await first.post("/views", list="orders", name="", query="")).status == 400
        assert (await first.post("/views", list="apps", name="x", query="")).status == 400
        assert "<b>closed" not in (await first.post("/views/delete", list="orders", view=str(key))).text


async def test_an_operator_has_a_bounded_number_of_views(system: PayCenterSystem) -> None:
    anne, views = await person(system, "anne", Role.VIEWER), system.services.views
    for number in range(MOST_VIEWS - 1):
        await views.save(anne.caller, ViewList.ORDERS, f"v{number}", "")
    results = await ended([asyncio.create_task(views.save(anne.caller, ViewList.REFUNDS, name, "")) for name in ("a", "b")])
    assert [type(result) for result in results if result is not None] == [PayCenterError]
    await views.save(anne.caller, ViewList.ORDERS, "v0", "state=CLOSED")
    with pytest.raises(PayCenterError, match="too many"):
        await views.save(anne.caller, ViewList.ORDERS, "new", "")
