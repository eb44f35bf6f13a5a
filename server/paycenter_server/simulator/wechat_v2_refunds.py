"""WeChat Pay v2: refund and refund query (channel sheet 3). A refund is PROCESSING first, as over v3."""

from __future__ import annotations

import re

from paycenter_server.simulator import wechat_refunds
from paycenter_server.simulator.clock import alipay_time
from paycenter_server.simulator.model import WECHATPAY_V3, Refund, Trade
from paycenter_server.simulator.wechat_auth import WechatError
from paycenter_server.simulator.wechat_orders import check_notify_url
from paycenter_server.simulator.wechat_v2_call import V2Call
from paycenter_server.simulator.wechat_v2_wire import V2Error

__all__ = ["query", "refund"]

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
    """/secapi/pay/refund; the same number with the same amounts answers the same refund."""
    number = call.text("out_refund_no", 64)
    if not wechat_refunds.NUMBER.fullmatch(number):
        raise V2Error("PARAM_ERROR", "商户退款单号只能是1至64个数字、字母、_-|*@")
    amount, total = call.fen("refund_fee"), call.fen("total_fee")
    reason, notify_url = call.optional("refund_desc"), call.optional("notify_url")
    if len(reason.encode()) > wechat_refunds.REASON_BYTES:
        raise V2Error("PARAM_ERROR", "refund_desc超过80个字节")
    trade = call.existing()
    if not trade.paid:
        raise V2Error("TRADE_STATE_ERROR", "订单未支付")
    holder = call.simulator.ledger.by_refund(WECHATPAY_V3, number)
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
        wechat_refunds.check_new(trade, amount, total, call.simulator.clock.now(), call.fault)
    except WechatError as error:
        raise V2Error(_CODES.get(error.code, error.code), error.message) from error
    created = wechat_refunds.accept(
        call.simulator, call.rule, trade, number, amount, total, reason, notify_url, signer="", xml=True
    )
    return _answer(trade, created)


def query(call: V2Call) -> dict[str, str]:
    """/pay/refundquery: by a refund's number, or all of a trade's (ten from `offset`), each field with its index."""
    number, refund_id = call.optional("out_refund_no"), call.optional("refund_id")
    trade = call.trade
    if trade is None and refund_id:
        trade = call.simulator.ledger.by_refund_id(WECHATPAY_V3, refund_id)
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
        fields["refund_success_time"] = alipay_time(item.finished)
    return fields
