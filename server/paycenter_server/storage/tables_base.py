"""What the modules of the schema share: the metadata, column types, and constraints."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, DateTime, MetaData
from sqlalchemy.dialects.postgresql import UUID

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)

KEY = UUID(as_uuid=True)
TIME = DateTime(timezone=True)
FILL = {"fillfactor": "85"}


def one_of(column: str, values: type) -> CheckConstraint:
    """A CHECK that the column holds a value of the enum."""
    listed = ", ".join(f"'{item.value}'" for item in values)  # type: ignore[attr-defined]
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def times() -> list[Column[object]]:
    """The times of creation and of the last change."""
    return [Column("create_time", TIME, nullable=False), Column("update_time", TIME, nullable=False)]
