"""The style sheets of the pages: the console's own, and what only these pages have.

The console's files are read as data of the installation, and its code is not imported. Its dark colours need an attribute that a
script sets. These pages have no script, so each file is served a second time, for dark screens only, with the attribute taken as
given.
"""

from __future__ import annotations

import functools
from importlib.resources import files

from aiohttp import web

__all__ = ["add_routes"]

_CONSOLE, _ICON = ("tabler.min.css", "console.css"), "icon.svg"


def add_routes(app: web.Application) -> None:
    """Serve the files."""
    app.router.add_get("/static/{name}", _asset)


async def _asset(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    content = _content(name)
    if content is None:
        return web.Response(status=404, text="there is no such file")
    headers = {"Cache-Control": "public, max-age=600", "X-Content-Type-Options": "nosniff"}
    return web.Response(
        body=content, content_type="image/svg+xml" if name == _ICON else "text/css", charset="utf-8", headers=headers
    )


@functools.cache
def _content(name: str) -> bytes | None:
    """Read at the first request, so that the start does not wait. None for an unknown name."""
    if name == "simulator.css":
        return files("paycenter_server").joinpath("simulator", "pages", "static", name).read_bytes()
    plain = name.removeprefix("dark-")
    if plain not in _CONSOLE and name != _ICON:
        return None
    text = files("paycenter_server").joinpath("http_console", "static", plain).read_text(encoding="utf-8")
    if plain != name:
        for attribute in ("[data-bs-theme=dark]", '[data-bs-theme="dark"]'):
            text = text.replace(attribute, ":root")
    return text.encode()
