"""The Alipay gateway over HTTP: parameters, verification, faults and signed answers around the operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from paycenter_server.simulator import alipay_bar, alipay_bills, alipay_refunds, alipay_trades, bar
from paycenter_server.simulator.alipay_auth import answer_body, check_request, read_params
from paycenter_server.simulator.alipay_call import AlipayCall, AlipayError, acq, fen_of, yuan
from paycenter_server.simulator.alipay_content import read_content
from paycenter_server.simulator.control import base_url, trade_path
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.inputs import numbers_in
from paycenter_server.simulator.ledger import random_text
from paycenter_server.simulator.model import ALIPAY, Trade
from paycenter_server.simulator.pages import alipay_error_page, cashier_page
from paycenter_server.simulator.state import STATE, Simulator
from paycenter_server.simulator.web_faults import bad_gateway, interfere, origin
from paycenter_server.simulator.wire_log import Exchange, WireLog

__all__ = ["add_routes"]

Operation = Callable[[AlipayCall], dict[str, Any]]
_OPERATIONS: dict[str, Operation] = {
    "alipay.trade.precreate": alipay_trades.precreate,
    "alipay.trade.create": alipay_trades.create,
    "alipay.trade.pay": alipay_bar.pay,
    "alipay.trade.query": alipay_trades.query,
    "alipay.trade.close": alipay_trades.close,
    "alipay.trade.cancel": alipay_bar.cancel,
    "alipay.trade.refund": alipay_refunds.refund,
    "alipay.trade.fastpay.refund.query": alipay_refunds.query,
    "alipay.data.dataservice.bill.downloadurl.query": alipay_bills.download_url,
    "alipay.open.app.alipaycert.download": alipay_trades.certificate_download,
}
_APP = "alipay.trade.app.pay"
_PAGES = ("alipay.trade.page.pay", "alipay.trade.wap.pay", _APP)
# A refund query tells the trade's total too, but what it is asked for is the refund.
_MONEY_FIELDS = ("refund_amount", "total_amount", "refund_fee")
_LONGEST_METHOD = 100


def add_routes(app: web.Application) -> None:
    """GET and POST /gateway.do; POST /simulator/alipay/app stands for the payer's app."""
    app.router.add_get("/gateway.do", _serve, allow_head=False)
    app.router.add_post("/gateway.do", _serve)
    app.router.add_post("/simulator/alipay/app", _app)
    alipay_bills.add_routes(app)


def _begin(request: web.Request, params: dict[str, str], method: str, raw: bytes) -> Exchange:
    """The log's entry. Whose it is must be known before it is refused: the page of the trade is where somebody looks for the
    reason."""
    simulator = request.app[STATE]
    try:
        biz = read_content(simulator.keys, params)
    except AlipayError:
        biz = numbers_in(params.get("biz_content", ""))
    number = AlipayCall(simulator, method, params, biz).number
    entry = simulator.log.add(
        simulator.clock.now(), "in", ALIPAY, method[:_LONGEST_METHOD], number, request.method, request.raw_path
    )
    entry.request_headers, entry.request_body = WireLog.headers(request.headers), WireLog.text(raw)
    return entry


async def _serve(request: web.Request) -> web.StreamResponse:
    simulator = request.app[STATE]
    raw = await request.read()
    params = read_params(request.rel_url.raw_query_string, raw)
    method = params.get("method", "")
    entry = _begin(request, params, method, raw)
    sealed = False
    try:
        check_request(simulator.keys, params)
        entry.verdict = "valid"
        call = AlipayCall(simulator, method, params, read_content(simulator.keys, params), origin=origin(request))
        sealed = call.sealed
        if method in _PAGES:
            opened = await _open(request, call, entry)
            return opened if isinstance(opened, web.Response) else _logged(entry, cashier_page(request, opened))
        return await _answer(request, call, entry)
    except AlipayError as failure:
        entry.verdict = entry.verdict or f"refused: {failure.sub_code}"
        if method in _PAGES:
            return _logged(entry, alipay_error_page(failure.sub_code, failure.sub_msg))
        return _failure(simulator, entry, params, failure, sealed=sealed)


async def _app(request: web.Request) -> web.StreamResponse:
    """The payer's app opens the order string that the merchant's app handed over: JSON with out_trade_no, trade_no and cashier_url,
    or 400 with sub_code and error. The payment itself is played as for any trade."""
    simulator = request.app[STATE]
    raw = await request.read()
    params = read_params("", raw.strip())
    entry = _begin(request, params, _APP, raw)
    try:
        check_request(simulator.keys, params)
        entry.verdict = "valid"
        call = AlipayCall(simulator, params["method"], params, read_content(simulator.keys, params), origin=origin(request))
        if call.method != _APP:
            raise AlipayError("40004", "Business Failed", "isv.invalid-method", "不存在的方法名")
        opened = await _open(request, call, entry)
    except AlipayError as failure:
        entry.verdict = entry.verdict or f"refused: {failure.sub_code}"
        return _logged(entry, web.json_response({"error": failure.sub_msg, "sub_code": failure.sub_code}, status=400))
    if isinstance(opened, web.Response):
        return opened
    document = {
        "out_trade_no": opened.number,
        "trade_no": opened.transaction_id,
        "cashier_url": base_url(request) + trade_path("cashier", opened),
    }
    return _logged(entry, web.json_response(document))


