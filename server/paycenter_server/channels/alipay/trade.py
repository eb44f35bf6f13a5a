"""Alipay trades: query, close, refund and callbacks of all its ways to pay."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from paycenter_server.channels.alipay import outcomes
from paycenter_server.channels.alipay.amounts import fen, yuan
from paycenter_server.channels.alipay.gateway import Answer, Gateway
from paycenter_server.channels.alipay.signature import parse_form, verify_callback
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
from paycenter_server.channels.texts import text
from paycenter_server.channels.times import alipay, parse_alipay

T = TypeVar("T")
CURRENCY = "CNY"


class AlipayTradeCodec:
    """The codec of one application. A product adds `pay`."""

    code: str

    def __init__(self, config: Mapping[str, str]) -> None:
        self.gateway = Gateway(config)
        self.account = self.gateway.merchant.facts

    def create_fields(self, request: PayRequest) -> dict[str, Any]:
        """The fields of every product. `time_expire` is the attempt's expiry, so that it does not stay payable longer."""
        fields = {
            "out_trade_no": request.out_trade_no,
            "total_amount": yuan(request.amount),
            "subject": request.subject,
            "time_expire": alipay(request.expire_time),
        }
        return {**fields, "body": request.body} if request.body else fields

    def call(
        self,
        api: str,
        content: Mapping[str, Any],
        context: RequestContext,
        good: Callable[[Answer], T],
        bad: Callable[[Answer], T],
        unclear: Callable[[str], T],
        **urls: str,
    ) -> Call[T]:
        """A gateway call. `good` reads an answer with code 10000, `bad` every other verified or unsigned answer."""

        def parse(response: HttpResponse, now: datetime) -> T:
            answer = self.gateway.read(api, response)
            return good(answer) if answer.code == outcomes.SUCCESS else bad(answer)

        return Call(api, self.gateway.request(api, content, context, plain=False, **urls), parse, unclear)

    def pay_call(
        self,
        api: str,
        content: Mapping[str, Any],
        request: PayRequest,
        context: RequestContext,
        good: Callable[[Answer], PayOutcome],
        bad: Callable[[Answer], PayOutcome] | None = None,
    ) -> Call[PayOutcome]:
        """A call that creates a trade."""

        def unclear(why: str) -> PayOutcome:
            return PayOutcome(PayStatus.UNKNOWN, error_code="UNCLEAR", error_message=why)

        return self.call(api, content, context, good, bad or self.refused, unclear, notify_url=request.callback_url)

    def refused(self, answer: Answer) -> PayOutcome:
        """The outcome of a refused submit. It is definite only if the answer is signed and its code is in a table."""
        status = outcomes.PAY_ERRORS.get(answer.sub_code, PayStatus.UNKNOWN)
        if answer.code in outcomes.CONFIGURATION_CODES:
            status = PayStatus.REFUSED
        if not answer.signed:
            status = PayStatus.UNKNOWN
        return PayOutcome(status, error_code=answer.sub_code, error_message=answer.message)

    def query(self, attempt: AttemptRef, context: RequestContext) -> Call[QueryOutcome]:
        """`alipay.trade.query`. An unknown number may be that of a QR code that was not scanned yet."""

        def bad(answer: Answer) -> QueryOutcome:
            status = outcomes.QUERY_ERRORS.get(answer.sub_code, QueryStatus.UNKNOWN) if answer.signed else QueryStatus.UNKNOWN
            return QueryOutcome(status, None, answer.sub_code, answer.message)

        return self.call(
            "alipay.trade.query",
            {"out_trade_no": attempt.out_trade_no},
            context,
            # The answer of a query does not contain the account. It answers a request that only our key can have signed.
            lambda answer: self.read_trade(answer.content, self.account, "send_pay_date"),
            bad,
            lambda why: QueryOutcome(QueryStatus.UNKNOWN, None, "UNCLEAR", why),
        )

    def close(self, attempt: AttemptRef, context: RequestContext) -> Call[CloseOutcome]:
        """`alipay.trade.close`. The answer is TRADE_NOT_EXIST for a QR code that was not scanned, which stays payable."""

        def good(answer: Answer) -> CloseOutcome:
            if answer.text("out_trade_no") != attempt.out_trade_no:
                raise AnswerError("the answer is not about this out_trade_no")
            return CloseOutcome(CloseStatus.CLOSED)

        def bad(answer: Answer) -> CloseOutcome:
            status = outcomes.CLOSE_ERRORS.get(answer.sub_code, CloseStatus.UNKNOWN) if answer.signed else CloseStatus.UNKNOWN
            return CloseOutcome(status, answer.sub_code, answer.message)

        return self.call(
            "alipay.trade.close",
            {"out_trade_no": attempt.out_trade_no},
            context,
            good,
            bad,
            lambda why: CloseOutcome(CloseStatus.UNKNOWN, "UNCLEAR", why),
        )

    def refund(self, request: RefundRequest, context: RequestContext) -> Call[RefundOutcome]:
        """`alipay.trade.refund`. `fund_change` N: this call moved no money, so the refund is queried."""
        content = {
            "out_trade_no": request.out_trade_no,
            "refund_amount": yuan(request.amount),
            "out_request_no": request.out_refund_no,
            "refund_reason": request.reason,
        }

        def good(answer: Answer) -> RefundOutcome:
            # The answer's refund_fee is the total of all refunds so far. It is not less than this refund.
            total = fen(answer.content.get("refund_fee")) or 0
            moved = answer.text("fund_change") == "Y" and answer.text("out_trade_no") == request.out_trade_no
            if not moved or total < request.amount:
                return RefundOutcome(RefundStatus.PENDING)
            at = parse_alipay(answer.text("gmt_refund_pay"))
            facts = RefundFacts(request.out_refund_no, request.out_trade_no, request.amount, self.account, "", at)
            return RefundOutcome(RefundStatus.SUCCESS, facts)

        return self._refund_call("alipay.trade.refund", content, context, good, outcomes.REFUND_ERRORS, RefundStatus.RETRY_LATER)

    def query_refund(self, request: RefundRequest, context: RequestContext) -> Call[RefundOutcome]:
        """`alipay.trade.fastpay.refund.query`. A success without `refund_status` means that the refund does not exist."""
        content = {
            "out_trade_no": request.out_trade_no,
            "out_request_no": request.out_refund_no,
            "query_options": ["gmt_refund_pay"],
        }

        def good(answer: Answer) -> RefundOutcome:
            status = answer.text("refund_status")
            if not status and not answer.text("refund_amount"):
                return RefundOutcome(RefundStatus.NOT_FOUND)
            if status != "REFUND_SUCCESS":
                return RefundOutcome(RefundStatus.PENDING)
            facts = RefundFacts(
                out_refund_no=answer.text("out_request_no"),
                out_trade_no=answer.text("out_trade_no"),
                amount=fen(answer.content.get("refund_amount")),
                account=self.account,
                success_time=parse_alipay(answer.text("gmt_refund_pay")),
            )
            return RefundOutcome(RefundStatus.SUCCESS, facts)

        api = "alipay.trade.fastpay.refund.query"
        return self._refund_call(api, content, context, good, outcomes.REFUND_QUERY_ERRORS, RefundStatus.UNKNOWN)

    def _refund_call(
        self,
        api: str,
        content: Mapping[str, Any],
        context: RequestContext,
        good: Callable[[Answer], RefundOutcome],
        errors: Mapping[str, RefundStatus],
        turned_away: RefundStatus,
    ) -> Call[RefundOutcome]:
        """`turned_away`: the status if the gateway refuses the configuration."""

        def bad(answer: Answer) -> RefundOutcome:
            status = errors.get(answer.sub_code, RefundStatus.UNKNOWN)
            if answer.code in outcomes.CONFIGURATION_CODES:
                status = turned_away
            if not answer.signed:
                status = RefundStatus.UNKNOWN
            return RefundOutcome(status, None, answer.sub_code, answer.message)

        return self.call(api, content, context, good, bad, lambda why: RefundOutcome(RefundStatus.UNKNOWN, None, "UNCLEAR", why))

    def read_trade(self, trade: Mapping[str, Any], account: Mapping[str, str], paid_field: str) -> QueryOutcome:
        """The outcome of a trade in the answer of a query or in a callback."""

        state = text(trade.get("trade_status"))
        total = fen(trade.get("refund_fee"))  # of all refunds so far
        refunded = (total or 0) > 0 or bool(text(trade.get("gmt_refund")))
        if state in ("TRADE_SUCCESS", "TRADE_FINISHED"):
            status = QueryStatus.PAID
        elif state == "TRADE_CLOSED":
            status = QueryStatus.PAID if refunded or text(trade.get(paid_field)) else QueryStatus.CLOSED
        else:
            status = QueryStatus.WAITING if state == "WAIT_BUYER_PAY" else QueryStatus.UNKNOWN
        back = Refunded.SOME if refunded else Refunded.NOTHING
        if status is QueryStatus.PAID and state == "TRADE_CLOSED":
            back = Refunded.ALL
        payment = Payment(
            out_trade_no=text(trade.get("out_trade_no")),
            channel_order_no=text(trade.get("trade_no")),
            amount=fen(trade.get("total_amount")),
            currency=text(trade.get("trans_currency")) or CURRENCY,
            account=account,
            channel_user_id=text(trade.get("buyer_user_id")) or text(trade.get("buyer_id")) or text(trade.get("buyer_open_id")),
            success_time=parse_alipay(text(trade.get(paid_field))),
            refunded=back,
            refunded_amount=total,
        )
        return QueryOutcome(status, payment, "" if status is not QueryStatus.UNKNOWN else "TRADE_STATUS", state)

    def parse_callback(self, request: CallbackRequest, now: datetime) -> Callback:
        """Read the form in the body, which is verified. Parameters in the URL are ignored."""
        charset = "gbk" if b"charset=gbk" in request.body[:20_000].lower() else "utf-8"
        fields = parse_form(request.body, charset)
        keys = self.gateway.callback_keys(fields.get("alipay_cert_sn") or None)
        if not any(verify_callback(key, fields, charset) for key in keys):
            raise CallbackError("the signature does not verify")
        raw, number = json.dumps(fields, ensure_ascii=False, sort_keys=True), fields.get("notify_id", "")
        if fields.get("notify_type") != "trade_status_sync":
            return Callback(raw=raw, message_id=number)
        account = {name: fields.get(name, "") for name in ("app_id", "seller_id")}
        refund = None
        if fields.get("out_biz_no") and fields.get("gmt_refund"):
            # The callback of the trade states only the total of its refunds, so the refund is queried.
            facts = RefundFacts(fields["out_biz_no"], fields.get("out_trade_no", ""), None, account)
            refund = RefundOutcome(RefundStatus.PENDING, facts)
        return Callback(self.read_trade(fields, account, "gmt_payment"), refund, raw, message_id=number)

    def acknowledge(self, received: bool, message: str) -> CallbackResponse:
        """Exactly `success`; otherwise a status that makes Alipay send it again."""
        return CallbackResponse(200, b"success") if received else CallbackResponse(500, b"fail")

    def keys_due(self, now: datetime) -> bool:
        """Certificates are fetched when an unknown one is used."""
        return False

    def fetch_keys(self, serial: str | None, context: RequestContext) -> Call[bool] | None:
        """Fetch the certificate with this SN."""
        return self.gateway.fetch_certificate(serial or "", context)
