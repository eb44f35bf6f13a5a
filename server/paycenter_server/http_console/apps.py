"""Apps: the matrix of apps and ways to pay, the page of one, its credentials, its secret, test notifications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from aiohttp import web

from paycenter_server.domain.apps import NotificationSuccess, SurplusPolicy, possible_policies
from paycenter_server.domain.cases import CaseKind
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.notifications import NotificationType
from paycenter_server.http_console.formats import CASE_KINDS, plain_amount
from paycenter_server.http_console.forms import Form, amount_of, choice, fields_of, need_confirmation, read_form
from paycenter_server.http_console.security import status_of
from paycenter_server.http_console.view import View, redirect, see, view_of
from paycenter_server.services.apps import ListedApp, NewApp
from paycenter_server.services.notifications_trial import Trial
from paycenter_server.services.paging import Pager

SNIPPETS = {"python": "Python", "node": "Node.js", "go": "Go", "java": "Java", "curl": "buf curl"}


_POLICIES = {
    SurplusPolicy.REFUND: "is refunded at once",
    SurplusPolicy.HOLD: "waits for a decision",
    SurplusPolicy.ACCEPT: "is booked if it is a late payment",
}


def policy_choices(view: View) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """The kinds of cases with a choice: the kind, its name, and the policies that make sense for it."""
    return [
        (kind.value, view.t(CASE_KINDS[kind]), [(one.value, view.t(_POLICIES[one])) for one in possible_policies(kind)])
        for kind in CaseKind if len(possible_policies(kind)) > 1
    ]  # fmt: skip


def _case_policies(form: Form) -> dict[str, str]:
    """The policies of single kinds. An empty choice means that of the app."""
    chosen = {kind.value: choice(SurplusPolicy, form.get(f"case_policies.{kind.value}", "")) for kind in CaseKind}
    return {kind: policy.value for kind, policy in chosen.items() if policy is not None}


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/apps", _list)
    app.router.add_get("/apps/new", _new_page)
    app.router.add_post("/apps/new", _create)
    app.router.add_get("/apps/{key}", _page)
    app.router.add_post("/apps/{key}/edit", _edit)
    app.router.add_post("/apps/{key}/secret", _rotate)
    app.router.add_post("/apps/{key}/credentials", _add_credential)
    app.router.add_post("/apps/{key}/credentials/disable", _disable_credential)
    app.router.add_post("/apps/{key}/test", _test)
    app.router.add_post("/apps/{key}/delete", _delete)


def _codes(view: View) -> list[str]:
    """The columns of the matrix: the channels that are installed."""
    return [spec.code for spec in view.parts.registry.as_registered]


async def _list(request: web.Request) -> web.Response:
    view, query = view_of(request), request.query
    enabled = {"on": True, "off": False}.get(query.get("state", ""))
    page = await view.parts.apps.search(view.caller, query.get("name", "").strip(), enabled, view.pager())
    families = [
        (specs[0].family_title or family, specs)
        for family, specs in (
            (name, list(found)) for name, found in groupby(view.parts.registry.as_registered, lambda one: one.family)
        )
    ]
    return view.render("apps.html", apps=page.items, token=page.next_token, codes=_codes(view), families=families)


async def _new_page(request: web.Request) -> web.Response:
    view = view_of(request)
    return view.render("app_new.html", form={}, error=None, wrong={}, policies=policy_choices(view))


async def _create(request: web.Request) -> web.Response:
    view, form = view_of(request), await read_form(request)
    new = NewApp(
        app_key=form.get("app_key", "").strip(), name=form.get("name", "").strip(), remark=form.get("remark", "").strip(),
        order_notification_url=form.get("order_notification_url", "").strip(),
        refund_notification_url=form.get("refund_notification_url", "").strip(),
        surplus_policy=choice(SurplusPolicy, form.get("surplus_policy", "")) or SurplusPolicy.REFUND,
        notification_success=choice(NotificationSuccess, form.get("notification_success", "")) or NotificationSuccess.HTTP_2XX,
    )  # fmt: skip
    try:
        new = replace(
            new, case_decision_limit=_limit(form, "case_decision_limit"),
            refund_approval_limit=_limit(form, "refund_approval_limit"), channel_approval=form.get("channel_approval") == "on",
            case_policies=_case_policies(form),
        )  # fmt: skip
        created = await view.parts.apps.create(view.caller, new)
    except PayCenterError as error:
        return view.render(
            "app_new.html", status=status_of(error), form=form, error=error, wrong=fields_of(error), policies=policy_choices(view)
        )
    shown = view.keep_once(
        {"key_id": created.key_id, "key_secret": created.key_secret, "notification_secret": created.notification_secret}
    )
    return see(f"/apps/{created.app.app_key}", "created", shown=shown)


async def _page(request: web.Request) -> web.Response:
    view = view_of(request)
    return await _render(view, request.match_info["key"], once=view.take_once(view.query.get("shown", "")))


async def _render(
    view: View,
    key: str,
    *,
    error: PayCenterError | None = None,
    form: Form | None = None,
    trial: Trial | None = None,
    once: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
) -> web.Response:
    listed = await view.parts.apps.get(view.caller, key)
    credentials = await view.parts.credentials.list_of_app(view.caller, key)
    page = await view.parts.channels.search(view.caller, key, Pager(200, ""))
    return view.render(
        "app.html", status=200 if error is None else status_of(error), app=listed.app, form=form or _values(listed), error=error,
        wrong=fields_of(error) if error else {}, credentials=credentials, trial=trial, once=once or {}, warnings=warnings,
        channels={one.channel.code: one for one in page.items}, codes=_codes(view), snippets=SNIPPETS, host=view.parts.grpc_address,
        policies=policy_choices(view), approvals=await view.parts.approvals.waiting_for(view.caller, key),
    )  # fmt: skip


def _values(listed: ListedApp) -> dict[str, str]:
    app = listed.app
    limits = ("case_decision_limit", "refund_approval_limit")
    return {
        "name": app.name, "remark": app.remark, "enabled": "on" if app.enabled else "",
        "channel_approval": "on" if app.channel_approval else "",
        "order_notification_url": app.order_notification_url, "refund_notification_url": app.refund_notification_url,
        "surplus_policy": app.surplus_policy.value, "notification_success": app.notification_success.value,
        **{f"case_policies.{kind}": policy for kind, policy in app.case_policies.items()},
        **{name: "" if getattr(app, name) is None else plain_amount(getattr(app, name)) for name in limits},
    }  # fmt: skip


def _limit(form: Form, name: str) -> int | None:
    """Minor units; None for an empty field."""
    text = form.get(name, "")
    return amount_of(name, text) if text.strip() else None


async def _edit(request: web.Request) -> web.Response:
    view, key, form = view_of(request), request.match_info["key"], await read_form(request)
    changes: dict[str, Any] = {
        name: form[name].strip() for name in ("name", "remark", "order_notification_url", "refund_notification_url") if name in form
    }
    changes["enabled"] = form.get("enabled") == "on"
    changes["channel_approval"] = form.get("channel_approval") == "on"
    if policy := choice(SurplusPolicy, form.get("surplus_policy", "")):
        changes["surplus_policy"] = policy.value
    if rule := choice(NotificationSuccess, form.get("notification_success", "")):
        changes["notification_success"] = rule.value
    if any(name.startswith("case_policies.") for name in form):
        changes["case_policies"] = _case_policies(form)
    try:
        for name in ("case_decision_limit", "refund_approval_limit"):
            changes[name] = _limit(form, name)
        listed = await view.parts.apps.update(view.caller, key, changes)
    except PayCenterError as error:
        return await _render(view, key, error=error, form=form)
    if listed.warnings:
        return await _render(view, key, warnings=listed.warnings)
    return see(f"/apps/{key}", "saved")


async def _rotate(request: web.Request) -> web.Response:
    view, key = view_of(request), request.match_info["key"]
    secret = await view.parts.apps.rotate_notification_secret(view.caller, key)
    return see(f"/apps/{key}", "saved", shown=view.keep_once({"notification_secret": secret}))


async def _add_credential(request: web.Request) -> web.Response:
    view, key, form = view_of(request), request.match_info["key"], await read_form(request)
    try:
        credential, secret = await view.parts.credentials.create(view.caller, key, form.get("credential_name", "").strip())
    except PayCenterError as error:
        return await _render(view, key, error=error)
    return see(f"/apps/{key}", "created", shown=view.keep_once({"key_id": credential.key_id, "key_secret": secret}))


async def _disable_credential(request: web.Request) -> web.Response:
    view, key, form = view_of(request), request.match_info["key"], await read_form(request)
    try:
        need_confirmation(form, "confirm", form.get("key_id", ""))
        await view.parts.credentials.disable(view.caller, key, form.get("key_id", ""))
    except PayCenterError as error:
        return await _render(view, key, error=error)
    return see(f"/apps/{key}", "disabled")


async def _test(request: web.Request) -> web.Response:
    """The page with what came back. It stores nothing, so that it may be sent any number of times."""
    view, key, form = view_of(request), request.match_info["key"], await read_form(request)
    kind = choice(NotificationType, form.get("type", "")) or NotificationType.ORDER
    return await _render(view, key, trial=await view.parts.notification_trial.send(view.caller, key, kind))


async def _delete(request: web.Request) -> web.Response:
    view, key, form = view_of(request), request.match_info["key"], await read_form(request)
    try:
        need_confirmation(form, "confirm", key)
        await view.parts.apps.delete(view.caller, key)
    except PayCenterError as error:
        return await _render(view, key, error=error)
    return redirect("/apps?done=deleted")
