"""pay_channel."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.models import PayChannel
from paycenter_server.storage.database import Connection
from paycenter_server.storage.rows import to_model

_CHANNEL = "SELECT c.*, a.app_key FROM pay_channel c JOIN pay_app a ON a.id = c.app_id"


async def insert_channel(connection: Connection, channel: PayChannel) -> None:
    """Raises UniqueViolation if the app has this code already."""
    await connection.execute(
        """INSERT INTO pay_channel (id, app_id, code, enabled, fee_rate_ppm, remark, config, version, create_time, update_time)
           VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)""",
        channel.id, channel.app_id, channel.code, channel.enabled, channel.fee_rate_ppm, channel.remark, dict(channel.config),
        channel.version, channel.create_time, channel.update_time,
    )  # fmt: skip


async def get_channel(connection: Connection, channel_id: UUID) -> PayChannel | None:
    """By id, enabled or not."""
    row = await connection.fetchrow(f"{_CHANNEL} WHERE c.id = $1", channel_id)
    return to_model(PayChannel, row) if row else None


async def get_channel_by_code(connection: Connection, app_id: UUID, code: str) -> PayChannel | None:
    """By app and code, enabled or not."""
    row = await connection.fetchrow(f"{_CHANNEL} WHERE c.app_id = $1 AND c.code = $2", app_id, code)
    return to_model(PayChannel, row) if row else None


async def update_channel(
    connection: Connection,
    channel_id: UUID,
    version: int,
    now: datetime,
    *,
    enabled: bool,
    fee_rate_ppm: int,
    remark: str,
    config: Mapping[str, Any],
) -> bool:
    """Change a channel that still has this version; False if someone else was faster."""
    done = await connection.fetchval(
        """UPDATE pay_channel SET enabled = $3, fee_rate_ppm = $4, remark = $5, config = $6, version = version + 1,
           update_time = $7 WHERE id = $1 AND version = $2 RETURNING id""",
        channel_id, version, enabled, fee_rate_ppm, remark, dict(config), now,
    )  # fmt: skip
    return done is not None


async def delete_channel(connection: Connection, channel_id: UUID) -> None:
    """Raises ForeignKeyViolation if an order, attempt, refund or case names it."""
    await connection.execute("DELETE FROM pay_channel WHERE id = $1", channel_id)


async def list_channels(connection: Connection, *, limit: int, before: UUID | None, app_key: str) -> list[PayChannel]:
    """Newest first; of all apps if the key is empty."""
    rows = await connection.fetch(
        f"{_CHANNEL} WHERE ($1 = '' OR a.app_key = $1) AND ($2::uuid IS NULL OR c.id < $2) ORDER BY c.id DESC LIMIT $3",
        app_key, before, limit,
    )  # fmt: skip
    return [to_model(PayChannel, row) for row in rows]
