"""WeChat Pay APIv3 over HTTP: routes, verification, faults and signed answers around the operations.

An operation is a plain function of a WechatCall: it commits to the ledger and returns status and document, or raises WechatError.
No operation awaits, so each is atomic on the event loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from paycenter_server.simulator import bar, wechat_bills, wechat_codepay, wechat_orders, wechat_refunds
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.inputs import numbers_in, read_json
from paycenter_server.simulator.ledger import random_digits
from paycenter_server.simulator.model import WECHATPAY_V3
from paycenter_server.simulator.state import STATE
from paycenter_server.simulator.web_faults import bad_gateway, interfere, origin
from paycenter_server.simulator.wechat_auth import PUBLIC_KEY, WechatError, check_request, choose_signer, signature_headers
from paycenter_server.simulator.wechat_call import WechatCall
from paycenter_server.simulator.wire_log import Exchange, WireLog

__all__ = ["add_routes"]

Operation = Callable[[WechatCall], tuple[int, dict[str, Any] | None] | bytes]
# The HTTP status that goes with a code; 403 with any other.
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
    ("POST", "/v3/pay/transactions/native", "native", wechat_orders.create),
    ("POST", "/v3/pay/transactions/jsapi", "jsapi", wechat_orders.create),
    ("POST", "/v3/pay/transactions/app", "app", wechat_orders.create),
    ("POST", "/v3/pay/transactions/h5", "h5", wechat_orders.create),
    ("POST", "/v3/pay/transactions/codepay", "codepay", wechat_codepay.codepay),
    ("POST", "/v3/pay/transactions/out-trade-no/{out_trade_no}/reverse", "reverse", wechat_codepay.reverse),
    ("GET", "/v3/pay/transactions/out-trade-no/{out_trade_no}", "query", wechat_orders.query),
    ("GET", "/v3/pay/transactions/id/{transaction_id}", "query", wechat_orders.query),
    ("POST", "/v3/pay/transactions/out-trade-no/{out_trade_no}/close", "close", wechat_orders.close),
    ("POST", "/v3/refund/domestic/refunds", "refund", wechat_refunds.create),
    ("GET", "/v3/refund/domestic/refunds/{out_refund_no}", "refund_query", wechat_refunds.query),
    ("POST", "/v3/refund/domestic/refunds/{refund_id}/apply-abnormal-refund", "abnormal_refund", wechat_refunds.apply_abnormal),
    ("GET", "/v3/bill/tradebill", "tradebill", wechat_bills.trade_bill),
    ("GET", "/v3/bill/fundflowbill", "fundflowbill", wechat_bills.fund_flow_bill),
    ("GET", wechat_bills.DOWNLOAD_PATH, "billdownload", wechat_bills.download),
    ("GET", "/v3/certificates", "certificates", wechat_orders.certificates),
)


def add_routes(app: web.Application) -> None:
    """Serve the v3 paths; whatever else is below /v3/ is an unsigned 404, as live."""
    for method, path, name, operation in _ROUTES:
        app.router.add_route(method, path, _Endpoint("wx." + name, operation).serve)
    app.router.add_route("*", "/v3/{rest:.*}", _unknown)


async def _unknown(request: web.Request) -> web.Response:
    simulator = request.app[STATE]
    raw = await request.read()
    entry = simulator.log.add(simulator.clock.now(), "in", WECHATPAY_V3, "", "", request.method, request.raw_path)
    entry.request_headers, entry.request_body = WireLog.headers(request.headers), WireLog.text(raw)
    entry.verdict = "refused: no such path"
    return _logged(entry, web.Response(status=404))


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
        # Whose it is must be known before it is refused: the page of the trade is where somebody looks for the reason.
        number = self._call(request, _glance(raw), "").number
        entry = simulator.log.add(simulator.clock.now(), "in", WECHATPAY_V3, self.api, number, request.method, request.raw_path)
        entry.request_headers, entry.request_body = WireLog.headers(request.headers), WireLog.text(raw)
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
        # A declined bar payment leaves a trade behind, so that one is the operation's affair.
        if self.api != "wx.codepay" or fault != "decline":
            _raise_before(call.rule)
        if fault in ("rotate", "migrate"):
            rotation.turn("wechatpay" if fault == "rotate" else "migration", done=True)
        silence = await interfere(request, call.rule, "before")
        if silence is not None:
            return silence
        if fault == "http_502":
            return _logged(entry, bad_gateway(fault))
        if fault == "accepted_202":
            return _signed(call, entry, 202, None)
        if self.api == "wx.query":
            bar.asked(call.simulator, call.trade)
        result = self.operation(call)
        if call.note:
            entry.verdict = f"valid, but {call.note}"
        silence = await interfere(request, call.rule, "after")
        if silence is not None:
            return silence
        if fault == "error_after_commit":
            raise WechatError(500, "SYSTEM_ERROR", "系统异常,请稍后重试")
        if fault == "rate_limit_after_commit":
            raise WechatError(429, "FREQUENCY_LIMITED", "频率超限")
        if isinstance(result, bytes):  # a bill, the only success without signature
            return _logged(entry, web.Response(body=result, headers={"Content-Type": "text/plain;charset=utf-8"}))
        status, document = result
        if document is not None and fault == "wrong_amount":
            _lie(document, call.rule)
        return _signed(call, entry, status, document)


def _signed(call: WechatCall, entry: Exchange, status: int, document: dict[str, Any] | None) -> web.Response:
    rotation = call.simulator.rotation
    body = b"" if document is None else json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    signer = PUBLIC_KEY if rotation.done("migration") else call.signer
    signed = signature_headers(call.simulator.keys, signer, body, call.fault, rotated=rotation.done("wechatpay"))
    headers = {"Request-ID": _request_id(), **signed}
    if body:
        headers["Content-Type"] = "application/json; charset=utf-8"
    return _logged(entry, web.Response(status=status, body=body or None, headers=headers))


def _glance(raw: bytes) -> dict[str, Any]:
    """The body as far as it can be read, for the log."""
    try:
        return _document(raw)
    except WechatError:
        return numbers_in(raw.decode("utf-8", "replace"))


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


def _lie(document: dict[str, Any], rule: FaultRule | None) -> None:
    amount = document.get("amount")
    if isinstance(amount, dict) and rule is not None:
        name = "refund" if "refund" in amount else "total"
        amount[name] = amount[name] + 1 if rule.amount is None else rule.amount


def _request_id() -> str:
    return f"08{random_digits(30)}-0"


def _refusal(entry: Exchange, error: WechatError) -> web.Response:
    body = json.dumps(error.document(), ensure_ascii=False).encode()
    headers = {"Request-ID": _request_id(), "Content-Type": "application/json; charset=utf-8"}
    return _logged(entry, web.Response(status=error.status, body=body, headers=headers))


def _logged(entry: Exchange, response: web.Response) -> web.Response:
    entry.answered(response.status, response.headers, response.body if isinstance(response.body, bytes) else b"")
    return response
