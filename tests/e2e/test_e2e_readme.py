"""The ten lines of the client's README, against the whole system."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paycenter import OrderState, RefundState
from support.waiting import eventually_sync

from .conftest import RunningPayCenter, fetch

README = Path(__file__).resolve().parents[2] / "client" / "README.md"


@pytest.fixture
def payer(running_paycenter: RunningPayCenter) -> Iterator[None]:
    """Pays whatever can be paid at the simulator, as a person with a phone would."""
    simulator, stop = running_paycenter.addresses["simulator"], threading.Event()

    def pay() -> None:
        while not stop.wait(0.1):
            for trade in fetch(f"{simulator}/simulator/trades"):
                if not trade["paid"] and not trade["closed_at"]:
                    fetch(f"{simulator}/simulator/pay/{trade['out_trade_no']}", "POST")

    thread = threading.Thread(target=pay, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join(5)


def notifications_of(running: RunningPayCenter, kind: str) -> list[dict[str, Any]]:
    url = f"{running.addresses['shop']}/notifications?type={kind}&merchant_order_id=tea-1"

    def found() -> list[dict[str, Any]]:
        return list(fetch(url)["notifications"])

    return eventually_sync(found)


@pytest.mark.usefixtures("payer")
def test_ten_lines(
    running_paycenter: RunningPayCenter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    match = re.search(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert match is not None
    app = running_paycenter.data["app"]
    monkeypatch.setenv("TARGET", running_paycenter.addresses["grpc"])
    for name in ("key_id", "key_secret", "notification_secret"):
        monkeypatch.setenv(name.upper(), app[name])
    names: dict[str, Any] = {}
    exec(compile(match[1], str(README), "exec"), names)
    assert "weixin://wxpay/" in capsys.readouterr().out
    assert names["order"].state == OrderState.SUCCESS
    assert names["order"].paid_amount == 1234
    assert names["refund"].state == RefundState.SUCCESS
    for kind, amount in (("pay_order.success", 1234), ("pay_refund.success", 234)):
        received = notifications_of(running_paycenter, kind)
        assert len(received) == 1
        notification = names["on_notification"](received[0]["headers"], received[0]["body"].encode())
        assert (notification.type, notification.data["amount"]) == (kind, amount)
