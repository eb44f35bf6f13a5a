"""Alipay: precreate, page, wap, app and JSAPI payments, query, close, certificate download (channel sheet 1.4 to 1.8)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from paycenter_server.simulator.alipay_call import AlipayCall, AlipayError, acq, invalid_parameter, parse_yuan, yuan
from paycenter_server.simulator.clock import alipay_time
from paycenter_server.simulator.ledger import random_digits, random_text
from paycenter_server.simulator.model import ALIPAY, Trade

__all__ = ["begin", "certificate_download", "close", "create", "open_page", "precreate", "query", "trade_status"]

_NUMBER = re.compile(r"[0-9A-Za-z_]{1,64}")
_BUYER = re.compile(r"2088[0-9]{12}")
_LONGEST_SECONDS = 15 * 86400
_QR_SECONDS = 2 * 3600
_EXPIRY = ("time_expire", "timeout_express")
# The older QUICK_WAP_PAY is still in SDKs. What is not listed here is not checked.
_PRODUCTS = {
    "page": ("FAST_INSTANT_TRADE_PAY",),
    "wap": ("QUICK_WAP_WAY", "QUICK_WAP_PAY"),
    "app": ("QUICK_MSECURITY_PAY", ""),
    "create": ("JSAPI_PAY", "FACE_TO_FACE_PAYMENT", ""),
}
_STATUS = {"NOTPAY": "WAIT_BUYER_PAY", "USERPAYING": "WAIT_BUYER_PAY", "SUCCESS": "TRADE_SUCCESS"}


def trade_status(trade: Trade) -> str:
    """TRADE_SUCCESS stays after a partial refund; a full refund makes it TRADE_CLOSED."""
    if trade.paid and trade.refunded >= trade.paid_amount:
        return "TRADE_CLOSED"
    if trade.paid and trade.finished:
        return "TRADE_FINISHED"
    return _STATUS.get(trade.state, "TRADE_CLOSED")


def precreate(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.precreate: a QR code; the trade begins when somebody scans it."""
    expires = ("qr_code_timeout_express", "time_expire", "timeout_express")
    trade = _create(call, "precreate", expires, _QR_SECONDS, exists=False)
    return {"out_trade_no": trade.number, "qr_code": trade.code}


def open_page(call: AlipayCall) -> Trade:
    """alipay.trade.page.pay, wap.pay and app.pay: the buyer's browser or app arrives, so the trade exists from now on."""
    return begin(call, call.method.split(".")[2])


