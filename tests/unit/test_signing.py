"""Requests that are signed by a thread, several of them by one hand-over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from paycenter_server.services.signing import Signing
from support.waiting import eventually


class Counting(Executor):
    """Threads, and how often something was handed to them."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(1)
        self.handed = 0

    def submit(self, work: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        self.handed += 1
        return self.threads.submit(work, *args, **more)


async def test_what_waits_is_handed_over_together() -> None:
    threads = Counting()
    signing = Signing(threads)
    own = threading.get_ident()
    made = await asyncio.gather(*(signing.make(lambda number=number: (number, threading.get_ident())) for number in range(9)))  # type: ignore[misc]
    assert [number for number, _ in made] == list(range(9))
    assert own not in {thread for _, thread in made}
    assert threads.handed == 1
    assert await signing.make(lambda: 10) == 10
    assert threads.handed == 2


async def test_each_gets_its_own_error() -> None:
    def fail() -> int:
        raise ValueError("no key")

    signing = Signing(ThreadPoolExecutor(1))
    works: list[Callable[[], int]] = [lambda: 1, fail, lambda: 3]
    first, failed, third = await asyncio.gather(*(signing.make(work) for work in works), return_exceptions=True)
    assert (first, str(failed), third) == (1, "no key", 3)


async def test_a_caller_that_is_cancelled_does_not_stop_the_others() -> None:
    threads, gate = Counting(), threading.Event()
    signing = Signing(threads)
    waits = [asyncio.ensure_future(signing.make(work)) for work in (gate.wait, lambda: 2)]
    await eventually(lambda: threads.handed)
    left = asyncio.ensure_future(signing.make(lambda: 3))
    waits[0].cancel()
    await asyncio.wait({waits[0]})
    gate.set()
    assert (await waits[1], await left) == (2, 3)


async def test_threads_that_are_stopped_leave_nobody_waiting() -> None:
    threads, gate = Counting(), threading.Event()
    threads.submit(gate.wait)
    signing = Signing(threads)
    waits = [asyncio.ensure_future(signing.make(lambda: 1)) for _ in range(2)]
    await eventually(lambda: threads.handed == 2)
    threads.threads.shutdown(wait=False, cancel_futures=True)
    gate.set()
    done, _ = await asyncio.wait(waits)
    assert all(one.cancelled() for one in done)
    refused = asyncio.ensure_future(signing.make(lambda: 1))
    await asyncio.wait({refused})
    with pytest.raises((asyncio.CancelledError, RuntimeError)):
        refused.result()
