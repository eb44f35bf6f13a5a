"""`POST /paycenter.v1.PayOrderService/CreatePayOrder` and so on: every unary method by the Connect protocol, as JSON or protobuf.

A call passes the checks of the gRPC server: the same credentials, roles, errors and log. Browsers of other sites may call it
only from origins that are configured.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from paycenter_server.connections import FIRST_REQUEST_SECONDS, Connections
from paycenter_server.grpc_server.server import MOST_BYTES, MOST_CONNECTIONS
from paycenter_server.grpc_server.unary import CallError, Unary
from paycenter_server.http_connect.messages import error_json, parse_json, to_json
from paycenter_server.telemetry import usable_id

log = structlog.get_logger(__name__)
MAX_BODY = MOST_BYTES
"""Bytes of a request, as the gRPC server's limit."""
READ_SECONDS = 10.0
_JSON, _PROTO = "application/json", "application/proto"
_MILLISECONDS = re.compile(r"[0-9]{1,10}", re.ASCII)
_ALLOWED_HEADERS = "authorization, content-type, connect-protocol-version, connect-timeout-ms, x-request-id"
_INVALID_ARGUMENT, _RESOURCE_EXHAUSTED, _UNIMPLEMENTED, _UNAVAILABLE = 3, 8, 12, 14
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(unary: Unary, origins: Collection[str] = (), *, read_seconds: float = READ_SECONDS) -> web.Application:
    """`origins`: sites whose pages may call, such as `https://desk.example.com`."""

    async def call(request: web.Request) -> web.Response:
        request_id = usable_id(request.headers.get("X-Request-Id"))
        method = unary.methods.get(request.path)
        if method is None:
            return _refusal(request_id, _UNIMPLEMENTED, f"There is no method {request.path[:200]}.")
        if request.content_type not in (_JSON, _PROTO):
            return web.Response(status=415, headers={"Accept-Post": f"{_JSON}, {_PROTO}"})
        if request.headers.get("Connect-Protocol-Version", "1") != "1":
            return _refusal(request_id, _INVALID_ARGUMENT, "connect-protocol-version must be 1.")
        if request.headers.get("Content-Encoding", "identity") != "identity":
            return _refusal(
                request_id, _UNIMPLEMENTED, "Send the body without compression: the supported content-encoding is identity."
            )
        given = request.headers.get("Connect-Timeout-Ms")
        if given is not None and not _MILLISECONDS.fullmatch(given):
            return _refusal(
                request_id, _INVALID_ARGUMENT, "connect-timeout-ms must be a number of milliseconds of at most 10 digits."
            )
        try:
            async with asyncio.timeout(read_seconds):
                raw = await request.read()
        except TimeoutError:
            return _refusal(request_id, _UNAVAILABLE, "The body did not arrive in time.")
        except web.HTTPRequestEntityTooLarge:
            return _refusal(request_id, _RESOURCE_EXHAUSTED, f"The body is larger than {MAX_BODY} bytes.")
        parse: Callable[[bytes], Message] = method.request.FromString
        render: Callable[[Any], bytes] = method.response.SerializeToString
        content_type = _PROTO
        if request.content_type == _JSON:
            parse, render, content_type = partial(parse_json, method.request), to_json, _JSON
        try:
            body = await unary.call(
                method, raw, parse, render,
                metadata={name.lower(): value for name, value in request.headers.items()} | {"x-request-id": request_id},
                peer=_peer(request), timeout=None if given is None else int(given) / 1000,
            )  # fmt: skip
        except CallError as error:
            return _failed(error.status)
        return web.Response(body=body, content_type=content_type)

    @web.middleware
    async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is not None and origin in origins and request.method == "OPTIONS":
            answer: web.StreamResponse = web.Response(status=204)
            answer.headers["Access-Control-Allow-Methods"] = "POST"
            answer.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
            answer.headers["Access-Control-Max-Age"] = "7200"
        else:
            answer = await handler(request)
        if origin is not None and origin in origins:
            answer.headers["Access-Control-Allow-Origin"] = origin
            answer.headers["Access-Control-Expose-Headers"] = "retry-after"
        answer.headers["Vary"] = "Origin"
        answer.headers["Cache-Control"] = "no-store"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    app = web.Application(client_max_size=MAX_BODY, middlewares=[guard])
    app.router.add_post("/{service}/{method}", call)
    return app


def _refusal(request_id: str, code: int, message: str) -> web.Response:
    """What is wrong with the HTTP request, before any method: it has no reason of PayCenter, but its request id."""
    status = Status(code=code, message=message)
    status.details.add().Pack(RequestInfo(request_id=request_id))
    return _failed(status)


def _failed(status: Status) -> web.Response:
    http_status, body = error_json(status)
    answer = web.Response(status=http_status, body=body, content_type=_JSON)
    for detail in status.details:
        retry = RetryInfo()
        if detail.Unpack(retry):
            answer.headers["Retry-After"] = str(math.ceil(retry.retry_delay.ToMilliseconds() / 1000))
    return answer


def _peer(request: web.Request) -> str:
    """As gRPC writes it: `ipv4:127.0.0.1:54321`."""
    name = request.transport.get_extra_info("peername") if request.transport is not None else None
    if not name:
        return ""
    return f"ipv6:[{name[0]}]:{name[1]}" if ":" in name[0] else f"ipv4:{name[0]}:{name[1]}"


@asynccontextmanager
async def served(
    unary: Unary,
    host: str,
    port: int,
    origins: Collection[str],
    certificate: Path | None,
    key: Path | None,
    *,
    read_seconds: float = READ_SECONDS,
    shared_port: bool = False,
    connections: Connections | None = None,
) -> AsyncIterator[int]:
    """Serve within the block; the bound port. Calls that run at its end get 10 seconds. With the two PEM files it is https.

    `connections`: at most so many, so that they do not use up the file descriptors of the gRPC server.
    `shared_port`: other processes of the same `serve` listen on the port too.
    """
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
    table = Connections(MOST_CONNECTIONS) if connections is None else connections
    app = create_app(unary, origins, read_seconds=read_seconds)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=10, auto_decompress=False)
    handshake = FIRST_REQUEST_SECONDS if context else None
    async with table.listening(
        runner, host, port, ssl=context, reuse_port=shared_port or None, ssl_handshake_timeout=handshake
    ) as bound:
        log.info("connect_listening", port=bound)
        yield bound
