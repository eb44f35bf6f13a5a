"""The control API for scripts, below /simulator/. Requests and answers are JSON; an error is {"error": "…"}."""

from __future__ import annotations

import datetime
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from paycenter_server.simulator import actions
from paycenter_server.simulator.clock import CHINA, MAX_SHIFT, parse_rfc3339, rfc3339
from paycenter_server.simulator.faults import APIS, FAULTS, InvalidFaultError, places
from paycenter_server.simulator.http import base_url, trade_path
from paycenter_server.simulator.inputs import check_number, read_json
from paycenter_server.simulator.keys import public_settings
from paycenter_server.simulator.settings import check_notify_url
from paycenter_server.simulator.state import STATE, Simulator
from paycenter_server.simulator.trades import NotPayableError, Trade

__all__ = ["add_routes", "trade_document"]

_PROTOCOLS = ("wechatpay_v3", "wechatpay_v2", "alipay")
Action = Callable[[Simulator, Trade, dict[str, Any]], None]
_MAX_WAIT_SECONDS = 600
_RULE_FIELDS = ("id", "api", "fault", "out_trade_no")


def add_routes(app: web.Application) -> None:
    """Serve the API and the health check."""
    app.router.add_get("/healthz", _health)
    actions_by_name = {"pay": _pay, "fail": _fail, "close": _close, "refund": _refund, "resend": _resend, "finish": _finish}
    for name, action in actions_by_name.items():
        app.router.add_post(f"/simulator/{name}/{{out_trade_no}}", _trade_handler(action))
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
    app.router.add_post("/simulator/merchant-keys", _change_merchant_keys)
    app.router.add_get("/simulator/settings", _settings)
    app.router.add_post("/simulator/settings", _set_settings)
    app.router.add_post("/simulator/reset", _reset)


def trade_document(simulator: Simulator, trade: Trade, base_url: str) -> dict[str, Any]:
    """A trade as JSON: amounts in fen, times in RFC 3339 or empty."""
    simulator.channel(trade).expire(trade)
    times = {
        name: rfc3339(value) if value else ""
        for name, value in (
            ("created", trade.created),
            ("expires", trade.expires),
            ("paid_at", trade.paid_at),
            ("closed_at", trade.closed_at),
        )
    }
    return {
        "protocol": trade.protocol,
        "api": trade.api,
        "out_trade_no": trade.number,
        "transaction_id": trade.transaction_id,
        "state": trade.state,
        "wire_state": simulator.channel(trade).shown_state(trade),
        "paid": trade.paid,
        "expired": not trade.paid and trade.expired(simulator.clock.now()),
        "amount": trade.amount,
        "paid_amount": trade.paid_amount,
        "refunded": trade.refunded,
        "currency": "CNY",
        "subject": trade.subject,
        "payer": trade.payer,
        "notify_url": trade.notify_url,
        "code": trade.code,
        "cashier_url": base_url + trade_path("cashier", trade),
        **times,
        "refunds": [
            {
                "number": item.number,
                "refund_id": item.refund_id,
                "amount": item.amount,
                "state": item.state,
                "reason": item.reason,
                "by_console": item.by_console,
            }
            for item in trade.refunds
        ],
        "notifications": [
            {
                "id": notification.id,
                "event": notification.event,
                "url": notification.url,
                "state": notification.state,
                "step": notification.step,
                "next": rfc3339(notification.due) if notification.state == "WAITING" else "",
                "attempts": list(notification.attempts),
            }
            for notification in simulator.notifier.of(trade)
        ],
        "events": [{"time": rfc3339(moment), "what": what} for moment, what in trade.events],
    }


def _trade_of(request: web.Request) -> Trade:
    """The trade of the path, or a 404. `?protocol=` selects the channel if both know the number."""
    number = request.match_info["out_trade_no"]
    trade = request.app[STATE].trades.find(number, request.query.get("protocol", ""))
    if trade is None:
        raise web.HTTPNotFound(text=json.dumps({"error": f"no trade {number}"}), content_type="application/json")
    return trade


def _error(status: int, text: str, **more: Any) -> web.Response:
    return web.json_response({"error": text, **more}, status=status)


def _check_options(options: object, *known: str) -> dict[str, Any]:
    """The options of a call. ValueError names the unknown ones."""
    if not isinstance(options, dict):
        raise ValueError("the body must be a JSON object")
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"unknown: {', '.join(unknown)[:200]}; known: {', '.join(known) or 'nothing'}")
    return options


async def _json(request: web.Request) -> Any:
    raw = await request.read()
    return read_json(raw) if raw.strip() else {}


def _trade_handler(action: Action) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        simulator, trade = request.app[STATE], _trade_of(request)
        try:
            options = await _json(request)
            if not isinstance(options, dict):
                raise ValueError("the body must be a JSON object")
            simulator.channel(trade).expire(trade)
            action(simulator, trade, options)
        except (NotPayableError, actions.ActionRefusedError) as error:
            return _error(409, str(error), trade=trade_document(simulator, trade, base_url(request)))
        except ValueError as error:
            return _error(400, str(error))
        return web.json_response(trade_document(simulator, trade, base_url(request)))

    return handle


