"""`POST /callback/order/{channel_id}`, `POST /callback/refund/{channel_id}`, `GET /healthz`, `GET /readyz`.

`/notify/order/…` and `/notify/refund/…` are aliases, for operators who keep the addresses of the reference system.

The raw body goes to the codec untouched. Bodies are limited to 64 KiB and reading to 5 seconds. The answer comes within 4.5
seconds of the body, because WeChat Pay waits for 5: what is not stored by then is to be sent again.
"""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import web

from paycenter_server.channels.protocol import CallbackRequest
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.services.callbacks import UNAVAILABLE, Callbacks
from paycenter_server.services.health import Health
from paycenter_server.storage.database import retryable_error

log = structlog.get_logger(__name__)
MAX_BODY = 64 * 1024
READ_SECONDS = 5.0
ANSWER_SECONDS = 4.5
_LINGER_SECONDS = 1.0


def create_app(
    callbacks: Callbacks, health: Health, *, read_seconds: float = READ_SECONDS, answer_seconds: float = ANSWER_SECONDS
) -> web.Application:
    """The sidecar."""

    async def callback(request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(read_seconds):
                body = await request.read()
        except TimeoutError:
            return web.Response(status=408, text="the body did not arrive in time")
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            callback_request = CallbackRequest(headers, body, request.rel_url.raw_query_string)
            async with asyncio.timeout(answer_seconds):
                answer = await callbacks.receive(request.match_info["channel_id"], callback_request)
        except PayCenterError as error:
            log.error("callback_not_handled", reason=error.reason.value, why=error.message)
            answer = UNAVAILABLE
        except Exception as error:
            # The callback is not stored, and the channel must send it again.
            if (known := retryable_error(error)) is not None:
                log.warning("callback_not_handled", reason=known.reason.value, why=f"{type(error).__name__}: {error}"[:300])
            else:
                log.exception("callback_not_handled")
            answer = UNAVAILABLE
        content_type = answer.content_type if answer.body else None
        return web.Response(status=answer.status, body=answer.body or None, content_type=content_type)

    async def alive(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def ready(request: web.Request) -> web.Response:
        report = await health.check()
        return web.Response(status=200 if report.ready else 503, text=report.text)

    app = web.Application(client_max_size=MAX_BODY)
    for path in ("callback", "notify"):
        app.router.add_post(f"/{path}/order/{{channel_id}}", callback)
        app.router.add_post(f"/{path}/refund/{{channel_id}}", callback)
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    return app


async def serve(app: web.Application, host: str, port: int, stop: asyncio.Event) -> None:
    """Until `stop`; requests that are being handled get 10 seconds to end."""
    # After a refusal the rest of a body is read for a second, not for aiohttp's ten.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=10, keepalive_timeout=30, lingering_time=_LINGER_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        log.info("callback_listening", address=f"{host}:{port}")
        await stop.wait()
    finally:
        await runner.cleanup()