def create(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.create: for a mini program, whose buyer is known; my.tradePay then pays the `trade_no`."""
    buyer = call.optional("buyer_id") or call.optional("buyer_open_id")
    if not buyer:
        raise invalid_parameter("buyer_id和buyer_open_id不能同时为空")
    if call.optional("buyer_id") and not _BUYER.fullmatch(buyer):
        raise invalid_parameter("参数无效:buyer_id")
    if call.optional("product_code") == "JSAPI_PAY" and not call.optional("op_app_id"):
        raise invalid_parameter("参数无效:op_app_id")
    trade = begin(call, "create", buyer)
    return {"out_trade_no": trade.number, "trade_no": trade.transaction_id}


def begin(call: AlipayCall, api: str, *context: str) -> Trade:
    """A trade that exists at once; context: what else a repeat with the same number must repeat, the buyer first if known."""
    return _create(call, api, _EXPIRY, _LONGEST_SECONDS, context, exists=True)


def _create(
    call: AlipayCall, api: str, expires: tuple[str, ...], default: float, context: tuple[str, ...] = (), *, exists: bool
) -> Trade:
    number = call.text("out_trade_no", 64)
    if not _NUMBER.fullmatch(number):
        raise invalid_parameter("参数无效:out_trade_no")
    subject = call.text("subject", 256)
    amount = parse_yuan(call.biz.get("total_amount"), "total_amount")
    if api in _PRODUCTS and call.optional("product_code") not in _PRODUCTS[api]:
        raise invalid_parameter("参数无效:product_code")
    digest = hashlib.sha256(json.dumps([api, amount, subject, *context]).encode()).hexdigest()
    trade = call.trade
    # A QR code that died unscanned left nothing behind at Alipay, so its number is free.
    if trade is None or (not trade.exists and trade.expired(call.simulator.clock.now())):
        return _new_trade(call, api, number, subject, amount, digest, call.expiry(expires, default), exists=exists)
    if trade.paid:
        raise acq("TRADE_HAS_SUCCESS", "交易已被支付")
    if trade.state == "CLOSED":
        raise acq("TRADE_HAS_CLOSE", "交易已经关闭")
    if trade.digest != digest:
        raise acq("CONTEXT_INCONSISTENT", "交易信息被篡改")
    return trade


def _new_trade(
    call: AlipayCall, api: str, number: str, subject: str, amount: int, digest: str, expires: float, *, exists: bool
) -> Trade:
    simulator = call.simulator
    now = simulator.clock.now()
    day = alipay_time(now)[:10].replace("-", "")
    trade = Trade(
        protocol=ALIPAY,
        api=api,
        number=number,
        transaction_id=f"{day}2200141{random_digits(13)}",
        amount=amount,
        subject=subject,
        app_id=call.params["app_id"],
        merchant_id=simulator.keys.alipay["seller_id"],
        notify_url=call.common_address("notify_url"),
        return_url=call.common_address("return_url"),
        quit_url=call.address("quit_url"),
        attach=call.optional("passback_params"),
        code="https://qr.alipay.com/bax" + random_text(21).lower() if api == "precreate" else "",
        digest=digest,
        created=now,
        expires=expires,
        exists=exists,
        payer=call.optional("buyer_id") or call.optional("buyer_open_id") or "2088" + random_digits(12),
        signer="certificate" if call.certificate_mode else "key",
    )
    trade.record(now, f"created by {call.method}")
    simulator.ledger.save(trade)
    return trade


def query(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.query."""
    trade = call.existing()
    document = {
        "buyer_logon_id": "sim***@example.com",
        "buyer_pay_amount": yuan(trade.paid_amount),
        "buyer_user_id" if _BUYER.fullmatch(trade.payer) else "buyer_open_id": trade.payer,
        "invoice_amount": yuan(trade.paid_amount),
        "out_trade_no": trade.number,
        "point_amount": "0.00",
        "receipt_amount": yuan(trade.paid_amount),
        "total_amount": yuan(trade.paid_amount or trade.amount),
        "trade_no": trade.transaction_id,
        "trade_status": trade_status(trade),
    }
    if trade.paid:
        document["send_pay_date"] = alipay_time(trade.paid_at)
    return document


def close(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.close: unpaid trades only. A QR code that nobody scanned is no trade, and stays payable."""
    trade = call.existing()
    if trade.paid or trade.state == "CLOSED":
        raise acq("TRADE_STATUS_ERROR", "交易状态不合法")
    call.simulator.ledger.close(trade, "closed by the merchant")
    return {"out_trade_no": trade.number, "trade_no": trade.transaction_id}


def certificate_download(call: AlipayCall) -> dict[str, Any]:
    """alipay.open.app.alipaycert.download: Alipay's certificate by its SN, base64 of the PEM."""
    keys = call.simulator.keys
    names = {
        keys.alipay["alipay_cert_sn"]: "alipayCertPublicKey_RSA2.crt",
        keys.alipay["alipay_next_cert_sn"]: "alipayCertPublicKey_RSA2_next.crt",
    }
    name = names.get(call.optional("alipay_cert_sn"))
    if name is None:
        raise AlipayError("40004", "Business Failed", "isv.alipay-cert-not-exist", "支付宝公钥证书不存在")
    pem = keys.file("alipay", name).read_bytes()
    return {"alipay_cert_content": base64.b64encode(pem).decode()}
