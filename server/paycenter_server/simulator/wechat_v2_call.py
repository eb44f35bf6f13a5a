"""One verified call of WeChat Pay v2, and the checks its operations share."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from paycenter_server.simulator.clock import CHINA
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.model import WECHATPAY_V3, Trade
from paycenter_server.simulator.state import Simulator
from paycenter_server.simulator.wechat_v2_wire import V2Error

__all__ = ["V2Call", "compact_time", "order_missing"]

_MOST_FEN = 10**10


def order_missing() -> V2Error:
    """No such trade."""
    return V2Error("ORDERNOTEXIST", "订单不存在")


def compact_time(moment: float) -> str:
    """v2's form, `20260102030405`, always at +08:00."""
    return datetime.datetime.fromtimestamp(int(moment), CHINA).strftime("%Y%m%d%H%M%S")


@dataclass
class V2Call:
    """What an operation sees. api is the fault script's name (`wx2.unifiedorder`), kind how the request is signed."""

    simulator: Simulator
    api: str
    kind: str
    fields: dict[str, str]
    rule: FaultRule | None = None
    note: str = ""
    """What the channel lets pass this time, for the log: "sooner than …"."""

    @property
    def fault(self) -> str:
        """The name of the fault that strikes this call, or ""."""
        return self.rule.fault if self.rule else ""

    @property
    def trade(self) -> Trade | None:
        """The trade that the call is about. v2 and v3 are two doors to the same trades."""
        ledger = self.simulator.ledger
        number, transaction = self.optional("out_trade_no"), self.optional("transaction_id")
        if number or transaction:
            return ledger.get(WECHATPAY_V3, "" if transaction else number, transaction)
        refund = self.optional("out_refund_no")
        return ledger.by_refund(WECHATPAY_V3, refund) if refund else None

    @property
    def number(self) -> str:
        """The trade's number, for the log."""
        trade = self.trade
        return trade.number if trade else self.optional("out_trade_no")

    @property
    def numbers(self) -> set[str]:
        """All numbers by which a fault rule may mean this call."""
        return {self.number, self.optional("out_refund_no")} - {""}

    def existing(self) -> Trade:
        """The trade, or ORDERNOTEXIST."""
        if not self.optional("out_trade_no") and not self.optional("transaction_id"):
            raise V2Error("", "缺少参数out_trade_no或transaction_id")
        trade = self.trade
        if trade is None:
            raise order_missing()
        return trade

    def optional(self, field: str) -> str:
        """A field; "" if absent."""
        return self.fields.get(field, "")

    def text(self, field: str, limit: int) -> str:
        """A required field of at most `limit` characters."""
        value = self.optional(field)
        if not value:
            raise V2Error("", f"缺少参数{field}")
        if len(value) > limit:
            raise V2Error("PARAM_ERROR", f"{field}长度超过限制")
        return value

    def fen(self, field: str) -> int:
        """A required amount in fen, at least one."""
        value = self.text(field, 11)
        if not (value.isascii() and value.isdecimal()) or not 1 <= int(value) <= _MOST_FEN:
            raise V2Error("", f"invalid {field}")
        return int(value)

    def expiry(self, longest: float) -> float:
        """When the time to pay is over, from time_expire; shorter than a minute is raised to one."""
        now, value = self.simulator.clock.now(), self.optional("time_expire")
        if not value:
            return now + longest
        try:
            moment = datetime.datetime.strptime(value, "%Y%m%d%H%M%S").replace(tzinfo=CHINA).timestamp()
        except (ValueError, OverflowError) as error:
            raise V2Error("PARAM_ERROR", "time_expire格式错误") from error
        if moment > now + longest + 60:
            raise V2Error("PARAM_ERROR", "time_expire超过最长支付时间")
        return max(moment, now + 60)
