"""Notifications of both versions.

Sources: WeChat Pay APIv3, payment notification; refund result notification. WeChat Pay APIv2, payment result notification; refund
result notification. WeChat Pay sends the v2 refund notification also to merchants of v3, for refunds made in the console and for
refunds without notify_url.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from typing import Any
from xml.sax.saxutils import escape

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from paycenter_server.channels.crypto import aes_gcm_encrypt
from paycenter_server.simulator.clock import china_time, rfc3339
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.notifications import Notification
from paycenter_server.simulator.settings import KeyRotation
from paycenter_server.simulator.state import Simulator
from paycenter_server.simulator.trades import WECHATPAY_V3, Refund, Trade, random_text
from paycenter_server.simulator.wechatpay.v2_call import nonce, render_xml, signed_fields
from paycenter_server.simulator.wechatpay.v2_trades import paid_fields
from paycenter_server.simulator.wechatpay.v3_call import PUBLIC_KEY, signature_headers
from paycenter_server.simulator.wechatpay.v3_orders import trade_state, transaction

__all__ = ["RETRY_SCHEDULE", "WECHATPAY_V2", "register"]

WECHATPAY_V2 = "wechatpay_v2"
WECHATPAY_V2_PAYMENT = "wechatpay_v2_payment"
# 15s/15s/30s/3m/10m/20m/30m/30m/30m/60m/3h/3h/3h/6h/6h: 15 resends within 24h4m.
RETRY_SCHEDULE = (15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10800, 10800, 10800, 21600, 21600)
_SUMMARIES = {
    "TRANSACTION.SUCCESS": "支付成功",
    "REFUND.SUCCESS": "退款成功",
    "REFUND.ABNORMAL": "退款异常",
    "REFUND.CLOSED": "退款关闭",
}


class V3NotificationFormat:
    """JSON with an encrypted resource. Each send is encrypted and signed again; the id stays the same."""

    retry_schedule: tuple[int, ...] = RETRY_SCHEDULE

    def __init__(self, keys: SimulatorKeys, rotation: KeyRotation) -> None:
        self._keys, self._rotation = keys, rotation

    def encode(self, notification: Notification, signature_fault: str, rule: FaultRule | None) -> tuple[dict[str, str], bytes]:
        """The resource is encrypted with AES-256-GCM."""
        if rule is not None and rule.fault == "rotate":
            self._rotation.set("wechatpay", done=True)
        if rule is not None and rule.fault == "migrate":
            self._rotation.set("migration", done=True)
        plain = copy.deepcopy(notification.payload)
        if rule is not None and rule.fault == "wrong_amount":
            name = "refund" if "refund" in plain["amount"] else "total"
            plain["amount"][name] = plain["amount"][name] + 1 if rule.amount is None else rule.amount
        kind = "refund" if notification.event.startswith("REFUND.") else "transaction"
        nonce = random_text(12)
        encrypted = aes_gcm_encrypt(
            self._keys.merchant.secrets("apiv3_key")[0].encode(),
            nonce.encode(),
            json.dumps(plain, ensure_ascii=False).encode(),
            kind.encode(),
        )
        body = json.dumps(
            {
                "id": notification.id,
                "create_time": rfc3339(notification.created),
                "resource_type": "encrypt-resource",
                "event_type": notification.event,
                "summary": _SUMMARIES[notification.event],
                "resource": {
                    "original_type": kind,
                    "algorithm": "AEAD_AES_256_GCM",
                    "ciphertext": base64.b64encode(encrypted).decode(),
                    "associated_data": kind,
                    "nonce": nonce,
                },
            },
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode()
        headers = {"Content-Type": "application/json", "Accept": "*/*", "User-Agent": "Mozilla/4.0"}
        rotated = self._rotation.done("wechatpay")
        signer = PUBLIC_KEY if self._rotation.done("migration") else notification.signer
        return headers | signature_headers(self._keys, signer, body, signature_fault, rotated=rotated), body

    def accepted(self, status: int, body: bytes) -> bool:
        """The status must be 200 or 204; the body is ignored."""
        del body
        return status in (200, 204)


_SUCCESS = re.compile(rb"<return_code>\s*(?:<!\[CDATA\[SUCCESS\]\]>|SUCCESS)\s*</return_code>")


def _accepted_xml(status: int, body: bytes) -> bool:
    """XML with return_code SUCCESS, in CDATA or plain. An empty 200 is not accepted."""
    return status == 200 and bool(_SUCCESS.search(body))


class V2PaymentFormat:
    """Signed XML, with the signature type of the order: MD5 or HMAC-SHA256."""

    retry_schedule: tuple[int, ...] = RETRY_SCHEDULE

    def __init__(self, keys: SimulatorKeys) -> None:
        self._keys = keys

    def encode(self, notification: Notification, signature_fault: str, rule: FaultRule | None) -> tuple[dict[str, str], bytes]:
        """Each send has its own nonce_str and signature."""
        fields: dict[str, str] = dict(notification.payload, nonce_str=nonce())
        if rule is not None and rule.fault == "wrong_amount":
            fields["total_fee"] = str(int(fields["total_fee"]) + 1 if rule.amount is None else rule.amount)
        signed = signed_fields(self._keys, fields, notification.signer, signature_fault)
        return {"Content-Type": "text/xml", "User-Agent": "Mozilla/4.0"}, render_xml(signed)

    def accepted(self, status: int, body: bytes) -> bool:
        """See _accepted_xml."""
        return _accepted_xml(status, body)


_STATES = {"SUCCESS": "SUCCESS", "ABNORMAL": "CHANGE", "CLOSED": "REFUNDCLOSE"}


def _v2_refund_payload(trade: Trade, refund: Refund) -> dict[str, str]:
    """The content of `req_info`."""
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
        "success_time": china_time(refund.finished),
        "total_fee": str(refund.total),
        "transaction_id": trade.transaction_id,
    }


def _xml(root: str, fields: dict[str, str]) -> bytes:
    return f"<{root}>{''.join(f'<{name}>{escape(value)}</{name}>' for name, value in fields.items())}</{root}>".encode()


class V2RefundFormat:
    """XML without a signature, with an encrypted `req_info`."""

    retry_schedule: tuple[int, ...] = RETRY_SCHEDULE

    def __init__(self, keys: SimulatorKeys) -> None:
        self._keys = keys

    def encode(self, notification: Notification, signature_fault: str, rule: FaultRule | None) -> tuple[dict[str, str], bytes]:
        """AES-256-ECB with the MD5 of the APIv2 key. For the fault bad_signature the key is wrong."""
        fields: dict[str, str] = dict(notification.payload)
        if rule is not None and rule.fault == "wrong_amount":
            fields["refund_fee"] = str(int(fields["refund_fee"]) + 1 if rule.amount is None else rule.amount)
        ids = self._keys.wechatpay
        secret = self._keys.merchant.secrets("apiv2_key")[0] + ("x" if signature_fault == "bad_signature" else "")
        key = hashlib.md5(secret.encode(), usedforsecurity=False).hexdigest().encode()
        padder = PKCS7(128).padder()
        padded = padder.update(_xml("root", fields)) + padder.finalize()
        encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  (required by the protocol)
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
        return _accepted_xml(status, body)


def register(simulator: Simulator) -> None:
    """Add the channel and its notification formats."""
    simulator.channels[WECHATPAY_V3] = WechatChannel(simulator)
    register_format, keys = simulator.notifier.register, simulator.keys
    register_format(WECHATPAY_V3, "wx.notify", V3NotificationFormat(keys, simulator.rotation))
    register_format(WECHATPAY_V2, "wx.notify/v2 refund", V2RefundFormat(keys))
    register_format(WECHATPAY_V2_PAYMENT, "wx.notify/v2", V2PaymentFormat(keys))


class WechatChannel:
    """WeChat Pay's part of an action on a trade."""

    def __init__(self, simulator: Simulator) -> None:
        self._notifier = simulator.notifier
        self.refund_delay_seconds = simulator.config.refund_delay_seconds

    def shown_state(self, trade: Trade) -> str:
        """The trade_state."""
        return trade_state(trade)

    def expire(self, trade: Trade) -> None:
        """Nothing: WeChat Pay leaves an expired order NOTPAY."""

    def return_url(self, trade: Trade) -> str:
        """Always "", because the merchant's page handles the return."""
        return ""

    def notify_payment(self, trade: Trade, *, delay: float = 0.0, copies: int = 1, wrong_signatures: int = 0) -> None:
        """TRANSACTION.SUCCESS, or the v2 format for an order of v2. Code payments have no notify_url and so no notification."""
        event, protocol, payload = "TRANSACTION.SUCCESS", WECHATPAY_V3, transaction(trade, "SUCCESS")
        if trade.v2:
            head = {"return_code": "SUCCESS", "result_code": "SUCCESS", "appid": trade.app_id, "mch_id": trade.merchant_id}
            event, protocol, payload = "v2 payment", WECHATPAY_V2_PAYMENT, head | paid_fields(trade)
        self._notifier.send(
            trade,
            event,
            trade.notify_url,
            payload,
            trade.signer,
            delay=delay,
            copies=copies,
            wrong_signatures=wrong_signatures,
            protocol=protocol,
        )

    def notify_refund(self, trade: Trade, refund: Refund) -> None:
        """REFUND.SUCCESS, REFUND.ABNORMAL or REFUND.CLOSED, or the v2 format."""
        if refund.xml:
            self._notifier.send(trade, "v2 refund", refund.notify_url, _v2_refund_payload(trade, refund), "", protocol=WECHATPAY_V2)
        else:
            payload = _v3_refund_payload(trade, refund)
            self._notifier.send(trade, f"REFUND.{refund.state}", refund.notify_url, payload, refund.signer or trade.signer)


def _v3_refund_payload(trade: Trade, refund: Refund) -> dict[str, Any]:
    """The resource. Its field is `refund_status`, which answers call `status`."""
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
    return payload
