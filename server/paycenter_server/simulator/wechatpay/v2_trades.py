"""Trades of APIv2: unified order, code payment, query, close, reversal, refund and refund query.

Sources: WeChat Pay APIv2, unified order; micropay; order query; close order; reverse order; refund request; refund query.
"""

from __future__ import annotations

import hashlib
import json
import re

from paycenter_server.simulator import actions
from paycenter_server.simulator.clock import china_time
from paycenter_server.simulator.inputs import read_json
from paycenter_server.simulator.trades import CODE_PAYMENT, WECHATPAY_V3, Refund, Trade, random_digits, random_text
from paycenter_server.simulator.wechatpay import v3_refunds
from paycenter_server.simulator.wechatpay.code_payments import REVERSE_SECONDS, early_reversal_note, reverse_trade
from paycenter_server.simulator.wechatpay.v2_call import V2Call, V2Error, compact_time
from paycenter_server.simulator.wechatpay.v3_call import WechatError
from paycenter_server.simulator.wechatpay.v3_orders import H5_TYPES, TRADE_STATES, check_notify_url, trade_state

__all__ = ["close", "micropay", "paid_fields", "query_order", "query_refund", "refund", "reverse", "trade_type", "unified_order"]

_NUMBER = re.compile(r"[0-9A-Za-z_\-|*]{1,32}")
_AUTH_CODE = re.compile(r"1[0-5][0-9]{16}")
_APIS = {"JSAPI": "jsapi", "NATIVE": "native", "APP": "app", "MWEB": "h5"}
_DAY = 86400
_CLOSE_SECONDS = 300
# Fields that may differ in a repetition of the same order.
_VOLATILE_FIELDS = ("sign", "nonce_str", "sign_type", "time_start")
_END_STATES = {
    "CLOSED": ("ORDERCLOSED", "订单已关闭"),
    "REVOKED": ("ORDERREVERSED", "当前订单已经被撤销"),
    "PAYERROR": ("TRADE_ERROR", "交易错误"),
}


def trade_type(trade: Trade) -> str:
    """WeChat Pay's name of the product."""
    return "MWEB" if trade.api == "h5" else trade.api.upper()


def paid_fields(trade: Trade) -> dict[str, str]:
    """The fields of a paid trade in answers and in the notification."""
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
    """/pay/unifiedorder; a repetition with the same parameters has the same answer."""
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
    trade, digest = _find_or_create(call, _APIS[kind], 7 * _DAY, notify_url)
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
    # v2 uses IOS, v3 uses iOS
    return isinstance(info, dict) and str(info.get("type")).casefold() in {kind.casefold() for kind in H5_TYPES}


def _find_or_create(call: V2Call, api: str, max_seconds: float, notify_url: str) -> tuple[Trade, str]:
    number = call.text("out_trade_no", 32)
    if not _NUMBER.fullmatch(number):
        raise V2Error("PARAM_ERROR", "商户订单号只能是1至32个数字、字母、_-|*")
    subject, amount = call.text("body", 128), call.fen("total_fee")
    call.text("spbill_create_ip", 64)
    if len(call.optional("attach")) > 127:
        raise V2Error("PARAM_ERROR", "attach长度超过限制")
    if call.optional("fee_type") not in ("", "CNY"):
        raise V2Error("PARAM_ERROR", "fee_type不支持")
    stable = {name: value for name, value in call.fields.items() if value and name not in _VOLATILE_FIELDS}
    digest = hashlib.sha256((api + json.dumps(stable, sort_keys=True)).encode()).hexdigest()
    trade = call.simulator.trades.get(WECHATPAY_V3, number)
    if trade is None:
        return _new_trade(call, api, number, subject, amount, call.expiry(max_seconds), notify_url, digest), digest
    if trade.paid and trade.state != "REVOKED":
        raise V2Error("ORDERPAID", "该订单已支付")
    if trade.state in _END_STATES:
        raise V2Error(*_END_STATES[trade.state])
    if trade.digest != digest:
        raise V2Error("OUT_TRADE_NO_USED", "商户订单号重复")
    return trade, digest


