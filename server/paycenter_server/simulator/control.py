"""The simulator's own API for scripts, below /simulator/: JSON in, JSON out, errors as {"error": "…"}."""

from __future__ import annotations

import datetime
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from aiohttp import web

from paycenter_server.simulator import actions
from paycenter_server.simulator.clock import CHINA, MOST_SHIFT, parse_rfc3339, rfc3339
from paycenter_server.simulator.fault_names import APIS, FAULTS, places
from paycenter_server.simulator.faults import InvalidFaultError
from paycenter_server.simulator.inputs import finite, read_json
from paycenter_server.simulator.keys import public_settings
from paycenter_server.simulator.ledger import NotPayableError
from paycenter_server.simulator.model import Trade
from paycenter_server.simulator.settings import notify_address
from paycenter_server.simulator.state import STATE, Simulator
from paycenter_server.simulator.web_faults import origin

__all__ = ["add_routes", "base_url", "trade_of", "trade_path"]

_PROTOCOLS = ("wechatpay_v3", "wechatpay_v2", "alipay")
Action = Callable[[Simulator, Trade, dict[str, Any]], None]
_LONGEST_WAIT = 600
_CHOSEN_BY = ("id", "api", "fault", "out_trade_no")


def add_routes(app: web.Application) -> None:
    """Serve the API and the health check."""
    app.router.add_get("/healthz", _health)
    actions_by_name = {"pay": _pay, "fail": _fail, "close": _close, "refund": _refund, "resend": _resend, "finish": _finish}
    for name, action in actions_by_name.items():
        app.router.add_post(f"/simulator/{name}/{{out_trade_no}}", _acting(action))
    app.router.add_get("/simulator/trades", _trades)
    app.router.add_get("/simulator/trades/{out_trade_no}", _trade)
    app.router.add_get("/simulator/log", _log)
    app.router.add_get("/simulator/keys", _keys)
    app.router.add_get("/simulator/clock", _clock)
    app.router.add_post("/simulator/clock", _set_clock)
    app.router.add_get("/simulator/faults", _faults)
    app.router.add_post("/simulator/faults", _add_faults)
    app.router.add_delete("/simulator/faults", _clear_faults)
    app.router.add_get("/simulator/rotation", _rotation)
    app.router.add_post("/simulator/rotation", _rotate)
    app.router.add_get("/simulator/settings", _settings)
    app.router.add_post("/simulator/settings", _set_settings)
    app.router.add_post("/simulator/reset", _reset)


def base_url(request: web.Request) -> str:
    """Where people reach the simulator."""
    return request.app[STATE].config.base_url.rstrip("/") or origin(request)


def trade_path(page: str, trade: Trade) -> str:
    """Path of a trade's page (`cashier`, `trades`); it names the channel, because another one may know the same number."""
    return f"/{page}/{quote(trade.number, safe='')}?protocol={trade.protocol}"


def trade_of(request: web.Request) -> Trade:
    """The trade of the path, or a 404; `?protocol=` decides if both channels know the number."""
    number = request.match_info["out_trade_no"]
    trade = request.app[STATE].ledger.find(number, request.query.get("protocol", ""))
    if trade is None:
        raise web.HTTPNotFound(text=json.dumps({"error": f"no trade {number}"}), content_type="application/json")
    return trade


def _error(status: int, text: str, **more: Any) -> web.Response:
    return web.json_response({"error": text, **more}, status=status)


def _only(options: object, *known: str) -> dict[str, Any]:
    """The options of a call; ValueError names what it does not take, so that a misspelt one does not go unnoticed."""
    if not isinstance(options, dict):
        raise ValueError("the body must be a JSON object")
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"unknown: {', '.join(unknown)[:200]}; this call takes {', '.join(known) or 'nothing'}")
    return options


async def _json(request: web.Request) -> Any:
    raw = await request.read()
    return read_json(raw) if raw.strip() else {}


def _acting(action: Action) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        simulator, trade = request.app[STATE], trade_of(request)
        try:
            options = await _json(request)
            if not isinstance(options, dict):
                raise ValueError("the body must be a JSON object")
            actions.expire_if_due(simulator, trade)
            action(simulator, trade, options)
        except (NotPayableError, actions.ActionRefusedError) as error:
            return _error(409, str(error), trade=actions.trade_document(simulator, trade, base_url(request)))
        except ValueError as error:
            return _error(400, str(error))
        return web.json_response(actions.trade_document(simulator, trade, base_url(request)))

    return handle