def _pay(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    actions.pay(simulator, trade, actions.PayOptions.parse(options))


def _fail(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    actions.fail(simulator, trade, str(_check_options(options, "state").get("state", "")))


def _close(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    _check_options(options)
    actions.close(simulator, trade)


def _finish(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    _check_options(options)
    actions.finish(simulator, trade)


def _refund(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    amount = _check_options(options, "amount", "notify_url").get("amount")
    if amount is not None and (not isinstance(amount, int) or isinstance(amount, bool)):
        raise ValueError("amount must be an integer, in fen")
    given = options.get("notify_url")
    actions.refund(simulator, trade, amount, None if given is None else check_notify_url(given))


def _resend(simulator: Simulator, trade: Trade, options: dict[str, Any]) -> None:
    actions.resend(simulator, trade, every=bool(_check_options(options, "every").get("every")))


async def _health(request: web.Request) -> web.Response:
    del request
    return web.Response(text="ok")


async def _trade(request: web.Request) -> web.Response:
    return web.json_response(trade_document(request.app[STATE], _trade_of(request), base_url(request)))


async def _trades(request: web.Request) -> web.Response:
    simulator = request.app[STATE]
    return web.json_response([trade_document(simulator, trade, base_url(request)) for trade in simulator.trades.newest()])


async def _log(request: web.Request) -> web.Response:
    number = request.query.get("out_trade_no", "")
    protocol, log = request.query.get("protocol", ""), request.app[STATE].log
    if protocol not in ("", *_PROTOCOLS):
        return _error(400, f"protocol must be one of {', '.join(_PROTOCOLS)}")
    # In a header, because the body is the list of exchanges.
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
    """{"advance_seconds": n} or {"now": iso} or {"reset": true}; "wait_seconds": answer when all due jobs are finished."""
    simulator = request.app[STATE]
    try:
        options = _check_options(await _json(request), "advance_seconds", "now", "reset", "wait_seconds")
        wait = check_number(options.get("wait_seconds", 0), "wait_seconds", 0, _MAX_WAIT_SECONDS)
        simulator.set_clock(_offset(simulator, options))
        settled = await simulator.scheduler.wait_until_idle(wait)
    except ValueError as error:
        return _error(400, str(error))
    return web.json_response({**_clock_document(simulator), "settled": settled})


def _offset(simulator: Simulator, options: dict[str, Any]) -> float:
    clock = simulator.clock
    if options.get("reset"):
        return 0.0
    if "advance_seconds" in options:
        return clock.offset + check_number(options["advance_seconds"], "advance_seconds", -MAX_SHIFT, MAX_SHIFT)
    if "now" in options:
        text = options["now"] if isinstance(options["now"], str) else ""
        moment = datetime.datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=CHINA)
        return clock.offset + parse_rfc3339(moment.isoformat()) - clock.now()
    raise ValueError("give advance_seconds, now (ISO 8601, +08:00 if it has no zone) or reset")


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
    """Remove the rules that match all given fields (id, api, fault, out_trade_no), or all rules if none is given."""
    plan, query = request.app[STATE].faults, request.query
    unknown = set(query) - set(_RULE_FIELDS)
    if unknown:
        return _error(400, f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(_RULE_FIELDS)}")
    plan.remove(lambda rule: all(str(getattr(rule, name)) == value for name, value in query.items()))
    return web.json_response({"rules": plan.documents()})


async def _rotation(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].rotation.document())


async def _rotate(request: web.Request) -> web.Response:
    """{"channel": "wechatpay" or "alipay", "done": true}: from now on the next certificate signs. "migration": from now on only
    WeChat Pay's public key signs."""
    rotation = request.app[STATE].rotation
    try:
        options = _check_options(await _json(request), "channel", "done")
        if not isinstance(options.get("done", True), bool):
            raise ValueError("give channel, and done as true or false")
        rotation.set(str(options.get("channel")), done=options.get("done", True))
    except ValueError as error:
        return _error(400, str(error))
    return web.json_response(rotation.document())


async def _change_merchant_keys(request: web.Request) -> web.Response:
    """{"channel": "wechatpay" or "alipay"}: the merchant makes new keys of its own. The answer has them."""
    simulator = request.app[STATE]
    try:
        options = _check_options(await _json(request), "channel")
        made = simulator.keys.merchant.change(str(options.get("channel")), simulator.store)
    except ValueError as error:
        return _error(400, str(error))
    return web.json_response({"config": made})


async def _settings(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].settings.document())


async def _set_settings(request: web.Request) -> web.Response:
    """{"refund_notify_url": address, or "" for none}: the setting in WeChat Pay's console."""
    settings = request.app[STATE].settings
    try:
        settings.change(await _json(request))
    except ValueError as error:
        return _error(400, str(error))
    return web.json_response(settings.document())


async def _reset(request: web.Request) -> web.Response:
    request.app[STATE].reset()
    return web.json_response({"reset": True})
