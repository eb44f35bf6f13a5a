"""Statements on pay_channel."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.channels import PayChannel
from paycenter_server.storage.database import Connection, WriteConnection
from paycenter_server.storage.rows import RowMapping

CHANNELS = RowMapping(PayChannel, "pay_channel")


async def insert_channel(connection: WriteConnection, channel: PayChannel) -> None:
    """Insert a channel. UniqueViolation if the app has a channel with this code."""
    await connection.execute(CHANNELS.insert, *CHANNELS.values(channel))


async def get_channel(connection: Connection, channel_id: UUID) -> PayChannel | None:
    """Read by id, enabled or not; None if there is none."""
    return CHANNELS.model(await connection.fetchrow(f"{CHANNELS.select} WHERE t.id = $1", channel_id))


async def get_channel_by_code(connection: Connection, app_id: UUID, code: str) -> PayChannel | None:
    """Read by app and code, enabled or not; None if there is none."""
    return CHANNELS.model(await connection.fetchrow(f"{CHANNELS.select} WHERE t.app_id = $1 AND t.code = $2", app_id, code))


async def update_channel(
    connection: WriteConnection,
    channel_id: UUID,
    version: int,
    now: datetime,
    *,
    enabled: bool,
    fee_rate_ppm: int,
    remark: str,
    config: Mapping[str, Any],
) -> bool:
    """Change a channel that still has this version. False if another call has changed it."""
    done = await connection.fetchval(
        """UPDATE pay_channel SET enabled = $3, fee_rate_ppm = $4, remark = $5, config = $6, version = version + 1,
           update_time = $7 WHERE id = $1 AND version = $2 RETURNING id""",
        channel_id, version, enabled, fee_rate_ppm, remark, dict(config), now,
    )  # fmt: skip
    return done is not None


async def delete_channel(connection: WriteConnection, channel_id: UUID) -> None:
    """Delete a channel. ForeignKeyViolation if an order, attempt, refund or case refers to it."""
    await connection.execute("DELETE FROM pay_channel WHERE id = $1", channel_id)


async def list_channels(connection: Connection, *, limit: int, before: UUID | None, app_key: str) -> list[PayChannel]:
    """List channels, newest first; of all apps if the key is empty."""
    rows = await connection.fetch(
        f"{CHANNELS.select} WHERE ($1 = '' OR app.app_key = $1) AND ($2::uuid IS NULL OR t.id < $2) ORDER BY t.id DESC LIMIT $3",
        app_key, before, limit,
    )  # fmt: skip
    return CHANNELS.models(rows)
