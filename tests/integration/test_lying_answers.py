"""A channel that answers wrongly: signed answers about another trade, and different answers to two equal calls."""

from __future__ import annotations

import asyncio

import pytest
from paycenter_server.channels.protocol import HttpRequest, HttpResponse, Refunded
from paycenter_server.channels.transport import AiohttpTransport, NotSentError, TransportUnclearError
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import AttemptState
from structlog.testing import capture_logs
from support.cases import NEVER, book
from support.locks import transaction, waiting_for_lock
from support.system import PayCenterSystem, SystemOn
from support.waiting import eventually


class Replaying:
    """A network that answers a query with the answer to an earlier one."""

    def __init__(self, mark: str) -> None:
        self.inner, self.mark = AiohttpTransport(), mark
        self.kept: HttpResponse | None = None
        self.replay = False

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if self.mark in request.url and self.replay and self.kept is not None:
            return self.kept
        answer = await self.inner.send(request, seconds)
        if self.mark in request.url:
            self.kept = answer
        return answer


@pytest.mark.parametrize(("code", "mark"), [("alipay_qr", "alipay.trade.query"), ("wx_native", "?mchid=")])
async def test_an_answer_about_another_trade_closes_nothing(code: str, mark: str, system_on: SystemOn) -> None:
    network = Replaying(mark)
    async with system_on(network) as system:
        closed, order = await system.order(), await system.order()
        for one in (closed, order):
            attempt = await system.submit(one, code)
            await system.session.get(f"{system.simulator.base}/cashier/{attempt.out_trade_no}")
            if one is closed:
                await system.simulator.post(f"/simulator/close/{attempt.out_trade_no}")
        await system.services.orders.sync(system.caller, closed.number)
        network.replay = True
        await system.services.orders.sync(system.caller, order.number)
        (attempt,) = await system.services.orders.attempts(order)
        assert attempt.state in (AttemptState.WAITING, AttemptState.UNKNOWN)
        assert attempt.next_check_time is not None
        evidence = await system.value(
            "SELECT evidence FROM pay_event WHERE subject_id = $1 AND event = 'queried' ORDER BY id DESC LIMIT 1", attempt.id
        )
        assert evidence is not None
        assert evidence["call"].get("verdict") == "the answer is about another number"


