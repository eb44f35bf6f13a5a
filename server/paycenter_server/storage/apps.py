"""pay_app and pay_credential."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from paycenter_server.domain.models import Credential, PayApp
from paycenter_server.storage.database import Connection
from paycenter_server.storage.rows import to_model

_CREDENTIAL = "SELECT c.*, a.app_key FROM pay_credential c LEFT JOIN pay_app a ON a.id = c.app_id"


async def insert_app(connection: Connection, app: PayApp) -> None:
    """Raises UniqueViolation if the app key is taken."""
    await connection.execute(
        """INSERT INTO pay_app (id, app_key, name, enabled, remark, order_notification_url, refund_notification_url, surplus_policy,
           notification_success, notification_secret, create_time, update_time) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12)""",
        app.id, app.app_key, app.name, app.enabled, app.remark, app.order_notification_url, app.refund_notification_url,
        app.surplus_policy.value, app.notification_success.value, app.notification_secret, app.create_time, app.update_time,
    )  # fmt: skip


async def get_app(connection: Connection, app_key: str) -> PayApp | None:
    """By key."""
    row = await connection.fetchrow("SELECT * FROM pay_app WHERE app_key = $1", app_key)
    return to_model(PayApp, row) if row else None


async def get_app_by_id(connection: Connection, app_id: UUID) -> PayApp | None:
    """By id."""
    row = await connection.fetchrow("SELECT * FROM pay_app WHERE id = $1", app_id)
    return to_model(PayApp, row) if row else None


async def update_app(connection: Connection, app_key: str, now: datetime, **values: object) -> PayApp | None:
    """Change these columns; None if there is no such app."""
    from sqlalchemy import update

    from paycenter_server.storage.rendering import render
    from paycenter_server.storage.tables import pay_app

    statement = update(pay_app).where(pay_app.c.app_key == app_key).values(update_time=now, **values).returning(pay_app)
    text, arguments = render(statement)
    row = await connection.fetchrow(text, *arguments)
    return to_model(PayApp, row) if row else None


async def delete_app(connection: Connection, app_id: UUID) -> None:
    """Remove an app with its channels and credentials. Raises ForeignKeyViolation if anything was paid through it."""
    await connection.execute("DELETE FROM pay_channel WHERE app_id = $1", app_id)
    await connection.execute("DELETE FROM pay_app WHERE id = $1", app_id)


async def app_has(connection: Connection, app_id: UUID, table: str) -> bool:
    """Whether the app has rows in pay_order or pay_refund."""
    if table not in ("pay_order", "pay_refund"):
        raise ValueError(table)
    return bool(await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {table} WHERE app_id = $1)", app_id))  # noqa: S608


async def list_apps(
    connection: Connection, *, limit: int, before: UUID | None, name: str, enabled: bool | None
) -> list[tuple[PayApp, list[str]]]:
    """Newest first, each with the codes of its enabled channels."""
    from sqlalchemy import select

    from paycenter_server.storage.rendering import render
    from paycenter_server.storage.tables import pay_app

    statement = select(pay_app).order_by(pay_app.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(pay_app.c.id < before)
    if name:
        statement = statement.where(pay_app.c.name.icontains(name, autoescape=True))
    if enabled is not None:
        statement = statement.where(pay_app.c.enabled == enabled)
    text, arguments = render(statement)
    apps = [to_model(PayApp, row) for row in await connection.fetch(text, *arguments)]
    codes = await channel_codes(connection, [app.id for app in apps])
    return [(app, codes.get(app.id, [])) for app in apps]


async def channel_codes(connection: Connection, app_ids: list[UUID]) -> dict[UUID, list[str]]:
    """The codes of the enabled channels of each app, sorted."""
    rows = await connection.fetch(
        "SELECT app_id, array_agg(code ORDER BY code) AS codes FROM pay_channel WHERE enabled AND app_id = ANY($1) GROUP BY 1",
        app_ids,
    )
    return {row["app_id"]: list(row["codes"]) for row in rows}


async def insert_credential(connection: Connection, credential: Credential) -> None:
    """A new credential; `app_id` None makes an operator's."""
    await connection.execute(
        "INSERT INTO pay_credential (key_id, secret_hash, app_id, name, enabled, create_time) VALUES ($1,$2,$3,$4,$5,$6)",
        credential.key_id, credential.secret_hash, credential.app_id, credential.name, credential.enabled,
        credential.create_time,
    )  # fmt: skip


async def get_credential(connection: Connection, key_id: str) -> Credential | None:
    """By key id, enabled or not."""
    row = await connection.fetchrow(f"{_CREDENTIAL} WHERE c.key_id = $1", key_id)
    return to_model(Credential, row) if row else None


async def list_credentials(connection: Connection, app_id: UUID) -> list[Credential]:
    """Oldest first."""
    rows = await connection.fetch(f"{_CREDENTIAL} WHERE c.app_id = $1 ORDER BY c.create_time, c.key_id", app_id)
    return [to_model(Credential, row) for row in rows]


async def disable_credential(connection: Connection, app_id: UUID, key_id: str) -> bool:
    """Whether the app has such a credential; it is disabled now."""
    done = await connection.fetchval(
        "UPDATE pay_credential SET enabled = false WHERE key_id = $1 AND app_id = $2 RETURNING key_id", key_id, app_id
    )
    return done is not None
