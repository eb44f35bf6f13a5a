"""Administration of channels. Stored secrets are never returned."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from paycenter_server.channels.specs import ChannelSpec, Scope
from paycenter_server.domain.accounts import PayAccount
from paycenter_server.domain.approvals import ApprovalKind
from paycenter_server.domain.audit import changed as differing
from paycenter_server.domain.channels import PayBinding, PayChannel, new_binding, new_channel
from paycenter_server.domain.errors import PayCenterError, Violation, invalid
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.validation import Check
from paycenter_server.services import accounts_errors, channels_errors
from paycenter_server.services.accounts_keys import Keys, Plan, RacedError, audited_config, secret_names, shown
from paycenter_server.services.approvals import Approvals, Approved, NeedsApprovalError, Wanted
from paycenter_server.services.audit import Act, record
from paycenter_server.services.channels_approval import (
    account_needs_approval,
    app_needs_approval,
    found_account,
    refuse_another_account,
)
from paycenter_server.services.channels_gateway import ChannelGateway
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.paging import Page, Pager
from paycenter_server.storage import accounts as account_rows
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage import channels as channel_rows
from paycenter_server.storage.database import Connection, ForeignKeyViolation, UniqueViolation

_MOST_TRIES = 8


@dataclass(frozen=True, slots=True)
class NewChannel:
    """The values of a create request. `family` is the kind of the given configuration, "" if there is none.

    `account`: the number of the account; "" if the configuration describes the account.
    """

    app_key: str
    code: str
    fee_rate_ppm: int
    remark: str
    family: str
    config: Mapping[str, str]
    enabled: bool
    account: str = ""

    def request(self, found: Mapping[str, Any] | None) -> dict[str, Any]:
        """As an approval stores it. `found`: the account (see `channels_approval.found_account`)."""
        return {**asdict(self), "config": dict(self.config), "found": found}


@dataclass(frozen=True, slots=True)
class ChannelView:
    """A channel as it may be shown: the configuration of account and way without secrets, their names, and the callback URLs."""

    channel: PayChannel
    account: PayAccount
    family: str
    config: Mapping[str, str]
    secrets: list[str]
    order_callback_url: str
    refund_callback_url: str


def audited(view: ChannelView, binding: PayBinding) -> dict[str, Any]:
    """What the audit keeps of a channel: of secrets only whether they changed."""
    return {
        "code": view.channel.code,
        "enabled": view.channel.enabled,
        "fee_rate_ppm": view.channel.fee_rate_ppm,
        "remark": view.channel.remark,
        "account": view.account.number,
        "config": audited_config(binding.config),
        "account_config": audited_config(view.account.config),
    }


@dataclass(frozen=True, slots=True)
class _Change:
    """The values of an update. `approved`: by a second operator; None if it was not."""

    changes: Mapping[str, Any]
    family: str
    config: Mapping[str, str] | None
    account: str
    approved: Approved | None

    def request(self, version: int, found: Mapping[str, Any] | None) -> dict[str, Any]:
        """As an approval stores it. `found`: the account (see `channels_approval.found_account`)."""
        return {
            "changes": dict(self.changes), "family": self.family, "config": dict(self.config) if self.config is not None else None,
            "account": self.account, "version": version, "found": found,
        }  # fmt: skip


class Channels:
    """Create, read, change and delete channels."""

    def __init__(self, context: Context, identity: Identity, gateway: ChannelGateway, approvals: Approvals) -> None:
        self._context = context
        self._identity = identity
        self._gateway = gateway
        self._approvals = approvals
        self._keys = Keys(context)

    async def _views(self, connection: Connection, channels: Sequence[PayChannel]) -> list[ChannelView]:
        bindings = {one.id: one for one in await channel_rows.get_bindings(connection, [one.binding_id for one in channels])}
        found = await account_rows.get_accounts(connection, [one.account_id for one in bindings.values()])
        accounts = {one.id: one for one in found}
        views = []
        for channel in channels:
            # A channel that has changed between the statements is left out of a list.
            if (binding := bindings.get(channel.binding_id)) and (account := accounts.get(binding.account_id)):
                views.append(self._view(channel, binding, account))
        return views

    def _view(self, channel: PayChannel, binding: PayBinding, account: PayAccount) -> ChannelView:
        spec = self._context.registry.get(channel.code)
        stored = {**account.config, **binding.config}
        order_url, refund_url = self._gateway.callback_urls(channel)
        message = spec.config_message if spec else "generic"
        return ChannelView(channel, account, message, shown(stored), secret_names(stored), order_url, refund_url)

    def _spec(self, code: str, family: str) -> ChannelSpec:
        spec = self._context.registry.get(code)
        if spec is None:
            known = ", ".join(self._context.registry)
            raise invalid([Violation("code", f"is not an installed channel; installed: {known}")])
        if spec.development_only and self._context.options.production:
            raise channels_errors.channel_not_allowed(code)
        if family != spec.config_message:
            raise invalid([Violation("config", f"must be the {spec.config_message} configuration for the channel code {code!r}")])
        return spec

    async def create(self, caller: Caller, new: NewChannel, *, approved: Approved | None = None) -> ChannelView:
        """Create a channel; an app has one per code. INVALID_FIELD names every invalid field of the configuration.

        The account is the given one, or the one that the configuration identifies; if there is no such account it is created.
        APPROVAL_NEEDED, and the channel waits, for an app with `channel_approval`, and if it brings a field to an account that an
        app or the account itself protects. `approved`: a second operator has approved it.
        """
        self._identity.require_operator(caller)
        app = await self._identity.app_of(caller, new.app_key)
        check = Check()
        check.ppm("fee_rate_ppm", new.fee_rate_ppm)
        check.text("remark", new.remark, 255)
        check.done()
        known = self._context.registry.get(new.code)
        spec = self._spec(new.code, known.config_message if known and new.account and not new.family else new.family)
        now = self._context.now()
        key, binding_key = self._context.new_key(now), self._context.new_key(now)

        async def store() -> ChannelView:
            plan = await self._keys.plan(spec, new.account, new.config, scope=caller.scope)
            binding = new_binding(binding_key, now, key, plan.account.id, self._keys.seal_binding(spec, binding_key, plan.way))
            channel = new_channel(
                key, now, app, code=new.code, enabled=new.enabled, fee_rate_ppm=new.fee_rate_ppm, remark=new.remark,
                binding_id=binding.id,
            )  # fmt: skip
            view = self._view(channel, binding, plan.account)
            after = audited(view, binding)
            async with self._context.database.transaction() as connection:
                if approved is not None:
                    await self._approvals.take(connection, approved)
                    await refuse_another_account(connection, plan, approved)
                await self._keys.store(connection, plan)
                await channel_rows.insert_channel(connection, channel)
                await channel_rows.insert_binding(connection, binding)
                if approved is None and (account_needs_approval(None, plan) or await app_needs_approval(connection, app.id, plan)):
                    raise NeedsApprovalError(after, found_account(plan.stored))
                act = Act("PayChannelService/CreatePayChannel", channel.number, new.app_key)
                await record(connection, caller, act, None, after | (approved.audited if approved else {}))
                if approved is not None:
                    await self._approvals.record(connection, approved)
            self._gateway.channels.forget_account(plan.account.id)
            return view

        try:
            return await self._planned(store)
        except NeedsApprovalError as needed:
            wanted = Wanted(
                ApprovalKind.NEW_CHANNEL, app.app_key, new.request(needed.found), {"before": {}, "after": needed.after}, app=app,
                secrets=spec.secret_fields,
            )  # fmt: skip
            raise await self._approvals.request(caller, wanted) from None
        except UniqueViolation:
            raise channels_errors.channel_exists(new.code) from None
        except ForeignKeyViolation:
            raise accounts_errors.account_changed() from None

    async def _planned(self, store: Callable[[], Awaitable[ChannelView]]) -> ChannelView:
        """Plan and store, again if another call was first. ACCOUNT_CHANGED if that happens too often."""
        for _ in range(_MOST_TRIES):
            try:
                return await store()
            except RacedError:
                continue
        raise accounts_errors.account_changed()

    async def _load(self, caller: Caller, number: str) -> PayChannel:
        key = decode(Prefix.CHANNEL, number)
        async with self._context.database.connection() as connection:
            channel = await channel_rows.get_channel(connection, key) if key else None
        if channel is None or not self._identity.owns(caller, channel.app_id):
            raise channels_errors.channel_not_found()
        return channel

    async def update(
        self,
        caller: Caller,
        number: str,
        changes: Mapping[str, Any],
        family: str,
        config: Mapping[str, str] | None,
        account: str = "",
        *,
        approved: Approved | None = None,
        version: int | None = None,
    ) -> ChannelView:
        """Change the given fields.

        `account`, or a configuration with another identity, moves the channel to that account. A configuration with the identity
        of its account changes the account's keys. Fields of the account, and secrets, that are empty keep their stored values.
        Attempts and refunds stay with the account that they began with. APPROVAL_NEEDED, and the change waits, if it changes the
        account or its keys and an account with `change_approval` is concerned, or an app with `channel_approval`. `approved`: a
        second operator has approved it, for the channel with this `version`.
        """
        self._identity.require_operator(caller)
        check = Check()
        check.ppm("fee_rate_ppm", changes.get("fee_rate_ppm", 0))
        check.text("remark", changes.get("remark", ""), 255)
        check.done()
        channel = await self._load(caller, number)
        if version is not None and channel.version != version:
            raise channels_errors.channel_changed()
        change = _Change(changes, family, config, account, approved)

        async def store() -> ChannelView:
            return await self._change(caller, channel, change)

        await self._planned(store)
        self._gateway.channels.forget(channel.id)
        return await self.get(caller, number)

    async def _change(self, caller: Caller, channel: PayChannel, change: _Change) -> ChannelView:
        changes, config, account, approved = change.changes, change.config, change.account, change.approved
        async with self._context.database.connection() as connection:
            bindings = await channel_rows.list_bindings(connection, channel.id)
            current = next((one for one in bindings if one.id == channel.binding_id), None)
            stored = await account_rows.get_account(connection, current.account_id) if current else None
        if current is None or stored is None:
            raise channels_errors.channel_changed()
        plan, binding, fresh = None, current, False
        if config is not None or account:
            known = self._context.registry.get(channel.code)
            spec = self._spec(channel.code, change.family if config is not None or not known else known.config_message)
            way = self._keys.clear_binding(current)
            given = config if config is not None else spec.of_scope(way, Scope.ATTEMPT, Scope.CHANNEL)
            plan = await self._keys.plan(spec, account, given, (stored, current), scope=caller.scope)
            binding, fresh = self._binding(spec, channel, bindings, plan)
        names = ("enabled", "fee_rate_ppm", "remark")
        changed = replace(channel, binding_id=binding.id, **{name: changes[name] for name in names if name in changes})
        view = self._view(changed, binding, plan.account if plan else stored)
        before, after = audited(self._view(channel, current, stored), current), audited(view, binding)
        other = plan is not None and (binding is not current or plan.account is not plan.stored)
        now = self._context.now()
        try:
            async with self._context.database.transaction() as connection:
                if approved is not None:
                    await self._approvals.take(connection, approved)
                    if plan is not None:
                        await refuse_another_account(connection, plan, approved)
                elif plan is not None and account_needs_approval(stored, plan):
                    raise NeedsApprovalError(after, found_account(plan.stored))
                if plan is not None:
                    await self._keys.store(connection, plan)
                    if fresh:
                        await channel_rows.insert_binding(connection, binding)
                    elif binding not in bindings:
                        await channel_rows.update_binding(connection, binding, now)
                done = await channel_rows.update_channel(
                    connection, channel.id, channel.version, now,
                    enabled=changed.enabled, fee_rate_ppm=changed.fee_rate_ppm, remark=changed.remark, binding_id=binding.id,
                )  # fmt: skip
                if not done:
                    raise channels_errors.channel_changed()
                if approved is None and other and plan is not None and await app_needs_approval(connection, channel.app_id, plan):
                    raise NeedsApprovalError(after, found_account(plan.stored))
                act = Act("PayChannelService/UpdatePayChannel", channel.number, channel.app_key)
                await record(connection, caller, act, before, after | (approved.audited if approved else {}))
                if approved is not None:
                    await self._approvals.record(connection, approved)
        except NeedsApprovalError as needed:
            request = change.request(channel.version, needed.found)
            raise await self._request(caller, channel, request, differing(before, needed.after)) from None
        if plan is not None:
            self._gateway.channels.forget_account(plan.account.id)
        return view

    async def _request(
        self, caller: Caller, channel: PayChannel, request: Mapping[str, Any], sides: tuple[dict[str, Any], dict[str, Any]]
    ) -> PayCenterError:
        """Store the change for a second operator. APPROVAL_NEEDED."""
        spec = self._context.registry.get(channel.code)
        app = await self._identity.app_of(caller, channel.app_key)
        shown = dict(zip(("before", "after"), sides, strict=True))
        secrets = spec.secret_fields if spec else ()
        return await self._approvals.request(
            caller, Wanted(ApprovalKind.CHANNEL, channel.number, request, shown, app=app, secrets=secrets)
        )

    def _binding(
        self, spec: ChannelSpec, channel: PayChannel, bindings: Sequence[PayBinding], plan: Plan
    ) -> tuple[PayBinding, bool]:
        """The binding of the channel to the account of the plan, and whether it is new.

        An earlier binding is used again if what attempts keep is the same. Otherwise they need it as it is.
        """
        kept = spec.of_scope(plan.way, Scope.ATTEMPT)
        for binding in bindings:
            clear = self._keys.clear_binding(binding)
            if binding.account_id == plan.account.id and spec.of_scope(clear, Scope.ATTEMPT) == kept:
                if clear == dict(plan.way):
                    return binding, False
                return replace(binding, config=self._keys.seal_binding(spec, binding.id, plan.way)), False
        now = self._context.now()
        key = self._context.new_key(now)
        return new_binding(key, now, channel.id, plan.account.id, self._keys.seal_binding(spec, key, plan.way)), True

    async def delete(self, caller: Caller, number: str) -> None:
        """Delete a channel. CHANNEL_HAS_ORDERS if it has attempts, because their callbacks and refunds need it."""
        self._identity.require_operator(caller)
        channel = await self._load(caller, number)
        try:
            async with self._context.database.transaction() as connection:
                await channel_rows.delete_channel(connection, channel.id)
                act = Act("PayChannelService/DeletePayChannel", channel.number, channel.app_key)
                await record(connection, caller, act, {"code": channel.code, "enabled": channel.enabled}, {})
        except ForeignKeyViolation:
            raise channels_errors.channel_has_orders() from None
        self._gateway.channels.forget(channel.id)

    async def get(self, caller: Caller, number: str) -> ChannelView:
        """Read by id."""
        self._identity.require_operator(caller)
        channel = await self._load(caller, number)
        async with self._context.database.connection() as connection:
            views = await self._views(connection, [channel])
        if not views:
            raise channels_errors.channel_changed()
        return views[0]

    async def search(self, caller: Caller, app_key: str, pager: Pager) -> Page[ChannelView]:
        """List channels, newest first."""
        self._identity.require_operator(caller)
        where = ("channels", app_key, caller.scope_keys)
        async with self._context.database.connection() as connection:
            rows = await channel_rows.list_channels(
                connection, limit=pager.size + 1, before=pager.before(where), app_key=app_key, scope=caller.scope
            )
            page = pager.page(rows, where)
            return Page(await self._views(connection, page.items), page.next_token)

    async def enabled_codes(self, caller: Caller, app_key: str) -> list[str]:
        """The codes of the enabled channels of an app, sorted. An app may read its own."""
        app = await self._identity.app_of(caller, app_key)
        async with self._context.database.connection() as connection:
            codes = await app_rows.channel_codes(connection, [app.id])
        return codes.get(app.id, [])
