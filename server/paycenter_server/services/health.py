"""Whether this process can do its work: the database accepts writes, has the schema, and every sealing key is there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from paycenter_server.services.context import Context
from paycenter_server.storage import health as health_rows
from paycenter_server.storage.database import Connection, database_problem
from paycenter_server.storage.migrate import SchemaVersion, revision_of

log = structlog.get_logger(__name__)

PROBE_SECONDS = 2.0
"""A check that has not ended by then has failed."""
_KEYS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The failed checks, each with a sentence for the operator."""

    failures: Mapping[str, str]

    @property
    def ready(self) -> bool:
        """Whether calls may be sent to this process."""
        return not self.failures

    @property
    def text(self) -> str:
        """A sentence in a line for each failed check; "ok" if there is none."""
        return "\n".join(self.failures.values()) or "ok"


class Health:
    """Checks on demand. `fresh`: the seconds for which a result is used again, so that callers cannot load the database."""

    def __init__(self, context: Context, *, fresh: float = 0.5) -> None:
        self._context = context
        self._fresh = fresh
        self._schema = SchemaVersion()
        self._report = HealthReport({"start": "The first health check has not ended yet."})
        self._checked = float("-inf")
        self._keys_checked = float("-inf")
        self._missing_keys: list[str] = []
        self._newer: str | None = None
        self._why = ""
        self._running: asyncio.Task[HealthReport] | None = None

    @property
    def schema(self) -> str:
        """The revision of the schema that this version needs."""
        return self._schema.head

    async def check(self) -> HealthReport:
        """The report, within 2 seconds. Calls at the same time share one check."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._checked < self._fresh:
            return self._report
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._probe())
        # Another call may start the next probe before this one continues, so `_running` is not read again.
        probe = self._running
        # Not asyncio.timeout: asyncpg may need longer to give up a statement, and the answer must not wait for that.
        done, _ = await asyncio.wait({probe}, timeout=PROBE_SECONDS)
        if done and not probe.cancelled():
            report = probe.result()
        else:
            probe.cancel()
            report = HealthReport({"database": f"The database did not finish a small write within {PROBE_SECONDS:g} seconds."})
        self._checked = loop.time()
        self._record(report)
        return report

    def _record(self, report: HealthReport) -> None:
        if report.failures != self._report.failures:
            if report.ready:
                log.info("ready")
            else:
                log.warning("not_ready", failures=report.failures, why=self._why)
        self._report = report

    async def _probe(self) -> HealthReport:
        failures: dict[str, str] = {}
        self._why = ""
        try:
            async with self._context.database.connection() as connection:
                revision = await revision_of(connection)
                if self._schema.is_older(revision):
                    failures["schema"] = (
                        f"The database schema is at {revision or 'no revision'} and this version needs {self._schema.head}; "
                        "run `paycenter migrate`."
                    )
                    return HealthReport(failures)
                self._compare_revision(revision)
                await self._check_keys(connection)
                await health_rows.write_probe(connection)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # The details are for the log; the report is shown to everybody.
            failures["database"] = f"The database {database_problem(error)}."
            self._why = f"{type(error).__name__}: {error}"[:300]
        if self._missing_keys:
            failures["master_key"] = (
                f"Stored secrets are sealed with the master key {', '.join(self._missing_keys)}, "
                "which PAYCENTER_MASTER_KEY_FILE does not hold."
            )
        return HealthReport(failures)

    def _compare_revision(self, revision: str | None) -> None:
        if revision not in (self._schema.head, self._newer):
            log.warning("schema_is_newer", revision=revision, expected=self._schema.head)
        self._newer = revision

    async def _check_keys(self, connection: Connection) -> None:
        """At the first check, then every minute; while a key is missing, at every check."""
        now = asyncio.get_running_loop().time()
        if now - self._keys_checked < _KEYS_SECONDS and not self._missing_keys:
            return
        self._missing_keys = sorted(await health_rows.list_sealing_keys(connection) - self._context.box.key_ids)
        self._keys_checked = now
