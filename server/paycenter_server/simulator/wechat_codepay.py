"""WeChat Pay APIv3: the bar payment and its reversal (channel sheet 2.4). Neither is ever notified."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from paycenter_server.simulator import bar
from paycenter_server.simulator.model import BAR, WECHATPAY_V3
from paycenter_server.simulator.wechat_auth import WechatError
from paycenter_server.simulator.wechat_call import WechatCall, invalid
from paycenter_server.simulator.wechat_orders import begin, check_order, transaction
from paycenter_server.simulator.wechat_reverse import REVERSE_SECONDS, too_soon
from paycenter_server.simulator.wechat_reverse import reverse as reverse_trade

__all__ = ["codepay", "reverse"]

_AUTH_CODE = re.compile(r"1[0-5][0-9]{16}")


def codepay(call: WechatCall) -> tuple[int, dict[str, Any]]:
    """POST /v3/pay/transactions/codepay: the transaction, SUCCESS or (while the payer confirms) USERPAYING."""
    number, amount = check_order(call)
    store = call.part("scene_info").get("store_info")
    if not (isinstance(store, dict) and store.get("id")):
        raise invalid("scene_info.store_info.id", "缺少必填参数store_info.id")
    if not _AUTH_CODE.fullmatch(str(call.part("payer").get("auth_code", ""))):
        raise WechatError(400, "AUTH_CODE_INVALID", "请扫描微信支付被扫条码/二维码")
    digest = hashlib.sha256((BAR + json.dumps(call.body, sort_keys=True)).encode()).hexdigest()
    trade = call.simulator.ledger.get(WECHATPAY_V3, number)
    if trade is None:
        trade = begin(call, BAR, number, amount, digest)
    elif trade.paid:
        raise WechatError(400, "ORDERPAID", "该订单已支付")
    elif trade.state in ("CLOSED", "REVOKED", "PAYERROR"):
        raise WechatError(400, "ORDER_CLOSED", "该订单已关闭")
    elif trade.digest != digest:
        raise WechatError(403, "OUT_TRADE_NO_USED", "商户订单号重复")
    if trade.state == "NOTPAY":
        if call.rule is not None and call.fault == "decline":
            code = call.rule.code or "NOTENOUGH"
            bar.decline(call.simulator, trade, code)
            raise WechatError(403, code, "支付失败")
        bar.charge(call.simulator, trade, call.rule)
    return 200, transaction(trade)


def reverse(call: WechatCall) -> tuple[int, dict[str, Any]]:
    """POST …/out-trade-no/{no}/reverse: bar payments of the last seven days, again and again."""
    call.check_merchant(call.body.get("mchid"))
    if call.text("appid", 32) != call.simulator.keys.wechatpay["appid"]:
        raise WechatError(400, "APPID_MCHID_NOT_MATCH", "appid和mch_id不匹配")
    trade = call.trade
    if trade is None:
        raise WechatError(404, "ORDER_NOT_EXIST", "订单不存在")
    if call.fault == "recall":
        raise WechatError(500, "SYSTEM_ERROR", "系统异常,请稍后重试")
    if not trade.at_the_bar:
        raise WechatError(403, "TRADE_ERROR", "只有付款码订单可以撤销")
    if call.simulator.clock.now() - trade.created > REVERSE_SECONDS:
        raise WechatError(400, "INVALID_REQUEST", "订单超过可撤销时间")
    if call.fault == "not_enough" and trade.paid:
        raise WechatError(403, "NOT_ENOUGH", "余额不足")
    call.note = too_soon(call.simulator, trade)
    reverse_trade(call.simulator, trade)
    return 200, {"appid": trade.app_id, "mchid": trade.merchant_id, "out_trade_no": trade.number}
