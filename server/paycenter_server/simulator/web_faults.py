"""Faults that concern any HTTP answer: silence, delay, a connection that is cut."""

from __future__ import annotations

import asyncio
import socket
import struct

from aiohttp import web

from paycenter_server.simulator.faults import FaultRule

__all__ = ["STOPPING", "bad_gateway", "hang", "interfere", "origin", "reset"]

STOPPING: web.AppKey[asyncio.Event] = web.AppKey("stopping", asyncio.Event)


async def _pause(request: web.Request, seconds: float) -> None:
    # A server that is stopped must not wait for its own silence.
    try:
        await asyncio.wait_for(request.app[STOPPING].wait(), seconds)
    except TimeoutError:
        return


def reset(request: web.Request) -> web.Response:
    """Cut the connection with a RST; the response returned goes nowhere."""
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


def bad_gateway(fault: str) -> web.Response:
    """What stands before a channel answers for it, in no form of the channel's."""
    reasons = {"http_502": "502 Bad Gateway", "http_503": "503 Service Unavailable"}
    page = f"<html><head><title>{reasons[fault]}</title></head><body><h1>{reasons[fault]}</h1></body></html>".encode()
    return web.Response(status=int(fault[-3:]), body=page, content_type="text/html")


async def hang(request: web.Request, seconds: float) -> web.Response:
    """Say nothing for so long that a client gives up, then cut the connection."""
    await _pause(request, seconds)
    return reset(request)


def origin(request: web.Request) -> str:
    """Where the caller reached us; a Host header that is none does not count."""
    try:
        return str(request.url.origin())
    except ValueError:
        name = request.transport.get_extra_info("sockname") if request.transport else None
        return f"{request.scheme}://127.0.0.1:{name[1]}" if name else f"{request.scheme}://127.0.0.1"


async def interfere(request: web.Request, rule: FaultRule | None, phase: str) -> web.Response | None:
    """Carry out the rule's silence in this phase (`before` or `after` the commit); None means: answer normally."""
    if rule is None:
        return None
    if rule.fault == f"timeout_{phase}_commit":
        return await hang(request, rule.seconds)
    if rule.fault == ("reset_before_commit" if phase == "before" else "reset"):
        return reset(request)
    if rule.fault == "slow" and phase == "after":
        await _pause(request, rule.seconds)
    return None
