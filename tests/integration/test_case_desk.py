"""The case desk without decisions: lists, timelines, comments, assignment, policies, and what an app hears."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from paycenter_server.channels.protocol import Refunded
from paycenter_server.domain.cases import Decision
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import CaseState, OrderState
from paycenter_server.services.books import check_books
from paycenter_server.services.paging import Pager
from paycenter_server.storage import cases_desk as desk_rows
from paycenter_server.storage.cases_desk import CaseFilter
from support.cases import (
    ANNE,
    BEN,
    NEVER,
    book,
    case_of,
    decide,
    duplicate,
    events_of,
    hold,
    last_case,
    late,
    run_refund_job,
    set_app,
    unknown,
    wrong_amount,
)
from support.system import OPERATOR, PayCenterSystem


async def numbers(system: PayCenterSystem, where: CaseFilter | None = None, size: int = 50, **names: str) -> list[str]:
    """The numbers of all pages of a list."""
    found: list[str] = []
    token = ""
    while True:
        page = await system.services.case_desk.search(ANNE, where or CaseFilter(), Pager(size, token), **names)
        found += [view.case.number for view in page.items]
        token = page.next_token
        if not token:
            return found


async def test_every_filter(system: PayCenterSystem) -> None:
    await hold(system)
    begin = system.clock.now()
    late_order, late_case = await late(system, amount=300)
    system.clock.advance(60)
    between = system.clock.now()
    _, twice = await duplicate(system)
    _, wrong = await wrong_amount(system)
    nobodys = await unknown(system, 7)
    await decide(system, ANNE, nobodys, Decision.CLOSE, "known")
    await system.services.case_desk.assign(ANNE, twice.number, "ben")
    every = [nobodys.number, wrong.number, twice.number, late_case.number]
    assert await numbers(system) == every
    kinds = {kind: await numbers(system, CaseFilter(kind=kind)) for kind in (twice.kind, nobodys.kind)}
    assert kinds == {twice.kind: [twice.number], nobodys.kind: [nobodys.number]}
    assert await numbers(system, CaseFilter(state=CaseState.RESOLVED)) == [nobodys.number]
    assert await numbers(system, CaseFilter(state=CaseState.OPEN)) == every[1:]
    assert await numbers(system, CaseFilter(unresolved=True)) == every[1:]
    assert await numbers(system, CaseFilter(unresolved=True, kind=twice.kind)) == [twice.number]
    assert await numbers(system, CaseFilter(amount_from=7, amount_to=100)) == [nobodys.number, twice.number]
    assert await numbers(system, CaseFilter(opened_before=between)) == [late_case.number]
    assert await numbers(system, CaseFilter(opened_after=between)) == every[:3]
    assert await numbers(system, CaseFilter(opened_after=begin, opened_before=begin)) == []
    assert await numbers(system, CaseFilter(assignee="ben")) == [twice.number]
    assert await numbers(system, CaseFilter(assignee="ben", unresolved=True)) == [twice.number]
    assert await numbers(system, CaseFilter(stale=True)) == []
    assert await numbers(system, order=late_order.number) == [late_case.number]
    account = encode(Prefix.ACCOUNT, twice.account_id) if twice.account_id else ""
    assert await numbers(system, account=account) == every
    assert await numbers(system, app_key="shop") == every
    await system.add_app("books", codes=("mock",))
    assert await numbers(system, app_key="books") == []
    for wrong_names in ({"app_key": "nobody"}, {"account": "M1"}, {"order": "x"}):
        with pytest.raises(PayCenterError):
            await numbers(system, None, 50, **wrong_names)


async def test_pages(system: PayCenterSystem) -> None:
    expected = [(await unknown(system, amount)).number for amount in range(1, 8)][::-1]
    assert await numbers(system, size=2) == expected
    page = await system.services.case_desk.search(ANNE, CaseFilter(), Pager(2, ""))
    with pytest.raises(PayCenterError) as caught:
        await system.services.case_desk.search(ANNE, CaseFilter(unresolved=True), Pager(2, page.next_token))
    assert caught.value.reason is Reason.PAGE_TOKEN_INVALID


async def test_a_page_reads_a_bounded_number_of_cases(system: PayCenterSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that few cases match: pages are short or empty, and the next one goes on where this one ended."""
    monkeypatch.setattr(desk_rows, "SCANNED", 3)
    cases = [await unknown(system, amount) for amount in (5, 1, 2, 3, 4, 6, 7, 8)]
    where = CaseFilter(amount_from=5, amount_to=5)
    first = await system.services.case_desk.search(ANNE, where, Pager(50, ""))
    assert (first.items, bool(first.next_token)) == ([], True)
    assert await numbers(system, where) == [cases[0].number]
    assert await numbers(system, CaseFilter(amount_from=4), size=2) == [cases[i].number for i in (7, 6, 5, 4, 0)]


