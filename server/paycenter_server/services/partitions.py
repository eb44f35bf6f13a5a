"""The monthly partitions of the ledger and of the delivery log: made ahead, and dropped when they are older than is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from paycenter_server.services.context import Context
from paycenter_server.storage import partitions as partition_rows
from paycenter_server.storage.partitions import TABLES, Partition, months_before, name_of, next_month

log = structlog.get_logger(__name__)

AHEAD = 3
"""The months after the present one that have a partition."""


@dataclass(frozen=True, slots=True)
class Maintained:
    """The names of the partitions that were made and dropped, and a sentence for each month that cannot have one."""

    made: Sequence[str] = ()
    dropped: Sequence[str] = ()
    problems: Sequence[str] = ()


class Partitions:
    """Makes partitions ahead, and drops old ones."""

    def __init__(self, context: Context) -> None:
        self._context = context
        options = context.options
        self._kept = dict(zip(TABLES, (options.event_retention_months, options.notification_log_retention_months), strict=True))

    async def list(self) -> list[Partition]:
        """All partitions, with their sizes."""
        async with self._context.database.connection() as connection:
            return await partition_rows.list_partitions(connection, sizes=True)

    async def run(self) -> int:
        """`maintain`, as a job. How many partitions it made or dropped."""
        done = await self.maintain()
        return len(done.made) + len(done.dropped)

    async def maintain(self) -> Maintained:
        """Make those of this month and of the next months, and drop those that are not kept. The same again changes nothing.

        A partition is dropped only if it is old by the clock of this process and by that of the database, which has written the
        newest event: a clock that is wrong must not drop the ledger.
        """
        now = self._context.now()
        wanted = [months_before(now, -number) for number in range(AHEAD + 1)]
        async with self._context.database.connection() as connection:
            found = await partition_rows.list_partitions(connection)
            old = [one for one in found if self._is_old(one, now)]
            if old:
                newest = await partition_rows.newest_event(connection)
                old = [one for one in old if newest is not None and self._is_old(one, newest.astimezone(UTC))]
        # The first partition holds what is older too, or that was dropped: a clock that is behind needs no other.
        names = {one.name for one in found}
        first = {one.table: one.month for one in reversed(found) if one.month is not None}
        missing = [
            (table, month)
            for table in TABLES for month in wanted
            if name_of(table, month) not in names and (table not in first or month > first[table])
        ]  # fmt: skip
        made, problems = await self._make(missing) if missing else ([], [])
        # In a transaction of its own: what hinders a drop must not hinder the partitions of the next months.
        dropped = await self._drop(old) if old else []
        return Maintained(made, dropped, problems)

    async def _make(self, missing: Iterable[tuple[str, datetime]]) -> tuple[Sequence[str], Sequence[str]]:
        """The names of those that were made, and a sentence for each that cannot be made."""
        made, problems = [], []
        async with self._context.database.transaction() as transaction:
            await partition_rows.lock(transaction)
            names = {one.name for one in await partition_rows.list_partitions(transaction)}
            for table, month in missing:
                if name_of(table, month) in names:
                    continue
                if await partition_rows.has_rows(transaction, table, month):
                    problems.append(f"{table}_default holds rows of {month:%Y-%m}; they stay there, and are not dropped.")
                    continue
                made.append(await partition_rows.make(transaction, table, month))
        if made:
            log.info("partitions_made", names=made)
        for problem in problems:
            log.warning("partition_missing", why=problem)
        return made, problems

    async def _drop(self, old: Iterable[Partition]) -> Sequence[str]:
        """The names of those that were dropped."""
        async with self._context.database.transaction() as transaction:
            await partition_rows.lock(transaction)
            names = {one.name for one in await partition_rows.list_partitions(transaction)}
            dropped = [one for one in old if one.name in names]
            for one in dropped:
                await partition_rows.drop(transaction, one)
        if dropped:
            log.info("partitions_dropped", names=[one.name for one in dropped])
        return [one.name for one in dropped]

    def _is_old(self, partition: Partition, now: datetime) -> bool:
        months = self._kept[partition.table]
        return bool(months) and partition.month is not None and next_month(partition.month) <= months_before(now, months)
