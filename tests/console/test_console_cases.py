"""The case desk: the queue, decisions, a second operator, comments, assignments."""

from __future__ import annotations

import pytest
from paycenter_server.domain.cases import CaseKind, Decision
from paycenter_server.domain.states import CaseState
from paycenter_server.http_console.cases import DECISIONS
from paycenter_server.http_console.formats import CASE_KINDS
from paycenter_server.storage import cases_desk
from support.cases import duplicate, hold, late, set_app, wrong_amount
from support.console_rig import Browser, open_console
from support.system import OPERATOR


def test_every_kind_has_a_name() -> None:
    assert set(CASE_KINDS) == {kind.value for kind in CaseKind}
    assert set(DECISIONS) == set(Decision)


async def test_the_queue_by_kind_age_amount_and_person(console: Browser) -> None:
    system = console.system
    await hold(system)
    order, first = await late(system, amount=500)
    _, second = await duplicate(system)
    await system.services.case_desk.assign(OPERATOR, first.number, "anne")
    assert set((await console.get("/cases")).check().links("/cases/K")) == {f"/cases/{first.number}", f"/cases/{second.number}"}
    for query in ("kind=LATE_PAYMENT", "amount_from=5", "assignee=anne", f"order={order.number}", "state=OPEN&amount_from=4.99"):
        assert (await console.get(f"/cases?{query}")).links("/cases/K") == [f"/cases/{first.number}"], query
    for query in ("state=RESOLVED", "older=hour", "app=none2", "assignee=ben", "amount_from=9&amount_to=10"):
        page = await console.get(f"/cases?{query}")
        assert page.links("/cases/K") == [], query
    assert (await console.get("/cases?amount_from=x")).status == 400
    assert (await console.get("/cases?order=x")).status == 400
    system.clock.advance(7200)
    assert len((await console.get("/cases?older=hour")).links("/cases/K")) == 2
    assert "2 hours" in (await console.get("/cases")).text
    assert "2 open cases" in (await console.get("/")).text
    await system.deliver()
    told = (await console.get("/notifications?type=CASE")).links("/notifications/N")
    assert [(await console.get(link)).check().links("/cases/K") for link in told]
    assert "Open cases: 1" in (await console.get(f"/orders?number={order.number}")).text


async def test_an_empty_page_that_is_not_the_last_one_says_so(console: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases_desk, "SCANNED", 1)
    await hold(console.system)
    await late(console.system)
    await duplicate(console.system)
    first = (await console.get("/cases?amount_from=9")).check()
    assert first.links("/cases/K") == []
    assert "Older ones were not searched yet" in first.text
    assert "Nothing here needs a person" not in first.text


async def test_a_decision_needs_the_number_and_is_carried_out_once(console: Browser) -> None:
    system = console.system
    await hold(system)
    _, case = await late(system)
    path = f"/cases/{case.number}"
    page = (await console.get(path)).check()
    for text in ("Payment after the close", "¥1.00", "Keep the money"):
        assert text in page.text
    assert (await console.post(f"{path}/decide", decision="ACCEPT", confirm="x")).status == 400
    assert (await console.post(f"{path}/decide", decision="", confirm=case.number)).status == 400
    refused = await console.post(f"{path}/decide", decision="CLOSE", reason="", confirm=case.number)
    assert (refused.status, "must not be empty" in refused.text) == (400, True)
    assert (await system.services.case_desk.load(OPERATOR, case.number)).state is CaseState.OPEN
    for _ in range(2):
        done = await console.post(f"{path}/decide", decision="ACCEPT", reason="customer called", confirm=case.number)
        assert done.url == f"{path}?done=decided", done.text
    assert "booked as paid" in done.text
    decided = await system.services.case_desk.load(OPERATOR, case.number)
    assert (decided.state, decided.decision, decided.decided_by) == (CaseState.RESOLVED, "ACCEPT", "console")
    assert (await console.post(f"{path}/decide", decision="REFUND", confirm=case.number)).status == 409


async def test_a_second_operator_confirms(console: Browser) -> None:
    system = console.system
    await hold(system)
    await set_app(system, case_decision_limit=0)
    _, case = await wrong_amount(system)
    path = f"/cases/{case.number}"
    assert "until a second operator sends the same one" in (await console.get(path)).text
    proposed = await console.post(f"{path}/decide", decision="ACCEPT", reason="fine", confirm=case.number)
    assert "console proposed: Keep the money." in proposed.text
    again = (await console.post(f"{path}/decide", decision="ACCEPT", reason="fine", confirm=case.number)).check()
    assert again.status == 409
    async with open_console(system, "second") as other:
        await other.login()
        assert (await other.post(f"{path}/decide", decision="ACCEPT", confirm=case.number)).url.endswith("done=decided")
    assert (await system.services.case_desk.load(OPERATOR, case.number)).state is CaseState.RESOLVED


async def test_comments_and_assignments(console: Browser) -> None:
    system = console.system
    await hold(system)
    _, case = await late(system)
    path = f"/cases/{case.number}"
    assert (await console.post(f"{path}/comment", text="   ")).status == 400
    written = (await console.post(f"{path}/comment", text="<b>called</b>\nthe customer")).check()
    assert "<b>called</b> the customer" in written.text
    assert "<b>called" not in written.html
    assigned = await console.post(f"{path}/assign", assignee=console.name)
    assert assigned.url == f"{path}?done=assigned"
    assert (await console.get(f"/cases?assignee={console.name}")).links("/cases/K") == [path]
    console.speak("zh")
    assert "关闭后才支付" in (await console.get(path)).check().text
