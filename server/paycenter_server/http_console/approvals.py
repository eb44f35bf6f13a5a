"""Acts that wait for a second operator: the queue, and the page of one."""

from __future__ import annotations

from aiohttp import web

from paycenter_server.domain.approvals import ApprovalKind, PayApproval
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.states import ApprovalState
from paycenter_server.http_console.audit import address, changes
from paycenter_server.http_console.forms import choice, fields_of, read_form
from paycenter_server.http_console.orders import app_keys, state_choices
from paycenter_server.http_console.security import status_of
from paycenter_server.http_console.view import View, see, view_of

KINDS = {
    ApprovalKind.REFUND: "Refund",
    ApprovalKind.ACCOUNT: "Change of an account",
    ApprovalKind.CHANNEL: "Another account or other keys of a channel",
    ApprovalKind.NEW_CHANNEL: "A new channel",
    ApprovalKind.APP: "Less protection of an app",
}
_SHOWN = 8_000


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/approvals", _list)
    app.router.add_get("/approvals/{number}", _page)
    app.router.add_post("/approvals/{number}/approve", _approve)
    app.router.add_post("/approvals/{number}/refuse", _refuse)


def _address(approval: PayApproval) -> str:
    """The page of what the act is about."""
    of_app = approval.kind in (ApprovalKind.NEW_CHANNEL, ApprovalKind.APP)
    return f"/apps/{approval.object}" if of_app else address(approval.object)


async def _list(request: web.Request) -> web.Response:
    """Those that wait by default."""
    view, query = view_of(request), request.query
    state = query.get("state", ApprovalState.PENDING.value)
    page = await view.parts.approvals.search(
        view.caller, view.pager(), app_key=query.get("app", ""), state=choice(ApprovalState, state),
        kind=choice(ApprovalKind, query.get("kind", "")),
    )  # fmt: skip
    rows = [(one, _address(one)) for one in page.items]
    return view.render(
        "approvals.html", rows=rows, token=page.next_token, apps=await app_keys(view), state=state, names=KINDS,
        kinds=[(kind.value, view.t(name)) for kind, name in KINDS.items()],
        states_of=[*state_choices(view, "approval"), ("all", view.t("All states"))],
    )  # fmt: skip


async def _page(request: web.Request) -> web.Response:
    return await _render(view_of(request), request.match_info["number"])


async def _render(view: View, number: str, error: PayCenterError | None = None) -> web.Response:
    approval = await view.parts.approvals.get(view.caller, number)
    sides = approval.shown
    return view.render(
        "approval.html", status=200 if error is None else status_of(error), approval=approval, names=KINDS, error=error,
        wrong=fields_of(error) if error else {}, address=_address(approval), own=approval.requested_by == view.caller.person,
        changes=changes(sides.get("before"), sides.get("after"), _SHOWN),
    )  # fmt: skip


async def _approve(request: web.Request) -> web.Response:
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    try:
        await view.parts.approvals.approve(view.caller, number, form.get("reason", "").strip())
    except PayCenterError as error:
        return await _render(view, number, error)
    return see(f"/approvals/{number}", "approved")


async def _refuse(request: web.Request) -> web.Response:
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    try:
        await view.parts.approvals.refuse(view.caller, number, form.get("reason", "").strip())
    except PayCenterError as error:
        return await _render(view, number, error)
    return see(f"/approvals/{number}", "refused")
