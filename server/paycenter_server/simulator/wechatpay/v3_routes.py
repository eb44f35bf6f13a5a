"""The routes of APIv3: verification, fault rules and signed answers of all operations.

An operation is a plain function of a WechatCall: it changes the trade and returns status and document, or raises WechatError.
No operation awaits, so each is atomic on the event loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from paycenter_server.simulator import actions
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.http import apply_connection_fault, gateway_error, log_answer, log_request, origin
from paycenter_server.simulator.inputs import find_numbers, read_json
from paycenter_server.simulator.state import STATE
from paycenter_server.simulator.trades import WECHATPAY_V3, random_digits
from paycenter_server.simulator.wechatpay import bills, code_payments, v3_orders, v3_refunds
from paycenter_server.simulator.wechatpay.v3_call import (
    PUBLIC_KEY,
    WechatCall,
    WechatError,
    check_request,
    choose_signer,
    signature_headers,
)
from paycenter_server.simulator.wire_log import Exchange

__all__ = ["add_routes"]

Operation = Callable[[WechatCall], tuple[int, dict[str, Any] | None] | bytes]
# The HTTP status by error code; 403 for all others.
_STATUS = {
    **dict.fromkeys(("PARAM_ERROR", "INVALID_REQUEST", "APPID_MCHID_NOT_MATCH", "MCH_NOT_EXISTS"), 400),
    **dict.fromkeys(("ORDER_CLOSED", "ORDERPAID", "ORDER_PAID", "NO_STATEMENT_EXIST", "STATEMENT_CREATING"), 400),
    "SIGN_ERROR": 401,
    **dict.fromkeys(("ORDER_NOT_EXIST", "RESOURCE_NOT_EXISTS"), 404),
    **dict.fromkeys(("FREQUENCY_LIMITED", "RATELIMIT_EXCEEDED"), 429),
    "SYSTEM_ERROR": 500,
    "SERVICE_UNAVAILABLE": 503,
}
_ROUTES: tuple[tuple[str, str, str, Operation], ...] = (
    ("POST", "/v3/pay/transactions/native", "native", v3_orders.create),
    ("POST", "/v3/pay/transactions/jsapi", "jsapi", v3_orders.create),
    ("POST", "/v3/pay/transactions/app", "app", v3_orders.create),
    ("POST", "/v3/pay/transactions/h5", "h5", v3_orders.create),
    ("POST", "/v3/pay/transactions/codepay", "codepay", code_payments.codepay),
    ("POST", "/v3/pay/transactions/out-trade-no/{out_trade_no}/reverse", "reverse", code_payments.reverse),
    ("GET", "/v3/pay/transactions/out-trade-no/{out_trade_no}", "query", v3_orders.query),
    ("GET", "/v3/pay/transactions/id/{transaction_id}", "query", v3_orders.query),
    ("POST", "/v3/pay/transactions/out-trade-no/{out_trade_no}/close", "close", v3_orders.close),
    ("POST", "/v3/refund/domestic/refunds", "refund", v3_refunds.create),
    ("GET", "/v3/refund/domestic/refunds/{out_refund_no}", "refund_query", v3_refunds.query),
    ("POST", "/v3/refund/domestic/refunds/{refund_id}/apply-abnormal-refund", "abnormal_refund", v3_refunds.apply_abnormal),
    ("GET", "/v3/bill/tradebill", "tradebill", bills.trade_bill),
    ("GET", "/v3/bill/fundflowbill", "fundflowbill", bills.fund_flow_bill),
    ("GET", bills.DOWNLOAD_PATH, "billdownload", bills.download),
    ("GET", "/v3/certificates", "certificates", v3_orders.certificates),
)


def add_routes(app: web.Application) -> None:
    """Serve the v3 paths; any other path below /v3/ is an unsigned 404, as at WeChat Pay."""
    for method, path, name, operation in _ROUTES:
        app.router.add_route(method, path, _Endpoint("wx." + name, operation).serve)
    app.router.add_route("*", "/v3/{rest:.*}", _unknown)


async def _unknown(request: web.Request) -> web.Response:
    raw = await request.read()
    entry = log_request(request, WECHATPAY_V3, "", "", raw)
    entry.verdict = "refused: no such path"
    return log_answer(entry, web.Response(status=404))


@dataclass(frozen=True)
class _Endpoint:
    api: str
    operation: Operation

    def _call(self, request: web.Request, document: dict[str, Any], signer: str) -> WechatCall:
        simulator, path, query = request.app[STATE], dict(request.match_info), dict(request.query)
        return WechatCall(simulator, self.api, signer, document, path, query, origin=origin(request))

    async def serve(self, request: web.Request) -> web.Response:
        simulator = request.app[STATE]
        raw = await request.read()
        # The number is read before the verification, so that the page of the trade shows refused calls.
        number = self._call(request, _partial_document(raw), "").number
        entry = log_request(request, WECHATPAY_V3, self.api, number, raw)
        try:
            check_request(simulator.keys, request.method, request.raw_path, request.headers, raw)
            entry.verdict = "valid"
            _check_type(request, raw)
            call = self._call(request, _document(raw), choose_signer(simulator.keys, request.headers))
            call.rule = simulator.faults.take(self.api, call.numbers)
            return await self._answer(request, call, entry)
        except WechatError as error:
            entry.verdict = entry.verdict or f"refused: {error.code} {error.message}"
            return _refusal(entry, error)

    async def _answer(self, request: web.Request, call: WechatCall, entry: Exchange) -> web.Response:
        fault, rotation = call.fault, call.simulator.rotation
        entry.fault = fault
        # A declined code payment creates a failed trade, so the operation handles it.
        if self.api != "wx.codepay" or fault != "decline":
            _raise_before(call.rule)
        if fault in ("rotate", "migrate"):
            rotation.set("wechatpay" if fault == "rotate" else "migration", done=True)
        interruption = await apply_connection_fault(request, call.rule, "before")
        if interruption is not None:
            return interruption
        if fault == "http_502":
            return log_answer(entry, gateway_error(fault))
        if fault == "accepted_202":
            return _signed(call, entry, 202, None)
        if self.api == "wx.query":
            actions.confirm_on_query(call.simulator, call.trade)
        result = self.operation(call)
        if call.note:
            entry.verdict = f"valid, but {call.note}"
        interruption = await apply_connection_fault(request, call.rule, "after")
        if interruption is not None:
            return interruption
        if fault == "error_after_commit":
            raise WechatError(500, "SYSTEM_ERROR", "系统异常,请稍后重试")
        if fault == "rate_limit_after_commit":
            raise WechatError(429, "FREQUENCY_LIMITED", "频率超限")
        if isinstance(result, bytes):  # a bill file has no signature
            return log_answer(entry, web.Response(body=result, headers={"Content-Type": "text/plain;charset=utf-8"}))
        status, document = result
        if document is not None and fault == "wrong_amount":
            _change_amount(document, call.rule)
        return _signed(call, entry, status, document)


def _signed(call: WechatCall, entry: Exchange, status: int, document: dict[str, Any] | None) -> web.Response:
    rotation = call.simulator.rotation
    body = b"" if document is None else json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    signer = PUBLIC_KEY if rotation.done("migration") else call.signer
    signed = signature_headers(call.simulator.keys, signer, body, call.fault, rotated=rotation.done("wechatpay"))
    headers = {"Request-ID": _request_id(), **signed}
    if body:
        headers["Content-Type"] = "application/json; charset=utf-8"
    return log_answer(entry, web.Response(status=status, body=body or None, headers=headers))


def _partial_document(raw: bytes) -> dict[str, Any]:
    """The numbers in the body, even if it is not valid JSON, for the log."""
    try:
        return _document(raw)
    except WechatError:
        return find_numbers(raw.decode("utf-8", "replace"))


def _check_type(request: web.Request, raw: bytes) -> None:
    if raw and request.method == "POST" and request.content_type != "application/json":
        raise WechatError(400, "INVALID_REQUEST", "Http头Content-Type必须为application/json")


def _document(raw: bytes) -> dict[str, Any]:
    if not raw:
        return {}
    try:
        document = read_json(raw)
    except ValueError as error:
        raise WechatError(400, "PARAM_ERROR", "请求体不是有效的JSON") from error
    if not isinstance(document, dict):
        raise WechatError(400, "PARAM_ERROR", "请求体不是JSON对象")
    return document


def _raise_before(rule: FaultRule | None) -> None:
    fault = rule.fault if rule else ""
    if rule is not None and fault == "decline":
        code = rule.code or "SYSTEM_ERROR"
        raise WechatError(_STATUS.get(code, 403), code, "业务失败")
    if fault == "error_before_commit":
        raise WechatError(500, "SYSTEM_ERROR", "系统异常,请稍后重试")
    if fault == "http_503":
        raise WechatError(503, "SERVICE_UNAVAILABLE", "服务不可用")
    if fault == "rate_limit":
        raise WechatError(429, "FREQUENCY_LIMITED", "频率超限")


def _change_amount(document: dict[str, Any], rule: FaultRule | None) -> None:
    amount = document.get("amount")
    if isinstance(amount, dict) and rule is not None:
        name = "refund" if "refund" in amount else "total"
        amount[name] = amount[name] + 1 if rule.amount is None else rule.amount


def _request_id() -> str:
    return f"08{random_digits(30)}-0"


def _refusal(entry: Exchange, error: WechatError) -> web.Response:
    body = json.dumps(error.document(), ensure_ascii=False).encode()
    headers = {"Request-ID": _request_id(), "Content-Type": "application/json; charset=utf-8"}
    return log_answer(entry, web.Response(status=error.status, body=body, headers=headers))
