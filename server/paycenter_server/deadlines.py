"""Time limits of blocks that share a timer."""

from __future__ import annotations

import asyncio
from typing import Any

_TICK = 0.001  # uvloop's timers have whole milliseconds


class _Deadline:
    """A block that is cancelled at a time, as `asyncio.timeout` does it."""

    __slots__ = ("_all", "_cancelling", "_expired", "_task", "due")

    def __init__(self, all_: Deadlines, due: float, task: asyncio.Task[Any]) -> None:
        self._all = all_
        self._task = task
        self._expired = False
        self.due = due

    def __enter__(self) -> None:
        self._cancelling = self._task.cancelling()
        self._all.add(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._all.remove(self)
        # Not if somebody else has cancelled the task too.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Cancel the block."""
        self._expired = True
        self._task.cancel()


class Deadlines:
    """Blocks that may take the same number of seconds each. They share a timer, because one for each costs as much as a signature
    and more: they end in the order in which they began, and mostly before their time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._blocks: dict[_Deadline, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def next(self, task: asyncio.Task[Any] | None = None) -> _Deadline:
        """For `with`: TimeoutError if the block takes longer. It begins now. `task`: the current one, if it is known."""
        running = task or asyncio.current_task()
        assert running is not None
        return _Deadline(self, asyncio.get_running_loop().time() + self._seconds, running)

    def add(self, block: _Deadline) -> None:
        """A block begins."""
        self._blocks[block] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(block.due, self._expire)

    def remove(self, block: _Deadline) -> None:
        """A block ends."""
        self._blocks.pop(block, None)

    def _expire(self) -> None:
        self._timer, loop = None, asyncio.get_running_loop()
        now = loop.time()
        for block in list(self._blocks):
            if block.due > now + _TICK:
                self._timer = loop.call_at(block.due, self._expire)
                return
            del self._blocks[block]
            block.expire()
