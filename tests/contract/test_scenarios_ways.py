"""Every way to pay, and what test_scenarios.py runs its scenarios on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from paycenter_server.channels.registry import installed
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import OrderState
from paycenter_server.services.context import deadline
from support.system import OPERATOR, PayCenterSystem
from support.waiting import eventually

AMOUNT = 100
LIFE = 90


@dataclass(frozen=True)
class Way:
    """One way to pay. `pay_api` is empty if the payer's browser or app calls the channel instead of PayCenter."""

    code: str
    version: str
    pay_api: str
    query_api: str
    refund_api: str
    decline: str
    refuse_refund: str
    extras: dict[str, str] = field(default_factory=dict)
    waits: str = ""
    notified: bool = True

    @property
    def name(self) -> str:
        return f"{self.code}-{self.version}" if self.version else self.code

    @property
    def at_point_of_sale(self) -> bool:
        return bool(self.waits)


def _v3(code: str, api: str, version: str = "v3", decline: str = "NO_AUTH", **more: Any) -> Way:
    return Way(code, version, f"wx.{api}", "wx.query", "wx.refund", decline, "USER_ACCOUNT_ABNORMAL", **more)


def _v2(code: str, api: str = "unifiedorder", decline: str = "NOAUTH", **more: Any) -> Way:
    return Way(code, "v2", f"wx2.{api}", "wx2.orderquery", "wx2.refund", decline, "USER_ACCOUNT_ABNORMAL", **more)


def _ali(code: str, api: str = "", decline: str = "ACQ.ACCESS_FORBIDDEN", **more: Any) -> Way:
    return Way(code, "", api, "alipay.trade.query", "alipay.trade.refund", decline, "ACQ.TRADE_NOT_ALLOW_REFUND", **more)


_OPENID = {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}
_WECHAT_CODE, _ALIPAY_CODE = {"auth_code": "134567890123456789"}, {"auth_code": "281234567890123456"}
WAYS = (
    _v3("wx_native", "native"),
    _v3("wx_pub", "jsapi", extras=_OPENID),
    _v3("wx_lite", "jsapi", extras=_OPENID),
    _v3("wx_app", "app"),
    _v3("wx_wap", "h5"),
    _v2("wx_native"),
    _v2("wx_pub", extras=_OPENID),
    _v2("wx_lite", extras=_OPENID),
    _v2("wx_app"),
    _v2("wx_wap"),
    _v2("wx_bar", "micropay", "NOTENOUGH", extras=_WECHAT_CODE, waits="user_paying", notified=False),
    _v3("wx_bar", "codepay", "codepay", "NOTENOUGH", extras=_WECHAT_CODE, waits="user_paying", notified=False),
    _ali("alipay_pc"),
    _ali("alipay_wap"),
    _ali("alipay_app"),
    _ali("alipay_qr", "alipay.trade.precreate"),
    _ali("alipay_lite", "alipay.trade.create", extras={"buyer_open_id": "074a1CcTG1LelxKe4xQC0zgNdId0nxi95b5lsNpazWYoCo5"}),
    _ali("alipay_bar", "alipay.trade.pay", "ACQ.BUYER_BALANCE_NOT_ENOUGH", extras=_ALIPAY_CODE, waits="in_process"),
    Way("mock", "", "", "", "", "MOCK_FAILURE", "MOCK_FAILURE", notified=False),
)


class ScenarioContext:
    """One order on one way to pay."""

    def __init__(self, system: PayCenterSystem, way: Way) -> None:
        self.system, self.way = system, way
        self.order: Any = None

    async def set_up(self) -> None:
        """The channel in the wanted version, and an order with a short life."""
        system, way = self.system, self.way
        family, v3 = system.configs["wx_native"]
        if way.version == "v2":
            system.configs[way.code] = system.configs["wx_bar"]
        elif way.version == "codepay":
            system.configs[way.code] = family, {**v3, "use_codepay": "true"}
        if way.code not in system.channels:
            await system.add_channel(way.code)
        elif way.version == "v2":
            await system.services.channels.update(OPERATOR, system.channels[way.code], {}, *system.configs[way.code])
        self.order = await system.order(amount=AMOUNT, expire_time=system.clock.now() + timedelta(seconds=LIFE))

    async def submit(self, **more: str) -> Any:
        """Only the submit. The caller of a bar code payment does not wait for the payer."""
        deadline.set(asyncio.get_running_loop().time() + 1)
        try:
            return await self.system.submit(self.order, self.way.code, **{**self.way.extras, **more})
        finally:
            deadline.set(None)

    async def open(self, attempt: Any) -> str:
        """The payer opens the page, the app or the QR code. Returns the number."""
        system, shown = self.system, attempt.display_content
        if self.way.code in ("alipay_pc", "alipay_wap", "alipay_qr"):
            number = attempt.out_trade_no
            url = f"{system.simulator.base}/cashier/{number}" if self.way.code == "alipay_qr" else shown
            async with system.session.get(url) as page:
                assert page.status == 200
        elif self.way.code == "alipay_app":
            await system.open_in_alipay(shown)
        return str(attempt.out_trade_no)

    async def pay(self, **options: Any) -> None:
        """Submitted, opened and paid; returns the channel's trade."""
        attempt = await self.submit()
        if not self.way.at_point_of_sale and self.way.code != "mock":
            number = await self.open(attempt)
            await self.system.simulator.pay(number, **options)

    async def paid(self, **extras: str) -> Any:
        """The order, paid."""
        await (self.submit(**extras) if extras else self.pay())
        return await self.system.until(self.order, "SUCCESS")

    async def fault(self, api: str, fault: str, **more: Any) -> None:
        await self.system.simulator.fault(api, fault, **more)

    async def number(self) -> str:
        """The number of the only attempt."""
        rows = await self.system.rows("SELECT id FROM pay_attempt ORDER BY id")
        assert len(rows) == 1
        return encode(Prefix.ATTEMPT, rows[0]["id"])

    async def pass_time(self, seconds: float) -> None:
        """Move the clocks of both sides, then run the jobs of a worker."""
        self.system.clock.advance(seconds)
        await self.system.simulator.advance(seconds)
        await self.system.services.jobs.sync_orders()
        await self.system.services.jobs.expire_orders()

    async def state(self) -> OrderState:
        return (await self.system.read(self.order)).state

    async def case(self) -> Any:
        """The first case, as soon as there is one."""
        return (await eventually(self.system.cases))[0]

    async def surplus_is_refunded(self, kind: str) -> None:
        """A case of this kind is opened, fully refunded, and reported to the app as surplus."""
        system = self.system
        await self.case()

        async def resolved() -> Any:
            if (case := await self.case())["state"] == "RESOLVED":
                return case
            system.clock.advance(11)
            await system.services.jobs.sync_refunds()
            return None

        case = await eventually(resolved)
        assert case["kind"] == kind
        refund = (await system.rows("SELECT * FROM pay_refund"))[0]
        assert (refund["state"], refund["amount"], refund["case_id"]) == ("SUCCESS", AMOUNT, case["id"])
        events = [post.json for post in await system.deliver()]
        assert not [event for event in events if event["type"].startswith("pay_refund.")]
        assert [event["data"]["amount"] for event in events if event["type"] == "pay_order.surplus_refunded"] == [AMOUNT]

    async def at_channel(self, number: str) -> Any:
        return await self.system.simulator.get(f"/simulator/trades/{number}")


def test_every_channel_code_has_its_ways() -> None:
    assert {way.code for way in WAYS} == set(installed())
    assert len({way.name for way in WAYS}) == len(WAYS)
