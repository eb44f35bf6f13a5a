"""What every page needs: who asks, in which language, zone and colours, and the rendering of templates."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
from aiohttp import web
from markupsafe import Markup

from paycenter_server.domain.roles import may_call
from paycenter_server.http_console import formats
from paycenter_server.http_console.assets import Assets
from paycenter_server.http_console.once import Once
from paycenter_server.http_console.parts import Parts
from paycenter_server.http_console.roles import method_of
from paycenter_server.http_console.texts import LANGUAGES, catalog, translated
from paycenter_server.services.identity import Caller
from paycenter_server.services.paging import Pager
from paycenter_server.services.sessions import Session

PAGE_SIZE = 25
"""Rows of a list. 50 rows of orders with all columns would be larger than 60 KB."""
NAVIGATION = (
    ("overview", "/", "Overview"),
    ("orders", "/orders", "Orders"),
    ("refunds", "/refunds", "Refunds"),
    ("notifications", "/notifications", "Notifications"),
    ("cases", "/cases", "Cases"),
    ("approvals", "/approvals", "Approvals"),
    ("transfers", "", "Transfers"),
    ("wallet", "", "Wallet"),
    ("apps", "/apps", "Apps"),
    ("accounts", "/accounts", "Accounts"),
    ("operators", "/operators", "Operators"),
    ("audit", "/audit", "Audit"),
    ("health", "/health", "Health"),
)
"""Section, address ("" for what is not there yet), name."""
# What a page says after a form was carried out: `?done=KEY`. Only these texts can be shown.
DONE: Mapping[str, str] = {
    "saved": "Saved.",
    "created": "Created.",
    "deleted": "Deleted.",
    "refund": "The refund was created.",
    "sent-again": "The refund was sent again.",
    "synced": "The channel was queried.",
    "closed": "The order was closed.",
    "price": "The amount was changed.",
    "resent": "The notification is sent again now.",
    "send-now": "The notification is sent now.",
    "disabled": "Disabled.",
    "enabled": "Enabled.",
    "decided": "The decision was recorded.",
    "commented": "The comment was recorded.",
    "assigned": "Assigned.",
    "waits": "This needs a second operator. It waits for 24 hours.",
    "approved": "Approved and carried out.",
    "refused": "Refused. Nothing was done.",
    "unlocked": "The operator can log in again now.",
    "ended": "The session was ended.",
    "totp-removed": "The authenticator was removed.",
}


@functools.cache
def assets() -> Assets:
    """The static files."""
    return Assets()


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals.update(
        languages=LANGUAGES, states=formats.STATES, amount=formats.amount, rate=formats.rate,
        percent=formats.percent, asset=assets().path, plain_amount=formats.plain_amount,
        pairs=lambda names: [(name, name) for name in names],
    )  # fmt: skip
    return environment


@dataclass
class Console:
    """What the pages share."""

    parts: Parts
    once: Once = field(default_factory=Once)

    def __post_init__(self) -> None:
        for language in LANGUAGES:
            catalog(language)  # read before the first page is asked for


CONSOLE = web.AppKey("console", Console)


@dataclass
class View:
    """One request. `session` is None on the pages that need none."""

    request: web.Request
    console: Console
    language: str
    zone: tzinfo
    theme: str
    session: Session | None = None

    @property
    def parts(self) -> Parts:
        """The use cases."""
        return self.console.parts

    @property
    def caller(self) -> Caller:
        """The operator who asks. The middleware lets nobody without a session reach a page that uses it."""
        if self.session is None:
            raise web.HTTPForbidden
        return self.session.caller

    @property
    def query(self) -> Mapping[str, str]:
        """The query, of a repeated name the first value."""
        return self.request.query

    @property
    def navigation(self) -> list[tuple[str, str, str]]:
        """The entries of the navigation that the operator may open, and those of what is not there yet."""
        return [entry for entry in NAVIGATION if not entry[1] or self.may("GET", entry[1])]

    def may(self, http_method: str, path: str) -> bool:
        """Whether the operator may call a route, for links and forms that are shown only to who may use them. The guard decides."""
        method = method_of(http_method, path)
        return not method or self.may_call(method)

    def may_call(self, method: str) -> bool:
        """Whether the table of roles lets the operator call a method."""
        return may_call(method, self.caller.role, limited=self.caller.scope is not None)

    @property
    def section(self) -> str:
        """The entry of the navigation to which the page belongs."""
        first = self.request.path.split("/")[1]
        return {"": "overview", "channels": "accounts", "search": "", "me": ""}.get(first, first)

    def keep_once(self, values: Mapping[str, str]) -> str:
        """Keep new secrets until the next page of this session has shown them; their key."""
        return self.console.once.keep(self.session.csrf if self.session else "", values)

    def take_once(self, key: str) -> Mapping[str, str]:
        """What `keep_once` kept, the first time; {} afterwards."""
        return self.console.once.take(self.session.csrf, key) if self.session and key else {}

    def pager(self) -> Pager:
        """The page that the query asks for."""
        return Pager(PAGE_SIZE, self.query.get("page", ""))

    def t(self, text: str, /, **values: object) -> str:
        """The text in the viewer's language, with its places filled. The values are not marked as safe."""
        found = translated(self.language, text)
        return found.format(**values) if values else found

    def channel(self, code: str | None) -> str:
        """The name of a channel code."""
        spec = self.parts.registry.get(code) if code else None
        return self.t(spec.title) if spec is not None else code or ""

    def url(self, path: str, **changes: str) -> str:
        """The path with the present query, changed. An empty value removes a name."""
        values = {**{name: value for name, value in self.query.items() if name not in ("page", "done", "shown")}, **changes}
        given = urlencode([(name, value) for name, value in values.items() if value])
        return f"{path}?{given}" if given else path

    @property
    def saved_query(self) -> str:
        """The query as a view saves it: without the page."""
        return urlencode(
            [(name, value) for name, value in self.query.items() if value and name not in ("page", "done", "shown", "column")]
        )

    def now(self) -> datetime:
        """The time of the database."""
        return self.parts.now()

    def text(self, template: str, **values: Any) -> str:
        """A rendered template."""
        return _templates().get_template(template).render(
            v=self, _=self.t, session=self.session, path=self.request.path, query=dict(self.query),
            time=lambda when: formats.show_time(when, self.zone), zone=formats.zone_name(self.zone, self.now()),
            age=self._age, done=DONE.get(self.query.get("done", ""), ""), **values,
        )  # fmt: skip

    def render(self, template: str, status: int = 200, **values: Any) -> web.Response:
        """A page."""
        return web.Response(text=self.text(template, **values), content_type="text/html", charset="utf-8", status=status)

    def _age(self, seconds: float) -> Markup:
        number, unit = formats.age(seconds)
        return Markup("{} {}").format(number, self.t(unit))


VIEW = web.RequestKey("view", View)


def view_of(request: web.Request) -> View:
    """The view that the middleware made."""
    return request[VIEW]


def redirect(path: str) -> web.Response:
    """To a path of this console, read with GET."""
    return web.Response(status=303, headers={"Location": path})


def see(path: str, done: str = "", **values: str) -> web.Response:
    """The redirect after a form was carried out."""
    query = urlencode({**({"done": done} if done else {}), **values})
    return redirect(f"{path}?{query}" if query else path)
