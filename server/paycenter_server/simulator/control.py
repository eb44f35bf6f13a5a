"""The simulator's own API for scripts, below /simulator/: JSON in, JSON out, errors as {"error": "…"}."""

from __future__ import annotations

import datetime
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from paycenter_server.simulator import actions
from paycenter_server.simulator.clock import CHINA, rfc3339
from paycenter_server.simulator.faults import FAULTS, InvalidFaultError
from paycenter_server.simulator.keys import public_settings
from paycenter_server.simulator.ledger import NotPayableError
from paycenter_server.simulator.model import Trade
from paycenter_server.simulator.state import STATE, Simulator

__all__ = ["add_routes", "base_url", "trade_of"]

Action = Callable[[Simulator, Trade, dict[str, Any]], None]


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
    app.router.add_post("/simulator/reset", _reset)


def base_url(request: web.Request) -> str:
    """Where people reach the simulator."""
    return request.app[STATE].config.base_url.rstrip("/") or str(request.url.origin())


def trade_of(request: web.Request) -> Trade:
    """The trade of the path, or a 404; `?protocol=` decides if both channels know the number."""
    number = request.match_info["out_trade_no"]
    trade = request.app[STATE].ledger.find(number, request.query.get("protocol", ""))
    if trade is None:
        raise web.HTTPNotFound(text=json.dumps({"error": f"no trade {number}"}), content_type="application/json")
    return trade


def _error(status: int, text: str, **more: Any) -> web.Response:
    return web.json_response({"error": text, **more}, status=status)


async def _json(request: web.Request) -> Any:
    raw = await request.read()
    return json.loads(raw) if raw.strip() else {}


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
        except (ValueError, TypeError) as error:
            return _error(400, str(error))
        return web.json_response(actions.trade_document(simulator, trade, base_url(request)))

    return handle


def _pay(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    actions.pay(simulator, trade, actions.PayOptions.parse(options))


def _fail(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    actions.fail(simulator, trade, str(options.get("state", "")))


def _close(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    del options
    actions.close(simulator, trade)


def _finish(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    del options
    actions.finish(simulator, trade)


def _refund(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    amount = options.get("amount")
    if amount is not None and (not isinstance(amount, int) or isinstance(amount, bool)):
        raise ValueError("amount must be an integer, in fen")
    actions.refund(simulator, trade, amount, str(options.get("notify_url", "")))


def _resend(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    actions.resend(simulator, trade, every=bool(options.get("every")))


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
    return web.json_response([entry.document() for entry in request.app[STATE].log.newest(number)])


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
        options = await _json(request)
        simulator.set_clock(_offset(simulator, options))
        settled = await simulator.agenda.settle(float(options.get("wait_seconds", 0)))
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        return _error(400, str(error))
    return web.json_response({**_clock_document(simulator), "settled": settled})


def _offset(simulator: Simulator, options: dict[str, Any]) -> float:
    clock = simulator.clock
    if options.get("reset"):
        return 0.0
    if "advance_seconds" in options:
        return clock.offset + float(options["advance_seconds"])
    if "now" in options:
        moment = datetime.datetime.fromisoformat(options["now"])
        moment = moment if moment.tzinfo else moment.replace(tzinfo=CHINA)
        return clock.offset + moment.timestamp() - clock.now()
    raise ValueError("give advance_seconds, now (ISO 8601, +08:00 if it names no zone) or reset")


async def _faults(request: web.Request) -> web.Response:
    return web.json_response({"rules": request.app[STATE].faults.documents(), "known": FAULTS})


async def _add_faults(request: web.Request) -> web.Response:
    plan = request.app[STATE].faults
    try:
        plan.add(await _json(request))
    except (InvalidFaultError, ValueError) as error:
        return _error(400, str(error))
    return web.json_response({"rules": plan.documents()})


async def _clear_faults(request: web.Request) -> web.Response:
    request.app[STATE].faults.clear()
    return web.json_response({"rules": []})


async def _rotation(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].rotation.document())


async def _rotate(request: web.Request) -> web.Response:
    """{"channel": "wechatpay" or "alipay", "done": true}: from now on the next platform (or Alipay) certificate signs."""
    rotation = request.app[STATE].rotation
    try:
        options = await _json(request)
        rotation.turn(str(options.get("channel")), done=bool(options.get("done", True)))
    except (ValueError, AttributeError) as error:
        return _error(400, str(error))
    return web.json_response(rotation.document())


async def _reset(request: web.Request) -> web.Response:
    request.app[STATE].reset()
    return web.json_response({"reset": True})
