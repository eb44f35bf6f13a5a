"""WeChat Pay v3: the operations of all its products.

Amounts are whole fen, times RFC 3339 at +08:00. Every 2xx answer is signed, and is verified before it is read. A 4xx has no
signature, so its code decides only what the tables in `outcomes` allow.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from paycenter_server.channels.crypto import (
    CryptoError,
    certificate_serial,
)
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
from paycenter_server.channels.texts import text as _text
from paycenter_server.channels.times import parse_http_date, parse_rfc3339, rfc3339
from paycenter_server.channels.wechatpay import outcomes
from paycenter_server.channels.wechatpay.accounts import V3Account
from paycenter_server.channels.wechatpay.signature import (
    REFRESH_AFTER,
    WINDOW_SECONDS,
    Verifier,
    authorization,
    decrypt_resource,
    read_certificates,
)
from paycenter_server.channels.wechatpay.v2_callbacks import read_refund
from paycenter_server.version import USER_AGENT

T = TypeVar("T")


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _inner(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = answer.get(name)
    return value if isinstance(value, dict) else {}


class WechatV3Codec(ABC):
    """The codec of one merchant and product. `product` is the last part of the create path."""

    code: str
    product: str

    def __init__(self, config: Mapping[str, str]) -> None:
        self.merchant = V3Account.of(config)
        self.account = self.merchant.facts
        keys = {self.merchant.public_key_id: self.merchant.public_key} if self.merchant.public_key else {}
        certificates = {certificate_serial(certificate): certificate for certificate in self.merchant.platform_certificates}
        self._verifier = Verifier(keys, certificates)

    @abstractmethod
    def created(self, answer: Mapping[str, Any], request: PayRequest, context: RequestContext) -> PayOutcome:
        """The outcome of a product's answer to a create."""

    def create_fields(self, request: PayRequest) -> dict[str, Any]:
        """The fields that a product adds to the create request."""
        return {}

    # Requests

    def _request(self, method: str, target: str, context: RequestContext, fields: Mapping[str, Any] | None = None) -> HttpRequest:
        body = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() if fields is not None else b""
        timestamp = str(int(context.now.timestamp()))
        signed = authorization(
            self.merchant.private_key,
            self.merchant.mchid,
            self.merchant.merchant_serial_no,
            method,
            target,
            timestamp,
            context.nonce,
            body,
        )
        headers = [("Authorization", signed), ("Accept", "application/json"), ("User-Agent", USER_AGENT)]
        if body:
            headers.append(("Content-Type", "application/json"))
        if self.merchant.public_key_id:
            headers.append(("Wechatpay-Serial", self.merchant.public_key_id))
        return HttpRequest(method, self.merchant.gateway_url + target, tuple(headers), body)

    def _verified(self, response: HttpResponse, now: datetime) -> Mapping[str, Any]:
        self._verifier.verify(response.headers, response.body, now)
        if not response.body:
            return {}
        return _json_object(response.body)

    def _read(
        self,
        response: HttpResponse,
        now: datetime,
        good: Callable[[Mapping[str, Any]], T],
        errors: Mapping[str, Any],
        bad: Callable[[Any, str, str], T],
    ) -> T:
        """Read an answer: `good` reads a verified 2xx answer; otherwise `bad` gets the code's row in `errors` (None: no row)."""
        if response.status == 202:
            return bad(None, "ACCEPTED", "the request was accepted but not carried out yet")
        if 200 <= response.status < 300:
            return good(self._verified(response, now))
        answer = _read_or_nothing(response.body)
        code, message = _text(answer.get("code")), _text(answer.get("message"))
        known = errors.get(code) if response.status < 500 and response.status != 429 else None
        return bad(known, code or f"HTTP_{response.status}", message)

    # Pay, query, close

    def pay(self, request: PayRequest, context: RequestContext) -> Call[PayOutcome]:
        """`POST /v3/pay/transactions/{product}`. A repetition with the same content has the same answer."""
        fields: dict[str, Any] = {
            "appid": self.merchant.appid,
            "mchid": self.merchant.mchid,
            "description": request.subject,
            "out_trade_no": request.out_trade_no,
            "time_expire": rfc3339(request.expire_time),
            "notify_url": request.callback_url,
            "amount": {"total": request.amount, "currency": request.currency},
            "scene_info": {"payer_client_ip": request.user_ip},
            **self.create_fields(request),
        }
        return self._create(fields, request, context, outcomes.PAY_ERRORS)

    def _create(
        self, fields: Mapping[str, Any], request: PayRequest, context: RequestContext, errors: Mapping[str, PayStatus]
    ) -> Call[PayOutcome]:
        def parse(response: HttpResponse, now: datetime) -> PayOutcome:
            return self._read(
                response,
                now,
                lambda answer: self.created(answer, request, context),
                errors,
                lambda known, code, message: PayOutcome(known or PayStatus.UNKNOWN, error_code=code, error_message=message),
            )

        target = f"/v3/pay/transactions/{self.product}"
        return Call("wx.pay", self._request("POST", target, context, fields), parse, _unclear(PayOutcome, PayStatus.UNKNOWN))

    def query(self, attempt: AttemptRef, context: RequestContext) -> Call[QueryOutcome]:
        """`GET /v3/pay/transactions/out-trade-no/{out_trade_no}`."""
        target = f"/v3/pay/transactions/out-trade-no/{attempt.out_trade_no}?mchid={self.merchant.mchid}"

        def parse(response: HttpResponse, now: datetime) -> QueryOutcome:
            return self._read(
                response,
                now,
                transaction,
                outcomes.QUERY_ERRORS,
                lambda known, code, message: QueryOutcome(known or QueryStatus.UNKNOWN, None, code, message, signed=False),
            )

        return Call("wx.query", self._request("GET", target, context), parse, _unclear(QueryOutcome, QueryStatus.UNKNOWN))

    def close(self, attempt: AttemptRef, context: RequestContext) -> Call[CloseOutcome]:
        """`POST /v3/pay/transactions/out-trade-no/{out_trade_no}/close`. The answer is a signed 204."""
        target = f"/v3/pay/transactions/out-trade-no/{attempt.out_trade_no}/close"
        return self._end("wx.close", target, {"mchid": self.merchant.mchid}, context, outcomes.CLOSE_ERRORS)

    def _end(
        self, api: str, target: str, fields: Mapping[str, str], context: RequestContext, errors: Mapping[str, CloseStatus]
    ) -> Call[CloseOutcome]:
        def parse(response: HttpResponse, now: datetime) -> CloseOutcome:
            return self._read(
                response,
                now,
                lambda answer: CloseOutcome(CloseStatus.CLOSED),
                errors,
                lambda known, code, message: CloseOutcome(known or CloseStatus.UNKNOWN, code, message),
            )

        request = self._request("POST", target, context, fields)
        return Call(api, request, parse, _unclear(CloseOutcome, CloseStatus.UNKNOWN))

    # Refunds

    def refund(self, request: RefundRequest, context: RequestContext) -> Call[RefundOutcome]:
        """`POST /v3/refund/domestic/refunds`, always with a notify_url: without it WeChat Pay sends a callback in v2 XML."""
        fields = {
            "out_trade_no": request.out_trade_no,
            "out_refund_no": request.out_refund_no,
            "reason": request.reason,
            "notify_url": request.callback_url,
            "amount": {"refund": request.amount, "total": request.total, "currency": request.currency},
        }
        http = self._request("POST", "/v3/refund/domestic/refunds", context, fields)
        return self._refund_call("wx.refund", http, outcomes.REFUND_ERRORS)

    def query_refund(self, request: RefundRequest, context: RequestContext) -> Call[RefundOutcome]:
        """`GET /v3/refund/domestic/refunds/{out_refund_no}`."""
        http = self._request("GET", f"/v3/refund/domestic/refunds/{request.out_refund_no}", context)
        return self._refund_call("wx.refund_query", http, outcomes.REFUND_QUERY_ERRORS)

    def _refund_call(self, api: str, http: HttpRequest, errors: Mapping[str, RefundStatus]) -> Call[RefundOutcome]:
        def parse(response: HttpResponse, now: datetime) -> RefundOutcome:
            return self._read(
                response,
                now,
                lambda answer: _refund(answer, "status", self.account),
                errors,
                lambda known, code, message: RefundOutcome(known or RefundStatus.UNKNOWN, None, code, message),
            )

        return Call(api, http, parse, _unclear(RefundOutcome, RefundStatus.UNKNOWN))

    # Callbacks

    def parse_callback(self, request: CallbackRequest, now: datetime) -> Callback:
        """Verify time window, serial and signature over the raw bytes, then decrypt. The services compare the facts.

        A refund that was made without a notify_url, or in the merchant's console, is reported in v2 XML.
        """
        if self.merchant.mch_key and request.body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
            return read_refund(request.body, self.merchant.mch_key, self.merchant.appid, self.merchant.mchid)
        try:
            self._verifier.verify(request.headers, request.body, now)
            envelope = _json_object(request.body)
            event = _text(envelope.get("event_type"))
            plain = decrypt_resource(self.merchant.api_v3_key, _inner(envelope, "resource"))
            content = _json_object(plain)
        except (AnswerError, CryptoError) as error:
            raise CallbackError(str(error)) from error
        raw, number = plain.decode(errors="replace"), _text(envelope.get("id"))
        if event.startswith("TRANSACTION."):
            return Callback(payment=transaction(content), raw=raw, message_id=number)
        if event.startswith("REFUND."):
            # A refund callback contains the merchant only. The application was compared when the payment was booked.
            account = {"appid": self.merchant.appid, "mchid": _text(content.get("mchid"))}
            return Callback(refund=_refund(content, "refund_status", account), raw=raw, message_id=number)
        return Callback(raw=raw, message_id=number)

    def acknowledge(self, received: bool, message: str) -> CallbackResponse:
        """204 if it was stored; otherwise 500 with FAIL, which makes WeChat Pay send it again."""
        if received:
            return CallbackResponse(204)
        body = json.dumps({"code": "FAIL", "message": message}, ensure_ascii=False).encode()
        return CallbackResponse(500, body, "application/json")

    # Keys

    def keys_due(self, now: datetime) -> bool:
        """Platform certificates are fetched at the first use, and again within twelve hours."""
        if not self.merchant.use_platform_certificates:
            return False
        refreshed = self._verifier.refreshed
        return refreshed is None or now - refreshed > REFRESH_AFTER

    def has_keys(self, now: datetime) -> bool:
        """Whether there is the public key, or a certificate that has not expired."""
        return self._verifier.usable(now)

    def fetch_keys(self, serial: str | None, context: RequestContext) -> Call[bool] | None:
        """`GET /v3/certificates`: decrypt the certificates, then verify the answer with the one that its header names."""
        if not self.merchant.use_platform_certificates:
            return None

        def parse(response: HttpResponse, now: datetime) -> bool:
            if response.status == 404 and self.merchant.public_key_id:
                # There is no platform certificate: the merchant has migrated to the public key, which is configured.
                self._verifier.refreshed = now
                return False
            if response.status != 200:
                code = _text(_read_or_nothing(response.body).get("code"))
                raise AnswerError(f"HTTP status {response.status} {code}")
            found = read_certificates(self.merchant.api_v3_key, response.body)
            trial = Verifier({}, found)
            if response.headers.get("wechatpay-serial", "") == self.merchant.public_key_id:
                trial = self._verifier
            trial.verify(response.headers, response.body, now)
            self._verifier.add(found)
            self._verifier.refreshed = now
            return True

        return Call("wx.certificates", self._request("GET", "/v3/certificates", context), parse, lambda why: False)

    def prove_keys(self, context: RequestContext) -> Call[str]:
        """`GET /v3/certificates`. The key that `Wechatpay-Serial` names signs the answer, or it is 404 without certificates."""

        def parse(response: HttpResponse, now: datetime) -> str:
            theirs = parse_http_date(response.headers.get("date", ""))
            if theirs is not None and abs((now - theirs).total_seconds()) > WINDOW_SECONDS:
                return "the channel's clock is more than 5 minutes away from ours"
            if response.status == 200 and not self.merchant.use_platform_certificates:
                self._verifier.verify(response.headers, response.body, now)
            return ""

        return Call("wx.certificates", self._request("GET", "/v3/certificates", context), parse, lambda why: why)


