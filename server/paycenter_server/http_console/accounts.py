"""Accounts: the list, a new one, the page of one: keys, their ends, the channels that use it."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from paycenter_server.channels.specs import ChannelSpec, Scope
from paycenter_server.domain.accounts import PayAccount
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.http_console.forms import Form, fields_of, need_confirmation, read_form
from paycenter_server.http_console.security import status_of, waits
from paycenter_server.http_console.view import View, redirect, see, view_of
from paycenter_server.services.accounts import NewAccount
from paycenter_server.services.overview import Ending, endings


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/accounts", _list)
    app.router.add_get("/accounts/new", _new_page)
    app.router.add_post("/accounts/new", _create)
    app.router.add_get("/accounts/{number}", _page)
    app.router.add_post("/accounts/{number}/edit", _edit)
    app.router.add_post("/accounts/{number}/keys", _rotate)
    app.router.add_post("/accounts/{number}/delete", _delete)


def given_config(view: View, form: Form, spec: ChannelSpec, *scopes: Scope) -> dict[str, str]:
    """The configuration of a form, with the secrets that an earlier try of the same session has given."""
    kept = view.take_once(form.get("kept", ""))
    values = {}
    for item in spec.fields_of(*scopes):
        value = form.get(item.name, "").strip() or (kept.get(item.name, "") if item.secret else "")
        if value:
            values[item.name] = value
    return values


def keep_secrets(view: View, spec: ChannelSpec, config: dict[str, str]) -> tuple[str, list[str]]:
    """Keep the secrets of a form that had a wrong field, so that they need not be entered again. They do not go into the page."""
    found = {name: value for name, value in config.items() if name in spec.secret_fields}
    return (view.keep_once(found) if found else ""), sorted(found)


def needed(config: dict[str, str], spec: ChannelSpec) -> dict[str, str]:
    """Without the fields that the chosen mode does not have: the browser sends them although they are hidden."""
    chosen = config.get(spec.mode_field, "")
    modes = {item.name: item.mode for item in spec.config_fields}
    return {name: value for name, value in config.items() if not chosen or modes[name] in ("", chosen)}


async def _list(request: web.Request) -> web.Response:
    view = view_of(request)
    page = await view.parts.accounts.search(view.caller, view.query.get("family", ""), view.pager())
    ends = {one.account.id: min((ending.at for ending in _endings(view, one.account)), default=None) for one in page.items}
    return view.render(
        "accounts.html", accounts=page.items, token=page.next_token, families=view.parts.registry.families, ends=ends
    )


async def _new_page(request: web.Request) -> web.Response:
    view = view_of(request)
    return _new_form(view, view.query.get("family", view.parts.registry.families[0]), {}, None, "", [])


def _new_form(view: View, family: str, form: Form, error: PayCenterError | None, kept: str, names: list[str]) -> web.Response:
    spec = view.parts.registry.of_family(family)
    return view.render(
        "account_new.html", status=200 if error is None else status_of(error), family=family, form=form, error=error,
        families=view.parts.registry.families, wrong=fields_of(error) if error else {},
        items=spec.fields_of(Scope.ACCOUNT) if spec else [], kept=kept, kept_names=names,
    )  # fmt: skip


async def _create(request: web.Request) -> web.Response:
    view, form = view_of(request), await read_form(request)
    family = form.get("family", "")
    spec = view.parts.registry.of_family(family)
    if spec is None:
        raise web.HTTPNotFound
    config = given_config(view, form, spec, Scope.ACCOUNT)
    new = NewAccount(form.get("name", "").strip(), form.get("remark", "").strip(), family, spec.config_message, config)
    try:
        made = await view.parts.accounts.create(view.caller, new)
    except PayCenterError as error:
        return _new_form(view, family, form, error, *keep_secrets(view, spec, config))
    return see(f"/accounts/{made.account.number}", "created")


async def _page(request: web.Request) -> web.Response:
    return await _render(view_of(request), request.match_info["number"])


async def _render(
    view: View, number: str, *, error: PayCenterError | None = None, form: Form | None = None, kept: str = "",
    names: list[str] | None = None,
) -> web.Response:  # fmt: skip
    shown = await view.parts.accounts.get(view.caller, number)
    account, spec = shown.account, view.parts.registry.of_family(shown.account.family)
    items = spec.fields_of(Scope.ACCOUNT) if spec else []
    return view.render(
        "account.html", status=200 if error is None else status_of(error), account=account, shown=shown, error=error,
        wrong=fields_of(error) if error else {}, form=form or {**shown.config, **_values(account)},
        uses=await view.parts.accounts.uses(view.caller, number), endings=_endings(view, account), now=view.now(), items=items,
        approvals=await view.parts.approvals.waiting_for(view.caller, number),
        identity=spec.identity_fields if spec else (), kept=kept, kept_names=names or [],
    )  # fmt: skip


def _endings(view: View, account: PayAccount) -> list[Ending]:
    return endings(account, view.parts.registry.of_family(account.family), view.now())


def _values(account: PayAccount) -> dict[str, str]:
    return {
        "name": account.name, "remark": account.remark, "enabled": "on" if account.enabled else "",
        "change_approval": "on" if account.change_approval else "",
    }  # fmt: skip


async def _edit(request: web.Request) -> web.Response:
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    changes: dict[str, Any] = {
        "name": form.get("name", "").strip(), "remark": form.get("remark", "").strip(), "enabled": form.get("enabled") == "on",
        "change_approval": form.get("change_approval") == "on",
    }  # fmt: skip
    try:
        await view.parts.accounts.update(view.caller, number, changes, "", None)
    except PayCenterError as error:
        return waits(error) or await _render(view, number, error=error)
    return see(f"/accounts/{number}", "saved")


async def _rotate(request: web.Request) -> web.Response:
    """New keys. What is left empty keeps its value, whether it is a secret or not."""
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    shown = await view.parts.accounts.get(view.caller, number)
    spec = view.parts.registry.of_family(shown.account.family)
    if spec is None:
        raise web.HTTPNotFound
    given = given_config(view, form, spec, Scope.ACCOUNT)
    config = {**shown.config, **given}
    hours = form.get("overlap_hours", "").strip()
    try:
        await view.parts.accounts.update(
            view.caller, number, {}, spec.config_message, config, int(hours) if hours.isascii() and hours.isdigit() else None
        )
    except PayCenterError as error:
        if (page := waits(error)) is not None:
            return page
        kept, names = keep_secrets(view, spec, given)
        values = {**shown.config, **form, **_values(shown.account)}
        return await _render(view, number, error=error, form=values, kept=kept, names=names)
    return see(f"/accounts/{number}", "saved")


async def _delete(request: web.Request) -> web.Response:
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    shown = await view.parts.accounts.get(view.caller, number)
    try:
        need_confirmation(form, "confirm", shown.account.identity)
        await view.parts.accounts.delete(view.caller, number)
    except PayCenterError as error:
        return await _render(view, number, error=error)
    return redirect("/accounts?done=deleted")
