"""Fault rules: they make the simulated channels return errors, lose answers or notifications, and report wrong values.

A rule is JSON: {"api": "wx.native", "fault": "timeout_after_commit", "out_trade_no": "…", "times": 1, "skip": 0, "seconds": 5,
"amount": 1, "code": "…", "queries": 2}. Only api and fault are required.

- api: `notify` means all notifications, and `*` means everything to which the fault applies.
- out_trade_no: the number of a trade or of a refund.
- times: a negative number has no limit.
- skip: the number of matching calls without the fault before the first one with it.
- code: the error code of `decline`.
- queries: the payer of a code payment confirms after so many queries, or never if it is missing.

The simulator assigns the `id` of a rule. An `id` in the request is ignored.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

from paycenter_server.simulator.inputs import MAX_FEN, check_integer, check_number, is_storable

__all__ = [
    "AFTER",
    "APIS",
    "BEFORE",
    "DOMAIN",
    "FAULTS",
    "NOTIFY",
    "FaultPlan",
    "FaultRule",
    "InvalidFaultError",
    "applies",
    "places",
    "possible",
]

BEFORE = {
    "timeout_before_commit": "no answer, the operation is not executed",
    "error_before_commit": "500 SYSTEM_ERROR or 20000 isp.unknow-error, the operation is not executed",
    "reset_before_commit": "the connection is reset, the operation is not executed",
    "http_502": "502 of a proxy, not in the channel's format; the operation is not executed",
    "http_503": "503, the operation is not executed",
    "rate_limit": "429 FREQUENCY_LIMITED or isv.app-call-limited, the operation is not executed",
    "accepted_202": "WeChat Pay v3: 202 with an empty body, the operation is not executed yet",
}
AFTER = {
    "timeout_after_commit": "the operation is executed, but there is no answer",
    "error_after_commit": "the operation is executed, but the answer is 500 SYSTEM_ERROR or 40004 ACQ.SYSTEM_ERROR",
    "rate_limit_after_commit": "the operation is executed, but the answer is 429 FREQUENCY_LIMITED or isv.app-call-limited",
    "reset": "the operation is executed, but the connection is reset",
    "unsigned": "the answer or notification has no signature",
    "bad_signature": "the signature does not match (v2 refund notification: encrypted with a wrong key)",
    "other_key": "WeChat Pay v3: signed with the key of the other mode, as during the migration to public keys",
    "slow": "the answer or notification is sent `seconds` later",
    "wrong_amount": "the reported amount is `amount` fen, or the true amount plus one fen",
    "slash": "Alipay: signed before its slashes were escaped",
    "brace": "Alipay: a string in the answer contains a closing brace",
}
DOMAIN = {
    "not_enough": "refund: NOT_ENOUGH or ACQ.SELLER_BALANCE_NOT_ENOUGH, the operation is not executed",
    "refund_abnormal": "the WeChat Pay refund ends ABNORMAL",
    "xml_notify": "the notification of a WeChat Pay v3 refund has the v2 XML format, as without notify_url",
    "refund_closed": "the WeChat Pay refund ends CLOSED",
    "refund_pending": "the refund stays in progress for `seconds` (Alipay: fund_change N and an empty refund query)",
    "user_paying": "WeChat Pay: USERPAYING, at the query of an unpaid trade or at a code payment (paid after `queries` queries)",
    "bank_error": "WeChat Pay v2 micropay: BANKERROR, paid after `queries` queries",
    "in_process": "alipay.trade.pay: 10003, paid after `queries` queries",
    "decline": "refused with `code` (such as ACQ.BUYER_BALANCE_NOT_ENOUGH or NOTENOUGH), not executed; a code payment fails",
    "retry_flag": "alipay.trade.cancel: retry_flag Y, the operation is not executed",
    "recall": "WeChat Pay reverse: v2 recall Y, v3 500 SYSTEM_ERROR, the operation is not executed",
    "rotate": "WeChat Pay v3, Alipay: from this call or send on, the next certificate signs",
    "migrate": "WeChat Pay v3: from this call or send on, only the public key signs, and no platform certificate is offered",
}
NOTIFY = {
    "drop": "the notification is not sent; the retry schedule continues",
    "late": "sent `seconds` later by the simulator's clock; the retry schedule continues from then",
    "reordered": "sent after the trade's next notification, or `seconds` later by the simulator's clock if none comes",
    "duplicate": "sent twice",
    "signtest": "WeChat Pay v3: a WECHATPAY/SIGNTEST/ probe is sent first",
}
FAULTS = {**BEFORE, **AFTER, **DOMAIN, **NOTIFY}

_V3_FILE, _V2_FILE, _ALIPAY_FILE = "wx.billdownload", "wx2.downloadbill", "alipay.billdownload"
_V3 = (
    *("wx." + name for name in ("native", "jsapi", "app", "h5", "codepay", "query", "close", "reverse")),
    *("wx." + name for name in ("refund", "refund_query", "abnormal_refund", "certificates", "tradebill", "fundflowbill")),
)
_V2 = (
    *("wx2." + name for name in ("unifiedorder", "micropay", "orderquery", "closeorder", "reverse")),
    *("wx2." + name for name in ("refund", "refundquery")),
)
_ALIPAY = (
    *("alipay.trade." + name for name in ("precreate", "create", "pay", "query", "close", "cancel", "refund")),
    "alipay.trade.fastpay.refund.query",
    "alipay.data.dataservice.bill.downloadurl.query",
    "alipay.open.app.alipaycert.download",
)
_ALIPAY_PAGES = tuple(f"alipay.trade.{name}.pay" for name in ("page", "wap", "app"))
_CALLBACKS_V3, _CALLBACKS_V2, _CALLBACKS_V2_REFUND, _CALLBACKS_ALIPAY = (
    "wx.notify",
    "wx.notify/v2",
    "wx.notify/v2 refund",
    "alipay.notify",
)
_CALLBACKS = (_CALLBACKS_V3, _CALLBACKS_V2, _CALLBACKS_V2_REFUND, _CALLBACKS_ALIPAY)
APIS = (*_V3, _V3_FILE, *_V2, _V2_FILE, *_ALIPAY, *_ALIPAY_PAGES, _ALIPAY_FILE, "wx.notify", "alipay.notify", "notify", "*")
"""All values of a rule's `api`. `wx.notify` means WeChat Pay's notifications in all formats."""

_FORMATTED_CALLS = (*_V3, _V3_FILE, *_V2, _V2_FILE, *_ALIPAY, *_ALIPAY_PAGES)
_CALLS = (*_FORMATTED_CALLS, _ALIPAY_FILE)
_AMOUNTS = (
    *("wx." + name for name in ("codepay", "query", "refund", "refund_query", "abnormal_refund")),
    *("wx2." + name for name in ("micropay", "orderquery", "refund", "refundquery")),
    *("alipay.trade." + name for name in ("pay", "query", "refund", "fastpay.refund.query")),
)
_REFUNDS = ("wx.refund", "wx2.refund", "alipay.trade.refund")
_WHERE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("timeout_before_commit", "reset_before_commit", "http_502", "http_503"), _CALLS),
    **dict.fromkeys(("timeout_after_commit", "reset"), _CALLS),
    # The answer to a file download from Alipay has no format for an error.
    **dict.fromkeys(
        ("error_before_commit", "rate_limit", "error_after_commit", "rate_limit_after_commit", "decline"), _FORMATTED_CALLS
    ),
    "accepted_202": _V3,
    "slow": (*_CALLS, *_CALLBACKS),
    "unsigned": (*_V3, *_V2, *_ALIPAY, _CALLBACKS_V3, _CALLBACKS_V2, _CALLBACKS_ALIPAY),
    "bad_signature": (*_V3, *_V2, *_ALIPAY, *_CALLBACKS),
    "other_key": (*_V3, _CALLBACKS_V3),
    "wrong_amount": (*_AMOUNTS, *_CALLBACKS),
    # Only these answers contain slashes.
    "slash": ("alipay.trade.precreate", "alipay.data.dataservice.bill.downloadurl.query", "alipay.open.app.alipaycert.download"),
    "brace": _ALIPAY,
    "not_enough": (*_REFUNDS, "wx.reverse", "wx2.reverse", "alipay.trade.cancel"),
    "refund_abnormal": ("wx.refund", "wx2.refund"),
    "refund_closed": ("wx.refund", "wx2.refund"),
    "refund_pending": _REFUNDS,
    "xml_notify": ("wx.refund",),
    "user_paying": ("wx.query", "wx.codepay", "wx2.orderquery", "wx2.micropay"),
    "bank_error": ("wx2.micropay",),
    "in_process": ("alipay.trade.pay",),
    "retry_flag": ("alipay.trade.cancel",),
    "recall": ("wx.reverse", "wx2.reverse"),
    "rotate": (*_V3, *_ALIPAY, _CALLBACKS_V3, _CALLBACKS_ALIPAY),
    "migrate": (*_V3, _CALLBACKS_V3),
    **dict.fromkeys(("drop", "late", "reordered", "duplicate"), _CALLBACKS),
    "signtest": (_CALLBACKS_V3,),
}


def _matching_calls(api: str) -> tuple[str, ...]:
    """The calls that a rule's `api` matches."""
    if api == "*":
        return (*_CALLS, *_CALLBACKS)
    if api == "notify":
        return _CALLBACKS
    return tuple(name for name in (*_CALLS, *_CALLBACKS) if name.partition("/")[0] == api)


