"""WeChat Pay v2's refund notification, which v3 merchants meet too (channel sheet 2.7, "Trap", and 3).

A refund made in the merchant's console, or a v3 refund sent without notify_url, is told in v2 XML: an unsigned envelope around
`req_info`, AES-256-ECB under the lower-case hexadecimal md5 of the APIv2 key.
"""

from __future__ import annotations

import base64
import hashlib
from xml.sax.saxutils import escape

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from paycenter_server.simulator.clock import alipay_time
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.ledger import random_text
from paycenter_server.simulator.model import Notice, Refund, Trade
from paycenter_server.simulator.wechat_notices import LADDER
from paycenter_server.simulator.wechat_v2_notices import accepted_xml

__all__ = ["WECHATPAY_V2", "XmlNoticeForm", "refund_payload"]

WECHATPAY_V2 = "wechatpay_v2"
_STATES = {"SUCCESS": "SUCCESS", "ABNORMAL": "CHANGE", "CLOSED": "REFUNDCLOSE"}


def refund_payload(trade: Trade, refund: Refund) -> dict[str, str]:
    """What `req_info` holds."""
    return {
        "out_refund_no": refund.number,
        "out_trade_no": trade.number,
        "refund_account": "REFUND_SOURCE_RECHARGE_FUNDS",
        "refund_fee": str(refund.amount),
        "refund_id": refund.refund_id,
        "refund_recv_accout": "支付用户零钱",
        "refund_request_source": "VENDOR_PLATFORM" if refund.by_console else "API",
        "refund_status": _STATES[refund.state],
        "settlement_refund_fee": str(refund.amount),
        "settlement_total_fee": str(refund.total),
        "success_time": alipay_time(refund.finished),
        "total_fee": str(refund.total),
        "transaction_id": trade.transaction_id,
    }


def _xml(root: str, fields: dict[str, str]) -> bytes:
    return f"<{root}>{''.join(f'<{name}>{escape(value)}</{name}>' for name, value in fields.items())}</{root}>".encode()


class XmlNoticeForm:
    """Encrypts anew at each send."""

    ladder: tuple[int, ...] = LADDER

    def __init__(self, keys: SimulatorKeys) -> None:
        self._keys = keys

    def encode(self, notice: Notice, how: str, rule: FaultRule | None) -> tuple[dict[str, str], bytes]:
        """WeChat v2, refund notification; there is no signature that could be wrong, so a wrong one is a wrong key."""
        fields: dict[str, str] = dict(notice.payload)
        if rule is not None and rule.fault == "wrong_amount":
            fields["refund_fee"] = str(int(fields["refund_fee"]) + 1 if rule.amount is None else rule.amount)
        ids = self._keys.wechatpay
        secret = ids["apiv2_key"] + ("x" if how == "bad_signature" else "")
        key = hashlib.md5(secret.encode(), usedforsecurity=False).hexdigest().encode()
        padder = PKCS7(128).padder()
        padded = padder.update(_xml("root", fields)) + padder.finalize()
        encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  (the protocol's, not ours)
        envelope = {
            "return_code": "SUCCESS",
            "appid": ids["appid"],
            "mch_id": ids["mchid"],
            "nonce_str": random_text(32),
            "req_info": base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode(),
        }
        return {"Content-Type": "text/xml", "User-Agent": "Mozilla/4.0"}, _xml("xml", envelope)

    def accepted(self, status: int, body: bytes) -> bool:
        """XML with return_code SUCCESS."""
        return accepted_xml(status, body)
