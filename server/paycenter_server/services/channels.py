"""Administration of channels. Stored secrets are never returned."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paycenter_server.channels.addresses import GATEWAY_FIELD, is_public_gateway, without_credentials
from paycenter_server.channels.specs import ChannelSpec
from paycenter_server.domain.channels import PayChannel, new_channel
from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.validation import Check
from paycenter_server.services import errors
from paycenter_server.services.channels_gateway import ChannelGateway, secret_place
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.paging import Page, Pager
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage import channels as channel_rows
from paycenter_server.storage.database import ForeignKeyViolation, UniqueViolation


@dataclass(frozen=True, slots=True)
class NewChannel:
    """The values of a create request. `family` is the kind of the given configuration."""

    app_key: str
    code: str
    fee_rate_ppm: int
    remark: str
    family: str
    config: Mapping[str, str]
    enabled: bool


@dataclass(frozen=True, slots=True)
class ChannelView:
    """A channel as it may be shown: its configuration without secrets, their names, and the callback URLs."""

    channel: PayChannel
    family: str
    config: Mapping[str, str]
    secrets: list[str]
    order_callback_url: str
    refund_callback_url: str


class Channels:
    """Create, read, change and delete channels."""

    def __init__(self, context: Context, identity: Identity, gateway: ChannelGateway) -> None:
        self._context = context
        self._identity = identity
        self._gateway = gateway

    def view(self, channel: PayChannel) -> ChannelView:
        """The view of a channel, without its secrets."""
        spec = self._context.registry.get(channel.code)
        shown = {
            name: without_credentials(value) if name == GATEWAY_FIELD else value
            for name, value in channel.config.items()
            if not isinstance(value, dict)
        }
        secrets = sorted(name for name, value in channel.config.items() if isinstance(value, dict))
        order_url, refund_url = self._gateway.callback_urls(channel)
        return ChannelView(channel, spec.config_message if spec else "generic", shown, secrets, order_url, refund_url)

    def _spec(self, code: str, family: str) -> ChannelSpec:
        spec = self._context.registry.get(code)
        if spec is None:
            known = ", ".join(self._context.registry)
            raise invalid([Violation("code", f"is not an installed channel; installed: {known}")])
        if spec.development_only and self._context.options.production:
            raise errors.channel_not_allowed(code)
        if family != spec.config_message:
            raise invalid([Violation("config", f"must be the {spec.config_message} configuration for the channel code {code!r}")])
        return spec

    async def _checked(self, spec: ChannelSpec, config: Mapping[str, str]) -> dict[str, str]:
        known = {item.name for item in spec.config_fields}
        wrong = [Violation(f"config.{name}", "is not a field of this channel") for name in config if name not in known]
        given = {name: value for name, value in config.items() if value and name in known}
        # Parsing keys takes tens of milliseconds, so it runs in a thread.
        found = await asyncio.get_running_loop().run_in_executor(self._context.signers, lambda: list(spec.check(given)))
        wrong += [Violation(f"config.{violation.field}", violation.description) for violation in found]
        gateway = given.get(GATEWAY_FIELD, "")
        if self._context.options.production and gateway and not is_public_gateway(gateway):
            why = "must be a public https address in production: not this machine, private or link-local, and without credentials"
            wrong = [one for one in wrong if one.field != f"config.{GATEWAY_FIELD}"]
            wrong.append(Violation(f"config.{GATEWAY_FIELD}", why))
        if wrong:
            raise invalid(wrong)
        return given

    def _sealed(self, spec: ChannelSpec, channel_id: Any, config: Mapping[str, str]) -> dict[str, Any]:
        return {
            name: {"sealed": self._context.box.seal(value, secret_place(channel_id, name))} if name in spec.secret_fields else value
            for name, value in config.items()
        }

    async def create(self, caller: Caller, new: NewChannel) -> ChannelView:
        """Create a channel; an app has one per code. INVALID_FIELD names every invalid field of the configuration."""
        self._identity.require_operator(caller)
        app = await self._identity.app_of(caller, new.app_key)
        check = Check()
        check.ppm("fee_rate_ppm", new.fee_rate_ppm)
        check.text("remark", new.remark, 255)
        check.done()
        spec = self._spec(new.code, new.family)
        config = await self._checked(spec, new.config)
        now = self._context.now()
        key = self._context.new_key(now)
        channel = new_channel(
            key, now, app, code=new.code, enabled=new.enabled, fee_rate_ppm=new.fee_rate_ppm, remark=new.remark,
            config=self._sealed(spec, key, config),
        )  # fmt: skip
        try:
            async with self._context.database.connection() as connection:
                await channel_rows.insert_channel(connection, channel)
        except UniqueViolation:
            raise errors.channel_exists(new.code) from None
        return self.view(channel)

    async def _load(self, caller: Caller, number: str) -> PayChannel:
        key = decode(Prefix.CHANNEL, number)
        async with self._context.database.connection() as connection:
            channel = await channel_rows.get_channel(connection, key) if key else None
        if channel is None or not self._identity.owns(caller, channel.app_id):
            raise errors.channel_not_found()
        return channel

    async def update(
        self, caller: Caller, number: str, changes: Mapping[str, Any], family: str, config: Mapping[str, str] | None
    ) -> ChannelView:
        """Change the given fields. Secrets that a new configuration leaves empty keep their stored values."""
        self._identity.require_operator(caller)
        channel = await self._load(caller, number)
        check = Check()
        check.ppm("fee_rate_ppm", changes.get("fee_rate_ppm", channel.fee_rate_ppm))
        check.text("remark", changes.get("remark", channel.remark), 255)
        check.done()
        stored: Mapping[str, Any] = channel.config
        if config is not None:
            spec = self._spec(channel.code, family)
            clear = self._gateway.clear_config(channel)
            kept = {name: clear[name] for name in spec.secret_fields if name in clear and not config.get(name)}
            stored = self._sealed(spec, channel.id, await self._checked(spec, {**config, **kept}))
        async with self._context.database.connection() as connection:
            done = await channel_rows.update_channel(
                connection, channel.id, channel.version, self._context.now(),
                enabled=changes.get("enabled", channel.enabled), fee_rate_ppm=changes.get("fee_rate_ppm", channel.fee_rate_ppm),
                remark=changes.get("remark", channel.remark), config=stored,
            )  # fmt: skip
        if not done:
            raise errors.channel_changed()
        self._gateway.forget(channel.id)
        return self.view(await self._load(caller, number))

    async def delete(self, caller: Caller, number: str) -> None:
        """Delete a channel. CHANNEL_HAS_ORDERS if it has attempts, because their callbacks and refunds need it."""
        self._identity.require_operator(caller)
        channel = await self._load(caller, number)
        try:
            async with self._context.database.connection() as connection:
                await channel_rows.delete_channel(connection, channel.id)
        except ForeignKeyViolation:
            raise errors.channel_has_orders() from None
        self._gateway.forget(channel.id)

    async def get(self, caller: Caller, number: str) -> ChannelView:
        """Read by id."""
        self._identity.require_operator(caller)
        return self.view(await self._load(caller, number))

    async def search(self, caller: Caller, app_key: str, pager: Pager) -> Page[ChannelView]:
        """List channels, newest first."""
        self._identity.require_operator(caller)
        where = ("channels", app_key)
        async with self._context.database.connection() as connection:
            rows = await channel_rows.list_channels(connection, limit=pager.size + 1, before=pager.before(where), app_key=app_key)
        page = pager.page(rows, where)
        return Page([self.view(channel) for channel in page.items], page.next_token)

    async def enabled_codes(self, caller: Caller, app_key: str) -> list[str]:
        """The codes of the enabled channels of an app, sorted. An app may read its own."""
        app = await self._identity.app_of(caller, app_key)
        async with self._context.database.connection() as connection:
            codes = await app_rows.channel_codes(connection, [app.id])
        return codes.get(app.id, [])
