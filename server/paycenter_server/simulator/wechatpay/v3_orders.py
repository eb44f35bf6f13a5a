"""Orders of APIv3: create (Native, JSAPI, App, H5), query, close, and the platform certificates.

Sources: WeChat Pay APIv3, Native, JSAPI, App and H5 order; order query; order close; platform certificate download.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from paycenter_server.channels.crypto import aes_gcm_encrypt, certificate_serial, load_certificate
from paycenter_server.simulator.clock import parse_rfc3339, rfc3339
from paycenter_server.simulator.inputs import is_secure_or_loopback, parse_web_address
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.trades import CODE_PAYMENT, WECHATPAY_V3, Trade, random_digits, random_text
from paycenter_server.simulator.wechatpay.v3_call import WechatCall, WechatError, invalid

__all__ = [
    "H5_TYPES",
    "MAX_FEN",
    "TRADE_STATES",
    "certificates",
    "check_notify_url",
    "check_order",
    "close",
    "create",
    "new_trade",
    "query",
    "trade_state",
    "transaction",
]

_NUMBER = re.compile(r"[0-9A-Za-z_\-|*]{6,32}")
MAX_FEN = 10**10
"""The largest order or refund. WeChat Pay does not publish its limit."""
H5_TYPES = ("Wap", "iOS", "Android")
_DAY = 86400
_MAX_SECONDS_BY_API = {"native": 7 * _DAY}
TRADE_STATES = {
    "NOTPAY": "订单未支付",
    "SUCCESS": "支付成功",
    "REFUND": "转入退款",
    "CLOSED": "订单已关闭",
    "USERPAYING": "用户支付中",
    "PAYERROR": "支付失败",
    "REVOKED": "已撤销",
}


def _not_found() -> WechatError:
    return WechatError(404, "ORDER_NOT_EXIST", "订单不存在")


def trade_state(trade: Trade) -> str:
    """The state in query answers: REFUND after any refund, even a partial one. A reversed code payment stays REVOKED."""
    return "REFUND" if trade.paid and trade.refunds and trade.state != "REVOKED" else trade.state


def transaction(trade: Trade, state: str = "") -> dict[str, Any]:
    """The transaction object of query answers and of the notification."""
    shown = state or trade_state(trade)
    document: dict[str, Any] = {
        "appid": trade.app_id,
        "mchid": trade.merchant_id,
        "out_trade_no": trade.number,
        "trade_type": "MWEB" if trade.api == "h5" else trade.api.upper(),
        "trade_state": shown,
        "trade_state_desc": TRADE_STATES[shown],
        "attach": trade.attach,
        "promotion_detail": [],
    }
    if trade.paid:
        amount = trade.paid_amount
        document |= {
            "transaction_id": trade.transaction_id,
            "bank_type": "OTHERS",
            "success_time": rfc3339(trade.paid_at),
            "payer": {"openid": trade.payer},
            "amount": {"total": amount, "payer_total": amount, "currency": "CNY", "payer_currency": "CNY"},
        }
    else:
        document["amount"] = {"total": trade.amount, "currency": "CNY", "payer_currency": "CNY"}
    return document


def create(call: WechatCall) -> tuple[int, dict[str, Any]]:
    """POST /v3/pay/transactions/{native,jsapi,app,h5}; a repetition with the same parameters has the same answer."""
    api = call.api.removeprefix("wx.")
    number, amount = _check_create(call, api)
    digest = hashlib.sha256((api + json.dumps(call.body, sort_keys=True)).encode()).hexdigest()
    trade = call.simulator.trades.get(WECHATPAY_V3, number)
    if trade is None:
        trade = new_trade(call, api, number, amount, digest)
    elif trade.paid:
        raise WechatError(400, "ORDERPAID", "该订单已支付")
    elif trade.state == "CLOSED":
        raise WechatError(400, "ORDER_CLOSED", "该订单已关闭")
    elif trade.digest != digest:
        raise WechatError(403, "OUT_TRADE_NO_USED", "商户订单号重复")
    if api == "native":
        return 200, {"code_url": trade.code}
    return 200, {"h5_url" if api == "h5" else "prepay_id": trade.code}


def _check_create(call: WechatCall, api: str) -> tuple[str, int]:
    number, total = check_order(call)
    check_notify_url(call.text("notify_url", 255))
    if api == "jsapi" and not call.part("payer").get("openid"):
        raise invalid("payer.openid", "缺少必填参数openid")
    scene = call.part("scene_info")
    h5_info = scene.get("h5_info")
    if api == "h5" and not (scene.get("payer_client_ip") and isinstance(h5_info, dict) and h5_info.get("type") in H5_TYPES):
        raise invalid("scene_info", "缺少必填参数payer_client_ip或h5_info.type,type只能是Wap、iOS或Android")
    return number, total


def check_order(call: WechatCall) -> tuple[str, int]:
    """Number and fen of a new order, after the checks that all products share."""
    merchant = call.simulator.keys.wechatpay
    appid = call.text("appid", 32)
    call.check_merchant(call.body.get("mchid"))
    if appid != merchant["appid"]:
        raise WechatError(400, "APPID_MCHID_NOT_MATCH", "appid和mch_id不匹配")
    call.text("description", 127)
    call.text("attach", 128, required=False)
    number = call.text("out_trade_no", 32)
    if not _NUMBER.fullmatch(number):
        raise invalid("out_trade_no", "商户订单号只能是6至32个数字、字母、_-|*")
    amount = call.part("amount")
    total = amount.get("total")
    if not isinstance(total, int) or isinstance(total, bool) or not 1 <= total <= MAX_FEN:
        raise invalid("amount.total", f"订单金额必须是1至{MAX_FEN}的整数")
    if amount.get("currency", "CNY") != "CNY":
        raise invalid("amount.currency", "币种不支持")
    return number, total


def check_notify_url(url: str) -> None:
    """An absolute https address without query. Plain http is accepted for loopback, for the receivers of tests."""
    parts = parse_web_address(url)
    if parts is None or "?" in url or not is_secure_or_loopback(parts):
        raise invalid("notify_url", "notify_url必须是不带参数的完整https URL")


def new_trade(call: WechatCall, api: str, number: str, amount: int, digest: str) -> Trade:
    """A new trade from a verified body."""
    simulator = call.simulator
    now = simulator.clock.now()
    code = {
        "native": "weixin://wxpay/bizpayurl?pr=" + random_text(9),
        "h5": "https://wx.tenpay.com/cgi-bin/mmpayweb-bin/checkmweb?prepay_id=wx" + random_digits(34),
        CODE_PAYMENT: "",
    }.get(api, "wx" + random_digits(34))
    trade = Trade(
        protocol=WECHATPAY_V3,
        api=api,
        number=number,
        transaction_id="4200" + random_digits(24),
        amount=amount,
        subject=call.body["description"],
        app_id=call.body["appid"],
        merchant_id=call.body["mchid"],
        notify_url="" if api == CODE_PAYMENT else call.body["notify_url"],
        code=code,
        digest=digest,
        created=now,
        expires=_expiry(call, api, now),
        attach=call.body.get("attach", ""),
        payer=str(call.part("payer").get("openid", "")),
        signer=call.signer,
    )
    trade.record(now, f"created by {call.api}")
    simulator.trades.save(trade)
    return trade


def _expiry(call: WechatCall, api: str, now: float) -> float:
    text = call.text("time_expire", 64, required=False)
    max_seconds = _MAX_SECONDS_BY_API.get(api, 15 * _DAY)
    if not text:
        return now + max_seconds
    try:
        moment = parse_rfc3339(text)
    except ValueError as error:
        raise invalid("time_expire", "time_expire必须符合RFC3339且带时区") from error
    if moment > now + max_seconds + 60:
        raise invalid("time_expire", "time_expire超过最长支付时间")
    return max(moment, now + 60)  # the minimum is one minute


def query(call: WechatCall) -> tuple[int, dict[str, Any]]:
    """GET …/out-trade-no/{no} and …/id/{transaction_id}. An expired order stays NOTPAY."""
    call.check_merchant(call.query.get("mchid"))
    trade = call.trade
    if trade is None:
        raise _not_found()
    if call.fault == "user_paying" and not trade.paid:
        return 200, transaction(trade, "USERPAYING")
    return 200, transaction(trade)


def close(call: WechatCall) -> tuple[int, None]:
    """POST …/close: 204, also for a repetition. A paid order cannot be closed."""
    call.check_merchant(call.body.get("mchid"))
    trade = call.trade
    if trade is None:
        raise _not_found()
    if trade.paid:
        raise WechatError(400, "ORDERPAID", "该订单已支付,不能关单")
    if trade.is_code_payment:
        raise WechatError(403, "TRADE_ERROR", "付款码订单只能撤销,不能关单")
    if trade.state != "CLOSED":
        call.simulator.trades.close(trade, "closed by the merchant")
    return 204, None


def certificates(call: WechatCall) -> tuple[int, dict[str, Any]]:
    """GET /v3/certificates: the platform certificates, encrypted with the APIv3 key. There are two after a rotation and none
    after the migration to the public key."""
    if call.simulator.rotation.done("migration"):
        raise WechatError(404, "RESOURCE_NOT_EXISTS", "无可用的平台证书")
    names = ["platform_cert.pem"]
    if call.simulator.rotation.done("wechatpay"):
        names.insert(0, "platform_cert_next.pem")
    return 200, {"data": [_encrypted_certificate(call.simulator.keys, name) for name in names]}


def _encrypted_certificate(keys: SimulatorKeys, name: str) -> dict[str, Any]:
    pem = keys.text("wechatpay", name)
    certificate = load_certificate(pem)
    nonce = random_text(12)
    encrypted = aes_gcm_encrypt(keys.merchant.secrets("apiv3_key")[0].encode(), nonce.encode(), pem.encode(), b"certificate")
    return {
        "serial_no": certificate_serial(certificate),
        "effective_time": rfc3339(certificate.not_valid_before_utc.timestamp()),
        "expire_time": rfc3339(certificate.not_valid_after_utc.timestamp()),
        "encrypt_certificate": {
            "algorithm": "AEAD_AES_256_GCM",
            "nonce": nonce,
            # wechatpayv3 skips certificates whose associated data is empty
            "associated_data": "certificate",
            "ciphertext": base64.b64encode(encrypted).decode(),
        },
    }
