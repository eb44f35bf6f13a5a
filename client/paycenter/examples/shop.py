"""A shop that is paid through PayCenter: an example to copy. It needs the client and aiohttp.

    python -m paycenter.examples.shop

`paycenter dev` runs it. Elsewhere the environment names TARGET, KEY_ID, KEY_SECRET and NOTIFICATION_SECRET, as in the client's
README; the app's notification URLs are `/notifications/order` and `/notifications/refund`. What it shows is in `shop_pages.py`,
what it remembers in `shop_store.py`, a SQLite file; `shop_server.py` serves it. What matters, in the order in which it happens:

1. `order`: the shop stores its order under a number of its own, and then creates the pay order under this number. After an error
   the same call is made again; it never makes a second pay order.
2. `pay`: the payer is sent to the cashier, and comes back to `come_back` with a signed address.
3. `notified`: goods are delivered when a notification with a valid signature says so, once for each version of the order.
4. `refund`: as the order, under a number of the shop's own.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from paycenter import PayCenterError
from paycenter.examples import shop_pages as pages
from paycenter.examples.shop_access import Access
from paycenter.examples.shop_answers import language, page
from paycenter.examples.shop_store import Store
from paycenter.money import yuan_to_fen
from paycenter.notifications import NotificationError, NotificationVerifier
from paycenter.returns import ReturnError, verify_return
from paycenter.v1.pay_order_service_pb2 import CreateCashierLinkRequest

EXPIRE_IN = timedelta(hours=2)
_SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature")


class Shop:
    """The handlers. `url` is where payers find the shop."""

    def __init__(self, access: Access, store: Store, url: str = "") -> None:
        self._access = access
        self._store = store
        self._url = url

    async def home(self, request: web.Request) -> web.Response:
        """The products, the orders and the notifications."""
        return page(request, pages.home(language(request), self._store))

    async def order(self, request: web.Request) -> web.Response:
        """Order a product, and go to the cashier."""
        form = await request.post()
        product = pages.PRODUCTS.get(str(form.get("product", "")))
        if product is None:
            raise web.HTTPBadRequest(text="There is no such product.")
        number = f"shop-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(4)}"
        # Stored before the call, so that the shop knows the number whatever becomes of the call.
        self._store.add_order(number, product.title(language(request)), product.price)
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
        return page(request, pages.order(language(request), self._store, order, returned=result.state))

    async def show(self, request: web.Request) -> web.Response:
        """One order."""
        return page(request, pages.order(language(request), self._store, self._known(request)))

    async def refund(self, request: web.Request) -> web.Response:
        """Refund some of an order, or repeat a refund whose call has failed."""
        order, form, client = self._known(request), await request.post(), await self._access.client()
        number = str(form.get("number", ""))
        known = self._store.refund(number)
        if known is None:
            try:
                amount = yuan_to_fen(str(form.get("amount", "")))
            except ValueError as error:
                return page(request, pages.order(language(request), self._store, order, problem=str(error)), 422)
            known = self._store.add_refund(order["number"], amount, str(form.get("reason", "")).strip() or "Refund")
        try:
            await client.create_refund(
                merchant_order_id=known["order_number"], merchant_refund_no=known["number"], amount=known["amount"],
                reason=known["reason"],
            )  # fmt: skip
        except PayCenterError as error:
            # Not necessarily refused: after a time-out it may have been made. The same call with the same number is safe.
            self._store.set_refund(known["number"], "ERROR", str(error))
            return page(request, pages.order(language(request), self._store, order, problem=str(error)), 409)
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


if __name__ == "__main__":
    from paycenter.examples.shop_server import main

    main()
