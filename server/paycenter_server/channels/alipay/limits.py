"""Alipay's limits on a payment, checked before anything is sent. Source: Alipay Open API, the field tables of the trade APIs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from paycenter_server.channels.protocol import PayRequest
from paycenter_server.domain.errors import Violation

_OUT_TRADE_NO = re.compile(r"[0-9A-Za-z_]{1,64}")
_AUTH_CODE = re.compile(r"(2[5-9]|30)[0-9]{14,22}")
_MOST = 10_000_000_000


def limits(request: PayRequest) -> Sequence[Violation]:
    """Every field that Alipay would refuse."""
    wrong: list[Violation] = []
    if not _OUT_TRADE_NO.fullmatch(request.out_trade_no):
        wrong.append(Violation("out_trade_no", "Alipay takes 1 to 64 of 0-9 A-Z a-z _"))
    if not 1 <= len(request.subject) <= 256:
        wrong.append(Violation("subject", "Alipay takes 1 to 256 characters"))
    if not 1 <= request.amount <= _MOST:
        wrong.append(Violation("amount", "Alipay takes 0.01 to 100000000.00 yuan"))
    if len(request.callback_url) > 256:
        wrong.append(Violation("callback_url", "Alipay takes at most 256 characters"))
    if len(request.return_url) > 256:
        wrong.append(Violation("return_url", "Alipay takes at most 256 characters"))
    if (auth_code := request.extras.get("auth_code")) and not _AUTH_CODE.fullmatch(auth_code):
        wrong.append(Violation("channel_extras.auth_code", "must be Alipay's 16 to 24 digits, starting with 25 to 30"))
    for name in ("buyer_id", "buyer_open_id", "op_app_id"):
        if len(request.extras.get(name, "")) > 128:
            wrong.append(Violation(f"channel_extras.{name}", "has more than 128 characters"))
    return wrong
