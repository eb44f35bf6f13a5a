"""Serves the demo shop."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from aiohttp import web

from paycenter import PayCenterError
from paycenter.examples import shop_pages as pages
from paycenter.examples.shop import Shop
from paycenter.examples.shop_access import Access
from paycenter.examples.shop_answers import language, page
from paycenter.examples.shop_store import Store

_FILES = {"shop.css": "text/css", "shop.js": "text/javascript"}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(data_file: Path | None, store: Path | str = ":memory:", url: str = "") -> web.Application:
    """The shop. `store`: its file. `url`: where payers find it, if that is not the address that they ask for."""
    access = Access(data_file)
    kept = Store(store)
    shop = Shop(access, kept, url)
    app = web.Application(client_max_size=1 << 20, middlewares=[_guard])
    app.add_routes([
        web.get("/", shop.home), web.post("/orders", shop.order), web.get("/orders/{number}", shop.show),
        web.post("/orders/{number}/pay", shop.pay), web.post("/orders/{number}/refunds", shop.refund),
        web.get("/return", shop.come_back), web.post("/broken", shop.switch), web.get("/state", shop.state),
        web.post("/notifications/order", shop.notified), web.post("/notifications/refund", shop.notified),
        web.get("/notifications", shop.listed), web.get("/healthz", _health), web.get("/static/{name}", _file),
    ])  # fmt: skip

    async def open_until_the_end(app: web.Application) -> AsyncIterator[None]:
        yield
        await access.close()
        kept.close()

    app.cleanup_ctx.append(open_until_the_end)
    return app


@web.middleware
async def _guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Refuses forms that another site sends, and turns an error of PayCenter into a page."""
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise web.HTTPForbidden(text="This form comes from another site.")
    try:
        return await handler(request)
    except PayCenterError as error:
        return page(request, pages.problem(language(request), str(error)), 502)


async def _health(request: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _file(request: web.Request) -> web.Response:
    kind = _FILES.get(request.match_info["name"])
    if kind is None:
        raise web.HTTPNotFound
    return web.Response(body=Path(__file__).with_name(request.match_info["name"]).read_bytes(), content_type=kind, charset="utf-8")


async def _serve(host: str, port: int, app: web.Application) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        sys.stdout.write(f"Demo shop at http://{host}:{runner.addresses[0][1]}/\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await runner.cleanup()


def main(argv: list[str] | None = None) -> None:
    """Run the shop until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(
        "shop", description="Run the demo shop: an example of a service that is paid through PayCenter."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=8902, type=int, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--url", default="", help="where payers find it, if that is not the address that they ask for")
    parser.add_argument("--data-file", type=Path, help="dev.json of `paycenter dev`, in place of the environment")
    parser.add_argument("--store", default="shop.sqlite", help="what the shop remembers (default: %(default)s)")
    given = parser.parse_args(argv)
    if given.data_file is None and (missing := {"TARGET", "KEY_ID", "KEY_SECRET", "NOTIFICATION_SECRET"} - set(os.environ)):
        parser.exit(1, f"Set {', '.join(sorted(missing))}, or name dev.json with --data-file.\n")
    try:
        asyncio.run(_serve(given.host, given.port, create_app(given.data_file, given.store, given.url)))
    except OSError as error:
        parser.exit(1, f"Error: cannot listen on {given.host}:{given.port}: {error.strerror or error}\n")
    except sqlite3.Error as error:
        parser.exit(1, f"Error: {given.store}: {error}\n")
