"""Waiting in tests: for a condition, never for a time. The only module of the tests that sleeps."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, overload

T = TypeVar("T")
_STEP = 0.01
# How long a condition may take. Shorter where tests are expected to fail: `make mutants`.
LIMIT_SECONDS = float(os.environ.get("TESTS_WAIT_SECONDS", "10"))


@overload
async def eventually(condition: Callable[[], Awaitable[T]], seconds: float = LIMIT_SECONDS) -> T: ...


@overload
async def eventually(condition: Callable[[], T], seconds: float = LIMIT_SECONDS) -> T: ...


async def eventually(condition: Callable[[], Any], seconds: float = LIMIT_SECONDS) -> Any:
    """The first true value of a condition, plain or async. AssertionError if it does not become true in time."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        value = await found if inspect.isawaitable(found) else found
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {_source(condition)}")
        await asyncio.sleep(_STEP)


async def pause(seconds: float = _STEP) -> None:
    """The time that a test double needs for a part of its answer, or between calls that a seed orders. Not for waiting."""
    await asyncio.sleep(seconds)


def eventually_sync(condition: Callable[[], T], seconds: float = LIMIT_SECONDS) -> T:
    """`eventually` for tests that are not async."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {_source(condition)}")
        time.sleep(_STEP)
    return value


async def ended(tasks: Sequence[asyncio.Task[Any]], seconds: float = LIMIT_SECONDS) -> list[Any]:
    """Results or exceptions of tasks, in their order. AssertionError if one does not end in time."""
    done, pending = await asyncio.wait(tasks, timeout=seconds)
    for task in pending:
        task.cancel()
    assert not pending, f"{len(pending)} of {len(done) + len(pending)} calls did not end within {seconds:g} s"
    return [task.exception() or task.result() for task in tasks]


def _source(condition: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)
