"""The guards around every page: headers, sessions, cross-site requests, and what an error looks like."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote, urlsplit

import structlog
from aiohttp import web

from paycenter_server.domain.audit import set_origin
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.events import acting
from paycenter_server.http_console.formats import zone_of
from paycenter_server.http_console.roles import method_of
from paycenter_server.http_console.texts import language_of
from paycenter_server.http_console.view import CONSOLE, VIEW, View, redirect, see
from paycenter_server.storage.database import retryable_error
from paycenter_server.telemetry import begin_request

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HEADERS = {
    # Images may be data: because Tabler's style sheet has small ones. Nothing else may come from elsewhere or stand in a page.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_OPEN = ("/static/", "/healthz", "/readyz")
_WITHOUT_SESSION = ("/login", "/preferences")
MAX_BODY = 1024 * 1024
MAX_LOGIN = 16 * 1024
"""The form of the login and of the preferences."""
_STATUS: Mapping[Reason, int] = {
    Reason.INVALID_FIELD: 400,
    Reason.PAGE_TOKEN_INVALID: 400,
    Reason.CREDENTIALS_MISSING: 401,
    Reason.CREDENTIALS_INVALID: 401,
    Reason.PERMISSION_DENIED: 403,
    Reason.TOO_MANY_CALLS: 429,
    Reason.DATABASE_UNAVAILABLE: 503,
    Reason.CHANNEL_UNREACHABLE: 503,
    Reason.CHANNEL_UNCLEAR: 503,
    Reason.INTERNAL: 500,
}


def status_of(error: PayCenterError) -> int:
    """The HTTP status of an error: 404 where something is not found, 409 where the state does not allow it."""
    return _STATUS.get(error.reason, 404 if error.reason.value.endswith("_NOT_FOUND") else 409)


def waits(error: PayCenterError) -> web.Response | None:
    """The page of the act that waits for a second operator, if that is what the error says."""
    if error.reason is not Reason.APPROVAL_NEEDED:
        return None
    return see(f"/approvals/{error.metadata['pay_approval_id']}", "waits")


def is_https(request: web.Request) -> bool:
    """Whether the browser came by https. A forged header only makes the forger's own cookie stricter."""
    return request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"


def cookie_name(request: web.Request) -> str:
    """With https the prefix ties the cookie to this host, so that no neighbouring host can set it."""
    return "__Host-paycenter" if is_https(request) else "paycenter"


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Headers for every answer, and pages for what goes wrong."""
    set_origin(begin_request(request.headers.get("x-request-id"), request.remote or ""))
    opened = request.path.startswith(_OPEN)
    if not opened:
        cookies = request.cookies
        request[VIEW] = View(
            request, request.app[CONSOLE],
            language=language_of(cookies.get("language", ""), request.headers.get("Accept-Language", "")),
            zone=zone_of(cookies.get("zone", "")), theme={"light": "light", "dark": "dark"}.get(cookies.get("theme", ""), ""),
        )  # fmt: skip
    try:
        response: web.StreamResponse = await (handler(request) if opened else _checked(request, handler))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = _problem(request, error.status, error.reason)
    except PayCenterError as error:
        response = _problem(request, status_of(error), error.message, error.reason.value)
    except Exception as error:
        if (known := retryable_error(error)) is not None:
            log.warning("page_failed", path=request.path, why=f"{type(error).__name__}: {error}"[:300])
            response = _problem(request, status_of(known), known.message, known.reason.value)
        else:
            log.exception("page_failed", path=request.path)
            response = _problem(request, 500, "", Reason.INTERNAL.value)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if not request.path.startswith("/static/"):
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def _problem(request: web.Request, status: int, message: str, reason: str = "") -> web.StreamResponse:
    view = request.get(VIEW)
    assert view is None or isinstance(view, View)
    if view is None:
        return web.Response(status=status, text=message or str(status))
    return view.render("error.html", status=status, code=status, message=message, reason=reason)


async def _checked(request: web.Request, handler: Handler) -> web.StreamResponse:
    view = request[VIEW]
    token = request.cookies.get(cookie_name(request), "")
    view.session = await view.parts.login_sessions.session(token) if token else None
    if request.method not in ("GET", "HEAD") and (view.session is not None or request.path in _WITHOUT_SESSION):
        await _read_form(request, view)
        await _refuse_foreign(request, view)
    if view.session is None and request.path not in _WITHOUT_SESSION:
        if request.method in ("GET", "HEAD") and request.headers.get("HX-Request") != "true":
            return redirect(f"/login?next={quote(request.path_qs, safe='')}")
        if request.headers.get("HX-Request") == "true":
            # htmx would put the login page into a part of this page.
            return web.Response(status=204, headers={"HX-Refresh": "true"})
        return redirect("/login")
    if view.session is None:
        return await handler(request)
    if (change := await _authorised(request, view)) is not None:
        return change
    with acting(view.session.caller.actor):
        response: web.StreamResponse = await handler(request)
    if request.method not in ("GET", "HEAD"):
        log.info("console_act", path=request.path, status=response.status, key_id=view.session.caller.key_id)
    return response


async def _authorised(request: web.Request, view: View) -> web.StreamResponse | None:
    """PERMISSION_DENIED if the operator may not call the method of this route. A redirect for one who must change the password."""
    resource = request.match_info.route.resource
    if resource is None:
        return None  # there is no such page
    method = method_of(request.method, resource.canonical)
    if method is None:
        log.error("route_without_role", method=request.method, path=resource.canonical)
        raise web.HTTPForbidden(reason="This page has no roles.")
    if method and view.caller.must_change_password:
        return redirect("/password")
    if resource.canonical == "/" and view.caller.scope is not None:
        return redirect("/orders")  # the overview is about all apps
    if method:
        await view.parts.identity.require(view.caller, method)
    return None


async def _read_form(request: web.Request, view: View) -> None:
    """400 for a body that is no form: without a boundary, an unknown charset, bytes of another one; 415 for a compressed one.

    413 for one of more than MAX_LOGIN without a session: the body is in memory before anybody is asked for a password.
    """
    size = request.content_length
    if view.session is None and request.can_read_body and (size is None or size > MAX_LOGIN):
        raise web.HTTPRequestEntityTooLarge(MAX_LOGIN, size or 0)
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise web.HTTPUnsupportedMediaType(reason="Send the form without compression.")
    try:
        await request.post()
    except (web.RequestPayloadError, AssertionError, LookupError, ValueError) as error:
        log.info("form_refused", path=request.path, why=f"{type(error).__name__}: {error}"[:300])
        raise web.HTTPBadRequest(reason="The body is not a form.") from None


async def _refuse_foreign(request: web.Request, view: View) -> None:
    """403 for a post that another site caused, or that has not the token of its session."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != (request.headers.get("Host") or "").lower():
        log.warning("foreign_post", origin=origin[:200], path=request.path)
        raise web.HTTPForbidden(reason="Another site sent this form.")
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise web.HTTPForbidden(reason="Another site sent this form.")
    if view.session is not None and request.path != "/login":
        given = (await request.post()).get("csrf", "")
        if not isinstance(given, str) or not hmac.compare_digest(given.encode("utf-8", "replace"), view.session.csrf.encode()):
            raise web.HTTPForbidden(reason="The form is of another session; load the page again.")


def local_path(text: str) -> str:
    """A path of this console with its query; "/" for anything else, so that a link cannot lead to another site."""
    parts = urlsplit(text) if len(text) <= 2000 and text.isprintable() and "\\" not in text else None
    if parts is None or parts.scheme or parts.netloc or not text.startswith("/") or text.startswith("//"):
        return "/"
    return text
