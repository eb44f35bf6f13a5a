"""Statements on pay_channel and pay_binding."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.channels import PayBinding, PayChannel
from paycenter_server.storage.database import Connection, Transaction, WriteConnection
from paycenter_server.storage.rows import RowMapping

CHANNELS = RowMapping(PayChannel, "pay_channel")
BINDINGS = RowMapping(PayBinding, "pay_binding")


async def insert_channel(connection: WriteConnection, channel: PayChannel) -> None:
    """Insert a channel. UniqueViolation if the app has a channel with this code."""
    await connection.execute(CHANNELS.insert, *CHANNELS.values(channel))


async def get_channel(connection: Connection, channel_id: UUID) -> PayChannel | None:
    """Read by id, enabled or not; None if there is none."""
    return CHANNELS.model(await connection.fetchrow(f"{CHANNELS.select} WHERE t.id = $1", channel_id))


async def get_channel_by_code(connection: Connection, app_id: UUID, code: str) -> PayChannel | None:
    """Read by app and code, enabled or not; None if there is none."""
    return CHANNELS.model(await connection.fetchrow(f"{CHANNELS.select} WHERE t.app_id = $1 AND t.code = $2", app_id, code))


async def usable_codes(connection: Connection, app_id: UUID) -> list[str]:
    """The codes of an app's enabled channels whose accounts are enabled too, sorted."""
    rows = await connection.fetch(
        """SELECT c.code FROM pay_channel c JOIN pay_binding b ON b.id = c.binding_id JOIN pay_account a ON a.id = b.account_id
           WHERE c.app_id = $1 AND c.enabled AND a.enabled ORDER BY c.code""",
        app_id,
    )
    return [row["code"] for row in rows]


async def update_channel(
    connection: WriteConnection,
    channel_id: UUID,
    version: int,
    now: datetime,
    *,
    enabled: bool,
    fee_rate_ppm: int,
    remark: str,
    binding_id: UUID,
) -> bool:
    """Change a channel that still has this version. False if another call has changed it."""
    done = await connection.fetchval(
        """UPDATE pay_channel SET enabled = $3, fee_rate_ppm = $4, remark = $5, binding_id = $6, version = version + 1,
           update_time = $7 WHERE id = $1 AND version = $2 RETURNING id""",
        channel_id, version, enabled, fee_rate_ppm, remark, binding_id, now,
    )  # fmt: skip
    return done is not None


async def delete_channel(connection: WriteConnection, channel_id: UUID) -> None:
    """Delete a channel and its bindings. ForeignKeyViolation if an attempt or a case refers to it, as one does for each
    order that was paid and each refund."""
    await connection.execute("DELETE FROM pay_binding WHERE channel_id = $1", channel_id)
    await connection.execute("DELETE FROM pay_channel WHERE id = $1", channel_id)


async def list_channels(
    connection: Connection, *, limit: int, before: UUID | None, app_key: str, scope: Collection[UUID] | None = None
) -> list[PayChannel]:
    """List channels, newest first; of all apps if the key is empty. `scope`: only of these apps; None means all."""
    rows = await connection.fetch(
        f"""{CHANNELS.select} WHERE ($1 = '' OR app.app_key = $1) AND ($2::uuid IS NULL OR t.id < $2)
            AND ($4::uuid[] IS NULL OR t.app_id = ANY($4)) ORDER BY t.id DESC LIMIT $3""",
        app_key, before, limit, None if scope is None else list(scope),
    )  # fmt: skip
    return CHANNELS.models(rows)


async def insert_binding(connection: WriteConnection, binding: PayBinding) -> None:
    """Insert a binding of a channel that exists."""
    await connection.execute(BINDINGS.insert, *BINDINGS.values(binding))


async def get_binding(connection: Connection, binding_id: UUID) -> PayBinding | None:
    """Read by id; None if there is none."""
    return BINDINGS.model(await connection.fetchrow(f"{BINDINGS.select} WHERE t.id = $1", binding_id))


async def get_bindings(connection: Connection, binding_ids: Sequence[UUID]) -> list[PayBinding]:
    """Read several by id."""
    return BINDINGS.models(await connection.fetch(f"{BINDINGS.select} WHERE t.id = ANY($1)", list(binding_ids)))


async def list_bindings(connection: Connection, channel_id: UUID) -> list[PayBinding]:
    """All bindings that the channel has or had: the current one first, then the last used ones."""
    rows = await connection.fetch(
        f"""{BINDINGS.select} WHERE t.channel_id = $1 ORDER BY
            t.id = (SELECT binding_id FROM pay_channel WHERE id = $1) DESC, t.update_time DESC""",
        channel_id,
    )  # fmt: skip
    return BINDINGS.models(rows)


async def list_account_bindings(connection: Connection, account_id: UUID) -> list[tuple[str, PayBinding]]:
    """The bindings to this account, current ones and earlier ones, each with the code of its channel."""
    rows = await connection.fetch(f"{BINDINGS.select} WHERE t.account_id = $1 ORDER BY t.id", account_id)
    bindings = BINDINGS.models(rows)
    codes = await connection.fetch("SELECT id, code FROM pay_channel WHERE id = ANY($1)", [one.channel_id for one in bindings])
    by_id = {row["id"]: row["code"] for row in codes}
    return [(by_id[binding.channel_id], binding) for binding in bindings]


async def list_current_bindings(connection: Connection, account_id: UUID) -> list[tuple[PayChannel, PayBinding]]:
    """The channels whose current binding is to this account."""
    rows = await connection.fetch(
        f"{BINDINGS.select} JOIN pay_channel c ON c.binding_id = t.id WHERE t.account_id = $1 ORDER BY t.id", account_id
    )
    bindings = {binding.channel_id: binding for binding in BINDINGS.models(rows)}
    channels = await connection.fetch(f"{CHANNELS.select} WHERE t.id = ANY($1)", list(bindings))
    return [(channel, bindings[channel.id]) for channel in CHANNELS.models(channels)]


async def update_binding(connection: Transaction, binding: PayBinding, now: datetime) -> None:
    """Store the values of the way. The caller changes the channel in the same transaction, and its version decides races."""
    await connection.execute(
        "UPDATE pay_binding SET config = $2, version = version + 1, update_time = $3 WHERE id = $1",
        binding.id, dict(binding.config), now,
    )  # fmt: skip


async def apps_of_account(connection: Connection, account_id: UUID) -> set[UUID]:
    """The apps whose channels have or had this account."""
    rows = await connection.fetch(
        "SELECT DISTINCT c.app_id FROM pay_binding b JOIN pay_channel c ON c.id = b.channel_id WHERE b.account_id = $1", account_id
    )
    return {row["app_id"] for row in rows}
