"""The forms of the pages: payer actions, faults, the clock, rotations and settings. Each answer redirects to a page."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

from aiohttp import web

from paycenter_server.simulator import actions
from paycenter_server.simulator.actions import PayOptions
from paycenter_server.simulator.clock import MAX_SHIFT
from paycenter_server.simulator.http import trade_path
from paycenter_server.simulator.inputs import MAX_SECONDS, parse_number, read_json
from paycenter_server.simulator.pages.views import error_page, trade_or_page
from paycenter_server.simulator.settings import check_notify_url
from paycenter_server.simulator.state import STATE, Simulator
from paycenter_server.simulator.trades import NotPayableError, Trade

__all__ = ["add_routes"]

_MAX_PROBLEM_LENGTH = 600
Form = dict[str, str]


def add_routes(app: web.Application) -> None:
    """Serve the forms."""
    app.router.add_post("/cashier/{out_trade_no}/{action}", _act)
    app.router.add_post("/faults", _index_handler(_faults, "#faults"))
    app.router.add_post("/clock", _index_handler(_clock, ""))
    app.router.add_post("/rotation", _index_handler(_rotation, "#certificates"))
    app.router.add_post("/settings", _index_handler(_settings, "#settings"))


async def _form(request: web.Request) -> Form:
    """The fields of a URL-encoded form; {} for any other content type. Of a repeated field the last value counts."""
    raw = await request.read()
    if request.content_type != "application/x-www-form-urlencoded":
        return {}
    return dict(parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True))


def _back(path: str, error: Exception | None = None, anchor: str = "") -> web.HTTPSeeOther:
    if error is not None:
        path += ("&" if "?" in path else "?") + urlencode({"problem": str(error)[:_MAX_PROBLEM_LENGTH]})
        anchor = ""  # the message is at the top of the page
    return web.HTTPSeeOther(path + anchor)


def _fen(text: str) -> int | None:
    """Fen of an amount in yuan; None if the field is empty."""
    if not text.strip():
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,2})?", text.strip()):
        raise ValueError("the amount must be yuan with at most two decimals")
    whole, _, part = text.strip().partition(".")
    return int(whole) * 100 + int(part.ljust(2, "0"))


def _refund(simulator: Simulator, trade: Trade, form: Form) -> None:
    address = form.get("notify_url")
    try:
        notify_url = None if address is None else check_notify_url(address.strip())
    except ValueError as error:
        raise ValueError(f"the notification address: {error}") from error
    actions.refund(simulator, trade, _fen(form.get("amount", "")), notify_url)


def _delay(simulator: Simulator, trade: Trade, form: Form) -> None:
    seconds = parse_number(form.get("seconds") or "60", "the delay in seconds", 0, MAX_SECONDS)
    actions.pay(simulator, trade, PayOptions(delay_seconds=seconds))


_ACTIONS: dict[str, Callable[[Simulator, Trade, Form], object]] = {
    "pay": lambda simulator, trade, form: actions.pay(simulator, trade, PayOptions()),
    "pay-twice": lambda simulator, trade, form: actions.pay(simulator, trade, PayOptions(times=2)),
    "bad-signature": lambda simulator, trade, form: actions.pay(simulator, trade, PayOptions(bad_signature=1)),
    "late": lambda simulator, trade, form: actions.pay(simulator, trade, PayOptions(force=True)),
    "fail": lambda simulator, trade, form: actions.fail(simulator, trade),
    "close": lambda simulator, trade, form: actions.close(simulator, trade),
    "resend": lambda simulator, trade, form: actions.resend(simulator, trade),
    "delay": _delay,
    "refund": _refund,
}


async def _act(request: web.Request) -> web.Response:
    simulator, trade = request.app[STATE], trade_or_page(request)
    if isinstance(trade, web.Response):
        return trade
    action = _ACTIONS.get(request.match_info["action"])
    if action is None:
        return error_page(404, "There is no such action.")
    form = await _form(request)
    target = trade_path("trades" if form.get("from") == "trade" else "cashier", trade)
    try:
        simulator.channel(trade).expire(trade)
        action(simulator, trade, form)
    except (NotPayableError, actions.ActionRefusedError, ValueError) as error:
        raise _back(target, error) from error
    raise _back(target)


def _index_handler(change: Callable[[Simulator, Form], None], anchor: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        simulator, form = request.app[STATE], await _form(request)
        # The fault form is also on the page of a trade; the answer redirects to that page.
        trade = simulator.trades.find(form.get("from", ""), form.get("protocol", ""))
        target, place = (trade_path("trades", trade), "") if trade else ("/", anchor)
        try:
            change(simulator, form)
        except ValueError as error:
            raise _back(target, error) from error
        raise _back(target, anchor=place)

    return handle


def _rule_of(form: Form) -> dict[str, Any]:
    """A rule from the form's fields, without the empty ones."""
    rule: dict[str, Any] = {name: form.get(name, "").strip() for name in ("api", "fault", "out_trade_no", "code")}
    for name in ("times", "skip", "amount", "queries"):
        text = form.get(name, "").strip()
        if text and not re.fullmatch(r"-?[0-9]{1,15}", text):
            raise ValueError(f"{name} must be an integer")
        if text:
            rule[name] = int(text)
    if form.get("seconds", "").strip():
        rule["seconds"] = parse_number(form["seconds"], "seconds", 0, 10**7)
    return {name: value for name, value in rule.items() if value != ""}


def _faults(simulator: Simulator, form: Form) -> None:
    plan = simulator.faults
    if form.get("clear"):
        plan.clear()
    elif form.get("remove"):
        plan.remove(lambda rule: str(rule.id) == form["remove"])
    elif "fault" in form:
        plan.add(_rule_of(form))
    elif "rules" in form:
        plan.add(read_json(form["rules"]))
    else:
        raise ValueError("the form has no known field")


def _clock(simulator: Simulator, form: Form) -> None:
    seconds = parse_number(form.get("advance_seconds") or "0", "the seconds to advance", -MAX_SHIFT, MAX_SHIFT)
    simulator.set_clock(0.0 if form.get("reset") else simulator.clock.offset + seconds)


def _rotation(simulator: Simulator, form: Form) -> None:
    simulator.rotation.set(form.get("channel", ""), done=form.get("done") == "1")


def _settings(simulator: Simulator, form: Form) -> None:
    simulator.settings.change({"refund_notify_url": form.get("refund_notify_url", "").strip()})
