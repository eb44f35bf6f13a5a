"""A real browser, driven over its DevTools protocol: enough to open a page at a size, to measure and to press."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from support.waiting import eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-port=0", "about:blank",
)  # fmt: skip
LEFT = ("navigated or closed", "context was destroyed", "Cannot find context")


class Navigated(Exception):
    """The page was left while the browser worked on a call."""


class Tab:
    """One page."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)

    async def call(self, method: str, **params: Any) -> Any:
        wanted = next(self._ids)
        await self._socket.send_json({"id": wanted, "method": method, "params": params})
        async with asyncio.timeout(20):
            while True:
                message = await self._socket.receive_json()
                if message.get("id") == wanted:
                    if any(reason in message.get("error", {}).get("message", "") for reason in LEFT):
                        raise Navigated
                    assert "error" not in message, message
                    return message["result"]

    async def evaluate(self, expression: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def holds(self, expression: str) -> bool:
        """Whether it is true of the page; False too while the browser goes from one page to the next."""
        try:
            return bool(await self.evaluate(expression))
        except Navigated:
            return False

    async def open(self, url: str, width: int, height: int) -> None:
        """At a size of the screen, and loaded."""
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        await self.call("Page.navigate", url=url)
        await self.loaded(url)

    async def loaded(self, url: str) -> None:
        await eventually(lambda: self.holds(f"document.readyState + ' ' + location.href === {json.dumps('complete ' + url)}"), 20)


@asynccontextmanager
async def open_tab(profile: Path) -> AsyncIterator[Tab]:
    """A browser of its own with one page."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, f"--user-data-dir={profile}", *FLAGS, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await eventually(lambda: (profile / "DevToolsActivePort").exists() and (profile / "DevToolsActivePort").read_text(), 30)
        port = (profile / "DevToolsActivePort").read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                address = next(page["webSocketDebuggerUrl"] for page in await answer.json() if page["type"] == "page")
            async with session.ws_connect(address, max_msg_size=0) as socket:
                yield Tab(socket)
    finally:
        process.terminate()
        await process.wait()