@pytest.mark.parametrize(
    "where",
    [CaseFilter(), CaseFilter(unresolved=True, amount_from=5), CaseFilter(kind=None, assignee="x"), CaseFilter(stale=True)],
)
async def test_lists_use_an_index(system: PayCenterSystem, where: CaseFilter) -> None:
    """No list scans the table (`enable_seqscan` is off, so a plan has one only if no index serves)."""
    await unknown(system)
    before = await system.value("SELECT coalesce(sum(seq_scan), 0) FROM pg_stat_user_tables WHERE relname = 'pay_case'")
    async with system.services.context.database.connection() as connection:
        await desk_rows.list_cases(connection, where, limit=10, before=None)
        await connection.execute("SELECT pg_stat_force_next_flush()")
        after = await connection.fetchval("SELECT coalesce(sum(seq_scan), 0) FROM pg_stat_user_tables WHERE relname = 'pay_case'")
    assert after == before


async def test_the_timeline_of_a_case(system: PayCenterSystem) -> None:
    await hold(system)
    order, case = await late(system)
    await system.services.case_desk.comment(ANNE, case.number, "the payer called")
    await system.services.case_desk.assign(BEN, case.number, "ben")
    await system.services.case_desk.assign(BEN, case.number, "ben")  # changes nothing
    await decide(system, ANNE, case, Decision.REFUND)
    await run_refund_job(system)
    entries, left_off = await system.services.case_desk.timeline(ANNE, case.number)
    assert not left_off
    told = [(entry.subject.value, entry.event, entry.actor) for entry in entries]
    assert ("ORDER", "close", "shop") not in told
    of_case = [(event, actor) for subject, event, actor in told if subject == "CASE"]
    assert of_case == [
        ("LATE_PAYMENT", "test"), ("commented", "anne"), ("assigned", "ben"), ("refund", "anne"),
        ("resolve", "pay_refund_sync_job"),
    ]  # fmt: skip
    assert {"ORDER", "ATTEMPT", "REFUND", "CASE", "NOTIFICATION"} == {subject for subject, _, _ in told}
    comment = next(entry for entry in entries if entry.event == "commented")
    assert json.loads(comment.evidence) == {"comment": "the payer called"}
    assert (await case_of(system, case.id)).version == 2
    # An app sees that there was a comment, and not what it says.
    timeline = await system.services.timelines.of_order(system.caller, order.number)
    assert [entry.evidence for entry in timeline.entries if entry.event == "commented"] == [""]


async def test_the_timeline_of_a_case_without_an_order(system: PayCenterSystem) -> None:
    case = await unknown(system)
    await system.services.case_desk.comment(ANNE, case.number, "whose is it?")
    entries, _ = await system.services.case_desk.timeline(ANNE, case.number)
    assert {entry.event for entry in entries} == {"UNKNOWN_ORDER", "created: pay_case.opened", "commented"}
    assert entries[-1].event == "commented"


