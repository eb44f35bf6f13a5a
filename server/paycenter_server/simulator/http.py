"""HTTP parts that all channels share: addresses, log entries, and faults that affect the connection."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from urllib.parse import quote

from aiohttp import http, web

from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.state import STATE
from paycenter_server.simulator.trades import Trade
from paycenter_server.simulator.wire_log import Exchange, WireLog

__all__ = [
    "STOPPING",
    "MalformedRequestFilter",
    "apply_connection_fault",
    "base_url",
    "gateway_error",
    "log_answer",
    "log_request",
    "origin",
    "trade_path",
]

STOPPING: web.AppKey[asyncio.Event] = web.AppKey("stopping", asyncio.Event)
"""Set when the server stops, so that no delayed answer blocks the shutdown."""


class MalformedRequestFilter(logging.Filter):
    """Log filter for `aiohttp.server`: a malformed HTTP request is a warning in one line, without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true, because the record is only changed."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, (http.HttpProcessingError, web.RequestPayloadError, ConnectionError)):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.msg, record.args = "malformed HTTP request: %s", (" ".join(str(error).split())[:200],)
            record.exc_info = record.exc_text = None
        return True


def origin(request: web.Request) -> str:
    """The scheme, host and port of the request. An invalid Host header is ignored."""
    try:
        return str(request.url.origin())
    except ValueError:
        name = request.transport.get_extra_info("sockname") if request.transport else None
        return f"{request.scheme}://127.0.0.1:{name[1]}" if name else f"{request.scheme}://127.0.0.1"


def base_url(request: web.Request) -> str:
    """The public address of the simulator."""
    return request.app[STATE].config.base_url.rstrip("/") or origin(request)


def trade_path(page: str, trade: Trade) -> str:
    """Path of a page (`cashier`, `trades`) of a trade. It names the protocol, because both channels may know the same number."""
    return f"/{page}/{quote(trade.number, safe='')}?protocol={trade.protocol}"


def log_request(request: web.Request, protocol: str, api: str, number: str, raw: bytes) -> Exchange:
    """Add a request of the merchant to the log."""
    simulator = request.app[STATE]
    entry = simulator.log.add(simulator.clock.now(), "in", protocol, api, number, request.method, request.raw_path)
    entry.request_headers, entry.request_body = WireLog.headers(request.headers), WireLog.text(raw)
    return entry


def log_answer(entry: Exchange, response: web.Response) -> web.Response:
    """Add the answer to the log entry; returns the answer."""
    entry.set_answer(response.status, response.headers, response.body if isinstance(response.body, bytes) else b"")
    return response


async def _pause(request: web.Request, seconds: float) -> None:
    try:
        await asyncio.wait_for(request.app[STOPPING].wait(), seconds)
    except TimeoutError:
        return


def _reset_connection(request: web.Request) -> web.Response:
    """Close the connection with a RST. The returned response is not sent."""
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


def gateway_error(fault: str) -> web.Response:
    """The 502 or 503 page of a proxy in front of the channel, which does not have the channel's format."""
    reasons = {"http_502": "502 Bad Gateway", "http_503": "503 Service Unavailable"}
    page = f"<html><head><title>{reasons[fault]}</title></head><body><h1>{reasons[fault]}</h1></body></html>".encode()
    return web.Response(status=int(fault[-3:]), body=page, content_type="text/html")


async def apply_connection_fault(request: web.Request, rule: FaultRule | None, phase: str) -> web.Response | None:
    """Apply the rule's timeout, reset or delay in this phase (`before` or `after` the commit). None: continue normally."""
    if rule is None:
        return None
    if rule.fault == f"timeout_{phase}_commit":
        await _pause(request, rule.seconds)
        return _reset_connection(request)
    if rule.fault == ("reset_before_commit" if phase == "before" else "reset"):
        return _reset_connection(request)
    if rule.fault == "slow" and phase == "after":
        await _pause(request, rule.seconds)
    return None
