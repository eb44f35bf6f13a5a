"""The monthly partitions of the ledger and of the delivery log: made ahead, and dropped when they are older than is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from paycenter_server.services.context import Context
from paycenter_server.storage import partitions as partition_rows
from paycenter_server.storage.database import LockTimeout
from paycenter_server.storage.partitions import TABLES, Partition, months_before, name_of, next_month

log = structlog.get_logger(__name__)

AHEAD = 3
"""The months after the present one that have a partition."""

PAUSE_AFTER_FAILURE = timedelta(minutes=10)
"""The job does nothing for so long after a pass that failed. A backup takes hours, and each try makes calls wait behind it."""


@dataclass(frozen=True, slots=True)
class Maintained:
    """The names of the partitions that were made and dropped, and a sentence for each month that cannot have one.

    `locked`: a sentence about those that were not made, and one about those that were not dropped, because a table is locked.
    """

    made: Sequence[str] = ()
    dropped: Sequence[str] = ()
    problems: Sequence[str] = ()
    locked: Sequence[str] = ()


class Partitions:
    """Makes partitions ahead, and drops old ones."""

    def __init__(self, context: Context) -> None:
        self._context = context
        options = context.options
        self._failed: datetime | None = None
        self._kept = dict(zip(TABLES, (options.event_retention_months, options.notification_log_retention_months), strict=True))

    async def list(self) -> list[Partition]:
        """All partitions, with their sizes."""
        async with self._context.database.connection() as connection:
            return await partition_rows.list_partitions(connection, sizes=True)

    async def run(self) -> int:
        """`maintain`, as a job. How many partitions it made or dropped. After a failure it does nothing for PAUSE_AFTER_FAILURE."""
        now = self._context.now()
        # Not after it either: a clock that was set back must not make the pause longer.
        if self._failed is not None and self._failed <= now < self._failed + PAUSE_AFTER_FAILURE:
            return 0
        self._failed = now
        done = await self.maintain()
        if not done.locked:
            self._failed = None
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
        made, problems, unmade = await self._make(missing)
        # Later: what hinders a drop must not hinder the partitions of the next months.
        dropped, undropped = await self._drop(old)
        return Maintained(made, dropped, problems, [*unmade, *undropped])

    async def _make(self, missing: Sequence[tuple[str, datetime]]) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
        """The names of those that were made, a sentence for each that cannot be made, and one if a table is locked.

        Each is made in a transaction of its own, so that none holds its locks while it waits for those of another one.
        """
        made, problems, locked = [], [], []
        for number, (table, month) in enumerate(missing):
            try:
                async with self._context.database.transaction() as transaction:
                    await partition_rows.lock(transaction)
                    if name_of(table, month) in {one.name for one in await partition_rows.list_partitions(transaction)}:
                        continue
                    if await partition_rows.has_rows(transaction, table, month):
                        problems.append(f"{table}_default holds rows of {month:%Y-%m}; they stay there, and are not dropped.")
                        continue
                    name = await partition_rows.make(transaction, table, month)
            except LockTimeout:
                locked.append(_locked("made", [name_of(*one) for one in missing[number:]]))
                break
            made.append(name)
        if made:
            log.info("partitions_made", names=made)
        for problem in problems:
            log.warning("partition_missing", why=problem)
        return made, problems, locked

    async def _drop(self, old: Sequence[Partition]) -> tuple[Sequence[str], Sequence[str]]:
        """The names of those that were dropped, and a sentence if a table is locked. Each in a transaction, as in `_make`."""
        dropped, locked = [], []
        for number, one in enumerate(old):
            try:
                async with self._context.database.transaction() as transaction:
                    await partition_rows.lock(transaction)
                    if one.name not in {other.name for other in await partition_rows.list_partitions(transaction)}:
                        continue
                    await partition_rows.drop(transaction, one)
            except LockTimeout:
                locked.append(_locked("dropped", [other.name for other in old[number:]]))
                break
            dropped.append(one.name)
        if dropped:
            log.info("partitions_dropped", names=dropped)
        return dropped, locked

    def _is_old(self, partition: Partition, now: datetime) -> bool:
        months = self._kept[partition.table]
        return bool(months) and partition.month is not None and next_month(partition.month) <= months_before(now, months)


def _locked(done: str, names: Sequence[str]) -> str:
    """The sentence for an operator, which is logged too. `done`: made or dropped."""
    why = (
        f"Not {done}, because another transaction has locked a table: {', '.join(names)}. It may be a backup or a long query; "
        f"pg_stat_activity shows it. Run `paycenter partitions` again after it has ended. The worker tries again in "
        f"{PAUSE_AFTER_FAILURE.seconds // 60} minutes."
    )
    log.warning("partitions_locked", why=why)
    return why
