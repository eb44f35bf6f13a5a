"""A payment through the sample channel, against a server of SamplePay. Run by test_sample_channel.py."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.states import OrderState, RefundState
from paycenter_server.services.channels import NewChannel
from support.system import OPERATOR, PayCenterSystem

KEY = "a secret of 26 characters."


def sign(body: bytes) -> str:
    return hmac.new(KEY.encode(), body, hashlib.sha256).hexdigest()


class SamplePay:
    """The server of the channel's company. It shares no code with the codec."""

    def __init__(self) -> None:
        self.trades: dict[str, dict[str, Any]] = {}
        self.refunds: dict[str, dict[str, Any]] = {}
        self.lose_answers = 0
        self.calls: list[str] = []

    async def serve(self, request: web.Request) -> web.Response:
        body = await request.read()
        assert request.headers["X-Sample-Signature"] == sign(body)
        self.calls.append(request.path)
        answer = json.dumps(self.answer(request.path, json.loads(body))).encode()
        if self.lose_answers:
            self.lose_answers -= 1
            return web.Response(status=502, text="<h1>Bad gateway</h1>")
        return web.Response(body=answer, headers={"X-Sample-Signature": sign(answer)})

    def answer(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        trade = self.trades.get(asked["number"])
        if path == "/pay":
            self.trades.setdefault(asked["number"], {**asked, "status": "WAITING"})
            return {"status": "WAITING", "url": f"https://samplepay.test/{asked['number']}"}
        if trade is None:
            return {"status": "NOT_FOUND"}
        if path == "/refund":
            self.refunds.setdefault(asked["refund"], {**asked, "status": "DONE", "trade": "SR1", "time": 1_800_000_000})
        if path.startswith("/refund"):
            return self.refunds.get(asked["refund"], {"status": "NOT_FOUND"})
        if path == "/close" and trade["status"] == "WAITING":
            trade["status"] = "CLOSED"
        return trade

    def pay(self, number: str) -> bytes:
        """The payer pays; returns the notification."""
        self.trades[number] |= {"status": "PAID", "trade": "S1", "payer": "somebody", "time": 1_800_000_000}
        return json.dumps(self.trades[number]).encode()


@pytest.fixture
async def company(system: PayCenterSystem) -> AsyncIterator[SamplePay]:
    company = SamplePay()
    app = web.Application()
    app.router.add_post("/{name}", company.serve)
    server = TestServer(app)
    await server.start_server()
    gateway = str(server.make_url("")).rstrip("/")
    config = {"merchant": "M1", "mch_key": KEY, "gateway_url": gateway}
    new = NewChannel("shop", "samplepay", 6000, "", "generic", config, enabled=True)
    system.channels["samplepay"] = (await system.services.channels.create(OPERATOR, new)).channel.number
    yield company
    await server.close()


async def notify(system: PayCenterSystem, body: bytes, signature: str) -> tuple[int, bytes]:
    return await system.call_back("samplepay", body, {"X-Sample-Signature": signature})


async def test_paid_and_refunded(system: PayCenterSystem, company: SamplePay) -> None:
    order = await system.order(amount=100)
    attempt = await system.submit(order, "samplepay")
    assert attempt.display_content == f"https://samplepay.test/{attempt.out_trade_no}"
    body = company.pay(attempt.out_trade_no)
    assert (await notify(system, body, sign(body + b" ")))[0] >= 400
    assert (await system.read(order)).state is OrderState.WAITING
    assert await notify(system, body, sign(body)) == (200, b"OK")
    assert await notify(system, body, sign(body)) == (200, b"OK")
    paid = await system.read(order)
    assert (paid.state, paid.paid_amount, paid.channel_user_id) == (OrderState.SUCCESS, 100, "somebody")
    for amount in (33, 67):
        assert (await system.refund(order, amount)).state is RefundState.SUCCESS
    events = [post.json["type"] for post in await system.deliver()]
    assert sorted(events) == ["pay_order.success", "pay_refund.success", "pay_refund.success"]
    assert await system.cases() == []


async def test_lost_answers_decide_nothing(system: PayCenterSystem, company: SamplePay) -> None:
    order = await system.order(amount=100)
    company.lose_answers = 2
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, "samplepay")
    assert caught.value.reason is Reason.CHANNEL_UNCLEAR
    attempt = await system.submit(order, "samplepay")
    assert list(company.trades) == [attempt.out_trade_no]
    company.pay(attempt.out_trade_no)
    system.clock.advance(31)
    await system.services.jobs.sync_orders()
    assert (await system.read(order)).state is OrderState.SUCCESS
    company.lose_answers = 1
    refund = await system.refund(order, 40)
    assert refund.state is RefundState.WAITING
    assert (await system.services.refunds.sync(system.caller, refund)).state is RefundState.SUCCESS
    assert len(company.refunds) == 1


async def test_closed(system: PayCenterSystem, company: SamplePay) -> None:
    order = await system.order()
    attempt = await system.submit(order, "samplepay")
    assert (await system.services.orders.close(system.caller, order.number)).state is OrderState.CLOSED
    assert company.trades[attempt.out_trade_no]["status"] == "CLOSED"


async def test_the_secret_is_sealed_and_never_shown(system: PayCenterSystem, company: SamplePay) -> None:
    row = (await system.rows("SELECT * FROM pay_account WHERE family = 'samplepay'"))[0]
    assert row["config"]["merchant"] == "M1"
    assert set(row["config"]["mch_key"]) == {"sealed"}
    assert KEY not in str(dict(row))
    view = await system.services.channels.get(OPERATOR, system.channels["samplepay"])
    assert view.secrets == ["mch_key"]
    assert "mch_key" not in view.config
    assert company.calls == []


async def test_every_wrong_field_is_named(system: PayCenterSystem) -> None:
    new = NewChannel("shop", "samplepay", 6000, "", "generic", {"gateway_url": "ftp://x", "colour": "red"}, enabled=True)
    with pytest.raises(PayCenterError) as caught:
        await system.services.channels.create(OPERATOR, new)
    named = {violation.field for violation in caught.value.violations}
    assert named == {"config.merchant", "config.mch_key", "config.gateway_url", "config.colour"}
