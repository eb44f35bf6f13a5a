"""Keeps the plan of each statement of storage/ while it is executed, and the place that issued it.

A statement is explained in a transaction of its own, or within a savepoint, before it is executed, and that is rolled back. So its
rows are there, and the plan says how many were read.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import asyncpg
from paycenter_server import storage

STORAGE = Path(storage.__file__).parent
METHODS = ("fetch", "fetchrow", "fetchval", "execute")
SAMPLES = 2
"""How many executions of one text are explained."""
_EXAMINED = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
_PLACE = re.compile(r"\$(\d+)")
_NUMBERS = count()


@dataclass
class Statement:
    """A text, the functions of storage/ that issued it (as "module.function"), and its executed plans."""

    text: str
    by: set[str] = field(default_factory=set)
    plans: list[dict[str, Any]] = field(default_factory=list)
    tries: int = 0

    def __str__(self) -> str:
        return f"{', '.join(sorted(self.by))}: {' '.join(self.text.split())[:160]}"


def call_sites() -> dict[str, list[tuple[int, int]]]:
    """The first and the last line of each call that executes a statement, by "module.function"."""
    found: dict[str, list[tuple[int, int]]] = {}
    for path in sorted(STORAGE.glob("*.py")):
        for function in [item for item in ast.parse(path.read_text()).body if isinstance(item, ast.AsyncFunctionDef)]:
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in METHODS:
                    place = (call.lineno, call.end_lineno or call.lineno)
                    found.setdefault(f"{path.stem}.{function.name}", []).append(place)
    return found


class Examiner:
    """What was executed while it is installed."""

    def __init__(self) -> None:
        self.statements: dict[str, Statement] = {}
        self.lines: set[tuple[str, int]] = set()
        """Name of the function and line of each call."""

    def missing(self) -> list[str]:
        """The calls of storage/ that were not executed."""
        return [
            f"{name}, line {first}"
            for name, places in call_sites().items()
            for first, last in places
            if not any(seen == name and first <= line <= last for seen, line in self.lines)
        ]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Examine what every connection executes meanwhile."""
        before = {name: getattr(asyncpg.Connection, name) for name in METHODS}
        for name, method in before.items():
            setattr(asyncpg.Connection, name, self._around(method, before["fetch"]))
        try:
            yield
        finally:
            for name, method in before.items():
                setattr(asyncpg.Connection, name, method)

    def _around(self, method: Any, fetch: Any) -> Any:
        def called(connection: Any, text: str, *arguments: Any, **more: Any) -> Any:
            functions = self._functions(sys._getframe(1))
            # Several commands in one text are those of the health check, which has a table of its own.
            if not functions or not _EXAMINED.match(text) or ";" in text:
                return method(connection, text, *arguments, **more)
            statement = self.statements.setdefault(text, Statement(text))
            statement.by |= functions
            if statement.tries >= SAMPLES:
                return method(connection, text, *arguments, **more)
            statement.tries += 1

            async def explained() -> Any:
                if (plan := await executed_plan(connection, fetch, text, arguments)) is not None:
                    statement.plans.append(plan)
                return await method(connection, text, *arguments, **more)

            return explained()

        return called

    def _functions(self, frame: FrameType | None) -> set[str]:
        """The functions of storage/ that are executing a statement. The line of the innermost one is noted."""
        found: set[str] = set()
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.parts[-3:-1] == STORAGE.parts[-2:]:  # also of a copy of the tree (`make mutants`)
                name = f"{path.stem}.{frame.f_code.co_name}"
                if not found:
                    self.lines.add((name, frame.f_lineno))
                found.add(name)
            frame = frame.f_back
        return found


async def connection_as_ours(url: str) -> asyncpg.Connection:
    """A connection with the settings of storage/database.py, and generic plans."""
    settings = {"enable_seqscan": "off", "jit": "off", "plan_cache_mode": "force_generic_plan"}
    return await asyncpg.connect(url, server_settings=settings)


async def executed_plan(connection: Any, fetch: Any, text: str, arguments: tuple[Any, ...]) -> dict[str, Any] | None:
    """The generic plan of a statement, executed with these arguments and rolled back; None if it is refused."""
    opened = connection.transaction()
    await opened.start()
    try:
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        prepared = await connection.prepare(text)
        types = [one.name for one in prepared.get_parameters()]
        values: list[str] = []
        if types:
            quoted = ", ".join(f"quote_nullable(${number}::{kind}::text)" for number, kind in enumerate(types, 1))
            (row,) = await fetch(connection, f"SELECT {quoted}", *arguments)
            values = [f"{value}::{kind}" for value, kind in zip(row, types, strict=True)]
        name = f"examined_{next(_NUMBERS)}"  # it stays until the connection ends
        await connection.execute(f"PREPARE {name} AS {text}")
        given = f"({', '.join(values)})" if values else ""
        (line,) = await fetch(connection, f"EXPLAIN (ANALYZE, BUFFERS OFF, TIMING OFF, FORMAT JSON) EXECUTE {name}{given}")
        return _plan(line[0])
    except asyncpg.IntegrityConstraintViolationError:
        return None  # the statement is meant to fail so
    finally:
        await opened.rollback()


async def generic_plan(connection: asyncpg.Connection, text: str) -> dict[str, Any]:
    """The plan of a statement for any arguments, which is not executed. The connection forces generic plans."""
    await connection.execute(f"PREPARE examined AS {text}")
    places = max((int(number) for number in _PLACE.findall(text)), default=0)
    given = f"({', '.join(['NULL'] * places)})" if places else ""
    plan = _plan(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE examined{given}"))
    await connection.execute("DEALLOCATE examined")
    return plan


def _plan(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = (json.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"]
    return found
