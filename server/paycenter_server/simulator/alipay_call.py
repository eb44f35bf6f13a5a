"""One verified call of the Alipay gateway, its failures, and money and time as Alipay writes them."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import urlsplit

from paycenter_server.simulator.clock import CHINA, parse_alipay_time
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.model import ALIPAY, Trade
from paycenter_server.simulator.state import Simulator

__all__ = ["AlipayCall", "AlipayError", "acq", "invalid_parameter", "parse_yuan", "yuan"]

_EXPRESS = re.compile(r"([1-9][0-9]{0,5})([mhdc])")
_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_MOST_FEN = 100_000_000_00


class AlipayError(Exception):
    """A failed call: `code`, `msg`, `sub_code`, `sub_msg` of the answer."""

    def __init__(self, code: str, msg: str, sub_code: str, sub_msg: str) -> None:
        super().__init__(f"{code} {sub_code}")
        self.code, self.msg, self.sub_code, self.sub_msg = code, msg, sub_code, sub_msg

    def document(self) -> dict[str, Any]:
        """The answer's node."""
        return {"code": self.code, "msg": self.msg, "sub_code": self.sub_code, "sub_msg": self.sub_msg}


def acq(name: str, text: str) -> AlipayError:
    """40004 with `ACQ.{name}`."""
    return AlipayError("40004", "Business Failed", "ACQ." + name, text)


def invalid_parameter(text: str) -> AlipayError:
    """40004 ACQ.INVALID_PARAMETER."""
    return acq("INVALID_PARAMETER", text)


def yuan(fen: int) -> str:
    """Fen as Alipay writes them, `12.34`."""
    return f"{fen // 100}.{fen % 100:02d}"


def parse_yuan(value: object, field: str) -> int:
    """Fen of a yuan amount, which may come as string or number; at least one fen, at most two decimals."""
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise invalid_parameter(f"参数无效:{field}")
    try:
        fen = Decimal(value) * 100
    except InvalidOperation as error:
        raise invalid_parameter(f"参数无效:{field}") from error
    if not fen.is_finite() or fen != int(fen) or not 1 <= fen <= _MOST_FEN:
        raise invalid_parameter(f"参数无效:{field}")
    return int(fen)


@dataclass
class AlipayCall:
    """What an operation sees: common parameters, biz_content, which fault strikes, and where the caller reached us."""

    simulator: Simulator
    method: str
    params: dict[str, str]
    biz: dict[str, Any]
    rule: FaultRule | None = None
    origin: str = ""

    @property
    def fault(self) -> str:
        """The name of the fault that strikes this call, or ""."""
        return self.rule.fault if self.rule else ""

    @property
    def certificate_mode(self) -> bool:
        """Whether the caller uses certificates."""
        return bool(self.params.get("app_cert_sn"))

    @property
    def sealed(self) -> bool:
        """Whether request and answer are encrypted."""
        return self.params.get("encrypt_type") == "AES"

    @property
    def trade(self) -> Trade | None:
        """The trade that the call is about; a QR code nobody scanned is not a trade yet."""
        found = self.simulator.ledger.get(ALIPAY, self.optional("out_trade_no"), self.optional("trade_no"))
        if found is None:
            return None
        now = self.simulator.clock.now()
        if found.exists and found.waiting and found.expired(now):
            self.simulator.ledger.close(found, "closed because nobody paid in time")
        return found

    @property
    def number(self) -> str:
        """The trade's number, for the log."""
        trade = self.simulator.ledger.get(ALIPAY, self.optional("out_trade_no"), self.optional("trade_no"))
        return trade.number if trade else self.optional("out_trade_no")

    @property
    def numbers(self) -> set[str]:
        """All numbers by which a fault rule may mean this call."""
        return {self.number, self.optional("out_request_no")} - {""}

    def existing(self) -> Trade:
        """The trade, or ACQ.TRADE_NOT_EXIST."""
        if not self.optional("out_trade_no") and not self.optional("trade_no"):
            raise invalid_parameter("out_trade_no和trade_no不能同时为空")
        trade = self.trade
        if trade is None or not trade.exists:
            raise acq("TRADE_NOT_EXIST", "交易不存在")
        return trade

    def optional(self, field: str) -> str:
        """A text of biz_content; "" if absent."""
        value = self.biz.get(field)
        return "" if value is None else str(value)

    def text(self, field: str, limit: int) -> str:
        """A required text of at most `limit` characters."""
        value = self.optional(field)
        if not value or len(value) > limit:
            raise invalid_parameter(f"参数无效:{field}")
        return value

    def address(self, field: str) -> str:
        """An optional web address of at most 400 characters."""
        value = self.optional(field)
        parts = urlsplit(value)
        if value and (len(value) > 400 or parts.scheme not in ("http", "https") or not parts.netloc):
            raise invalid_parameter(f"参数无效:{field}")
        return value

    def expiry(self, fields: tuple[str, ...], default_seconds: float) -> float:
        """When the time to pay is over, from the first of these fields that is given."""
        now = self.simulator.clock.now()
        for field in fields:
            value = self.optional(field)
            if value:
                return self._absolute(value) if field == "time_expire" else now + self._express(field, value, now)
        return now + default_seconds

    def _absolute(self, value: str) -> float:
        try:
            moment = parse_alipay_time(value)
        except ValueError as error:
            raise invalid_parameter("参数无效:time_expire") from error
        if moment <= self.simulator.clock.now():
            raise invalid_parameter("参数无效:time_expire已过")
        return moment

    @staticmethod
    def _express(field: str, value: str, now: float) -> float:
        match = _EXPRESS.fullmatch(value)
        if match is None:
            raise invalid_parameter(f"参数无效:{field}")
        count, unit = int(match[1]), match[2]
        if unit == "c":  # until the end of the day, in China
            today = datetime.datetime.fromtimestamp(now, CHINA).replace(hour=0, minute=0, second=0, microsecond=0)
            return (today + datetime.timedelta(days=count)).timestamp() - now
        return float(min(count * _UNIT_SECONDS[unit], 15 * 86400))
