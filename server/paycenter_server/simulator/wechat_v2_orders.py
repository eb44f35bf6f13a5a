"""WeChat Pay v2: unified order, bar payment, query, close, reverse (channel sheet 3)."""

from __future__ import annotations

import hashlib
import json
import re

from paycenter_server.simulator import bar
from paycenter_server.simulator.inputs import read_json
from paycenter_server.simulator.ledger import random_digits, random_text
from paycenter_server.simulator.model import BAR, WECHATPAY_V3, Trade
from paycenter_server.simulator.wechat_auth import WechatError
from paycenter_server.simulator.wechat_orders import H5_TYPES, TRADE_STATES, check_notify_url, trade_state
from paycenter_server.simulator.wechat_reverse import REVERSE_SECONDS, too_soon
from paycenter_server.simulator.wechat_reverse import reverse as reverse_trade
from paycenter_server.simulator.wechat_v2_call import V2Call, compact_time
from paycenter_server.simulator.wechat_v2_wire import V2Error

__all__ = ["close", "micropay", "paid_fields", "query", "reverse", "trade_type", "unified_order"]

_NUMBER = re.compile(r"[0-9A-Za-z_\-|*]{1,32}")
_AUTH_CODE = re.compile(r"1[0-5][0-9]{16}")
_APIS = {"JSAPI": "jsapi", "NATIVE": "native", "APP": "app", "MWEB": "h5"}
_DAY = 86400
_CLOSE_SECONDS = 300
# What differs between two sends of the same order.
_PASSING = ("sign", "nonce_str", "sign_type", "time_start")
_OVER = {
    "CLOSED": ("ORDERCLOSED", "订单已关闭"),
    "REVOKED": ("ORDERREVERSED", "当前订单已经被撤销"),
    "PAYERROR": ("TRADE_ERROR", "交易错误"),
}


def trade_type(trade: Trade) -> str:
    """As WeChat names it."""
    return "MWEB" if trade.api == "h5" else trade.api.upper()


def paid_fields(trade: Trade) -> dict[str, str]:
    """What a paid trade shows in answers and in the notification."""
    return {
        "openid": trade.payer,
        "is_subscribe": "N",
        "trade_type": trade_type(trade),
        "bank_type": "OTHERS",
        "total_fee": str(trade.paid_amount),
        "fee_type": "CNY",
        "cash_fee": str(trade.paid_amount),
        "cash_fee_type": "CNY",
        "transaction_id": trade.transaction_id,
        "out_trade_no": trade.number,
        "attach": trade.attach,
        "time_end": compact_time(trade.paid_at),
    }


def unified_order(call: V2Call) -> dict[str, str]:
    """/pay/unifiedorder; the same number with the same parameters answers the same again."""
    kind = call.text("trade_type", 16)
    if kind not in _APIS:
        raise V2Error("PARAM_ERROR", "trade_type参数错误")
    if kind == "JSAPI" and not call.optional("openid"):
        raise V2Error("PARAM_ERROR", "JSAPI支付必须传openid")
    if kind == "MWEB" and not _has_h5_info(call.optional("scene_info")):
        raise V2Error("PARAM_ERROR", "H5支付必须传scene_info,type只能是Wap、IOS或Android")
    if kind == "NATIVE":
        call.text("product_id", 32)
    notify_url = call.text("notify_url", 256)
    try:
        check_notify_url(notify_url)
    except WechatError as error:
        raise V2Error("PARAM_ERROR", error.message) from error
    trade, digest = _find_or_begin(call, _APIS[kind], 7 * _DAY, notify_url)
    prepay = f"wx{int(digest[:28], 16) % 10**34:034d}"
    document = {"trade_type": kind, "prepay_id": prepay}
    if kind == "NATIVE":
        document["code_url"] = trade.code
    if kind == "MWEB":
        document["mweb_url"] = trade.code
    return document


def _has_h5_info(text: str) -> bool:
    try:
        document = read_json(text or "null")
    except ValueError:
        return False
    info = document.get("h5_info") if isinstance(document, dict) else None
    # v2 writes IOS where v3 writes iOS
    return isinstance(info, dict) and str(info.get("type")).casefold() in {kind.casefold() for kind in H5_TYPES}


def _find_or_begin(call: V2Call, api: str, longest: float, notify_url: str) -> tuple[Trade, str]:
    number = call.text("out_trade_no", 32)
    if not _NUMBER.fullmatch(number):
        raise V2Error("PARAM_ERROR", "商户订单号只能是1至32个数字、字母、_-|*")
    subject, amount = call.text("body", 128), call.fen("total_fee")
    call.text("spbill_create_ip", 64)
    if len(call.optional("attach")) > 127:
        raise V2Error("PARAM_ERROR", "attach长度超过限制")
    if call.optional("fee_type") not in ("", "CNY"):
        raise V2Error("PARAM_ERROR", "fee_type不支持")
    lasting = {name: value for name, value in call.fields.items() if value and name not in _PASSING}
    digest = hashlib.sha256((api + json.dumps(lasting, sort_keys=True)).encode()).hexdigest()
    trade = call.simulator.ledger.get(WECHATPAY_V3, number)
    if trade is None:
        return _begin(call, api, number, subject, amount, call.expiry(longest), notify_url, digest), digest
    if trade.paid and trade.state != "REVOKED":
        raise V2Error("ORDERPAID", "该订单已支付")
    if trade.state in _OVER:
        raise V2Error(*_OVER[trade.state])
    if trade.digest != digest:
        raise V2Error("OUT_TRADE_NO_USED", "商户订单号重复")
    return trade, digest


