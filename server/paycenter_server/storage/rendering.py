"""SQLAlchemy Core statements in the form of asyncpg.

The functions that build statements import this module and the tables when they are called. So SQLAlchemy is imported with the
first list, and processes without lists start a quarter of a second faster.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.sql import ClauseElement

_DIALECT = asyncpg_dialect()  # type: ignore[no-untyped-call]


def render(statement: ClauseElement) -> tuple[str, list[Any]]:
    """A Core statement as text with $1, $2, … and its arguments."""
    compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    parameters = compiled.params
    order: list[str] = list(compiled.positiontup or [])  # type: ignore[attr-defined]
    return str(compiled), [parameters[name] for name in order]