def _new_trade(
    call: V2Call, api: str, number: str, subject: str, amount: int, expires: float, notify_url: str, digest: str
) -> Trade:
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
    simulator.trades.save(trade)
    return trade


def micropay(call: V2Call) -> dict[str, str]:
    """/pay/micropay: paid within the call, or USERPAYING or BANKERROR while the payer has to confirm. There is no notification."""
    if not _AUTH_CODE.fullmatch(call.text("auth_code", 128)):
        raise V2Error("AUTH_CODE_INVALID", "请扫描微信支付被扫条码/二维码")
    trade, _ = _find_or_create(call, CODE_PAYMENT, _DAY, "")
    if trade.state == "NOTPAY":
        if call.rule is not None and call.fault == "decline":
            code = call.rule.code or "NOTENOUGH"
            actions.decline(call.simulator, trade, code)
            raise V2Error(code, "支付失败")
        actions.charge(call.simulator, trade, call.rule)
    if trade.paid:
        return paid_fields(trade)
    if call.fault == "bank_error":
        raise V2Error("BANKERROR", "银行系统异常")
    raise V2Error("USERPAYING", "需要用户输入支付密码")


def query_order(call: V2Call) -> dict[str, str]:
    """/pay/orderquery, also for trades of v3."""
    trade = call.required_trade()
    state = "USERPAYING" if call.fault == "user_paying" and not trade.paid else trade_state(trade)
    shown = {"trade_state": state, "trade_state_desc": TRADE_STATES[state], "out_trade_no": trade.number}
    if trade.paid:
        return paid_fields(trade) | shown
    return shown | {"total_fee": str(trade.amount), "trade_type": trade_type(trade), "attach": trade.attach}


def close(call: V2Call) -> dict[str, str]:
    """/pay/closeorder."""
    call.text("out_trade_no", 32)
    trade = call.required_trade()
    if trade.is_code_payment:
        raise V2Error("TRADE_ERROR", "付款码订单只能撤销,不能关单")
    if trade.paid:
        raise V2Error("ORDERPAID", "订单已支付,不能发起关单")
    if trade.state == "CLOSED":
        raise V2Error("ORDERCLOSED", "订单已关闭,无法重复关闭")
    if call.simulator.clock.now() - trade.created < _CLOSE_SECONDS:
        call.note = "sooner than 5 minutes after the create: WeChat asks for 5 minutes"
    call.simulator.trades.close(trade, "closed by the merchant")
    return {}


def reverse(call: V2Call) -> dict[str, str]:
    """/secapi/pay/reverse: reverses a code payment of the last seven days. `recall` is Y if the merchant must call again."""
    try:
        trade = call.required_trade()
    except V2Error as error:
        raise V2Error(error.code, error.text, recall="N") from error
    if call.fault == "recall":
        raise V2Error("SYSTEMERROR", "接口返回错误", recall="Y")
    if not trade.is_code_payment:
        raise V2Error("TRADE_ERROR", "只有付款码订单可以撤销", recall="N")
    if call.simulator.clock.now() - trade.created > REVERSE_SECONDS:
        raise V2Error("REVERSE_EXPIRE", "订单无法撤销", recall="N")
    if call.fault == "not_enough" and trade.paid:
        raise V2Error("NOTENOUGH", "余额不足", recall="N")
    call.note = early_reversal_note(call.simulator, trade)
    reverse_trade(call.simulator, trade)
    return {"recall": "N"}


_CODES = {"NOT_ENOUGH": "NOTENOUGH"}
_STATES = {"SUCCESS": "SUCCESS", "PROCESSING": "PROCESSING", "ABNORMAL": "CHANGE", "CLOSED": "REFUNDCLOSE"}
_PAGE = 10
_OFFSET = re.compile(r"[0-9]{1,6}")


