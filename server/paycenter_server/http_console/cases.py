"""The case desk: the queue, the page of a case, decisions, comments, assignments."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from aiohttp import web

from paycenter_server.domain.cases import CaseKind, Decision
from paycenter_server.domain.errors import PayCenterError, Violation, invalid
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import CaseState
from paycenter_server.http_console.formats import CASE_KINDS
from paycenter_server.http_console.forms import Form, amount_of, choice, fields_of, need_confirmation, read_form
from paycenter_server.http_console.order import page_of_entries
from paycenter_server.http_console.orders import app_keys, state_choices
from paycenter_server.http_console.security import status_of
from paycenter_server.http_console.view import View, see, view_of
from paycenter_server.storage.cases_desk import CaseFilter

DECISIONS = {
    Decision.REFUND: ("Refund", "The money goes back to the payer."),
    Decision.ACCEPT: ("Keep the money", "A late payment is booked to its order; other money is kept without booking."),
    Decision.CLOSE: ("Close the case", "Nothing is moved. Say why."),
    Decision.RETRY: ("Try again", "What the case is about is done once more."),
}
# What a decision about a refund without an answer says.
_OF_STALE_REFUND = {
    Decision.ACCEPT: ("It went back", "The refund is booked as successful. Say how you know it."),
    Decision.CLOSE: ("It did not go back", "The refund ends as failed, and its amount is released. Say how you know it."),
}
# What a decision about a refund says that the channel contradicts.
_OF_CONTRADICTION = {
    Decision.ACCEPT: (
        "It did not go back",
        "The refund becomes failed, and its amount can be refunded again. Say how you know it.",
    ),
}
AGES = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/cases", _list)
    app.router.add_get("/cases/{number}", _page)
    app.router.add_post("/cases/{number}/decide", _decide)
    app.router.add_post("/cases/{number}/comment", _comment)
    app.router.add_post("/cases/{number}/assign", _assign)


async def _list(request: web.Request) -> web.Response:
    """Unresolved cases by default. `older`: only those that have waited for so long; amounts bound the list."""
    view, query = view_of(request), request.query
    state = query.get("state", "unresolved")
    older = AGES.get(query.get("older", ""))
    where = CaseFilter(
        kind=choice(CaseKind, query.get("kind", "")), state=choice(CaseState, state), unresolved=state == "unresolved",
        assignee=query.get("assignee", "").strip(), opened_before=view.now() - older if older else None,
        amount_from=_amount("amount_from", query.get("amount_from", "")),
        amount_to=_amount("amount_to", query.get("amount_to", "")),
        stale=query.get("stale") == "on",
    )  # fmt: skip
    page = await view.parts.case_desk.search(
        view.caller, where, view.pager(), app_key=query.get("app", ""), order=query.get("order", "").strip().upper()
    )
    return view.render(
        "cases.html", cases=page.items, token=page.next_token, apps=await app_keys(view), kinds=CASE_KINDS, now=view.now(),
        state=state,
        states_of=[("unresolved", view.t("Unresolved")), *state_choices(view, "case"), ("all", view.t("All states"))],
    )  # fmt: skip


def _amount(field: str, text: str) -> int | None:
    return amount_of(field, text) if text.strip() else None


async def _page(request: web.Request) -> web.Response:
    return await _render(view_of(request), request.match_info["number"])


async def _render(view: View, number: str, error: PayCenterError | None = None, form: Form | None = None) -> web.Response:
    shown = await view.parts.case_desk.get(view.caller, number)
    case = shown.case
    stale = case.kind is CaseKind.STALE_REFUND or case.stale_time is not None
    contradicted = case.kind is CaseKind.REFUND_MISMATCH
    words = DECISIONS | (_OF_STALE_REFUND if stale else _OF_CONTRADICTION if contradicted else {})
    entries, left_off = await view.parts.case_desk.timeline(view.caller, number)
    listed, hidden = page_of_entries(entries, view.t)
    return view.render(
        "case.html", status=200 if error is None else status_of(error), case=case, refund=shown.refund, second=shown.second,
        kinds=CASE_KINDS, decisions=[(item, *words[item]) for item in case.possible], words=words,
        error=error, form=form or {},
        wrong=fields_of(error) if error else {}, order=_Order(case.order_id, case.currency), entries=listed, hidden=hidden,
        earlier=0,
        next=(), left_off=left_off or bool(hidden), detail=_detail(case.detail), now=view.now(),
        attempt=encode(Prefix.ATTEMPT, case.attempt_id) if case.attempt_id else "",
        account=encode(Prefix.ACCOUNT, case.account_id) if case.account_id else "",
    )  # fmt: skip


class _Order:
    """What the timeline needs of the order of a case, which may have none."""

    def __init__(self, order_id: Any, currency: str | None) -> None:
        self.number = encode(Prefix.ORDER, order_id) if order_id else ""
        self.currency = currency or "CNY"


def _detail(detail: Any) -> list[tuple[str, str]]:
    """What is known, as names and texts."""
    return [
        (name, (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))[:1000])
        for name, value in detail.items()
        if value not in (None, "")
    ]


async def _decide(request: web.Request) -> web.Response:
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    try:
        decision = choice(Decision, form.get("decision", ""))
        if decision is None:
            raise invalid([Violation("decision", "must be chosen")])
        need_confirmation(form, "confirm", number)
        await view.parts.case_decisions.decide(view.caller, number, decision, form.get("reason", "").strip())
    except PayCenterError as error:
        return await _render(view, number, error, form)
    return see(f"/cases/{number}", "decided")


async def _comment(request: web.Request) -> web.Response:
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    try:
        await view.parts.case_desk.comment(view.caller, number, " ".join(form.get("text", "").split()))
    except PayCenterError as error:
        return await _render(view, number, error, form)
    return see(f"/cases/{number}", "commented")


async def _assign(request: web.Request) -> web.Response:
    view, number, form = view_of(request), request.match_info["number"], await read_form(request)
    try:
        await view.parts.case_desk.assign(view.caller, number, form.get("assignee", "").strip())
    except PayCenterError as error:
        return await _render(view, number, error, form)
    return see(f"/cases/{number}", "assigned")
