"""The gateway over HTTP: verification, fault rules and signed answers of all operations.

Source: Alipay Open Platform, gateway and common parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from paycenter_server.simulator import actions
from paycenter_server.simulator.alipay import bills, refunds, trades
from paycenter_server.simulator.alipay.call import (
    AlipayCall,
    AlipayError,
    acq,
    answer_body,
    check_request,
    fen_of,
    read_content,
    read_params,
    yuan,
)
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.http import (
    apply_connection_fault,
    base_url,
    gateway_error,
    log_answer,
    log_request,
    origin,
    trade_path,
)
from paycenter_server.simulator.inputs import find_numbers
from paycenter_server.simulator.state import STATE, Simulator
from paycenter_server.simulator.trades import ALIPAY, Trade, random_text
from paycenter_server.simulator.wire_log import Exchange

__all__ = ["add_routes"]

Operation = Callable[[AlipayCall], dict[str, Any]]
_OPERATIONS: dict[str, Operation] = {
    "alipay.trade.precreate": trades.precreate,
    "alipay.trade.create": trades.create,
    "alipay.trade.pay": trades.pay,
    "alipay.trade.query": trades.query,
    "alipay.trade.close": trades.close,
    "alipay.trade.cancel": refunds.cancel,
    "alipay.trade.refund": refunds.refund,
    "alipay.trade.fastpay.refund.query": refunds.query,
    "alipay.data.dataservice.bill.downloadurl.query": bills.download_url,
    "alipay.open.app.alipaycert.download": trades.certificate_download,
}
_APP = "alipay.trade.app.pay"
_PAGES = ("alipay.trade.page.pay", "alipay.trade.wap.pay", _APP)
# The first field that is present is changed: for a refund query, the amount of the refund.
_MONEY_FIELDS = ("refund_amount", "total_amount", "refund_fee")
_MAX_METHOD_LENGTH = 100


CashierPage = Callable[[web.Request, Trade], web.Response]
RefusalPage = Callable[[str, str], web.Response]


def add_routes(app: web.Application, cashier_page: CashierPage, refusal_page: RefusalPage) -> None:
    """GET and POST /gateway.do; POST /simulator/alipay/app acts as the payer's app.

    cashier_page: the answer to a page payment. refusal_page: the page for its sub_code and sub_msg.
    """
    endpoint = _Endpoint(cashier_page, refusal_page)
    app.router.add_get("/gateway.do", endpoint.serve, allow_head=False)
    app.router.add_post("/gateway.do", endpoint.serve)
    app.router.add_post("/simulator/alipay/app", _app)
    bills.add_routes(app)


def _log_call(request: web.Request, params: dict[str, str], method: str, raw: bytes) -> Exchange:
    """Add the call to the log. The number is read before the verification, so that the trade's page shows refused calls."""
    simulator = request.app[STATE]
    try:
        biz = read_content(simulator.keys, params)
    except AlipayError:
        biz = find_numbers(params.get("biz_content", ""))
    number = AlipayCall(simulator, method, params, biz).number
    return log_request(request, ALIPAY, method[:_MAX_METHOD_LENGTH], number, raw)


@dataclass(frozen=True)
class _Endpoint:
    cashier_page: CashierPage
    refusal_page: RefusalPage

    async def serve(self, request: web.Request) -> web.StreamResponse:
        simulator = request.app[STATE]
        raw = await request.read()
        params = read_params(request.rel_url.raw_query_string, raw)
        method = params.get("method", "")
        entry = _log_call(request, params, method, raw)
        encrypted = False
        try:
            check_request(simulator.keys, params)
            entry.verdict = "valid"
            call = AlipayCall(simulator, method, params, read_content(simulator.keys, params), origin=origin(request))
            encrypted = call.encrypted
            if method in _PAGES:
                opened = await _open(request, call, entry)
                return opened if isinstance(opened, web.Response) else log_answer(entry, self.cashier_page(request, opened))
            return await _answer(request, call, entry)
        except AlipayError as failure:
            entry.verdict = entry.verdict or f"refused: {failure.sub_code}"
            if method in _PAGES:
                return log_answer(entry, self.refusal_page(failure.sub_code, failure.sub_msg))
            return _failure(simulator, entry, params, failure, encrypted=encrypted)


