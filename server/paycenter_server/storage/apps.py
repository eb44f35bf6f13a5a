"""Statements on pay_app."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.apps import PayApp
from paycenter_server.storage.database import Connection, Transaction, WriteConnection
from paycenter_server.storage.rows import RowMapping

APPS = RowMapping(PayApp, "pay_app")


async def insert_app(connection: WriteConnection, app: PayApp) -> None:
    """Insert an app. UniqueViolation if the app key exists."""
    await connection.execute(APPS.insert, *APPS.values(app))


async def get_app(connection: Connection, app_key: str) -> PayApp | None:
    """Read by app key; None if there is none."""
    return APPS.model(await connection.fetchrow(f"{APPS.select} WHERE t.app_key = $1", app_key))


async def get_app_by_id(connection: Connection, app_id: UUID) -> PayApp | None:
    """Read by id; None if there is none."""
    return APPS.model(await connection.fetchrow(f"{APPS.select} WHERE t.id = $1", app_id))


async def lock_app(transaction: Transaction, app_id: UUID) -> PayApp | None:
    """Read by id and lock until the end of the transaction. Rows that refer to the app can still be inserted."""
    return APPS.model(await transaction.fetchrow(f"{APPS.select} WHERE t.id = $1 FOR NO KEY UPDATE", app_id))


async def lock_channel_approval(transaction: Transaction, app_id: UUID | None, account_id: UUID | None) -> bool:
    """Whether this app, or an app whose channels have or had this account, asks for a second operator (`channel_approval`).

    The apps are locked until the end of the transaction, so that none begins to ask for it meanwhile.
    """
    rows = await transaction.fetch(
        """SELECT channel_approval FROM pay_app WHERE id = $1 OR id IN (
             SELECT c.app_id FROM pay_binding b JOIN pay_channel c ON c.id = b.channel_id WHERE b.account_id = $2
           ) ORDER BY id FOR NO KEY UPDATE""",
        app_id, account_id,
    )  # fmt: skip
    return any(row["channel_approval"] for row in rows)


async def update_app(connection: WriteConnection, app_key: str, now: datetime, **values: object) -> PayApp | None:
    """Change the given columns. None if there is no such app."""
    from sqlalchemy import update

    from paycenter_server.storage.rendering import render
    from paycenter_server.storage.tables import pay_app

    statement = (
        update(pay_app)
        .where(pay_app.c.app_key == app_key)
        .values(update_time=now, **values)
        .returning(*(pay_app.c[name] for name in APPS.columns))
    )
    text, arguments = render(statement)
    return APPS.model(await connection.fetchrow(text, *arguments))


async def delete_app(connection: WriteConnection, app_id: UUID) -> None:
    """Delete an app with its channels and credentials. ForeignKeyViolation if it has orders or refunds."""
    await connection.execute("DELETE FROM pay_binding WHERE channel_id IN (SELECT id FROM pay_channel WHERE app_id = $1)", app_id)
    await connection.execute("DELETE FROM pay_channel WHERE app_id = $1", app_id)
    await connection.execute("DELETE FROM pay_app WHERE id = $1", app_id)


async def app_has(connection: Connection, app_id: UUID, table: str) -> bool:
    """Whether the app has rows in pay_order or pay_refund."""
    if table not in ("pay_order", "pay_refund"):
        raise ValueError(table)
    return bool(await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {table} WHERE app_id = $1)", app_id))


async def list_apps(
    connection: Connection,
    *,
    limit: int,
    before: UUID | None,
    name: str,
    enabled: bool | None,
    scope: Collection[UUID] | None = None,
) -> list[tuple[PayApp, list[str]]]:
    """List apps, newest first, each with the codes of its enabled channels. `scope`: only these; None means all."""
    from sqlalchemy import select

    from paycenter_server.storage.rendering import render
    from paycenter_server.storage.tables import pay_app

    statement = select(*(pay_app.c[name] for name in APPS.columns)).order_by(pay_app.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(pay_app.c.id < before)
    if name:
        statement = statement.where(pay_app.c.name.icontains(name, autoescape=True))
    if scope is not None:
        statement = statement.where(pay_app.c.id.in_(sorted(scope)))
    if enabled is not None:
        statement = statement.where(pay_app.c.enabled == enabled)
    text, arguments = render(statement)
    apps = APPS.models(await connection.fetch(text, *arguments))
    codes = await channel_codes(connection, [app.id for app in apps])
    return [(app, codes.get(app.id, [])) for app in apps]


async def channel_codes(connection: Connection, app_ids: list[UUID]) -> dict[UUID, list[str]]:
    """The codes of the enabled channels of each app, sorted."""
    rows = await connection.fetch(
        "SELECT app_id, array_agg(code ORDER BY code) AS codes FROM pay_channel WHERE enabled AND app_id = ANY($1) GROUP BY 1",
        app_ids,
    )
    return {row["app_id"]: list(row["codes"]) for row in rows}