def _shown(trade: Trade) -> dict[str, str]:
    paid = str(trade.paid_amount)
    return {"transaction_id": trade.transaction_id, "out_trade_no": trade.number, "total_fee": paid, "cash_fee": paid}


def _answer(trade: Trade, item: Refund) -> dict[str, str]:
    return _shown(trade) | {
        "out_refund_no": item.number,
        "refund_id": item.refund_id,
        "refund_fee": str(item.amount),
        "settlement_refund_fee": str(item.amount),
        "cash_refund_fee": str(item.amount),
        "fee_type": "CNY",
    }


def refund(call: V2Call) -> dict[str, str]:
    """/secapi/pay/refund; a repetition with the same amounts returns the same refund."""
    number = call.text("out_refund_no", 64)
    if not v3_refunds.NUMBER.fullmatch(number):
        raise V2Error("PARAM_ERROR", "商户退款单号只能是1至64个数字、字母、_-|*@")
    amount, total = call.fen("refund_fee"), call.fen("total_fee")
    reason, notify_url = call.optional("refund_desc"), call.optional("notify_url")
    if len(reason.encode()) > v3_refunds.REASON_BYTES:
        raise V2Error("PARAM_ERROR", "refund_desc超过80个字节")
    trade = call.required_trade()
    if not trade.paid:
        raise V2Error("TRADE_STATE_ERROR", "订单未支付")
    holder = call.simulator.trades.by_refund(WECHATPAY_V3, number)
    if holder is not None and holder is not trade:
        raise V2Error("INVALID_REQUEST", "商户退款单号已用于其他订单")
    known = trade.refund(number)
    if known is not None:
        if (known.amount, known.total) != (amount, total):
            raise V2Error("REFUND_FEE_MISMATCH", "订单金额或退款金额与之前请求不一致,请核实后再试")
        return _answer(trade, known)
    try:
        if notify_url:
            check_notify_url(notify_url)
        v3_refunds.check_new(trade, amount, total, call.simulator.clock.now(), call.fault)
    except WechatError as error:
        raise V2Error(_CODES.get(error.code, error.code), error.message) from error
    created = v3_refunds.accept(call.simulator, call.rule, trade, number, amount, total, reason, notify_url, signer="", xml=True)
    return _answer(trade, created)


def query_refund(call: V2Call) -> dict[str, str]:
    """/pay/refundquery: one refund by its number, or ten refunds of a trade from `offset`, each field with an index."""
    number, refund_id = call.optional("out_refund_no"), call.optional("refund_id")
    trade = call.trade
    if trade is None and refund_id:
        trade = call.simulator.trades.by_refund_id(WECHATPAY_V3, refund_id)
    if not (number or refund_id or call.optional("out_trade_no") or call.optional("transaction_id")):
        raise V2Error("", "缺少参数out_refund_no")
    found = [
        item
        for item in (trade.refunds if trade else [])
        if (not number or item.number == number) and (not refund_id or item.refund_id == refund_id)
    ]
    if trade is None or not found:
        raise V2Error("REFUNDNOTEXIST", "退款订单查询失败")
    offset = int(call.optional("offset")) if _OFFSET.fullmatch(call.optional("offset")) else 0
    page = found[offset : offset + _PAGE]
    document = _shown(trade) | {"total_refund_count": str(len(found)), "refund_count": str(len(page)), "fee_type": "CNY"}
    for index, item in enumerate(page):
        document |= {f"{name}_{index}": value for name, value in _item(item).items()}
    return document


def _item(item: Refund) -> dict[str, str]:
    fields = {
        "out_refund_no": item.number,
        "refund_id": item.refund_id,
        "refund_channel": "ORIGINAL",
        "refund_fee": str(item.amount),
        "settlement_refund_fee": str(item.amount),
        "refund_status": _STATES[item.state],
        "refund_account": "REFUND_SOURCE_RECHARGE_FUNDS",
        "refund_recv_accout": "支付用户零钱",
    }
    if item.state == "SUCCESS":
        fields["refund_success_time"] = china_time(item.finished)
    return fields
