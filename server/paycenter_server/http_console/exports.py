"""Export of the lists of orders and refunds: the count before it begins, and the file, which is sent while the rows are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

import structlog
from aiohttp import web

from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.http_console.formats import STATES, zone_name
from paycenter_server.http_console.orders import order_filter
from paycenter_server.http_console.refunds import refund_filter
from paycenter_server.http_console.security import HEADERS
from paycenter_server.http_console.sheets import WRITERS, Cell, RowWriter
from paycenter_server.http_console.view import View, view_of
from paycenter_server.services.exports import COUNTED

log = structlog.get_logger(__name__)
PIECE_SECONDS = 60.0
"""The rows of a page, a quarter of a megabyte, are to be read by then. Who reads more slowly would keep others from exporting."""
Pages = AsyncIterator[Sequence[Any]]

ORDER_HEADS = (
    "Order number", "Created", "Amount", "Paid", "Refunded", "Fee", "Currency", "State", "Merchant's number", "Channel's number",
    "Channel", "Paid at", "Expires", "App", "Subject", "Description", "Payer's IP address", "User of the app",
)  # fmt: skip
REFUND_HEADS = (
    "Refund number", "Created", "Amount", "Paid", "Currency", "State", "Merchant's refund number", "Merchant's order number",
    "Channel's refund number", "out_trade_no", "out_refund_no", "Channel", "Refunded at", "App", "Reason", "Error",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Kind:
    """A list that can be exported. `heads`: the names of the columns, in English."""

    path: str
    name: str
    heads: Sequence[str]
    row: Callable[[View, Any], list[Cell]]
    pages: Callable[[View], Pages]
    count: Callable[[View], Awaitable[tuple[int, bool]]]


def add_routes(app: web.Application) -> None:
    """Serve these pages. They come before the pages of single objects, which have one more part in the same place."""
    for kind in (_ORDERS, _REFUNDS):
        app.router.add_get(f"{kind.path}/export", _asked(kind))
        app.router.add_post(f"{kind.path}/export", _sent(kind))


def _asked(kind: _Kind) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def page(request: web.Request) -> web.StreamResponse:
        """How many rows there will be, and the form that begins."""
        view = view_of(request)
        count, whole = await kind.count(view)
        return view.render("export.html", kind=kind, count=count, whole=whole, counted=COUNTED)

    return page


def _sent(kind: _Kind) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def send(request: web.Request) -> web.StreamResponse:
        """The file. It is a form and not a link, because each export is an act of the audit."""
        view = view_of(request)
        wanted = str((await request.post()).get("format", ""))
        if wanted not in WRITERS:
            raise invalid([Violation("format", "must be csv or xlsx")])
        return await _stream(view, kind, wanted)

    return send


async def _stream(view: View, kind: _Kind, wanted: str) -> web.StreamResponse:
    writer = cast("RowWriter", WRITERS[wanted]())
    headers = {
        **HEADERS, "Cache-Control": "no-store", "Content-Type": writer.content_type,
        "Content-Disposition": f'attachment; filename="{_file_name(view, kind, wanted)}"',
    }  # fmt: skip
    zone = zone_name(view.zone, view.now())
    heads = [f"{view.t(head)} ({zone})" if head in _TIMES else view.t(head) for head in kind.heads]
    async with aclosing(cast("Any", kind.pages(view))) as pages:
        # The first page is read before the answer begins, so that an error of it is still a page.
        first: Sequence[Any] = ()
        with suppress(StopAsyncIteration):
            first = await pages.__anext__()
        response = web.StreamResponse(headers=headers)
        await response.prepare(view.request)
        try:
            await _send(response, writer.begin(heads))
            await _write(response, writer, kind, view, first)
            async for rows in pages:
                await _write(response, writer, kind, view, rows)
            await _send(response, writer.end())
            await response.write_eof()
        except ConnectionError:
            log.info("export_left", path=kind.path)
        except _NotReadError:
            log.info("export_not_read", path=kind.path, seconds=PIECE_SECONDS)
            if view.request.transport is not None:
                view.request.transport.abort()
        except Exception:
            # Another answer cannot be sent any more. The browser must not take what it has for the whole file.
            log.exception("export_failed", path=kind.path)
            if view.request.transport is not None:
                view.request.transport.abort()
    return response


async def _write(response: web.StreamResponse, writer: RowWriter, kind: _Kind, view: View, rows: Sequence[Any]) -> None:
    """One page of rows. Writing and compressing takes tens of milliseconds, so it runs in a thread."""
    piece = await asyncio.to_thread(lambda: writer.rows([kind.row(view, row) for row in rows]))
    if piece:
        await _send(response, piece)


class _NotReadError(Exception):
    """The reader has not taken a piece in time."""


async def _send(response: web.StreamResponse, piece: bytes) -> None:
    try:
        async with asyncio.timeout(PIECE_SECONDS):
            await response.write(piece)
    except TimeoutError:
        raise _NotReadError from None


def _file_name(view: View, kind: _Kind, wanted: str) -> str:
    """With the range of days of the filter, in the viewer's zone."""
    where = order_filter(view).where if kind is _ORDERS else refund_filter(view).where
    start, end = where.create_time_from, where.create_time_to or view.now()
    days = f"{_day(view, start)}-to-{_day(view, end)}" if start is not None else f"until-{_day(view, end)}"
    return f"{kind.name}-{days}.{wanted}"


