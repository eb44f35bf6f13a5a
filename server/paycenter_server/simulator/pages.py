"""The pages for people: the list of trades, one trade with its wire log, and the cashier where the payer is played."""

from __future__ import annotations

import datetime
import functools
import io
import json
import re
from collections.abc import Mapping
from typing import Any

import jinja2
import segno
from aiohttp import web

from paycenter_server.simulator import actions
from paycenter_server.simulator.actions import PayOptions
from paycenter_server.simulator.alipay_notices import return_address
from paycenter_server.simulator.clock import CHINA, rfc3339
from paycenter_server.simulator.control import base_url, trade_of
from paycenter_server.simulator.faults import APIS, FAULTS, InvalidFaultError
from paycenter_server.simulator.keys import public_settings
from paycenter_server.simulator.ledger import NotPayableError
from paycenter_server.simulator.model import ALIPAY, WECHATPAY_V3, Trade
from paycenter_server.simulator.state import STATE

__all__ = ["add_routes", "alipay_error_page", "cashier_page"]

_TRADES_SHOWN = 200
_EXCHANGES_SHOWN = 50
_CHANNELS = {WECHATPAY_V3: "WeChat Pay", ALIPAY: "Alipay"}
# No script, no foreign content: what merchants send is shown, never run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'"


def add_routes(app: web.Application) -> None:
    """Serve the pages."""
    app.router.add_get("/", _index)
    app.router.add_get("/trades/{out_trade_no}", _trade)
    app.router.add_get("/cashier", _by_code)
    app.router.add_get("/cashier/{out_trade_no}", _cashier)
    app.router.add_post("/cashier/{out_trade_no}/{action}", _act)
    app.router.add_get("/qr/{out_trade_no}.svg", _qr)
    app.router.add_post("/faults", _faults)
    app.router.add_post("/clock", _clock)


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("paycenter_server.simulator"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["yuan"] = lambda fen: f"{fen // 100:,}.{fen % 100:02d}"
    environment.filters["moment"] = lambda value: datetime.datetime.fromtimestamp(value, CHINA).strftime("%m-%d %H:%M:%S")
    environment.filters["pretty"] = _pretty
    return environment


def _pretty(text: str) -> str:
    if text.startswith("<xml>"):
        return re.sub(r"(</\w+>|<xml>)\s*(?=<)", r"\1\n", text)
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    except ValueError:
        return text


def _html(name: str, status: int = 200, **values: Any) -> web.Response:
    text = _templates().get_template(name).render(**values)
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(text=text, status=status, content_type="text/html", headers=headers)


def _shown(request: web.Request, trade: Trade) -> dict[str, Any]:
    document = actions.trade_document(request.app[STATE], trade, base_url(request))
    return document | {"channel": _CHANNELS[trade.protocol]}


async def _index(request: web.Request) -> web.Response:
    simulator = request.app[STATE]
    trades = [_shown(request, trade) for trade, _ in zip(simulator.ledger.newest(), range(_TRADES_SHOWN), strict=False)]
    exchanges = [entry for entry, _ in zip(simulator.log.newest(), range(_EXCHANGES_SHOWN), strict=False)]
    return _html(
        "index.html",
        trades=trades,
        exchanges=exchanges,
        rules=simulator.faults.documents(),
        faults=FAULTS,
        apis=APIS,
        clock=rfc3339(simulator.clock.now()),
        offset=round(simulator.clock.offset),
        keys=public_settings(simulator.keys),
        keys_dir=str(simulator.keys.directory),
        base_url=base_url(request),
        problem=request.query.get("problem", ""),
    )


async def _trade(request: web.Request) -> web.Response:
    trade = trade_of(request)
    simulator = request.app[STATE]
    return _html(
        "trade.html",
        trade=_shown(request, trade),
        exchanges=list(simulator.log.newest(trade.number)),
        rules=[rule for rule in simulator.faults.documents() if rule["out_trade_no"] in ("", trade.number)],
        faults=FAULTS,
        apis=APIS,
        problem=request.query.get("problem", ""),
    )


async def _by_code(request: web.Request) -> web.Response:
    """`/cashier?code=weixin://…`: the cashier behind a QR code's text, which no phone could open here."""
    trade = request.app[STATE].ledger.by_code(request.query.get("code", ""))
    if trade is None:
        raise web.HTTPNotFound(text="no trade has this code")
    raise web.HTTPSeeOther(f"/cashier/{trade.number}")


async def _cashier(request: web.Request) -> web.Response:
    trade = trade_of(request)
    actions.scan(request.app[STATE], trade)
    return cashier_page(request, trade, request.query.get("problem", ""))


def cashier_page(request: web.Request, trade: Trade, problem: str = "") -> web.Response:
    """What the payer sees; also the answer of alipay.trade.page.pay."""
    simulator = request.app[STATE]
    back = return_address(simulator.keys, simulator.clock, trade) if trade.paid else ""
    return _html(
        "cashier.html", trade=_shown(request, trade), back=back, quit="" if trade.paid else trade.quit_url, problem=problem
    )


def alipay_error_page(code: str, text: str) -> web.Response:
    """What a buyer sees when the merchant's page request is refused."""
    return _html("error.html", code=code, text=text)


async def _act(request: web.Request) -> web.Response:
    simulator, trade = request.app[STATE], trade_of(request)
    form = await request.post()
    target = f"/{'trades' if form.get('from') == 'trade' else 'cashier'}/{trade.number}"
    try:
        actions.expire_if_due(simulator, trade)
        match request.match_info["action"]:
            case "pay":
                actions.pay(simulator, trade, PayOptions())
            case "pay-twice":
                actions.pay(simulator, trade, PayOptions(times=2))
            case "delay":
                actions.pay(simulator, trade, PayOptions(delay_seconds=float(str(form.get("seconds") or 60))))
            case "bad-signature":
                actions.pay(simulator, trade, PayOptions(bad_signature=1))
            case "late":
                actions.pay(simulator, trade, PayOptions(force=True))
            case "fail":
                actions.fail(simulator, trade)
            case "refund":
                actions.refund(simulator, trade, _fen(str(form.get("amount") or "")))
            case "close":
                actions.close(simulator, trade)
            case "resend":
                actions.resend(simulator, trade)
            case _:
                raise web.HTTPNotFound
    except (NotPayableError, actions.ActionRefusedError, ValueError) as error:
        raise web.HTTPSeeOther(str(request.rel_url.with_path(target).with_query(problem=str(error)))) from error
    raise web.HTTPSeeOther(target)


async def _qr(request: web.Request) -> web.Response:
    address = f"{base_url(request)}/cashier/{trade_of(request).number}"
    stream = io.BytesIO()
    segno.make_qr(address).save(stream, kind="svg", scale=4, border=2)
    return web.Response(body=stream.getvalue(), content_type="image/svg+xml")


def _fen(text: str) -> int | None:
    """Fen of an amount in yuan that somebody typed; None for all that is left."""
    if not text.strip():
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,2})?", text.strip()):
        raise ValueError("the amount must be yuan with at most two decimals")
    whole, _, part = text.strip().partition(".")
    return int(whole) * 100 + int(part.ljust(2, "0"))


