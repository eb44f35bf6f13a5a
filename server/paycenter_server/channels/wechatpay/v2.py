"""WeChat Pay v2: signed XML over HTTPS, with a client certificate for refunds and reversals.

Amounts are whole fen, times `yyyyMMddHHmmss` at +08:00. An answer has two levels: `return_code` (FAIL is unsigned and means that
the request was not understood) and `result_code` with `err_code`. An answer with a result is verified.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from paycenter_server.channels.protocol import (
    AnswerError,
    AttemptRef,
    Call,
    Callback,
    CallbackError,
    CallbackRequest,
    CallbackResponse,
    CloseOutcome,
    CloseStatus,
    HttpRequest,
    HttpResponse,
    Payment,
    PayOutcome,
    PayRequest,
    PayStatus,
    QueryOutcome,
    QueryStatus,
    Refunded,
    RefundFacts,
    RefundOutcome,
    RefundRequest,
    RefundStatus,
    RequestContext,
)
from paycenter_server.channels.times import parse_alipay, parse_wechat_v2, wechat_v2
from paycenter_server.channels.wechatpay import outcomes as v3_outcomes
from paycenter_server.channels.wechatpay import v2_outcomes
from paycenter_server.channels.wechatpay.accounts import V2Account
from paycenter_server.channels.wechatpay.v2_callbacks import answer as callback_response
from paycenter_server.channels.wechatpay.v2_callbacks import read_refund, whole
from paycenter_server.channels.wechatpay.v2_xml import build, parse, sign, verify
from paycenter_server.version import USER_AGENT

T = TypeVar("T")


class WechatV2Codec(ABC):
    """The codec of one merchant and product. `trade_type` is the value for unifiedorder."""

    code: str
    trade_type: str

    def __init__(self, config: Mapping[str, str]) -> None:
        self.merchant = V2Account.of(config)
        self.account = self.merchant.facts

    @abstractmethod
    def created(self, answer: Mapping[str, str], request: PayRequest, context: RequestContext) -> PayOutcome:
        """The outcome of a product's answer to a create."""

    def create_fields(self, request: PayRequest) -> dict[str, str]:
        """The fields that a product adds to the create request."""
        return {}

    # Requests

    def request(self, path: str, fields: Mapping[str, str], context: RequestContext, *, certificate: bool = False) -> HttpRequest:
        """A signed request. `certificate`: with the client certificate, which /secapi requires."""
        named = {
            "appid": self.merchant.appid, "mch_id": self.merchant.mchid, "nonce_str": context.nonce,
            "sign_type": self.merchant.sign_type, **fields,
        }  # fmt: skip
        named["sign"] = sign(named, self.merchant.mch_key, self.merchant.sign_type)
        headers = (("Content-Type", "text/xml; charset=utf-8"), ("Accept", "*/*"), ("User-Agent", USER_AGENT))
        used = self.merchant.client_certificate if certificate else None
        return HttpRequest("POST", self.merchant.gateway_url + path, headers, build(named), used)

    def call(
        self,
        api: str,
        request: HttpRequest,
        good: Callable[[Mapping[str, str]], T],
        errors: Mapping[str, Any],
        bad: Callable[[Any, str, str], T],
        not_understood: Any = None,
    ) -> Call[T]:
        """A call. `good` reads a verified success. `bad` gets the row of the err_code, or `not_understood` for return_code FAIL."""

        def parse_answer(response: HttpResponse, now: datetime) -> T:
            if response.status != 200:
                return bad(None, f"HTTP_{response.status}", "")
            fields = parse(response.body)
            if fields.get("return_code") != "SUCCESS":
                return bad(not_understood, "RETURN_FAIL", fields.get("return_msg", ""))
            if not verify(fields, self.merchant.mch_key):
                raise AnswerError("the signature does not verify")
            if (fields.get("appid"), fields.get("mch_id")) != (self.merchant.appid, self.merchant.mchid):
                raise AnswerError("the answer is for another merchant or application")
            if fields.get("result_code") == "SUCCESS":
                return good(fields)
            code = fields.get("err_code", "")
            return bad(errors.get(code), code or "RESULT_FAIL", fields.get("err_code_des", ""))

        return Call(api, request, parse_answer, lambda why: bad(None, "UNCLEAR", why))

    # Pay, query, close

    def pay_fields(self, request: PayRequest) -> dict[str, str]:
        """The fields of every create request."""
        return {
            "body": request.subject,
            "out_trade_no": request.out_trade_no,
            "total_fee": str(request.amount),
            "fee_type": request.currency,
            "spbill_create_ip": request.user_ip,
            "time_expire": wechat_v2(request.expire_time),
        }

    def pay(self, request: PayRequest, context: RequestContext) -> Call[PayOutcome]:
        """`/pay/unifiedorder`."""
        fields = {
            **self.pay_fields(request),
            "notify_url": request.callback_url,
            "trade_type": self.trade_type,
            **self.create_fields(request),
        }
        return self.call(
            "wx2.pay",
            self.request("/pay/unifiedorder", fields, context),
            lambda answer: self.created(answer, request, context),
            v2_outcomes.PAY_ERRORS,
            lambda known, code, why: PayOutcome(known or PayStatus.UNKNOWN, error_code=code, error_message=why),
            # Nothing was created, and the payer has seen nothing. If it is paid nevertheless, that is a late payment.
            PayStatus.REFUSED,
        )

    def query(self, attempt: AttemptRef, context: RequestContext) -> Call[QueryOutcome]:
        """`/pay/orderquery`."""
        return self.call(
            "wx2.query",
            self.request("/pay/orderquery", {"out_trade_no": attempt.out_trade_no}, context),
            self.transaction,
            v2_outcomes.QUERY_ERRORS,
            lambda known, code, why: QueryOutcome(known or QueryStatus.UNKNOWN, None, code, why),
        )

    def close(self, attempt: AttemptRef, context: RequestContext) -> Call[CloseOutcome]:
        """`/pay/closeorder`."""
        return self.call(
            "wx2.close",
            self.request("/pay/closeorder", {"out_trade_no": attempt.out_trade_no}, context),
            lambda answer: CloseOutcome(CloseStatus.CLOSED),
            v2_outcomes.CLOSE_ERRORS,
            lambda known, code, why: CloseOutcome(known or CloseStatus.UNKNOWN, code, why),
        )

    def transaction(self, fields: Mapping[str, str], state: str | None = None) -> QueryOutcome:
        """The outcome of a payment in the answer of a query or in a callback. A missing `fee_type` means CNY."""
        state = state or fields.get("trade_state", "")
        status = v3_outcomes.TRADE_STATES.get(state, QueryStatus.UNKNOWN)
        payment = Payment(
            out_trade_no=fields.get("out_trade_no", ""),
            channel_order_no=fields.get("transaction_id", ""),
            amount=whole(fields.get("total_fee", "")),
            currency=fields.get("fee_type") or "CNY",
            account={"appid": fields.get("appid", ""), "mchid": fields.get("mch_id", "")},
            channel_user_id=fields.get("openid", ""),
            success_time=parse_wechat_v2(fields.get("time_end", "")),
            refunded=Refunded.SOME if state == "REFUND" else Refunded.NOTHING,
        )
        return QueryOutcome(status, payment, "" if status is not QueryStatus.UNKNOWN else "TRADE_STATE", state)

    # Refunds

    def refund(self, request: RefundRequest, context: RequestContext) -> Call[RefundOutcome]:
        """`/secapi/pay/refund`. A success means that it was accepted; a query or a callback has the result."""
        fields = {
            "out_trade_no": request.out_trade_no,
            "out_refund_no": request.out_refund_no,
            "total_fee": str(request.total),
            "refund_fee": str(request.amount),
            "refund_fee_type": request.currency,
            "refund_desc": request.reason,
            "notify_url": request.callback_url,
        }
        return self.call(
            "wx2.refund",
            self.request("/secapi/pay/refund", fields, context, certificate=True),
            lambda answer: RefundOutcome(RefundStatus.PENDING),
            v2_outcomes.REFUND_ERRORS,
            _refund_error,
            RefundStatus.RETRY_LATER,
        )

    def query_refund(self, request: RefundRequest, context: RequestContext) -> Call[RefundOutcome]:
        """`/pay/refundquery` by out_refund_no."""

        def good(fields: Mapping[str, str]) -> RefundOutcome:
            state = fields.get("refund_status_0", "")
            facts = RefundFacts(
                out_refund_no=fields.get("out_refund_no_0", ""),
                out_trade_no=fields.get("out_trade_no", ""),
                amount=whole(fields.get("refund_fee_0", "")),
                account={"appid": fields.get("appid", ""), "mchid": fields.get("mch_id", "")},
                channel_refund_no=fields.get("refund_id_0", ""),
                success_time=parse_alipay(fields.get("refund_success_time_0", "")),
            )
            status = v2_outcomes.REFUND_STATES.get(state, RefundStatus.UNKNOWN)
            return RefundOutcome(status, facts, "" if state in ("SUCCESS", "PROCESSING") else state, "")

        return self.call(
            "wx2.refund_query",
            self.request("/pay/refundquery", {"out_refund_no": request.out_refund_no}, context),
            good,
            v2_outcomes.REFUND_QUERY_ERRORS,
            _refund_error,
        )

    # Callbacks

    def parse_callback(self, request: CallbackRequest, now: datetime) -> Callback:
        """Verify and read a payment callback, or read a refund callback."""
        try:
            fields = parse(request.body)
        except AnswerError as error:
            raise CallbackError(str(error)) from error
        if "req_info" in fields:
            return read_refund(request.body, self.merchant.mch_key, self.merchant.appid, self.merchant.mchid)
        if fields.get("return_code") != "SUCCESS" or not verify(fields, self.merchant.mch_key, self.merchant.sign_type):
            raise CallbackError("the signature does not verify")
        raw = request.body.decode(errors="replace")
        if fields.get("result_code") != "SUCCESS":
            return Callback(raw=raw)
        return Callback(payment=self.transaction(fields, "SUCCESS"), raw=raw)

    def acknowledge(self, received: bool, message: str) -> CallbackResponse:
        """The acknowledgement is XML."""
        return callback_response(received, message)

    def keys_due(self, now: datetime) -> bool:
        """API v2 has one shared key, which is configured."""
        return False

    def fetch_keys(self, serial: str | None, context: RequestContext) -> Call[bool] | None:
        """There is nothing to fetch."""
        return None


def _refund_error(known: Any, code: str, why: str) -> RefundOutcome:
    return RefundOutcome(known or RefundStatus.UNKNOWN, None, code, why)
