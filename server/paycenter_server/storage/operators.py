"""Statements on pay_operator."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.operators import PayOperator
from paycenter_server.storage.database import Connection, Transaction, WriteConnection
from paycenter_server.storage.rows import RowMapping

OPERATORS = RowMapping(PayOperator, "pay_operator")


async def insert_operator(connection: WriteConnection, operator: PayOperator) -> None:
    """Insert an operator. UniqueViolation if the name is taken."""
    await connection.execute(OPERATORS.insert, *OPERATORS.values(operator))


async def get_operator(connection: Connection, key: UUID) -> PayOperator | None:
    """Read by key; None if there is none."""
    return OPERATORS.model(await connection.fetchrow(f"{OPERATORS.select} WHERE t.id = $1", key))


async def get_operator_by_name(connection: Connection, name: str) -> PayOperator | None:
    """Read by name; None if there is none."""
    return OPERATORS.model(await connection.fetchrow(f"{OPERATORS.select} WHERE t.name = $1", name))


async def lock_operator(transaction: Transaction, key: UUID) -> PayOperator | None:
    """Read by key and lock until the end of the transaction; None if there is none."""
    return OPERATORS.model(await transaction.fetchrow(f"{OPERATORS.select} WHERE t.id = $1 FOR NO KEY UPDATE OF t", key))


async def lock_admins(transaction: Transaction) -> list[PayOperator]:
    """The enabled admins of all apps, locked until the end of the transaction, so that two calls cannot take the role from the last
    two."""
    return OPERATORS.models(
        await transaction.fetch(
            f"{OPERATORS.select} WHERE t.role = 'admin' AND t.enabled AND t.app_keys = '[]' ORDER BY t.id FOR NO KEY UPDATE OF t"
        )
    )


async def list_operators(connection: Connection, *, limit: int, before: UUID | None) -> list[PayOperator]:
    """Operators, newest first."""
    return OPERATORS.models(
        await connection.fetch(
            f"{OPERATORS.select} WHERE ($1::uuid IS NULL OR t.id < $1) ORDER BY t.id DESC LIMIT $2", before, limit
        )
    )


async def update_operator(connection: WriteConnection, operator: PayOperator, now: datetime) -> None:
    """Store every changeable value of an operator that the transaction has locked."""
    values: dict[str, Any] = dict(zip(OPERATORS.columns, OPERATORS.values(operator), strict=True))
    names = [name for name in OPERATORS.columns if name not in ("id", "name", "create_time", "update_time")]
    assigned = ", ".join(f"{name} = ${number}" for number, name in enumerate(names, 3))
    await connection.execute(
        f"UPDATE pay_operator SET {assigned}, update_time = $2 WHERE id = $1", operator.id, now, *(values[name] for name in names)
    )


async def app_ids(connection: Connection, app_keys: Sequence[str]) -> dict[str, UUID]:
    """The ids of the apps with these keys."""
    rows = await connection.fetch("SELECT app_key, id FROM pay_app WHERE app_key = ANY($1::varchar[])", list(app_keys))
    return {row["app_key"]: row["id"] for row in rows}


async def use_totp_step(connection: WriteConnection, key: UUID, step: int) -> bool:
    """Note that the code of a time step was used. False if this step or a later one was used before."""
    done = await connection.fetchval(
        "UPDATE pay_operator SET totp_step = $2 WHERE id = $1 AND totp_step < $2 RETURNING id", key, step
    )
    return done is not None


async def use_recovery_code(connection: WriteConnection, key: UUID, hashed: str) -> bool:
    """Remove a recovery code. False if there is none with this hash."""
    done = await connection.fetchval(
        "UPDATE pay_operator SET recovery_codes = recovery_codes - $2::text WHERE id = $1 AND recovery_codes ? $2 RETURNING id",
        key, hashed,
    )  # fmt: skip
    return done is not None


async def names(connection: Connection) -> dict[UUID, str]:
    """The name of every operator."""
    return {row["id"]: row["name"] for row in await connection.fetch("SELECT id, name FROM pay_operator")}
