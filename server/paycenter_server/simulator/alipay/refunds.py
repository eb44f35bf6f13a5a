"""Refund, refund query and cancel. A refund is completed within the call.

Sources: Alipay, alipay.trade.refund; alipay.trade.fastpay.refund.query; alipay.trade.cancel.
"""

from __future__ import annotations

from typing import Any

from paycenter_server.simulator.alipay.call import AlipayCall, acq, invalid_parameter, parse_yuan, yuan
from paycenter_server.simulator.alipay.trades import trade_status
from paycenter_server.simulator.clock import china_time
from paycenter_server.simulator.trades import Refund, Trade

__all__ = ["cancel", "query", "refund"]


def refund(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.refund. `fund_change` is N for a repetition, otherwise Y. `refund_fee` is the total of the trade."""
    trade = call.required_trade()
    amount = parse_yuan(call.biz.get("refund_amount"), "refund_amount")
    _wants_detail(call)  # parameters are checked before the refund
    call.optional("refund_reason")
    number = call.optional("out_request_no")
    if len(number) > 64 or (not number and amount != trade.paid_amount):
        raise invalid_parameter("部分退款必须传入out_request_no,且不超过64个字符")
    number = number or trade.number
    known = trade.refund(number)
    if known is not None:
        if known.amount != amount:
            raise acq("DISCORDANT_REPEAT_REQUEST", "请求信息不一致")
        return _answer(call, trade, known, "N")
    _check_new(call, trade, amount)
    created = _accept(call, trade, number, amount)
    return _answer(call, trade, created, "Y" if created.state == "SUCCESS" else "N")


def _check_new(call: AlipayCall, trade: Trade, amount: int) -> None:
    if not trade.paid:
        raise acq("TRADE_STATUS_ERROR", "交易状态不合法")
    if trade_status(trade) == "TRADE_FINISHED":
        raise acq("TRADE_HAS_FINISHED", "交易已完结")
    if trade.refunded + amount > trade.paid_amount:
        raise acq("REFUND_AMT_NOT_EQUAL_TOTAL", "退款金额超限")
    if call.fault == "not_enough":
        raise acq("SELLER_BALANCE_NOT_ENOUGH", "卖家余额不足")


def _accept(call: AlipayCall, trade: Trade, number: str, amount: int) -> Refund:
    simulator = call.simulator
    now = simulator.clock.now()
    pending = call.rule is not None and call.fault == "refund_pending"
    created = Refund(
        number,
        trade.transaction_id,
        amount,
        trade.paid_amount,
        call.optional("refund_reason"),
        trade.notify_url,
        now,
        finishes=now + call.rule.seconds if pending and call.rule is not None else now,
        state="PROCESSING" if pending else "SUCCESS",
        finished=0.0 if pending else now,
        signer=trade.signer,
    )
    with simulator.transaction(trade):
        simulator.trades.add_refund(trade, created)
        if not pending:
            simulator.channel(trade).notify_refund(trade, created)
    return created


def _wants_detail(call: AlipayCall) -> bool:
    options = call.biz.get("query_options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise invalid_parameter("参数无效:query_options")
    return "refund_detail_item_list" in options


def _answer(call: AlipayCall, trade: Trade, item: Refund, fund_change: str) -> dict[str, Any]:
    document: dict[str, Any] = {
        "buyer_logon_id": "sim***@example.com",
        "buyer_user_id": trade.payer,
        "fund_change": fund_change,
        "gmt_refund_pay": china_time(item.finished or item.created),
        "out_trade_no": trade.number,
        "refund_fee": yuan(sum(other.amount for other in trade.refunds if other.state == "SUCCESS")),
        "send_back_fee": yuan(item.amount if item.state == "SUCCESS" else 0),
        "trade_no": trade.transaction_id,
    }
    if _wants_detail(call):
        document["refund_detail_item_list"] = [{"amount": yuan(item.amount), "fund_channel": "ALIPAYACCOUNT"}]
    return document


def query(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.fastpay.refund.query: for an unknown or unfinished refund the answer is a success without `refund_status`."""
    number = call.text("out_request_no", 64)
    trade = call.required_trade()
    item = trade.refund(number)
    if item is None or item.state != "SUCCESS":
        return {}
    return {
        "gmt_refund_pay": china_time(item.finished),
        "out_request_no": item.number,
        "out_trade_no": trade.number,
        "refund_amount": yuan(item.amount),
        "refund_status": "REFUND_SUCCESS",
        "send_back_fee": yuan(item.amount),
        "total_amount": yuan(trade.paid_amount),
        "trade_no": trade.transaction_id,
    }


_CANCEL_SECONDS = 86400


def cancel(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.cancel: closes an unpaid trade, refunds a paid one. `action` is missing if the call changed nothing, as for an
    unknown number or a QR code that was not scanned, which stays payable."""
    if not call.optional("out_trade_no") and not call.optional("trade_no"):
        raise invalid_parameter("out_trade_no和trade_no不能同时为空")
    trade = call.trade
    if call.fault == "retry_flag":
        return _cancel_answer(call, trade, "Y", "")
    if trade is None or not trade.exists:
        return _cancel_answer(call, None, "N", "")
    if call.simulator.clock.now() - trade.created > _CANCEL_SECONDS:
        raise acq("TRADE_CANCEL_TIME_OUT", "超过撤销时间范围")
    status = trade_status(trade)
    if status == "TRADE_CLOSED" and trade.state != "PAYERROR":
        return _cancel_answer(call, trade, "N", "")
    if not trade.paid:
        call.simulator.trades.close(trade, "cancelled by the merchant")
        return _cancel_answer(call, trade, "N", "close")
    if status == "TRADE_FINISHED":
        raise acq("TRADE_HAS_FINISHED", "交易已完结")
    if call.fault == "not_enough":
        raise acq("SELLER_BALANCE_NOT_ENOUGH", "卖家余额不足")
    _refund_all(call, trade)
    return _cancel_answer(call, trade, "N", "refund")


def _refund_all(call: AlipayCall, trade: Trade) -> None:
    simulator, now = call.simulator, call.simulator.clock.now()
    amount, number = trade.paid_amount - trade.refunded, f"cancel{trade.number}"[:64]
    refund = Refund(
        number, trade.transaction_id, amount, trade.paid_amount, "cancel", trade.notify_url, now, now,
        state="SUCCESS", finished=now, signer=trade.signer,
    )  # fmt: skip
    with simulator.transaction(trade):
        simulator.trades.add_refund(trade, refund)
        simulator.channel(trade).notify_refund(trade, refund)


def _cancel_answer(call: AlipayCall, trade: Trade | None, retry_flag: str, action: str) -> dict[str, Any]:
    document = {"out_trade_no": trade.number if trade else call.optional("out_trade_no"), "retry_flag": retry_flag}
    if trade is not None:
        document["trade_no"] = trade.transaction_id
    return document | ({"action": action} if action else {})
