"""The pages: the list of trades, one trade with its wire log, and the cashier for the payer's actions."""

from __future__ import annotations

import datetime
import functools
import io
import itertools
import json
import re
from typing import Any
from urllib.parse import urlencode

import jinja2
import segno
from aiohttp import web

from paycenter_server.simulator import actions
from paycenter_server.simulator.clock import CHINA, rfc3339
from paycenter_server.simulator.control import trade_document
from paycenter_server.simulator.faults import AFTER, APIS, BEFORE, DOMAIN, FAULTS, NOTIFY, places
from paycenter_server.simulator.http import base_url, trade_path
from paycenter_server.simulator.inputs import read_json
from paycenter_server.simulator.keys import public_settings
from paycenter_server.simulator.pages import assets
from paycenter_server.simulator.state import STATE
from paycenter_server.simulator.trades import ALIPAY, WECHATPAY_V3, Trade
from paycenter_server.simulator.wire_log import MAX_PER_TRADE

__all__ = ["add_routes", "cashier_page", "error_page", "refusal_page", "trade_or_page"]

_TRADES_PER_PAGE = 50
_EXCHANGES_SHOWN = 50
_CHANNELS = {WECHATPAY_V3: "WeChat Pay", ALIPAY: "Alipay"}
_FAULT_GROUPS = {"Operation not executed": BEFORE, "Operation executed": AFTER, "One operation": DOMAIN, "Notifications": NOTIFY}
# Without scripts and external content, nothing that a merchant sends is executed.
_POLICY = "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'"


