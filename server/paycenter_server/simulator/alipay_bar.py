"""Alipay: the bar payment and its cancellation (channel sheet 1.5, 1.7, "bar loop")."""

from __future__ import annotations

import re
from typing import Any

from paycenter_server.simulator import bar
from paycenter_server.simulator.alipay_call import AlipayCall, acq, invalid_parameter, yuan
from paycenter_server.simulator.alipay_notices import notify_refund
from paycenter_server.simulator.alipay_trades import begin, query, trade_status
from paycenter_server.simulator.clock import alipay_time
from paycenter_server.simulator.model import BAR, Refund, Trade

__all__ = ["cancel", "pay"]

_AUTH_CODE = re.compile(r"(?:2[5-9]|30)[0-9]{14,22}")
_CANCEL_SECONDS = 86400


def pay(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.pay: 10000 paid, 10003 while the buyer confirms; a repeat while waiting answers 10003 again."""
    if call.optional("scene") not in ("bar_code", ""):
        raise invalid_parameter("参数无效:scene")
    code = call.text("auth_code", 32)
    if not _AUTH_CODE.fullmatch(code):
        raise acq("PAYMENT_AUTH_CODE_INVALID", "支付失败,获取顾客账户信息失败,请顾客刷新付款码后重新收款")
    trade = begin(call, BAR, code)
    if trade.state == "NOTPAY":
        if call.rule is not None and call.fault == "decline":
            name = call.rule.code.removeprefix("ACQ.") or "BUYER_BALANCE_NOT_ENOUGH"
            bar.decline(call.simulator, trade, name)
            raise acq(name, "支付失败")
        bar.charge(call.simulator, trade, call.rule)
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
    return document | {"gmt_payment": alipay_time(trade.paid_at), "fund_bill_list": funds}


def cancel(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.cancel: closes an unpaid trade, refunds a paid one; `action` is missing when there was nothing to do, as for a
    number that nobody knows or a code that nobody scanned (which stays payable)."""
    if not call.optional("out_trade_no") and not call.optional("trade_no"):
        raise invalid_parameter("out_trade_no和trade_no不能同时为空")
    trade = call.trade
    if call.fault == "retry_flag":
        return _answer(call, trade, "Y", "")
    if trade is None or not trade.exists:
        return _answer(call, None, "N", "")
    if call.simulator.clock.now() - trade.created > _CANCEL_SECONDS:
        raise acq("TRADE_CANCEL_TIME_OUT", "超过撤销时间范围")
    status = trade_status(trade)
    if status == "TRADE_CLOSED" and trade.state != "PAYERROR":
        return _answer(call, trade, "N", "")
    if not trade.paid:
        call.simulator.ledger.close(trade, "cancelled by the merchant")
        return _answer(call, trade, "N", "close")
    if status == "TRADE_FINISHED":
        raise acq("TRADE_HAS_FINISHED", "交易已完结")
    if call.fault == "not_enough":
        raise acq("SELLER_BALANCE_NOT_ENOUGH", "卖家余额不足")
    _refund_all(call, trade)
    return _answer(call, trade, "N", "refund")


def _refund_all(call: AlipayCall, trade: Trade) -> None:
    simulator, now = call.simulator, call.simulator.clock.now()
    amount, number = trade.paid_amount - trade.refunded, f"cancel{trade.number}"[:64]
    refund = Refund(
        number, trade.transaction_id, amount, trade.paid_amount, "cancel", trade.notify_url, now, now,
        state="SUCCESS", finished=now, signer=trade.signer,
    )  # fmt: skip
    with simulator.together(trade):
        simulator.ledger.add_refund(trade, refund)
        notify_refund(simulator.notifier, simulator.keys, trade, refund)


def _answer(call: AlipayCall, trade: Trade | None, retry_flag: str, action: str) -> dict[str, Any]:
    document = {"out_trade_no": trade.number if trade else call.optional("out_trade_no"), "retry_flag": retry_flag}
    if trade is not None:
        document["trade_no"] = trade.transaction_id
    return document | ({"action": action} if action else {})
