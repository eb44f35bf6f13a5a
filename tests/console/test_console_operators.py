"""The pages of operators, of the own sign-in, and of the audit, as people use them."""

from __future__ import annotations

import base64
import re

import pytest
from paycenter_server.domain.operators import totp_code
from paycenter_server.domain.roles import Role
from paycenter_server.storage import audit as audit_rows
from paycenter_server.storage.database import read_time
from support.console_rig import Page, browser_of
from support.operators import PASSWORD, log_in, person
from support.system import PayCenterSystem

SECRET = re.compile(r'id="once-2">([^<]+)<')


def shown(page: Page) -> str:
    found = SECRET.search(page.html)
    assert found, page.text
    return found[1]


async def test_an_operator_is_made_limited_disabled_and_let_in_again(system: PayCenterSystem) -> None:
    async with browser_of(system, await person(system, "anne")) as browser:
        wrong = (await browser.post("/operators", name="op_x", role="finance", app_key="shop")).check()
        assert wrong.status == 400
        assert "must not begin like a key id" in wrong.text
        assert (await browser.post("/operators", name="Lin", role="")).status == 400
        page = (await browser.post("/operators", name="<b>Lin", role="finance", app_key="shop")).check()
        number, password = page.url.split("?")[0].rpartition("/")[2], shown(page)
        assert password not in (await browser.get(page.url)).html, "a one-time password is shown once"
        listed = (await browser.get("/operators")).check()
        assert all(text in listed.text for text in ("<b>Lin", "Finance", "one-time password"))
        token = await system.services.sessions.login("<b>Lin", password, "", "203.0.113.1", "<i>agent")
        assert isinstance(token, str)
        assert len(token) == 43
        page = (await browser.get(f"/operators/{number}")).check()
        assert "<i>agent" in page.text
        session = next(values["value"] for tag, values in page.elements if tag == "button" and values.get("name") == "session")
        assert (await browser.post(f"/operators/{number}/revoke", session=session)).url.endswith("done=ended")
        assert await system.services.sessions.session(token) is None
        # Failed logins lock the name; an admin unlocks it.
        for _ in range(5):
            await system.services.sessions.login("<b>Lin", "wrong", "", "203.0.113.1", "x")
        assert "Locked" in (await browser.get("/operators")).text
        assert await system.services.sessions.login("<b>Lin", password, "", "203.0.113.1", "x") == "too_many"
        page = await browser.post(f"/operators/{number}/unlock")
        assert "Locked" not in page.text
        assert len(await system.services.sessions.login("<b>Lin", password, "", "203.0.113.1", "x")) == 43
        # A reset needs the name.
        assert (await browser.post(f"/operators/{number}/password", confirm="Lin")).status == 400
        page = await browser.post(f"/operators/{number}/password", confirm="<b>Lin")
        assert shown(page) != password
        assert await system.services.sessions.login("<b>Lin", password, "", "203.0.113.1", "x") == "wrong"
        page = await browser.post(f"/operators/{number}/edit", role="viewer")
        assert all(text in page.text for text in ("Disabled", "Viewer", "All apps"))
        acts = await system.value(
            "SELECT array_agg(act ORDER BY id) FROM pay_audit WHERE object = $1 AND act <> 'login'", number
        )  # fmt: skip
        assert acts == [
            f"PayOperatorService/{name}"
            for name in ("CreatePayOperator", "UnlockPayOperator", "ResetPassword", "UpdatePayOperator")
        ]


async def test_the_last_admin_cannot_be_disabled_in_the_console(system: PayCenterSystem) -> None:
    one = await person(system, "anne")
    await system.rows("UPDATE pay_operator SET enabled = false WHERE name <> 'anne'")
    async with browser_of(system, one) as browser:
        page = (await browser.post(f"/operators/{one.number}/edit", role="admin")).check()
        assert page.status == 409
        assert "last enabled admin" in page.text


