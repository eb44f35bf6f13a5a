"""`paycenter merchant`: an example of a service that is notified. It verifies, remembers and shows what it was told."""

from __future__ import annotations

import asyncio
import html
import json
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import click
from paycenter.notifications import NotificationError, NotificationVerifier

from paycenter_server.local.datadir import default_data_dir

KEPT = 200
_LARGEST_BODY = 1 << 20
_SHOWN_BODY = 16_384
_SIGNED_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")

_Stamp: TypeAlias = tuple[int, int, int]


@dataclass(slots=True)
class DeliveryResponse:
    """One notification. `refusal` is empty when it was verified; `deliveries` counts how often it came."""

    id: str
    type: str
    path: str
    refusal: str
    received: datetime
    data: dict[str, Any]
    headers: dict[str, str]
    body: str
    deliveries: int = 1

    def document(self) -> dict[str, Any]:
        """As JSON for scripts. `headers` and `body` are what a verifier needs."""
        return {
            "id": self.id,
            "type": self.type,
            "path": self.path,
            "verified": not self.refusal,
            "refusal": self.refusal,
            "received": self.received.isoformat(),
            "deliveries": self.deliveries,
            "data": self.data,
            "headers": self.headers,
            "body": self.body,
        }


class Inbox:
    """The last 200 notifications, in memory. The same id that verified before is counted, not kept twice."""

    def __init__(self) -> None:
        self._kept: deque[DeliveryResponse] = deque()
        self._verified: dict[str, DeliveryResponse] = {}

    def add(self, new: DeliveryResponse) -> None:
        """Remember one."""
        known = self._verified.get(new.id) if not new.refusal else None
        if known is not None:
            known.deliveries += 1
            return
        self._kept.append(new)
        if not new.refusal:
            self._verified[new.id] = new
        if len(self._kept) > KEPT:
            oldest = self._kept.popleft()
            if self._verified.get(oldest.id) is oldest:
                del self._verified[oldest.id]

    def newest(self, type: str = "", merchant_order_id: str = "") -> list[DeliveryResponse]:
        """Newest first; empty filters let everything through."""
        return [
            one
            for one in reversed(self._kept)
            if (not type or one.type == type) and (not merchant_order_id or one.data.get("merchant_order_id") == merchant_order_id)
        ]


class Verifiers:
    """The verifier for the secret in dev.json, made anew when the file changes. The file may appear later."""

    def __init__(self, data_file: Path) -> None:
        self._file = data_file
        self._stamp: _Stamp | None = None
        self._verifier: NotificationVerifier | None = None

    def current(self) -> NotificationVerifier | None:
        """None while there is no usable file."""
        try:
            status = self._file.stat()
        except OSError:
            return self._verifier
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            try:
                secret = json.loads(self._file.read_text())["app"]["notification_secret"]
                self._verifier, self._stamp = NotificationVerifier(secret), stamp
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                # Being written, or not ours: what worked before goes on working, and the next request looks again.
                return self._verifier
        return self._verifier


