"""The operator's own sign-in: authenticator, sessions, API keys. The password has a page of its own (`login.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import segno
from aiohttp import web
from markupsafe import Markup

from paycenter_server.domain.credentials import CredentialLimits
from paycenter_server.domain.errors import PayCenterError, Violation, invalid
from paycenter_server.domain.roles import Role
from paycenter_server.http_console.forms import choice, end_of_day, fields_of, need_confirmation, read_form
from paycenter_server.http_console.operators import ROLES
from paycenter_server.http_console.orders import app_keys
from paycenter_server.http_console.security import status_of
from paycenter_server.http_console.view import View, see, view_of


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/me", _page)
    app.router.add_post("/me/sessions/revoke", _revoke)
    app.router.add_post("/me/totp", _begin)
    app.router.add_post("/me/totp/confirm", _confirm)
    app.router.add_post("/me/totp/remove", _remove)
    app.router.add_post("/me/keys", _add_key)
    app.router.add_post("/me/keys/disable", _disable_key)


async def _page(request: web.Request) -> web.Response:
    view = view_of(request)
    return await _render(view, once=view.take_once(view.query.get("shown", "")))


async def _render(
    view: View, error: PayCenterError | None = None, once: Mapping[str, str] | None = None, *, confirming: bool = False
) -> web.Response:
    """`confirming`: show the form for the code of a new authenticator, which was shown before."""
    caller, shown = view.caller, dict(once or {})
    address = shown.pop("address", "")
    parts = view.parts
    return view.render(
        "me.html", status=200 if error is None else status_of(error), error=error, wrong=fields_of(error) if error else {},
        once=shown, code=_drawn(address) if address else "", confirming=confirming or bool(address),
        secret=shown.pop("secret", ""), number=view.session.number if view.session else "", role=ROLES[caller.role][0],
        has_totp=await parts.totp.is_set(caller),
        sessions=await parts.login_sessions.list_own(caller),
        keys=await parts.credentials.list_own(caller), apps=caller.scope_keys or await app_keys(view),
        roles=[(role.value, view.t(name)) for role, (name, _) in ROLES.items() if caller.role.covers(role)],
    )  # fmt: skip


def _drawn(address: str) -> Markup:
    """The address of a new authenticator as a QR code."""
    drawn = segno.make(address, error="m").svg_inline(scale=5, border=2, dark="#000", light="#fff")
    return Markup(drawn)  # noqa: S704 - squares as a path, none of the text


async def _revoke(request: web.Request) -> web.Response:
    view, form = view_of(request), await read_form(request)
    try:
        await view.parts.login_sessions.revoke_own(view.caller, form.get("session", ""))
    except PayCenterError as error:
        return await _render(view, error)
    return see("/me", "ended")


async def _begin(request: web.Request) -> web.Response:
    view, form = view_of(request), await read_form(request)
    try:
        new = await view.parts.totp.begin(view.caller, form.get("password", ""))
    except PayCenterError as error:
        return await _render(view, error)
    return see("/me", shown=view.keep_once({"secret": new.secret, "address": new.address}))


async def _confirm(request: web.Request) -> web.Response:
    view, form = view_of(request), await read_form(request)
    try:
        codes = await view.parts.totp.confirm(view.caller, form.get("code", ""))
    except PayCenterError as error:
        return await _render(view, error, confirming=True)
    return see("/me", "saved", shown=view.keep_once({f"{view.t('Recovery code')} {n}": code for n, code in enumerate(codes, 1)}))


async def _remove(request: web.Request) -> web.Response:
    view, form = view_of(request), await read_form(request)
    try:
        await view.parts.totp.remove(view.caller, form.get("password", ""))
    except PayCenterError as error:
        return await _render(view, error)
    return see("/me", "totp-removed")


async def _add_key(request: web.Request) -> web.Response:
    view, form = view_of(request), await read_form(request)
    try:
        apps = tuple(str(key) for key in (await request.post()).getall("app_key", []))
        limits = CredentialLimits(choice(Role, form.get("role", "")), apps, _end(view, form.get("expires", "")))
        made, secret = await view.parts.credentials.create_own(view.caller, form.get("name", "").strip(), limits)
    except PayCenterError as error:
        return await _render(view, error)
    return see("/me", "created", shown=view.keep_once({"key_id": made.credential.key_id, "key_secret": secret}))


def _end(view: View, text: str) -> datetime | None:
    """The end of the day that was typed; None for an empty field."""
    if not text:
        return None
    end = end_of_day(text, view.zone)
    if end is None:
        raise invalid([Violation("expires", "must be a date")])
    return end


async def _disable_key(request: web.Request) -> web.Response:
    view, form = view_of(request), await read_form(request)
    try:
        need_confirmation(form, "confirm", form.get("key_id", ""))
        await view.parts.credentials.disable_own(view.caller, form.get("key_id", ""))
    except PayCenterError as error:
        return await _render(view, error)
    return see("/me", "disabled")
