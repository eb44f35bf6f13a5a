"""What a channel codec is.

A codec turns our requests into HTTP requests and the channel's answers into outcomes. It does no I/O, reads no clock
and takes its random bits as an argument, so each of its functions can be tested with plain values. A channel from
another package implements `Codec`, describes itself with a `ChannelSpec` and registers under the entry point group
`paycenter.channels`.

Three rules for every codec:
- an answer that is not definite is UNKNOWN, never a failure (ARCHITECTURE, rule 2);
- facts come only from bytes whose signature was verified (rule 4);
- the codec states facts, the core compares them with the attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Generic, Protocol, TypeVar, runtime_checkable

from paycenter_server.domain.errors import Violation

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ClientCertificate:
    """PEM for mutual TLS. Compared by identity: a codec makes one, and the transport keeps one context for it."""

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request exactly as it goes on the wire: these bytes are what was signed."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    client_certificate: ClientCertificate | None = None


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer as it came; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The time of an operation and its random text (32 characters of 0-9 A-Z a-z)."""

    now: datetime
    nonce: str


class AnswerError(Exception):
    """An answer that cannot be used: malformed, or its signature does not verify. It decides nothing."""


class CallbackError(Exception):
    """A callback that is not the channel's, or cannot be read. The message is for our log and the channel's operator."""


class UnknownKeyError(Exception):
    """Signed with a key that we do not have; `serial` names it. Fetching keys may help, at most once in some minutes."""

    def __init__(self, serial: str) -> None:
        super().__init__(f"the signature names key {serial!r}, which is not among those configured")
        self.serial = serial


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request and how to read its answer. `unclear` makes the outcome when no usable answer came."""

    api: str
    request: HttpRequest
    parse: Callable[[HttpResponse, datetime], T]
    unclear: Callable[[str], T]


class Refunded(StrEnum):
    """What has gone back since the payment, as far as the channel says. SOME: that, or all."""

    NOTHING = "NOTHING"
    SOME = "SOME"
    ALL = "ALL"


@dataclass(frozen=True, slots=True)
class Payment:
    """What the channel says was paid. Amount in minor units; None where the channel did not say."""

    out_trade_no: str
    channel_order_no: str
    amount: int | None
    currency: str | None
    account: Mapping[str, str]
    channel_user_id: str = ""
    success_time: datetime | None = None
    refunded: Refunded = Refunded.NOTHING


class PayStatus(StrEnum):
    """WAITING: payable now. REFUSED: definitely not created, never will be."""

    WAITING = "WAITING"
    PAID = "PAID"
    REFUSED = "REFUSED"
    UNKNOWN = "UNKNOWN"


class QueryStatus(StrEnum):
    """PAID includes "paid and since refunded". NOT_FOUND: the channel does not know the number (yet)."""

    WAITING = "WAITING"
    PAID = "PAID"
    CLOSED = "CLOSED"
    NOT_FOUND = "NOT_FOUND"
    UNKNOWN = "UNKNOWN"


class CloseStatus(StrEnum):
    """STILL_PAYABLE: the channel cannot close it before the payer opens it (an Alipay QR code)."""

    CLOSED = "CLOSED"
    STILL_PAYABLE = "STILL_PAYABLE"
    PAID = "PAID"
    UNKNOWN = "UNKNOWN"


class RefundStatus(StrEnum):
    """RETRY_LATER: not accepted now (balance, limits); the same number again later. NOT_FOUND: never arrived. TRADE_DECIDES: the
    trade is not in a state for it, so it is asked about; if all of it has gone back already, the refund fails."""

    SUCCESS = "SUCCESS"
    PENDING = "PENDING"
    FAILED = "FAILED"
    NOT_FOUND = "NOT_FOUND"
    RETRY_LATER = "RETRY_LATER"
    TRADE_DECIDES = "TRADE_DECIDES"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class PayOutcome:
    """The answer to a submit. Display mode and content are set when WAITING. `not_sent`: UNKNOWN, because the request did not leave
    this machine, so the channel knows nothing of it (in every outcome; set by the core, not by codecs)."""

    status: PayStatus
    display_mode: str = ""
    display_content: str = ""
    payment: Payment | None = None
    error_code: str = ""
    error_message: str = ""
    not_sent: bool = False


@dataclass(frozen=True, slots=True)
class QueryOutcome:
    """The answer to a query; `payment` is set when PAID. `signed`: the channel proved with its key that it said so."""

    status: QueryStatus
    payment: Payment | None = None
    error_code: str = ""
    error_message: str = ""
    signed: bool = True
    not_sent: bool = False


@dataclass(frozen=True, slots=True)
class CloseOutcome:
    """The answer to a close."""

    status: CloseStatus
    error_code: str = ""
    error_message: str = ""
    not_sent: bool = False


@dataclass(frozen=True, slots=True)
class RefundFacts:
    """What the channel says was refunded. Amount in minor units; None where the channel did not say."""

    out_refund_no: str
    out_trade_no: str
    amount: int | None
    account: Mapping[str, str]
    channel_refund_no: str = ""
    success_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class RefundOutcome:
    """The answer to a refund or a refund query; `facts` are set when SUCCESS, and where the answer has them."""

    status: RefundStatus
    facts: RefundFacts | None = None
    error_code: str = ""
    error_message: str = ""
    not_sent: bool = False


@dataclass(frozen=True, slots=True)
class PayRequest:
    """A submit. Amount in minor units; `callback_url` already names our channel."""

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
    """An attempt that the channel is asked about."""

    out_trade_no: str
    amount: int
    currency: str
    create_time: datetime
    expire_time: datetime
    extras: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """A refund to send or to ask about. `amount` of `total`, in minor units."""

    out_trade_no: str
    out_refund_no: str
    amount: int
    total: int
    currency: str
    reason: str
    callback_url: str
    create_time: datetime
    extras: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CallbackRequest:
    """A callback as it came: raw body, header names in lower case, raw query string."""

    headers: Mapping[str, str]
    body: bytes
    query: str = ""


@dataclass(frozen=True, slots=True)
class CallbackResponse:
    """What we answer to a callback, in the channel's own form."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"


