"""Rows to domain values, and Core statements to asyncpg's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, get_type_hints

from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.sql import ClauseElement

T = TypeVar("T")
_DIALECT = asyncpg_dialect()  # type: ignore[no-untyped-call]


@cache
def _readers(kind: type[Any]) -> tuple[tuple[str, type[StrEnum] | None], ...]:
    hints = get_type_hints(kind)
    return tuple(
        (item.name, hints[item.name] if isinstance(hints[item.name], type) and issubclass(hints[item.name], StrEnum) else None)
        for item in fields(kind)
    )


def to_model(kind: type[T], record: Mapping[str, Any]) -> T:
    """A dataclass from a row that has a column for each of its fields; states become their enums."""
    values = []
    for name, enum in _readers(kind):  # type: ignore[arg-type]
        value = record[name]
        values.append(enum(value) if enum is not None else value)
    return kind(*values)


def render(statement: ClauseElement) -> tuple[str, list[Any]]:
    """A Core statement as text with $1, $2, … and its arguments."""
    compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    parameters = compiled.params
    order: list[str] = list(compiled.positiontup or [])  # type: ignore[attr-defined]
    return str(compiled), [parameters[name] for name in order]