def _pay(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    actions.pay(simulator, trade, actions.PayOptions.parse(options))


def _fail(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    actions.fail(simulator, trade, str(_only(options, "state").get("state", "")))


def _close(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    _only(options)
    actions.close(simulator, trade)


def _finish(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    _only(options)
    actions.finish(simulator, trade)


def _refund(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    amount = _only(options, "amount", "notify_url").get("amount")
    if amount is not None and (not isinstance(amount, int) or isinstance(amount, bool)):
        raise ValueError("amount must be an integer, in fen")
    given = options.get("notify_url")
    actions.refund(simulator, trade, amount, None if given is None else notify_address(given))


def _resend(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    actions.resend(simulator, trade, every=bool(_only(options, "every").get("every")))


async def _health(request: web.Request) -> web.Response:
    del request
    return web.Response(text="ok")


async def _trade(request: web.Request) -> web.Response:
    return web.json_response(actions.trade_document(request.app[STATE], trade_of(request), base_url(request)))


async def _trades(request: web.Request) -> web.Response:
    simulator = request.app[STATE]
    return web.json_response([actions.trade_document(simulator, trade, base_url(request)) for trade in simulator.ledger.newest()])


async def _log(request: web.Request) -> web.Response:
    number = request.query.get("out_trade_no", "")
    protocol, log = request.query.get("protocol", ""), request.app[STATE].log
    if protocol not in ("", *_PROTOCOLS):
        return _error(400, f"protocol must be one of {', '.join(_PROTOCOLS)}")
    # In a header, because the list of exchanges is the whole body.
    headers = {"Simulator-Dropped": str(log.dropped(number, protocol))}
    return web.json_response([entry.document() for entry in log.newest(number, protocol)], headers=headers)


async def _keys(request: web.Request) -> web.Response:
    keys = request.app[STATE].keys
    return web.json_response({"directory": str(keys.directory), **public_settings(keys)})


def _clock_document(simulator: Simulator) -> dict[str, Any]:
    now = simulator.clock.now()
    return {"now": rfc3339(now), "epoch": now, "offset_seconds": simulator.clock.offset}


async def _clock(request: web.Request) -> web.Response:
    return web.json_response(_clock_document(request.app[STATE]))


async def _set_clock(request: web.Request) -> web.Response:
    """{"advance_seconds": n} or {"now": iso} or {"reset": true}; "wait_seconds": answer once what is due has been done."""
    simulator = request.app[STATE]
    try:
        options = _only(await _json(request), "advance_seconds", "now", "reset", "wait_seconds")
        wait = finite(options.get("wait_seconds", 0), "wait_seconds", 0, _LONGEST_WAIT)
        simulator.set_clock(_offset(simulator, options))
        settled = await simulator.agenda.settle(wait)
    except ValueError as error:
        return _error(400, str(error))
    return web.json_response({**_clock_document(simulator), "settled": settled})


def _offset(simulator: Simulator, options: dict[str, Any]) -> float:
    clock = simulator.clock
    if options.get("reset"):
        return 0.0
    if "advance_seconds" in options:
        return clock.offset + finite(options["advance_seconds"], "advance_seconds", -MOST_SHIFT, MOST_SHIFT)
    if "now" in options:
        text = options["now"] if isinstance(options["now"], str) else ""
        moment = datetime.datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=CHINA)
        return clock.offset + parse_rfc3339(moment.isoformat()) - clock.now()
    raise ValueError("give advance_seconds, now (ISO 8601, +08:00 if it names no zone) or reset")


async def _faults(request: web.Request) -> web.Response:
    where = {fault: places(fault) for fault in FAULTS}
    rules = request.app[STATE].faults.documents()
    return web.json_response({"rules": rules, "known": FAULTS, "apis": APIS, "applies": where})


async def _add_faults(request: web.Request) -> web.Response:
    plan = request.app[STATE].faults
    try:
        plan.add(await _json(request))
    except (InvalidFaultError, ValueError) as error:
        return _error(400, str(error))
    return web.json_response({"rules": plan.documents()})


async def _clear_faults(request: web.Request) -> web.Response:
    """All of them, or those that have all of the id, api, fault and out_trade_no that the query names."""
    plan, query = request.app[STATE].faults, request.query
    unknown = set(query) - set(_CHOSEN_BY)
    if unknown:
        return _error(400, f"unknown: {', '.join(sorted(unknown))}; choose rules by {', '.join(_CHOSEN_BY)}, or none for all")
    plan.remove(lambda rule: all(str(getattr(rule, name)) == value for name, value in query.items()))
    return web.json_response({"rules": plan.documents()})


async def _rotation(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].rotation.document())


async def _rotate(request: web.Request) -> web.Response:
    """{"channel": "wechatpay" or "alipay", "done": true}: from now on the next platform (or Alipay) certificate signs; "migration":
    WeChat's public key alone."""
    rotation = request.app[STATE].rotation
    try:
        options = _only(await _json(request), "channel", "done")
        if not isinstance(options.get("done", True), bool):
            raise ValueError("give channel, and done as true or false")
        rotation.turn(str(options.get("channel")), done=options.get("done", True))
    except ValueError as error:
        return _error(400, str(error))
    return web.json_response(rotation.document())


async def _settings(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].settings.document())


async def _set_settings(request: web.Request) -> web.Response:
    """{"refund_notify_url": address, or "" for none}: what the merchant configures in WeChat's console."""
    settings = request.app[STATE].settings
    try:
        settings.change(await _json(request))
    except ValueError as error:
        return _error(400, str(error))
    return web.json_response(settings.document())


async def _reset(request: web.Request) -> web.Response:
    request.app[STATE].reset()
    return web.json_response({"reset": True})
