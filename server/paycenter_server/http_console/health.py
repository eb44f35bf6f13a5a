"""Settings and health: version, schema, jobs, a check list for production."""

from __future__ import annotations

from aiohttp import web

from paycenter_server.http_console.parts import Check
from paycenter_server.http_console.view import View, view_of
from paycenter_server.services.paging import Pager

LATE_SECONDS = 300.0
"""A job whose first row has been due for longer than this is behind, or does not run."""


def add_routes(app: web.Application) -> None:
    """Serve this page."""
    app.router.add_get("/health", _page)


async def _page(request: web.Request) -> web.Response:
    view = view_of(request)
    report = await view.parts.health.check()
    queues = await view.parts.overview.queues(view.caller)
    checks = [*view.parts.checks, *await _found(view)]
    return view.render(
        "health.html", report=report, queues=queues, now=view.now(), late=LATE_SECONDS, checks=checks,
        version=view.parts.version, schema=view.parts.health.schema, codes=list(view.parts.registry.values()),
    )  # fmt: skip


async def _found(view: View) -> list[Check]:
    """What the data says about production."""
    operators = (await view.parts.operators.search(view.caller, Pager(200, ""))).items
    channels = await view.parts.channels.search(view.caller, "", Pager(200, ""))
    development = {spec.code for spec in view.parts.registry.values() if spec.development_only}
    mock = [one.channel for one in channels.items if one.channel.code in development and one.channel.enabled]
    apps = await view.parts.apps.search(view.caller, "", True, Pager(200, ""))
    plain = [item.app.app_key for item in apps.items if not item.app.order_notification_url.startswith("https://")]
    return [
        Check(
            "At least two operators", sum(one.enabled for one in operators) >= 2, "One lost credential must not lock everybody out."
        ),
        Check("No enabled mock channel", not mock, "The mock channel gives goods away."),
        Check("Notifications by https", not plain, "An address without https lets others read and change notifications."),
    ]
