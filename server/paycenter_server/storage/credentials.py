"""Statements on pay_credential."""

from __future__ import annotations

from uuid import UUID

from paycenter_server.domain.credentials import Credential
from paycenter_server.storage.database import Connection, Transaction, WriteConnection
from paycenter_server.storage.rows import RowMapping

CREDENTIALS = RowMapping(Credential, "pay_credential", optional_app=True)


async def insert_credential(connection: WriteConnection, credential: Credential) -> None:
    """Insert a credential."""
    await connection.execute(CREDENTIALS.insert, *CREDENTIALS.values(credential))


async def get_credential(connection: Connection, key_id: str) -> Credential | None:
    """Read by key id, enabled or not; None if there is none."""
    return CREDENTIALS.model(await connection.fetchrow(f"{CREDENTIALS.select} WHERE t.key_id = $1", key_id))


async def has_expired(connection: Connection, key_id: str) -> bool:
    """Whether the credential has ended, by the time of the database."""
    return bool(await connection.fetchval("SELECT expire_time <= now() FROM pay_credential WHERE key_id = $1", key_id))


async def list_credentials(connection: Connection, app_id: UUID | None, operator_id: UUID | None = None) -> list[Credential]:
    """The credentials of an app, or of operators if `app_id` is None (of one if `operator_id` is given), oldest first."""
    return CREDENTIALS.models(
        await connection.fetch(
            f"{CREDENTIALS.select} WHERE t.app_id IS NOT DISTINCT FROM $1 AND ($2::uuid IS NULL OR t.operator_id = $2) "
            "ORDER BY t.create_time, t.key_id",
            app_id, operator_id,
        )
    )  # fmt: skip


async def lock_operator_credentials(transaction: Transaction) -> list[Credential]:
    """The credentials of all operators, locked until the end of the transaction, so that two calls cannot disable the last two."""
    return CREDENTIALS.models(
        await transaction.fetch(f"{CREDENTIALS.select} WHERE t.app_id IS NULL ORDER BY t.key_id FOR NO KEY UPDATE OF t")
    )


async def another_is_usable(transaction: Transaction, key_id: str) -> bool:
    """Whether an operator could still call with another credential than this one: enabled, not expired, of an enabled operator."""
    return bool(
        await transaction.fetchval(
            """SELECT EXISTS (SELECT 1 FROM pay_credential t JOIN pay_operator o ON o.id = t.operator_id WHERE t.key_id <> $1
               AND t.enabled AND o.enabled AND (t.expire_time IS NULL OR t.expire_time > now()))""",
            key_id,
        )
    )


async def disable_credential(connection: WriteConnection, app_id: UUID | None, key_id: str) -> bool:
    """Disable a credential of the app, or of the operators if `app_id` is None. False if there is none."""
    done = await connection.fetchval(
        "UPDATE pay_credential SET enabled = false WHERE key_id = $1 AND app_id IS NOT DISTINCT FROM $2 RETURNING key_id",
        key_id, app_id,
    )  # fmt: skip
    return done is not None
