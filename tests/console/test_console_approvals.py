"""The queue of acts that wait for a second operator, and the forms that lead to it."""

from __future__ import annotations

from paycenter_server.domain.roles import Role
from support.cases import set_app
from support.console_rig import browser_of
from support.operators import person
from support.system import OPERATOR, PayCenterSystem


async def test_a_refund_waits_and_another_operator_carries_it_out(system: PayCenterSystem) -> None:
    await set_app(system, refund_approval_limit=60)
    order = await system.paid("mock", subject="<b>coffee")
    anne, ben = await person(system, "anne", Role.FINANCE), await person(system, "ben")
    async with browser_of(system, anne) as first, browser_of(system, ben) as second:
        number = (await first.get(f"/orders/{order.number}")).value("merchant_refund_no")
        form = {"merchant_refund_no": number, "amount": "0.60", "reason": "<i>wrong size"}
        page = (await first.post(f"/orders/{order.number}/refund", **form)).check()
        assert page.url.startswith("/approvals/V")
        assert "This needs a second operator." in page.text
        path = page.url.partition("?")[0]
        assert (await first.post(f"/orders/{order.number}/refund", **form)).url.startswith(path), "sent twice, it waits once"
        assert path in (await first.get(f"/orders/{order.number}")).links("/approvals/")
        assert (await first.post(f"{path}/approve")).status == 409
        assert (await second.get("/approvals")).check().links("/approvals/V") == [path]
        assert "1 acts that wait" in (await second.get("/")).check().text
        async with browser_of(system, await person(system, "vera", Role.VIEWER)) as viewer:
            seen = (await viewer.get(path)).check()
            assert "Your role may not do this act" in seen.text
            assert "Approve and carry out" not in seen.text
            assert (await viewer.post(f"{path}/approve")).status == 403
        waiting = (await second.get(path)).check()
        assert "<i>wrong size" in waiting.text
        assert "¥0.60" in waiting.text
        assert (await second.post(f"{path}/refuse", reason="")).status == 400
        assert "0 acts that wait" not in (await second.get("/")).text
        done = (await second.post(f"{path}/approve", reason="seen")).check()
        assert done.url == f"{path}?done=approved", done.text
        assert "ben" in done.text
        assert not (await second.get("/approvals")).links("/approvals/V")
        assert path in (await second.get("/approvals?state=all")).links("/approvals/V")
    assert await system.value("SELECT amount FROM pay_refund") == 60


async def test_a_protected_account_waits_and_its_request_is_taken_back(system: PayCenterSystem) -> None:
    number = (await system.services.channels.get(OPERATOR, system.channels["mock"])).account.number
    anne = await person(system, "anne", Role.DEVELOPER)
    async with browser_of(system, anne) as browser:
        saved = await browser.post(f"/accounts/{number}/edit", name="Mock", enabled="on", change_approval="on")
        assert saved.url.endswith("done=saved")
        page = (await browser.post(f"/accounts/{number}/edit", name="Mock", change_approval="on")).check()
        path = page.url.partition("?")[0]
        assert path.startswith("/approvals/V")
        assert "Change of an account" in page.text
        assert "enabled true false" in page.text
        assert "config." not in page.text, "only what differs is shown"
        assert path in (await browser.get(f"/accounts/{number}")).links("/approvals/")
        assert (await browser.post(f"{path}/refuse", reason="by mistake")).url == f"{path}?done=refused"
        assert (await browser.get("/apps/shop")).value("refund_approval_limit") == ""
    assert (await system.services.accounts.get(OPERATOR, number)).account.enabled