def applies(fault: str, call: str) -> bool:
    """Whether a fault applies to a call. A call is an api or a notification format of WeChat Pay (`wx.notify/v2`)."""
    return call in _WHERE[fault]


def possible(fault: str, api: str) -> bool:
    """Whether a rule with this fault and api can match any call."""
    return any(applies(fault, call) for call in _matching_calls(api))


def places(fault: str) -> list[str]:
    """The values of `api` that are possible with this fault."""
    return [api for api in APIS if possible(fault, api)]


_MAX_SECONDS = 10**7
_MAX_TIMES = 10**6
_MAX_TEXT_LENGTH = 128
_TEXTS = ("api", "fault", "out_trade_no", "code")


class InvalidFaultError(ValueError):
    """An invalid rule. The message says why."""


def _suggestion(word: str, words: Collection[str]) -> str:
    similar = difflib.get_close_matches(word, list(words), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(similar)}?" if similar else f"known: {', '.join(words)}"


@dataclass(slots=True)
class FaultRule:
    """One rule. `times` counts down; a negative value has no limit."""

    api: str
    fault: str
    out_trade_no: str = ""
    times: int = 1
    skip: int = 0
    seconds: float = 30.0
    amount: int | None = None
    code: str = ""
    queries: int | None = None
    id: int = 0

    @classmethod
    def parse(cls, document: object) -> FaultRule:
        """From JSON. InvalidFaultError if the rule is invalid."""
        if not isinstance(document, dict):
            raise InvalidFaultError("a rule must be a JSON object")
        given = {name: value for name, value in document.items() if name != "id"}
        unknown = set(given) - set(cls.__slots__)
        if unknown:
            raise InvalidFaultError(f"unknown fields: {', '.join(sorted(unknown))}")
        for name in _TEXTS:
            text = given.get(name, "")
            if not isinstance(text, str) or len(text) > _MAX_TEXT_LENGTH or not is_storable(text):
                raise InvalidFaultError(f"{name} must be a text of at most {_MAX_TEXT_LENGTH} characters")
        if not given.get("api"):
            raise InvalidFaultError("api is required")
        try:
            rule = cls(**{"fault": "", **given})
            rule._check_numbers()
        except InvalidFaultError:
            raise
        except ValueError as error:
            raise InvalidFaultError(str(error)) from error
        rule._check_names()
        return rule

    def _check_numbers(self) -> None:
        if check_integer(self.times, "times", -_MAX_TIMES, _MAX_TIMES) == 0:
            raise InvalidFaultError("times must not be 0; a negative number has no limit")
        check_integer(self.skip, "skip", 0, _MAX_TIMES)
        check_number(self.seconds, "seconds", 0, _MAX_SECONDS)
        if self.amount is not None:
            check_integer(self.amount, "amount", 0, MAX_FEN)
        if self.queries is not None:
            check_integer(self.queries, "queries", 0, _MAX_TIMES)

    def _check_names(self) -> None:
        if self.fault not in FAULTS:
            raise InvalidFaultError(f"unknown fault {self.fault!r}; {_suggestion(self.fault, FAULTS)}")
        if self.api not in APIS:
            raise InvalidFaultError(f"unknown api {self.api!r}; {_suggestion(self.api, APIS)}")
        if not possible(self.fault, self.api):
            raise InvalidFaultError(f"{self.fault} does not apply to {self.api}; it applies to {', '.join(places(self.fault))}")

    def matches(self, call: str, numbers: Collection[str]) -> bool:
        """Whether the rule matches this call and its fault applies to it."""
        api = call.partition("/")[0]
        if self.api not in (api, "*") and not (self.api == "notify" and api.endswith(".notify")):
            return False
        return applies(self.fault, call) and (not self.out_trade_no or self.out_trade_no in numbers)


