"""The console in a test: real pages over the use cases of a system, and a browser without JavaScript."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

from aiohttp import ClientResponse, CookieJar
from aiohttp.test_utils import TestClient, TestServer
from paycenter_server.cli.console import console_parts
from paycenter_server.http_console.app import RUNNER_OPTIONS, create_app

from support.operators import PASSWORD, Person, add_admin
from support.system import PayCenterSystem

MOST_HTML = 60 * 1024
# Elements whose attributes may hold code or styles; jinja2's own escaping is what is tested.
_CODE = re.compile(r"^on[a-z]+$|^style$|^hx-on|^hx-vals$", re.IGNORECASE)


class _Elements(HTMLParser):
    """All elements of a page, and the text in script and style elements."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.inline: list[str] = []
        self.text: list[str] = []
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._open = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.inline.append(data)
        self.text.append(data)


@dataclass
class Page:
    """A page that was read."""

    status: int
    html: str
    url: str
    headers: dict[str, str]

    def __post_init__(self) -> None:
        parser = _Elements()
        parser.feed(self.html)
        self.elements, self.inline, self.text = parser.elements, parser.inline, " ".join(" ".join(parser.text).split())

    def links(self, prefix: str) -> list[str]:
        """The targets of links that begin with the prefix, each once."""
        found = [values.get("href", "") for tag, values in self.elements if tag == "a"]
        return list(dict.fromkeys(link for link in found if link.startswith(prefix)))

    def value(self, name: str) -> str:
        """The value of the first input with this name."""
        return next(values.get("value", "") for tag, values in self.elements if tag == "input" and values.get("name") == name)

    def check(self) -> Page:
        """What is true of every page: small, no inline code or style, every script of our own, headers."""
        assert len(self.html.encode()) <= MOST_HTML, f"{self.url}: {len(self.html.encode())} bytes"
        assert not self.inline, f"{self.url}: inline {self.inline}"
        for tag, values in self.elements:
            assert not [name for name in values if _CODE.match(name)], (self.url, tag, values)
            for name in ("src", "href", "action", "formaction", "hx-get", "hx-post"):
                if name in values:
                    assert values[name].startswith(("/", "#")), (self.url, tag, values)
        policy = self.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert self.headers["x-content-type-options"] == "nosniff"
        assert self.headers["referrer-policy"] == "same-origin"
        return self


@dataclass
class Browser:
    """A browser of an operator."""

    system: PayCenterSystem
    client: TestClient[Any, Any]
    name: str
    password: str
    csrf: str = ""

    async def login(self) -> None:
        await self.post_raw("/login", name=self.name, password=self.password)
        self.csrf = (await self.get("/health")).value("csrf")

    async def get(self, path: str, **headers: str) -> Page:
        async with self.client.get(path, headers=headers) as response:
            return await _page(response)

    async def post(self, path: str, **fields: Any) -> Page:
        """Send a form of this session and follow its redirect."""
        return await self.post_raw(path, csrf=self.csrf, **fields)

    async def post_raw(self, path: str, headers: dict[str, str] | None = None, **fields: Any) -> Page:
        async with self.client.post(path, data=fields, headers=headers) as response:
            return await _page(response)

    def speak(self, language: str) -> None:
        """Choose a language."""
        self.client.session.cookie_jar.update_cookies({"language": language}, self.client.make_url("/"))


async def _page(response: ClientResponse) -> Page:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Page(response.status, await response.text(), str(response.url.relative()), headers)


@asynccontextmanager
async def open_console(system: PayCenterSystem, operator: str = "console") -> AsyncIterator[Browser]:
    """A browser at the console, and an admin who can log in."""
    await add_admin(system, operator)
    async with _client(system) as client:
        yield Browser(system, client, operator, PASSWORD)


@asynccontextmanager
async def browser_of(system: PayCenterSystem, one: Person, code: str = "") -> AsyncIterator[Browser]:
    """A browser in which a person is logged in."""
    async with _client(system) as client:
        browser = Browser(system, client, one.name, one.password)
        page = await browser.post_raw("/login", name=one.name, password=one.password, code=code, next="/me")
        assert page.status == 200, page.text
        browser.csrf = page.value("csrf")
        yield browser


@asynccontextmanager
async def _client(system: PayCenterSystem) -> AsyncIterator[TestClient[Any, Any]]:
    server = TestServer(create_app(console_parts(system.services, system.settings)))
    await server.start_server(**RUNNER_OPTIONS)
    async with TestClient(server, cookie_jar=CookieJar(unsafe=True)) as client:
        yield client
