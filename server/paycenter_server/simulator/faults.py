"""The fault script: rules that make the simulated channels misbehave, a counted number of times.

A rule is JSON: {"api": "wx.native", "fault": "timeout_after_commit", "out_trade_no": "…", "times": 1, "skip": 0, "seconds": 5,
"amount": 1, "code": "…", "queries": 2}. Only api and fault are needed. api is `wx.` + native, jsapi, app, h5, codepay, query,
close, reverse, refund, refund_query, abnormal_refund, certificates, tradebill, fundflowbill, billdownload; or `wx2.` +
unifiedorder, micropay, orderquery, closeorder, reverse, refund, refundquery, downloadbill; or the Alipay method; or `wx.notify`,
`alipay.notify`, `notify` (both); or `*`. out_trade_no may be a refund's number too. times below zero means for ever. skip lets
that many matching calls pass first. code: of `decline`. queries: after so many queries the payer of a bar payment has paid; never
by itself without it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["AFTER", "APIS", "BEFORE", "DOMAIN", "FAULTS", "NOTIFY", "FaultPlan", "FaultRule", "InvalidFaultError"]

BEFORE = {
    "timeout_before_commit": "no answer, nothing was done",
    "error_before_commit": "500 SYSTEM_ERROR or 20000 isp.unknow-error, nothing was done",
    "reset_before_commit": "connection cut, nothing was done",
    "http_503": "503, nothing was done",
    "rate_limit": "429 FREQUENCY_LIMITED or isv.app-call-limited, nothing was done",
}
AFTER = {
    "timeout_after_commit": "done, but no answer",
    "error_after_commit": "done, but 500 SYSTEM_ERROR or 40004 ACQ.SYSTEM_ERROR",
    "reset": "done, but the connection is cut",
    "unsigned": "done, the answer carries no signature",
    "bad_signature": "the signature is of other bytes",
    "other_key": "WeChat: signed with the key of the other mode, as during the migration to public keys",
    "slow": "done, answered (or sent) `seconds` later",
    "wrong_amount": "the amount told is `amount` fen, or one fen more than true",
    "slash": "Alipay: signed before its slashes were escaped",
    "brace": "Alipay: a closing brace inside a string of the answer",
}
DOMAIN = {
    "not_enough": "refund: NOT_ENOUGH or ACQ.SELLER_BALANCE_NOT_ENOUGH, nothing was done",
    "refund_abnormal": "WeChat refund ends ABNORMAL",
    "xml_notify": "WeChat refund is notified in v2 XML, as one without notify_url is",
    "refund_closed": "WeChat refund ends CLOSED",
    "refund_pending": "refund stays unconfirmed for `seconds` (Alipay: fund_change N and an empty refund query)",
    "user_paying": "WeChat: USERPAYING, at a query of what is not paid or at a bar payment (paid after `queries` queries)",
    "bank_error": "WeChat v2 micropay: BANKERROR, the payer pays after `queries` queries",
    "in_process": "alipay.trade.pay: 10003, the payer pays after `queries` queries",
    "decline": "refused with `code` (such as ACQ.BUYER_BALANCE_NOT_ENOUGH or NOTENOUGH), nothing was done; a bar trade has failed",
    "retry_flag": "alipay.trade.cancel: retry_flag Y, nothing was done",
    "recall": "WeChat reverse: v2 recall Y, v3 500 SYSTEM_ERROR, nothing was done",
    "rotate": "WeChat v3, Alipay: from this call (or send) on the next platform certificate, or certificate of Alipay, signs",
}
NOTIFY = {
    "drop": "the send is lost, the ladder goes on",
    "late": "sent `seconds` later by the simulator's clock; the ladder goes on from there",
    "reordered": "sent after the trade's next notification, or `seconds` later by the simulator's clock if none comes",
    "duplicate": "sent twice",
    "signtest": "WeChat: a WECHATPAY/SIGNTEST/ probe is sent first",
}
FAULTS = {**BEFORE, **AFTER, **DOMAIN, **NOTIFY}
APIS = (
    *("wx." + name for name in ("native", "jsapi", "app", "h5", "codepay", "query", "close", "reverse")),
    *("wx." + name for name in ("refund", "refund_query", "abnormal_refund", "certificates")),
    *("wx." + name for name in ("tradebill", "fundflowbill", "billdownload")),
    *("wx2." + name for name in ("unifiedorder", "micropay", "orderquery", "closeorder", "reverse")),
    *("wx2." + name for name in ("refund", "refundquery", "downloadbill")),
    *("alipay.trade." + name for name in ("precreate", "create", "pay", "query", "close", "cancel", "refund")),
    *("alipay.trade." + name for name in ("fastpay.refund.query", "page.pay", "wap.pay", "app.pay")),
    "alipay.data.dataservice.bill.downloadurl.query",
    "alipay.open.app.alipaycert.download",
    *("wx.notify", "alipay.notify", "notify", "*"),
)
"""All that a rule's `api` may be."""
_KINDS: dict[str, type | tuple[type, ...]] = {
    "api": str,
    "fault": str,
    "out_trade_no": str,
    "times": int,
    "skip": int,
    "seconds": (int, float),
    "amount": (int, type(None)),
    "code": str,
    "queries": (int, type(None)),
}


class InvalidFaultError(ValueError):
    """A rule that cannot be understood; the text says why."""


@dataclass(slots=True)
class FaultRule:
    """One rule; `times` counts down, a negative one lasts for ever."""

    api: str
    fault: str
    out_trade_no: str = ""
    times: int = 1
    skip: int = 0
    seconds: float = 30.0
    amount: int | None = None
    code: str = ""
    queries: int | None = None

    @classmethod
    def parse(cls, document: object) -> FaultRule:
        """From JSON; InvalidFaultError says what is wrong."""
        if not isinstance(document, dict):
            raise InvalidFaultError("a rule must be a JSON object")
        unknown = set(document) - set(cls.__slots__)
        if unknown:
            raise InvalidFaultError(f"unknown fields: {', '.join(sorted(unknown))}")
        for name, kinds in _KINDS.items():
            if name in document and (not isinstance(document[name], kinds) or isinstance(document[name], bool)):
                raise InvalidFaultError(f"{name} has the wrong type")
        if not document.get("api"):
            raise InvalidFaultError("api is required")
        if document.get("fault") not in FAULTS:
            raise InvalidFaultError(f"fault must be one of {', '.join(FAULTS)}")
        return cls(**document)

    def matches(self, api: str, numbers: Collection[str]) -> bool:
        """Whether the rule is about this call."""
        if self.api not in (api, "*") and not (self.api == "notify" and api.endswith(".notify")):
            return False
        return not self.out_trade_no or self.out_trade_no in numbers


class FaultPlan:
    """The rules that are still to strike, first come first served."""

    def __init__(self) -> None:
        self.rules: list[FaultRule] = []

    def add(self, documents: object) -> list[FaultRule]:
        """Append rules from a JSON list (or one object); all or none."""
        rules = [FaultRule.parse(item) for item in (documents if isinstance(documents, list) else [documents])]
        self.rules.extend(rule for rule in rules if rule.times)
        return rules

    def clear(self) -> None:
        """Behave well again."""
        self.rules.clear()

    def take(self, api: str, numbers: Collection[str] = ()) -> FaultRule | None:
        """The rule that strikes this call, one of its times used up."""
        for rule in self.rules:
            if not rule.matches(api, numbers):
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
