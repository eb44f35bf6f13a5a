"""What can be misbehaved, and at which calls: the names that a fault script is written with."""

from __future__ import annotations

__all__ = ["AFTER", "APIS", "BEFORE", "DOMAIN", "FAULTS", "NOTIFY", "applies", "places", "possible"]

BEFORE = {
    "timeout_before_commit": "no answer, nothing was done",
    "error_before_commit": "500 SYSTEM_ERROR or 20000 isp.unknow-error, nothing was done",
    "reset_before_commit": "connection cut, nothing was done",
    "http_502": "502 of a gateway, without any of the channel's form; nothing was done",
    "http_503": "503, nothing was done",
    "rate_limit": "429 FREQUENCY_LIMITED or isv.app-call-limited, nothing was done",
    "accepted_202": "WeChat v3: 202 with an empty body, nothing was done yet",
}
AFTER = {
    "timeout_after_commit": "done, but no answer",
    "error_after_commit": "done, but 500 SYSTEM_ERROR or 40004 ACQ.SYSTEM_ERROR",
    "rate_limit_after_commit": "done, but 429 FREQUENCY_LIMITED or isv.app-call-limited",
    "reset": "done, but the connection is cut",
    "unsigned": "done, the answer carries no signature",
    "bad_signature": "the signature is of other bytes (v2 refund notification: sealed with a wrong key)",
    "other_key": "WeChat v3: signed with the key of the other mode, as during the migration to public keys",
    "slow": "done, answered (or sent) `seconds` later",
    "wrong_amount": "the amount told is `amount` fen, or one fen more than true",
    "slash": "Alipay: signed before its slashes were escaped",
    "brace": "Alipay: a closing brace inside a string of the answer",
}
DOMAIN = {
    "not_enough": "refund: NOT_ENOUGH or ACQ.SELLER_BALANCE_NOT_ENOUGH, nothing was done",
    "refund_abnormal": "WeChat refund ends ABNORMAL",
    "xml_notify": "WeChat v3 refund is notified in v2 XML, as one without notify_url is",
    "refund_closed": "WeChat refund ends CLOSED",
    "refund_pending": "refund stays unconfirmed for `seconds` (Alipay: fund_change N and an empty refund query)",
    "user_paying": "WeChat: USERPAYING, at a query of what is not paid or at a bar payment (paid after `queries` queries)",
    "bank_error": "WeChat v2 micropay: BANKERROR, the payer pays after `queries` queries",
    "in_process": "alipay.trade.pay: 10003, the payer pays after `queries` queries",
    "decline": "refused with `code` (such as ACQ.BUYER_BALANCE_NOT_ENOUGH or NOTENOUGH), nothing was done; a bar trade has failed",
    "retry_flag": "alipay.trade.cancel: retry_flag Y, nothing was done",
    "recall": "WeChat reverse: v2 recall Y, v3 500 SYSTEM_ERROR, nothing was done",
    "rotate": "WeChat v3, Alipay: from this call (or send) on the next platform certificate, or certificate of Alipay, signs",
    "migrate": "WeChat v3: from this call (or send) on there is only WeChat's public key; no platform certificate is left",
}
NOTIFY = {
    "drop": "the send is lost, the ladder goes on",
    "late": "sent `seconds` later by the simulator's clock; the ladder goes on from there",
    "reordered": "sent after the trade's next notification, or `seconds` later by the simulator's clock if none comes",
    "duplicate": "sent twice",
    "signtest": "WeChat v3: a WECHATPAY/SIGNTEST/ probe is sent first",
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
_NOTICES_V3, _NOTICES_V2, _NOTICES_V2_REFUND, _NOTICES_ALIPAY = (
    "wx.notify",
    "wx.notify/v2",
    "wx.notify/v2 refund",
    "alipay.notify",
)
_NOTICES = (_NOTICES_V3, _NOTICES_V2, _NOTICES_V2_REFUND, _NOTICES_ALIPAY)
APIS = (*_V3, _V3_FILE, *_V2, _V2_FILE, *_ALIPAY, *_ALIPAY_PAGES, _ALIPAY_FILE, "wx.notify", "alipay.notify", "notify", "*")
"""All that a rule's `api` may be. `wx.notify` are WeChat's notifications in every form."""

_TALKING = (*_V3, _V3_FILE, *_V2, _V2_FILE, *_ALIPAY, *_ALIPAY_PAGES)
_CALLS = (*_TALKING, _ALIPAY_FILE)
_AMOUNTS = (
    *("wx." + name for name in ("codepay", "query", "refund", "refund_query", "abnormal_refund")),
    *("wx2." + name for name in ("micropay", "orderquery", "refund", "refundquery")),
    *("alipay.trade." + name for name in ("pay", "query", "refund", "fastpay.refund.query")),
)
_REFUNDS = ("wx.refund", "wx2.refund", "alipay.trade.refund")
_WHERE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("timeout_before_commit", "reset_before_commit", "http_502", "http_503"), _CALLS),
    **dict.fromkeys(("timeout_after_commit", "reset"), _CALLS),
    # A file that is downloaded from Alipay has no form in which an error could be told.
    **dict.fromkeys(("error_before_commit", "rate_limit", "error_after_commit", "rate_limit_after_commit", "decline"), _TALKING),
    "accepted_202": _V3,
    "slow": (*_CALLS, *_NOTICES),
    "unsigned": (*_V3, *_V2, *_ALIPAY, _NOTICES_V3, _NOTICES_V2, _NOTICES_ALIPAY),
    "bad_signature": (*_V3, *_V2, *_ALIPAY, *_NOTICES),
    "other_key": (*_V3, _NOTICES_V3),
    "wrong_amount": (*_AMOUNTS, *_NOTICES),
    # Only these answers have slashes in them.
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
    "rotate": (*_V3, *_ALIPAY, _NOTICES_V3, _NOTICES_ALIPAY),
    "migrate": (*_V3, _NOTICES_V3),
    **dict.fromkeys(("drop", "late", "reordered", "duplicate"), _NOTICES),
    "signtest": (_NOTICES_V3,),
}


def _meant(api: str) -> tuple[str, ...]:
    """The calls that a rule's `api` stands for."""
    if api == "*":
        return (*_CALLS, *_NOTICES)
    if api == "notify":
        return _NOTICES
    return tuple(name for name in (*_CALLS, *_NOTICES) if name.partition("/")[0] == api)


def applies(fault: str, call: str) -> bool:
    """Whether a fault can strike a call, which is an api or one of WeChat's forms of a notification (`wx.notify/v2`)."""
    return call in _WHERE[fault]


def possible(fault: str, api: str) -> bool:
    """Whether a rule with these two can ever strike."""
    return any(applies(fault, call) for call in _meant(api))


def places(fault: str) -> list[str]:
    """All that `api` may be in a rule with this fault."""
    return [api for api in APIS if possible(fault, api)]
