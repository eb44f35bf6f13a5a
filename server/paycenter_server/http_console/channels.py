"""Channels: connecting a way to pay, the page of one, its test, another account for it."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from paycenter_server.channels.specs import ChannelSpec, Scope
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.http_console.accounts import given_config, keep_secrets, needed
from paycenter_server.http_console.forms import Form, fields_of, need_confirmation, rate_of, read_form
from paycenter_server.http_console.security import status_of, waits
from paycenter_server.http_console.view import View, redirect, see, view_of
from paycenter_server.services.channels import ChannelView, NewChannel
from paycenter_server.services.channels_probe import Probe
from paycenter_server.services.paging import Pager

_WAY = (Scope.ATTEMPT, Scope.CHANNEL)


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/apps/{key}/channels/{code}", _open)
    app.router.add_post("/apps/{key}/channels/{code}", _create)
    app.router.add_get("/channels/{number}", _page)
    for name, act in (("edit", _edit), ("account", _switch), ("test", _test), ("delete", _delete)):
        app.router.add_post(f"/channels/{{number}}/{name}", act)


def _spec(view: View, code: str) -> ChannelSpec:
    spec = view.parts.registry.get(code)
    if spec is None:
        raise web.HTTPNotFound
    return spec


async def _open(request: web.Request) -> web.Response:
    """The channel of the app with this code, or the form that connects it."""
    view, key, code = view_of(request), request.match_info["key"], request.match_info["code"]
    page = await view.parts.channels.search(view.caller, key, Pager(200, ""))
    for one in page.items:
        if one.channel.code == code:
            return redirect(f"/channels/{one.channel.number}")
    return await _new_form(view, key, code, {"enabled": "on"}, None, "", [])


async def _new_form(
    view: View, key: str, code: str, form: Form, error: PayCenterError | None, kept: str, names: list[str]
) -> web.Response:
    spec = _spec(view, code)
    await view.parts.apps.get(view.caller, key)
    accounts = await view.parts.accounts.search(view.caller, spec.family, Pager(200, ""))
    return view.render(
        "channel_new.html", status=200 if error is None else status_of(error), key=key, code=code, form=form, error=error,
        wrong=fields_of(error) if error else {}, items=spec.config_fields, mode=spec.mode_field, kept=kept, kept_names=names,
        accounts=[(one.account.number, f"{one.account.name} ({one.account.identity})") for one in accounts.items],
        of_account={item.name for item in spec.fields_of(Scope.ACCOUNT)},
    )  # fmt: skip


async def _create(request: web.Request) -> web.Response:
    view, key, code = view_of(request), request.match_info["key"], request.match_info["code"]
    form = await read_form(request)
    spec = _spec(view, code)
    account = form.get("account_id", "")
    config = given_config(view, form, spec, *(_WAY if account else ()))
    try:
        new = NewChannel(
            app_key=key, code=code, fee_rate_ppm=rate_of("fee_rate", form.get("fee_rate", "")), family=spec.config_message,
            config=needed(config, spec), enabled=form.get("enabled") == "on", account=account,
            remark=form.get("remark", "").strip(),
        )  # fmt: skip
        made = await view.parts.channels.create(view.caller, new)
    except PayCenterError as error:
        return await _new_form(view, key, code, form, error, *keep_secrets(view, spec, config))
    return see(f"/channels/{made.channel.number}", "created")


async def _page(request: web.Request) -> web.Response:
    return await _render(view_of(request), request.match_info["number"])


async def _render(
    view: View, number: str, *, error: PayCenterError | None = None, form: Form | None = None, probe: Probe | None = None
) -> web.Response:
    shown = await view.parts.channels.get(view.caller, number)
    spec = view.parts.registry.get(shown.channel.code)
    accounts = await view.parts.accounts.search(view.caller, shown.account.family, Pager(200, ""))
    return view.render(
        "channel.html", status=200 if error is None else status_of(error), shown=shown, channel=shown.channel,
        account=shown.account, error=error, wrong=fields_of(error) if error else {}, form=form or _values(shown), probe=probe,
        items=spec.fields_of(*_WAY) if spec else [], of_account=spec.fields_of(Scope.ACCOUNT) if spec else [],
        accounts=[one.account for one in accounts.items if one.account.id != shown.account.id], kept_names=[],
        approvals=await view.parts.approvals.waiting_for(view.caller, number),
    )  # fmt: skip


def _values(shown: ChannelView) -> dict[str, str]:
    channel = shown.channel
    return {
        **shown.config, "fee_rate": f"{channel.fee_rate_ppm / 10_000:.4f}".rstrip("0").rstrip("."), "remark": channel.remark,
        "enabled": "on" if channel.enabled else "",
    }  # fmt: skip


async def _edit(request: web.Request) -> web.Response:
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    shown = await view.parts.channels.get(view.caller, number)
    spec = _spec(view, shown.channel.code)
    try:
        changes: dict[str, Any] = {
            "enabled": form.get("enabled") == "on", "fee_rate_ppm": rate_of("fee_rate", form.get("fee_rate", "")),
            "remark": form.get("remark", "").strip(),
        }  # fmt: skip
        config = given_config(view, form, spec, *_WAY)
        # A configuration without fields of the way cannot be given: that of some other packages is the account's alone.
        family, given = (spec.config_message, config) if spec.fields_of(*_WAY) else ("", None)
        await view.parts.channels.update(view.caller, number, changes, family, given)
    except PayCenterError as error:
        return waits(error) or await _render(view, number, error=error, form=form)
    return see(f"/channels/{number}", "saved")


async def _switch(request: web.Request) -> web.Response:
    """Move the channel to another account. What was begun stays with its account."""
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    try:
        await view.parts.channels.update(view.caller, number, {}, "", None, form.get("account_id", ""))
    except PayCenterError as error:
        return waits(error) or await _render(view, number, error=error)
    return see(f"/channels/{number}", "saved")


async def _test(request: web.Request) -> web.Response:
    """The page with the result. A test changes nothing here; at the channel it may make and close an order of 0.01."""
    view, number = view_of(request), request.match_info["number"]
    shown = await view.parts.channels.get(view.caller, number)
    probe = await view.parts.channel_probe.probe(view.caller, shown.channel.app_key, shown.channel.code)
    return await _render(view, number, probe=probe)


async def _delete(request: web.Request) -> web.Response:
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    shown = await view.parts.channels.get(view.caller, number)
    try:
        need_confirmation(form, "confirm", shown.channel.code)
        await view.parts.channels.delete(view.caller, number)
    except PayCenterError as error:
        return await _render(view, number, error=error)
    return redirect(f"/apps/{shown.channel.app_key}?done=deleted")
