from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from paycenter_server.domain.apps import SurplusPolicy
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.states import OrderState, RefundState
from paycenter_server.services.paging import Pager
from paycenter_server.storage.orders import OrderFilter
from support.system import OPERATOR, PayCenterSystem


def reason(caught: pytest.ExceptionInfo[PayCenterError]) -> Reason:
    return caught.value.reason


async def test_create_again_answers_the_same_order(system: PayCenterSystem) -> None:
    new = system.new_order()
    first = await system.services.orders.create(system.caller, new)
    system.clock.advance(5)
    again = await system.services.orders.create(system.caller, new)
    assert first.id == again.id
    assert await system.value("SELECT count(*) FROM pay_order") == 1


async def test_create_with_other_content_is_a_conflict_with_both_numbers(system: PayCenterSystem) -> None:
    new = system.new_order(amount=100)
    first = await system.services.orders.create(system.caller, new)
    other = system.new_order(merchant_order_id=new.merchant_order_id, amount=101, subject="茶")
    with pytest.raises(PayCenterError) as caught:
        await system.services.orders.create(system.caller, other)
    assert reason(caught) is Reason.ORDER_CONFLICT
    assert caught.value.metadata["pay_order_id"] == first.number
    assert caught.value.metadata["merchant_order_id"] == new.merchant_order_id
    assert caught.value.metadata["differing_fields"] == "subject,amount"
    assert (await system.read(first)).amount == 100


async def test_concurrent_creates_make_one_order(system: PayCenterSystem) -> None:
    new = system.new_order()
    orders = await asyncio.gather(*(system.services.orders.create(system.caller, new) for _ in range(20)))
    assert len({order.id for order in orders}) == 1


async def test_bad_input_names_every_wrong_field_and_stores_nothing(system: PayCenterSystem) -> None:
    new = system.new_order(
        merchant_order_id="", subject="字" * 33, body="x" * 129, amount=0, currency="EUR", user_ip="1.2.3", user_id="u" * 65,
        expire_time=system.clock.now() - timedelta(seconds=1), return_url="javascript:alert(1)",
    )  # fmt: skip
    with pytest.raises(PayCenterError) as caught:
        await system.services.orders.create(system.caller, new)
    assert {violation.field for violation in caught.value.violations} == {
        "merchant_order_id", "subject", "body", "amount", "currency", "user_ip", "user_id", "expire_time", "return_url",
    }  # fmt: skip
    assert await system.value("SELECT count(*) FROM pay_order") == 0


async def test_subject_counts_characters_not_bytes(system: PayCenterSystem) -> None:
    assert (await system.order(subject="字" * 32)).subject == "字" * 32


async def test_an_app_sees_and_changes_only_its_own(system: PayCenterSystem) -> None:
    order = await system.order()
    stranger = await system.add_app("other", codes=("mock",))
    for call in (
        system.services.orders.load(stranger, order.number),
        system.services.orders.close(stranger, order.number),
        system.services.orders.update_price(stranger, order.number, 5),
        system.services.orders.sync(stranger, order.number),
    ):
        with pytest.raises(PayCenterError) as caught:
            await call
        assert reason(caught) is Reason.ORDER_NOT_FOUND
    with pytest.raises(PayCenterError) as caught:
        await system.services.orders.create(stranger, system.new_order(app_key="shop"))
    assert reason(caught) is Reason.PERMISSION_DENIED
    page = await system.services.orders.search(stranger, "", OrderFilter(), Pager(0, ""))
    assert page.items == []
    same_number = await system.services.orders.create(stranger, system.new_order(merchant_order_id=order.merchant_order_id))
    assert same_number.id != order.id


async def test_reads_at_the_same_time_get_each_its_own_order(system: PayCenterSystem) -> None:
    """They share statements."""
    other = await system.add_app("other", codes=("mock",))
    new = [system.new_order(merchant_order_id=f"same-{number}") for number in range(6)]
    ours = [await system.services.orders.create(system.caller, one) for one in new]
    theirs = [await system.services.orders.create(other, replace(one, app_key="other")) for one in new[:3]]
    await system.submit(ours[4], "mock", behaviour="never")
    await system.submit(ours[4], "wx_native")
    read = system.services.orders.read
    numbers = [one.merchant_order_id for one in new]
    reads = [read(caller, merchant_order_id=number) for number in numbers for caller in (system.caller, other)]
    found: list[Any] = await asyncio.gather(*reads, return_exceptions=True)
    assert [one[0].id for one in found[::2]] == [order.id for order in ours]
    assert [one[0].id for one in found[1:6:2]] == [order.id for order in theirs]
    assert [one.reason for one in found[7::2]] == [Reason.ORDER_NOT_FOUND] * 3
    order, attempts = found[8]
    assert (order, attempts) == (await system.read(order), await system.services.orders.attempts(order))
    assert len(attempts) == 2


async def test_an_operator_may_name_any_app(system: PayCenterSystem) -> None:
    order = await system.services.orders.create(OPERATOR, system.new_order(app_key="shop"))
    assert order.app_key == "shop"
    with pytest.raises(PayCenterError) as caught:
        await system.services.orders.create(OPERATOR, system.new_order(app_key="nobody"))
    assert reason(caught) is Reason.APP_NOT_FOUND


async def test_a_disabled_app_creates_nothing(system: PayCenterSystem) -> None:
    await system.services.apps.update(OPERATOR, "shop", {"enabled": False})
    with pytest.raises(PayCenterError) as caught:
        await system.order()
    assert reason(caught) is Reason.APP_DISABLED


