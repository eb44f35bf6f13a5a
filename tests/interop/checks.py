"""What the client programs share: named checks, one line each, and a helper for the simulator's control API.

Standard library only: it runs inside the throw-away environments.
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Checks:
    """Prints `PASS name` or `FAIL name: why`; `exit_code` tells whether any failed."""

    def __init__(self) -> None:
        self.exit_code = 0

    def run(self, name: str, check: Callable[[], None]) -> None:
        """One check; whatever it raises is its failure."""
        try:
            check()
        except Exception as error:
            self.exit_code = 1
            frame = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAIL {name}: {type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})", flush=True)
        else:
            print(f"PASS {name}", flush=True)


class Settings:
    """The one argument of a client program: a JSON file written by run.py."""

    def __init__(self, file: str) -> None:
        values = json.loads(Path(file).read_text(encoding="utf-8"))
        self.base: str = values["base"]
        self.keys = Path(values["keys"])
        self.notify_url: str = values["notify_url"]
        self.inbox = Path(values["inbox"])
        self.requests: list[dict[str, Any]] = values["requests"]
        self.ids: dict[str, dict[str, str]] = json.loads((self.keys / "keys.json").read_text(encoding="utf-8"))

    def text(self, channel: str, name: str) -> str:
        """A key file."""
        return (self.keys / channel / name).read_text(encoding="ascii")

    def control(self, path: str, document: object) -> Any:
        """POST to the simulator's own API."""
        request = urllib.request.Request(self.base + path, data=json.dumps(document).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def notification(self, mark: str, seconds: float = 5.0) -> tuple[dict[str, str], bytes]:
        """The oldest notification not taken yet that was sent to `notify_url + mark`: headers and raw body."""
        document = eventually(lambda: self._take(mark), lambda found: found is not None, seconds)
        assert document is not None
        return document["headers"], base64.b64decode(document["body"])

    def _take(self, mark: str) -> dict[str, Any] | None:
        for file in sorted(self.inbox.glob("*.json")):
            document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if document["path"].endswith(mark):
                file.unlink()
                return document
        return None

    @contextlib.contextmanager
    def tomorrow(self) -> Iterator[None]:
        """The simulator's clock a day later, so that the bill of today can be had. It checks signatures by real time."""
        self.control("/simulator/clock", {"advance_seconds": 86400})
        try:
            yield
        finally:
            self.control("/simulator/clock", {"reset": True})


def eventually(read: Callable[[], T], condition: Callable[[T], bool], seconds: float = 5.0) -> T:
    """Read until the condition is true for the value; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition(value := read()):
        assert time.monotonic() < deadline, f"the condition did not become true in time; the last value is {value!r}"
        time.sleep(0.02)
    return value


def china_date() -> str:
    """Today, there."""
    return time.strftime("%Y-%m-%d", time.gmtime(time.time() + 8 * 3600))
