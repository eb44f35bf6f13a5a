"""Refunds of APIv3. An accepted refund is PROCESSING and finishes after a delay.

Sources: WeChat Pay APIv3, refund request; refund query; abnormal refund request.
"""

from __future__ import annotations

import re
from typing import Any

from paycenter_server.simulator.clock import rfc3339
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.state import Simulator
from paycenter_server.simulator.trades import WECHATPAY_V3, Refund, Trade, new_refund_id
from paycenter_server.simulator.wechatpay.v3_call import WechatCall, WechatError, invalid
from paycenter_server.simulator.wechatpay.v3_orders import MAX_FEN, check_notify_url

__all__ = ["NUMBER", "REASON_BYTES", "accept", "apply_abnormal", "check_new", "create", "query"]

NUMBER = re.compile(r"[0-9A-Za-z_\-|*@]{1,64}")
REASON_BYTES = 80
_PARTIAL_REFUNDS = 50
_WINDOW_SECONDS = 365 * 86400
_OUTCOMES = {"refund_abnormal": "ABNORMAL", "refund_closed": "CLOSED"}


def _answer(trade: Trade, refund: Refund) -> dict[str, Any]:
    document: dict[str, Any] = {
        "refund_id": refund.refund_id,
        "out_refund_no": refund.number,
        "transaction_id": trade.transaction_id,
        "out_trade_no": trade.number,
        "channel": "ORIGINAL",
        "user_received_account": "支付用户零钱",
        "create_time": rfc3339(refund.created),
        "status": refund.state,
        "funds_account": "AVAILABLE",
        "promotion_detail": [],
        "amount": {
            "total": refund.total,
            "refund": refund.amount,
            "from": [],
            "payer_total": refund.total,
            "payer_refund": refund.amount,
            "settlement_refund": refund.amount,
            "settlement_total": refund.total,
            "discount_refund": 0,
            "currency": "CNY",
        },
    }
    if refund.state == "SUCCESS":
        document["success_time"] = rfc3339(refund.finished)
    return document


def _fen(amount: dict[str, Any], field: str) -> int:
    value = amount.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_FEN:
        raise invalid(f"amount.{field}", f"amount.{field}必须是1至{MAX_FEN}的整数")
    return value


def create(call: WechatCall) -> tuple[int, dict[str, Any]]:
    """POST /v3/refund/domestic/refunds; a repetition with the same amounts returns the same refund."""
    number = call.text("out_refund_no", 64)
    if not NUMBER.fullmatch(number):
        raise invalid("out_refund_no", "商户退款单号只能是1至64个数字、字母、_-|*@")
    reason = call.text("reason", REASON_BYTES, required=False)
    if len(reason.encode()) > REASON_BYTES:
        raise invalid("reason", "reason超过80个字节")
    notify_url = call.text("notify_url", 255, required=False)
    if notify_url:
        check_notify_url(notify_url)
    part = call.part("amount")
    amount, total = _fen(part, "refund"), _fen(part, "total")
    if part.get("currency") != "CNY":
        raise invalid("amount.currency", "缺少必填参数currency或币种不支持")
    if not (call.body.get("out_trade_no") or call.body.get("transaction_id")):
        raise invalid("out_trade_no", "transaction_id和out_trade_no必须二选一")
    trade = call.trade
    if trade is None or not trade.paid:
        raise WechatError(404, "RESOURCE_NOT_EXISTS", "订单不存在或未支付")
    holder = call.simulator.trades.by_refund(WECHATPAY_V3, number)
    if holder is not None and holder is not trade:
        raise WechatError(400, "INVALID_REQUEST", "商户退款单号已用于其他订单")
    known = trade.refund(number)
    if known is not None:
        if (known.amount, known.total) != (amount, total):
            raise WechatError(403, "REFUND_FEE_MISMATCH", "订单金额或退款金额与之前请求不一致,请核实后再试")
        return 200, _answer(trade, known)
    check_new(trade, amount, total, call.simulator.clock.now(), call.fault)
    refund = accept(
        call.simulator,
        call.rule,
        trade,
        number,
        amount,
        total,
        reason,
        notify_url,
        signer=call.signer,
        xml=call.fault == "xml_notify" or not notify_url,
    )
    return 200, _answer(trade, refund)


def check_new(trade: Trade, amount: int, total: int, now: float, fault: str) -> None:
    """WechatError if the trade does not allow this refund."""
    if now - trade.paid_at > _WINDOW_SECONDS:
        raise WechatError(403, "TRADE_OVERDUE", "订单已经超过退款期限")
    # If a fault changed the paid amount, the client knows only that one.
    if total not in (trade.amount, trade.paid_amount):
        raise WechatError(403, "REFUND_FEE_MISMATCH", "订单金额或退款金额与之前请求不一致,请核实后再试")
    if trade.refunded + amount > trade.paid_amount:
        raise WechatError(400, "INVALID_REQUEST", "申请退款金额大于订单可退金额")
    if len(trade.refunds) >= _PARTIAL_REFUNDS:
        raise WechatError(400, "INVALID_REQUEST", "部分退款次数超过50次")
    if fault == "not_enough":
        raise WechatError(403, "NOT_ENOUGH", "基本账户余额不足,请充值后重新发起")


def accept(
    simulator: Simulator,
    rule: FaultRule | None,
    trade: Trade,
    number: str,
    amount: int,
    total: int,
    reason: str,
    notify_url: str,
    *,
    signer: str,
    xml: bool,
) -> Refund:
    """A new refund in the state PROCESSING. signer: the key that signs its notification. xml: the notification has the v2 format.
    Without a notify_url it goes to the address in the merchant's console."""
    now = simulator.clock.now()
    delay = simulator.config.refund_delay_seconds
    if rule is not None and rule.fault == "refund_pending":
        delay = rule.seconds
    refund = Refund(
        number,
        new_refund_id(),
        amount,
        total,
        reason,
        notify_url or simulator.settings.refund_notify_url,
        now,
        now + delay,
        outcome=_OUTCOMES.get(rule.fault if rule else "", "SUCCESS"),
        signer=signer,
        xml=xml,
    )
    simulator.trades.add_refund(trade, refund)
    return refund


def query(call: WechatCall) -> tuple[int, dict[str, Any]]:
    """GET /v3/refund/domestic/refunds/{out_refund_no}."""
    trade = call.trade
    refund = trade.refund(call.path["out_refund_no"]) if trade else None
    if trade is None or refund is None:
        raise WechatError(404, "RESOURCE_NOT_EXISTS", "退款单不存在")
    return 200, _answer(trade, refund)


def apply_abnormal(call: WechatCall) -> tuple[int, dict[str, Any]]:
    """POST …/refunds/{refund_id}/apply-abnormal-refund: an ABNORMAL refund is processed again and succeeds."""
    number = call.text("out_refund_no", 64)
    trade = call.simulator.trades.by_refund(WECHATPAY_V3, number)
    refund = trade.refund(number) if trade else None
    if trade is None or refund is None or refund.refund_id != call.path["refund_id"]:
        raise WechatError(404, "RESOURCE_NOT_EXISTS", "退款单不存在")
    if refund.state != "ABNORMAL":
        raise WechatError(400, "INVALID_REQUEST", "退款单状态不是退款异常")
    now = call.simulator.clock.now()
    call.simulator.trades.retry_refund(trade, refund, now + call.simulator.config.refund_delay_seconds)
    return 200, _answer(trade, refund)