def _raise_before(rule: FaultRule | None) -> None:
    fault = rule.fault if rule else ""
    if rule is not None and fault == "decline":
        raise AlipayError("40004", "Business Failed", rule.code or "ACQ.SYSTEM_ERROR", "业务失败")
    if fault == "error_before_commit":
        raise AlipayError("20000", "Service Currently Unavailable", "isp.unknow-error", "系统繁忙")
    if fault == "rate_limit":
        raise _limited()


def _raise_after(fault: str) -> None:
    if fault == "error_after_commit":
        raise acq("SYSTEM_ERROR", "系统错误")
    if fault == "rate_limit_after_commit":
        raise _limited()


def _limited() -> AlipayError:
    return AlipayError("40005", "Call Limited", "isv.app-call-limited", "应用调用次数超限")


async def _strike(request: web.Request, call: AlipayCall, entry: Exchange) -> web.Response | None:
    """Which fault it is, and what it does instead of the call, if anything."""
    call.rule = call.simulator.faults.take(call.method, call.numbers)
    entry.fault = call.fault
    silence = await interfere(request, call.rule, "before")
    if silence is None and call.fault in ("http_502", "http_503"):
        return _logged(entry, bad_gateway(call.fault))
    return silence


async def _open(request: web.Request, call: AlipayCall, entry: Exchange) -> Trade | web.Response:
    """The buyer's browser or app arrives with an order of the merchant's: the trade, or what a fault makes of it."""
    instead = await _strike(request, call, entry)
    if instead is not None:
        return instead
    _raise_before(call.rule)
    trade = alipay_trades.open_page(call)
    silence = await interfere(request, call.rule, "after")
    if silence is not None:
        return silence
    _raise_after(call.fault)
    return trade


async def _answer(request: web.Request, call: AlipayCall, entry: Exchange) -> web.StreamResponse:
    operation = _OPERATIONS.get(call.method)
    if operation is None:
        raise AlipayError("40004", "Business Failed", "isv.invalid-method", "不存在的方法名")
    simulator = call.simulator
    instead = await _strike(request, call, entry)
    if instead is not None:
        return instead
    # A declined bar payment leaves a trade behind, so that one is the operation's affair.
    if call.method != "alipay.trade.pay" or call.fault != "decline":
        _raise_before(call.rule)
    if call.fault == "rotate":
        simulator.rotation.turn("alipay", done=True)
    if operation is alipay_trades.query:
        bar.asked(simulator, call.trade)
    document = {"code": "10000", "msg": "Success", **operation(call)}
    silence = await interfere(request, call.rule, "after")
    if silence is not None:
        return silence
    _raise_after(call.fault)
    if call.rule is not None and call.fault == "wrong_amount":
        _lie(document, call.rule)
    if call.fault == "brace":
        document["msg"] = "Success }"
    node = call.method.replace(".", "_") + "_response"
    return _text(simulator, entry, node, document, certificate_mode=call.certificate_mode, how=call.fault, sealed=call.sealed)


def _lie(document: dict[str, Any], rule: FaultRule) -> None:
    name = next((field for field in _MONEY_FIELDS if field in document), "")
    if name:
        document[name] = yuan(fen_of(document[name]) + 1 if rule.amount is None else rule.amount)


def _failure(simulator: Simulator, entry: Exchange, params: dict[str, str], failure: AlipayError, *, sealed: bool) -> web.Response:
    method = params.get("method", "")
    node = method.replace(".", "_") + "_response" if method in _OPERATIONS else "error_response"
    # Who the application is, and so whose key would sign, is unknown without an app_id: such failures go out unsigned.
    unknown = params.get("app_id") != simulator.keys.alipay["app_id"]
    how = "unsigned" if unknown or entry.fault == "unsigned" else entry.fault
    mode = bool(params.get("app_cert_sn")) and not unknown
    return _text(simulator, entry, node, failure.document(), certificate_mode=mode, how=how, sealed=sealed)


def _text(
    simulator: Simulator,
    entry: Exchange,
    node: str,
    document: dict[str, Any],
    *,
    certificate_mode: bool,
    how: str,
    sealed: bool,
) -> web.Response:
    rotated = simulator.rotation.done("alipay")
    body = answer_body(simulator.keys, node, document, certificate_mode=certificate_mode, how=how, rotated=rotated, sealed=sealed)
    # Alipay really labels its JSON so.
    headers = {"Content-Type": "text/html;charset=utf-8", "trace_id": random_text(32).lower()}
    return _logged(entry, web.Response(body=body, headers=headers))


def _logged(entry: Exchange, response: web.Response) -> web.Response:
    entry.answered(response.status, response.headers, response.body if isinstance(response.body, bytes) else b"")
    return response
