"""Alembic's environment: asyncpg, lock and statement time-outs, one transaction for each migration."""

from __future__ import annotations

import asyncio
import os
import re
import time
from typing import Any

from alembic import context
from paycenter_server.storage.migrate import connect
from paycenter_server.storage.tables import metadata
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool


def _url() -> str:
    url = context.config.attributes.get("url") or os.environ.get("PAYCENTER_DATABASE_URL", "")
    if not url:
        raise SystemExit("Set PAYCENTER_DATABASE_URL to the database to migrate, or run `paycenter migrate`.")
    return str(url)


def _is_no_partition(name: str | None, kind: str, parents: Any) -> bool:
    """Partitions are made and dropped while the system runs; only their tables are of the schema."""
    return kind != "table" or re.fullmatch(r"(pay_event|pay_notify_log)_(\d{6}|default)", name or "") is None


def _run(connection: Connection) -> None:
    # Two migrators at once: the second waits here, however long it takes, and then has nothing to do. The lock ends with the
    # connection. It asks again and again, because a statement that waits would make an index that is built concurrently wait for it.
    while not connection.scalar(text("SELECT pg_try_advisory_lock(7290241103)")):
        connection.commit()
        time.sleep(0.1)
    # A migration that waits for a lock makes everybody behind it wait too: give up instead, and try again later.
    connection.execute(text("SET lock_timeout = '5s'"))
    connection.execute(text("SET statement_timeout = '15min'"))
    connection.commit()
    context.configure(
        connection=connection, target_metadata=metadata, transaction_per_migration=True, compare_type=True,
        compare_server_default=True, include_name=_is_no_partition,
    )  # fmt: skip
    with context.begin_transaction():
        context.run_migrations()


async def _online() -> None:
    # Connected by asyncpg itself, so that a URL means the same here as for the services (sslmode and the like).
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda *_, **more: connect(_url(), **more), poolclass=NullPool
    )
    async with engine.connect() as connection:
        await connection.run_sync(_run)
        await connection.commit()
    await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(_online())
