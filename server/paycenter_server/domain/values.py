"""Dataclasses that are made for every call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def value(kind: type[T]) -> type[T]:
    """A dataclass with slots whose instances are not changed, which mypy checks.

    `frozen=True` would check it at run time too, and make the construction of an order of 33 fields take three times as long.
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)
