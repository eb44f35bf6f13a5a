"""Alipay: asynchronous notifications and the signed return to the merchant's page (channel sheet 1.9)."""

from __future__ import annotations

import json
import secrets
from urllib.parse import urlencode

from paycenter_server.simulator.alipay_auth import sign_params
from paycenter_server.simulator.alipay_call import fen_of, yuan
from paycenter_server.simulator.alipay_trades import trade_status
from paycenter_server.simulator.clock import Clock, alipay_time
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.model import Notice, Refund, Trade
from paycenter_server.simulator.notifier import Notifier
from paycenter_server.simulator.rotation import Rotation

__all__ = ["LADDER", "AlipayNoticeForm", "notify_payment", "notify_refund", "return_address"]

# 4m,10m,10m,1h,2h,6h,15h: eight sends in all.
LADDER = (240, 600, 600, 3600, 7200, 21600, 54000)


class AlipayNoticeForm:
    """A form, signed anew at each send because notify_time changes; notify_id stays."""

    ladder: tuple[int, ...] = LADDER

    def __init__(self, keys: SimulatorKeys, clock: Clock, rotation: Rotation) -> None:
        self._keys, self._clock, self._rotation = keys, clock, rotation

    def encode(self, notice: Notice, how: str, rule: FaultRule | None) -> tuple[dict[str, str], bytes]:
        """Alipay, asynchronous notification."""
        if rule is not None and rule.fault == "rotate":
            self._rotation.turn("alipay", done=True)
        params: dict[str, str] = dict(notice.payload)
        params["notify_time"] = alipay_time(self._clock.now())
        if rule is not None and rule.fault == "wrong_amount":
            params["total_amount"] = yuan(fen_of(params["total_amount"]) + 1 if rule.amount is None else rule.amount)
        rotated = notice.signer == "certificate" and self._rotation.done("alipay")
        body = urlencode(sign_params(self._keys, params, how, rotated=rotated)).encode()
        return {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", "User-Agent": "Mozilla/4.0"}, body

    def accepted(self, status: int, body: bytes) -> bool:
        """Exactly these seven bytes."""
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
        "gmt_create": alipay_time(trade.created),
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
        payload["gmt_payment"] = alipay_time(trade.paid_at)
    if trade.attach:
        payload["passback_params"] = trade.attach
    return payload


def notify_payment(
    notifier: Notifier, keys: SimulatorKeys, trade: Trade, *, delay: float, copies: int, wrong_signatures: int
) -> None:
    """The trade's status: TRADE_SUCCESS, TRADE_FINISHED or, after a close, TRADE_CLOSED."""
    payload = _payload(keys, trade)
    notifier.send(
        trade,
        payload["trade_status"],
        trade.notify_url,
        payload,
        trade.signer,
        delay=delay,
        copies=copies,
        wrong_signatures=wrong_signatures,
    )


def notify_refund(notifier: Notifier, keys: SimulatorKeys, trade: Trade, refund: Refund) -> None:
    """To the payment's address; partial: TRADE_SUCCESS, full: TRADE_CLOSED, both with the cumulative refund_fee."""
    payload = _payload(keys, trade)
    done = sum(item.amount for item in trade.refunds if item.state == "SUCCESS")
    payload |= {"refund_fee": yuan(done), "gmt_refund": alipay_time(refund.finished) + ".000", "out_biz_no": refund.number}
    if payload["trade_status"] == "TRADE_CLOSED":
        payload["gmt_close"] = alipay_time(refund.finished)
    notifier.send(trade, payload["trade_status"] + " (refund)", trade.notify_url, payload, trade.signer)


def return_address(keys: SimulatorKeys, clock: Clock, trade: Trade) -> str:
    """Where the browser goes after the payment, signed like a notification; "" if the merchant named no return_url."""
    if not trade.return_url:
        return ""
    params = {
        "app_id": trade.app_id,
        "auth_app_id": trade.app_id,
        "charset": "utf-8",
        "method": f"alipay.trade.{trade.api}.pay.return",
        "out_trade_no": trade.number,
        "seller_id": keys.alipay["seller_id"],
        "timestamp": alipay_time(clock.now()),
        "total_amount": yuan(trade.paid_amount or trade.amount),
        "trade_no": trade.transaction_id,
        "version": "1.0",
    }
    return trade.return_url + ("&" if "?" in trade.return_url else "?") + urlencode(sign_params(keys, params))
