"""The demo shop: what it accepts, what it refuses, what it shows, and an order of it from the first page to the refund."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from paycenter.examples.shop_server import create_app
from paycenter.examples.shop_store import KEPT, Store
from standardwebhooks.webhooks import Webhook
from support.waiting import eventually

from .conftest import RunningPayCenter

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
NEXT = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()

Client = TestClient[Any, Any]


def write(file: Path, secret: str) -> None:
    app = {"key_id": "app_1", "key_secret": "s", "notification_secret": secret}
    file.write_text(json.dumps({"app": app, "addresses": {"grpc": "127.0.0.1:1"}}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "dev.json"
    write(path, SECRET)
    return path


@pytest.fixture
async def merchant(file: Path) -> AsyncIterator[Client]:
    async with TestClient(TestServer(create_app(file))) as client:
        yield client


async def tell(
    client: Client,
    number: str = "N1",
    secret: str = SECRET,
    path: str = "/notifications/order",
    body: bytes | None = None,
    kind: str = "",
    object_id: str = "",
    version: int = 1,
    **data: Any,
) -> int:
    refund = path.endswith("refund")
    kind = kind or ("pay_refund.success" if refund else "pay_order.success")
    event = {"type": kind, "timestamp": "2026-01-01T00:00:00Z", "object_id": object_id or number, "version": version}
    about = {"merchant_refund_no": "A-1-1", "state": "SUCCESS"} if refund else {"paid_amount": 1}
    payload = {**event, "data": {"merchant_order_id": "A-1", **about, **data}}
    raw = json.dumps(payload).encode()
    now = datetime.now(UTC)
    headers = {
        "Webhook-Id": number,
        "Webhook-Timestamp": str(int(now.timestamp())),
        "Webhook-Signature": Webhook(secret).sign(number, now, raw.decode()),
    }
    async with client.post(path, data=raw if body is None else body, headers=headers) as answer:
        return answer.status


async def listed(client: Client, **query: str) -> list[dict[str, Any]]:
    async with client.get("/notifications", params=query) as answer:
        found: list[dict[str, Any]] = (await answer.json())["notifications"]
        return found


async def shown(client: Client, path: str, **options: Any) -> str:
    async with client.get(path, **options) as answer:
        assert answer.status == 200
        return str(await answer.text())


async def test_verified_and_counted_once(merchant: Client) -> None:
    assert await tell(merchant) == 200
    assert await tell(merchant) == 200
    (one,) = await listed(merchant)
    assert (one["id"], one["verified"], one["deliveries"], one["data"]["merchant_order_id"]) == ("N1", True, 2, "A-1")
    assert one["headers"]["webhook-id"] == "N1"


async def test_refused(merchant: Client) -> None:
    assert await tell(merchant, secret=NEXT) == 401
    assert await tell(merchant, body=b"{}") == 401
    async with merchant.post("/notifications/order", data=b"hello") as answer:
        assert answer.status == 401
    assert [one["verified"] for one in await listed(merchant)] == [False] * 3
    # One that was forged under the same id does not hide the real one, nor the other way round.
    assert await tell(merchant) == 200
    assert await tell(merchant, secret=NEXT) == 401
    assert [one["verified"] for one in await listed(merchant)] == [False, True, False, False, False]


async def test_filters(merchant: Client) -> None:
    await tell(merchant, "N1")
    await tell(merchant, "N2", path="/notifications/refund")
    await tell(merchant, "N3", merchant_order_id="A-2")
    assert [one["id"] for one in await listed(merchant)] == ["N3", "N2", "N1"]
    assert [one["id"] for one in await listed(merchant, type="pay_refund.success")] == ["N2"]
    assert [one["id"] for one in await listed(merchant, type="pay_order.success", merchant_order_id="A-2")] == ["N3"]


async def test_the_file_appears_and_changes(tmp_path: Path) -> None:
    file = tmp_path / "dev.json"
    async with TestClient(TestServer(create_app(file))) as client:
        assert await tell(client) == 503
        file.write_text('{"app"')
        assert await tell(client) == 503
        write(file, SECRET)
        assert await tell(client) == 200
        new = tmp_path / "dev.new"
        write(new, NEXT)
        os.replace(new, file)
        assert await tell(client, "N2") == 401
        assert await tell(client, "N3", secret=NEXT) == 200
        file.unlink()
        assert await tell(client, "N4", secret=NEXT) == 200


async def test_the_last_ones_are_kept(merchant: Client) -> None:
    for number in range(KEPT + 5):
        await tell(merchant, f"N{number}")
    kept = await listed(merchant)
    assert (len(kept), kept[0]["id"], kept[-1]["id"]) == (KEPT, f"N{KEPT + 4}", "N5")
    assert await tell(merchant, "N0") == 200
    assert (await listed(merchant))[0]["id"] == "N0"


async def test_the_page(merchant: Client) -> None:
    async with merchant.get("/") as answer:
        assert "Nothing yet" in await answer.text()
    await tell(merchant, subject="<script>alert(1)</script>")
    await tell(merchant, '<img src=x>"', secret=NEXT)
    async with merchant.get("/") as answer:
        text = await answer.text()
    assert "verified" in text
    assert "refused" in text
    assert "<script>" not in text
    assert "<img" not in text
    assert SECRET not in text
    async with merchant.get("/healthz") as answer:
        assert await answer.text() == "ok"


async def test_an_older_notification_changes_nothing(merchant: Client, tmp_path: Path) -> None:
    store = Store(tmp_path / "shop.sqlite")
    store.add_order("A-1", "Tea", 100)
    store.close()
    async with TestClient(TestServer(create_app(tmp_path / "dev.json", tmp_path / "shop.sqlite"))) as client:
        await tell(client, "N2", paid_amount=100, version=2)
        assert await tell(client, "N1", kind="pay_order.closed", object_id="N2") == 200
        assert "paid" in await shown(client, "/orders/A-1")
    # After a restart too.
    async with TestClient(TestServer(create_app(tmp_path / "dev.json", tmp_path / "shop.sqlite"))) as client:
        assert await tell(client, "N0", kind="pay_order.closed", object_id="N2") == 200
        assert 'class="state good">paid<' in await shown(client, "/orders/A-1")
        assert await tell(client, "N3", kind="pay_order.closed", object_id="N2", version=3) == 200
        assert 'class="state muted">closed<' in await shown(client, "/orders/A-1")


async def test_broken(merchant: Client) -> None:
    async with merchant.post("/broken", data={"broken": "1"}) as answer:
        assert "answered with 500: 0" in await answer.text()
    assert await tell(merchant) == 500
    assert await listed(merchant) == []
    assert "answered with 500: 1" in await shown(merchant, "/")
    async with merchant.post("/broken", data={"broken": "0"}, headers={"Sec-Fetch-Site": "cross-site"}) as answer:
        assert answer.status == 403
    async with merchant.post("/broken", data={"broken": "0"}) as answer:
        assert answer.status == 200
    assert await tell(merchant) == 200


async def test_languages(merchant: Client) -> None:
    assert "Huawei phone" in await shown(merchant, "/")
    assert "华为手机" in await shown(merchant, "/", headers={"Accept-Language": "zh-CN,zh;q=0.9"})
    assert "华为手机" in await shown(merchant, "/?lang=zh")
    assert "演示商店" in await shown(merchant, "/")


async def test_an_address_that_is_not_of_the_cashier(merchant: Client) -> None:
    query = "pay_order_id=O1&merchant_order_id=A-1&state=SUCCESS&timestamp=1&sign=00"
    for path in ("/return", f"/return?{query}"):
        async with merchant.get(path) as answer:
            assert answer.status == 400


async def test_paycenter_is_away(merchant: Client) -> None:
    async with merchant.post("/orders", data={"product": "3"}) as answer:
        assert answer.status == 502
        assert "That did not work" in await answer.text()
    # The shop knows its order, and makes the same call again.
    assert "not paid yet" in await shown(merchant, "/")
    async with merchant.post("/orders", data={"product": "9"}) as answer:
        assert answer.status == 400


async def test_an_order_is_paid_and_refunded(running_paycenter: RunningPayCenter) -> None:
    """With the shop that `dev` runs."""
    shop, simulator = running_paycenter.addresses["shop"], running_paycenter.addresses["simulator"]

    async def page_with(text: str) -> str:
        async def look() -> str:
            async with client.get(f"{shop}/orders/{number}") as answer:
                found = await answer.text()
            return found if text in found else ""

        return await eventually(look)

    with running_paycenter.client() as pay:
        async with ClientSession() as client:
            async with client.post(f"{shop}/orders", data={"product": "4"}, allow_redirects=False) as answer:
                assert answer.status == 303
                assert answer.headers["Location"].startswith(f"{running_paycenter.addresses['callback']}/cashier/")
            order = next(pay.list_orders())
            number = order.merchant_order_id
            assert (order.subject, order.amount, order.return_url) == ("Asus laptop", 1000, f"{shop}/return")
            # Going to the cashier again makes no second pay order.
            async with client.post(f"{shop}/orders/{number}/pay", allow_redirects=False) as answer:
                assert answer.status == 303
            assert "not paid yet" in await page_with(order.id)
            trade = pay.submit_order(order, "wx_native").out_trade_no
            async with client.post(f"{simulator}/simulator/pay/{trade}") as answer:
                assert answer.status == 200
            await page_with(">paid<")
            refunds = f"{shop}/orders/{number}/refunds"
            async with client.post(refunds, data={"amount": "20", "reason": "too much"}) as answer:
                assert answer.status == 409
            async with client.post(refunds, data={"amount": "1.5.5"}) as answer:
                assert answer.status == 422
            async with client.post(refunds, data={"amount": "4", "reason": "<b>"}) as answer:
                assert answer.status == 200
            assert "&lt;b&gt;" in await page_with(">partly refunded<")
            async with client.post(refunds, data={"amount": "6"}) as answer:
                assert answer.status == 200
            await page_with(">refunded<")
            assert [one.amount for one in pay.list_refunds(merchant_order_id=number)] == [600, 400]
