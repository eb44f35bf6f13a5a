"""WeChat Pay v2 callbacks: payments are signed XML; refunds are unsigned XML with an encrypted `req_info`.

A v3 refund that was made without a notify_url, or in the merchant's console, is reported in this form too.
Source: WeChat Pay v2, "Payment result notification", "Refund result notification".
"""

from __future__ import annotations

import hashlib
import re

from paycenter_server.channels.crypto import CryptoError, aes_ecb_decrypt, b64decode
from paycenter_server.channels.protocol import (
    AnswerError,
    Callback,
    CallbackError,
    CallbackResponse,
    RefundFacts,
    RefundOutcome,
    RefundStatus,
)
from paycenter_server.channels.wechatpay.v2_xml import build, parse

_NUMBER = re.compile(r"[0-9]{1,12}")


def whole(value: str) -> int | None:
    """An amount in whole fen; None for anything else."""
    return int(value) if _NUMBER.fullmatch(value) else None


def answer(received: bool, message: str) -> CallbackResponse:
    """The acknowledgement in the form that API v2 requires."""
    if received:
        return CallbackResponse(200, build({"return_code": "SUCCESS", "return_msg": "OK"}), "text/xml")
    return CallbackResponse(500, build({"return_code": "FAIL", "return_msg": message[:100]}), "text/xml")


def read_refund(body: bytes, mch_key: str, appid: str, mchid: str) -> Callback:
    """Read a refund callback. It has no signature, only a shared key, so it decides nothing and the refund is queried."""
    try:
        envelope = parse(body)
        if envelope.get("return_code") != "SUCCESS" or "req_info" not in envelope:
            raise CallbackError("neither a signed payment nor a refund callback")
        if (envelope.get("appid"), envelope.get("mch_id")) != (appid, mchid):
            raise CallbackError("the callback is for another merchant or application")
        key = hashlib.md5(mch_key.encode(), usedforsecurity=False).hexdigest().encode()
        plain = aes_ecb_decrypt(key, b64decode(envelope["req_info"]))
        fields = parse(plain)
    except (AnswerError, CryptoError) as error:
        raise CallbackError(str(error)) from error
    facts = RefundFacts(
        out_refund_no=fields.get("out_refund_no", ""),
        out_trade_no=fields.get("out_trade_no", ""),
        amount=whole(fields.get("refund_fee", "")),
        account={"appid": appid, "mchid": mchid},
        channel_refund_no=fields.get("refund_id", ""),
    )
    raw = plain.decode(errors="replace")
    return Callback(refund=RefundOutcome(RefundStatus.PENDING, facts), raw=raw, answer=answer(True, ""))
