"""The payer's page: who may see it, what it offers, how it ends, and that nothing of it can be turned against the payer."""

from __future__ import annotations

import html
import re
import string
from datetime import timedelta
from typing import Any

import pytest
from paycenter.returns import ReturnError, verify_return
from paycenter_server.channels.specs import Browser
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.states import OrderState
from paycenter_server.services.cashier import RESULT_SHOWN, browser_of
from support.system import OPERATOR, PayCenterSystem

DESK = "Mozilla/5.0 (X11; Linux x86_64) Chrome/150"
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Mobile"
WECHAT = PHONE + " MicroMessenger/8.0"
ALIPAY = PHONE + " AlipayClient/10.5"


async def get(system: PayCenterSystem, url: str, agent: str = DESK, **headers: str) -> tuple[int, str, Any]:
    path = url[url.index("/cashier/") :]
    async with system.session.get(system.sidecar + path, headers={"User-Agent": agent, **headers}) as answer:
        return answer.status, await answer.text(), answer.headers


async def choose(system: PayCenterSystem, url: str, code: str, agent: str = DESK, **form: str) -> tuple[int, str]:
    path = url[url.index("/cashier/") :]
    async with system.session.post(system.sidecar + path, data={"code": code, **form}, headers={"User-Agent": agent}) as answer:
        return answer.status, await answer.text()


def link(system: PayCenterSystem, order: Any, **extras: str) -> str:
    return system.services.cashier.link(order, extras).url


def offered(page: str) -> list[str]:
    return re.findall(r'name="code" value="([a-z_]+)"', page)


