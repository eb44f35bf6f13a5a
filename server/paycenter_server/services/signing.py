"""Requests that are signed, by a thread that is given several together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Waiting:
    work: Callable[[], Any]
    done: asyncio.Future[Any]


class Signing:
    """A signature takes up to a millisecond of the processor: many after each other on the event loop would delay all other calls.

    To hand one to a thread costs a quarter of that, so the thread gets all that wait, and those that arrive meanwhile together.
    """

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._waiting: list[_Waiting] = []
        self._maker: asyncio.Task[None] | None = None

    async def make(self, work: Callable[[], T]) -> T:
        """The result of the work, which builds and signs a request."""
        waiting = _Waiting(work, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._maker is None:
            self._maker = asyncio.ensure_future(self._make_waiting())
        result: T = await waiting.done
        return result

    async def _make_waiting(self) -> None:
        loop, chosen = asyncio.get_running_loop(), self._waiting
        try:
            while self._waiting:
                chosen, self._waiting = self._waiting, []
                made = await loop.run_in_executor(self._threads, _all, [waiting.work for waiting in chosen])
                for waiting, (result, error) in zip(chosen, made, strict=True):
                    if waiting.done.done():
                        continue  # its caller was cancelled
                    if error is None:
                        waiting.done.set_result(result)
                    else:
                        waiting.done.set_exception(error)
        finally:
            self._maker = None
            for waiting in (*chosen, *self._waiting):
                waiting.done.cancel()  # the threads were stopped: nothing else would answer those that are left
            self._waiting = []


def _all(works: Sequence[Callable[[], Any]]) -> list[tuple[Any, Exception | None]]:
    """The result or the error of each."""
    made: list[tuple[Any, Exception | None]] = []
    for work in works:
        try:
            made.append((work(), None))
        except Exception as error:
            made.append((None, error))
    return made
