"""The eleven rules that protect the money (ARCHITECTURE.md). Each test fails without its rule."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from paycenter_server.channels.protocol import HttpRequest, HttpResponse
from paycenter_server.channels.transport import AiohttpTransport, TransportUnclearError
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.guard import TransactionOpenError
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import AttemptState, OrderState
from support.system import CAUSE, OPERATOR, PayCenterSystem, open_system
from support.waiting import eventually


class Watching:
    """A transport that reads the database at each call."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()
        self.system: PayCenterSystem | None = None
        self.seen: list[tuple[str, int, int]] = []

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        assert self.system is not None
        attempts = await self.system.value("SELECT count(*) FROM pay_attempt")
        refunds = await self.system.value("SELECT count(*) FROM pay_refund")
        self.seen.append((request.url, attempts, refunds))
        return await self.inner.send(request, seconds)


async def test_rule_1_the_intent_is_committed_before_the_channel_is_called(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    transport = Watching()
    async with open_system(database_url, redis_url, keys_dir, master_key_file, transport=transport) as system:
        transport.system = system
        order = await system.paid("wx_native")
        assert transport.seen[0][1] == 1
        await system.refund(order, 10)
        assert transport.seen[-1][2] == 1
        await transport.inner.aclose()


async def test_rule_1_the_guard_refuses_to_send_inside_a_transaction(system: PayCenterSystem) -> None:
    async with system.services.context.database.transaction():
        with pytest.raises(TransactionOpenError):
            await system.services.context.transport.send(HttpRequest("GET", system.simulator.base), 1)


@pytest.mark.parametrize("fault", ["timeout_after_commit", "error_after_commit", "reset", "unsigned", "bad_signature", "http_503"])
async def test_rule_2_an_unclear_submit_is_unknown_then_the_same_number(system: PayCenterSystem, fault: str) -> None:
    order = await system.order()
    await system.simulator.fault("wx.native", fault, seconds=20)
    with pytest.raises(PayCenterError) as caught:
        await asyncio.wait_for(system.submit(order), 12)
    assert caught.value.reason is Reason.CHANNEL_UNCLEAR
    row = (await system.rows("SELECT id, state, next_check_time FROM pay_attempt"))[0]
    assert row["state"] == "UNKNOWN"
    assert row["next_check_time"] is not None
    again = await system.submit(order)
    assert (again.id, again.state) == (row["id"], AttemptState.WAITING)
    assert again.display_content
    await system.simulator.pay(again.out_trade_no)
    await system.until(order, "SUCCESS")


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
@pytest.mark.parametrize("fault", ["error_after_commit", "reset", "unsigned", "bad_signature"])
async def test_rule_2_an_unclear_refund_is_queried_and_made_once(system: PayCenterSystem, code: str, fault: str) -> None:
    order = await system.paid(code)
    api = "wx.refund" if code == "wx_native" else "alipay.trade.refund"
    await system.simulator.fault(api, fault)
    # It was executed, so its callback may arrive before the time-out of the lost answer.
    await system.simulator.fault("wx.notify" if code == "wx_native" else "alipay.notify", "drop", times=-1)
    refund = await system.refund(order, 40)
    assert refund.state.value == "WAITING"
    assert (await system.read(order)).reserved_amount == 40
    assert (await system.decided(refund)).state.value == "SUCCESS"
    trade = await system.simulator.get(f"/simulator/trades/{order_out_trade_no(await system.read(order))}")
    assert [item["amount"] for item in trade["refunds"]] == [40]


def order_out_trade_no(order: object) -> str:
    from paycenter_server.domain.ids import Prefix, encode

    return encode(Prefix.ATTEMPT, order.attempt_id)  # type: ignore[attr-defined]


async def test_rule_3_concurrent_refunds_never_exceed_what_was_paid(system: PayCenterSystem) -> None:
    order = await system.paid("mock", amount=100)
    results = await asyncio.gather(*(system.refund(order, 30) for _ in range(40)), return_exceptions=True)
    refused = [item for item in results if isinstance(item, PayCenterError)]
    assert {item.reason for item in refused} == {Reason.REFUND_EXCEEDS_PAID}
    after = await system.read(order)
    assert (after.refunded_amount, after.reserved_amount) == (90, 0)
    assert len(refused) == 37


async def test_rule_3_twenty_equal_callbacks_book_once(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order)
    await system.simulator.pay(attempt.out_trade_no, times=20)
    await eventually(lambda: answered(system, attempt.out_trade_no, 20))
    assert await system.value("SELECT count(*) FROM pay_notify_task") == 1
    assert await system.cases() == []


async def answered(system: PayCenterSystem, number: str, count: int) -> bool:
    """Whether so many sends of a trade's notifications have been answered."""
    notifications = (await system.simulator.get(f"/simulator/trades/{number}"))["notifications"]
    return len([send for item in notifications for send in item["attempts"] if "accepted" in send]) >= count


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_rule_4_a_wrong_amount_is_never_booked(system: PayCenterSystem, code: str) -> None:
    order = await system.order(amount=100)
    attempt = await system.submit(order, code)
    await system.simulator.pay(attempt.out_trade_no, amount=1)
    case = await system.first_case(order)
    assert (case["kind"], case["amount"]) == ("WRONG_AMOUNT", 1)
    assert (await system.read(order)).state is OrderState.WAITING


async def test_rule_4_a_message_without_amount_fails_closed(system: PayCenterSystem) -> None:
    from paycenter_server.channels.protocol import Payment
    from paycenter_server.domain.ids import Prefix, decode
    from paycenter_server.services.payments import FactsMismatchError

    order = await system.order()
    attempt = await system.submit(order)
    key = decode(Prefix.CHANNEL, system.channels["wx_native"])
    assert key is not None
    configured = await system.services.gateway.channels.get(key)
    account = dict(configured.codec.account)
    good: dict[str, Any] = {
        "out_trade_no": attempt.out_trade_no,
        "channel_order_no": "1",
        "amount": 100,
        "currency": "CNY",
        "account": account,
    }
    mismatches: tuple[dict[str, Any], ...] = (
        {"amount": None},
        {"currency": None},
        {"amount": 0},
        {"account": {}},
        {"account": {**account, "mchid": "1"}},
        {"account": {**account, "appid": "wx0"}},
    )
    for wrong in mismatches:
        with pytest.raises(FactsMismatchError):
            await system.services.payments.book(configured, Payment(**{**good, **wrong}), CAUSE)
    assert (await system.read(order)).state is OrderState.WAITING
    await system.services.payments.book(configured, Payment(**good), CAUSE)
    assert (await system.read(order)).state is OrderState.SUCCESS


async def test_rule_5_only_what_is_stored_is_acknowledged(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order)
    await system.simulator.pay(attempt.out_trade_no, bad_signature=True)
    await eventually(lambda: answered(system, attempt.out_trade_no, 1))
    assert (await system.read(order)).state is OrderState.WAITING
    # Refused, so the channel sends it again by its retry schedule, this time correctly.
    await system.simulator.advance(16)
    await system.until(order, "SUCCESS")


async def test_rule_6_sync_never_stops_and_old_rows_become_cases(system: PayCenterSystem) -> None:
    order = await system.order(expire_time=system.clock.now() + timedelta(hours=1))
    attempt = await system.submit(order)
    await system.simulator.fault("wx.query", "http_503", times=-1)
    for days in range(1, 4):
        system.clock.offset = timedelta(days=days, hours=2)
        await system.services.jobs.sync_orders()
        await system.services.jobs.expire_orders()
        assert await system.value("SELECT next_check_time IS NOT NULL FROM pay_attempt")
        assert (await system.read(order)).state is OrderState.WAITING
    assert [case["kind"] for case in await system.cases()] == ["STALE_ATTEMPT"]
    system.clock.offset = timedelta(days=4)
    assert attempt.out_trade_no == (await system.cases())[0]["reference"]


async def test_rule_6_expiry_queries_and_closes_at_the_channel_first(system: PayCenterSystem) -> None:
    paid, unpaid = await system.order(expire_time=system.clock.now() + timedelta(seconds=70)), None
    attempt = await system.submit(paid)
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    unpaid = await system.order(expire_time=system.clock.now() + timedelta(seconds=70))
    other = await system.submit(unpaid)
    system.clock.advance(71)
    assert await system.services.jobs.expire_orders() == 2
    assert (await system.read(paid)).state is OrderState.SUCCESS
    assert (await system.read(unpaid)).state is OrderState.CLOSED
    trade = await system.simulator.get(f"/simulator/trades/{other.out_trade_no}")
    assert trade["state"] == "CLOSED"


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_rule_7_a_late_payment_is_refunded(system: PayCenterSystem, code: str) -> None:
    order = await system.order()
    attempt = await system.submit(order, code)
    await system.services.orders.close(system.caller, order.number)
    await system.simulator.pay(attempt.out_trade_no, force=True)
    await surplus_is_refunded(system, "LATE_PAYMENT")
    assert (await system.read(order)).state is OrderState.CLOSED


async def surplus_is_refunded(system: PayCenterSystem, kind: str) -> None:
    await eventually(system.cases)

    async def resolved() -> bool:
        await system.services.jobs.sync_refunds()
        system.clock.advance(11)
        return bool((await system.cases())[0]["state"] == "RESOLVED")

    await eventually(resolved)
    (case,) = await system.cases()
    assert case["kind"] == kind
    refund = (await system.rows("SELECT * FROM pay_refund"))[0]
    assert (refund["state"], refund["amount"], refund["case_id"]) == ("SUCCESS", 100, case["id"])
    events = [post.json for post in await system.deliver()]
    assert not [event for event in events if event["type"].startswith("pay_refund.")]
    (told,) = (event for event in events if event["type"] == "pay_order.surplus_refunded")
    assert (told["data"]["amount"], told["data"]["pay_case_id"]) == (100, encode(Prefix.CASE, case["id"]))


async def test_rule_7_a_second_payment_through_another_channel_is_refunded(system: PayCenterSystem) -> None:
    order = await system.order()
    first = await system.submit(order, "alipay_qr")
    second = await system.submit(order, "wx_native")
    # Alipay cannot close a QR code that was not scanned, so both can be paid.
    await system.simulator.pay(second.out_trade_no)
    await system.until(order, "SUCCESS")
    await system.simulator.pay(first.out_trade_no)
    await surplus_is_refunded(system, "DUPLICATE_PAYMENT")
    after = await system.read(order)
    assert (after.state, after.channel_code, after.refunded_amount) == (OrderState.SUCCESS, "wx_native", 0)


async def test_rule_7_hold_opens_a_case_for_an_operator(system: PayCenterSystem) -> None:
    await system.services.apps.update(OPERATOR, "shop", {"surplus_policy": "HOLD"})
    order = await system.order()
    attempt = await system.submit(order)
    await system.services.orders.close(system.caller, order.number)
    await system.simulator.pay(attempt.out_trade_no, force=True)
    cases = await eventually(system.cases)
    assert (cases[0]["state"], cases[0]["kind"]) == ("OPEN", "LATE_PAYMENT")
    assert await system.value("SELECT count(*) FROM pay_refund") == 0


async def test_rule_7_an_unknown_order_is_kept_and_acknowledged(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order)
    await system.rows("DELETE FROM pay_attempt")
    await system.simulator.pay(attempt.out_trade_no)
    cases = await eventually(system.cases)
    assert (cases[0]["kind"], cases[0]["amount"]) == ("UNKNOWN_ORDER", 100)
    evidence = await system.value("SELECT evidence FROM pay_event WHERE subject_id = $1", cases[0]["id"])
    assert json.loads(evidence["callback"]["content"])["out_trade_no"] == attempt.out_trade_no


async def test_rule_7_what_cannot_be_closed_is_queried_after_its_expiry(system: PayCenterSystem) -> None:
    order = await system.order(expire_time=system.clock.now() + timedelta(seconds=90))
    attempt = await system.submit(order, "alipay_qr")
    await system.services.orders.close(system.caller, order.number)
    # Paid after our close, and the callback is lost.
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    system.clock.advance(151)
    await system.services.jobs.sync_orders()
    assert [case["kind"] for case in await system.cases()] == ["LATE_PAYMENT"]


async def test_rule_8_the_notification_is_in_the_same_commit(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order)
    await system.rows("ALTER TABLE pay_notify_task ADD CONSTRAINT broken CHECK (false) NOT VALID")
    try:
        await system.simulator.pay(attempt.out_trade_no)
        await eventually(lambda: answered(system, attempt.out_trade_no, 1))
        # The row cannot be written, so nothing is booked, and the channel sends the callback again.
        assert (await system.read(order)).state is OrderState.WAITING
    finally:
        await system.rows("ALTER TABLE pay_notify_task DROP CONSTRAINT broken")
    await system.simulator.advance(16)
    await system.until(order, "SUCCESS")
    assert await system.value("SELECT count(*) FROM pay_notify_task") == 1


async def test_rule_9_a_refund_is_idempotent_by_its_number(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    first = await system.refund(order, 40, merchant_refund_no="R1")
    again = await system.refund(order, 40, merchant_refund_no="R1")
    assert first.id == again.id
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 41, merchant_refund_no="R1")
    assert caught.value.reason is Reason.REFUND_CONFLICT
    assert caught.value.metadata["pay_refund_id"] == first.number
    assert caught.value.metadata["merchant_refund_no"] == "R1"
    parallel = await asyncio.gather(*(system.refund(order, 10, merchant_refund_no="R2") for _ in range(10)))
    assert len({refund.id for refund in parallel}) == 1
    assert (await system.read(order)).refunded_amount == 50


async def test_rule_10_secrets_are_sealed_and_bound_to_their_place(system: PayCenterSystem) -> None:
    raw = json.dumps([str(dict(row)) for row in await system.rows("SELECT * FROM pay_account")])
    raw += str([dict(row) for row in await system.rows("SELECT * FROM pay_app")])
    for secret in (*system.configs["wx_native"][1].values(), *system.configs["alipay_qr"][1].values()):
        if "PRIVATE KEY" in secret or len(secret) == 32:
            assert secret.strip().splitlines()[0] not in raw or "PUBLIC" in secret
    assert system.configs["wx_native"][1]["api_v3_key"] not in raw
    assert system.secrets["shop"] not in raw
    # A secret that is moved to another row cannot be opened there.
    rows = await system.rows("SELECT id, config FROM pay_account WHERE family IN ('alipay', 'wechatpay') ORDER BY family")
    moved = {**rows[0]["config"], "private_key": rows[1]["config"]["private_key"]}
    await system.rows("UPDATE pay_account SET config = $2, version = version + 1 WHERE id = $1", rows[0]["id"], moved)
    order = await system.order()
    with pytest.raises(PayCenterError, match="account_unusable") as refused:
        await system.submit(order, "alipay_pc")
    assert "does not decrypt" in str(refused.value.__cause__)


async def test_rule_10_keys_are_loaded_once(system: PayCenterSystem) -> None:
    order = await system.order()
    await system.submit(order)
    from paycenter_server.domain.ids import Prefix, decode

    key = decode(Prefix.CHANNEL, system.channels["wx_native"])
    assert key is not None
    first = await system.services.gateway.channels.get(key)
    first.loaded -= 10
    assert (await system.services.gateway.channels.get(key)).codec is first.codec


async def test_rule_11_the_account_of_the_beginning_settles(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order)
    family, config = system.configs["wx_native"]
    moved = {**config, "mchid": "1900000109", "api_v3_key": "k" * 32}
    await system.services.channels.update(OPERATOR, system.channels["wx_native"], {}, family, moved)
    await system.simulator.pay(attempt.out_trade_no)
    paid = await system.until(order, "SUCCESS")
    refund = await system.decided(await system.refund(paid, 40))
    assert (refund.account_id, refund.state.value) == (attempt.account_id, "SUCCESS")
    assert await system.value("SELECT count(DISTINCT account_id) FROM pay_binding WHERE channel_id = $1", paid.channel_id) == 2


async def test_transport_errors_are_never_a_refusal(system: PayCenterSystem) -> None:
    with pytest.raises(TransportUnclearError):
        await system.services.context.transport.send(HttpRequest("GET", "http://127.0.0.1:9/"), 1)
