"""WeChat Pay APIv3: notifications (channel sheet 2.7)."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

from paycenter_server.channels.crypto import aes_gcm_encrypt
from paycenter_server.simulator.clock import rfc3339
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.ledger import random_text
from paycenter_server.simulator.model import Notice, Refund, Trade
from paycenter_server.simulator.notifier import Notifier
from paycenter_server.simulator.rotation import Rotation
from paycenter_server.simulator.wechat_auth import PUBLIC_KEY, signature_headers
from paycenter_server.simulator.wechat_orders import transaction

__all__ = ["LADDER", "WechatNoticeForm", "notify_payment", "notify_refund"]

# 15s/15s/30s/3m/10m/20m/30m/30m/30m/60m/3h/3h/3h/6h/6h: 15 resends within 24h4m.
LADDER = (15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10800, 10800, 10800, 21600, 21600)
_SUMMARIES = {
    "TRANSACTION.SUCCESS": "支付成功",
    "REFUND.SUCCESS": "退款成功",
    "REFUND.ABNORMAL": "退款异常",
    "REFUND.CLOSED": "退款关闭",
}


class WechatNoticeForm:
    """Encrypts and signs anew at each send; the id stays."""

    ladder: tuple[int, ...] = LADDER

    def __init__(self, keys: SimulatorKeys, rotation: Rotation) -> None:
        self._keys, self._rotation = keys, rotation

    def encode(self, notice: Notice, how: str, rule: FaultRule | None) -> tuple[dict[str, str], bytes]:
        """WeChat v3, notification: JSON around an AES-256-GCM `resource`."""
        if rule is not None and rule.fault == "rotate":
            self._rotation.turn("wechatpay", done=True)
        if rule is not None and rule.fault == "migrate":
            self._rotation.turn("migration", done=True)
        plain = copy.deepcopy(notice.payload)
        if rule is not None and rule.fault == "wrong_amount":
            name = "refund" if "refund" in plain["amount"] else "total"
            plain["amount"][name] = plain["amount"][name] + 1 if rule.amount is None else rule.amount
        kind = "refund" if notice.event.startswith("REFUND.") else "transaction"
        nonce = random_text(12)
        sealed = aes_gcm_encrypt(
            self._keys.wechatpay["apiv3_key"].encode(),
            nonce.encode(),
            json.dumps(plain, ensure_ascii=False).encode(),
            kind.encode(),
        )
        body = json.dumps(
            {
                "id": notice.id,
                "create_time": rfc3339(notice.created),
                "resource_type": "encrypt-resource",
                "event_type": notice.event,
                "summary": _SUMMARIES[notice.event],
                "resource": {
                    "original_type": kind,
                    "algorithm": "AEAD_AES_256_GCM",
                    "ciphertext": base64.b64encode(sealed).decode(),
                    "associated_data": kind,
                    "nonce": nonce,
                },
            },
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode()
        headers = {"Content-Type": "application/json", "Accept": "*/*", "User-Agent": "Mozilla/4.0"}
        rotated = self._rotation.done("wechatpay")
        signer = PUBLIC_KEY if self._rotation.done("migration") else notice.signer
        return headers | signature_headers(self._keys, signer, body, how, rotated=rotated), body

    def accepted(self, status: int, body: bytes) -> bool:
        """200 or 204, whatever the body."""
        del body
        return status in (200, 204)


def notify_payment(notifier: Notifier, trade: Trade, *, delay: float, copies: int, wrong_signatures: int) -> None:
    """TRANSACTION.SUCCESS."""
    payload = transaction(trade, "SUCCESS")
    notifier.send(
        trade,
        "TRANSACTION.SUCCESS",
        trade.notify_url,
        payload,
        trade.signer,
        delay=delay,
        copies=copies,
        wrong_signatures=wrong_signatures,
    )


def notify_refund(notifier: Notifier, trade: Trade, refund: Refund) -> None:
    """REFUND.SUCCESS, REFUND.ABNORMAL or REFUND.CLOSED. The field is `refund_status` here, `status` in answers."""
    payload: dict[str, Any] = {
        "mchid": trade.merchant_id,
        "out_trade_no": trade.number,
        "transaction_id": trade.transaction_id,
        "out_refund_no": refund.number,
        "refund_id": refund.refund_id,
        "refund_status": refund.state,
        "user_received_account": "支付用户零钱",
        "amount": {
            "total": refund.total,
            "refund": refund.amount,
            "payer_total": refund.total,
            "payer_refund": refund.amount,
        },
    }
    if refund.state == "SUCCESS":
        payload["success_time"] = rfc3339(refund.finished)
    notifier.send(trade, f"REFUND.{refund.state}", refund.notify_url, payload, refund.signer or trade.signer)
