"""One verified call of the Alipay gateway, its failures, and money and time as Alipay writes them."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Any

from paycenter_server.simulator.addresses import web_address
from paycenter_server.simulator.clock import CHINA, parse_alipay_time
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.model import ALIPAY, Trade
from paycenter_server.simulator.state import Simulator

__all__ = ["AlipayCall", "AlipayError", "acq", "fen_of", "invalid_parameter", "parse_yuan", "yuan"]

_EXPRESS = re.compile(r"([1-9][0-9]{0,5})([mhd])|1(c)")
_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_YUAN = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,2})?")
_MOST_FEN = 100_000_000_00
_LONGEST_SECONDS = 15 * 86400


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


def fen_of(text: str) -> int:
    """The reverse, of what was written so."""
    return int(text.replace(".", ""))


def parse_yuan(value: object, field: str) -> int:
    """Fen of a yuan amount, 0.01 to 100000000.00: digits with at most two decimals, in a string or as a number, whose text the
    content keeps."""
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not _YUAN.fullmatch(text):
        raise invalid_parameter(f"参数无效:{field}")
    whole, _, part = text.partition(".")
    fen = int(whole) * 100 + int(part.ljust(2, "0"))
    if not 1 <= fen <= _MOST_FEN:
        raise invalid_parameter(f"参数无效:{field}")
    return fen


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
        found = self.simulator.ledger.get(ALIPAY, self._given("out_trade_no"), self._given("trade_no"))
        if found is None:
            return None
        now = self.simulator.clock.now()
        if found.exists and found.waiting and found.expired(now):
            self.simulator.ledger.close(found, "closed because nobody paid in time")
        return found

    @property
    def number(self) -> str:
        """The trade's number, for the log."""
        trade = self.simulator.ledger.get(ALIPAY, self._given("out_trade_no"), self._given("trade_no"))
        return trade.number if trade else self._given("out_trade_no")

    @property
    def numbers(self) -> set[str]:
        """All numbers by which a fault rule may mean this call."""
        return {self.number, self._given("out_request_no")} - {""}

    def _given(self, field: str) -> str:
        value = self.biz.get(field)
        return str(value) if isinstance(value, (str, int)) else ""

    def existing(self) -> Trade:
        """The trade, or ACQ.TRADE_NOT_EXIST."""
        if not self.optional("out_trade_no") and not self.optional("trade_no"):
            raise invalid_parameter("out_trade_no和trade_no不能同时为空")
        trade = self.trade
        if trade is None or not trade.exists:
            raise acq("TRADE_NOT_EXIST", "交易不存在")
        return trade

    def optional(self, field: str) -> str:
        """A text (or a number) of biz_content; "" if absent."""
        value = self.biz.get(field)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int))):
            raise invalid_parameter(f"参数无效:{field}")
        return self._given(field)

    def text(self, field: str, limit: int) -> str:
        """A required text of at most `limit` characters."""
        value = self.optional(field)
        if not value or len(value) > limit:
            raise invalid_parameter(f"参数无效:{field}")
        return value

    def address(self, field: str) -> str:
        """An optional web address of at most 400 characters."""
        return self._address(field, self.optional(field), 400)

    def common_address(self, field: str) -> str:
        """The same among the common parameters, of at most 256 characters."""
        return self._address(field, self.params.get(field, ""), 256)

    @staticmethod
    def _address(field: str, value: str, limit: int) -> str:
        if value and (len(value) > limit or web_address(value) is None):
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
        if moment > self.simulator.clock.now() + _LONGEST_SECONDS + 60:
            raise invalid_parameter("参数无效:time_expire超过15天")
        return moment

    @staticmethod
    def _express(field: str, value: str, now: float) -> float:
        match = _EXPRESS.fullmatch(value)
        if match is None:
            raise invalid_parameter(f"参数无效:{field}")
        if match[3]:  # only 1c: until the end of the day, in China
            today = datetime.datetime.fromtimestamp(now, CHINA).replace(hour=0, minute=0, second=0, microsecond=0)
            return (today + datetime.timedelta(days=1)).timestamp() - now
        count, unit = int(match[1]), match[2]
        if count * _UNIT_SECONDS[unit] > _LONGEST_SECONDS:
            raise invalid_parameter(f"参数无效:{field}")
        return float(count * _UNIT_SECONDS[unit])
