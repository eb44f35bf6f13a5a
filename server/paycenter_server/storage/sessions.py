"""Statements on pay_session and pay_login_failure. Their time is the database's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.sessions import FAILURES_FORGOTTEN_SECONDS, IDLE_SECONDS, LIFE_SECONDS, LoginDelays, PaySession
from paycenter_server.storage.database import Connection, WriteConnection
from paycenter_server.storage.rows import RowMapping

SESSIONS = RowMapping(PaySession, "pay_session")
_VALID = (
    f"t.revoke_time IS NULL AND t.used_time > now() - interval '{IDLE_SECONDS} seconds' "
    f"AND t.create_time > now() - interval '{LIFE_SECONDS} seconds'"
)


async def insert_session(
    connection: WriteConnection, key: UUID, operator_id: UUID, token_hash: bytes, peer: str, agent: str
) -> None:
    """Insert a session that begins now, and delete what ended a month ago."""
    await connection.execute(
        "INSERT INTO pay_session (id, operator_id, token_hash, peer, agent) VALUES ($1, $2, $3, $4, $5)",
        key, operator_id, token_hash, peer, agent,
    )  # fmt: skip
    await connection.execute(
        "DELETE FROM pay_session WHERE operator_id = $1 AND create_time < now() - interval '30 days'", operator_id
    )


async def use_session(connection: WriteConnection, token_hash: bytes) -> PaySession | None:
    """The valid session of a token; None if there is none. Its time of use is moved at most once a minute."""
    session = SESSIONS.model(await connection.fetchrow(f"{SESSIONS.select} WHERE t.token_hash = $1 AND {_VALID}", token_hash))
    if session is not None:
        await connection.execute(
            "UPDATE pay_session SET used_time = now() WHERE id = $1 AND used_time < now() - interval '60 seconds'", session.id
        )
    return session


async def list_sessions(connection: Connection, operator_id: UUID | None) -> list[PaySession]:
    """The valid sessions of an operator, or of all if it is None, newest first; 1000 at most."""
    return SESSIONS.models(
        await connection.fetch(
            f"{SESSIONS.select} WHERE ($1::uuid IS NULL OR t.operator_id = $1) AND {_VALID} ORDER BY t.id DESC LIMIT 1000",
            operator_id,
        )
    )


async def revoke_session(connection: WriteConnection, key: UUID, operator_id: UUID | None) -> PaySession | None:
    """End a valid session, of this operator if one is given. None if there is none."""
    return SESSIONS.model(
        await connection.fetchrow(
            f"UPDATE pay_session t SET revoke_time = now() WHERE t.id = $1 AND ($2::uuid IS NULL OR t.operator_id = $2) "
            f"AND {_VALID} RETURNING {SESSIONS.returning}",
            key, operator_id,
        )
    )  # fmt: skip


async def revoke_sessions(connection: WriteConnection, operator_id: UUID) -> int:
    """End every session of an operator; how many there were."""
    rows = await connection.fetch(
        f"UPDATE pay_session t SET revoke_time = now() WHERE t.operator_id = $1 AND {_VALID} RETURNING t.id", operator_id
    )
    return len(rows)


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """`allowed`: it may be made now, and is counted as a failure until it succeeds. `wait`: else, the seconds to wait."""

    allowed: bool
    wait: float


async def begin_login(connection: WriteConnection, subject: str, delays: LoginDelays) -> LoginAttempt:
    """Count a login as failed before its password is checked, so that logins at the same time cannot pass the limit together."""
    row = await connection.fetchrow(
        """INSERT INTO pay_login_failure AS t (subject, failures, blocked_until, update_time) VALUES ($1, 1, now(), now())
           ON CONFLICT (subject) DO UPDATE SET
             failures = CASE WHEN t.update_time < now() - make_interval(secs => $4) THEN 1 ELSE t.failures + 1 END,
             blocked_until = CASE WHEN t.update_time < now() - make_interval(secs => $4) OR t.failures < $2 THEN now()
                             ELSE now() + make_interval(secs => least($3, $5 * 2 ^ least(t.failures - $2, 20))) END,
             update_time = now()
           WHERE t.blocked_until <= now()
           RETURNING failures""",
        subject, delays.free, float(delays.longest), float(FAILURES_FORGOTTEN_SECONDS), float(delays.first),
    )  # fmt: skip
    if row is not None:
        return LoginAttempt(True, 0.0)
    wait = await connection.fetchval(
        "SELECT extract(epoch FROM blocked_until - now())::float8 FROM pay_login_failure WHERE subject = $1", subject
    )
    return LoginAttempt(False, max(float(wait or 0.0), 1.0))


async def blocked(connection: Connection, subjects: Sequence[str]) -> dict[str, datetime]:
    """The subjects whose next login has to wait, and until when."""
    rows = await connection.fetch(
        "SELECT subject, blocked_until FROM pay_login_failure WHERE subject = ANY($1::varchar[]) AND blocked_until > now()",
        list(subjects),
    )
    return {row["subject"]: row["blocked_until"] for row in rows}


async def forget_failures(connection: WriteConnection, subject: str) -> None:
    """Forget the failed logins of a subject, because a login has succeeded."""
    await connection.execute("DELETE FROM pay_login_failure WHERE subject = $1", subject)


async def take_back_failure(connection: WriteConnection, subject: str) -> None:
    """Take back one failure of a subject: the login that was counted has succeeded, or was not decided."""
    await connection.execute(
        "UPDATE pay_login_failure SET failures = greatest(failures - 1, 0), blocked_until = now() WHERE subject = $1", subject
    )
