"""Orders and refunds: filters, search, and what the buttons do."""

from __future__ import annotations

import re

from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import OrderState, RefundState
from paycenter_server.services.paging import Pager
from paycenter_server.storage.orders import OrderFilter
from support.console_rig import Browser, Page
from support.system import OPERATOR


def orders_in(page: Page) -> list[str]:
    return [link.rsplit("/", 1)[1] for link in page.links("/orders/O")]


async def test_every_filter_finds_its_orders(console: Browser) -> None:
    system = console.system
    paid = await system.paid("wx_native", merchant_order_id="A-1")
    closed = await system.order(merchant_order_id="A-2")
    attempt = await system.submit(closed, "alipay_qr")
    await system.services.orders.close(system.caller, closed.number)
    other_app = await system.add_app("other", codes=("mock",))
    other = await system.services.orders.create(other_app, system.new_order(merchant_order_id="A-1", app_key=""))
    assert set(orders_in(await console.get("/orders"))) == {paid.number, closed.number, other.number}
    for query, expected in (
        ("app=other", {other}), ("app=shop", {paid, closed}), ("state=SUCCESS", {paid}), ("state=CLOSED", {closed}),
        ("state=nonsense", {paid, closed, other}), ("channel_code=wx_native", {paid}), ("merchant_order_id=A-1", {paid, other}),
        ("merchant_order_id=A-1&app=other", {other}), (f"channel_order_no={paid.channel_order_no}", {paid}),
        (f"number={paid.number.lower()}", {paid}), (f"number={attempt.out_trade_no}", {closed}), ("number=X", set()),
        ("range=today", {paid, closed, other}), ("range=custom&from=2020-01-01&to=2020-01-02", set()),
        ("range=custom&from=2020-01-01", {paid, closed, other}), ("range=custom&from=x&to=", {paid, closed, other}),
        # A number is found whatever the time range says.
        ("range=custom&from=2020-01-01&to=2020-01-02&merchant_order_id=A-2", {closed}),
    ):  # fmt: skip
        page = (await console.get(f"/orders?{query}")).check()
        assert page.status == 200, query
        assert set(orders_in(page)) == {order.number for order in expected}, query
    assert "No order matches." in (await console.get("/orders?merchant_order_id=none")).text
    assert (await console.get("/orders?page=nonsense")).status == 400
    assert (await console.get("/orders?app=none")).status == 404


async def test_a_rare_filter_reads_a_bounded_number_of_orders(console: Browser) -> None:
    system = console.system
    rare = await system.paid("mock")
    others = [await system.order() for _ in range(5)]
    token, pages, found = "", 0, []
    while True:
        where = OrderFilter(state=OrderState.SUCCESS, create_time_from=rare.create_time)
        page = await system.services.orders.search(OPERATOR, "shop", where, Pager(10, token), scan=2)
        found += [order.number for order in page.items]
        pages, token = pages + 1, page.next_token
        if not token:
            break
    assert (found, pages) == ([rare.number], 3)
    where = OrderFilter(state=OrderState.WAITING)
    page = await system.services.orders.search(OPERATOR, "", where, Pager(2, ""), scan=4)
    assert [order.number for order in page.items] == [others[4].number, others[3].number]
    page = await system.services.orders.search(OPERATOR, "", where, Pager(2, page.next_token), scan=4)
    assert [order.number for order in page.items] == [others[2].number, others[1].number]


async def test_an_order_of_the_past_is_in_its_range_only(console: Browser) -> None:
    system = console.system
    old = await system.order()
    system.clock.advance(40 * 86_400)
    assert orders_in(await console.get("/orders")) == []
    assert orders_in(await console.get("/orders?range=90d")) == [old.number]
    day = old.create_time.date().isoformat()
    assert orders_in(await console.get(f"/orders?range=custom&from={day}&to={day}")) == [old.number]


async def test_the_row_shows_cases_and_the_last_error_of_the_channel(console: Browser) -> None:
    system = console.system
    order = await system.order()
    await system.submit(order, "wx_native")
    await system.rows(
        "UPDATE pay_attempt SET channel_error_code = 'NO_AUTH', channel_error_message = '无权限' WHERE order_id = $1", order.id
    )
    row = await console.get("/orders")
    assert "NO_AUTH 无权限" in row.text


async def test_search_finds_every_number(console: Browser) -> None:
    system = console.system
    order = await system.paid("wx_native", merchant_order_id="M 1")
    (attempt,) = await system.services.orders.attempts(order)
    refund = await system.refund(order, 10, merchant_refund_no="RF-1")
    await system.deliver()
    task = encode(Prefix.NOTIFICATION, await system.value("SELECT id FROM pay_notify_task LIMIT 1"))
    channel = system.channels["wx_native"]
    for text, path in (
        (order.number, f"/orders/{order.number}"), (f" {order.number.lower()} ", f"/orders/{order.number}"),
        ("M 1", f"/orders/{order.number}"), (attempt.out_trade_no, f"/orders/{order.number}"),
        (order.channel_order_no or "", f"/orders/{order.number}"), (refund.number, f"/refunds/{refund.number}"),
        ("RF-1", f"/refunds/{refund.number}"), (refund.out_refund_no, f"/refunds/{refund.number}"),
        (task, f"/notifications/{task}"), (channel, f"/channels/{channel}"),
    ):  # fmt: skip
        async with console.client.get("/search", params={"q": text}) as response:
            assert str(response.url.relative()) == path, text
        assert path in (await console.get(f"/search/live?q={text}")).html
    for nothing in ("zzz", "", "x" * 200, "%00", "O" + "Z" * 26):
        page = (await console.get(f"/search?q={nothing}")).check()
        assert "Nothing has the number" in page.text