async def test_a_disabled_app_can_still_read_and_refund(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    await system.services.apps.update(OPERATOR, "shop", {"enabled": False})
    assert (await system.read(order)).paid_amount == 100
    refund = await system.refund(order, 30)
    assert refund.state is RefundState.SUCCESS
    with pytest.raises(PayCenterError, match="can only read and refund") as caught:
        await system.order()
    assert caught.value.reason is Reason.APP_DISABLED


@pytest.mark.parametrize("address", ["fe80::1%1", "fe80::1%eth0"])
async def test_an_address_with_a_scope_id_is_refused(system: PayCenterSystem, address: str) -> None:
    with pytest.raises(PayCenterError, match="scope id") as caught:
        await system.order(user_ip=address)
    assert [violation.field for violation in caught.value.violations] == ["user_ip"]


async def test_list_filters_and_pages(system: PayCenterSystem) -> None:
    orders = [await system.order(amount=100 + index) for index in range(5)]
    await system.submit(orders[0], "mock")
    pager = Pager(2, "")
    seen = []
    where = OrderFilter()
    while True:
        page = await system.services.orders.search(system.caller, "", where, pager)
        seen += [order.number for order in page.items]
        if not page.next_token:
            break
        pager = Pager(2, page.next_token)
    assert seen == [order.number for order in reversed(orders)]

    async def listed(**filters: object) -> list[str]:
        page = await system.services.orders.search(system.caller, "", OrderFilter(**filters), Pager(50, ""))  # type: ignore[arg-type]
        return [order.merchant_order_id for order in page.items]

    paid = await system.read(orders[0])
    assert await listed(state=OrderState.SUCCESS) == [paid.merchant_order_id]
    assert await listed(channel_code="mock") == [paid.merchant_order_id]
    assert await listed(channel_order_no=paid.channel_order_no) == [paid.merchant_order_id]
    assert await listed(attempt_id=paid.attempt_id) == [paid.merchant_order_id]
    assert await listed(merchant_order_id=orders[3].merchant_order_id) == [orders[3].merchant_order_id]
    assert await listed(success_time_from=system.clock.now() + timedelta(minutes=1)) == []
    assert len(await listed(create_time_to=orders[2].create_time)) == 2


async def test_a_page_token_belongs_to_its_filters(system: PayCenterSystem) -> None:
    for _ in range(3):
        await system.order()
    page = await system.services.orders.search(system.caller, "", OrderFilter(), Pager(1, ""))
    for token, where in ((page.next_token, OrderFilter(channel_code="mock")), ("nonsense", OrderFilter()), ("é", OrderFilter())):
        with pytest.raises(PayCenterError) as caught:
            await system.services.orders.search(system.caller, "", where, Pager(1, token))
        assert reason(caught) is Reason.PAGE_TOKEN_INVALID


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_close_closes_at_the_channel_too(system: PayCenterSystem, code: str) -> None:
    order = await system.order()
    attempt = await system.submit(order, code)
    closed = await system.services.orders.close(system.caller, order.number)
    assert closed.state is OrderState.CLOSED
    trade = await system.simulator.get(f"/simulator/trades/{attempt.out_trade_no}")
    if code == "wx_native":
        assert trade["state"] == "CLOSED"
    assert (await system.services.orders.close(system.caller, order.number)).id == order.id
    assert [post.json["type"] for post in await system.deliver()] == ["pay_order.closed"]
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, code)
    assert reason(caught) is Reason.ORDER_CLOSED


async def test_close_of_what_was_paid_meanwhile_books_it(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order)
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    with pytest.raises(PayCenterError) as caught:
        await system.services.orders.close(system.caller, order.number)
    assert reason(caught) is Reason.ORDER_PAID
    assert (await system.read(order)).state is OrderState.SUCCESS


async def test_close_while_the_channel_is_silent_decides_nothing(system: PayCenterSystem) -> None:
    order = await system.order()
    await system.submit(order)
    await system.simulator.fault("wx.query", "http_503", times=-1)
    with pytest.raises(PayCenterError) as caught:
        await system.services.orders.close(system.caller, order.number)
    assert reason(caught) is Reason.CHANNEL_UNCLEAR
    assert caught.value.retry_after
    assert (await system.read(order)).state is OrderState.WAITING


async def test_price_changes_only_while_waiting(system: PayCenterSystem) -> None:
    order = await system.order(amount=100)
    assert (await system.services.orders.update_price(system.caller, order.number, 90)).amount == 90
    attempt = await system.submit(order)
    assert attempt.amount == 90
    cheaper = await system.services.orders.update_price(system.caller, order.number, 80)
    assert cheaper.amount == 80
    trade = await system.simulator.get(f"/simulator/trades/{attempt.out_trade_no}")
    assert trade["state"] == "CLOSED"
    await system.submit(order, "mock")
    with pytest.raises(PayCenterError) as caught:
        await system.services.orders.update_price(system.caller, order.number, 70)
    assert reason(caught) is Reason.ORDER_PAID


async def test_accept_policy_takes_a_late_payment(system: PayCenterSystem) -> None:
    await system.services.apps.update(OPERATOR, "shop", {"surplus_policy": SurplusPolicy.ACCEPT.value})
    order = await system.order()
    attempt = await system.submit(order, "alipay_qr")
    await system.services.orders.close(system.caller, order.number)
    await system.deliver()
    await system.simulator.pay(attempt.out_trade_no)
    paid = await system.until(order, "SUCCESS")
    assert paid.paid_amount == 100
    assert await system.cases() == []
    assert [post.json["type"] for post in await system.deliver()] == ["pay_order.success"]
