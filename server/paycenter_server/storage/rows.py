"""Conversion between rows and domain values. The fields of a dataclass are the only list of the columns of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from functools import cache
from operator import attrgetter, itemgetter
from types import UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

T = TypeVar("T")


def by_unique_key(table: str, columns: str, places: str) -> str:
    """A condition on `t.id`: the row of the table whose columns, which are a unique key, have these values."""
    return f"t.id = ({id_of_unique_key(table, columns, places)})"


def id_of_unique_key(table: str, columns: str, places: str) -> str:
    """A SELECT of the id of the row of the table whose columns, which are a unique key, have these values.

    The comparison as a row can only use an index that begins with these columns in this order. Without statistics every index that
    has one of the columns looks as good as that of all of them, and a prepared statement keeps its plan: with an index of `app_id`
    it would read every row of the app. LIMIT says that it is one row, so that what is joined to it is found by its index too.
    """
    return f"SELECT id FROM {table} WHERE ({columns}) >= ({places}) AND ({columns}) <= ({places}) LIMIT 1"


@cache
def _reader(kind: type[Any], prefix: str) -> tuple[Callable[[Mapping[str, Any]], tuple[Any, ...]], list[tuple[int, Any, Any]]]:
    """What reads the values of the fields from a row, and the places of those that are enums, with the enum and its members."""
    hints = get_type_hints(kind)
    names = [item.name for item in fields(kind)]
    enums = [
        (at, hint, {member.value: member for member in hint})
        for at, name in enumerate(names)
        if isinstance(hint := hints[name], type) and issubclass(hint, StrEnum)
    ]
    return itemgetter(*(prefix + name for name in names)), enums


def to_model(kind: type[T], record: Mapping[str, Any], prefix: str = "") -> T:
    """Build a dataclass from a row with a column for each of its fields. Texts become the enums of the fields. `prefix`: of the
    names of the columns."""
    read, enums = _reader(kind, prefix)  # type: ignore[arg-type]
    if not enums:
        return kind(*read(record))
    values = list(read(record))
    for at, enum, members in enums:
        values[at] = members.get(values[at]) or enum(values[at])  # to call the enum takes four times as long
    return kind(*values)


class RowMapping(Generic[T]):
    """The mapping of a dataclass to a table. A field `app_key` is read from pay_app; every other field is a column.

    Statements name their columns, because a statement with `*` fails inside a transaction while a migration adds a column
    (asyncpg, InvalidCachedStatementError).
    """

    def __init__(self, kind: type[T], table: str, *, optional_app: bool = False) -> None:
        """`optional_app`: rows may belong to no app."""
        names = [item.name for item in fields(kind)]  # type: ignore[arg-type]
        self.kind = kind
        self.table = table
        self.columns = tuple(name for name in names if name != "app_key" or table == "pay_app")
        joined = len(self.columns) < len(names)
        listed = ", ".join(f"t.{name}" for name in self.columns)
        join = f" {'LEFT ' if optional_app else ''}JOIN pay_app app ON app.id = t.app_id" if joined else ""
        self.select = f"SELECT {listed}{', app.app_key' if joined else ''} FROM {table} t{join}"
        """Rows of the table as `t`; a WHERE may follow."""
        self.returning = listed
        """For RETURNING in a statement whose table is called `t`."""
        places = ", ".join(map(self.place, self.columns))
        hints = get_type_hints(kind)
        self._get = attrgetter(*self.columns)
        self._converters = [(at, item) for at, name in enumerate(self.columns) if (item := _converter(hints[name])) is not None]
        self.array_types = [f"{_pg_type(hints[name])}[]" for name in self.columns]
        """The PostgreSQL types of an array for each column, for a statement that inserts many rows."""
        self._into = f"INSERT INTO {table} ({', '.join(self.columns)})"
        self._places = places
        self.insert = f"{self._into} VALUES ({places})"
        """Its arguments are `values`; ON CONFLICT or RETURNING may follow."""

    def place(self, column: str, first: int = 1) -> str:
        """The parameter of `insert` that is the value of this column; `first`: the number of the first of `values`."""
        return f"${self.columns.index(column) + first}"

    def insert_from(self, rows: str) -> str:
        """`insert` for each row of the CTE `rows`: of one row or none."""
        return f"{self._into} SELECT {self._places} FROM {rows}"

    def select_beside(self, prefix: str, alias: str) -> str:
        """The columns of the table called `alias`, with names that begin with `prefix`, for `to_model`."""
        return ", ".join(f"{alias}.{name} AS {prefix}{name}" for name in self.columns)

    def select_from(self, rows: str) -> str:
        """`select` from a CTE with the name `rows` that has returned `returning`."""
        before, _, after = self.select.partition(" FROM ")
        _, _, join = after.partition(" t")
        return f"{before} FROM {rows} t{join}"

    def values(self, model: T) -> list[Any]:
        """The arguments of `insert`."""
        values = list(self._get(model))
        for at, convert in self._converters:
            values[at] = convert(values[at])
        return values

    def model(self, record: Mapping[str, Any] | None) -> T | None:
        """The dataclass of a row; None for None."""
        return to_model(self.kind, record) if record is not None else None

    def models(self, records: list[Any]) -> list[T]:
        """The dataclasses of rows."""
        return [to_model(self.kind, record) for record in records]


def _kinds(hint: Any) -> list[Any]:
    """The types of a field, without None."""
    united = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [item for item in united if item is not type(None)]


def _converter(hint: Any) -> Callable[[Any], Any] | None:
    """What makes an argument of a field of this type; None if its values can be arguments themselves."""
    kinds = _kinds(hint)
    plain = isinstance(kinds[0], type) and kinds[0] in (UUID, datetime, bool, int, str, bytes)
    return None if plain and len(kinds) == 1 else _plain


def _pg_type(hint: Any) -> str:
    kinds = _kinds(hint)
    if isinstance(kinds[0], type):
        for kind, name in ((UUID, "uuid"), (datetime, "timestamptz"), (bool, "boolean"), (int, "bigint"), (str, "text")):
            if issubclass(kinds[0], kind):
                return name
    return "jsonb"


def _plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    return dict(value) if isinstance(value, Mapping) else value