async def test_only_operators_use_the_desk(system: PayCenterSystem) -> None:
    case = await unknown(system)
    desk, caller = system.services.case_desk, system.caller
    for call in (
        desk.search(caller, CaseFilter(), Pager(1, "")), desk.get(caller, case.number), desk.timeline(caller, case.number),
        desk.comment(caller, case.number, "x"), desk.assign(caller, case.number, "x"),
    ):  # fmt: skip
        with pytest.raises(PayCenterError) as caught:
            await call
        assert caught.value.reason is Reason.PERMISSION_DENIED
    with pytest.raises(PayCenterError) as caught:
        await desk.get(ANNE, "K1")
    assert caught.value.reason is Reason.CASE_NOT_FOUND
    assert await events_of(system, case) == [("UNKNOWN_ORDER", "OPERATOR", "test")]


# Policies


async def test_a_policy_for_one_kind(system: PayCenterSystem) -> None:
    await set_app(system, surplus_policy="REFUND", case_policies={"LATE_PAYMENT": "ACCEPT", "WRONG_AMOUNT": "HOLD"})
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    await system.services.orders.close(system.caller, order.number)
    await book(system, attempt)
    assert (await system.read(order)).state is OrderState.SUCCESS
    _, wrong = await wrong_amount(system)
    _, twice = await duplicate(system)
    assert (wrong.state, twice.state) == (CaseState.OPEN, CaseState.REFUNDING)
    assert (twice.decision, twice.decided_by) == ("REFUND", "")


@pytest.mark.parametrize(
    ("kind", "policy", "possible"),
    [
        ("DUPLICATE_PAYMENT", "ACCEPT", "HOLD, REFUND"), ("WRONG_AMOUNT", "ACCEPT", "HOLD, REFUND"),
        ("WRONG_CURRENCY", "REFUND", "HOLD"), ("UNKNOWN_ORDER", "REFUND", "HOLD"), ("REFUND_ELSEWHERE", "ACCEPT", "HOLD"),
    ],
)  # fmt: skip
async def test_a_policy_must_make_sense_for_its_kind(system: PayCenterSystem, kind: str, policy: str, possible: str) -> None:
    with pytest.raises(PayCenterError) as caught:
        await set_app(system, case_policies={kind: policy})
    (violation,) = caught.value.violations
    assert violation.field == f"case_policies.{kind}"
    assert violation.description.endswith(f"possible: {possible}")


async def test_a_late_payment_that_was_refunded_is_not_accepted_by_policy(system: PayCenterSystem) -> None:
    await set_app(system, surplus_policy="ACCEPT")
    order = await system.order()
    attempt = await system.submit(order, "mock", **NEVER)
    await system.services.orders.close(system.caller, order.number)
    await book(system, attempt, refunded=Refunded.ALL)
    assert (await system.read(order)).state is OrderState.CLOSED
    assert [(case["kind"], case["amount"]) for case in await system.cases()] == [
        ("LATE_PAYMENT", 100), ("REFUND_ELSEWHERE", 100),
    ]  # fmt: skip


# What an app hears


async def test_submit_says_that_money_is_under_review(system: PayCenterSystem) -> None:
    """Held money, whatever the state of the order: nobody should pay it again."""
    await hold(system)
    for make, state in ((wrong_amount, "WAITING"), (late, "CLOSED"), (duplicate, "SUCCESS")):
        order, case = await make(system)
        with pytest.raises(PayCenterError) as caught:
            await system.submit(order, "wx_native")
        assert caught.value.reason is Reason.ORDER_UNDER_REVIEW
        assert (caught.value.metadata["pay_case_id"], caught.value.metadata["state"]) == (case.number, state)
        await decide(system, ANNE, case, Decision.CLOSE, "seen")
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, "wx_native")
    assert caught.value.reason is Reason.ORDER_PAID


async def test_a_submit_that_finds_held_money_does_not_say_paid(system: PayCenterSystem) -> None:
    """The wrong amount was paid and no callback came: the submit of another way finds it at the channel."""
    await hold(system)
    order = await system.order()
    first = await system.submit(order, "wx_native")
    await system.simulator.pay(first.out_trade_no, amount=1, notify=False)
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, "alipay_qr")
    assert caught.value.reason is Reason.ORDER_UNDER_REVIEW
    assert caught.value.metadata["pay_case_id"] == (await last_case(system)).number


