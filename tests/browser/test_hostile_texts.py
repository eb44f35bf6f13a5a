"""What merchants, channels and receivers may write is shown as text: nothing of it runs, on no page."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import asyncpg
import pytest
from e2e.conftest import fetch
from paycenter.v1 import pay_order_service_pb2 as orders
from playwright.sync_api import Browser
from support.waiting import eventually_sync

from .conftest import LiveSystem
from .person import Person

IMAGE = "<img src=x onerror=window.owned=1>"
SCRIPT = "<script>window.owned=1</script>"
QUOTE = "\"'><svg onload=window.owned=1>"
ALL = IMAGE + SCRIPT + QUOTE
FOUND = """[window.owned, document.querySelectorAll('img[src=x], svg[onload]').length,
  [...document.scripts].map(one => one.text).join('')]"""


@pytest.fixture
def receiver() -> Iterator[str]:
    """Refuses every notification with a hostile text."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(500)
            self.end_headers()
            self.wfile.write(ALL.encode())

        def log_message(self, *values: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/<b>"
    server.shutdown()
    thread.join()
    server.server_close()


def write(live: LiveSystem, *statements: str) -> None:
    """What a channel could answer and the simulator does not, into the rows. In a thread: Playwright has a loop in this one."""
    settings = json.loads((live.running.file.parent / "secrets" / "settings.json").read_text())

    async def run() -> None:
        connection = await asyncpg.connect(settings["PAYCENTER_DATABASE_URL"])
        for statement in statements:
            await connection.execute(statement.replace("$1", f"$text${ALL}$text$").replace("$2", f"$text${IMAGE}$text$"))
        await connection.close()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, run()).result()


@pytest.mark.parametrize("size", ["phone", "desk"])
def test_nothing_runs(browser: Browser, live: LiveSystem, receiver: str, size: str) -> None:
    addresses = live.running.addresses
    with live.running.client() as pay:
        order = pay.create_order(
            merchant_order_id=f"{IMAGE}-{size}", subject=f"{SCRIPT}", body=ALL, user_id=QUOTE, amount=900, user_ip="203.0.113.9",
            notification_url=receiver,
        )  # fmt: skip
        trade = pay.submit_order(order, "wx_native").out_trade_no
        waiting = pay.create_order(merchant_order_id=f"{QUOTE}-{size}", subject=QUOTE, amount=1, user_ip="203.0.113.9")
        link = pay.orders.CreateCashierLink(orders.CreateCashierLinkRequest(id=waiting.id)).url
        fetch(f"{addresses['simulator']}/simulator/pay/{trade}", "POST")
        pay.wait_for_order(order, timeout=10)
        refund = pay.create_refund(
            merchant_order_id=order.merchant_order_id, merchant_refund_no=f"R{IMAGE}-{size}", amount=1, reason=ALL[:80]
        )
        told = eventually_sync(lambda: list(pay.list_notifications(merchant_order_id=order.merchant_order_id)))
    write(
        live,
        "UPDATE pay_attempt SET channel_error_code = '<b>', channel_error_message = $1, channel_user_id = $2"
        " WHERE id IN (SELECT id FROM pay_attempt ORDER BY id DESC LIMIT 1)",
        "UPDATE pay_refund SET channel_error_code = '<b>', channel_error_message = $1, channel_refund_no = $2"
        " WHERE id IN (SELECT id FROM pay_refund ORDER BY id DESC LIMIT 1)",
        # A reference of its own each time, because a case is opened once for one.
        "INSERT INTO pay_case (id, kind, reference, occurrence, state, app_id, order_id, detail, amount, currency, version,"
        " assignee, decision, decision_reason, decided_by, proposed_decision, proposed_reason, proposed_by,"
        " create_time, update_time)"
        " SELECT gen_random_uuid(), 'DUPLICATE_PAYMENT', $1 || id, 1, 'OPEN', app_id, id, jsonb_build_object('message', $1), 1,"
        " 'CNY', 1, '', '', '', '', '', '', '', now(), now() FROM pay_order ORDER BY id DESC LIMIT 1",
    )
    person = Person.start(browser, "en", size, f"hostile-{size}")
    live.log_in(person)
    shop, simulator, console = addresses["shop"], addresses["simulator"], live.console
    pages = [
        f"{console}/orders", f"{console}/orders/{order.id}", f"{console}/refunds", f"{console}/refunds/{refund.id}",
        f"{console}/notifications", f"{console}/notifications/{told[-1].id}", f"{console}/cases", f"{console}/search?q={ALL}",
        link, f"{simulator}/", f"{simulator}/trades/{trade}", f"{simulator}/cashier/{trade}",
        f"{simulator}/cashier/{trade}?problem={ALL}", shop,
    ]  # fmt: skip
    person.go(f"{console}/cases")
    pages.append(f"{console}{person.page.locator('main a.row-link').first.get_attribute('href')}")
    seen = ""
    for number, address in enumerate(pages):
        person.go(address)
        for details in person.page.locator("main details").all()[:12]:
            details.evaluate("one => one.open = true")
        owned, elements, scripts = person.page.evaluate(FOUND)
        assert (owned, elements) == (None, 0), address
        assert "owned" not in scripts, address
        seen += person.page.locator("body").inner_text()
        person.look(f"hostile-{number}")
    for text in (IMAGE, SCRIPT, QUOTE):
        assert text in seen
    person.end()
