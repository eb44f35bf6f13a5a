"""Asynchronous notifications, and the signed return to the merchant's page.

Source: Alipay, asynchronous notification.
"""

from __future__ import annotations

import json
import secrets
from urllib.parse import urlencode

from paycenter_server.simulator.alipay.call import fen_of, sign_params, yuan
from paycenter_server.simulator.alipay.trades import trade_status
from paycenter_server.simulator.clock import Clock, china_time
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.notifications import Notification
from paycenter_server.simulator.settings import KeyRotation
from paycenter_server.simulator.state import Simulator
from paycenter_server.simulator.trades import ALIPAY, Refund, Trade

__all__ = ["RETRY_SCHEDULE", "register"]

# 4m,10m,10m,1h,2h,6h,15h: eight sends in all.
RETRY_SCHEDULE = (240, 600, 600, 3600, 7200, 21600, 54000)


def register(simulator: Simulator) -> None:
    """Add the channel and its notification format."""
    simulator.channels[ALIPAY] = AlipayChannel(simulator)
    encoding = AlipayNotificationFormat(simulator.keys, simulator.clock, simulator.rotation)
    simulator.notifier.register(ALIPAY, "alipay.notify", encoding)


class AlipayNotificationFormat:
    """A form body. Each send has its own notify_time and signature; notify_id stays the same."""

    retry_schedule: tuple[int, ...] = RETRY_SCHEDULE

    def __init__(self, keys: SimulatorKeys, clock: Clock, rotation: KeyRotation) -> None:
        self._keys, self._clock, self._rotation = keys, clock, rotation

    def encode(self, notification: Notification, signature_fault: str, rule: FaultRule | None) -> tuple[dict[str, str], bytes]:
        """A form body with the signature as a parameter."""
        if rule is not None and rule.fault == "rotate":
            self._rotation.set("alipay", done=True)
        params: dict[str, str] = dict(notification.payload)
        params["notify_time"] = china_time(self._clock.now())
        if rule is not None and rule.fault == "wrong_amount":
            params["total_amount"] = yuan(fen_of(params["total_amount"]) + 1 if rule.amount is None else rule.amount)
        rotated = notification.signer == "certificate" and self._rotation.done("alipay")
        body = urlencode(sign_params(self._keys, params, signature_fault, rotated=rotated)).encode()
        return {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", "User-Agent": "Mozilla/4.0"}, body

    def accepted(self, status: int, body: bytes) -> bool:
        """The body must be exactly these seven bytes."""
        return status == 200 and body == b"success"


def _payload(keys: SimulatorKeys, trade: Trade) -> dict[str, str]:
    paid = yuan(trade.paid_amount or trade.amount)
    payload = {
        "app_id": trade.app_id,
        "auth_app_id": trade.app_id,
        "body": "",
        "buyer_id": trade.payer,
        "buyer_logon_id": "sim***@example.com",
        "buyer_pay_amount": paid,
        "charset": "utf-8",
        "fund_bill_list": json.dumps([{"amount": paid, "fundChannel": "ALIPAYACCOUNT"}], separators=(",", ":")),
        "gmt_create": china_time(trade.created),
        "invoice_amount": paid,
        "notify_id": secrets.token_hex(17),
        "notify_type": "trade_status_sync",
        "out_trade_no": trade.number,
        "point_amount": "0.00",
        "receipt_amount": paid,
        "seller_id": keys.alipay["seller_id"],
        "subject": trade.subject,
        "total_amount": paid,
        "trade_no": trade.transaction_id,
        "trade_status": trade_status(trade),
        "version": "1.0",
    }
    if trade.paid:
        payload["gmt_payment"] = china_time(trade.paid_at)
    if trade.attach:
        payload["passback_params"] = trade.attach
    return payload


class AlipayChannel:
    """Alipay's part of an action on a trade."""

    refund_delay_seconds = 0.0

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def shown_state(self, trade: Trade) -> str:
        """The trade_status, or TRADE_NOT_EXIST before the scan."""
        return trade_status(trade) if trade.exists else "TRADE_NOT_EXIST"

    def expire(self, trade: Trade) -> None:
        """Alipay closes a trade whose time to pay is over."""
        if trade.exists and trade.waiting and trade.expired(self._simulator.clock.now()):
            self._simulator.trades.close(trade, "closed because it was not paid in time")

    def notify_payment(self, trade: Trade, *, delay: float = 0.0, copies: int = 1, wrong_signatures: int = 0) -> None:
        """The status of the trade: TRADE_SUCCESS, TRADE_FINISHED or, after a close, TRADE_CLOSED."""
        payload = _payload(self._simulator.keys, trade)
        self._simulator.notifier.send(
            trade,
            payload["trade_status"],
            trade.notify_url,
            payload,
            trade.signer,
            delay=delay,
            copies=copies,
            wrong_signatures=wrong_signatures,
        )

    def notify_refund(self, trade: Trade, refund: Refund) -> None:
        """To the payment's notify_url: TRADE_SUCCESS for a partial, TRADE_CLOSED for a full refund, with the total refund_fee."""
        payload = _payload(self._simulator.keys, trade)
        done = sum(item.amount for item in trade.refunds if item.state == "SUCCESS")
        payload |= {"refund_fee": yuan(done), "gmt_refund": china_time(refund.finished) + ".000", "out_biz_no": refund.number}
        if payload["trade_status"] == "TRADE_CLOSED":
            payload["gmt_close"] = china_time(refund.finished)
        event = payload["trade_status"] + " (refund)"
        self._simulator.notifier.send(trade, event, trade.notify_url, payload, trade.signer)

    def return_url(self, trade: Trade) -> str:
        """The return_url with signed parameters; "" if the merchant gave no return_url."""
        if not trade.return_url:
            return ""
        params = {
            "app_id": trade.app_id,
            "auth_app_id": trade.app_id,
            "charset": "utf-8",
            "method": f"alipay.trade.{trade.api}.pay.return",
            "out_trade_no": trade.number,
            "seller_id": self._simulator.keys.alipay["seller_id"],
            "timestamp": china_time(self._simulator.clock.now()),
            "total_amount": yuan(trade.paid_amount or trade.amount),
            "trade_no": trade.transaction_id,
            "version": "1.0",
        }
        signed = sign_params(self._simulator.keys, params)
        return trade.return_url + ("&" if "?" in trade.return_url else "?") + urlencode(signed)