def _day(view: View, when: datetime) -> str:
    return when.astimezone(view.zone).strftime("%Y-%m-%d")


_TIMES = ("Created", "Paid at", "Expires", "Refunded at")


def _time(view: View, when: datetime | None) -> str:
    return when.astimezone(view.zone).strftime("%Y-%m-%d %H:%M:%S") if when else ""


def _amount(minor: int) -> Decimal:
    return Decimal(minor).scaleb(-2)


def _order(view: View, order: PayOrder) -> list[Cell]:
    state = "PARTLY" if order.state == "REFUND" and order.refunded_amount < order.paid_amount else order.state.value
    return [
        order.number, _time(view, order.create_time), _amount(order.amount), _amount(order.paid_amount),
        _amount(order.refunded_amount), _amount(order.channel_fee_amount), order.currency, view.t(STATES[f"order:{state}"][1]),
        order.merchant_order_id, order.channel_order_no, view.channel(order.channel_code), _time(view, order.success_time),
        _time(view, order.expire_time), order.app_key, order.subject, order.body, order.user_ip, order.user_id,
    ]  # fmt: skip


def _refund(view: View, refund: PayRefund) -> list[Cell]:
    return [
        refund.number, _time(view, refund.create_time), _amount(refund.amount), _amount(refund.total_amount), refund.currency,
        view.t(STATES[f"refund:{refund.state.value}"][1]), refund.merchant_refund_no, refund.merchant_order_id,
        refund.channel_refund_no, refund.out_trade_no, refund.out_refund_no, view.channel(refund.channel_code),
        _time(view, refund.success_time), refund.app_key, refund.reason, refund.error,
    ]  # fmt: skip


def _order_pages(view: View) -> Pages:
    found = order_filter(view)
    return view.parts.exports.orders(view.caller, found.app, found.where)


def _refund_pages(view: View) -> Pages:
    found = refund_filter(view)
    return view.parts.exports.refunds(view.caller, found.app, found.where)


async def _count_orders(view: View) -> tuple[int, bool]:
    found = order_filter(view)
    return await view.parts.exports.count_orders(view.caller, found.app, found.where)


async def _count_refunds(view: View) -> tuple[int, bool]:
    found = refund_filter(view)
    return await view.parts.exports.count_refunds(view.caller, found.app, found.where)


_ORDERS = _Kind("/orders", "orders", ORDER_HEADS, _order, _order_pages, _count_orders)
_REFUNDS = _Kind("/refunds", "refunds", REFUND_HEADS, _refund, _refund_pages, _count_refunds)
