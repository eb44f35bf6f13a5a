"""Kill points: where a process can be ended while PayCenter's code waits, found in the source and in the running coroutines.

A kill point is an `await`, `async with` or `async for` of a function in `services/`. `static_points` finds them all in the source.
`Stepped` runs a coroutine and calls a function at each suspension of the process, with the kill points at which it is.
"""

from __future__ import annotations

import ast
import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import CodeType
from typing import Any

import paycenter_server.services

SERVICES = Path(paycenter_server.services.__file__).parent
_STATEMENTS = (ast.AsyncWith, ast.AsyncFor)


@dataclass(frozen=True, order=True)
class KillPoint:
    """`module` is a file of services/, `function` its qualified name, `text` the first line of the source of the expression."""

    module: str
    function: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.function}: {self.text}"


class _Finder(ast.NodeVisitor):
    def __init__(self, module: str, source: str) -> None:
        self._module = module
        self._lines = source.splitlines()
        self._names: list[str] = []
        self.found: dict[tuple[int, int, int, int], KillPoint] = {}

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._named(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._named(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._named(node)

    def _named(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._names.append(node.name)
        self.generic_visit(node)
        self._names.pop()

    def visit_Await(self, node: ast.Await) -> None:
        self._add(node, node.end_lineno or node.lineno, node.end_col_offset or 0)
        self.generic_visit(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        last = node.items[-1].optional_vars or node.items[-1].context_expr
        self._add(node, last.end_lineno or node.lineno, last.end_col_offset or 0)
        self.generic_visit(node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self._add(node, node.iter.end_lineno or node.lineno, node.iter.end_col_offset or 0)
        self.generic_visit(node)

    def _add(self, node: ast.Await | ast.AsyncWith | ast.AsyncFor, line: int, column: int) -> None:
        text = self._lines[node.lineno - 1].strip()
        place = (node.lineno, node.col_offset, line, column)
        self.found[place] = KillPoint(self._module, ".".join(self._names), node.lineno, text)


@cache
def _points_of(path: str) -> dict[tuple[int, int, int, int], KillPoint]:
    source = Path(path).read_text()
    finder = _Finder(Path(path).name, source)
    finder.visit(ast.parse(source))
    return finder.found


def static_points() -> set[KillPoint]:
    """Every kill point in the source."""
    return {point for path in SERVICES.glob("*.py") for point in _points_of(str(path)).values()}


@cache
def _at(code: CodeType, instruction: int) -> KillPoint | None:
    """The innermost kill point of services/ that contains an instruction; None if there is none."""
    path = Path(code.co_filename)
    if path.parent != SERVICES:
        return None
    line, _, column, _ = list(code.co_positions())[instruction // 2]
    if line is None or column is None:
        return None
    inside = [(place, point) for place, point in _points_of(code.co_filename).items() if place[:2] <= (line, column) <= place[2:]]
    return max(inside, key=lambda found: found[0][:2])[1] if inside else None


def points_of(coroutine: Any) -> list[KillPoint]:
    """The kill points at which a suspended coroutine is, outermost first."""
    found = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is not None and (point := _at(frame.f_code, frame.f_lasti)) is not None:
            found.append(point)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return found


class Stepped:
    """Awaits a coroutine, and calls `suspended` with its kill points each time that it waits in services/."""

    def __init__(self, work: Coroutine[Any, Any, Any], suspended: Callable[[list[KillPoint]], None]) -> None:
        self._work = work
        self._suspended = suspended

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = partial(self._work.send, None)
        while True:
            try:
                waiting = step()
            except StopIteration as stop:
                return stop.value
            if points := points_of(self._work):
                self._suspended(points)
            try:
                value = yield waiting
            except BaseException as error:
                step = partial(self._work.throw, error)
            else:
                step = partial(self._work.send, value)


def step_all_tasks(loop: asyncio.AbstractEventLoop, suspended: Callable[[list[KillPoint]], None]) -> None:
    """From now on, step each new task of the loop."""

    async def stepped(work: Coroutine[Any, Any, Any]) -> Any:
        return await Stepped(work, suspended)

    def factory(of: asyncio.AbstractEventLoop, work: Any, context: Any = None) -> asyncio.Task[Any]:
        return asyncio.Task(stepped(work), loop=of, context=context)

    loop.set_task_factory(factory)


assert sys.version_info >= (3, 11), "positions of instructions"
