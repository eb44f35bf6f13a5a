"""Rows to domain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


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
