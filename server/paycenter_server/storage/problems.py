"""Errors of the database that an operator can correct, in one sentence each. No sentence holds the password."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Iterator

import asyncpg

_CORRECT = "Correct PAYCENTER_DATABASE_URL"
_NETWORK = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ETIMEDOUT)
# By SQLSTATE; the first that fits counts. Source: PostgreSQL, appendix A, error codes.
_BY_STATE = (
    ("28", f"The database refuses the login: {{}}. {_CORRECT}, or the server's pg_hba.conf."),
    ("3D000", "The database does not exist: {}. Create it, or correct PAYCENTER_DATABASE_URL."),
    ("42501", "The database user lacks a permission: {}. Grant it, or use another user in PAYCENTER_DATABASE_URL."),
    ("42P01", "The database does not have the tables of this version: {}. Run `paycenter migrate`."),
    ("42703", "The database does not have the columns of this version: {}. Run `paycenter migrate`."),
    ("3F000", "The database has no schema to create tables in: {}. Set the search_path of the user."),
    ("25006", "The database is read-only: {}. Use the primary server in PAYCENTER_DATABASE_URL."),
    ("53100", "The disk of the database is full: {}. Free space on it."),
    ("53300", "The database has no connection left: {}. Raise max_connections, or lower PAYCENTER_DATABASE_POOL."),
    ("53", "The database lacks resources: {}."),
    ("55P03", "Another transaction holds a lock: {}. Repeat the command later."),
    ("57P", "The database does not take connections now: {}. Repeat the command later."),
    ("08", "The connection to the database failed: {}."),
    ("58", "The database reports an error of its system: {}."),
)


def database_problem(error: BaseException) -> str | None:
    """The sentence; None if the error is none of the database's, or is a fault of this program."""
    for cause in _causes(error):
        if isinstance(cause, asyncpg.PostgresError):
            text = _one_line(cause)
            return next((sentence.format(text) for state, sentence in _BY_STATE if (cause.sqlstate or "").startswith(state)), None)
        if isinstance(cause, asyncpg.InterfaceError):
            return f"{_CORRECT}: {_one_line(cause)}." if isinstance(cause, ValueError) else None
        if isinstance(cause, ssl.SSLError):
            return f"TLS with the database failed: {_one_line(cause)}. {_CORRECT}."
        if type(cause).__module__.startswith("alembic.util") and "locate revision" in str(cause):
            return "The database has a schema that this version does not know. Install the newer version of paycenter-server again."
        if _is_connection_error(cause):
            return f"The database does not answer: {_one_line(cause)}. Start it, or correct PAYCENTER_DATABASE_URL."
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it wraps: SQLAlchemy keeps the driver's error in `orig`."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        inner = getattr(seen, "orig", None) or seen.__cause__
        seen = inner if isinstance(inner, BaseException) else None


def _is_connection_error(error: BaseException) -> bool:
    """Whether a connection could not be made. asyncio gives an OSError without a number if several addresses failed."""
    if isinstance(error, BrokenPipeError):  # of standard output: click ends the command without a word
        return False
    if isinstance(error, (ConnectionError, TimeoutError, asyncio.TimeoutError)):
        return True
    if not isinstance(error, OSError) or error.filename is not None:
        return False
    return error.errno is None or error.errno < 0 or error.errno in _NETWORK


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else "no answer in time"
