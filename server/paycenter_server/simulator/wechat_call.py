"""One verified call of WeChat Pay APIv3, and the checks its operations share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.model import WECHATPAY_V3, Trade
from paycenter_server.simulator.state import Simulator
from paycenter_server.simulator.wechat_auth import WechatError

__all__ = ["WechatCall", "invalid"]


def invalid(field: str, message: str) -> WechatError:
    """A 400 PARAM_ERROR about one field."""
    return WechatError(400, "PARAM_ERROR", message, field)


@dataclass
class WechatCall:
    """What an operation sees. api is the fault script's name (`wx.native`), signer the key mode of the request,
    origin where the caller reached us."""

    simulator: Simulator
    api: str
    signer: str
    body: dict[str, Any]
    path: dict[str, str]
    query: dict[str, str]
    rule: FaultRule | None = None
    origin: str = ""
    note: str = ""
    """What the channel lets pass this time, for the log: "sooner than …"."""

    @property
    def fault(self) -> str:
        """The name of the fault that strikes this call, or ""."""
        return self.rule.fault if self.rule else ""

    def _given(self, name: str) -> str:
        value = self.path.get(name) or self.body.get(name) or ""
        return value if isinstance(value, str) else ""

    @property
    def trade(self) -> Trade | None:
        """The trade that the call is about, by whichever number it names."""
        ledger = self.simulator.ledger
        number, transaction = self._given("out_trade_no"), self._given("transaction_id")
        if number or transaction:
            return ledger.get(WECHATPAY_V3, number, transaction)
        refund = self._given("out_refund_no")
        return ledger.by_refund(WECHATPAY_V3, refund) if refund else None

    @property
    def number(self) -> str:
        """The trade's number, for the log."""
        trade = self.trade
        return trade.number if trade else self._given("out_trade_no")

    @property
    def numbers(self) -> set[str]:
        """All numbers by which a fault rule may mean this call."""
        return {self.number, self._given("out_refund_no")} - {""}

    def text(self, field: str, limit: int, *, required: bool = True) -> str:
        """A string of the body, at most `limit` characters."""
        value = self.body.get(field, "")
        if not isinstance(value, str) or len(value) > limit:
            raise invalid(field, f"输入源“/body/{field}”映射到值字段“{field}”字符串规则校验失败")
        if required and not value:
            raise invalid(field, f"缺少必填参数{field}")
        return value

    def part(self, field: str) -> dict[str, Any]:
        """An object of the body; {} if absent."""
        value = self.body.get(field, {})
        if not isinstance(value, dict):
            raise invalid(field, f"{field}必须是对象")
        return value

    def check_merchant(self, given: object) -> None:
        """The merchant in body or query must be the one that signed."""
        if given != self.simulator.keys.wechatpay["mchid"]:
            raise invalid("mchid", "mchid与Http头Authorization中的mchid不一致")
