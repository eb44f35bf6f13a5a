"""The audit: the list, one entry with what it changed, and the verification of the chain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.roles import PERMISSIONS
from paycenter_server.http_console.forms import time_range
from paycenter_server.http_console.order import address_of
from paycenter_server.http_console.orders import app_keys
from paycenter_server.http_console.view import View, view_of
from paycenter_server.storage.audit import AuditFilter

BATCHES = 20
"""Batches of 1,000 rows that one page verifies; the next page goes on at its anchor."""
_SHOWN_IN_LIST = 400
_SHOWN = 12_000
_OUTCOMES = ("OK", "PERMISSION_DENIED", "CREDENTIALS_INVALID")
# Acts that are no methods.
_OTHER_ACTS = ("authenticate", "login", "paycenter operator")
_PAGES = (("C", "channels"), ("M", "accounts"), ("U", "operators"), ("V", "approvals"))


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/audit", _list)
    app.router.add_get("/audit/verify", _verify)
    app.router.add_get("/audit/{number}", _page)


async def _list(request: web.Request) -> web.Response:
    view, query = view_of(request), request.query
    chosen, start, end = time_range(query, view.now(), view.zone, "all")
    where = AuditFilter(
        operator=query.get("operator", "").strip(), act=query.get("act", ""), object=query.get("object", "").strip(),
        app_key=query.get("app", ""), outcome=query.get("outcome", ""), time_from=start, time_to=end,
    )  # fmt: skip
    page = await view.parts.audit.search(where, view.pager())
    rows = [(entry, address(entry.object), changes(entry.before, entry.after, _SHOWN_IN_LIST)) for entry in page.items]
    return view.render(
        "audit.html", rows=rows, token=page.next_token, chosen=chosen, apps=await app_keys(view),
        acts=[(name, name) for name in (*sorted(PERMISSIONS), *_OTHER_ACTS)], outcomes=[(name, name) for name in _OUTCOMES],
    )  # fmt: skip


def address(number: str) -> str:
    """The page of the object of an entry; "" if it has none."""
    for prefix, path in _PAGES:
        if decode(Prefix(prefix), number) is not None:
            return f"/{path}/{number}"
    return address_of(number)


def changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, most: int) -> list[tuple[str, str, str]]:
    """Name, value before and value after of what an act changed, all of them together at most so many characters.

    Of a configuration only the fields that differ are shown, as `config.NAME`.
    """
    sides = (_flat(before), _flat(after))
    found, left = [], most
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        if before and after and sides[0].get(name) == sides[1].get(name):
            continue
        values = [_shown(side.get(name), left // 2) for side in sides]
        left -= len(name) + sum(map(len, values))
        found.append((name, values[0], values[1]))
        if left <= 0:
            found.append(("…", "", ""))
            break
    return found


def _flat(side: Mapping[str, Any] | None) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in (side or {}).items():
        flat |= {f"{name}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _shown(value: Any, most: int) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= max(most, 0) else f"{text[: max(most, 0)]}…"


async def _page(request: web.Request) -> web.Response:
    view, text = view_of(request), request.match_info["number"]
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
    entry = await view.parts.audit.get(number)
    if entry is None:
        raise web.HTTPNotFound
    return view.render(
        "audit_entry.html", entry=entry, address=address(entry.object), changes=changes(entry.before, entry.after, _SHOWN),
        whole=entry.computed_hash() == entry.hash,
    )  # fmt: skip


async def _verify(request: web.Request) -> web.Response:
    """Compute the chain again, from the beginning or after an anchor."""
    view = view_of(request)
    rows, last, finished = 0, None, True
    try:
        async for found in view.parts.audit.verify(view.query.get("after", "").strip()):
            rows, last = rows + found.rows, found
            if not found.broken and rows >= BATCHES * 1000:
                finished = False
                break
    except ValueError as error:
        raise invalid([Violation("after", str(error))]) from None
    return view.render("audit_verify.html", rows=rows, found=last, finished=finished, after=_start(view))


def _start(view: View) -> str:
    return view.query.get("after", "").strip().partition(":")[0]
