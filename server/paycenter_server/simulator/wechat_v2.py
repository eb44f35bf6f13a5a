"""WeChat Pay v2 over HTTP: routes, verification, faults and signed answers around the operations.

Everything is answered with 200 text/plain, also failures. `/secapi` asks for a client certificate on the real one; here only the
TLS listener does (see tls.py), plain HTTP on loopback takes the same calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from paycenter_server.simulator import bar, wechat_bills, wechat_v2_orders, wechat_v2_refunds
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.state import STATE, Simulator
from paycenter_server.simulator.web_faults import bad_gateway, interfere
from paycenter_server.simulator.wechat_v2_call import V2Call
from paycenter_server.simulator.wechat_v2_wire import (
    MD5,
    V2Error,
    check_request,
    glance,
    nonce,
    parse_xml,
    render_xml,
    signed_fields,
)
from paycenter_server.simulator.wechat_xml import WECHATPAY_V2
from paycenter_server.simulator.wire_log import Exchange, WireLog

__all__ = ["add_routes"]

Operation = Callable[[V2Call], dict[str, str] | bytes]
_ROUTES: tuple[tuple[str, Operation], ...] = (
    ("/pay/unifiedorder", wechat_v2_orders.unified_order),
    ("/pay/micropay", wechat_v2_orders.micropay),
    ("/pay/orderquery", wechat_v2_orders.query),
    ("/pay/closeorder", wechat_v2_orders.close),
    ("/pay/refundquery", wechat_v2_refunds.query),
    ("/pay/downloadbill", wechat_bills.download_v2),
    ("/secapi/pay/refund", wechat_v2_refunds.refund),
    ("/secapi/pay/reverse", wechat_v2_orders.reverse),
)
_MONEY_FIELDS = ("refund_fee", "refund_fee_0", "total_fee")


def add_routes(app: web.Application) -> None:
    """Serve the v2 paths; what else is below /pay/ and /secapi/ is a 404."""
    for path, operation in _ROUTES:
        app.router.add_post(path, _Endpoint("wx2." + path.rpartition("/")[2], operation).serve)
    for folder in ("pay", "secapi"):
        app.router.add_route("*", f"/{folder}/{{rest:.*}}", _unknown)


async def _unknown(request: web.Request) -> web.Response:
    simulator = request.app[STATE]
    raw = await request.read()
    number = glance(raw).get("out_trade_no", "")
    entry = simulator.log.add(simulator.clock.now(), "in", WECHATPAY_V2, "", number, request.method, request.raw_path)
    entry.request_headers, entry.request_body = WireLog.headers(request.headers), WireLog.text(raw)
    entry.verdict = "refused: no such path"
    return _logged(entry, web.Response(status=404))


@dataclass(frozen=True)
class _Endpoint:
    api: str
    operation: Operation

    async def serve(self, request: web.Request) -> web.Response:
        simulator = request.app[STATE]
        raw = await request.read()
        # Whose it is must be known before it is refused: the page of the trade is where somebody looks for the reason.
        number = V2Call(simulator, self.api, MD5, glance(raw)).number
        entry = simulator.log.add(simulator.clock.now(), "in", WECHATPAY_V2, self.api, number, request.method, request.raw_path)
        entry.request_headers, entry.request_body = WireLog.headers(request.headers), WireLog.text(raw)
        kind, how = MD5, ""
        try:
            fields = parse_xml(raw)
            kind = check_request(simulator.keys, fields)
            entry.verdict = "valid"
            call = V2Call(simulator, self.api, kind, fields)
            call.rule = simulator.faults.take(self.api, call.numbers)
            entry.fault = how = call.fault
            silence = await interfere(request, call.rule, "before")
            if silence is not None:
                return silence
            if how in ("http_502", "http_503"):
                return _logged(entry, bad_gateway(how))
            self._raise_before(call.rule)
            if self.api == "wx2.orderquery":
                bar.asked(simulator, call.trade)
            document = self.operation(call)
            if call.note:
                entry.verdict = f"valid, but {call.note}"
            silence = await interfere(request, call.rule, "after")
            if silence is not None:
                return silence
            if how == "error_after_commit":
                raise V2Error("SYSTEMERROR", "系统错误")
            if how == "rate_limit_after_commit":
                raise V2Error("FREQUENCY_LIMITED", "频率限制")
        except V2Error as error:
            entry.verdict = entry.verdict or f"refused: {error.code or 'FAIL'} {error.text}"
            return _answer(simulator, entry, _failure(simulator, error), kind, how)
        if isinstance(document, bytes):  # a bill
            return _logged(entry, web.Response(body=document, headers={"Content-Type": "text/plain"}))
        if call.rule is not None and call.fault == "wrong_amount":
            _lie(document, call.rule)
        return _answer(simulator, entry, _head(simulator) | {"result_code": "SUCCESS"} | document, kind, how)

    def _raise_before(self, rule: FaultRule | None) -> None:
        fault = rule.fault if rule else ""
        if fault == "error_before_commit":
            raise V2Error("SYSTEMERROR", "系统错误")
        if fault == "rate_limit":
            raise V2Error("FREQUENCY_LIMITED", "频率限制")
        # A declined bar payment leaves a trade behind, so that one is the operation's affair.
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


def _lie(document: dict[str, str], rule: FaultRule) -> None:
    name = next((field for field in _MONEY_FIELDS if field in document), "")
    if name:
        document[name] = str(int(document[name]) + 1 if rule.amount is None else rule.amount)


def _answer(simulator: Simulator, entry: Exchange, fields: dict[str, str], kind: str, how: str) -> web.Response:
    # Failures of the transport carry no signature.
    signed = fields if fields["return_code"] == "FAIL" else signed_fields(simulator.keys, fields, kind, how)
    body = render_xml(signed)
    return _logged(entry, web.Response(body=body, headers={"Content-Type": "text/plain"}))


def _logged(entry: Exchange, response: web.Response) -> web.Response:
    entry.answered(response.status, response.headers, response.body if isinstance(response.body, bytes) else b"")
    return response
