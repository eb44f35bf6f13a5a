"""The list of orders."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.states import OrderState
from paycenter_server.domain.views import ViewList
from paycenter_server.http_console.formats import STATES
from paycenter_server.http_console.forms import choice, time_range
from paycenter_server.http_console.lists import chosen_columns, gathered
from paycenter_server.http_console.view import View, view_of
from paycenter_server.services.paging import Pager
from paycenter_server.storage.orders import OrderFilter

COLUMNS = {
    "number": "Order number",
    "merchant_order_id": "Merchant's number",
    "amount": "Amount",
    "refunded": "Refunded",
    "fee": "Fee",
    "state": "State",
    "channel": "Channel",
    "channel_order_no": "Channel's number",
    "app": "App",
    "subject": "Subject",
    "created": "Created",
    "paid": "Paid at",
}
_DEFAULT = ("number", "merchant_order_id", "amount", "state", "channel", "app", "subject", "created")


def add_routes(app: web.Application) -> None:
    """Serve this page."""
    app.router.add_get("/orders", _list)


async def app_keys(view: View) -> list[str]:
    """The keys of the apps for a choice: the newest 200."""
    page = await view.parts.apps.search(view.caller, "", None, Pager(200, ""))
    return [listed.app.app_key for listed in page.items]


def channel_choices(view: View) -> list[tuple[str, str]]:
    """The channel codes and their names for a choice."""
    return [(spec.code, view.t(spec.title)) for spec in view.parts.registry.as_registered]


def state_choices(view: View, kind: str) -> list[tuple[str, str]]:
    """The states of a kind of object and their texts for a choice."""
    names = [name.partition(":")[2] for name in STATES if name.startswith(f"{kind}:")]
    return [(name, view.t(STATES[f"{kind}:{name}"][1])) for name in names if name != "PARTLY"]


@dataclass(frozen=True, slots=True)
class Found:
    """The filter of a query. `app`: the key of its app. `chosen`: of the time range."""

    app: str
    where: OrderFilter
    chosen: str


def order_filter(view: View) -> Found:
    """What the query asks for."""
    query = view.query
    number = query.get("number", "").strip().upper()
    merchant, channel_no = query.get("merchant_order_id", "").strip(), query.get("channel_order_no", "").strip()
    # A number is found whatever the time range says.
    by_number = bool(number or merchant or channel_no)
    chosen, start, end = time_range(query, view.now(), view.zone)
    if by_number:
        chosen, start, end = "all", None, None
    key = decode(Prefix.ORDER, number)
    where = OrderFilter(
        channel_code=query.get("channel_code", ""), state=choice(OrderState, query.get("state", "")),
        merchant_order_id=merchant, channel_order_no=channel_no, attempt_id=decode(Prefix.ATTEMPT, number) if number else None,
        create_time_from=start, create_time_to=end, order_ids=(key,) if key else None,
    )  # fmt: skip
    if number and not key and where.attempt_id is None:
        where = OrderFilter(order_ids=())
    return Found(query.get("app", ""), where, chosen)


async def _list(request: web.Request) -> web.Response:
    view = view_of(request)
    if (page_with_columns := gathered(view, "/orders", COLUMNS)) is not None:
        return page_with_columns
    found = order_filter(view)
    page = await view.parts.orders.search(view.caller, found.app, found.where, view.pager())
    marks = await view.parts.orders.marks(page.items)
    return view.render(
        "orders.html", orders=page.items, token=page.next_token, marks=marks, chosen=found.chosen,
        columns=chosen_columns(view, COLUMNS, _DEFAULT),
        views=await view.parts.views.list_own(view.caller, ViewList.ORDERS),
        every_column=COLUMNS, apps=await app_keys(view), channels=channel_choices(view), states_of=state_choices(view, "order"),
    )  # fmt: skip
