"""A shop that is paid through PayCenter: an example to copy. It needs the client and aiohttp.

    python -m paycenter.examples.shop

`paycenter dev` runs it. Elsewhere the environment names TARGET, KEY_ID, KEY_SECRET and NOTIFICATION_SECRET, as in the client's
README; the app's notification URLs are `/notifications/order` and `/notifications/refund`. What it shows is in `shop_pages.py`,
what it remembers in `shop_store.py`, a SQLite file. What matters, in the order in which it happens:

1. `order`: the shop stores its order under a number of its own, and then creates the pay order under this number. After an error
   the same call is made again; it never makes a second pay order.
2. `pay`: the payer is sent to the cashier, and comes back to `come_back` with a signed address.
3. `notified`: goods are delivered when a notification with a valid signature says so, once for each version of the order.
4. `refund`: as the order, under a number of the shop's own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from paycenter import AsyncPayCenter, PayCenterError
from paycenter.examples import shop_pages as pages
from paycenter.examples.shop_store import Store
from paycenter.money import yuan_to_fen
from paycenter.notifications import NotificationError, NotificationVerifier
from paycenter.returns import ReturnError, verify_return
from paycenter.v1.pay_order_service_pb2 import CreateCashierLinkRequest

EXPIRE_IN = timedelta(hours=2)
_SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature")
_FILES = {"shop.css": "text/css", "shop.js": "text/javascript"}
_CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; frame-ancestors 'none';"
    " base-uri 'none'; form-action *"
)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access:
    """How to reach PayCenter: from the environment, or from dev.json, which may appear and change while the shop runs."""

    def __init__(self, data_file: Path | None) -> None:
        self._file = data_file
        self._read: tuple[str, ...] = ()
        self._values: dict[str, str] | None = None
        self._client: AsyncPayCenter | None = None

    def values(self) -> dict[str, str] | None:
        """`target`, `key_id`, `key_secret`, `notification_secret`; None while they are not known."""
        if self._file is None:
            return {name: os.environ[name.upper()] for name in ("target", "key_id", "key_secret", "notification_secret")}
        # While the file is being written or is away, what worked before goes on working.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            document = json.loads(self._file.read_text())
            app = {name: document["app"][name] for name in ("key_id", "key_secret", "notification_secret")}
            NotificationVerifier(app["notification_secret"])
            self._values = {"target": document["addresses"]["grpc"], **app}
        return self._values

    async def client(self) -> AsyncPayCenter:
        """One connection for all requests, made anew when the values change."""
        values = self.values()
        if values is None:
            raise web.HTTPServiceUnavailable(text="PayCenter is not known yet. Try again.")
        read = (values["target"], values["key_id"], values["key_secret"])
        if self._client is None or read != self._read:
            await self.close()
            self._client, self._read = AsyncPayCenter(read[0], key_id=read[1], key_secret=read[2]), read
        return self._client

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            await self._client.close()
            self._client = None


class Shop:
    """The handlers. `url` is where payers find the shop."""

    def __init__(self, access: Access, store: Store, url: str = "") -> None:
        self._access = access
        self._store = store
        self._url = url

    async def home(self, request: web.Request) -> web.Response:
        """The products, the orders and the notifications."""
        return _page(request, pages.home(_language(request), self._store))

    async def order(self, request: web.Request) -> web.Response:
        """Order a product, and go to the cashier."""
        form = await request.post()
        product = pages.PRODUCTS.get(str(form.get("product", "")))
        if product is None:
            raise web.HTTPBadRequest(text="There is no such product.")
        number = f"shop-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(4)}"
        # Stored before the call, so that the shop knows the number whatever becomes of the call.
        self._store.add_order(number, product.title(_language(request)), product.price)
        raise web.HTTPSeeOther(await self._cashier(request, number))

    async def pay(self, request: web.Request) -> web.Response:
        """Go to the cashier of an order, again."""
        raise web.HTTPSeeOther(await self._cashier(request, self._known(request)["number"]))

    async def _cashier(self, request: web.Request, number: str) -> str:
        order, client = self._store.order(number), await self._access.client()
        assert order is not None
        # The same number and content gives the same pay order, so this may be repeated at any time.
        made = await client.create_order(
            merchant_order_id=number, subject=order["subject"], amount=order["amount"], user_ip=request.remote or "127.0.0.1",
            expire_time=datetime.fromisoformat(order["created"]) + EXPIRE_IN, return_url=f"{self._base(request)}/return",
        )  # fmt: skip
        self._store.set_order(number, pay_order_id=made.id)
        return (await client.orders.CreateCashierLink(CreateCashierLinkRequest(id=made.id))).url

    async def come_back(self, request: web.Request) -> web.Response:
        """The payer comes back from the cashier. The page thanks; goods wait for the notification."""
        values = self._access.values()
        try:
            result = verify_return(request.path_qs, values["notification_secret"] if values else "")
        except ReturnError as error:
            raise web.HTTPBadRequest(text=f"This address is not from the cashier: {error}.") from error
        order = self._store.order(result.merchant_order_id)
        if order is None:
            raise web.HTTPNotFound(text="There is no such order.")
        return _page(request, pages.order(_language(request), self._store, order, returned=result.state))

    async def show(self, request: web.Request) -> web.Response:
        """One order."""
        return _page(request, pages.order(_language(request), self._store, self._known(request)))

    async def refund(self, request: web.Request) -> web.Response:
        """Refund some of an order, or repeat a refund whose call has failed."""
        order, form, client = self._known(request), await request.post(), await self._access.client()
        number = str(form.get("number", ""))
        known = self._store.refund(number)
        if known is None:
            try:
                amount = yuan_to_fen(str(form.get("amount", "")))
            except ValueError as error:
                return _page(request, pages.order(_language(request), self._store, order, problem=str(error)), 422)
            known = self._store.add_refund(order["number"], amount, str(form.get("reason", "")).strip() or "Refund")
        try:
            await client.create_refund(
                merchant_order_id=known["order_number"], merchant_refund_no=known["number"], amount=known["amount"],
                reason=known["reason"],
            )  # fmt: skip
        except PayCenterError as error:
            # Not necessarily refused: after a time-out it may have been made. The same call with the same number is safe.
            self._store.set_refund(known["number"], "ERROR", str(error))
            return _page(request, pages.order(_language(request), self._store, order, problem=str(error)), 409)
        if known["state"] == "ERROR":
            self._store.set_refund(known["number"], "WAITING", "")
        raise web.HTTPSeeOther(f"/orders/{order['number']}")

    async def notified(self, request: web.Request) -> web.Response:
        """PayCenter tells what has happened. A 2xx ends it; after any other answer it tells again, for about 77 hours."""
        body = await request.read()
        if self._store.broken:
            self._store.count_broken()
            return web.json_response({"code": 500, "message": "The shop is broken: its switch is on."}, status=500)
        values = self._access.values()
        if values is None:
            return web.json_response({"code": 503, "message": "The notification secret is not known yet."}, status=503)
        kept = {name: request.headers[name] for name in _SIGNED if name in request.headers}
        try:
            told = NotificationVerifier(values["notification_secret"]).verify(request.headers, body)
        except NotificationError as error:
            self._store.add_refused(request.path, kept, body, str(error))
            return web.json_response({"code": 401, "message": str(error)}, status=401)
        with self._store.transaction():
            # The same one may come twice, and an older one after a newer one. Both are answered as received.
            first = self._store.add_notification(told, request.path, kept, body)
            if first and told.is_newer_than(self._store.version(told.object_id)):
                self._store.set_version(told.object_id, told.version)
                self._apply(told.type, told.data)
        return web.json_response({"code": 0})

    def _apply(self, kind: str, data: dict[str, Any]) -> None:
        """What a notification means to the shop. Other types, and orders that others made, change nothing here."""
        if kind == "pay_order.success":
            self._store.set_order(data["merchant_order_id"], state="PAID", paid=data["paid_amount"])
        elif kind == "pay_order.closed":
            self._store.set_order(data["merchant_order_id"], state="CLOSED")
        elif kind in ("pay_refund.success", "pay_refund.failure"):
            self._store.set_refund(data["merchant_refund_no"], data["state"], data.get("channel_error_message", ""))

    async def listed(self, request: web.Request) -> web.Response:
        """The notifications as JSON, newest first, for scripts. `headers` and `body` are what a verifier needs."""
        query = request.query
        found = self._store.notifications(query.get("type", ""), query.get("merchant_order_id", ""))
        return web.json_response({"notifications": found})

    async def switch(self, request: web.Request) -> web.Response:
        """Break the shop, or repair it."""
        self._store.broken = (await request.post()).get("broken") == "1"
        raise web.HTTPSeeOther("/")

    async def state(self, request: web.Request) -> web.Response:
        """A text that changes when a page would show something else."""
        return web.Response(text=self._store.mark)

    def _known(self, request: web.Request) -> dict[str, Any]:
        order = self._store.order(request.match_info["number"])
        if order is None:
            raise web.HTTPNotFound(text="There is no such order.")
        return order

    def _base(self, request: web.Request) -> str:
        return self._url or str(request.url.origin())


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
        return _page(request, pages.problem(_language(request), str(error)), 502)


def _page(request: web.Request, text: str, status: int = 200) -> web.Response:
    headers = {"Content-Security-Policy": _CSP, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    answer = web.Response(text=text, status=status, content_type="text/html", headers=headers)
    if request.query.get("lang") in pages.LANGUAGES:
        answer.set_cookie("lang", request.query["lang"], max_age=31_536_000, httponly=True, samesite="Lax")
    return answer


def _language(request: web.Request) -> str:
    wanted = (request.query.get("lang"), request.cookies.get("lang"), request.headers.get("Accept-Language", "")[:2].lower())
    return next((one for one in wanted if one in pages.LANGUAGES), "en")


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


if __name__ == "__main__":
    main()
