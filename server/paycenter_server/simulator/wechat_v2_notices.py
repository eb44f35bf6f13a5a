"""WeChat Pay v2: the payment's notification, signed XML (channel sheet 3). For the refund's see wechat_xml."""

from __future__ import annotations

import re

from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.model import Notice, Trade
from paycenter_server.simulator.notifier import Notifier
from paycenter_server.simulator.wechat_notices import LADDER
from paycenter_server.simulator.wechat_v2_orders import paid_fields
from paycenter_server.simulator.wechat_v2_wire import nonce, render_xml, signed_fields

__all__ = ["PAYMENT_FORM", "V2PaymentForm", "accepted_xml", "notify_payment"]

PAYMENT_FORM = "wechatpay_v2_payment"
_SUCCESS = re.compile(rb"<return_code>\s*(?:<!\[CDATA\[SUCCESS\]\]>|SUCCESS)\s*</return_code>")


def accepted_xml(status: int, body: bytes) -> bool:
    """XML with return_code SUCCESS, in CDATA or plain; an empty 200 is a failure here."""
    return status == 200 and bool(_SUCCESS.search(body))


class V2PaymentForm:
    """Signed anew at each send, as the order was: MD5 or HMAC-SHA256."""

    ladder: tuple[int, ...] = LADDER

    def __init__(self, keys: SimulatorKeys) -> None:
        self._keys = keys

    def encode(self, notice: Notice, how: str, rule: FaultRule | None) -> tuple[dict[str, str], bytes]:
        """WeChat v2, payment notification."""
        fields: dict[str, str] = dict(notice.payload, nonce_str=nonce())
        if rule is not None and rule.fault == "wrong_amount":
            fields["total_fee"] = str(int(fields["total_fee"]) + 1 if rule.amount is None else rule.amount)
        signed = signed_fields(self._keys, fields, notice.signer, how)
        return {"Content-Type": "text/xml", "User-Agent": "Mozilla/4.0"}, render_xml(signed)

    def accepted(self, status: int, body: bytes) -> bool:
        """See accepted_xml."""
        return accepted_xml(status, body)


def notify_payment(notifier: Notifier, trade: Trade, *, delay: float, copies: int, wrong_signatures: int) -> None:
    """The payment's result; bar payments have no address and so are never told."""
    head = {"return_code": "SUCCESS", "result_code": "SUCCESS", "appid": trade.app_id, "mch_id": trade.merchant_id}
    notifier.send(
        trade,
        "v2 payment",
        trade.notify_url,
        head | paid_fields(trade),
        trade.signer,
        delay=delay,
        copies=copies,
        wrong_signatures=wrong_signatures,
        form=PAYMENT_FORM,
    )
