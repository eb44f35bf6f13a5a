"""Refunds: the list, the page of one, sending it again, querying the channel."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.domain.states import RefundState
from paycenter_server.domain.views import ViewList
from paycenter_server.http_console.forms import choice, time_range
from paycenter_server.http_console.lists import chosen_columns, gathered
from paycenter_server.http_console.order import page_of_entries
from paycenter_server.http_console.orders import app_keys, channel_choices, state_choices
from paycenter_server.http_console.security import status_of, waits
from paycenter_server.http_console.view import View, see, view_of
from paycenter_server.services.refunds import NewRefund
from paycenter_server.storage.refunds_lists import RefundFilter

COLUMNS = {
    "number": "Refund number",
    "merchant_refund_no": "Merchant's refund number",
    "amount": "Amount",
    "paid": "Paid",
    "state": "State",
    "merchant_order_id": "Merchant's order number",
    "channel": "Channel",
    "channel_refund_no": "Channel's refund number",
    "app": "App",
    "reason": "Reason",
    "created": "Created",
    "refunded": "Refunded at",
}
_DEFAULT = tuple(name for name in COLUMNS if name != "reason")
_NUMBERS = ("merchant_order_id", "merchant_refund_no", "channel_refund_no", "number")


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/refunds", _list)
    app.router.add_get("/refunds/{number}", _page)
    app.router.add_post("/refunds/{number}/again", _again)
    app.router.add_post("/refunds/{number}/sync", _sync)


@dataclass(frozen=True, slots=True)
class Found:
    """The filter of a query, as `orders.Found`."""

    app: str
    where: RefundFilter
    chosen: str


def refund_filter(view: View) -> Found:
    """What the query asks for."""
    query = view.query
    texts = {name: query.get(name, "").strip() for name in _NUMBERS}
    chosen, start, end = time_range(query, view.now(), view.zone)
    if texts["merchant_order_id"] or texts["merchant_refund_no"] or texts["number"]:
        chosen, start, end = "all", None, None
    key = decode(Prefix.REFUND, texts["number"].upper())
    where = RefundFilter(
        channel_code=query.get("channel_code", ""), state=choice(RefundState, query.get("state", "")),
        merchant_order_id=texts["merchant_order_id"], merchant_refund_no=texts["merchant_refund_no"],
        channel_refund_no=texts["channel_refund_no"], create_time_from=start, create_time_to=end,
        refund_ids=((key,) if key else ()) if texts["number"] else None,
    )  # fmt: skip
    return Found(query.get("app", ""), where, chosen)


async def _list(request: web.Request) -> web.Response:
    view = view_of(request)
    if (page_with_columns := gathered(view, "/refunds", COLUMNS)) is not None:
        return page_with_columns
    found = refund_filter(view)
    page = await view.parts.refunds.search(view.caller, found.app, found.where, view.pager())
    return view.render(
        "refunds.html", refunds=page.items, token=page.next_token, chosen=found.chosen, apps=await app_keys(view),
        channels=channel_choices(view), states_of=state_choices(view, "refund"), every_column=COLUMNS,
        columns=chosen_columns(view, COLUMNS, _DEFAULT), views=await view.parts.views.list_own(view.caller, ViewList.REFUNDS),
    )  # fmt: skip


async def _page(request: web.Request) -> web.Response:
    return await _render(view_of(request), request.match_info["number"])


async def _render(view: View, number: str, error: PayCenterError | None = None) -> web.Response:
    refund = await view.parts.refunds.load(view.caller, number)
    order_number = encode(Prefix.ORDER, refund.order_id)
    timeline = await view.parts.timelines.of_order(view.caller, order_number)
    entries, hidden = page_of_entries([one for one in timeline.entries if one.number == refund.number], view.t)
    return view.render(
        "refund.html", status=200 if error is None else status_of(error), refund=refund, order=timeline.order, entries=entries,
        next=[item for item in timeline.next if item.number == refund.number], hidden=hidden, earlier=0,
        left_off=timeline.left_off or bool(hidden), error=error, wrong={},
        case=encode(Prefix.CASE, refund.case_id) if refund.case_id else "",
    )  # fmt: skip


async def _again(request: web.Request) -> web.Response:
    """Create it once more, with the same number and content: a failed refund is then sent again."""
    view, number = view_of(request), request.match_info["number"]
    refund = await view.parts.refunds.load(view.caller, number)
    new = NewRefund(
        app_key=refund.app_key, merchant_order_id=refund.merchant_order_id, merchant_refund_no=refund.merchant_refund_no,
        amount=refund.amount, reason=refund.reason, notification_url=refund.notification_url,
    )  # fmt: skip
    try:
        await view.parts.refunds.create(view.caller, new)
    except PayCenterError as error:
        return waits(error) or await _render(view, number, error)
    return see(f"/refunds/{refund.number}", "sent-again")


async def _sync(request: web.Request) -> web.Response:
    view, number = view_of(request), request.match_info["number"]
    refund = await view.parts.refunds.load(view.caller, number)
    try:
        await view.parts.refunds.sync(view.caller, refund)
    except PayCenterError as error:
        return await _render(view, number, error)
    return see(f"/refunds/{refund.number}", "synced")
