"""What lists share: columns to choose, in the query, and views to save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from aiohttp import web

from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.views import ViewList
from paycenter_server.http_console.forms import choice
from paycenter_server.http_console.view import View, redirect, view_of

_NOT_SAVED = ("page", "done", "shown", "column")


def add_routes(app: web.Application) -> None:
    """Serve these forms."""
    app.router.add_post("/views", _save)
    app.router.add_post("/views/delete", _delete)


def chosen_columns(view: View, columns: Mapping[str, str], default: Sequence[str]) -> list[str]:
    """The columns of the query, `columns=amount.state`, in the order of the list; the default without known ones."""
    chosen = view.query.get("columns", "").split(".")
    return [name for name in columns if name in chosen] or list(default)


def gathered(view: View, path: str, columns: Mapping[str, str]) -> web.Response | None:
    """The list with the columns of the form in one value: the form sends one value for each box. None if it was not sent."""
    boxes = view.request.query.getall("column", [])
    if not boxes:
        return None
    chosen = ".".join(name for name in columns if name in boxes)
    return redirect(view.url(path, columns=chosen, column=""))


async def _save(request: web.Request) -> web.Response:
    view, form = view_of(request), await request.post()
    of = choice(ViewList, str(form.get("list", "")))
    if of is None:
        raise invalid([Violation("list", "has no views")])
    query = urlencode([(name, value) for name, value in parse_qsl(str(form.get("query", ""))) if name not in _NOT_SAVED])
    await view.parts.views.save(view.caller, of, str(form.get("name", "")).strip(), query)
    return _back(of, query)


async def _delete(request: web.Request) -> web.Response:
    view, form = view_of(request), await request.post()
    try:
        key = UUID(str(form.get("view", "")))
    except ValueError:
        raise web.HTTPNotFound from None
    await view.parts.views.delete(view.caller, key)
    return _back(choice(ViewList, str(form.get("list", ""))) or ViewList.ORDERS, "")


def _back(of: ViewList, query: str) -> web.Response:
    return redirect(f"/{of.value}?{query}" if query else f"/{of.value}")