async def test_an_order_whose_wrong_payment_is_refunded_can_be_paid(system: PayCenterSystem) -> None:
    order = await system.order()
    first = await system.submit(order, "wx_native")
    await system.simulator.pay(first.out_trade_no, amount=1, notify=False)
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, "alipay_qr")
    assert (caught.value.reason, caught.value.retry_after is not None) == (Reason.ORDER_CHANGED, True)
    assert (await system.submit(order, "alipay_qr")).display_content


async def test_the_app_hears_of_a_case_and_a_newer_notification_supersedes(system: PayCenterSystem) -> None:
    await hold(system)
    order, case = await late(system)
    opened = await system.value("SELECT payload FROM pay_notify_task WHERE event = 'pay_case.opened'")
    body = json.loads(opened)
    assert (body["object_id"], body["version"], body["data"]["kind"], body["data"]["amount"]) == (
        case.number, 1, "LATE_PAYMENT", 100,
    )  # fmt: skip
    assert (body["data"]["pay_order_id"], body["data"]["merchant_order_id"]) == (order.number, order.merchant_order_id)
    await decide(system, ANNE, case, Decision.CLOSE, "secret words of an operator")
    states = await system.rows("SELECT event, state FROM pay_notify_task WHERE data_id = $1 ORDER BY data_version", case.id)
    assert [tuple(row) for row in states] == [("pay_case.opened", "SUPERSEDED"), ("pay_case.resolved", "WAITING")]
    posts = [post for post in await system.deliver() if post.json["object_id"] == case.number]
    assert [post.json["data"]["decision"] for post in posts] == ["CLOSE"]
    assert b"secret words" not in posts[0].body


async def test_notifications_of_a_case_go_where_those_of_its_order_go(system: PayCenterSystem) -> None:
    await hold(system)
    order = await system.order(notification_url="http://merchant.test/own")
    attempt = await system.submit(order, "mock", **NEVER)
    await book(system, attempt, amount=1)
    await unknown(system)
    urls = {post.json["data"]["kind"]: post.url for post in await system.deliver()}
    assert urls == {"WRONG_AMOUNT": "http://merchant.test/own", "UNKNOWN_ORDER": "http://merchant.test/shop/order"}
    await unknown(system, 5)
    await system.services.apps.update(OPERATOR, "shop", {"order_notification_url": "http://other.test/order"})
    assert [post.url for post in await system.deliver()] == ["http://other.test/order"]


# Books


async def books(system: PayCenterSystem, **how: Any) -> list[int]:
    checked = check_books(system.services.context.database, cases=system.services.cases, **how)
    return [batch.opened async for batch in checked]


async def test_a_difference_of_the_books_is_a_case_once(system: PayCenterSystem) -> None:
    system.books_are_checked = False
    order = await system.paid("mock")
    assert await books(system) == [0]
    await system.rows("UPDATE pay_order SET paid_amount = 130 WHERE id = $1", order.id)
    assert await books(system) == [1]
    assert await books(system) == [0]
    case = await last_case(system)
    assert (case.kind.value, case.amount, case.reference) == ("BOOKS_DIFFER", 30, order.number)
    assert (await decide(system, ANNE, case, Decision.RETRY)).case.state is CaseState.OPEN
    await system.rows("UPDATE pay_order SET paid_amount = 100 WHERE id = $1", order.id)
    assert (await decide(system, ANNE, case, Decision.RETRY)).case.state is CaseState.RESOLVED
    await system.rows("UPDATE pay_order SET paid_amount = 130 WHERE id = $1", order.id)
    assert await books(system) == [0]
    system.clock.advance(timedelta(days=1, seconds=1).total_seconds())
    assert await books(system) == [1]
    assert (await last_case(system)).occurrence == 1
