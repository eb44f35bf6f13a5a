"""`POST /callback/order/{channel_id}`, `POST /callback/refund/{channel_id}`, `GET /healthz`, `GET /readyz`.

`/notify/order/…` and `/notify/refund/…` are aliases, for operators who keep the addresses of the reference system.

The raw body goes to the codec untouched. Bodies are limited to 64 KiB and reading to 5 seconds. The answer comes within 4.5
seconds of the body, because WeChat Pay waits for 5: what is not stored by then is to be sent again.
"""

from __future__ import annotations

import asyncio
import zlib

import structlog
from aiohttp import web

from paycenter_server.channels.protocol import CallbackRequest
from paycenter_server.connections import KEEPALIVE_SECONDS, Connections, connection_limit
from paycenter_server.deadlines import Deadlines
from paycenter_server.descriptors import raise_descriptor_limit
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.services.callbacks import UNAVAILABLE, Callbacks
from paycenter_server.services.health import Health
from paycenter_server.storage.database import retryable_error
from paycenter_server.telemetry import begin_request

log = structlog.get_logger(__name__)
MAX_BODY = 64 * 1024
READ_SECONDS = 5.0
ANSWER_SECONDS = 4.5
_LINGER_SECONDS = 1.0


class BodyError(Exception):
    """A compressed body that cannot be read. `status`: for the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def decompressed(body: bytes, encoding: str) -> bytes:
    """The body behind a Content-Encoding, of 64 KiB at most. aiohttp takes a body that ends too early for a whole one."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in ("gzip", "deflate"):
        raise BodyError(415, "the content-encoding must be gzip, deflate or none")
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        unpacked = unpacker.decompress(body, MAX_BODY + 1)
    except zlib.error:
        raise BodyError(400, f"the body is not {name}") from None
    if len(unpacked) > MAX_BODY:
        raise BodyError(413, "the body is larger than 64 KiB")
    if not unpacker.eof or unpacker.unused_data:
        raise BodyError(400, f"the body is not one whole {name} stream")
    return unpacked


def _refusal(status: int, text: str) -> web.Response:
    """An answer after which the connection is closed: the rest of the body cannot be read."""
    response = web.Response(status=status, text=text)
    response.force_close()
    return response


class _Handler:
    """Answers callbacks."""

    def __init__(self, callbacks: Callbacks, read_seconds: float, answer_seconds: float) -> None:
        self._callbacks = callbacks
        self._read_seconds = read_seconds
        self._answers = Deadlines(answer_seconds)

    async def answer(self, request: web.Request) -> web.Response:
        begin_request(request.headers.get("x-request-id"), request.remote or "")
        try:
            if request.content.is_eof():  # usually: it came with the head, so there is nothing to wait for
                body = await request.read()
            else:
                async with asyncio.timeout(self._read_seconds):
                    body = await request.read()
            body = decompressed(body, request.headers.get("content-encoding", ""))
        except TimeoutError:
            return web.Response(status=408, text="the body did not arrive in time")
        except web.RequestPayloadError:
            return _refusal(400, "the body is not what its headers say")
        except BodyError as error:
            return _refusal(error.status, str(error))
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            callback_request = CallbackRequest(headers, body, request.rel_url.raw_query_string)
            with self._answers.next(request.task):
                answer = await self._callbacks.receive(request.match_info["channel_id"], callback_request)
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


def create_app(
    callbacks: Callbacks, health: Health, *, read_seconds: float = READ_SECONDS, answer_seconds: float = ANSWER_SECONDS
) -> web.Application:
    """The application of the sidecar."""

    async def alive(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def ready(request: web.Request) -> web.Response:
        report = await health.check()
        return web.Response(status=200 if report.ready else 503, text=report.text)

    app = web.Application(client_max_size=MAX_BODY)
    handler = _Handler(callbacks, read_seconds, answer_seconds)
    for path in ("callback", "notify"):
        app.router.add_post(f"/{path}/order/{{channel_id}}", handler.answer)
        app.router.add_post(f"/{path}/refund/{{channel_id}}", handler.answer)
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    return app


def create_runner(app: web.Application) -> web.AppRunner:
    """With the sidecar's limits. Bodies come as they were sent."""
    # After a refusal the rest of a body is read for a second, not for aiohttp's ten.
    return web.AppRunner(
        app, access_log=None, shutdown_timeout=10, keepalive_timeout=KEEPALIVE_SECONDS, lingering_time=_LINGER_SECONDS,
        auto_decompress=False,
    )  # fmt: skip


async def serve(app: web.Application, host: str, port: int, stop: asyncio.Event, *, connections: Connections | None = None) -> None:
    """Serve until `stop`. Requests that have begun get 10 seconds to end."""
    table = Connections(connection_limit(raise_descriptor_limit())) if connections is None else connections
    async with table.listening(create_runner(app), host, port):
        log.info("callback_listening", address=f"{host}:{port}", max_connections=table.limit)
        await stop.wait()
