"""The protocol of channel codecs.

A codec turns requests of PayCenter into HTTP requests, and the channel's answers into outcomes. It does no I/O, reads no clock
and gets random text as an argument, so each of its functions can be tested with plain values. A channel of another package
implements `Codec`, describes itself with a `ChannelSpec` and registers under the entry point group `paycenter.channels`.

Rules for every codec:
- an answer that is not definite is UNKNOWN, never a failure (ARCHITECTURE, rule 2);
- facts come only from bytes whose signature was verified (rule 4);
- the codec states facts; the services compare them with the attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, Protocol, TypeVar, runtime_checkable

from paycenter_server.domain.values import value

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ClientCertificate:
    """PEM for mutual TLS. It is compared by identity: a codec has one, and the transport keeps one TLS context for it."""

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request with exactly the bytes that are sent, because they were signed."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    client_certificate: ClientCertificate | None = None


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An unchanged answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The time of an operation, and a random text (32 characters of 0-9 A-Z a-z)."""

    now: datetime
    nonce: str


class AnswerError(Exception):
    """An answer that cannot be used: it is malformed, or its signature is invalid. It decides nothing."""


class CallbackError(Exception):
    """A callback that is not from the channel, or cannot be read. The message is for the log."""


class UnknownKeyError(Exception):
    """The message is signed with an unknown key, which `serial` names. The channel gateway then fetches keys."""

    def __init__(self, serial: str) -> None:
        super().__init__(f"the signature names key {serial!r}, which is not among those configured")
        self.serial = serial


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and the function that reads its answer. `unclear` builds the outcome without a usable answer."""

    api: str
    request: HttpRequest
    parse: Callable[[HttpResponse, datetime], T]
    unclear: Callable[[str], T]


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One request to a channel and its answer, without secrets, for the event ledger. `status` 0: there was no answer, and `answer`
    is the reason. The channel gateway makes it (`channels/records.py`)."""

    api: str
    method: str
    url: str
    request: str
    status: int
    answer: str
    milliseconds: int

    def evidence(self) -> dict[str, str | int]:
        """The record as a JSON object."""
        return {
            "api": self.api, "method": self.method, "url": self.url, "request": self.request, "status": self.status,
            "answer": self.answer, "ms": self.milliseconds,
        }  # fmt: skip


class Refunded(StrEnum):
    """What was refunded since the payment, as far as the channel states it. SOME: some or all."""

    NOTHING = "NOTHING"
    SOME = "SOME"
    ALL = "ALL"


@value
class Payment:
    """A payment as the channel reports it. The amounts are in minor units; None where the channel did not state them.

    `refunded_amount`: what was refunded of it so far, by everybody.
    """

    out_trade_no: str
    channel_order_no: str
    amount: int | None
    currency: str | None
    account: Mapping[str, str]
    channel_user_id: str = ""
    success_time: datetime | None = None
    refunded: Refunded = Refunded.NOTHING
    refunded_amount: int | None = None


class PayStatus(StrEnum):
    """WAITING: payable. REFUSED: not created, and it will not be."""

    WAITING = "WAITING"
    PAID = "PAID"
    REFUSED = "REFUSED"
    UNKNOWN = "UNKNOWN"


class QueryStatus(StrEnum):
    """PAID: paid, perhaps refunded since. NOT_FOUND: the channel does not know the number, or not yet."""

    WAITING = "WAITING"
    PAID = "PAID"
    CLOSED = "CLOSED"
    NOT_FOUND = "NOT_FOUND"
    UNKNOWN = "UNKNOWN"


class CloseStatus(StrEnum):
    """STILL_PAYABLE: the channel cannot close it yet (an Alipay QR code that was not scanned)."""

    CLOSED = "CLOSED"
    STILL_PAYABLE = "STILL_PAYABLE"
    PAID = "PAID"
    UNKNOWN = "UNKNOWN"


class RefundStatus(StrEnum):
    """RETRY_LATER: not accepted now (balance, limits), to be sent again later under the same number. NOT_FOUND: unknown to the
    channel. TRADE_DECIDES: the state of the trade does not allow it, so the trade is queried; if it is fully refunded, the refund
    fails."""

    SUCCESS = "SUCCESS"
    PENDING = "PENDING"
    FAILED = "FAILED"
    NOT_FOUND = "NOT_FOUND"
    RETRY_LATER = "RETRY_LATER"
    TRADE_DECIDES = "TRADE_DECIDES"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class PayOutcome:
    """The outcome of a submit. Display mode and content are set if it is WAITING.

    `not_sent` (in every outcome): it is UNKNOWN because the request was not sent. `call` (in every outcome): the request and its
    answer. The channel gateway sets both, codecs do not.
    """

    status: PayStatus
    display_mode: str = ""
    display_content: str = ""
    payment: Payment | None = None
    error_code: str = ""
    error_message: str = ""
    not_sent: bool = False
    call: CallRecord | None = field(default=None, compare=False)