class Beside:
    """A network that delays the second of two equal payments until the answer to the first, and then refuses it."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.system: PayCenterSystem | None = None
        self.calls = 0
        self.answered, self.second = asyncio.Event(), asyncio.Event()

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if not request.url.endswith("/native"):
            return await self.inner.send(request, seconds)
        self.calls += 1
        if self.calls == 1:
            answer = await self.inner.send(request, seconds)
            await self.second.wait()
            return answer
        self.second.set()
        await self.answered.wait()
        assert self.system is not None
        await self.system.simulator.fault("wx.native", "decline", code="RULE_LIMIT")
        return await self.inner.send(request, seconds)


async def test_a_refusal_beside_an_acceptance_closes_nothing(system_on: SystemOn) -> None:
    network = Beside()
    async with system_on(network) as system:
        network.system = system
        order = await system.order()
        # Both read the attempt before either is answered.
        first = asyncio.create_task(system.submit(order))
        await eventually(lambda: network.calls)
        second = asyncio.create_task(system.submit(order))
        shown = await first
        network.answered.set()
        again = await second
        assert shown.display_content
        assert (again.id, again.state, again.display_content) == (shown.id, AttemptState.WAITING, shown.display_content)
        await system.simulator.pay(shown.out_trade_no)
        await system.until(order, "SUCCESS")


class BesideAndFirst(Beside):
    """The other order: the second of two equal payments is refused before the acceptance of the first arrives."""

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if not request.url.endswith("/native"):
            return await self.inner.send(request, seconds)
        self.calls += 1
        if self.calls == 1:
            answer = await self.inner.send(request, seconds)
            await self.answered.wait()
            return answer
        if self.calls == 2 and self.system is not None:
            await self.system.simulator.fault("wx.native", "decline", code="RULE_LIMIT")
        return await self.inner.send(request, seconds)


async def test_an_acceptance_that_comes_after_its_refusal_leaves_nothing_payable(system_on: SystemOn) -> None:
    network = BesideAndFirst()
    async with system_on(network) as system:
        network.system = system
        order = await system.order()
        first = asyncio.create_task(system.submit(order))
        await eventually(lambda: network.calls)
        with pytest.raises(PayCenterError) as refused:
            await system.submit(order)
        assert refused.value.reason is Reason.CHANNEL_REFUSED
        network.answered.set()
        with pytest.raises(PayCenterError) as changed:
            await first
        assert changed.value.reason is Reason.ORDER_CHANGED
        (attempt,) = await system.services.orders.attempts(order)
        assert (await system.simulator.get(f"/simulator/trades/{attempt.out_trade_no}"))["state"] == "CLOSED"
        # Repeated, as the error requires.
        await system.simulator.pay((await system.submit(order)).out_trade_no)
        await system.until(order, "SUCCESS")


class NotSentBesideUnclear(Beside):
    """Of two equal payments the first is not sent, after the second has arrived. Then the answer to the second is lost."""

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if not request.url.endswith("/native"):
            return await self.inner.send(request, seconds)
        self.calls += 1
        if self.calls == 1:
            await self.second.wait()
            raise NotSentError("no connection in time")
        await self.inner.send(request, seconds)
        self.second.set()
        await self.answered.wait()
        raise TransportUnclearError("no answer")


async def test_an_unclear_answer_beside_a_request_that_was_not_sent_leaves_nothing_payable(system_on: SystemOn) -> None:
    network = NotSentBesideUnclear()
    async with system_on(network) as system:
        order = await system.order()
        first = asyncio.create_task(system.submit(order))
        await eventually(lambda: network.calls)
        second = asyncio.create_task(system.submit(order))
        with pytest.raises(PayCenterError) as unreachable:
            await first
        assert unreachable.value.reason is Reason.CHANNEL_UNREACHABLE
        network.answered.set()
        with pytest.raises(PayCenterError) as changed:
            await second
        assert changed.value.reason is Reason.ORDER_CHANGED
        (attempt,) = await system.services.orders.attempts(order)
        assert (await system.simulator.get(f"/simulator/trades/{attempt.out_trade_no}"))["state"] == "CLOSED"
        assert (attempt.state, attempt.next_check_time is None) == (AttemptState.CLOSED, False)


async def paid(system: PayCenterSystem | None) -> bool:
    return system is not None and await system.value("SELECT state FROM pay_order") == "SUCCESS"


class PaidMeanwhile(Beside):
    """A network on which the payer pays while the app submits again."""

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        if request.url.endswith("/native"):
            self.calls += 1
            if self.calls == 2 and self.system is not None:
                (row,) = await self.system.rows("SELECT id, order_id FROM pay_attempt")
                await self.system.simulator.pay(encode(Prefix.ATTEMPT, row["id"]))
                await eventually(lambda: paid(self.system))
                await self.system.simulator.fault("wx.native", "decline", code="RULE_LIMIT")
        return await self.inner.send(request, seconds)


async def test_a_repeat_that_is_refused_because_it_was_paid(system_on: SystemOn) -> None:
    network = PaidMeanwhile()
    async with system_on(network) as system:
        network.system = system
        order = await system.order()
        await system.submit(order)
        # The display content is not valid any more.
        await system.rows("UPDATE pay_attempt SET update_time = update_time - interval '61 minutes'")
        assert (await system.submit(order)).state is AttemptState.SUCCESS


async def test_a_refused_configuration_is_logged_as_an_error(system: PayCenterSystem) -> None:
    """After a rotated key or with a wrong clock every query fails. This is logged as an error, with any HTTP status."""
    for code, api, error in (
        ("wx_native", "wx.query", "SIGN_ERROR"),
        ("alipay_qr", "alipay.trade.query", "isv.invalid-signature"),
    ):
        order = await system.order()
        await system.submit(order, code)
        await system.simulator.fault(api, "decline", code=error)
        with capture_logs() as logs:
            await system.services.orders.sync(system.caller, order.number)
        turned = [entry for entry in logs if entry["event"] == "channel_rejects_configuration"]
        assert [(entry["log_level"], entry["code"]) for entry in turned] == [("error", error)]


async def test_another_amount_of_a_booked_payment_is_a_case(system: PayCenterSystem) -> None:
    """The query reports one fen too much, and what it reports is booked as surplus. Then the callback tells the truth."""
    order = await system.order()
    attempt = await system.submit(order)
    await system.simulator.fault("wx.query", "wrong_amount")
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    await system.services.orders.sync(system.caller, order.number)
    (booked,) = await system.services.orders.attempts(order)
    assert (booked.state, booked.paid_amount) == (AttemptState.SUCCESS, 101)
    # A repeated report of what is booked is no contradiction.
    for _ in range(2):
        await system.simulator.fault("wx.query", "wrong_amount")
        await system.services.attempts.query(booked)
    assert {case["kind"] for case in await system.cases()} == {"WRONG_AMOUNT"}
    for _ in range(2):
        await system.services.attempts.query(booked)
    mismatch = [case for case in await system.cases() if case["kind"] == "REFUND_MISMATCH"]
    assert [(case["amount"], case["attempt_id"], case["state"]) for case in mismatch] == [(100, attempt.id, "OPEN")]
    assert "101" in mismatch[0]["detail"]["why"]


async def test_another_amount_beside_an_open_conflict_is_a_case(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    await book(system, attempt, refunded=Refunded.SOME)
    for _ in range(2):
        await book(system, attempt, amount=5000)
    found = [(case["kind"], case["amount"], case["state"]) for case in await system.cases()]
    assert found == [("REFUND_ELSEWHERE", None, "OPEN"), ("REFUND_MISMATCH", 5000, "OPEN")]


async def test_another_amount_at_the_moment_of_the_booking_is_a_case(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    async with transaction(system) as held:
        await held.execute("SELECT FROM pay_order WHERE id = $1 FOR NO KEY UPDATE", order.id)
        first = asyncio.create_task(book(system, attempt))
        await waiting_for_lock(system, [first])
        second = asyncio.create_task(book(system, attempt, amount=5000))
        await waiting_for_lock(system, [first, second])
    await asyncio.gather(first, second)
    assert (await system.read(order)).paid_amount == 100
    assert [(case["kind"], case["amount"]) for case in await system.cases()] == [("REFUND_MISMATCH", 5000)]