async def test_own_authenticator_sessions_and_keys(system: PayCenterSystem) -> None:
    one, services = await person(system, "anne", Role.DEVELOPER, ("shop",)), system.services
    await services.credentials.create_operator("robot")
    other = await log_in(services, one)
    async with browser_of(system, one) as browser:
        assert (await browser.post("/me/totp", password="wrong")).status == 400
        page = await browser.post("/me/totp", password=PASSWORD)
        assert "<svg" in page.html
        secret = base64.b32decode(re.search(r'id="totp-secret">([A-Z2-7=]+)<', page.html)[1])  # type: ignore[index]
        assert "<svg" not in (await browser.get(page.url)).html, "the secret is shown once"
        assert (await browser.post("/me/totp/confirm", code="1")).status == 400
        page = (await browser.post("/me/totp/confirm", code=await code_now(system, secret))).check()
        recovery = re.findall(r'id="once-[0-9]+">([0-9a-f]{20})<', page.html)
        assert len(recovery) == 8
        assert (await log_in(services, one)) == "wrong"
        assert len(await log_in(services, one, recovery[0])) == 43
        page = await browser.post("/me/totp/remove", password=PASSWORD)
        assert "Not set up" in page.text
        assert len(await log_in(services, one)) == 43
        # Another session of the own ones is ended; this one is not offered.
        page = (await browser.get("/me")).check()
        sessions = [values["value"] for tag, values in page.elements if tag == "button" and values.get("name") == "session"]
        assert len(sessions) == 3
        for number in sessions:
            await browser.post("/me/sessions/revoke", session=number)
        assert await services.sessions.session(other) is None
        page = (await browser.get("/me")).check()
        assert page.url == "/me"
        # An own key may do at most what its owner may.
        assert (await browser.post("/me/keys", name="ci", role="admin")).status == 400
        assert (await browser.post("/me/keys", name="ci", expires="tomorrow")).status == 400
        page = await browser.post("/me/keys", name="ci", role="viewer", expires="2099-01-31")
        shown(page)
        key_id = re.search(r'id="once-1">(op_[0-9a-f]+)<', page.html)[1]  # type: ignore[index]
        assert (await browser.post("/me/keys/disable", key_id=key_id, confirm="x")).status == 400
        assert (await browser.post("/me/keys/disable", key_id=key_id, confirm=key_id)).url.endswith("done=disabled")
        assert not await system.value("SELECT enabled FROM pay_credential WHERE key_id = $1", key_id)
        assert await system.value("SELECT role FROM pay_credential WHERE key_id = $1", key_id) == "viewer"
        assert "Operators" not in page.text, "the navigation has no page that the role may not open"


async def code_now(system: PayCenterSystem, secret: bytes) -> str:
    async with system.services.context.database.connection() as connection:
        return totp_code(secret, int((await read_time(connection)).timestamp()) // 30)


async def test_api_keys_of_operators_are_listed_and_disabled(system: PayCenterSystem) -> None:
    one = await person(system, "anne")
    await system.services.credentials.create_operator("robot")
    key_id, _ = await system.services.credentials.create_operator("robot")
    async with browser_of(system, one) as browser:
        assert key_id in (await browser.get("/operators/keys")).check().text
        assert (await browser.post("/operators/keys/disable", key_id=key_id, confirm="")).status == 400
        assert (await browser.post("/operators/keys/disable", key_id=key_id, confirm=key_id)).url.endswith("done=disabled")
    assert not await system.value("SELECT enabled FROM pay_credential WHERE key_id = $1", key_id)


async def test_an_empty_page_of_the_audit_that_is_not_the_last_one_says_so(
    system: PayCenterSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_rows, "SCANNED", 1)
    name = f"auditor {system.services.context.new_key(system.clock.now())}"
    one = await person(system, name)
    for number in range(2):
        await system.services.apps.update(one.caller, "shop", {"remark": f"{number}"})
    async with browser_of(system, one) as browser:
        page = (await browser.get(f"/audit?operator={name}&app=x")).check()
    assert "Older ones were not searched yet" in page.text


async def test_the_audit_is_filtered_paged_and_verified(system: PayCenterSystem) -> None:
    # The audit cannot be emptied between tests, so the operator's name is of this test alone.
    name = f"auditor {system.services.context.new_key(system.clock.now())}"
    one = await person(system, name)
    async with browser_of(system, one) as browser:
        for number in range(30):
            await system.services.apps.update(one.caller, "shop", {"remark": f'<b>remark "{number}' + "x" * 200})
        first = (await browser.get(f"/audit?act=PayAppService/UpdatePayApp&operator={name}")).check()
        assert '<b>remark "29' in first.text
        (following,) = [link for link in first.links("/audit?act=") if "page=" in link]
        second = (await browser.get(following)).check()
        entries = [link for link in first.links("/audit/") + second.links("/audit/") if link[-1].isdigit()]
        assert len(entries) == 30
        entry = (await browser.get(entries[1])).check()
        assert '<b>remark "28' in entry.text
        assert "The hash is that of these values." in entry.text
        for query, found in (("app=shop", True), ("app=x", False), ("outcome=OK", True), ("range=custom&to=2020-01-01", False)):
            page = (await browser.get(f"/audit?operator={name}&{query}")).check()
            assert ("No entry matches." not in page.text) is found, query
        assert (await browser.get("/audit/999999999")).status == 404
        page = (await browser.get("/audit/verify")).check()
        assert "entries follow each other" in page.text
        anchor = (await browser.get("/audit/verify")).text.split("replaced. ")[1].split()[0]
        assert "0 entries follow each other" in (await browser.get(f"/audit/verify?after={anchor}")).check().text
        changed = anchor[:-1] + ("0" if anchor[-1] != "0" else "1")
        assert "has another hash than the anchor" in (await browser.get(f"/audit/verify?after={changed}")).check().text
        assert (await browser.get("/audit/verify?after=nonsense")).status == 400
