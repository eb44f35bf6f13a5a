"""SamplePay: JSON over HTTP, each message signed with HMAC-SHA256 in `X-Sample-Signature`. The channel is fictitious.

It is a minimal codec that obeys every rule of `paycenter_server.channels.protocol`: no I/O, no clock, facts only from verified
bytes, and UNKNOWN for every answer that is not definite.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
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
    RefundFacts,
    RefundOutcome,
    RefundRequest,
    RefundStatus,
    RequestContext,
)
from paycenter_server.channels.specs import ChannelSpec, ConfigField
from paycenter_server.channels.texts import text
from paycenter_server.domain.errors import Violation

from . import outcomes

__all__ = ["CHANNELS", "SamplePayCodec", "check", "signature"]

T = TypeVar("T")
HEADER = "x-sample-signature"


def signature(key: str, body: bytes) -> str:
    """HMAC-SHA256 of a message's bytes, in lower-case hexadecimal."""
    return hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


def _whole(value: object) -> int | None:
    return value if type(value) is int else None


def _time(value: object) -> datetime | None:
    """A time from Unix seconds; None if it is impossible."""
    return datetime.fromtimestamp(value, UTC) if type(value) is int and 0 <= value < 2**35 else None


class SamplePayCodec:
    """The payer opens a URL."""

    code = "samplepay"

    def __init__(self, config: Mapping[str, str]) -> None:
        self.account: Mapping[str, str] = {"merchant": config["merchant"]}
        self._gateway = config["gateway_url"].rstrip("/")
        self._key = config["mch_key"]

    def _read(self, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        """Verify, then parse. ValueError states what is wrong."""
        if not hmac.compare_digest(headers.get(HEADER, "").encode(), signature(self._key, body).encode()):
            raise ValueError("the signature does not verify")
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ValueError("it is not JSON") from error
        if not isinstance(document, dict):
            raise ValueError("it is not an object")
        return document

    def _call(self, name: str, fields: dict[str, Any], good: Callable[[dict[str, Any]], T], unclear: Callable[[str], T]) -> Call[T]:
        """A request whose signed bytes are sent."""
        body = json.dumps({**self.account, **fields}, ensure_ascii=False, separators=(",", ":")).encode()
        headers = (("Content-Type", "application/json"), (HEADER, signature(self._key, body)))

        def parse(response: HttpResponse, now: datetime) -> T:
            try:
                answer = self._read(response.headers, response.body)
            except ValueError as error:
                raise AnswerError(str(error)) from error
            return good(answer) if response.status == 200 else unclear(f"HTTP {response.status}")

        return Call(f"samplepay.{name}", HttpRequest("POST", f"{self._gateway}/{name}", headers, body), parse, unclear)

    def _paid(self, document: Mapping[str, Any]) -> Payment:
        return Payment(
            out_trade_no=text(document.get("number")), channel_order_no=text(document.get("trade")),
            amount=_whole(document.get("amount")), currency=text(document.get("currency")) or None,
            account={"merchant": text(document.get("merchant"))}, channel_user_id=text(document.get("payer")),
            success_time=_time(document.get("time")),
        )  # fmt: skip

    def _queried(self, document: Mapping[str, Any]) -> QueryOutcome:
        status = outcomes.QUERY.get(text(document.get("status")), QueryStatus.UNKNOWN)
        return QueryOutcome(status, self._paid(document) if status is QueryStatus.PAID else None)

    def _refunded(self, document: Mapping[str, Any]) -> RefundOutcome:
        status = outcomes.REFUND.get(text(document.get("status")), RefundStatus.UNKNOWN)
        if status is not RefundStatus.SUCCESS:
            return RefundOutcome(status, None, text(document.get("status")), text(document.get("why")))
        facts = RefundFacts(
            out_refund_no=text(document.get("refund")), out_trade_no=text(document.get("number")),
            amount=_whole(document.get("amount")), account={"merchant": text(document.get("merchant"))},
            channel_refund_no=text(document.get("trade")), success_time=_time(document.get("time")),
        )  # fmt: skip
        return RefundOutcome(status, facts)

    def pay(self, request: PayRequest, context: RequestContext) -> Call[PayOutcome]:
        """`/pay`: a URL for the payer."""
        fields = {
            "number": request.out_trade_no, "subject": request.subject, "amount": request.amount, "currency": request.currency,
            "expires": int(request.expire_time.timestamp()), "notify_url": request.callback_url,
        }  # fmt: skip

        def good(answer: dict[str, Any]) -> PayOutcome:
            status = outcomes.PAY.get(text(answer.get("status")), PayStatus.UNKNOWN)
            if status is not PayStatus.WAITING:
                return PayOutcome(status, error_code=text(answer.get("status")), error_message=text(answer.get("why")))
            return PayOutcome(status, "url", text(answer.get("url")))

        return self._call("pay", fields, good, lambda why: PayOutcome(PayStatus.UNKNOWN, error_message=why))

    def query(self, attempt: AttemptRef, context: RequestContext) -> Call[QueryOutcome]:
        """`/query`."""
        fields = {"number": attempt.out_trade_no}
        return self._call("query", fields, self._queried, lambda why: QueryOutcome(QueryStatus.UNKNOWN, error_message=why))

    def close(self, attempt: AttemptRef, context: RequestContext) -> Call[CloseOutcome]:
        """`/close`."""

        def good(answer: dict[str, Any]) -> CloseOutcome:
            return CloseOutcome(outcomes.CLOSE.get(text(answer.get("status")), CloseStatus.UNKNOWN))

        fields = {"number": attempt.out_trade_no}
        return self._call("close", fields, good, lambda why: CloseOutcome(CloseStatus.UNKNOWN, error_message=why))

    def refund(self, request: RefundRequest, context: RequestContext) -> Call[RefundOutcome]:
        """`/refund`: it is made within the call. The same number is the same refund."""
        fields = {"number": request.out_trade_no, "refund": request.out_refund_no, "amount": request.amount}
        return self._call("refund", fields, self._refunded, lambda why: RefundOutcome(RefundStatus.UNKNOWN, error_message=why))

    def query_refund(self, request: RefundRequest, context: RequestContext) -> Call[RefundOutcome]:
        """`/refund-query`."""
        fields = {"number": request.out_trade_no, "refund": request.out_refund_no}
        return self._call(
            "refund-query", fields, self._refunded, lambda why: RefundOutcome(RefundStatus.UNKNOWN, error_message=why)
        )

    def parse_callback(self, request: CallbackRequest, now: datetime) -> Callback:
        """A payment callback, with the fields of a query."""
        try:
            document = self._read(request.headers, request.body)
        except ValueError as error:
            raise CallbackError(str(error)) from error
        return Callback(payment=self._queried(document), raw=text(request.body.decode("utf-8", "replace")))

    def acknowledge(self, received: bool, message: str) -> CallbackResponse:
        """`OK`, or a status that makes the channel send it again."""
        return CallbackResponse(200, b"OK") if received else CallbackResponse(503, b"AGAIN")

    def keys_due(self, now: datetime) -> bool:
        """The only key is configured."""
        return False

    def fetch_keys(self, serial: str | None, context: RequestContext) -> Call[bool] | None:
        """There is nothing to fetch."""
        return None


def check(config: Mapping[str, str]) -> Sequence[Violation]:
    """Every invalid field."""
    wrong = [Violation(name, "is required") for name in ("merchant", "mch_key", "gateway_url") if not config.get(name)]
    if config.get("gateway_url") and not config["gateway_url"].startswith(("https://", "http://127.0.0.1")):
        wrong.append(Violation("gateway_url", "must start with https://"))
    return wrong


CHANNELS = (
    ChannelSpec(
        code="samplepay",
        family="samplepay",
        title="SamplePay",
        display_modes=("url",),
        config_fields=(ConfigField("merchant"), ConfigField("mch_key", secret=True), ConfigField("gateway_url")),
        identity_fields=("merchant",),
        check=check,
        build=SamplePayCodec,
    ),
)
