"""Trades: creation by every product, code payment, query, close, and the certificate download.

Sources: Alipay, alipay.trade.precreate, create, page.pay, wap.pay, app.pay, pay, query and close;
alipay.open.app.alipaycert.download.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from paycenter_server.simulator import actions
from paycenter_server.simulator.alipay.call import AlipayCall, AlipayError, acq, invalid_parameter, parse_yuan, yuan
from paycenter_server.simulator.clock import china_time
from paycenter_server.simulator.trades import ALIPAY, CODE_PAYMENT, Trade, random_digits, random_text

__all__ = ["certificate_download", "close", "create", "open_payment", "pay", "precreate", "query", "trade_status"]

_NUMBER = re.compile(r"[0-9A-Za-z_]{1,64}")
_BUYER = re.compile(r"2088[0-9]{12}")
_MAX_EXPIRY_SECONDS = 15 * 86400
_QR_SECONDS = 2 * 3600
_EXPIRY = ("time_expire", "timeout_express")
# QUICK_WAP_PAY is an older value that SDKs still send. The product codes of other methods are not checked.
_PRODUCTS = {
    "page": ("FAST_INSTANT_TRADE_PAY",),
    "wap": ("QUICK_WAP_WAY", "QUICK_WAP_PAY"),
    "app": ("QUICK_MSECURITY_PAY", ""),
    "create": ("JSAPI_PAY", "FACE_TO_FACE_PAYMENT", ""),
}
_AUTH_CODE = re.compile(r"(?:2[5-9]|30)[0-9]{14,22}")
_STATUS = {"NOTPAY": "WAIT_BUYER_PAY", "USERPAYING": "WAIT_BUYER_PAY", "SUCCESS": "TRADE_SUCCESS"}


def trade_status(trade: Trade) -> str:
    """A partial refund leaves TRADE_SUCCESS; a full refund changes it to TRADE_CLOSED."""
    if trade.paid and trade.refunded >= trade.paid_amount:
        return "TRADE_CLOSED"
    if trade.paid and trade.finished:
        return "TRADE_FINISHED"
    return _STATUS.get(trade.state, "TRADE_CLOSED")


def precreate(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.precreate: a QR code. The trade exists after the first scan."""
    expires = ("qr_code_timeout_express", "time_expire", "timeout_express")
    trade = _create(call, "precreate", expires, _QR_SECONDS, exists=False)
    return {"out_trade_no": trade.number, "qr_code": trade.code}


def open_payment(call: AlipayCall) -> Trade:
    """alipay.trade.page.pay, wap.pay and app.pay: the trade exists after the buyer's browser or app has opened it."""
    return find_or_create(call, call.method.split(".")[2])


def create(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.create: for a mini program, which knows the buyer and pays the `trade_no` with my.tradePay."""
    buyer = call.optional("buyer_id") or call.optional("buyer_open_id")
    if not buyer:
        raise invalid_parameter("buyer_id和buyer_open_id不能同时为空")
    if call.optional("buyer_id") and not _BUYER.fullmatch(buyer):
        raise invalid_parameter("参数无效:buyer_id")
    if call.optional("product_code") == "JSAPI_PAY" and not call.optional("op_app_id"):
        raise invalid_parameter("参数无效:op_app_id")
    trade = find_or_create(call, "create", buyer)
    return {"out_trade_no": trade.number, "trade_no": trade.transaction_id}


def find_or_create(call: AlipayCall, api: str, *context: str) -> Trade:
    """A trade that exists at once. context: further parameters that must be equal in a repetition with the same number."""
    return _create(call, api, _EXPIRY, _MAX_EXPIRY_SECONDS, context, exists=True)


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
    # Alipay has no trade for a QR code that expired without a scan, so its number can be used again.
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
    day = china_time(now)[:10].replace("-", "")
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
    simulator.trades.save(trade)
    return trade


def pay(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.pay: 10000 if paid, 10003 while the buyer has to confirm, also for a repetition."""
    if call.optional("scene") not in ("bar_code", ""):
        raise invalid_parameter("参数无效:scene")
    code = call.text("auth_code", 32)
    if not _AUTH_CODE.fullmatch(code):
        raise acq("PAYMENT_AUTH_CODE_INVALID", "支付失败,获取顾客账户信息失败,请顾客刷新付款码后重新收款")
    trade = find_or_create(call, CODE_PAYMENT, code)
    if trade.state == "NOTPAY":
        if call.rule is not None and call.fault == "decline":
            name = call.rule.code.removeprefix("ACQ.") or "BUYER_BALANCE_NOT_ENOUGH"
            actions.decline(call.simulator, trade, name)
            raise acq(name, "支付失败")
        actions.charge(call.simulator, trade, call.rule)
    elif trade.state != "USERPAYING":
        raise acq("PAYMENT_FAIL", "支付失败")
    if not trade.paid:
        return {
            "code": "10003",
            "msg": "order success pay inprocess",
            "buyer_logon_id": "sim***@example.com",
            "out_trade_no": trade.number,
            "total_amount": yuan(trade.amount),
            "trade_no": trade.transaction_id,
        }
    document = query(call)
    del document["trade_status"], document["send_pay_date"]
    funds = [{"amount": yuan(trade.paid_amount), "fund_channel": "ALIPAYACCOUNT"}]
    return document | {"gmt_payment": china_time(trade.paid_at), "fund_bill_list": funds}


def query(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.query."""
    trade = call.required_trade()
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
        document["send_pay_date"] = china_time(trade.paid_at)
    return document


def close(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.close: unpaid trades only. A QR code that was not scanned has no trade and stays payable."""
    trade = call.required_trade()
    if trade.paid or trade.state == "CLOSED":
        raise acq("TRADE_STATUS_ERROR", "交易状态不合法")
    call.simulator.trades.close(trade, "closed by the merchant")
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