@dataclass(frozen=True, slots=True)
class Callback:
    """What a verified callback says: about a payment, about a refund, about both, or (both None) nothing that concerns us.

    `raw` is its readable content, kept with the attempt or refund for people. A refund that is only PENDING is asked about at
    once, also one that is not ours. `answer`: the acknowledgement, where this form of callback has another than the codec's.
    """

    payment: QueryOutcome | None = None
    refund: RefundOutcome | None = None
    raw: str = ""
    answer: CallbackResponse | None = None


class Codec(Protocol):
    """One configured channel. `account` is what its own messages must carry (appid, mchid, …)."""

    code: str
    account: Mapping[str, str]

    def pay(self, request: PayRequest, moment: RequestContext) -> Call[PayOutcome] | PayOutcome:
        """Make an attempt payable. Repeating it with the same number and content must be safe."""
        ...

    def query(self, attempt: AttemptRef, moment: RequestContext) -> Call[QueryOutcome] | QueryOutcome:
        """Ask how an attempt stands."""
        ...

    def close(self, attempt: AttemptRef, moment: RequestContext) -> Call[CloseOutcome] | CloseOutcome:
        """Make an attempt unpayable."""
        ...

    def refund(self, request: RefundRequest, moment: RequestContext) -> Call[RefundOutcome] | RefundOutcome:
        """Send money back. Repeating it with the same number and content must be safe."""
        ...

    def query_refund(self, request: RefundRequest, moment: RequestContext) -> Call[RefundOutcome] | RefundOutcome:
        """Ask how a refund stands."""
        ...

    def parse_callback(self, request: CallbackRequest, now: datetime) -> Callback:
        """Verify and read a callback. Raises CallbackError, or UnknownKeyError."""
        ...

    def acknowledge(self, received: bool, message: str) -> CallbackResponse:
        """The answer that the channel understands. Not received: a status that makes it send again."""
        ...

    def keys_due(self, now: datetime) -> bool:
        """Whether the channel's keys should be fetched before the next use."""
        ...

    def fetch_keys(self, serial: str | None, moment: RequestContext) -> Call[bool] | None:
        """Fetch the channel's keys (the one named, or all) into this codec; None where there is nothing to fetch."""
        ...


@runtime_checkable
class ProvesKeys(Protocol):
    """A codec that can ask for something signed, to try the channel's key before the first payment does."""

    def prove_keys(self, moment: RequestContext) -> Call[str]:
        """Answers "" if the key fits or the channel has nothing signed to say, else what is wrong."""
        ...


@runtime_checkable
class HoldsKeys(Protocol):
    """A codec that has keys of its own, so that nobody has to wait while the channel's are fetched."""

    def has_keys(self, now: datetime) -> bool:
        """Whether there is a key that answers can be verified with."""
        ...


@dataclass(frozen=True, slots=True)
class RequiredExtra:
    """A channel extra that must come with a submit: one of `names`."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One field of a channel's configuration."""

    name: str
    secret: bool = False


def _no_limits(request: PayRequest | RefundRequest) -> Sequence[Violation]:
    return ()


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """A channel code as it registers itself.

    `family` names the group that shares a configuration; `own_config`: PayChannelConfig in the protos has a message of that name,
    otherwise the configuration is given as GenericConfig; `display_modes` starts with the default; `required_extras`
    must come with a submit; `check` names every wrong field of a configuration; `build` makes the
    codec. `limits` and `refund_limits` name every field that the channel would refuse. `content_minutes`: how long what is shown
    may be shown again. `attempt_life`: for bar codes, how long the payer may take to confirm before the attempt is
    cancelled; such an attempt is never sent twice, only asked about. `longest_life`: the most that the channel lets an attempt
    live; an order that lives longer gets another attempt at the next submit. `close_after`: how long after its creation an attempt
    may first be closed, where the channel asks for a pause. `alarm_codes`: error codes that mean that the channel turns us away
    (key, clock, configuration), which a person has to mend. `trial`: the codec of a way to pay in which an
    order can be made without a payer and closed again, for channels that check only then what belongs together.
    """

    code: str
    family: str
    title: str
    display_modes: tuple[str, ...]
    config_fields: tuple[ConfigField, ...]
    check: Callable[[Mapping[str, str]], Sequence[Violation]]
    build: Callable[[Mapping[str, str]], Codec]
    own_config: bool = False
    required_extras: tuple[RequiredExtra, ...] = ()
    development_only: bool = False
    limits: Callable[[PayRequest], Sequence[Violation]] = _no_limits
    refund_limits: Callable[[RefundRequest], Sequence[Violation]] = _no_limits
    content_minutes: int = 60
    attempt_life: timedelta | None = None
    longest_life: timedelta | None = None
    close_after: timedelta = timedelta(0)
    alarm_codes: frozenset[str] = frozenset()
    trial: Callable[[Mapping[str, str]], Codec] | None = None

    @property
    def config_message(self) -> str:
        """The field of PayChannelConfig that holds this channel's configuration."""
        return self.family if self.own_config else "generic"

    @property
    def secret_fields(self) -> frozenset[str]:
        """The names of the fields that are secrets."""
        return frozenset(item.name for item in self.config_fields if item.secret)
