"""WeChat Pay's limits on payments and refunds, checked before anything is sent. Source: the field tables of v3 and v2."""

from __future__ import annotations

import re
from collections.abc import Sequence

from paycenter_server.channels.addresses import is_gateway
from paycenter_server.channels.protocol import PayRequest, RefundRequest
from paycenter_server.channels.wechatpay.h5 import H5_TYPES
from paycenter_server.domain.errors import Violation

_OUT_TRADE_NO = re.compile(r"[0-9A-Za-z_\-|*]{6,32}")
_OUT_REFUND_NO = re.compile(r"[0-9A-Za-z_\-|*@]{1,64}")
_OPENID = re.compile(r"[0-9A-Za-z_-]{1,128}")
_AUTH_CODE = re.compile(r"1[0-5][0-9]{16}")


def limits(request: PayRequest) -> Sequence[Violation]:
    """Every field that WeChat Pay would refuse."""
    wrong: list[Violation] = []
    if not _OUT_TRADE_NO.fullmatch(request.out_trade_no):
        wrong.append(Violation("out_trade_no", "WeChat Pay takes 6 to 32 of 0-9 A-Z a-z _ - | *"))
    if not 1 <= len(request.subject) <= 127:
        wrong.append(Violation("subject", "WeChat Pay takes 1 to 127 characters"))
    wrong += _callback_url(request.callback_url)
    if (openid := request.extras.get("openid")) and not _OPENID.fullmatch(openid):
        wrong.append(Violation("channel_extras.openid", "must be the payer's openid, at most 128 letters, digits, _ and -"))
    if (auth_code := request.extras.get("auth_code")) and not _AUTH_CODE.fullmatch(auth_code):
        wrong.append(Violation("channel_extras.auth_code", "must be WeChat's 18 digits, starting with 10 to 15"))
    if len(request.extras.get("store_id", "")) > 32:
        wrong.append(Violation("channel_extras.store_id", "has more than 32 characters"))
    if (kind := request.extras.get("h5_type")) and kind not in H5_TYPES:
        wrong.append(Violation("channel_extras.h5_type", f"must be one of {', '.join(H5_TYPES)}"))
    return wrong


def refund_limits(request: RefundRequest) -> Sequence[Violation]:
    """Every field of a refund that WeChat Pay would refuse. The length of the reason is in bytes, unlike that of other texts."""
    wrong: list[Violation] = []
    if not _OUT_REFUND_NO.fullmatch(request.out_refund_no):
        wrong.append(Violation("out_refund_no", "WeChat Pay takes 1 to 64 of 0-9 A-Z a-z _ - | * @"))
    if len(request.reason.encode()) > 80:
        wrong.append(Violation("reason", "WeChat Pay takes at most 80 bytes in UTF-8, which are 26 Chinese characters"))
    return [*wrong, *_callback_url(request.callback_url)]


def _callback_url(value: str) -> list[Violation]:
    if len(value) <= 255 and is_gateway(value):
        return []
    return [Violation("callback_url", "WeChat Pay takes an https address without a query, at most 255 characters")]