async def test_one_number_in_two_apps_is_a_list(console: Browser) -> None:
    system = console.system
    caller = await system.add_app("other", codes=("mock",))
    for one in (system.caller, caller):
        await system.services.orders.create(one, system.new_order(merchant_order_id="SAME"))
    page = (await console.get("/search?q=SAME")).check()
    assert len(orders_in(page)) == 2


async def test_a_refund_from_the_page_of_an_order(console: Browser) -> None:
    system = console.system
    order = await system.paid("mock", amount=1000)
    path = f"/orders/{order.number}"
    page = await console.get(path)
    assert page.value("amount") == "10.00"
    number = page.value("merchant_refund_no")
    for wrong in ("", "abc", "-1", "10.001", "1e3", "99999999999"):
        refused = (await console.post(f"{path}/refund", merchant_refund_no=number, amount=wrong, reason="x")).check()
        assert refused.status == 400, wrong
        assert refused.value("merchant_refund_no") == number
    assert (await console.post(f"{path}/refund", merchant_refund_no=number, amount="1", reason="")).status == 400
    assert (await console.post(f"{path}/refund", merchant_refund_no=number, amount="10.01", reason="x")).status == 409
    # Sent twice, it makes one refund.
    for _ in range(2):
        done = await console.post(f"{path}/refund", merchant_refund_no=number, amount="4.00", reason="不要了")
        assert done.url == f"{path}?done=refund"
    (refund,) = await system.services.refunds.of_order(OPERATOR, order)
    assert (refund.amount, refund.reason, refund.merchant_refund_no) == (400, "不要了", number)
    assert (await console.get(path)).value("amount") == "6.00"
    events = await system.rows("SELECT actor_kind, actor FROM pay_event WHERE subject_id = $1 AND event = 'create'", refund.id)
    assert [(event["actor_kind"], event["actor"]) for event in events] == [("OPERATOR", console.name)]


async def test_close_needs_the_number_and_sync_asks_the_channel(console: Browser) -> None:
    system = console.system
    order = await system.order()
    attempt = await system.submit(order, "wx_native")
    path = f"/orders/{order.number}"
    assert (await console.post(f"{path}/close", confirm="other")).status == 400
    assert (await system.read(order)).state is OrderState.WAITING
    done = await console.post(f"{path}/close", confirm=order.merchant_order_id)
    assert done.url == f"{path}?done=closed"
    assert "The order was closed." in done.text
    assert (await system.read(order)).state is OrderState.CLOSED
    other = await system.order()
    attempt = await system.submit(other, "wx_native")
    await system.simulator.post(f"/simulator/pay/{attempt.out_trade_no}", {"notify": False})
    assert (await console.post(f"/orders/{other.number}/sync")).url.endswith("?done=synced")
    assert (await system.until(other, "SUCCESS")).state is OrderState.SUCCESS


async def test_a_link_to_the_cashier(console: Browser) -> None:
    order = await console.system.order()
    page = await console.post(f"/orders/{order.number}/cashier")
    assert page.status == 200
    (link,) = [values["href"] for tag, values in page.elements if tag == "a" and values.get("target") == "_blank"]
    assert link.startswith(console.system.services.context.options.cashier_url)
    await console.system.services.orders.close(console.system.caller, order.number)
    assert (await console.post(f"/orders/{order.number}/cashier")).check().status == 409


async def test_the_last_notification_is_sent_again(console: Browser) -> None:
    system = console.system
    order = await system.paid("mock")
    path = f"/orders/{order.number}"
    assert (await console.post(f"{path}/resend")).status == 409  # it is not sent yet
    await system.deliver()
    assert (await console.post(f"{path}/resend")).url == f"{path}?done=resent"
    assert len(await system.deliver()) == 1
    assert (await console.post(f"/orders/{(await system.order()).number}/resend")).status == 400


async def test_the_list_and_the_page_of_refunds(console: Browser) -> None:
    system = console.system
    order = await system.paid("wx_native", merchant_order_id="RO-1", amount=1000)
    refund = await system.decided(await system.refund(order, 100, merchant_refund_no="RR-1"))
    for query in (
        "", "state=SUCCESS", "merchant_order_id=RO-1", "merchant_refund_no=RR-1", f"number={refund.number}", "app=shop",
        f"channel_refund_no={refund.channel_refund_no}", "channel_code=wx_native", "range=custom&from=2020-01-01",
    ):  # fmt: skip
        assert (await console.get(f"/refunds?{query}")).links("/refunds/F") == [f"/refunds/{refund.number}"], query
    for query in ("state=FAILURE", "merchant_order_id=x", "merchant_refund_no=x", "number=x", "channel_code=mock"):
        assert (await console.get(f"/refunds?{query}")).links("/refunds/F") == [], query
    page = (await console.get(f"/refunds/{refund.number}")).check()
    assert "RR-1" in page.text
    assert re.search(r"¥1\.00", page.text)


async def test_a_failed_refund_is_sent_again(console: Browser) -> None:
    system = console.system
    order = await system.order(amount=1000)
    await system.submit(order, "mock", refund="failure")
    refund = await system.decided(await system.refund(await system.read(order), 100))
    assert refund.state is RefundState.FAILURE
    path = f"/refunds/{refund.number}"
    assert "Send again" in (await console.get(path)).text
    done = await console.post(f"{path}/again")
    assert done.url == f"{path}?done=sent-again"
    assert (await system.services.refunds.load(OPERATOR, refund.number)).send_count == 2
    assert (await console.post(f"{path}/sync")).url == f"{path}?done=synced"
