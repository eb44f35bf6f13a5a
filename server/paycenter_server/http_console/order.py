"""The page of an order, and what can be done with it."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from aiohttp import web
from markupsafe import escape

from paycenter_server.domain.errors import PayCenterError, Violation, invalid
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.http_console.formats import CASE_KINDS
from paycenter_server.http_console.forms import Form, amount_of, fields_of, need_confirmation, read_form
from paycenter_server.http_console.security import status_of, waits
from paycenter_server.http_console.view import View, see, view_of
from paycenter_server.services.paging import Pager
from paycenter_server.services.refunds import NewRefund
from paycenter_server.services.timeline import Entry
from paycenter_server.storage.notifications import NotificationFilter

TIMELINE_BYTES = 26_000
"""What the entries of a timeline take on one page, so that it stays below 60 KB. `?skip=N` shows those before."""
_ENTRY_BYTES = 700
"""An entry without its messages, at most."""
_MESSAGES_BYTES = 10_000
_DELIVERY = re.compile(r"delivery ([0-9]+): (.*)", re.DOTALL)


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/orders/{number}", _page)
    app.router.add_get("/orders/{number}/timeline", _timeline)
    app.router.add_post("/orders/{number}/cashier", _cashier)
    for name, act in (("refund", _refund), ("sync", _sync), ("close", _close), ("resend", _resend)):
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
            return waits(error) or await _render(view, order.number, error=error, form=form)
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


async def _resend(view: View, order: PayOrder, form: Form) -> str:
    """Send the newest notification of the order again."""
    page = await view.parts.notifications.search(view.caller, "", NotificationFilter(data_id=order.id), Pager(1, ""))
    if not page.items:
        raise invalid([Violation("order", "has no notification yet")])
    await view.parts.notifications.resend(view.caller, page.items[0].number)
    return "resent"


async def _cashier(request: web.Request) -> web.Response:
    """The page with a link for the payer. It stores nothing. A redirect would be refused: forms lead to this console only."""
    view = view_of(request)
    order = await view.parts.orders.load(view.caller, request.match_info["number"])
    try:
        link = view.parts.cashier.link(order, {})
    except PayCenterError as error:
        return await _render(view, order.number, error=error)
    return await _render(view, order.number, link=link.url)


async def _page(request: web.Request) -> web.Response:
    return await _render(view_of(request), request.match_info["number"])


async def _render(
    view: View, number: str, error: PayCenterError | None = None, form: Form | None = None, link: str = ""
) -> web.Response:
    """`link`: to the cashier."""
    shown = await _timeline_values(view, number)
    order = shown["order"]
    refunds = await view.parts.refunds.of_order(view.caller, order)
    attempts = await view.parts.orders.attempts(order)
    new_number = encode(Prefix.REFUND, view.parts.new_key())
    return view.render(
        "order.html", status=200 if error is None else status_of(error), attempts=attempts, refunds=refunds, error=error, link=link,
        wrong=fields_of(error) if error else {}, form=form or {}, new_number=f"console-{new_number}",
        approvals=await view.parts.approvals.waiting_for(view.caller, order.number),
        refundable=order.paid_amount - order.refunded_amount - order.reserved_amount, **shown,
    )  # fmt: skip


async def _timeline(request: web.Request) -> web.Response:
    """Only the timeline, for the page's own polling while something is not settled."""
    view = view_of(request)
    return view.render("timeline.html", **await _timeline_values(view, request.match_info["number"]))


async def _timeline_values(view: View, number: str) -> dict[str, Any]:
    timeline = await view.parts.timelines.of_order(view.caller, number)
    text = view.query.get("skip", "")
    skip = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    shown, hidden = page_of_entries(timeline.entries, view.t, skip)
    return {
        "order": timeline.order,
        "entries": shown,
        "hidden": hidden,
        "earlier": skip + len(shown),
        "left_off": timeline.left_off and not hidden,
        "next": () if skip else timeline.next,
    }


def event_text(event: str, translate: Callable[..., str]) -> str:
    """What happened, in the viewer's language. Deliveries and new notifications contain values."""
    if found := _DELIVERY.fullmatch(event):
        return translate("delivery {number}: {result}", number=found[1], result=found[2])
    if event.startswith("created: "):
        return translate("created: {type}", type=event.removeprefix("created: "))
    return translate(CASE_KINDS.get(event, event))


def page_of_entries(entries: Sequence[Entry], translate: Callable[..., str], skip: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The entries of one page as the template shows them, the newest first, and the number of those that are left for the next.

    `skip`: the newest entries that were on pages before. `messages` of an entry: its evidence, each part with its name.
    """
    shown: list[dict[str, Any]] = []
    left = TIMELINE_BYTES
    remaining = list(reversed(entries))[skip:]
    for entry in remaining:
        messages = _messages(entry.evidence)
        left -= _ENTRY_BYTES + sum(_size(text) for _, text in messages)
        if left < 0 and shown:
            break
        shown.append(
            {"entry": entry, "address": address_of(entry.number), "messages": messages, "event": event_text(entry.event, translate)}
        )
    return shown, len(remaining) - len(shown)


def address_of(number: str) -> str:
    """The page of what has this number; "" if it has none."""
    for prefix, path in (("O", "orders"), ("F", "refunds"), ("N", "notifications"), ("K", "cases")):
        if decode(Prefix(prefix), number) is not None:
            return f"/{path}/{number}"
    return ""


def _messages(evidence: str) -> Sequence[tuple[str, str]]:
    """The parts of an evidence by name, as many as fit."""
    if not evidence:
        return ()
    try:
        parts = list(_parts("", json.loads(evidence)))
    except ValueError:
        parts = [("", evidence)]
    found, left = [], _MESSAGES_BYTES
    for name, text in parts:
        if _size(text) > left:
            text = f"{text[: left // 6]}…"
        found.append((name, text))
        left -= _size(text)
        if left <= 0:
            break
    return found


def _parts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _parts(f"{name}.{key}" if name else str(key), item)
    elif value not in (None, ""):
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _size(text: str) -> int:
    """The bytes of a text in a page."""
    return len(escape(text).encode())
