"""The audit: every administrative act in the transaction of the act, and refused attempts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from paycenter_server.domain.audit import FIRST_HASH, AuditEntry, changed, clean, current_origin
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.events import ActorKind
from paycenter_server.services.paging import Page, Pager
from paycenter_server.storage import audit as audit_rows
from paycenter_server.storage.audit import AuditFilter
from paycenter_server.storage.database import Connection, Database, Transaction, retryable_error
from paycenter_server.telemetry import Sampled

log = structlog.get_logger(__name__)
BATCH = 1000
_NO_TIME = datetime.fromtimestamp(0, UTC)
# Refused attempts of a process that get a row. Anybody can make attempts; those above the limit are in the log only.
REFUSED_PER_MINUTE = 60


@dataclass(frozen=True, slots=True)
class Act:
    """An administrative act. `name`: of the method. `about`: the number or name of what it changed. `app_key`: the app of that."""

    name: str
    about: str = ""
    app_key: str = ""


async def record(
    transaction: Transaction,
    caller: Caller,
    act: Act,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    *,
    outcome: str = "OK",
) -> None:
    """Append an act of an operator in its transaction, with the values that differ. It is the transaction's last statement, because
    the lock of the head serialises every administrative act until the commit. Acts of apps are not administrative."""
    if not caller.is_operator and outcome == "OK":
        return
    if before is not None and after is not None:
        before, after = changed(before, after)
    await _append(transaction, _entry(caller, act, outcome, before, after))


def _entry(
    caller: Caller, act: Act, outcome: str, before: Mapping[str, Any] | None = None, after: Mapping[str, Any] | None = None
) -> AuditEntry:
    origin = current_origin()
    kind = ActorKind.SYSTEM if caller.is_operator and caller.operator_id is None else caller.actor.kind
    return AuditEntry(
        id=0,
        time=_NO_TIME,
        actor_kind=kind.value,
        actor=clean(caller.key_id, 64),
        operator=clean(caller.operator_name, 64),
        act=act.name[:64],
        object=clean(act.about),
        outcome=outcome,
        app_key=clean(act.app_key or caller.app_key, 64),
        before=dict(before) if before else None,
        after=dict(after) if after else None,
        peer=origin.peer,
        request_id=origin.request_id,
        previous_hash=FIRST_HASH,
        hash=b"",
    )


async def _append(transaction: Transaction, entry: AuditEntry) -> None:
    head, time = await audit_rows.lock_head(transaction)
    entry = replace(entry, id=head.last_id + 1, time=time, previous_hash=head.last_hash)
    await audit_rows.append(transaction, replace(entry, hash=entry.computed_hash()))


class Refusals:
    """Writes refused attempts into the audit and the log, a limited number in a minute, and how many more there were. A failure to
    write refuses nothing else."""

    def __init__(self, database: Database, per_minute: int = REFUSED_PER_MINUTE) -> None:
        self._database = database
        self._recorded = Sampled("refusals_not_recorded", per_minute, 60)

    async def record(self, caller: Caller, act: Act, error: PayCenterError) -> None:
        """Append a refused attempt, in a transaction of its own."""
        if not self._recorded.permits():
            return
        log.info("refused", act=act.name, key_id=caller.key_id[:64], reason=error.reason.value)
        try:
            async with self._database.transaction() as transaction:
                await record(transaction, caller, act, outcome=error.reason.value)
        except Exception as failure:
            if retryable_error(failure) is None:
                raise
            log.warning("refusal_not_recorded", why=f"{type(failure).__name__}: {failure}"[:300])


@dataclass(frozen=True, slots=True)
class Verified:
    """What one batch of a verification found. `last`: the number up to which it has looked. `broken`: what is wrong, "" if nothing.

    `anchor`: the number and hash of the last row. Whoever keeps it elsewhere can tell later that the rows up to it are the same.
    """

    rows: int
    last: int
    broken: str
    anchor: str


class Audit:
    """Lists and verifies the audit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def search(self, where: AuditFilter, pager: Pager) -> Page[AuditEntry]:
        """List entries, newest first. A page may be shorter than its size and not be the last one."""
        before = pager.before(("audit", where))
        async with self._database.connection() as connection:
            rows = await audit_rows.list_entries(
                connection, where, limit=pager.size + 1, before=before.int if before is not None else None
            )
        scanned = UUID(int=rows.last) if rows.last is not None else None
        return pager.page(rows.entries, ("audit", where), key=lambda entry: UUID(int=entry.id), scanned=scanned)

    async def get(self, number: int) -> AuditEntry | None:
        """One entry; None if there is none."""
        async with self._database.connection() as connection:
            return await audit_rows.read_one(connection, number)

    async def verify(self, after: str = "", batch: int = BATCH) -> AsyncIterator[Verified]:
        """Check the chain after an anchor, or the whole chain, batch by batch; it ends with the first broken row."""
        async with self._database.connection() as connection:
            async for found in verify(connection, after, batch):
                yield found


async def verify(connection: Connection, after: str = "", batch: int = BATCH) -> AsyncIterator[Verified]:
    """See `Audit.verify`. The head is read at the beginning, so a row that is appended meanwhile disturbs nothing.

    `after`: an anchor, `NUMBER:HASH`, or "". ValueError if it is none.
    """
    last, previous = _anchor(after)
    head = await audit_rows.read_head(connection)
    if last and (broken := await _anchored(connection, last, previous)):
        yield Verified(0, last, broken, after)
        return
    while True:
        before = {last: previous}
        rows = await audit_rows.read_after(connection, last, batch)
        broken, last, previous = _check(rows, last, previous)
        hashes = before | {row.id: row.hash for row in rows}
        if not broken and hashes.get(head.last_id, head.last_hash) != head.last_hash:
            broken = f"row {head.last_id} has another hash than the head names"
        if not broken and len(rows) < batch and last < head.last_id:
            broken = f"row {last + 1} is missing: the rows after {last} were removed, and the head names row {head.last_id}"
        yield Verified(len(rows), last, broken, f"{last}:{previous.hex()}")
        if broken or len(rows) < batch:
            return


def _check(rows: Sequence[AuditEntry], last: int, previous: bytes) -> tuple[str, int, bytes]:
    for row in rows:
        if row.id != last + 1:
            return f"row {last + 1} is missing", last, previous
        if row.previous_hash != previous:
            return f"row {row.id} does not follow row {last}: its previous hash is another one", last, previous
        if row.computed_hash() != row.hash:
            return f"row {row.id} was changed: its hash is not that of its values", last, previous
        last, previous = row.id, row.hash
    return "", last, previous


def _anchor(text: str) -> tuple[int, bytes]:
    if not text:
        return 0, FIRST_HASH
    number, _, hashed = text.partition(":")
    if not number.isdecimal() or len(number) > 18 or len(hashed) != 64:
        raise ValueError("an anchor is NUMBER:HASH, as `paycenter audit verify` prints it")
    return int(number), bytes.fromhex(hashed)


async def _anchored(connection: Connection, number: int, hashed: bytes) -> str:
    row = await audit_rows.read_one(connection, number)
    if row is None:
        return f"row {number} is missing, which the anchor names"
    if row.hash != hashed:
        return f"row {number} has another hash than the anchor"
    return "" if row.computed_hash() == row.hash else f"row {number} was changed: its hash is not that of its values"
