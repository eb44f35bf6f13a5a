"""The ten lines of the client's README run; against the whole system they run in tests/e2e."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook
from support.client_fakes import KEY_ID, KEY_SECRET, FakePayCenter

README = Path(__file__).resolve().parents[2] / "client" / "README.md"
SECRET = "whsec_" + "A" * 32


def ten_lines() -> str:
    match = re.search(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert match is not None
    return match[1]


def test_they_are_ten() -> None:
    lines = [line for line in ten_lines().splitlines() if line.strip() and not line.startswith(("import ", "from "))]
    assert len(lines) <= 10


def test_they_run(fake: FakePayCenter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"TARGET": fake.target, "KEY_ID": KEY_ID, "KEY_SECRET": KEY_SECRET, "NOTIFICATION_SECRET": SECRET}.items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {}
    exec(compile(ten_lines(), str(README), "exec"), names)
    assert "weixin://" in capsys.readouterr().out
    assert names["refund"].amount == 234
    event = {"type": "pay_order.success", "timestamp": "2026-01-01T00:00:00Z", "object_id": "O1", "version": 1}
    body = json.dumps({**event, "data": {"amount": 1234}})
    signature = Webhook(SECRET).sign("N1", datetime.now(UTC), body)
    headers = {"Webhook-Id": "N1", "Webhook-Timestamp": str(int(time.time())), "Webhook-Signature": signature}
    assert names["on_notification"](headers, body.encode()).data["amount"] == 1234