async def test_a_payer_chooses_scans_and_pays(system: PayCenterSystem) -> None:
    order = await system.order(return_url="https://shop.example/thanks?basket=7")
    url = link(system, order)
    status, page, headers = await get(system, url)
    assert status == 200
    assert "¥1.00" in page
    assert "Shop" in page
    assert offered(page) == ["wx_native", "alipay_qr", "alipay_pc", "mock"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "unsafe" not in headers["Content-Security-Policy"]
    status, page = await choose(system, url, "wx_native")
    assert status == 200, "after a redirect to the page"
    assert "data:image/svg+xml" in page
    (attempt,) = await system.services.orders.attempts(order)
    await system.simulator.pay(attempt.out_trade_no)
    await system.until(order, "SUCCESS")
    status, page, _ = await get(system, url)
    assert "支付成功" in page
    back = html.unescape(re.search(r'id="back" href="([^"]+)"', page).group(1))  # type: ignore[union-attr]
    assert back.startswith("https://shop.example/thanks?basket=7&")
    found = verify_return(back, system.secrets["shop"])
    assert (found.merchant_order_id, found.state) == (order.merchant_order_id, "SUCCESS")


async def test_a_return_that_was_changed_is_refused(system: PayCenterSystem) -> None:
    order = await system.order(return_url="https://shop.example/thanks")
    view = await system.services.cashier.view(link(system, order).rsplit("/", 1)[1], Browser.DESK)
    assert verify_return(view.return_url, system.secrets["shop"]).state == "WAITING"
    with pytest.raises(ReturnError, match="signature"):
        verify_return(view.return_url.replace("WAITING", "SUCCESS"), system.secrets["shop"])
    with pytest.raises(ReturnError, match="too old"):
        verify_return(view.return_url, system.secrets["shop"], now=system.clock.now().timestamp() + 7200)
    with pytest.raises(ReturnError, match="once"):
        verify_return(view.return_url + "&state=SUCCESS", system.secrets["shop"])


@pytest.mark.parametrize(
    ("agent", "codes"),
    [
        (DESK, ["wx_native", "alipay_qr", "alipay_pc", "wx_bar", "mock"]),
        (PHONE, ["wx_wap", "alipay_wap", "mock"]),
        (WECHAT, ["mock"]),
        (ALIPAY, ["alipay_wap", "mock"]),
    ],
)
async def test_only_ways_that_work_in_this_browser_are_offered(system: PayCenterSystem, agent: str, codes: list[str]) -> None:
    for code in ("wx_wap", "alipay_wap", "wx_pub", "wx_bar"):
        await system.add_channel(code)
    _, page, _ = await get(system, link(system, await system.order()), agent)
    assert offered(page) == codes


async def test_wechat_pay_inside_wechat_needs_the_openid_of_the_app(system: PayCenterSystem) -> None:
    await system.add_channel("wx_pub")
    url = link(system, await system.order(), openid="oUpF8uMuAJO_M2pxb1Q9zNjWeS6o")
    _, page, _ = await get(system, url, WECHAT)
    assert offered(page) == ["wx_pub", "mock"]
    _, page = await choose(system, url, "wx_pub", WECHAT)
    assert "getBrandWCPayRequest" not in page, "scripts are files"
    assert 'id="bridge" data-call="{&#34;' in page


async def test_a_way_that_is_not_enabled_is_neither_offered_nor_accepted(system: PayCenterSystem) -> None:
    order = await system.order()
    url = link(system, order)
    await system.services.channels.update(OPERATOR, system.channels["wx_native"], {"enabled": False}, "", None)
    _, page, _ = await get(system, url)
    assert "wx_native" not in offered(page)
    status, page = await choose(system, url, "wx_native")
    assert (status, await system.services.orders.attempts(order)) == (200, [])
    assert "该支付方式暂不可用" in page
    # One that works elsewhere is not accepted here either.
    await choose(system, url, "alipay_qr", PHONE)
    assert await system.services.orders.attempts(order) == []


async def test_a_payment_code_is_typed_in(system: PayCenterSystem) -> None:
    await system.add_channel("wx_bar")
    order = await system.order()
    url = link(system, order)
    _, page = await choose(system, url, "wx_bar", auth_code="1")
    assert "付款码不正确" in page or "该支付方式暂不可用" in page
    _, page = await choose(system, url, "wx_bar", auth_code="134567890123456789")
    assert "支付成功" in page
    assert (await system.read(order)).state is OrderState.SUCCESS


async def test_a_link_that_was_not_made_here_shows_nothing(system: PayCenterSystem) -> None:
    order = await system.order()
    url = link(system, order)
    token = url.rsplit("/", 1)[1]
    changed = [
        *(token[:-1] + last for last in string.ascii_letters if last != token[-1]),
        token[2:],
        "x",
        "A" * 43,
        "é",
        "A" * 2000,
        token + "A" * 4,
    ]
    for wrong in changed:
        status, page, _ = await get(system, f"/cashier/{wrong}")
        assert status == 404, wrong
        assert order.merchant_order_id not in page
        status, page = await choose(system, f"/cashier/{wrong}", "wx_native")
        assert status == 404, wrong
        status, _, _ = await get(system, f"/cashier/{wrong}/state")
        assert status == 404
    assert await system.services.orders.attempts(order) == []


async def test_a_link_ends_with_its_order(system: PayCenterSystem) -> None:
    order = await system.order()
    url = link(system, order)
    await system.services.orders.close(OPERATOR, order.number)
    status, page, _ = await get(system, url)
    assert (status, offered(page)) == (200, [])
    assert "订单已关闭" in page
    await choose(system, url, "wx_native")
    assert await system.services.orders.attempts(order) == []
    with pytest.raises(PayCenterError) as refused:
        link(system, await system.read(order))
    assert refused.value.reason is Reason.ORDER_CLOSED
    system.clock.advance(timedelta(hours=2).total_seconds() + RESULT_SHOWN.total_seconds() + 1)
    status, _, _ = await get(system, url)
    assert status == 404


async def test_the_state_is_for_the_page_that_waits(system: PayCenterSystem) -> None:
    order = await system.order()
    url = link(system, order)
    assert (await get(system, url + "/state"))[1] == '{"state": "WAITING"}'
    await system.services.orders.close(OPERATOR, order.number)
    assert (await get(system, url + "/state"))[1] == '{"state": "CLOSED"}'


async def test_what_a_merchant_writes_is_shown_as_text(system: PayCenterSystem) -> None:
    evil = '"><script>alert(1)</script>'
    order = await system.order(subject=evil[:32], merchant_order_id=evil, return_url="https://shop.example/?a=%22%3E%3Cscript%3E")
    await system.rows("UPDATE pay_app SET name = $1", evil)
    for language in ("zh", "en"):
        _, page, _ = await get(system, link(system, order) + f"?lang={language}")
        assert "<script>alert" not in page
        assert page.count("<script") == 1
        assert not re.search(r"\son[a-z]+=|style=", page)


async def test_english_and_chinese(system: PayCenterSystem) -> None:
    url = link(system, await system.order())
    assert "Choose how to pay" in (await get(system, url, **{"Accept-Language": "en-GB,en;q=0.9"}))[1]
    assert "选择支付方式" in (await get(system, url, **{"Accept-Language": "zh-CN,zh;q=0.9"}))[1]
    assert "Choose how to pay" in (await get(system, url + "?lang=en", **{"Accept-Language": "zh"}))[1]


async def test_extras_that_no_channel_knows_are_named(system: PayCenterSystem) -> None:
    order = await system.order()
    with pytest.raises(PayCenterError) as refused:
        link(system, order, card="4111", openid="x" * 129)
    assert [violation.field for violation in refused.value.violations] == ["channel_extras.card", "channel_extras.openid"]


async def test_static_files_are_kept_by_the_browser(system: PayCenterSystem) -> None:
    _, page, _ = await get(system, link(system, await system.order()))
    for path in re.findall(r'(?:href|src)="(/cashier/static/[^"]+)"', page):
        status, _, headers = await get(system, path)
        assert status == 200
        assert "immutable" in headers["Cache-Control"]
    assert (await get(system, "/cashier/static/0/cashier.css"))[0] == 404


def test_browsers() -> None:
    assert [browser_of(agent) for agent in (DESK, PHONE, WECHAT, ALIPAY, "")] == [
        Browser.DESK, Browser.PHONE, Browser.WECHAT, Browser.ALIPAY, Browser.DESK,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"code=mock"),
        ("multipart/form-data; boundary=x", b"nonsense"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nmock\r\n--x--\r\n"),
        ("application/x-www-form-urlencoded; charset=bogus", b"code=mock"),
        ("application/x-www-form-urlencoded", b"code=mock&auth_code=\xff"),
        ("application/x-www-form-urlencoded; charset=utf-16", b"c"),
    ],
)
async def test_a_body_that_is_no_form_submits_nothing(system: PayCenterSystem, content_type: str, body: bytes) -> None:
    order = await system.order()
    url = link(system, order)
    path = url[url.index("/cashier/") :]
    async with system.session.post(system.sidecar + path, data=body, headers={"Content-Type": content_type}) as answer:
        assert answer.status == 200
        assert "请稍后重试" in await answer.text()
    assert await system.services.orders.attempts(order) == []


async def test_every_link_that_is_made_can_be_opened(system: PayCenterSystem) -> None:
    order = await system.order()
    longest = dict.fromkeys(("openid", "buyer_open_id", "buyer_id"), '"' * 128)
    assert (await get(system, link(system, order, **longest)))[0] == 200
    with pytest.raises(PayCenterError) as caught:
        link(system, order, openid="微" * 128)
    assert caught.value.reason is Reason.INVALID_FIELD


async def test_the_state_is_not_found_after_the_end_of_a_link(system: PayCenterSystem) -> None:
    order = await system.order()
    url = link(system, order)
    assert (await get(system, url + "/state"))[0] == 200
    system.clock.advance((order.expire_time - system.clock.now() + RESULT_SHOWN).total_seconds() + 1)
    assert (await get(system, url + "/state"))[0] == 404


def test_an_address_with_unpaired_surrogates_is_refused() -> None:
    for state, sign in (("\ud800", "x"), ("SUCCESS", "\ud800")):
        address = f"https://a.test/?pay_order_id=a&merchant_order_id=b&state={state}&timestamp=1&sign={sign}"
        with pytest.raises(ReturnError, match="signature"):
            verify_return(address, "whsec_AAAA")
