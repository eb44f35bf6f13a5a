"""Notifications: the list, the page of one, sending again, and sending again all that match a filter."""

from __future__ import annotations

from aiohttp import web

from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.notifications import NotificationType
from paycenter_server.domain.states import OPEN_NOTIFICATION, NotificationState
from paycenter_server.http_console.forms import choice, read_form, time_range
from paycenter_server.http_console.orders import app_keys, state_choices
from paycenter_server.http_console.security import status_of
from paycenter_server.http_console.view import View, see, view_of
from paycenter_server.services.paging import Pager
from paycenter_server.storage.notifications import NotificationFilter

_FIELDS = ("app", "type", "state", "merchant_order_id", "merchant_refund_no", "endpoint", "range", "from", "to")
RESEND_PAGE = 200
_ANSWER_SHOWN = 600
_ABOUT = {
    NotificationType.ORDER: (Prefix.ORDER, "orders"),
    NotificationType.REFUND: (Prefix.REFUND, "refunds"),
    NotificationType.CASE: (Prefix.CASE, "cases"),
}
_FINISHED = (NotificationState.SUCCESS, NotificationState.FAILURE)


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/notifications", _list)
    app.router.add_get("/notifications/resend", _count)
    app.router.add_post("/notifications/resend", _resend_matching)
    app.router.add_get("/notifications/{number}", _page)
    app.router.add_post("/notifications/{number}/resend", _resend)
    app.router.add_post("/notifications/{number}/now", _send_now)


def _filter(view: View, values: dict[str, str]) -> tuple[str, NotificationFilter]:
    """The filter of a query or a form, and the chosen time range."""
    chosen, start, end = time_range(values, view.now(), view.zone, "7d")
    if values.get("merchant_order_id") or values.get("merchant_refund_no"):
        chosen, start, end = "all", None, None
    return chosen, NotificationFilter(
        type=choice(NotificationType, values.get("type", "")), state=choice(NotificationState, values.get("state", "")),
        merchant_order_id=values.get("merchant_order_id", "").strip(), endpoint=values.get("endpoint", "").strip(),
        merchant_refund_no=values.get("merchant_refund_no", "").strip(), failing=values.get("state") == "failing",
        create_time_from=start, create_time_to=end,
    )  # fmt: skip


async def _list(request: web.Request) -> web.Response:
    view, query = view_of(request), request.query
    chosen, where = _filter(view, dict(query))
    page = await view.parts.notifications.search(view.caller, query.get("app", ""), where, view.pager())
    resendable = where.state in (NotificationState.FAILURE, NotificationState.SUCCESS)
    return view.render(
        "notifications.html", tasks=page.items, token=page.next_token, chosen=chosen, apps=await app_keys(view),
        states_of=[("failing", view.t("Failing")), *state_choices(view, "notification")], resendable=resendable,
    )  # fmt: skip


async def _page(request: web.Request) -> web.Response:
    return await _render(view_of(request), request.match_info["number"])


async def _render(view: View, number: str, error: PayCenterError | None = None) -> web.Response:
    task, logs = await view.parts.notifications.get(view.caller, number)
    prefix, kind = _ABOUT[task.type]
    about = encode(prefix, task.data_id)
    return view.render(
        "notification.html", status=200 if error is None else status_of(error), task=task, logs=logs[-30:][::-1], about=about,
        kind=kind, error=error, wrong={},
        can_resend=task.state in _FINISHED, can_send_now=task.state in OPEN_NOTIFICATION, shown=_ANSWER_SHOWN,
    )  # fmt: skip


async def _resend(request: web.Request) -> web.Response:
    view, number = view_of(request), request.match_info["number"]
    try:
        task = await view.parts.notifications.resend(view.caller, number)
    except PayCenterError as error:
        return await _render(view, number, error)
    return see(f"/notifications/{task.number}", "resent")


async def _send_now(request: web.Request) -> web.Response:
    view, number = view_of(request), request.match_info["number"]
    try:
        task = await view.parts.notifications.send_now(view.caller, number)
    except PayCenterError as error:
        return await _render(view, number, error)
    return see(f"/notifications/{task.number}", "send-now")


async def _count(request: web.Request) -> web.Response:
    """How many notifications a resend would send. Nothing is sent."""
    view = view_of(request)
    values = {name: request.query.get(name, "") for name in _FIELDS}
    _, where = _filter(view, values)
    result = await view.parts.notifications.resend_matching(view.caller, values["app"], where, Pager(RESEND_PAGE, ""), dry_run=True)
    count = result.matched + result.remaining
    return view.render(
        "notifications_resend.html", values=values, count=count, sent=None, more=bool(result.next_token), error=None, wrong={}
    )


async def _resend_matching(request: web.Request) -> web.Response:
    """Send one page of at most RESEND_PAGE again; the page says how many are left, with a button for the next."""
    view, form = view_of(request), await read_form(request)
    values = {name: form.get(name, "") for name in _FIELDS}
    _, where = _filter(view, values)
    result = await view.parts.notifications.resend_matching(
        view.caller, values["app"], where, Pager(RESEND_PAGE, form.get("page", "")), dry_run=False
    )
    return view.render(
        "notifications_resend.html", values=values, count=result.remaining, sent=result.resent, more=bool(result.next_token),
        token=result.next_token, error=None, wrong={},
    )  # fmt: skip