async def _app(request: web.Request) -> web.StreamResponse:
    """The payer's app opens the order string of the merchant's app. The answer is JSON with out_trade_no, trade_no and cashier_url,
    or 400 with sub_code and error. The payment follows as for any trade."""
    simulator = request.app[STATE]
    raw = await request.read()
    params = read_params("", raw.strip())
    entry = _log_call(request, params, _APP, raw)
    try:
        check_request(simulator.keys, params)
        entry.verdict = "valid"
        call = AlipayCall(simulator, params["method"], params, read_content(simulator.keys, params), origin=origin(request))
        if call.method != _APP:
            raise AlipayError("40004", "Business Failed", "isv.invalid-method", "不存在的方法名")
        opened = await _open(request, call, entry)
    except AlipayError as failure:
        entry.verdict = entry.verdict or f"refused: {failure.sub_code}"
        return log_answer(entry, web.json_response({"error": failure.sub_msg, "sub_code": failure.sub_code}, status=400))
    if isinstance(opened, web.Response):
        return opened
    document = {
        "out_trade_no": opened.number,
        "trade_no": opened.transaction_id,
        "cashier_url": base_url(request) + trade_path("cashier", opened),
    }
    return log_answer(entry, web.json_response(document))


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


async def _take_fault(request: web.Request, call: AlipayCall, entry: Exchange) -> web.Response | None:
    """Find the fault rule of the call. Returns the answer if the fault replaces the call."""
    call.rule = call.simulator.faults.take(call.method, call.numbers)
    entry.fault = call.fault
    interruption = await apply_connection_fault(request, call.rule, "before")
    if interruption is None and call.fault in ("http_502", "http_503"):
        return log_answer(entry, gateway_error(call.fault))
    return interruption


async def _open(request: web.Request, call: AlipayCall, entry: Exchange) -> Trade | web.Response:
    """Open the payment in the buyer's browser or app. Returns the trade, or the answer of a fault."""
    replacement = await _take_fault(request, call, entry)
    if replacement is not None:
        return replacement
    _raise_before(call.rule)
    trade = trades.open_payment(call)
    interruption = await apply_connection_fault(request, call.rule, "after")
    if interruption is not None:
        return interruption
    _raise_after(call.fault)
    return trade


async def _answer(request: web.Request, call: AlipayCall, entry: Exchange) -> web.StreamResponse:
    operation = _OPERATIONS.get(call.method)
    if operation is None:
        raise AlipayError("40004", "Business Failed", "isv.invalid-method", "不存在的方法名")
    simulator = call.simulator
    replacement = await _take_fault(request, call, entry)
    if replacement is not None:
        return replacement
    # A declined code payment creates a failed trade, so the operation handles it.
    if call.method != "alipay.trade.pay" or call.fault != "decline":
        _raise_before(call.rule)
    if call.fault == "rotate":
        simulator.rotation.set("alipay", done=True)
    if operation is trades.query:
        actions.confirm_on_query(simulator, call.trade)
    document = {"code": "10000", "msg": "Success", **operation(call)}
    interruption = await apply_connection_fault(request, call.rule, "after")
    if interruption is not None:
        return interruption
    _raise_after(call.fault)
    if call.rule is not None and call.fault == "wrong_amount":
        _change_amount(document, call.rule)
    if call.fault == "brace":
        document["msg"] = "Success }"
    node = call.method.replace(".", "_") + "_response"
    return _text(
        simulator,
        entry,
        node,
        document,
        certificate_mode=call.certificate_mode,
        signature_fault=call.fault,
        encrypted=call.encrypted,
    )


def _change_amount(document: dict[str, Any], rule: FaultRule) -> None:
    name = next((field for field in _MONEY_FIELDS if field in document), "")
    if name:
        document[name] = yuan(fen_of(document[name]) + 1 if rule.amount is None else rule.amount)


def _failure(
    simulator: Simulator, entry: Exchange, params: dict[str, str], failure: AlipayError, *, encrypted: bool
) -> web.Response:
    method = params.get("method", "")
    node = method.replace(".", "_") + "_response" if method in _OPERATIONS else "error_response"
    # Without a known app_id there is no key to sign with, so the answer has no signature.
    unknown = params.get("app_id") != simulator.keys.alipay["app_id"]
    signature_fault = "unsigned" if unknown or entry.fault == "unsigned" else entry.fault
    mode = bool(params.get("app_cert_sn")) and not unknown
    return _text(
        simulator, entry, node, failure.document(), certificate_mode=mode, signature_fault=signature_fault, encrypted=encrypted
    )


def _text(
    simulator: Simulator,
    entry: Exchange,
    node: str,
    document: dict[str, Any],
    *,
    certificate_mode: bool,
    signature_fault: str,
    encrypted: bool,
) -> web.Response:
    rotated = simulator.rotation.done("alipay")
    body = answer_body(
        simulator.keys,
        node,
        document,
        certificate_mode=certificate_mode,
        signature_fault=signature_fault,
        rotated=rotated,
        encrypted=encrypted,
    )
    # Alipay sends JSON with this content type.
    headers = {"Content-Type": "text/html;charset=utf-8", "trace_id": random_text(32).lower()}
    return log_answer(entry, web.Response(body=body, headers=headers))
