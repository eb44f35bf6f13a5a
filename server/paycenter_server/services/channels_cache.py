"""Channels and their bindings that were read within the last second."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from uuid import UUID

from paycenter_server.domain.channels import PayChannel
from paycenter_server.services.context import Context
from paycenter_server.services.kept import Kept
from paycenter_server.storage import channels as channel_rows

_AGAIN_SECONDS = 1.0


class ChannelCache:
    """The channels of apps by their codes, and which bindings a channel has or had."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._by_code: Kept[tuple[UUID, str], PayChannel] = Kept(context, self._read_channel)
        self._bindings: Kept[UUID, Sequence[UUID]] = Kept(context, self._read_bindings)
        self._read_again: dict[UUID, float] = {}
        """When the bindings of a channel were last read again."""

    async def _read_channel(self, key: tuple[UUID, str]) -> PayChannel | None:
        async with self._context.database.connection() as connection:
            return await channel_rows.get_channel_by_code(connection, *key)

    async def _read_bindings(self, channel_id: UUID) -> Sequence[UUID] | None:
        async with self._context.database.connection() as connection:
            return [binding.id for binding in await channel_rows.list_bindings(connection, channel_id)] or None

    async def channel(self, app_id: UUID, code: str) -> PayChannel | None:
        """The channel of an app, enabled or not; None if there is none."""
        return await self._by_code.get((app_id, code))

    def known_bindings(self, channel_id: UUID) -> Sequence[UUID] | None:
        """What `bindings` returns, if it was read within the last second."""
        return self._bindings.known(channel_id)

    async def bindings(self, channel_id: UUID, *, again: bool = False) -> Sequence[UUID]:
        """The ids of all bindings that the channel has or had, the current one first; none if there is no channel.

        `again`: they are read, because what is kept may lack one of another process. So they are once in a second: anybody may send
        callbacks that no account has signed.
        """
        now = monotonic()
        if again and now - self._read_again.get(channel_id, float("-inf")) >= _AGAIN_SECONDS:
            self._read_again[channel_id] = now
            self._bindings.forget(channel_id)
        return await self._bindings.get(channel_id) or ()

    def forget(self) -> None:
        """Read everything again at its next use in this process, because a channel or an account has changed."""
        self._by_code.forget_all()
        self._bindings.forget_all()
        self._read_again.clear()