@value
class QueryOutcome:
    """The outcome of a query. `payment` is set if it is PAID. `signed`: the answer has a valid signature of the channel."""

    status: QueryStatus
    payment: Payment | None = None
    error_code: str = ""
    error_message: str = ""
    signed: bool = True
    not_sent: bool = False
    call: CallRecord | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class CloseOutcome:
    """The outcome of a close."""

    status: CloseStatus
    error_code: str = ""
    error_message: str = ""
    not_sent: bool = False
    call: CallRecord | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class RefundFacts:
    """A refund as the channel reports it. The amount is in minor units; None where the channel did not state it."""

    out_refund_no: str
    out_trade_no: str
    amount: int | None
    account: Mapping[str, str]
    channel_refund_no: str = ""
    success_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class RefundOutcome:
    """The outcome of a refund or of a refund query. `facts` are set if it is SUCCESS, and if the answer has them."""

    status: RefundStatus
    facts: RefundFacts | None = None
    error_code: str = ""
    error_message: str = ""
    not_sent: bool = False
    call: CallRecord | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class PayRequest:
    """A submit. The amount is in minor units. `callback_url` contains the channel id."""

    out_trade_no: str
    subject: str
    body: str
    amount: int
    currency: str
    expire_time: datetime
    callback_url: str
    return_url: str
    user_ip: str
    extras: Mapping[str, str]
    display_mode: str


@dataclass(frozen=True, slots=True)
class AttemptRef:
    """An attempt to query or to close."""

    out_trade_no: str
    amount: int
    currency: str
    create_time: datetime
    expire_time: datetime
    extras: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """A refund to send or to query: `amount` of `total`, in minor units."""

    out_trade_no: str
    out_refund_no: str
    amount: int
    total: int
    currency: str
    reason: str
    callback_url: str
    create_time: datetime
    extras: Mapping[str, str] = field(default_factory=dict)


@value
class CallbackRequest:
    """An unchanged callback: raw body, header names in lower case, raw query string."""

    headers: Mapping[str, str]
    body: bytes
    query: str = ""


@value
class CallbackResponse:
    """The answer to a callback, in the channel's own form."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"


@value
class Callback:
    """The content of a verified callback: about a payment, a refund, or both. If both are None, it needs no action.

    `raw` is its readable content, and `message_id` the channel's identifier of the message ("" if it has none); both are stored in
    the event ledger. A refund with status PENDING is queried at once,
    also one that was not made by PayCenter. `answer`: the acknowledgement, if this kind of callback needs another one than the
    codec's.
    """

    payment: QueryOutcome | None = None
    refund: RefundOutcome | None = None
    raw: str = ""
    answer: CallbackResponse | None = None
    message_id: str = ""


class Codec(Protocol):
    """One configured channel. `account` contains the values that its messages must have (appid, mchid, …)."""

    code: str
    account: Mapping[str, str]

    def pay(self, request: PayRequest, context: RequestContext) -> Call[PayOutcome] | PayOutcome:
        """Make an attempt payable. A repetition with the same number and content must be safe."""
        ...

    def query(self, attempt: AttemptRef, context: RequestContext) -> Call[QueryOutcome] | QueryOutcome:
        """Query an attempt."""
        ...

    def close(self, attempt: AttemptRef, context: RequestContext) -> Call[CloseOutcome] | CloseOutcome:
        """Close an attempt, so that it is not payable any more."""
        ...

    def refund(self, request: RefundRequest, context: RequestContext) -> Call[RefundOutcome] | RefundOutcome:
        """Refund money. A repetition with the same number and content must be safe."""
        ...

    def query_refund(self, request: RefundRequest, context: RequestContext) -> Call[RefundOutcome] | RefundOutcome:
        """Query a refund."""
        ...

    def parse_callback(self, request: CallbackRequest, now: datetime) -> Callback:
        """Verify and read a callback. CallbackError if it is invalid, UnknownKeyError if its key is unknown."""
        ...

    def acknowledge(self, received: bool, message: str) -> CallbackResponse:
        """The acknowledgement in the channel's form. If it was not received, a status that makes the channel send it again."""
        ...

    def keys_due(self, now: datetime) -> bool:
        """Whether the channel's keys should be fetched before the next use."""
        ...

    def fetch_keys(self, serial: str | None, context: RequestContext) -> Call[bool] | None:
        """Fetch the channel's keys (the named one, or all) into this codec. None if there is nothing to fetch."""
        ...


@runtime_checkable
class ProvesKeys(Protocol):
    """A codec that can request something signed, to test the channel's key before the first payment."""

    def prove_keys(self, context: RequestContext) -> Call[str]:
        """The result is "" if the key is right or the channel sent nothing signed, else a description of the error."""
        ...


@runtime_checkable
class HoldsKeys(Protocol):
    """A codec that can verify answers while the channel's keys are fetched."""

    def has_keys(self, now: datetime) -> bool:
        """Whether there is a key to verify answers with."""
        ...
