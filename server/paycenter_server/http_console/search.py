"""The box on every page that finds any number."""

from __future__ import annotations

from aiohttp import web

from paycenter_server.http_console.view import redirect, view_of
from paycenter_server.services.search import Found, Kind

_PATHS = {
    Kind.ORDER: "orders", Kind.REFUND: "refunds", Kind.NOTIFICATION: "notifications", Kind.CHANNEL: "channels",
    Kind.ACCOUNT: "accounts", Kind.CASE: "cases",
}  # fmt: skip


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/search", _search)
    app.router.add_get("/search/live", _live)


def _path(found: Found) -> str:
    return f"/{_PATHS[found.kind]}/{found.number}"


async def _search(request: web.Request) -> web.Response:
    """The page of what was found if it is one thing, else a list."""
    view = view_of(request)
    text = view.query.get("q", "").strip()
    found = await view.parts.search.find(view.caller, text)
    if len(found) == 1:
        return redirect(_path(found[0]))
    return view.render("search.html", found=[(one, _path(one)) for one in found], text=text[:64])


async def _live(request: web.Request) -> web.Response:
    view = view_of(request)
    text = view.query.get("q", "").strip()
    # Shorter numbers would be looked up with each letter that is typed.
    found = await view.parts.search.find(view.caller, text) if len(text) >= 3 else []
    return view.render("found.html", found=[(one, _path(one)) for one in found[:10]], text=text[:64])
