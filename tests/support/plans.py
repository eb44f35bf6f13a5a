"""The rows that statements read."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from support.system import PayCenterSystem


def rows_read(plan: dict[str, Any]) -> int:
    """The rows that the scans of a plan have read, with those that a filter removed."""
    removed = sum(int(plan.get(name, 0)) for name in ("Rows Removed by Filter", "Rows Removed by Index Recheck"))
    own = (plan["Actual Rows"] + removed) * plan["Actual Loops"] if "Scan" in plan["Node Type"] else 0
    return int(own) + sum(rows_read(inner) for inner in plan.get("Plans", ()))


async def explained(system: PayCenterSystem, statement: str, *arguments: Any, before: str = "") -> int:
    """The rows that a statement reads under a generic plan, in a transaction that is rolled back. `before`: is run first."""
    connection = await asyncpg.connect(
        system.database_url, server_settings={"plan_cache_mode": "force_generic_plan", "jit": "off", "enable_seqscan": "off"}
    )
    try:
        opened = connection.transaction()
        await opened.start()
        if before:
            await connection.execute(before)
        (line,) = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
        await opened.rollback()
        return rows_read(json.loads(line[0])[0]["Plan"])
    finally:
        await connection.close()


class Spy:
    """A connection that keeps the statement that is executed, with its arguments."""

    def __init__(self) -> None:
        self.seen: tuple[Any, ...] = ()

    async def fetch(self, *statement: Any) -> list[Any]:
        self.seen = statement
        return []


async def cost(system: PayCenterSystem, call: Callable[[Any], Awaitable[Any]], before: str = "") -> int:
    """The rows that the statement of a storage function reads."""
    spy = Spy()
    await call(spy)
    return await explained(system, *spy.seen, before=before)