def _begin(call: V2Call, api: str, number: str, subject: str, amount: int, expires: float, notify_url: str, digest: str) -> Trade:
    simulator, now = call.simulator, call.simulator.clock.now()
    codes = {
        "native": "weixin://wxpay/bizpayurl?pr=" + random_text(9),
        "h5": "https://wx.tenpay.com/cgi-bin/mmpayweb-bin/checkmweb?prepay_id=wx" + random_digits(34),
    }
    trade = Trade(
        protocol=WECHATPAY_V3,
        api=api,
        number=number,
        transaction_id="4200" + random_digits(24),
        amount=amount,
        subject=subject,
        app_id=call.fields["appid"],
        merchant_id=call.fields["mch_id"],
        notify_url=notify_url,
        code=codes.get(api, ""),
        digest=digest,
        created=now,
        expires=expires,
        attach=call.optional("attach"),
        payer=call.optional("openid"),
        signer=call.kind,
        v2=True,
    )
    trade.record(now, f"created by {call.api}")
    simulator.ledger.save(trade)
    return trade


def micropay(call: V2Call) -> dict[str, str]:
    """/pay/micropay: paid within the call, or USERPAYING or BANKERROR while the payer confirms. Never notified."""
    if not _AUTH_CODE.fullmatch(call.text("auth_code", 128)):
        raise V2Error("AUTH_CODE_INVALID", "请扫描微信支付被扫条码/二维码")
    trade, _ = _find_or_begin(call, BAR, _DAY, "")
    if trade.state == "NOTPAY":
        if call.rule is not None and call.fault == "decline":
            code = call.rule.code or "NOTENOUGH"
            bar.decline(call.simulator, trade, code)
            raise V2Error(code, "支付失败")
        bar.charge(call.simulator, trade, call.rule)
    if trade.paid:
        return paid_fields(trade)
    if call.fault == "bank_error":
        raise V2Error("BANKERROR", "银行系统异常")
    raise V2Error("USERPAYING", "需要用户输入支付密码")


def query(call: V2Call) -> dict[str, str]:
    """/pay/orderquery, also of trades made over v3."""
    trade = call.existing()
    state = "USERPAYING" if call.fault == "user_paying" and not trade.paid else trade_state(trade)
    shown = {"trade_state": state, "trade_state_desc": TRADE_STATES[state], "out_trade_no": trade.number}
    if trade.paid:
        return paid_fields(trade) | shown
    return shown | {"total_fee": str(trade.amount), "trade_type": trade_type(trade), "attach": trade.attach}


def close(call: V2Call) -> dict[str, str]:
    """/pay/closeorder."""
    call.text("out_trade_no", 32)
    trade = call.existing()
    if trade.at_the_bar:
        raise V2Error("TRADE_ERROR", "付款码订单只能撤销,不能关单")
    if trade.paid:
        raise V2Error("ORDERPAID", "订单已支付,不能发起关单")
    if trade.state == "CLOSED":
        raise V2Error("ORDERCLOSED", "订单已关闭,无法重复关闭")
    if call.simulator.clock.now() - trade.created < _CLOSE_SECONDS:
        call.note = "sooner than 5 minutes after the create: WeChat asks for 5 minutes"
    call.simulator.ledger.close(trade, "closed by the merchant")
    return {}


def reverse(call: V2Call) -> dict[str, str]:
    """/secapi/pay/reverse: bar payments of the last seven days; `recall` says whether to ask again."""
    try:
        trade = call.existing()
    except V2Error as error:
        raise V2Error(error.code, error.text, recall="N") from error
    if call.fault == "recall":
        raise V2Error("SYSTEMERROR", "接口返回错误", recall="Y")
    if not trade.at_the_bar:
        raise V2Error("TRADE_ERROR", "只有付款码订单可以撤销", recall="N")
    if call.simulator.clock.now() - trade.created > REVERSE_SECONDS:
        raise V2Error("REVERSE_EXPIRE", "订单无法撤销", recall="N")
    if call.fault == "not_enough" and trade.paid:
        raise V2Error("NOTENOUGH", "余额不足", recall="N")
    call.note = too_soon(call.simulator, trade)
    reverse_trade(call.simulator, trade)
    return {"recall": "N"}