class FaultPlan:
    """The active rules. The first rule that matches is used."""

    def __init__(self) -> None:
        self.rules: list[FaultRule] = []
        self._ids = itertools.count(1)

    def add(self, documents: object) -> list[FaultRule]:
        """Append the rules of a JSON list or object. If one is invalid, none is added."""
        rules = [FaultRule.parse(item) for item in (documents if isinstance(documents, list) else [documents])]
        for rule in rules:
            rule.id = next(self._ids)
        self.rules.extend(rules)
        return rules

    def remove(self, chosen: Callable[[FaultRule], bool]) -> int:
        """Remove the chosen rules; returns their number."""
        kept = [rule for rule in self.rules if not chosen(rule)]
        gone = len(self.rules) - len(kept)
        self.rules[:] = kept
        return gone

    def clear(self) -> None:
        """Remove all rules."""
        self.rules.clear()

    def take(self, call: str, numbers: Collection[str] = (), *, without: Collection[str] = ()) -> FaultRule | None:
        """The rule for this call, with one use counted. without: faults that are not considered."""
        for rule in self.rules:
            if rule.fault in without or not rule.matches(call, numbers):
                continue
            if rule.skip > 0:
                rule.skip -= 1
                continue
            rule.times -= 1
            if rule.times == 0:
                self.rules.remove(rule)
            return rule
        return None

    def documents(self) -> list[dict[str, Any]]:
        """The rules as JSON."""
        return [asdict(rule) for rule in self.rules]
