"""The routes of APIv2: verification, fault rules and signed answers of all operations.

Every answer, also of a failure, is 200 text/plain. WeChat Pay requires a client certificate for `/secapi`. Here only the TLS
listener requires it; plain HTTP accepts the same calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from paycenter_server.simulator import actions
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.http import apply_connection_fault, gateway_error, log_answer, log_request
from paycenter_server.simulator.state import STATE, Simulator
from paycenter_server.simulator.wechatpay import bills, v2_trades
from paycenter_server.simulator.wechatpay.notifications import WECHATPAY_V2
from paycenter_server.simulator.wechatpay.v2_call import (
    MD5,
    V2Call,
    V2Error,
    check_request,
    nonce,
    parse_xml,
    partial_fields,
    render_xml,
    signed_fields,
)
from paycenter_server.simulator.wire_log import Exchange

__all__ = ["add_routes"]

Operation = Callable[[V2Call], dict[str, str] | bytes]
_ROUTES: tuple[tuple[str, Operation], ...] = (
    ("/pay/unifiedorder", v2_trades.unified_order),
    ("/pay/micropay", v2_trades.micropay),
    ("/pay/orderquery", v2_trades.query_order),
    ("/pay/closeorder", v2_trades.close),
    ("/pay/refundquery", v2_trades.query_refund),
    ("/pay/downloadbill", bills.download_v2),
    ("/secapi/pay/refund", v2_trades.refund),
    ("/secapi/pay/reverse", v2_trades.reverse),
)
_MONEY_FIELDS = ("refund_fee", "refund_fee_0", "total_fee")


def add_routes(app: web.Application) -> None:
    """Serve the v2 paths; any other path below /pay/ and /secapi/ is a 404."""
    for path, operation in _ROUTES:
        app.router.add_post(path, _Endpoint("wx2." + path.rpartition("/")[2], operation).serve)
    for folder in ("pay", "secapi"):
        app.router.add_route("*", f"/{folder}/{{rest:.*}}", _unknown)


async def _unknown(request: web.Request) -> web.Response:
    raw = await request.read()
    number = partial_fields(raw).get("out_trade_no", "")
    entry = log_request(request, WECHATPAY_V2, "", number, raw)
    entry.verdict = "refused: no such path"
    return log_answer(entry, web.Response(status=404))


@dataclass(frozen=True)
class _Endpoint:
    api: str
    operation: Operation

    async def serve(self, request: web.Request) -> web.Response:
        simulator = request.app[STATE]
        raw = await request.read()
        # The number is read before the verification, so that the page of the trade shows refused calls.
        number = V2Call(simulator, self.api, MD5, partial_fields(raw)).number
        entry = log_request(request, WECHATPAY_V2, self.api, number, raw)
        kind, signature_fault = MD5, ""
        try:
            fields = parse_xml(raw)
            kind = check_request(simulator.keys, fields)
            entry.verdict = "valid"
            call = V2Call(simulator, self.api, kind, fields)
            call.rule = simulator.faults.take(self.api, call.numbers)
            entry.fault = signature_fault = call.fault
            interruption = await apply_connection_fault(request, call.rule, "before")
            if interruption is not None:
                return interruption
            if signature_fault in ("http_502", "http_503"):
                return log_answer(entry, gateway_error(signature_fault))
            self._raise_before(call.rule)
            if self.api == "wx2.orderquery":
                actions.confirm_on_query(simulator, call.trade)
            document = self.operation(call)
            if call.note:
                entry.verdict = f"valid, but {call.note}"
            interruption = await apply_connection_fault(request, call.rule, "after")
            if interruption is not None:
                return interruption
            if signature_fault == "error_after_commit":
                raise V2Error("SYSTEMERROR", "系统错误")
            if signature_fault == "rate_limit_after_commit":
                raise V2Error("FREQUENCY_LIMITED", "频率限制")
        except V2Error as error:
            entry.verdict = entry.verdict or f"refused: {error.code or 'FAIL'} {error.text}"
            return _answer(simulator, entry, _failure(simulator, error), kind, signature_fault)
        if isinstance(document, bytes):  # a bill file
            return log_answer(entry, web.Response(body=document, headers={"Content-Type": "text/plain"}))
        if call.rule is not None and call.fault == "wrong_amount":
            _change_amount(document, call.rule)
        return _answer(simulator, entry, _head(simulator) | {"result_code": "SUCCESS"} | document, kind, signature_fault)

    def _raise_before(self, rule: FaultRule | None) -> None:
        fault = rule.fault if rule else ""
        if fault == "error_before_commit":
            raise V2Error("SYSTEMERROR", "系统错误")
        if fault == "rate_limit":
            raise V2Error("FREQUENCY_LIMITED", "频率限制")
        # A declined code payment creates a failed trade, so the operation handles it.
        if rule is not None and fault == "decline" and self.api != "wx2.micropay":
            raise V2Error(rule.code or "SYSTEMERROR", "业务失败")


def _head(simulator: Simulator) -> dict[str, str]:
    ids = simulator.keys.wechatpay
    return {
        "return_code": "SUCCESS",
        "return_msg": "OK",
        "appid": ids["appid"],
        "mch_id": ids["mchid"],
        "nonce_str": nonce(),
    }


def _failure(simulator: Simulator, error: V2Error) -> dict[str, str]:
    if not error.code:
        return {"return_code": "FAIL", "return_msg": error.text} | error.more
    return _head(simulator) | {"result_code": "FAIL", "err_code": error.code, "err_code_des": error.text} | error.more


def _change_amount(document: dict[str, str], rule: FaultRule) -> None:
    name = next((field for field in _MONEY_FIELDS if field in document), "")
    if name:
        document[name] = str(int(document[name]) + 1 if rule.amount is None else rule.amount)


def _answer(simulator: Simulator, entry: Exchange, fields: dict[str, str], kind: str, signature_fault: str) -> web.Response:
    # An answer with return_code FAIL has no signature.
    signed = fields if fields["return_code"] == "FAIL" else signed_fields(simulator.keys, fields, kind, signature_fault)
    body = render_xml(signed)
    return log_answer(entry, web.Response(body=body, headers={"Content-Type": "text/plain"}))