class Merchant:
    """The handlers, free of the web framework but for bytes and headers."""

    def __init__(self, verifiers: Verifiers, now: Callable[[], datetime]) -> None:
        self.inbox = Inbox()
        self._verifiers = verifiers
        self._now = now

    def notified(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
        """HTTP status and answer: 200 when verified, 401 when not, 503 while the secret is not known."""
        verifier = self._verifiers.current()
        if verifier is None:
            return 503, {"code": 503, "message": "The webhook secret is not known yet; send it again."}
        lower = {name.lower(): value for name, value in headers.items()}
        kept = {name: lower[name] for name in _SIGNED_HEADERS if name in lower}
        text = body.decode("utf-8", "replace")
        now = self._now()
        try:
            told = verifier.verify(headers, body, now=now)
        except NotificationError as error:
            refused = DeliveryResponse(kept.get("webhook-id", "")[:64], "", path, str(error), now, {}, kept, text[:_SHOWN_BODY])
            self.inbox.add(refused)
            return 401, {"code": 401, "message": str(error)}
        self.inbox.add(DeliveryResponse(told.id, told.type, path, "", now, told.data, kept, text))
        # A 2xx is enough for PayCenter; `code` is for apps that ask for that rule.
        return 200, {"code": 0}


def page(received: list[DeliveryResponse]) -> str:
    """What was received, as HTML that refreshes itself."""
    cards = (
        "".join(_card(one) for one in received)
        or '<p class="none">Nothing yet. <code>paycenter demo --running</code> makes some.</p>'
    )
    return _PAGE.replace("{cards}", cards)


def _card(one: DeliveryResponse) -> str:
    verdict = "refused" if one.refusal else "verified"
    again = f" &middot; came {one.deliveries} times" if one.deliveries > 1 else ""
    payload = html.escape(_pretty(one.body))
    why = f'<p class="why">{html.escape(one.refusal)}</p>' if one.refusal else ""
    return (
        f'<article class="{verdict}"><h2>{html.escape(one.type or "?")} <span>{verdict}</span></h2>'
        f"<p>{one.received:%H:%M:%S} UTC &middot; {html.escape(one.path)} &middot; {html.escape(one.id or 'no id')}{again}</p>"
        f"{why}<pre>{payload}</pre></article>"
    )


def _pretty(body: str) -> str:
    try:
        return json.dumps(json.loads(body), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return body


@click.command("merchant")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8902, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
@click.option(
    "--data-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=lambda: default_data_dir() / "dev.json",
    show_default="dev.json in PAYCENTER_DATA_DIR or ./.paycenter",
    help="dev.json, which holds the webhook secret.",
)
def command(host: str, port: int, data_file: Path) -> None:
    """Run the demo merchant: it receives, verifies and shows notifications. For development."""
    try:
        asyncio.run(_serve(host, port, data_file))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


async def _serve(host: str, port: int, data_file: Path) -> None:
    from aiohttp import web

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(create_app(data_file), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        click.echo(f"Demo merchant at http://{host}:{runner.addresses[0][1]}/")
        await stop.wait()
    finally:
        await runner.cleanup()


def create_app(data_file: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Any:
    """The `aiohttp.web.Application`."""
    from aiohttp import web

    merchant = Merchant(Verifiers(data_file), now)

    async def notified(request: web.Request) -> web.Response:
        status, answer = merchant.notified(request.path, dict(request.headers), await request.read())
        return web.json_response(answer, status=status)

    async def show(request: web.Request) -> web.Response:
        del request
        return web.Response(text=page(merchant.inbox.newest()), content_type="text/html", headers={"Cache-Control": "no-store"})

    async def listed(request: web.Request) -> web.Response:
        query = request.query
        found = merchant.inbox.newest(query.get("type", ""), query.get("merchant_order_id", ""))
        return web.json_response({"notifications": [one.document() for one in found]})

    async def health(request: web.Request) -> web.Response:
        del request
        return web.Response(text="ok")

    app = web.Application(client_max_size=_LARGEST_BODY)
    app.router.add_post("/notifications/order", notified)
    app.router.add_post("/notifications/refund", notified)
    app.router.add_get("/", show)
    app.router.add_get("/notifications", listed)
    app.router.add_get("/healthz", health)
    return app


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Demo merchant</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.25rem; margin: 0; } h1 + p { margin: 0 0 1rem; opacity: .75; }
article { border: 1px solid #8884; border-left: .35rem solid #2a8a4a; border-radius: .4rem; }
article { padding: .6rem .9rem; margin: 0 0 .8rem; }
article.refused { border-left-color: #c0392b; }
h2 { font-size: 1rem; margin: 0; display: flex; justify-content: space-between; gap: 1rem; overflow-wrap: anywhere; }
h2 span { font-weight: 600; color: #2a8a4a; } .refused h2 span, .why { color: #c0392b; }
article p { margin: .1rem 0; font-size: .85rem; opacity: .85; overflow-wrap: anywhere; }
pre { margin: .4rem 0 0; font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.none { opacity: .75; }
</style></head><body>
<h1>Demo merchant</h1><p>What PayCenter told this shop, newest first. The signature of each was checked.</p>
{cards}
</body></html>
"""
