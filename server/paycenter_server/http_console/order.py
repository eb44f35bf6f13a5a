"""The page of an order, and what can be done with it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.http_console.forms import Form, amount_of, fields_of, need_confirmation, read_form
from paycenter_server.http_console.security import status_of
from paycenter_server.http_console.view import View, see, view_of
from paycenter_server.services.refunds import NewRefund
from paycenter_server.services.timeline import Entry

SHOWN = 60
"""Entries of a timeline that are on the page at once, the last ones; `?all=1` shows all that the use case returns."""
_EVIDENCE_SHOWN = 1500


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/orders/{number}", _page)
    app.router.add_get("/orders/{number}/timeline", _timeline)
    for name, act in (("refund", _refund), ("sync", _sync), ("close", _close)):
        app.router.add_post(f"/orders/{{number}}/{name}", _handler(act))


def _handler(act: Callable[[View, PayOrder, Form], Awaitable[str]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A form of the page: done is a redirect to the page, and an error is the page with the error."""

    async def handle(request: web.Request) -> web.Response:
        view, number = view_of(request), request.match_info["number"]
        form = await read_form(request)
        order = await view.parts.orders.load(view.caller, number)
        try:
            done = await act(view, order, form)
        except PayCenterError as error:
            return await _render(view, order.number, error=error, form=form)
        return see(f"/orders/{order.number}", done)

    return handle


async def _refund(view: View, order: PayOrder, form: Form) -> str:
    # The number is made with the form, so that a form that is sent twice makes one refund.
    new = NewRefund(
        app_key=order.app_key, merchant_order_id=order.merchant_order_id,
        merchant_refund_no=form.get("merchant_refund_no", "").strip(), amount=amount_of("amount", form.get("amount", "")),
        reason=form.get("reason", "").strip(),
    )  # fmt: skip
    await view.parts.refunds.create(view.caller, new)
    return "refund"


async def _sync(view: View, order: PayOrder, form: Form) -> str:
    await view.parts.orders.sync(view.caller, order.number)
    return "synced"


async def _close(view: View, order: PayOrder, form: Form) -> str:
    need_confirmation(form, "confirm", order.merchant_order_id)
    await view.parts.orders.close(view.caller, order.number)
    return "closed"


async def _page(request: web.Request) -> web.Response:
    return await _render(view_of(request), request.match_info["number"])


async def _render(view: View, number: str, error: PayCenterError | None = None, form: Form | None = None) -> web.Response:
    shown = await _timeline_values(view, number)
    order = shown["order"]
    refunds = await view.parts.refunds.of_order(view.caller, order)
    attempts = await view.parts.orders.attempts(order)
    new_number = encode(Prefix.REFUND, view.parts.new_key())
    return view.render(
        "order.html", status=200 if error is None else status_of(error), attempts=attempts, refunds=refunds, error=error,
        wrong=fields_of(error) if error else {}, form=form or {}, new_number=f"console-{new_number}",
        refundable=order.paid_amount - order.refunded_amount - order.reserved_amount, **shown,
    )  # fmt: skip


async def _timeline(request: web.Request) -> web.Response:
    """Only the timeline, for the page's own polling while something is not settled."""
    view = view_of(request)
    return view.render("timeline.html", **await _timeline_values(view, request.match_info["number"]))


async def _timeline_values(view: View, number: str) -> dict[str, Any]:
    timeline = await view.parts.timelines.of_order(view.caller, number)
    entries = list(timeline.entries)
    hidden = 0 if view.query.get("all") else max(len(entries) - SHOWN, 0)
    return {
        "order": timeline.order, "entries": [entry_values(entry) for entry in reversed(entries[hidden:])], "hidden": hidden,
        "left_off": timeline.left_off, "next": timeline.next,
    }  # fmt: skip


def entry_values(entry: Entry) -> dict[str, Any]:
    """An entry of a timeline as the template shows it. `messages`: the evidence, each part with its name."""
    return {"entry": entry, "address": address_of(entry.number), "messages": _messages(entry.evidence)}


def address_of(number: str) -> str:
    """The page of what has this number; "" if it has none."""
    for prefix, path in ((Prefix.ORDER, "orders"), (Prefix.REFUND, "refunds"), (Prefix.NOTIFICATION, "notifications"),
                         (Prefix.CASE, "cases"), (Prefix.CHANNEL, "channels"), (Prefix.ACCOUNT, "accounts")):  # fmt: skip
        if decode(prefix, number) is not None:
            return f"/{path}/{number}"
    return ""


def _messages(evidence: str) -> Sequence[tuple[str, str]]:
    if not evidence:
        return ()
    try:
        values = json.loads(evidence)
    except ValueError:
        return (("", evidence[:_EVIDENCE_SHOWN]),)
    if not isinstance(values, dict):
        return (("", str(values)[:_EVIDENCE_SHOWN]),)
    return [(name, _cut(one if isinstance(one, str) else json.dumps(one, ensure_ascii=False))) for name, one in values.items()]


def _cut(text: str) -> str:
    return text if len(text) <= _EVIDENCE_SHOWN else f"{text[:_EVIDENCE_SHOWN]}…"
