"""`GET /cashier/{token}`, `POST /cashier/{token}`, `GET /cashier/{token}/state`, and two static files.

The token is the right to see and to pay one order. Pages are not stored, not framed, send no referrer, and need no script but for
turning by themselves.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from importlib.resources import files
from typing import Any

import jinja2
import segno
import structlog
from aiohttp import web

from paycenter_server.channels.specs import Browser
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import OrderState
from paycenter_server.http_cashier.texts import TEXTS, language_of
from paycenter_server.services.cashier import Cashier, CashierView, LinkError, browser_of
from paycenter_server.services.limits import place
from paycenter_server.services.turns import Turns
from paycenter_server.storage.database import retryable_error
from paycenter_server.telemetry import begin_request

log = structlog.get_logger(__name__)
# Alipay's and WeChat Pay's addresses are links that the payer follows, so no form-action but our own is needed.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_TURNS = 4
"""Requests of payers that are answered at the same time: half of the connections to the database, the others are for callbacks."""
_QR_BYTES = 2331
"""The most of a code of version 40 with the error correction M."""
_STATIC = {"cashier.css": "text/css", "cashier.js": "text/javascript"}
# What the payer reads for the reason of a refused submit; "later" for all others.
_PROBLEMS = {
    Reason.CHANNEL_REFUSED: "refused",
    Reason.CHANNEL_DISABLED: "refused",
    Reason.CHANNEL_NOT_FOUND: "refused",
    Reason.INVALID_FIELD: "bad_code",
    Reason.TOO_MANY_ATTEMPTS: "too_many",
}
_ENDED = (Reason.ORDER_PAID, Reason.ORDER_CLOSED, Reason.ORDER_EXPIRED)


def add_cashier(app: web.Application, cashier: Cashier, turns: Turns | None = None) -> None:
    """Serve the cashier below /cashier. `turns`: for tests."""
    pages = _Pages(cashier, turns or Turns(_TURNS, wholly=True))
    app.router.add_get("/cashier/static/{version}/{name}", _static)
    app.router.add_get("/cashier/{token}", pages.show)
    app.router.add_post("/cashier/{token}", pages.submit)
    app.router.add_get("/cashier/{token}/state", pages.state)


class _Pages:
    def __init__(self, cashier: Cashier, turns: Turns) -> None:
        self._cashier = cashier
        self._turns = turns

    @asynccontextmanager
    async def _turn(self, request: web.Request) -> AsyncIterator[None]:
        """The turn of a request, of the addresses one after the other: whoever sends many must not delay the callbacks of channels,
        and other payers no more than necessary. While it waits for a channel, others have it."""
        async with self._turns.of(request.remote) as turn:
            place.set(turn)
            yield

    async def show(self, request: web.Request) -> web.Response:
        """The page as it is now. `?again` shows the ways although one was chosen."""
        begin_request(request.headers.get("x-request-id"), request.remote or "")
        async with self._turn(request):
            return await self._page(request)

    async def submit(self, request: web.Request) -> web.Response:
        """A way was chosen: submit, then show the page again by GET, so that a reload submits nothing."""
        begin_request(request.headers.get("x-request-id"), request.remote or "")
        form = None
        try:
            form = await request.post()
        except (AssertionError, LookupError, ValueError) as error:
            # aiohttp's errors for a body that is no form: no boundary, an unknown charset, bytes of another one.
            log.info("cashier_form_refused", why=f"{type(error).__name__}: {error}")
        async with self._turn(request):
            return await self._page(request, problem="later") if form is None else await self._submit(request, form)

    async def _submit(self, request: web.Request, form: Any) -> web.Response:
        code = str(form.get("code", ""))[:32]
        # Without scripts the page has one field for each channel that needs a code.
        auth_code = next((text.strip()[:64] for text in map(str, form.getall("auth_code", [])) if text.strip()), "")
        try:
            await self._cashier.submit(request.match_info["token"], code, auth_code, request.remote or "", _browser(request))
        except LinkError:
            return _gone(request)
        except PayCenterError as error:
            if error.reason not in _ENDED:
                log.info("cashier_submit_refused", reason=error.reason.value, why=error.message)
                problem = "review" if error.reason.value == "ORDER_UNDER_REVIEW" else _PROBLEMS.get(error.reason, "later")
                return await self._page(request, problem=problem)
        except Exception as error:
            if retryable_error(error) is None:
                raise
            return await self._page(request, problem="later")
        language = request.query.get("lang", "")
        raise web.HTTPSeeOther(f"{request.path}?lang={language}" if language else request.path, headers=_HEADERS)

    async def state(self, request: web.Request) -> web.Response:
        """The state of the order, for the page that waits."""
        try:
            async with self._turn(request):
                state = await self._cashier.state(request.match_info["token"])
        except LinkError:
            return web.json_response({"state": ""}, status=404, headers=_HEADERS)
        return web.json_response({"state": state.value}, headers=_HEADERS)

    async def _page(self, request: web.Request, problem: str = "") -> web.Response:
        try:
            view = await self._cashier.view(request.match_info["token"], _browser(request))
        except LinkError:
            return _gone(request)
        except Exception as error:
            if retryable_error(error) is None:
                raise
            return _render(request, "message.html", 503, heading="later", text="", back="")
        shown = view.attempt if view.payable and "again" not in request.query and not problem else None
        # In a thread: it takes 5 ms for a usual address, and a quarter of a second for the longest text that a code can hold.
        qr = await asyncio.to_thread(_qr, shown.display_content) if shown and shown.display_mode == "qr_code" else ""
        return _render(
            request, "cashier.html", 200, view=view, order=view.order, ways=view.ways, attempt=shown, problem=problem,
            qr=qr, scan=_scan(view, _language(request)), state=_state(view), token=request.match_info["token"],
        )  # fmt: skip


def _browser(request: web.Request) -> Browser:
    return browser_of(request.headers.get("user-agent", ""))


def _language(request: web.Request) -> str:
    return language_of(request.query.get("lang", ""), request.headers.get("accept-language", ""))


def _state(view: CashierView) -> str:
    """The heading of an order that cannot be paid any more; empty while it can."""
    if view.payable:
        return ""
    by_state = {OrderState.SUCCESS: "success", OrderState.REFUND: "refunded", OrderState.CLOSED: "closed"}
    return by_state.get(view.order.state, "expired")


def _scan(view: CashierView, language: str) -> str:
    app = view.scanner.get(language)
    return TEXTS[language]["scan_with"].format(app=app) if app else TEXTS[language]["scan"]


@functools.lru_cache(maxsize=256)
def _qr(content: str) -> str:
    """A QR code as a data: URL of an SVG, because the policy permits no inline image. "" for more than a code can hold."""
    if len(content.encode("utf-8", "replace")) > _QR_BYTES:
        return ""
    return str(segno.make(content, error="m").svg_data_uri(scale=6, border=2, dark="#000", light="#fff"))


def _gone(request: web.Request) -> web.Response:
    return web.Response(status=404, text=_gone_text(_language(request)), content_type="text/html", headers=_HEADERS)


@functools.lru_cache(maxsize=2)  # anybody can ask for it
def _gone_text(language: str) -> str:
    return _text(language, "message.html", heading="gone", text="gone_help", back="")


@functools.cache
def _file(name: str) -> bytes:
    return files(__package__).joinpath("static", name).read_bytes()


@functools.cache
def _version() -> str:
    return hashlib.sha256(b"".join(_file(name) for name in sorted(_STATIC))).hexdigest()[:12]


async def _static(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if name not in _STATIC or request.match_info["version"] != _version():
        raise web.HTTPNotFound
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=_file(name), content_type=_STATIC[name], charset="utf-8", headers=headers)


def amount(order: PayOrder, minor: int) -> str:
    """An amount with its currency sign: ¥1,234.56."""
    sign = "¥" if order.currency == "CNY" else order.currency + " "
    return f"{sign}{minor // 100:,}.{minor % 100:02d}"


def _moment(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("paycenter_server.http_cashier"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.globals["money"] = amount
    environment.filters["moment"] = _moment
    return environment


def _render(request: web.Request, name: str, status: int, **values: Any) -> web.Response:
    text = _text(_language(request), name, **values)
    return web.Response(status=status, text=text, content_type="text/html", headers=_HEADERS)


def _text(language: str, name: str, **values: Any) -> str:
    other = "en" if language == "zh" else "zh"
    template = _templates().get_template(name)
    return template.render(t=TEXTS[language], language=language, other=other, static=f"/cashier/static/{_version()}", **values)