def add_routes(app: web.Application) -> None:
    """Serve the pages. Their forms are in the module forms."""
    app.router.add_get("/", _index)
    app.router.add_get("/trades/{out_trade_no}", _trade)
    app.router.add_get("/cashier", _by_code)
    app.router.add_get("/cashier/{out_trade_no}", _cashier)
    app.router.add_get("/qr/{out_trade_no}.svg", _qr)
    assets.add_routes(app)


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("paycenter_server.simulator.pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["yuan"] = lambda fen: f"{fen // 100:,}.{fen % 100:02d}"
    environment.filters["moment"] = lambda value: datetime.datetime.fromtimestamp(value, CHINA).strftime("%m-%d %H:%M:%S")
    environment.filters["pretty"] = _pretty
    environment.filters["seconds"] = lambda value: f"{value:g}"
    return environment


def _pretty(text: str) -> str:
    if text.startswith("<xml>"):
        return re.sub(r"(</\w+>|<xml>)\s*(?=<)", r"\1\n", text)
    try:
        return json.dumps(read_json(text), ensure_ascii=False, indent=2)
    except ValueError:
        return text


def _html(name: str, status: int = 200, **values: Any) -> web.Response:
    text = _templates().get_template(name).render(**values)
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    # A request can contain bytes that are not text; they are shown escaped.
    body = text.encode("utf-8", "backslashreplace")
    return web.Response(body=body, status=status, content_type="text/html", charset="utf-8", headers=headers)


def error_page(status: int, text: str, code: str = "") -> web.Response:
    """A page with an error message and a link to the list."""
    return _html("error.html", status, code=code, text=text, home=True)


def refusal_page(code: str, text: str) -> web.Response:
    """The page for a buyer if the merchant's request is refused."""
    return _html("error.html", code=code, text=text, home=False)


def trade_or_page(request: web.Request) -> Trade | web.Response:
    """The trade of the path, or a 404 page. `?protocol=` selects the channel if both know the number."""
    number = request.match_info["out_trade_no"]
    trade = request.app[STATE].trades.find(number, request.query.get("protocol", ""))
    return trade if trade is not None else error_page(404, f"There is no trade {number[:64]}.")


def _trade_values(request: web.Request, trade: Trade) -> dict[str, Any]:
    document = trade_document(request.app[STATE], trade, base_url(request))
    return document | {
        "channel": _CHANNELS[trade.protocol],
        "page": trade_path("trades", trade),
        "cashier": trade_path("cashier", trade),
        "qr": trade_path("qr", trade).replace("?", ".svg?"),
    }


_API_PREFIX = {WECHATPAY_V3: "wx", ALIPAY: "alipay"}


def _fault_values() -> dict[str, Any]:
    return {"fault_groups": _FAULT_GROUPS, "fault_places": {fault: places(fault) for fault in FAULTS}, "apis": APIS}


def _contains(trade: Trade, search: str) -> bool:
    numbers = (trade.number, trade.transaction_id, *(refund.number for refund in trade.refunds))
    return search == trade.code or any(search in number for number in numbers)


async def _index(request: web.Request) -> web.Response:
    simulator, search = request.app[STATE], request.query.get("q", "").strip()
    page_text = request.query.get("page", "")
    page = int(page_text) if re.fullmatch(r"[0-9]{1,6}", page_text) else 0
    first = page * _TRADES_PER_PAGE
    found = (trade for trade in simulator.trades.newest() if not search or _contains(trade, search))
    chosen = list(itertools.islice(found, first, first + _TRADES_PER_PAGE + 1))
    log = simulator.log
    return _html(
        "index.html",
        trades=[_trade_values(request, trade) for trade in chosen[:_TRADES_PER_PAGE]],
        search=search,
        newer=f"/?{urlencode({'q': search, 'page': page - 1})}" if page else "",
        older=f"/?{urlencode({'q': search, 'page': page + 1})}" if len(chosen) > _TRADES_PER_PAGE else "",
        exchanges=list(itertools.islice(log.newest(), _EXCHANGES_SHOWN)),
        rules=simulator.faults.documents(),
        **_fault_values(),
        clock=rfc3339(simulator.clock.now()),
        offset=round(simulator.clock.offset),
        rotation=simulator.rotation.document(),
        settings=simulator.settings.document(),
        keys=public_settings(simulator.keys),
        keys_dir=str(simulator.keys.directory),
        base_url=base_url(request),
        problem=request.query.get("problem", ""),
    )


def _matches(rule: dict[str, Any], trade: Trade) -> bool:
    """Whether a fault rule can match calls of this trade."""
    family = "alipay." if trade.protocol == ALIPAY else "wx"
    return rule["api"].startswith((family, "notify", "*")) and rule["out_trade_no"] in (
        "",
        trade.number,
        *(refund.number for refund in trade.refunds),
    )


async def _trade(request: web.Request) -> web.Response:
    trade = trade_or_page(request)
    if isinstance(trade, web.Response):
        return trade
    simulator = request.app[STATE]
    return _html(
        "trade.html",
        trade=_trade_values(request, trade),
        exchanges=list(simulator.log.newest(trade.number, trade.protocol)),
        dropped=simulator.log.dropped(trade.number, trade.protocol),
        kept=MAX_PER_TRADE,
        rules=[rule for rule in simulator.faults.documents() if _matches(rule, trade)],
        trade_apis=[api for api in APIS if api.startswith(_API_PREFIX[trade.protocol]) or api in ("notify", "*")],
        **_fault_values(),
        problem=request.query.get("problem", ""),
    )


async def _by_code(request: web.Request) -> web.Response:
    """`/cashier?code=weixin://…`: redirects to the cashier of the trade with this QR code."""
    code = request.query.get("code", "")
    trade = request.app[STATE].trades.by_code(code) if code else None
    if trade is None:
        return error_page(404, "No trade has this code.")
    raise web.HTTPSeeOther(trade_path("cashier", trade))


async def _cashier(request: web.Request) -> web.Response:
    trade = trade_or_page(request)
    if isinstance(trade, web.Response):
        return trade
    actions.scan(request.app[STATE], trade)
    return cashier_page(request, trade, request.query.get("problem", ""))


def cashier_page(request: web.Request, trade: Trade, problem: str = "") -> web.Response:
    """The cashier, which is also the answer to alipay.trade.page.pay."""
    simulator = request.app[STATE]
    back = simulator.channel(trade).return_url(trade) if trade.paid else ""
    return _html(
        "cashier.html",
        trade=_trade_values(request, trade),
        wechat=trade.protocol == WECHATPAY_V3,
        refund_notify_url=simulator.settings.refund_notify_url,
        back=back,
        quit="" if trade.paid else trade.quit_url,
        problem=problem,
    )


async def _qr(request: web.Request) -> web.Response:
    trade = trade_or_page(request)
    if isinstance(trade, web.Response):
        return trade
    stream = io.BytesIO()
    segno.make_qr(base_url(request) + trade_path("cashier", trade)).save(stream, kind="svg", scale=4, border=2)
    return web.Response(body=stream.getvalue(), content_type="image/svg+xml")