def _typed_rule(form: Mapping[str, Any]) -> dict[str, Any]:
    """A rule from the form's fields; what is left empty is not in it."""
    rule: dict[str, Any] = {name: str(form.get(name, "")).strip() for name in ("api", "fault", "out_trade_no", "code")}
    for name in ("times", "skip", "amount", "queries"):
        text = str(form.get(name, "")).strip()
        if text:
            rule[name] = int(text)
    if str(form.get("seconds", "")).strip():
        rule["seconds"] = float(str(form["seconds"]))
    return {name: value for name, value in rule.items() if value != ""}


async def _faults(request: web.Request) -> web.Response:
    plan = request.app[STATE].faults
    form = await request.post()
    # The form stands on a trade's page too, and leads back there.
    number = str(form.get("from", ""))
    target = f"/trades/{number}" if request.app[STATE].ledger.find(number) else "/"
    try:
        if form.get("clear"):
            plan.clear()
        elif "fault" in form:
            plan.add(_typed_rule(form))
        else:
            plan.add(json.loads(str(form.get("rules", "[]"))))
    except (InvalidFaultError, ValueError) as error:
        raise web.HTTPSeeOther(str(request.rel_url.with_path(target).with_query(problem=str(error)))) from error
    raise web.HTTPSeeOther(target)


async def _clock(request: web.Request) -> web.Response:
    simulator = request.app[STATE]
    form = await request.post()
    try:
        offset = 0.0 if form.get("reset") else simulator.clock.offset + float(str(form.get("advance_seconds", "0")))
    except ValueError as error:
        raise web.HTTPSeeOther(str(request.rel_url.with_path("/").with_query(problem=str(error)))) from error
    simulator.set_clock(offset)
    raise web.HTTPSeeOther("/")
