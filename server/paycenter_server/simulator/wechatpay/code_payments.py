"""Code payments: the payment over APIv3, and the reversal, which both versions share. Neither sends a notification.

Sources: WeChat Pay APIv3, code payment; reversal. WeChat Pay APIv2, micropay; reverse order.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from paycenter_server.simulator import actions
from paycenter_server.simulator.state import Simulator
from paycenter_server.simulator.trades import CODE_PAYMENT, WECHATPAY_V3, Refund, Trade, new_refund_id
from paycenter_server.simulator.wechatpay.v3_call import WechatCall, WechatError, invalid
from paycenter_server.simulator.wechatpay.v3_orders import check_order, new_trade, transaction

__all__ = ["REVERSE_SECONDS", "codepay", "early_reversal_note", "reverse", "reverse_trade"]

_AUTH_CODE = re.compile(r"1[0-5][0-9]{16}")


def codepay(call: WechatCall) -> tuple[int, dict[str, Any]]:
    """POST /v3/pay/transactions/codepay: the transaction, SUCCESS, or USERPAYING while the payer has to confirm."""
    number, amount = check_order(call)
    store = call.part("scene_info").get("store_info")
    if not (isinstance(store, dict) and store.get("id")):
        raise invalid("scene_info.store_info.id", "缺少必填参数store_info.id")
    if not _AUTH_CODE.fullmatch(str(call.part("payer").get("auth_code", ""))):
        raise WechatError(400, "AUTH_CODE_INVALID", "请扫描微信支付被扫条码/二维码")
    digest = hashlib.sha256((CODE_PAYMENT + json.dumps(call.body, sort_keys=True)).encode()).hexdigest()
    trade = call.simulator.trades.get(WECHATPAY_V3, number)
    if trade is None:
        trade = new_trade(call, CODE_PAYMENT, number, amount, digest)
    elif trade.paid:
        raise WechatError(400, "ORDERPAID", "该订单已支付")
    elif trade.state in ("CLOSED", "REVOKED", "PAYERROR"):
        raise WechatError(400, "ORDER_CLOSED", "该订单已关闭")
    elif trade.digest != digest:
        raise WechatError(403, "OUT_TRADE_NO_USED", "商户订单号重复")
    if trade.state == "NOTPAY":
        if call.rule is not None and call.fault == "decline":
            code = call.rule.code or "NOTENOUGH"
            actions.decline(call.simulator, trade, code)
            raise WechatError(403, code, "支付失败")
        actions.charge(call.simulator, trade, call.rule)
    return 200, transaction(trade)


def reverse(call: WechatCall) -> tuple[int, dict[str, Any]]:
    """POST …/out-trade-no/{no}/reverse: reverses a code payment of the last seven days. Repetitions succeed."""
    call.check_merchant(call.body.get("mchid"))
    if call.text("appid", 32) != call.simulator.keys.wechatpay["appid"]:
        raise WechatError(400, "APPID_MCHID_NOT_MATCH", "appid和mch_id不匹配")
    trade = call.trade
    if trade is None:
        raise WechatError(404, "ORDER_NOT_EXIST", "订单不存在")
    if call.fault == "recall":
        raise WechatError(500, "SYSTEM_ERROR", "系统异常,请稍后重试")
    if not trade.is_code_payment:
        raise WechatError(403, "TRADE_ERROR", "只有付款码订单可以撤销")
    if call.simulator.clock.now() - trade.created > REVERSE_SECONDS:
        raise WechatError(400, "INVALID_REQUEST", "订单超过可撤销时间")
    if call.fault == "not_enough" and trade.paid:
        raise WechatError(403, "NOT_ENOUGH", "余额不足")
    call.note = early_reversal_note(call.simulator, trade)
    reverse_trade(call.simulator, trade)
    return 200, {"appid": trade.app_id, "mchid": trade.merchant_id, "out_trade_no": trade.number}


REVERSE_SECONDS = 7 * 86400
_RECOMMENDED_SECONDS = 15


def early_reversal_note(simulator: Simulator, trade: Trade) -> str:
    """The note in the log about a reversal earlier than WeChat Pay recommends; "" otherwise."""
    if simulator.clock.now() - trade.created >= _RECOMMENDED_SECONDS:
        return ""
    return "sooner than 15 seconds after the payment: WeChat asks for 15 seconds"


def reverse_trade(simulator: Simulator, trade: Trade) -> None:
    """Revoke a trade and refund it if it is paid. Repetitions change nothing. There is no notification."""
    if trade.state == "REVOKED":
        return
    now, left = simulator.clock.now(), trade.paid_amount - trade.refunded
    with simulator.transaction(trade):
        if trade.paid and left:
            refund = Refund(
                "reverse" + trade.number,
                new_refund_id(),
                left,
                trade.paid_amount,
                "reverse",
                "",
                now,
                now,
                state="SUCCESS",
                finished=now,
            )
            simulator.trades.add_refund(trade, refund)
        simulator.trades.revoke(trade, "reversed by the merchant")
