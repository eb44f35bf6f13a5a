"""The simulator's pages in a real browser, on the screen of a phone and of a desk: nothing sticks out, a thumb hits, it pays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from simulator.merchant import AlipayClient, SimulatorSystem, WechatClient
from support.waiting import eventually

from .chromium import CHROMIUM, Tab, open_tab

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine (.ci/run installs it)")
PHONE, DESK = (390, 844), (1280, 900)
HOSTILE = "<script>document.title='owned'</script>" + "W" * 80
SMALL = """Array.from(document.querySelectorAll('button, input:not([type=hidden]), select, textarea'))
  .filter(one => one.offsetParent && one.getBoundingClientRect().height < 43.5).map(one => one.outerHTML.slice(0, 120))"""


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[SimulatorSystem]:
    from paycenter_server.simulator.keys import generate_keys

    started = await SimulatorSystem.start(generate_keys(tmp_path / "keys"), tmp_path / "trades.sqlite3")
    yield started
    await started.stop()


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    async with open_tab(tmp_path / "profile") as opened:
        yield opened


async def trades(system: SimulatorSystem) -> tuple[str, str]:
    """One at each channel, with the longest numbers and subjects, and a request that was refused."""
    wechat, alipay = "W" * 32, "A" * 64
    client = WechatClient(system)
    await client.create(wechat, description=HOSTILE)
    await client.call("POST", "/v3/pay/transactions/native", client.order(wechat), signature="AAAA")
    await AlipayClient(system).precreate(alipay, subject=HOSTILE + "字" * 100)
    return wechat, alipay


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
async def test_nothing_sticks_out_and_a_thumb_hits(system: SimulatorSystem, tab: Tab, size: tuple[int, int]) -> None:
    numbers = await trades(system)
    await system.fault("wx.refund", "timeout_after_commit", out_trade_no=numbers[0], seconds=3600)
    for path in ("/", *(f"/{page}/{number}" for page in ("trades", "cashier") for number in numbers), "/trades/nothing"):
        await tab.open(system.base + path, *size)
        assert await tab.evaluate("document.documentElement.scrollWidth") <= size[0], path
        assert await tab.evaluate(SMALL) == [], path
        assert await tab.evaluate("document.title") != "owned", path
    await tab.open(f"{system.base}/trades/{numbers[0]}", *size)
    text = await tab.evaluate("document.body.innerText")
    assert "refused: SIGN_ERROR" in text
    assert "valid" in text


async def press(tab: Tab, label: str) -> None:
    """The button with this text; the page that it leads to is there when this returns."""
    await tab.evaluate("window.here = true")
    pressed = await tab.evaluate(
        f"""(() => {{ const found = Array.from(document.querySelectorAll('button')).find(one => one.innerText.trim() === {label!r});
        if (found) found.click(); return Boolean(found) }})()"""
    )
    assert pressed, label
    await eventually(lambda: tab.holds("document.readyState === 'complete' && window.here !== true"))


async def test_a_thumb_fails_pays_and_refunds(system: SimulatorSystem, tab: Tab) -> None:
    number, _ = await trades(system)

    async def trade() -> Any:
        return (await system.get(f"/simulator/trades/{number}")).json

    await tab.open(f"{system.base}/cashier/{number}", *PHONE)
    await press(tab, "Fail")
    assert [event["what"] for event in (await trade())["events"]][-1] == "payment failed"
    await press(tab, "Pay")
    assert ((await trade())["paid"], (await trade())["paid_amount"]) == (True, 100)
    await tab.open(f"{system.base}/cashier/{number}", *PHONE)
    await tab.evaluate("document.querySelector('input[name=amount]').value = '0.40'")
    await press(tab, "Refund in the console")
    assert (await trade())["refunded"] == 40
