"""The answers of the demo shop: pages, in the language of the request."""

from __future__ import annotations

from aiohttp import web

from paycenter.examples import shop_pages as pages

_CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; frame-ancestors 'none';"
    " base-uri 'none'; form-action *"
)


def page(request: web.Request, text: str, status: int = 200) -> web.Response:
    """A page. A language that the request names is kept in a cookie."""
    headers = {"Content-Security-Policy": _CSP, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    answer = web.Response(text=text, status=status, content_type="text/html", headers=headers)
    if request.query.get("lang") in pages.LANGUAGES:
        answer.set_cookie("lang", request.query["lang"], max_age=31_536_000, httponly=True, samesite="Lax")
    return answer


def language(request: web.Request) -> str:
    """The language of the request, of its cookie, or of the browser."""
    wanted = (request.query.get("lang"), request.cookies.get("lang"), request.headers.get("Accept-Language", "")[:2].lower())
    return next((one for one in wanted if one in pages.LANGUAGES), "en")