def _unclear(kind: Callable[..., T], status: object) -> Callable[[str], T]:
    return lambda why: kind(status, error_code="UNCLEAR", error_message=why)


_decode = json.JSONDecoder().raw_decode


def _json_object(body: bytes) -> Mapping[str, Any]:
    try:
        # As json.loads for UTF-8, with or without a byte order mark. That looks for four other encodings first.
        text = body.decode("utf-8", "surrogatepass").removeprefix("\ufeff").strip(" \t\n\r")
        answer, end = _decode(text)
        if end < len(text):
            raise ValueError("something follows it")
    except (ValueError, RecursionError) as error:
        raise AnswerError("the content is not JSON") from error
    if not isinstance(answer, dict):
        raise AnswerError("the content is not a JSON object")
    return answer


def _read_or_nothing(body: bytes) -> Mapping[str, Any]:
    try:
        return _json_object(body)
    except AnswerError:
        return {}


def transaction(answer: Mapping[str, Any]) -> QueryOutcome:
    """The outcome of a transaction in the answer of a query or in a callback."""
    state = _text(answer.get("trade_state"))
    status = outcomes.TRADE_STATES.get(state, QueryStatus.UNKNOWN)
    amount = _inner(answer, "amount")
    payment = Payment(
        out_trade_no=_text(answer.get("out_trade_no")),
        channel_order_no=_text(answer.get("transaction_id")),
        amount=_whole(amount.get("total")),
        currency=_text(amount.get("currency")) or None,
        account={"appid": _text(answer.get("appid")), "mchid": _text(answer.get("mchid"))},
        channel_user_id=_text(_inner(answer, "payer").get("openid")),
        success_time=parse_rfc3339(_text(answer.get("success_time"))),
        refunded=Refunded.SOME if state == "REFUND" else Refunded.NOTHING,
    )
    return QueryOutcome(status, payment, "" if status is not QueryStatus.UNKNOWN else "TRADE_STATE", state)


def _refund(answer: Mapping[str, Any], status_field: str, account: Mapping[str, str]) -> RefundOutcome:
    """The outcome of a refund. Its state is `status` in API answers and `refund_status` in callbacks."""
    state = _text(answer.get(status_field))
    amount = _inner(answer, "amount")
    facts = RefundFacts(
        out_refund_no=_text(answer.get("out_refund_no")),
        out_trade_no=_text(answer.get("out_trade_no")),
        amount=_whole(amount.get("refund")),
        account=account,
        channel_refund_no=_text(answer.get("refund_id")),
        success_time=parse_rfc3339(_text(answer.get("success_time"))),
    )
    status = outcomes.REFUND_STATES.get(state, RefundStatus.UNKNOWN)
    failed = "" if status in (RefundStatus.SUCCESS,) or state == "PROCESSING" else state
    return RefundOutcome(status, facts, failed, "")
