"""A person at a browser: walks through pages, looks at each, and finds what is wrong with it."""

from __future__ import annotations

import functools
import itertools
import os
import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page
from playwright.sync_api import Error as PlaywrightError

ROOT = Path(__file__).resolve().parents[2]
SHOTS = Path(os.environ.get("E2E_SHOTS", ROOT / ".e2e"))
SIZES = {"desk": (1280, 900), "phone": (390, 844)}
LOCALES = {"en": "en-GB", "zh": "zh-CN"}
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
_RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
_WIDER = """() => { const most = document.documentElement.clientWidth;
  return document.documentElement.scrollWidth <= most ? [] : [...document.querySelectorAll("body *")]
  .filter(one => one.getBoundingClientRect().right > most + 1).slice(0, 3).map(one => one.outerHTML.slice(0, 150)) }"""


@functools.cache
def axe() -> str:
    """The source of axe-core."""
    return files("axe_playwright_python").joinpath("axe.min.js").read_text()


@dataclass
class Person:
    """One browser context. `problems`: what the browser complained about, and what axe found, since the beginning."""

    context: BrowserContext
    page: Page
    folder: Path
    problems: list[str] = field(default_factory=list)
    allowed: str = ""
    _count: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @classmethod
    def start(cls, browser: Browser, language: str, size: str, name: str, **options: Any) -> Person:
        """A new one. Its screenshots are in a folder of this name."""
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, locale=LOCALES[language], timezone_id="Asia/Shanghai",
            has_touch=size == "phone",
            **options,
        )  # fmt: skip
        context.set_default_timeout(10_000)
        folder = SHOTS / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
        person = cls(context, context.new_page(), folder)
        context.on("console", person._heard)
        context.on("weberror", lambda error: person.problems.append(f"{person.page.url}: {error.error}"))
        context.on("dialog", lambda dialog: person.problems.append(f"a dialog: {dialog.message}"))
        return person

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (self.allowed and re.search(self.allowed, message.text)):
            self.problems.append(f"{self.page.url}: {message.type}: {message.text}")

    def go(self, url: str, *, status: int = 200) -> None:
        """Open an address."""
        answer = self.page.goto(url)
        assert answer is not None and answer.status == status, (url, answer and answer.status)

    def press(self, selector: str) -> None:
        """A button or a link, and wait for the page that it leads to."""
        self.page.locator(selector).first.click()
        self.page.wait_for_load_state("load")

    def fill(self, **values: str) -> None:
        """Fields by name."""
        for name, value in values.items():
            self.page.locator(f"main [name={name}]").last.fill(value)

    def see(self, selector: str, text: str | re.Pattern[str] = "") -> Locator:
        """Wait until it is there."""
        found = self.page.locator(selector)
        found = found.filter(has_text=text).first if text else found.first
        try:
            found.wait_for()
        except PlaywrightError:
            self.page.screenshot(path=self.folder / "failed.png", full_page=True)
            raise
        return found

    def look(self, name: str, *, whole: bool = True) -> None:
        """Take a picture, and check what every page has to be: accessible, no wider than the screen, without complaints."""
        self.page.wait_for_load_state("load")
        self.page.screenshot(path=self.folder / f"{next(self._count):02d}-{name}.png", full_page=whole, animations="disabled")
        if wider := self.page.evaluate(_WIDER):
            self.problems.append(f"{name}: wider than the screen: {wider}")
        self.page.evaluate(axe())
        for found in self.page.evaluate("rules => axe.run(document, rules)", _RULES)["violations"]:
            nodes = [f"{node['html'][:160]} ({node['any'][0]['message'] if node['any'] else ''})" for node in found["nodes"][:2]]
            self.problems.append(f"{name} ({self.page.url}): axe {found['id']}: {nodes}")

    def end(self) -> None:
        """Close it. Fails with everything that was wrong."""
        self.context.close()
        assert not self.problems, "\n".join(dict.fromkeys(self.problems))
