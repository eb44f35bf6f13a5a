"""The demo merchant: what it accepts, what it refuses, what it shows."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from paycenter_server.local.merchant import KEPT, create_app
from standardwebhooks.webhooks import Webhook

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
NEXT = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()

Client = TestClient[Any, Any]


def write(file: Path, secret: str) -> None:
    file.write_text(json.dumps({"app": {"notification_secret": secret}}))


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
    **data: Any,
) -> int:
    kind = "pay_order.success" if path.endswith("order") else "pay_refund.success"
    event = {"type": kind, "timestamp": "2026-01-01T00:00:00Z", "object_id": number, "version": 1}
    payload = {**event, "data": {"merchant_order_id": "A-1", **data}}
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
