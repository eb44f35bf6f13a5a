"""The event ledger: a row for every change, in the statement that makes it, with its cause; append-only; and the books check."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote_plus

import asyncpg
import pytest
from paycenter_server.channels.protocol import CallRecord, HttpRequest, QueryOutcome, QueryStatus, RefundOutcome, RefundStatus
from paycenter_server.channels.records import REMOVED, call_record
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.events import Actor, ActorKind, Cause, acting, current_actor
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.services.books import check_books
from paycenter_server.services.identity import Caller
from paycenter_server.services.notifications_delivery import DeliveryResponse
from paycenter_server.services.payments import FactsMismatchError
from paycenter_server.storage.payments import QuerySnapshot
from support.facts import configured, payment_of, refund_facts, refunded
from support.grpc_rig import Rig, fails, open_rig
from support.system import CAUSE, OPERATOR, PayCenterSystem
from support.waiting import eventually, pause


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


async def events(system: PayCenterSystem, order: PayOrder) -> list[asyncpg.Record]:
    return await system.rows("SELECT * FROM pay_event WHERE order_id = $1 ORDER BY id", order.id)


def told(rows: list[asyncpg.Record]) -> list[tuple[Any, ...]]:
    return [(row["subject"], row["event"], row["from_state"], row["to_state"], row["amount"]) for row in rows]


def changes(rows: list[asyncpg.Record]) -> list[tuple[int, int, int]]:
    every = [(row["paid_change"], row["reserved_change"], row["refunded_change"]) for row in rows]
    return [change for change in every if any(change)]


async def test_a_payment_and_a_refund_in_the_ledger(system: PayCenterSystem) -> None:
    order = await system.paid("wx_native")
    await system.decided(await system.refund(order, 40))
    rows = await events(system, order)
    assert told(rows)[:4] == [
        ("ORDER", "create", None, "WAITING", 100),
        ("ATTEMPT", "create", None, "WAITING", 100),
        ("ATTEMPT", "answered", "WAITING", "WAITING", 100),
        ("ATTEMPT", "paid", "WAITING", "SUCCESS", 100),
    ]
    assert told(rows)[4] == ("REFUND", "create", None, "WAITING", 40)
    assert told(rows)[-1] == ("REFUND", "succeed", "WAITING", "SUCCESS", 40)
    assert changes(rows) == [(100, 0, 0), (0, 40, 0), (0, -40, 40)]
    assert all(row["create_time"] is not None for row in rows)


async def test_a_hot_operation_writes_one_row_more(system: PayCenterSystem) -> None:
    """A create, the intent and the answer of a submit, and a callback: one event each."""
    order = await system.order()
    assert len(await events(system, order)) == 1
    attempt = await system.submit(order)
    assert len(await events(system, order)) == 3
    await system.simulator.pay(attempt.out_trade_no)
    await system.until(order, "SUCCESS")
    assert len(await events(system, order)) == 4


async def test_a_refund_of_surplus_is_in_the_ledger_without_changing_amounts(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="late_after_close", late_seconds="1")
    await system.services.orders.close(system.caller, order.number)
    system.clock.advance(5)
    await system.services.attempts.query(attempt)
    system.clock.advance(60)
    await system.services.jobs.sync_refunds()
    rows = await events(system, order)
    assert ("CASE", "LATE_PAYMENT", None, "REFUNDING", 100) in told(rows)
    assert ("REFUND", "succeed", "WAITING", "SUCCESS", 100) in told(rows)
    assert changes(rows) == []


async def test_a_repeated_create_writes_none(system: PayCenterSystem) -> None:
    new = system.new_order()
    order = await system.services.orders.create(system.caller, new)
    await system.services.orders.create(system.caller, new)
    assert len(await events(system, order)) == 1


async def test_the_evidence_of_a_call_and_of_a_callback(system: PayCenterSystem) -> None:
    order = await system.paid("wx_native")
    _, _, answered, paid = await events(system, order)
    call = answered["evidence"]["call"]
    assert (call["api"], call["method"], call["status"]) == ("wx.pay", "POST", 200)
    assert json.loads(call["request"])["amount"]["total"] == 100
    assert json.loads(call["answer"])["code_url"].startswith("weixin://")
    assert call["ms"] >= 0
    callback = paid["evidence"]["callback"]
    assert json.loads(callback["received"])["id"] == callback["id"] != ""
    assert json.loads(callback["content"])["trade_state"] == "SUCCESS"
    assert callback["verdict"] == "signature valid"


async def test_a_time_out_is_evidence_too(system: PayCenterSystem) -> None:
    await system.simulator.fault("wx.native", "timeout_after_commit", seconds=20)
    await system.simulator.fault("wx.query", "error_before_commit", times=-1)
    order = await system.order()
    with pytest.raises(Exception, match="answer"):
        await system.submit(order)
    rows = await events(system, order)
    assert [row["event"] for row in rows] == ["create", "create", "unclear answer", "queried"]
    assert rows[2]["evidence"]["call"]["status"] == 0
    assert "no answer within" in rows[2]["evidence"]["call"]["answer"]
    assert rows[3]["evidence"]["call"]["status"] == 500


async def test_signatures_and_bar_codes_are_not_in_the_ledger(system: PayCenterSystem) -> None:
    for code, auth_code in (("alipay_bar", "281234567890123456"), ("wx_bar", "134567890123456789"), ("wx_native", "")):
        if code not in system.channels:
            await system.add_channel(code)
        order = await system.order()
        await system.submit(order, code, **({"auth_code": auth_code} if auth_code else {}))
        # Callbacks are kept as they were received, with their signatures; calls are kept without.
        calls = [dict(row["evidence"]) for row in await events(system, order) if row["evidence"] and "call" in row["evidence"]]
        stored = json.dumps(calls, ensure_ascii=False)
        assert "P01" in stored, code  # the out_trade_no of the request
        assert "sign=" not in stored.replace(f"sign={REMOVED}", "")
        assert not auth_code or auth_code not in stored


async def test_what_operators_do_with_notifications_is_in_the_ledger(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    refund = await system.refund(order, 40)
    waiting = {row["data_id"]: encode(Prefix.NOTIFICATION, row["id"]) for row in await system.rows("SELECT * FROM pay_notify_task")}
    await system.services.notifications.send_now(OPERATOR, waiting[order.id])
    await system.deliver()
    await system.services.notifications.resend(OPERATOR, waiting[refund.id])
    found = [
        (row["event"], row["from_state"], row["to_state"], row["actor_kind"], row["actor"])
        for row in await events(system, order) if row["subject"] == "NOTIFICATION"
    ]  # fmt: skip
    who = ("OPERATOR", OPERATOR.key_id)
    received = ("received", "WAITING", "SUCCESS", "JOB", "pay_notify_job")
    assert found == [
        ("sent now", "WAITING", "WAITING", *who), received, received, ("resend", "SUCCESS", "WAITING", *who)
    ]  # fmt: skip


async def of_notifications(system: PayCenterSystem, order: PayOrder) -> list[tuple[str, str, str, str]]:
    return [
        (row["event"], row["from_state"], row["to_state"], row["actor"])
        for row in await events(system, order) if row["subject"] == "NOTIFICATION"
    ]  # fmt: skip


async def test_the_end_of_a_notification_is_in_the_ledger_and_a_failed_delivery_is_not(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    system.sender.default = DeliveryResponse(500, "")
    await system.deliver()
    assert await of_notifications(system, order) == []
    system.clock.advance(30)
    system.sender.default = DeliveryResponse(410, "")
    await system.deliver()
    assert await of_notifications(system, order) == [("give up", "REQUEST_SUCCESS", "FAILURE", "pay_notify_job")]
    (case,) = await system.rows(
        "SELECT actor_kind, actor FROM pay_event WHERE event = 'NOTIFICATION_GIVEN_UP' AND order_id = $1", order.id
    )
    assert tuple(case) == ("JOB", "pay_notify_job")


@pytest.mark.parametrize("how", ["booking", "insert", "delivery"])
async def test_a_notification_that_is_superseded_is_in_the_ledger(system: PayCenterSystem, how: str) -> None:
    if how == "booking":
        await system.services.apps.update(OPERATOR, "shop", {"surplus_policy": "ACCEPT"})
        order = await system.order()
        attempt = await system.submit(order, "mock", behaviour="late_after_close", late_seconds="1")
        await system.services.orders.close(system.caller, order.number)
        system.clock.advance(5)
        await system.services.attempts.query(attempt)
    else:
        order = await system.paid("mock")
        await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "failure"})
        refund = await system.refund(order, 40)
        channel = await configured(system, "mock")
        await system.services.refund_settlement.receive_callback(channel, refunded(channel, refund), CAUSE)
    if how == "delivery":  # one that is open all the same
        await system.rows(
            "UPDATE pay_notify_task SET state = 'WAITING', next_notify_time = now() WHERE event = 'pay_refund.failure'"
        )
        await system.deliver()
        found = await of_notifications(system, order)
        assert ("supersede", "WAITING", "SUPERSEDED", "pay_notify_job") in found
        return
    found = await of_notifications(system, order)
    assert [item[:3] for item in found] == [("supersede", "WAITING", "SUPERSEDED")]
    timeline = await system.services.timelines.of_order(OPERATOR, order.number)
    assert ("supersede", "SUPERSEDED") in [(entry.event, entry.to_state) for entry in timeline.entries]


async def test_the_notification_of_surplus_goes_where_those_of_its_order_go(system: PayCenterSystem) -> None:
    order = await system.order(notification_url="http://own.test/hook")
    attempt = await system.submit(order, "mock", behaviour="late_after_close", late_seconds="1")
    await system.services.orders.close(system.caller, order.number)
    system.clock.advance(5)
    await system.services.attempts.query(attempt)
    await system.services.jobs.sync_refunds()
    system.clock.advance(60)
    await system.services.jobs.sync_refunds()
    (url,) = await system.rows("SELECT notification_url FROM pay_notify_task WHERE event = 'pay_order.surplus_refunded'")
    assert url["notification_url"] == "http://own.test/hook"


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"auth_code":"1\\"2","amount":5,"sign" : "x"}', '{"auth_code":"(removed)","amount":5,"sign" : "(removed)"}'),
        (b"<xml><sign><![CDATA[AB]]></sign><mch_id>1</mch_id></xml>", "<xml><sign>(removed)</sign><mch_id>1</mch_id></xml>"),
        (
            f"app_id=1&biz_content={quote_plus(json.dumps({'auth_code': '28', 'out_trade_no': 'P1'}))}&sign=a%2Bb".encode(),
            'app_id=1&biz_content={"auth_code": "(removed)", "out_trade_no": "P1"}&sign=(removed)',
        ),
    ],
)
def test_a_record_without_secrets(body: bytes, kept: str) -> None:
    record = call_record("api", HttpRequest("POST", "https://pay.test/gateway?sign=x%3D&b=1", (), body), 200, body, 3)
    assert record.request == kept
    assert record.url == "https://pay.test/gateway?sign=(removed)&b=1"


def test_long_and_odd_texts_are_cut_and_can_be_stored() -> None:
    record = call_record("api", HttpRequest("POST", "https://pay.test/", (), b"{" + b"a" * 20_000), 200, b"\xff\0" * 10_000, 3)
    assert (len(record.request), len(record.answer)) == (8192, 8192)


async def test_a_nul_in_an_answer_does_not_stop_the_change(system_on: Any, system: PayCenterSystem) -> None:
    context = system.services.context
    order = await system.order()
    attempt = await system.submit(order)
    from paycenter_server.domain.events import Cause
    from paycenter_server.storage import attempts as attempt_rows

    odd = Cause(Actor(ActorKind.JOB, "j"), {"call": {"answer": "a\0b\ud800c"}})
    async with context.database.connection() as connection:
        assert await attempt_rows.unclear(connection, attempt.id, "", "", system.clock.now(), system.clock.now(), odd)
    assert (await events(system, order))[-1]["evidence"] == {"call": {"answer": "ab?c"}}


async def test_who_did_it(rig: Rig) -> None:
    """An app and an operator by their key ids, a callback by its channel, a job by its name."""
    system = rig.system
    made = await rig.order()
    attempt = await rig.shop.submit_order(made, "wx_native")
    await rig.op.update_price(made.id, 90)
    again = await rig.shop.submit_order(made.id, "wx_native")
    assert again.out_trade_no != attempt.out_trade_no
    await system.simulator.pay(again.out_trade_no)
    await rig.shop.wait_for_order(made, timeout=5)
    order = await system.services.orders.load(system.caller, made.id)
    rows = await events(system, order)
    by = {(row["subject"], row["event"]): (row["actor_kind"], row["actor"]) for row in rows}
    assert by["ORDER", "create"] == ("APP", system.caller.key_id)
    assert by["ORDER", "change price"][0] == "OPERATOR"
    assert by["ATTEMPT", "paid"] == ("CALLBACK", system.channels["wx_native"])
    other = await rig.order()
    await rig.shop.submit_order(other, "alipay_qr")
    system.clock.advance(8000)
    await system.services.jobs.expire_orders()
    closed = await system.services.orders.load(system.caller, other.id)
    last = (await events(system, closed))[-1]
    assert (last["event"], last["actor_kind"], last["actor"]) == ("close", "JOB", "pay_order_expire_job")


async def test_an_actor_is_that_of_its_task() -> None:
    async def inner() -> Actor:
        with acting(Actor(ActorKind.JOB, "inner")):
            await pause()
            return current_actor()

    with acting(Actor(ActorKind.JOB, "outer")):
        found = await asyncio.gather(inner(), inner())
        assert {actor.name for actor in found} == {"inner"}
        assert current_actor().name == "outer"
    assert current_actor().kind is ActorKind.SYSTEM


async def test_a_repeated_and_a_refused_callback_are_in_the_ledger(system: PayCenterSystem) -> None:
    await system.simulator.fault("wx.notify", "duplicate", times=1)
    order = await system.paid("wx_native")

    async def both() -> bool:
        return "callback repeated" in [row["event"] for row in await events(system, order)]

    await eventually(both)
    assert changes(await events(system, order)) == [(100, 0, 0)]


async def test_a_callback_with_other_facts_is_in_the_ledger(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="never")
    channel, before = await configured(system, "mock"), await events(system, order)
    evidence = Cause(CAUSE.actor, {"callback": {"received": "{}", "verdict": "signature valid"}})
    payment = payment_of(channel, attempt, account={"mock": "other"})
    with pytest.raises(FactsMismatchError):
        await system.services.callbacks._book(channel, payment, evidence, None)
    assert await new_events(system, order, before) == [("callback refused", "the message's mock is not the channel's")]


async def new_events(system: PayCenterSystem, order: PayOrder, before: list[asyncpg.Record]) -> list[tuple[str, str]]:
    """What was noted since, each with the verdict about the message."""
    rows = (await events(system, order))[len(before) :]
    return [(row["event"], next(iter((row["evidence"] or {"": {}}).values())).get("verdict", "")) for row in rows]


@pytest.mark.parametrize("why", ["other-merchant", "being-cancelled"])
async def test_a_query_whose_answer_is_not_used_is_in_the_ledger(system: PayCenterSystem, why: str) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="never")
    channel, before = await configured(system, "mock"), await events(system, order)
    payment = payment_of(channel, attempt, **({"account": {"mock": "other"}} if why == "other-merchant" else {}))
    if why == "being-cancelled":
        await system.rows("UPDATE pay_attempt SET cancel_until = now() + interval '1 minute'")
    paid = QueryOutcome(QueryStatus.PAID, payment, call=CallRecord("mock.query", "GET", "mock:", "", 200, "{}", 1))
    snapshot = QuerySnapshot(system.clock.now(), attempt.cancel_until)
    outcome = await system.services.attempts._book(channel, attempt, paid, snapshot)
    assert outcome.status is QueryStatus.UNKNOWN
    ((event, verdict),) = await new_events(system, order, before)
    assert event == "queried"
    assert ("the message's mock is not" if why == "other-merchant" else "requested to cancel it") in verdict


async def test_repeated_and_refused_callbacks_of_refunds_are_in_the_ledger(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    refund = await system.refund(order, 40)
    channel, settlement = await configured(system, "mock"), system.services.refund_settlement
    evidence = Cause(CAUSE.actor, {"callback": {"received": "{}", "verdict": "signature valid"}})
    before = await events(system, order)
    await settlement.receive_callback(channel, refunded(channel, refund), evidence)
    with pytest.raises(FactsMismatchError):
        await settlement.receive_callback(channel, refunded(channel, refund, amount=41), evidence)
    await settlement.receive_callback(channel, RefundOutcome(RefundStatus.PENDING, refund_facts(channel, refund)), evidence)
    assert await new_events(system, order, before) == [
        ("callback repeated", "signature valid"),
        ("callback refused", "the message's numbers or amount are not the refund's"),
        ("callback received", "signature valid"),
    ]


async def test_a_callback_that_opens_a_case_is_repeated_only_then(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "failure"})
    refund = await system.refund(order, 60)
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "success"})
    await system.refund(order, 50)
    channel, before = await configured(system, "mock"), await events(system, order)
    for _ in range(2):
        await system.services.refund_settlement.receive_callback(channel, refunded(channel, refund), CAUSE)
    assert [event for event, _ in await new_events(system, order, before)] == ["REFUND_MISMATCH", "callback repeated"]


async def test_the_messages_about_a_failed_refund_are_in_the_ledger(system: PayCenterSystem) -> None:
    """A query without a clear answer, and a callback without proof with the query that it causes."""
    order = await system.paid("mock")
    await system.rows("UPDATE pay_attempt SET channel_extras = $1", {"refund": "failure"})
    refund = await system.refund(order, 40)
    channel, settlement = await configured(system, "mock"), system.services.refund_settlement
    pending = RefundOutcome(RefundStatus.PENDING, refund_facts(channel, refund))
    before = await events(system, order)
    await settlement.receive_callback(channel, pending, CAUSE)
    assert [event for event, _ in await new_events(system, order, before)] == ["callback received", "queried"]
    other = replace(pending, facts=refund_facts(channel, refund, out_refund_no="console-1"))
    before = await events(system, order)
    await settlement.receive_callback(channel, other, CAUSE)
    assert [event for event, _ in await new_events(system, order, before)] == [
        "callback received",
        "queried",
        "REFUND_ELSEWHERE",
    ]


async def test_an_unclear_look_before_a_refund_is_sent_again_is_in_the_ledger(system: PayCenterSystem) -> None:
    order = await system.paid("wx_native")
    await system.simulator.fault("wx.refund", "decline", code="RULE_LIMIT")
    refund = await system.refund(order, 40)
    await system.simulator.fault("wx.refund_query", "error_before_commit", times=1)
    before = await events(system, order)
    with pytest.raises(PayCenterError, match="answer"):
        await system.services.refund_settlement.look_at_failed(refund)
    (row,) = (await events(system, order))[len(before) :]
    assert (row["event"], row["evidence"]["call"]["status"]) == ("queried", 500)


@pytest.mark.parametrize(
    "statement", ["UPDATE pay_event SET amount = 1", "DELETE FROM pay_event", "TRUNCATE pay_event", "TRUNCATE pay_event CASCADE"]
)
async def test_the_ledger_is_append_only(system: PayCenterSystem, statement: str) -> None:
    order = await system.order()
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await system.rows(statement)
    assert len(await events(system, order)) == 1


async def test_a_change_that_is_rolled_back_leaves_no_event(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    before = len(await events(system, order))
    await system.refund(order, 60)
    with pytest.raises(PayCenterError, match="Only 40 minor units"):
        await system.refund(order, 60)
    refunds = [row for row in (await events(system, order))[before:] if row["event"] == "create"]
    assert len(refunds) == 1


async def differences(system: PayCenterSystem, **how: Any) -> list[str]:
    found = []
    async for checked in check_books(system.services.context.database, **how):
        found += checked.differences
    return found


async def test_the_books_check_names_each_difference(system: PayCenterSystem) -> None:
    system.books_are_checked = False
    orders = [await system.paid("mock") for _ in range(3)]
    await system.decided(await system.refund(orders[1], 30))
    assert await differences(system) == []
    await system.rows("UPDATE pay_order SET refunded_amount = 31 WHERE id = $1", orders[1].id)
    await system.rows("UPDATE pay_order SET paid_amount = 99 WHERE id = $1", orders[2].id)
    assert (
        await differences(system)
        == await differences(system, batch=1)
        == [
            f"{orders[1].number}: refunded is 31 and its events give 30 (minor units)",
            f"{orders[2].number}: paid is 99 and its events give 100 (minor units)",
        ]
    )
    assert len(await differences(system, after=orders[1].number)) == 1
    with pytest.raises(ValueError, match="O1"):
        await differences(system, after="O1")


async def test_the_timeline_over_the_wire(rig: Rig) -> None:
    from paycenter.v1.pay_order_service_pb2 import GetPayOrderTimelineRequest

    system = rig.system
    order = await system.paid("wx_native")
    await system.deliver()
    waiting = await system.order()
    await system.submit(waiting)
    asked = GetPayOrderTimelineRequest(id=order.number)
    mine = await rig.shop.orders.GetPayOrderTimeline(asked)
    assert [(entry.subject, entry.event.split(":")[0]) for entry in mine.entries] == [
        ("ORDER", "create"), ("ATTEMPT", "create"), ("ATTEMPT", "answered"), ("ATTEMPT", "paid"), ("NOTIFICATION", "delivery 1"),
        ("NOTIFICATION", "received"),
    ]  # fmt: skip
    assert mine.entries[-2].event.startswith("delivery 1: HTTP 200")
    assert {entry.evidence for entry in mine.entries} == {""}
    assert (list(mine.next_checks), mine.left_off, mine.pay_order.id) == ([], False, order.number)
    theirs = await rig.op.orders.GetPayOrderTimeline(asked)
    assert json.loads(theirs.entries[3].evidence)["callback"]["verdict"] == "signature valid"
    open_ones = await rig.shop.orders.GetPayOrderTimeline(GetPayOrderTimelineRequest(id=waiting.number))
    assert [(item.subject, item.what) for item in open_ones.next_checks] == [("ORDER", "expiry"), ("ATTEMPT", "query")]
    stranger = await rig.app("other")
    async with fails("ORDER_NOT_FOUND"):
        await stranger.orders.GetPayOrderTimeline(asked)


async def test_a_timeline_that_is_too_long_keeps_its_end(system: PayCenterSystem) -> None:
    order = await system.order()
    await system.rows(
        "INSERT INTO pay_event (order_id, subject, subject_id, event, paid_change, reserved_change, refunded_change, actor_kind, "
        "actor) SELECT $1::uuid, 'ORDER', $1::uuid, 'n' || i, 0, 0, 0, 'JOB', 'test' FROM generate_series(1, 600) i",
        order.id,
    )
    found = await system.services.timelines.of_order(Caller("o", None, ""), order.number)
    assert (found.left_off, len(found.entries), found.entries[-1].event) == (True, 500, "n600")
