"""The first five minutes with PayCenter as a person lives them, in both languages, at a desk and on a phone."""

from __future__ import annotations

import re

import pytest
from paycenter.v1 import pay_order_service_pb2 as orders
from paycenter_server.simulator.keys import generate_keys
from playwright.sync_api import Browser

from .conftest import LiveSystem
from .person import Person

RUNS = [("en", "desk"), ("zh", "desk"), ("en", "phone"), ("zh", "phone")]


class Visit:
    """The steps, in their order."""

    def __init__(self, live: LiveSystem, person: Person, language: str, size: str) -> None:
        self.live, self.person, self.language = live, person, language
        self.key = f"tea-{language}-{size}"
        self.shop, self.console, self.simulator = live.address("shop"), live.console, live.address("simulator")

    def make_an_app(self) -> None:
        person = self.person
        person.look("overview")
        person.go(f"{self.console}/apps")
        person.look("apps")
        person.press('a[href="/apps/new"]')
        person.look("app-new")
        urls = {f"{kind}_notification_url": f"{self.shop}/notifications/{kind}" for kind in ("order", "refund")}
        person.fill(app_key=self.key, name="Tea house", **urls)
        person.press("main form button.btn-primary")
        person.see("#once-3")
        person.look("app-secrets")

    def connect_a_channel(self) -> None:
        person = self.person
        person.press(f'a[href="/apps/{self.key}/channels/wx_native"]')
        person.look("channel-connect")
        person.page.locator("[name=account_id]").select_option(index=1)
        person.fill(appid=generate_keys(self.live.running.file.parent / "simulator-keys").wechatpay["appid"], fee_rate="0.6")
        person.page.locator("main [name=enabled]").check()
        person.look("channel-connect-account")
        person.press("main form button.btn-primary")
        person.see("main .headline")
        person.press('form[action$="/test"] button')
        person.see(".alert-success")
        person.look("channel-tested")

    def order_in_the_shop(self, product: str) -> str:
        """The shop's number of the order; the page is the cashier then."""
        person = self.person
        person.go(f"{self.shop}/")
        person.press(f'button[value="{product}"]')
        person.see("form.ways")
        return person.see("dd.number").inner_text()

    def choose(self, code: str) -> str:
        """A way to pay at the cashier; the number of the attempt."""
        person = self.person
        person.page.locator(f'input[name=code][value="{code}"]').check()
        person.press("form.ways button[type=submit]")
        person.see("img.qr")
        with self.live.running.client() as pay:
            number = person.see("dd.number").inner_text()
            return next(
                one.out_trade_no for one in reversed(pay.get_order(merchant_order_id=number).attempts) if one.channel_code == code
            )

    def pay_on_the_phone(self, trade: str, *, look: bool = False) -> None:
        """On the simulator's page, in another tab, as the payer's phone is another device."""
        person = self.person
        cashier, person.page = person.page, person.context.new_page()
        person.go(f"{self.simulator}/cashier/{trade}")
        if look:
            person.look("phone")
        person.press(f'form[action*="/{trade}/pay?"] button')
        person.see(".state.good")
        if look:
            person.look("phone-paid")
            person.go(f"{self.simulator}/trades/{trade}")
            person.look("trade")
            person.go(f"{self.simulator}/")
            person.look("simulator")
        person.page.close()
        person.page = cashier

    def pay_for_an_order(self) -> str:
        person = self.person
        person.go(f"{self.shop}/")
        person.look("shop")
        number = self.order_in_the_shop("3")
        person.look("cashier")
        trade = self.choose("wx_native")
        person.look("cashier-code")
        self.pay_on_the_phone(trade, look=True)
        # The cashier turns by itself, and leads back to the shop.
        person.page.wait_for_url(re.compile("/return\\?"), timeout=20_000)
        person.see(".notice.good")
        person.see("article .state.good")
        person.look("shop-paid")
        return number

    def watch_it_arrive(self, number: str) -> None:
        person = self.person
        person.go(f"{self.console}/orders")
        person.look("orders")
        person.page.locator("#search").fill(number)
        person.page.keyboard.press("Enter")
        person.page.wait_for_url(re.compile("/(orders/O|search)"))
        if "/search" in person.page.url:
            person.press('main a[href^="/orders/O"]')
        person.see("main h1.money")
        person.look("order")

    def refund_a_part(self, number: str) -> None:
        person = self.person
        person.go(f"{self.shop}/orders/{number}")
        person.fill(amount="0.40")
        person.press('form[action$="/refunds"] button')
        person.see("td .state.good")
        person.look("shop-refunded")
        self.find_order(number)
        person.page.locator("main details summary.btn-primary").first.click()
        person.fill(amount="0.10", reason="One cup less")
        person.look("order-refund")
        person.press('form[action$="/refund"] button')
        person.see("main h1.money")
        person.look("order-refunded")
        person.go(f"{self.console}/refunds")
        person.look("refunds")
        person.press('main a.row-link[href^="/refunds/"]')
        person.look("refund")

    def find_order(self, number: str) -> None:
        with self.live.running.client() as pay:
            self.person.go(f"{self.console}/orders/{pay.get_order(merchant_order_id=number).id}")

    def break_and_repair(self) -> None:
        person = self.person
        person.go(f"{self.shop}/")
        person.press('button[name=broken][value="1"]')
        person.see(".notice.bad")
        number = self.order_in_the_shop("2")
        trade = self.choose("alipay_qr")
        cashier = person.page.url
        person.go(f"{self.simulator}/trades/{trade}")
        person.see("[role=note]", "TRADE_NOT_EXIST")
        person.look("trade-before-the-scan")
        person.go(cashier)
        self.pay_on_the_phone(trade)
        person.page.wait_for_url(re.compile("/return\\?"), timeout=20_000)
        person.go(f"{self.shop}/")
        person.see(".notice.bad", re.compile("[1-9]"))
        person.look("shop-broken")
        person.go(f"{self.console}/notifications?state=failing")
        person.see("main a.row-link")
        person.look("notifications-failing")
        person.go(f"{self.console}/notifications?merchant_order_id={number}&range=all")
        person.press("main a.row-link")
        person.look("notification-failing")
        page = person.page.url
        person.go(f"{self.shop}/")
        person.press('button[name=broken][value="0"]')
        person.see('button[name=broken][value="1"]')
        person.go(page)
        person.press('form[action$="/now"] button')
        person.go(f"{self.shop}/orders/{number}")
        person.see("article .state.good")
        person.go(page)
        person.look("notification-received")

    def decide_a_duplicate(self) -> None:
        person = self.person
        person.go(f"{self.console}/apps/demo")
        person.page.locator("[name=surplus_policy]").select_option("HOLD")
        person.press('form[action$="/edit"] button.btn-primary')
        person.see(".alert-success")
        number = self.order_in_the_shop("4")
        first = self.choose("wx_native")
        person.press('main a[href^="?again"]')
        second = self.choose("alipay_qr")
        self.pay_on_the_phone(second)
        person.page.wait_for_url(re.compile("/return\\?"), timeout=20_000)
        # The first attempt was closed, but the payer's app had it open, and the channel takes the money.
        with self.live.running.client() as pay:
            until = pay.wait_for_order(pay.get_order(merchant_order_id=number), timeout=10)
            assert until.state == orders.PAY_ORDER_STATE_SUCCESS
        person.go(f"{self.simulator}/cashier/{first}")
        person.press('form[action*="/late?"] button')
        person.see(".state.good")
        person.go(f"{self.console}/cases")
        while not person.page.locator("main a.row-link").count():
            person.page.wait_for_timeout(200)
            person.page.reload()
        person.look("cases")
        person.press("main a.row-link")
        case = person.see("main .id").inner_text()
        person.page.locator('input[name=decision][value="REFUND"]').check()
        person.fill(reason="Paid twice", confirm=case)
        person.look("case")
        person.press('form[action$="/decide"] button')
        person.see(".alert-success")
        while not person.page.locator(".facts time").nth(1).count():
            person.page.wait_for_timeout(200)
            person.page.reload()
        person.look("case-decided")

    def look_around(self) -> None:
        person = self.person
        for path in (
            "",
            "orders?range=all",
            "notifications",
            "notifications/resend?state=SUCCESS",
            "accounts",
            "health",
            "search?q=nothing",
        ):
            person.go(f"{self.console}/{path}")
            person.look(f"page-{re.sub('[^a-z]+', '-', path) or 'overview'}")
        person.go(f"{self.console}/accounts")
        person.press('main a[href^="/accounts/M"]')
        person.look("account")
        person.go(f"{self.console}/accounts/new")
        person.look("account-new")


@pytest.mark.parametrize(("language", "size"), RUNS, ids=[f"{language}-{size}" for language, size in RUNS])
def test_the_first_five_minutes(browser: Browser, live: LiveSystem, language: str, size: str) -> None:
    person = Person.start(browser, language, size, f"{language}-{size}", color_scheme="dark" if size == "phone" else "light")
    visit = Visit(live, person, language, size)
    live.log_in(person, look=True)
    visit.make_an_app()
    visit.connect_a_channel()
    number = visit.pay_for_an_order()
    visit.watch_it_arrive(number)
    visit.refund_a_part(number)
    visit.break_and_repair()
    visit.decide_a_duplicate()
    if (language, size) in (("en", "desk"), ("zh", "phone")):
        visit.look_around()
    person.end()
