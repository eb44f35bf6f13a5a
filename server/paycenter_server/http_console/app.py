"""The application of the console, and how it is served."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from aiohttp import web

from paycenter_server.connections import Connections, connection_limit
from paycenter_server.descriptors import raise_descriptor_limit
from paycenter_server.http_console import (
    accounts,
    approvals,
    apps,
    audit,
    cases,
    channels,
    exports,
    health,
    lists,
    login,
    me,
    notifications,
    operators,
    order,
    orders,
    overview,
    refunds,
    search,
)
from paycenter_server.http_console.parts import Parts
from paycenter_server.http_console.security import MAX_BODY, guard
from paycenter_server.http_console.view import CONSOLE, Console, assets

log = structlog.get_logger(__name__)
# A body is not decompressed: aiohttp closes the connection without an answer if it cannot be.
RUNNER_OPTIONS: dict[str, Any] = {"access_log": None, "shutdown_timeout": 10, "auto_decompress": False}
MOST_CONNECTIONS = 1000
_NOUNS = (
    login, me, overview, search, lists, exports, orders, order, refunds, notifications, cases, approvals, apps, accounts, channels,
    operators, audit, health,
)  # fmt: skip


def create_app(parts: Parts) -> web.Application:
    """The application with all pages."""

    async def alive(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def ready(request: web.Request) -> web.Response:
        report = await parts.health.check()
        return web.Response(status=200 if report.ready else 503, text=report.text)

    app = web.Application(client_max_size=MAX_BODY, middlewares=[guard])
    app[CONSOLE] = Console(parts)
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/static/{version}/{name}", assets().serve)
    for noun in _NOUNS:
        noun.add_routes(app)
    return app


async def serve(app: web.Application, host: str, port: int, stop: asyncio.Event, *, connections: Connections | None = None) -> None:
    """Serve until `stop`. Requests that have begun get 10 seconds to end."""
    limit = min(MOST_CONNECTIONS, connection_limit(raise_descriptor_limit()))
    table = Connections(limit) if connections is None else connections
    async with table.listening(web.AppRunner(app, **RUNNER_OPTIONS), host, port):
        log.info("console_listening", address=f"{host}:{port}", max_connections=table.limit)
        await stop.wait()
