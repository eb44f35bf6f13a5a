"""Every page, in both languages, with what a merchant or a channel may have written into every field."""

from __future__ import annotations

import pytest
from paycenter_server.domain.apps import NotificationSuccess, SurplusPolicy
from paycenter_server.services.apps import NewApp
from paycenter_server.services.notifications_delivery import DeliveryResponse
from support.console_rig import Browser, Page
from support.system import OPERATOR, PayCenterSystem

XSS = "<script>alert(1)</script>"
QUOTE = '"><img src=x onerror=alert(1)>'
PAGES = (
    "/", "/overview/figures", "/orders", "/orders?range=today&state=SUCCESS", "/refunds", "/notifications",
    "/notifications?state=failing", "/notifications/resend?state=SUCCESS", "/apps", "/apps/new", "/apps/shop", "/accounts",
    "/accounts/new", "/accounts/new?family=wechatpay", "/accounts/new?family=mock", "/apps/shop/channels/wx_pub",
    "/apps/shop/channels/alipay_wap", "/health", "/operators", "/operators/keys", "/me", "/audit", "/audit?outcome=OK&range=7d",
    "/audit/verify", "/approvals", "/approvals?state=all", "/orders/export", "/refunds/export?range=all",
    "/search?q=nothing", "/search/live?q=nothing", "/login",
)  # fmt: skip


async def fill(system: PayCenterSystem) -> None:
    """Rows with hostile texts: of the merchant, of the channel, and of the receiver of notifications."""
    # The channel is asked to make its texts; what cannot be made this way is written into the row.
    system.sender.default = DeliveryResponse(500, f"{XSS}{QUOTE}")
    hostile = await system.paid(
        merchant_order_id=f"{QUOTE[:30]}", subject=XSS[:32], body=QUOTE, user_id=XSS, return_url="https://shop.test/?q=%3Cb%3E"
    )
    await system.decided(await system.refund(hostile, 40, merchant_refund_no=f"R{XSS}", reason=QUOTE))
    await system.refund(hostile, 10, merchant_refund_no="R2", reason=XSS)
    waiting = await system.order(merchant_order_id="W1", subject=QUOTE[:32])
    await system.submit(waiting, "alipay_qr")
    await system.deliver()
    await system.rows(
        "UPDATE pay_attempt SET channel_error_code = $1, channel_error_message = $2, channel_order_no = $3, channel_user_id = $4",
        XSS, QUOTE, QUOTE, XSS,
    )  # fmt: skip
    await system.rows(
        "UPDATE pay_refund SET channel_error_code = $1, channel_error_message = $2, channel_refund_no = $3", XSS, QUOTE, QUOTE
    )
    await system.rows("UPDATE pay_order SET channel_user_id = $1", XSS)
    new = NewApp(
        "hostile", f"{XSS}{QUOTE}", QUOTE, "https://merchant.test/?%3Cscript%3E", "https://merchant.test/r", SurplusPolicy.HOLD,
        NotificationSuccess.CODE_ZERO,
    )  # fmt: skip
    await system.services.apps.create(OPERATOR, new)
    await system.services.credentials.create(OPERATOR, "hostile", XSS)


async def every_page(console: Browser) -> list[Page]:
    """The pages with fixed addresses, and a page of each object."""
    pages = [await console.get(path) for path in (*PAGES, "/apps/hostile")]
    for prefix in ("/orders/", "/refunds/", "/notifications/", "/accounts/", "/channels/", "/operators/"):
        # The audit names objects of earlier tests as well.
        of_now = [page for page in pages if not page.url.startswith("/audit")]
        found = [link for page in of_now for link in page.links(prefix) if len(link.split("/")[2]) == 27]
        assert found, prefix
        pages += [await console.get(link) for link in dict.fromkeys(found)]
    return pages


@pytest.mark.parametrize("language", ["en", "zh"])
async def test_every_page_renders_escaped_and_small(console: Browser, language: str) -> None:
    await fill(console.system)
    console.speak(language)
    pages = await every_page(console)
    for page in pages:
        assert page.status == 200, (page.url, page.text[:300])
        page.check()
        assert "<script>alert" not in page.html, page.url
        assert "<img" not in page.html, page.url
        assert f'lang="{"zh-CN" if language == "zh" else "en"}"' in page.html or page.url.startswith(
            ("/overview/figures", "/search/live")
        )
    shown = " ".join(page.text for page in pages)
    assert XSS in shown
    assert QUOTE in shown


async def test_a_full_page_of_orders_with_all_columns_is_small(console: Browser) -> None:
    from paycenter_server.http_console.orders import COLUMNS

    for number in range(26):
        await console.system.paid("mock", merchant_order_id=f"{number:02d}" + "x" * 62, subject="很长的商品标题" * 4)
    only = (await console.get(f"/orders?column={next(iter(COLUMNS))}")).check()
    assert only.url == f"/orders?columns={next(iter(COLUMNS))}"
    assert "很长的商品标题" not in only.text
    first = (await console.get(f"/orders?columns={'.'.join(COLUMNS)}")).check()
    assert len(first.links("/orders/O")) == 25
    (following,) = [link for link in first.links("/orders?columns=") if "page=" in link]
    second = (await console.get(following)).check()
    assert len(second.links("/orders/O")) == 1
    assert not {*first.links("/orders/O")} & {*second.links("/orders/O")}


async def test_a_long_timeline_is_shown_in_pages(console: Browser) -> None:
    system = console.system
    order = await system.paid(body="b" * 128)
    evidence = {"call": {"request": "<" * 15_000, "answer": "y" * 15_000, "status": 200}}
    for number in range(40):
        await system.rows(
            """INSERT INTO pay_event (order_id, subject, subject_id, event, paid_change, reserved_change, refunded_change,
               actor_kind, actor, evidence) VALUES ($1, 'ORDER', $1, 'queried', 0, 0, 0, 'JOB', $2, $3)""",
            order.id, f"job-{number:02d}.", evidence,
        )  # fmt: skip
    path, seen, pages = f"/orders/{order.number}", "", 0
    while path:
        page = (await console.get(path)).check()
        assert page.status == 200
        seen, pages = seen + page.text, pages + 1
        path = next(iter(page.links(f"/orders/{order.number}?skip=")), "")
    assert 2 < pages < 40
    for number in range(40):
        assert seen.count(f"job-{number:02d}.") == 1, number


async def test_pages_that_do_not_exist(console: Browser) -> None:
    for path in ("/nothing", "/orders/O0", "/refunds/F0", "/notifications/N0", "/apps/none", "/accounts/M0", "/channels/C0"):
        page = (await console.get(path)).check()
        assert page.status == 404, path
        assert "Not found" in page.text


async def test_times_are_in_the_zone_of_the_viewer_with_utc_as_the_title(console: Browser) -> None:
    order = await console.system.order()
    utc = order.create_time.strftime("%Y-%m-%d %H:%M:%S")
    assert (
        f'<time datetime="{order.create_time.strftime("%Y-%m-%dT%H:%M:%SZ")}" title="{utc} UTC">{utc}</time>'
        in (await console.get("/orders")).html
    )
    console.client.session.cookie_jar.update_cookies({"zone": "480.Asia%2FShanghai"}, console.client.make_url("/"))
    page = await console.get("/orders")
    assert f'title="{utc} UTC">{utc}<' not in page.html
    assert f'title="{utc} UTC">' in page.html
    assert "UTC+08:00" in page.text
