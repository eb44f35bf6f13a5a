"""The overview: figures of today and of 30 days, and what needs a person, each a link to the list."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from aiohttp import web

from paycenter_server.http_console.view import View, view_of
from paycenter_server.services.overview import SOON, Day, Figures, Tries


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/", _page)
    app.router.add_get("/overview/figures", _figures)


async def _page(request: web.Request) -> web.Response:
    view = view_of(request)
    attention = await view.parts.overview.attention(view.caller)
    return view.render(
        "overview.html", attention=attention, approvals=await view.parts.approvals.count(view.caller), now=view.now(),
        soon=SOON.days, **await _values(view),
    )  # fmt: skip


async def _figures(request: web.Request) -> web.Response:
    """The figures alone: the page fetches them again while days are missing."""
    view = view_of(request)
    return view.render("figures.html", **await _values(view))


async def _values(view: View) -> dict[str, Any]:
    days = await view.parts.overview.days(view.caller)
    known = [day.figures for day in days if day.figures is not None]
    total = sum(known, Figures())
    today = days[-1].figures
    return {
        "today": today, "total": total, "missing": len(days) - len(known), "rates": _rates(total), "chart": _chart(view, days),
        "first": days[0].day, "last": days[-1].day,
    }  # fmt: skip


def _rates(total: Figures) -> list[tuple[str, Tries, int]]:
    """Channel codes with their attempts and the paid amount, the largest amount first."""
    codes = {*total.tries, *total.channels}
    rows = [(code, total.tries.get(code, Tries()), total.channels.get(code, 0)) for code in codes]
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def _chart(view: View, days: list[Day]) -> str:
    """Labels, amounts in whole units and counts for the chart."""

    def label(day: date) -> str:
        return f"{day.month}-{day.day:02d}"

    return json.dumps(
        {
            "labels": [label(day.day) for day in days], "amounts": [day.figures.amount / 100 if day.figures else 0 for day in days],
            "counts": [day.figures.paid if day.figures else 0 for day in days], "amount": view.t("Paid amount"),
            "count": view.t("Paid orders"),
        },
        ensure_ascii=False,
    )  # fmt: skip
