"""The log is JSON, whoever writes it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SCRIPT = """
import asyncio, logging, sys, warnings
from paycenter_server.telemetry import configure_logging
configure_logging(sys.argv[1], "info")
import structlog
log = structlog.get_logger("own")
log.info("own_line", number=1)
for name in ("asyncio", "grpc._cython.cygrpc", "arq.worker", "aiohttp.web", "anything"):
    logging.getLogger(name).warning("a line of %s", name)
    logging.getLogger(name).info("too quiet")
try:
    raise ValueError("several\\nlines")
except ValueError:
    logging.getLogger("arq.worker").exception("failed")
    log.exception("own_failure")
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.web_protocol import RequestPayloadError
for error in (BadHttpMessage("bad\\nline"), RequestPayloadError("short")):
    try:
        raise error
    except Exception:
        logging.getLogger("aiohttp.server").exception("Error handling request from %s", "127.0.0.1")
try:
    raise KeyError("ours")
except KeyError:
    logging.getLogger("aiohttp.server").exception("Unhandled exception")
warnings.warn("old", DeprecationWarning)
warnings.warn("beware", RuntimeWarning)
async def lost():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0.01)
asyncio.run(lost())
"""


def lines(format_: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, format_], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_every_line_is_json() -> None:
    written: list[dict[str, Any]] = [json.loads(line) for line in lines("json")]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in written)
    events = [line["event"] for line in written]
    assert "too quiet" not in events
    for name in ("asyncio", "grpc._cython.cygrpc", "arq.worker", "aiohttp.web", "anything"):
        (line,) = [line for line in written if line["event"] == f"a line of {name}"]
        assert (line["level"], line["logger"]) == ("warning", name)
    (failed,) = [line for line in written if line["event"] == "failed"]
    assert "ValueError" in failed["exception"] and failed["level"] == "error"
    (ours,) = [line for line in written if line["event"] == "own_failure"]
    assert "ValueError" in ours["exception"]
    assert any("ZeroDivisionError" in str(line) for line in written)
    assert any("RuntimeWarning: beware" in event for event in events)


def test_what_a_client_sent_wrong_is_one_line_without_a_traceback() -> None:
    written: list[dict[str, Any]] = [json.loads(line) for line in lines("json")]
    wrong = [line for line in written if line.get("logger") == "aiohttp.server"]
    assert [("exception" in line, line["level"]) for line in wrong] == [(False, "warning"), (False, "warning"), (True, "error")]
    assert wrong[0]["event"] == "Error handling request from 127.0.0.1: BadHttpMessage: 400, message: bad line"


def test_the_console_shows_libraries_too() -> None:
    written = "\n".join(lines("console"))
    assert "a line of arq.worker" in written
    assert not written.startswith("{")
