"""Alipay: refund and refund query (channel sheet 1.5 to 1.8). Refunds are done within the call."""

from __future__ import annotations

from typing import Any

from paycenter_server.simulator.alipay_call import AlipayCall, acq, invalid_parameter, parse_yuan, yuan
from paycenter_server.simulator.alipay_notices import notify_refund
from paycenter_server.simulator.alipay_trades import trade_status
from paycenter_server.simulator.clock import alipay_time
from paycenter_server.simulator.model import Refund, Trade

__all__ = ["query", "refund"]


def refund(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.refund. `fund_change` is Y when money moved in this call, N on a repeat; `refund_fee` is the trade's total."""
    trade = call.existing()
    amount = parse_yuan(call.biz.get("refund_amount"), "refund_amount")
    _wants_detail(call)  # what is wrong must be known before money moves
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
    with simulator.together(trade):
        simulator.ledger.add_refund(trade, created)
        if not pending:
            notify_refund(simulator.notifier, simulator.keys, trade, created)
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
        "gmt_refund_pay": alipay_time(item.finished or item.created),
        "out_trade_no": trade.number,
        "refund_fee": yuan(sum(other.amount for other in trade.refunds if other.state == "SUCCESS")),
        "send_back_fee": yuan(item.amount if item.state == "SUCCESS" else 0),
        "trade_no": trade.transaction_id,
    }
    if _wants_detail(call):
        document["refund_detail_item_list"] = [{"amount": yuan(item.amount), "fund_channel": "ALIPAYACCOUNT"}]
    return document


def query(call: AlipayCall) -> dict[str, Any]:
    """alipay.trade.fastpay.refund.query: an unknown or unconfirmed refund is a success without `refund_status`."""
    number = call.text("out_request_no", 64)
    trade = call.existing()
    item = trade.refund(number)
    if item is None or item.state != "SUCCESS":
        return {}
    return {
        "gmt_refund_pay": alipay_time(item.finished),
        "out_request_no": item.number,
        "out_trade_no": trade.number,
        "refund_amount": yuan(item.amount),
        "refund_status": "REFUND_SUCCESS",
        "send_back_fee": yuan(item.amount),
        "total_amount": yuan(trade.paid_amount),
        "trade_no": trade.transaction_id,
    }
