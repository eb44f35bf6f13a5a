"""Operators: the list, the page of one with its sessions, and the API keys of all."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web
from multidict import MultiMapping

from paycenter_server.domain.errors import PayCenterError, Violation, invalid
from paycenter_server.domain.roles import Role
from paycenter_server.http_console.forms import choice, fields_of, need_confirmation, read_form
from paycenter_server.http_console.orders import app_keys
from paycenter_server.http_console.security import status_of
from paycenter_server.http_console.view import View, see, view_of
from paycenter_server.services.operators import NewOperator, OneTimePassword

ROLES = {
    Role.VIEWER: ("Viewer", "reads"),
    Role.FINANCE: ("Finance", "reads, refunds, decides cases"),
    Role.DEVELOPER: ("Developer", "reads, administers apps, accounts, channels and notifications"),
    Role.ADMIN: ("Admin", "everything, also operators and the audit"),
}


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/operators", _list)
    app.router.add_post("/operators", _create)
    app.router.add_get("/operators/keys", _keys)
    app.router.add_post("/operators/keys/disable", _disable_key)
    app.router.add_get("/operators/{number}", _page)
    app.router.add_post("/operators/{number}/edit", _edit)
    app.router.add_post("/operators/{number}/password", _reset_password)
    app.router.add_post("/operators/{number}/unlock", _unlock)
    app.router.add_post("/operators/{number}/revoke", _revoke)


def role_choices(view: View) -> list[tuple[str, str]]:
    """The roles and their texts for a choice."""
    return [(role.value, f"{view.t(name)}: {view.t(words)}") for role, (name, words) in ROLES.items()]


async def _list(request: web.Request) -> web.Response:
    return await _render_list(view_of(request))


async def _render_list(view: View, error: PayCenterError | None = None, form: Mapping[str, str] | None = None) -> web.Response:
    page = await view.parts.operators.search(view.caller, view.pager())
    return view.render(
        "operators.html", status=200 if error is None else status_of(error), operators=page.items, token=page.next_token,
        waits=await view.parts.operators.waits(view.caller, page.items), roles=role_choices(view),
        names={role.value: name for role, (name, _) in ROLES.items()}, apps=await app_keys(view), error=error,
        wrong=fields_of(error) if error else {}, form=form or {},
        chosen=(await view.request.post()).getall("app_key", []) if error else [],
    )  # fmt: skip


def _apps_of(form: MultiMapping[object]) -> list[str]:
    return [str(key) for key in form.getall("app_key", [])]


def _once(view: View, made: OneTimePassword) -> str:
    return view.keep_once({"name": made.operator.name, "password": made.password})


async def _create(request: web.Request) -> web.Response:
    view, form = view_of(request), await read_form(request)
    try:
        role = choice(Role, form.get("role", ""))
        if role is None:
            raise invalid([Violation("role", "must be chosen")])
        new = NewOperator(form.get("name", "").strip(), role, _apps_of(await request.post()))
        made = await view.parts.operators.create(view.caller, new)
    except PayCenterError as error:
        return await _render_list(view, error, form)
    return see(f"/operators/{made.operator.number}", "created", shown=_once(view, made))


async def _page(request: web.Request) -> web.Response:
    view = view_of(request)
    return await _render(view, request.match_info["number"], once=view.take_once(view.query.get("shown", "")))


async def _render(
    view: View, number: str, error: PayCenterError | None = None, once: Mapping[str, str] | None = None
) -> web.Response:
    operator = await view.parts.operators.get(view.caller, number)
    waits = await view.parts.operators.waits(view.caller, [operator])
    keys = [one for one in await view.parts.credentials.list_operators(view.caller) if one.credential.operator_id == operator.id]
    return view.render(
        "operator.html", status=200 if error is None else status_of(error), operator=operator, waits=waits.get(operator.name),
        sessions=await view.parts.login_sessions.list_of(view.caller, operator), keys=keys, roles=role_choices(view),
        name=ROLES[operator.role][0], apps=sorted({*await app_keys(view), *operator.app_keys}), error=error,
        wrong=fields_of(error) if error else {}, once=once or {},
    )  # fmt: skip


async def _edit(request: web.Request) -> web.Response:
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    try:
        role = choice(Role, form.get("role", ""))
        if role is None:
            raise invalid([Violation("role", "must be chosen")])
        changes = {"role": role, "app_keys": _apps_of(await request.post()), "enabled": form.get("enabled") == "on"}
        await view.parts.operators.update(view.caller, number, changes)
    except PayCenterError as error:
        return await _render(view, number, error)
    return see(f"/operators/{number}", "saved")


async def _reset_password(request: web.Request) -> web.Response:
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    try:
        operator = await view.parts.operators.get(view.caller, number)
        need_confirmation(form, "confirm", operator.name)
        made = await view.parts.operators.reset_password(view.caller, number)
    except PayCenterError as error:
        return await _render(view, number, error)
    return see(f"/operators/{number}", "saved", shown=_once(view, made))


async def _unlock(request: web.Request) -> web.Response:
    view, number = view_of(request), request.match_info["number"]
    await view.parts.operators.unlock(view.caller, number)
    return see(f"/operators/{number}", "unlocked")


async def _revoke(request: web.Request) -> web.Response:
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    try:
        await view.parts.login_sessions.revoke(view.caller, form.get("session", ""))
    except PayCenterError as error:
        return await _render(view, number, error)
    return see(f"/operators/{number}", "ended")


async def _keys(request: web.Request) -> web.Response:
    return await _render_keys(view_of(request))


async def _render_keys(view: View, error: PayCenterError | None = None) -> web.Response:
    keys = await view.parts.credentials.list_operators(view.caller)
    return view.render(
        "operators_keys.html", status=200 if error is None else status_of(error), keys=keys[::-1][:100], left_off=len(keys) > 100,
        error=error, wrong=fields_of(error) if error else {},
    )  # fmt: skip


async def _disable_key(request: web.Request) -> web.Response:
    """The form is in the list of all keys and in the page of an operator; the list follows."""
    view, form = view_of(request), await read_form(request)
    try:
        need_confirmation(form, "confirm", form.get("key_id", ""))
        await view.parts.credentials.disable_operator(view.caller, form.get("key_id", ""))
    except PayCenterError as error:
        return await _render_keys(view, error)
    return see("/operators/keys", "disabled")
