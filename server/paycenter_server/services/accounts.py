"""Administration of accounts. Stored secrets are never returned."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from paycenter_server.channels.specs import ChannelSpec, Scope
from paycenter_server.domain.accounts import PayAccount, new_account
from paycenter_server.domain.approvals import ApprovalKind
from paycenter_server.domain.audit import changed
from paycenter_server.domain.channels import PayChannel
from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.validation import Check
from paycenter_server.services import accounts_errors, channels_errors
from paycenter_server.services.accounts_keys import IDENTITY_MAX, OVERLAP, Keys, audited_config, same_value, secret_names, shown
from paycenter_server.services.approvals import Approvals, Approved, NeedsApprovalError, Wanted
from paycenter_server.services.audit import Act, record
from paycenter_server.services.channels_gateway import ChannelGateway
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.paging import Page, Pager
from paycenter_server.storage import accounts as account_rows
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage import channels as channel_rows
from paycenter_server.storage.database import ForeignKeyViolation

_MOST_HOURS = 24 * 30


@dataclass(frozen=True, slots=True)
class NewAccount:
    """The values of a create request. `message`: the kind of the given configuration. `family`: needed if that is "generic"."""

    name: str
    remark: str
    family: str
    message: str
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account as it may be shown: its configuration without secrets, and their names.

    `earlier_keys_until`: until then earlier keys verify callbacks; None if there are none.
    """

    account: PayAccount
    message: str
    config: Mapping[str, str]
    secrets: list[str]
    earlier_keys_until: datetime | None


def audited(account: PayAccount) -> dict[str, Any]:
    """What the audit keeps of an account: of secrets only whether they changed."""
    return {
        "family": account.family,
        "identity": account.identity,
        "name": account.name,
        "enabled": account.enabled,
        "remark": account.remark,
        "config": audited_config(account.config),
        "earlier_keys": len(account.earlier_keys),
        "change_approval": account.change_approval,
    }


def _guarded(account: PayAccount) -> tuple[Any, ...]:
    """What only two operators change together, if the account says so. The switch itself is part of it."""
    return *_keys_of(account), account.enabled, account.change_approval


def _keys_of(account: PayAccount) -> tuple[Any, ...]:
    """What only two operators change together, if an app whose channels have the account says so."""
    return account.config, account.earlier_keys


class Accounts:
    """Create, read, change and delete accounts."""

    def __init__(self, context: Context, identity: Identity, gateway: ChannelGateway, approvals: Approvals) -> None:
        self._context = context
        self._identity = identity
        self._gateway = gateway
        self._approvals = approvals
        self._keys = Keys(context)

    def view(self, account: PayAccount) -> AccountView:
        """The view of an account, without its secrets."""
        spec = self._context.registry.of_family(account.family)
        untils = [datetime.fromisoformat(entry["until"]) for entry in account.valid_earlier_keys(self._context.now())]
        return AccountView(
            account, spec.config_message if spec else "generic", shown(account.config), secret_names(account.config),
            max(untils, default=None),
        )  # fmt: skip

    def _spec(self, family: str, message: str) -> ChannelSpec:
        if message and message != "generic" and family and family != message:
            raise invalid([Violation("family", f"is {family!r}, but the configuration is that of {message}")])
        wanted = family or message
        for spec in self._context.registry.values():
            if spec.family == wanted and spec.config_message == message:
                return spec
        known = ", ".join(self._context.registry.families)
        if message == "generic" or not message:
            raise invalid([Violation("family", f"must be a channel family that the configuration is for; installed: {known}")])
        raise invalid([Violation("config", f"is for {message}, which is not installed; installed: {known}")])

    def _given(self, spec: ChannelSpec, config: Mapping[str, str]) -> tuple[dict[str, str], list[Violation]]:
        keys = spec.of_scope(config, Scope.ACCOUNT)
        way = spec.of_scope(config, Scope.ATTEMPT, Scope.CHANNEL)
        wrong = [
            Violation(f"config.{name}", "belongs to the channel; set it in CreatePayChannel or UpdatePayChannel") for name in way
        ]
        known = {*keys, *way}
        wrong += [Violation(f"config.{name}", "is not a field of this family") for name in config if name not in known]
        return {name: value for name, value in keys.items() if value}, wrong

    def _check(self, name: str, remark: str) -> None:
        check = Check()
        check.text("name", name, 64)
        check.text("remark", remark, 255)
        check.done()

    async def create(self, caller: Caller, new: NewAccount) -> AccountView:
        """Create an account. ACCOUNT_EXISTS if the family has one with this identity. The name is the identity if it is empty."""
        self._identity.require_operator(caller)
        self._check(new.name, new.remark)
        spec = self._spec(new.family, new.message)
        if spec.development_only and self._context.options.production:
            raise channels_errors.channel_not_allowed(spec.code)
        keys, wrong = self._given(spec, new.config)
        await self._keys.refuse_invalid(spec, keys, wrong, whole=False)
        identity = spec.identity(keys)
        if len(identity) > IDENTITY_MAX:
            raise invalid([Violation("config", f"the identity of the account is longer than {IDENTITY_MAX} characters")])
        now = self._context.now()
        key = self._context.new_key(now)
        account = new_account(
            key, now, family=spec.family, identity=identity, name=new.name or identity[:64], remark=new.remark,
            config=self._keys.seal_account(spec, key, keys),
        )  # fmt: skip
        async with self._context.database.transaction() as connection:
            if await account_rows.insert_account(connection, account):
                await record(connection, caller, Act("PayAccountService/CreatePayAccount", account.number), None, audited(account))
                return self.view(account)
            existing = await account_rows.get_account_by_identity(connection, spec.family, identity)
        raise accounts_errors.account_exists(existing) if existing else accounts_errors.account_changed()

    async def update(
        self,
        caller: Caller,
        number: str,
        changes: Mapping[str, Any],
        message: str,
        config: Mapping[str, str] | None,
        overlap_hours: int | None = None,
        *,
        approved: Approved | None = None,
        version: int | None = None,
    ) -> AccountView:
        """Change the given fields. A new configuration replaces the old one; secrets that it leaves empty keep their values.

        ACCOUNT_IDENTITY_FIXED for another identity. ACCOUNT_UNSETTLED if it is disabled while attempts or refunds are not settled.
        Keys that are replaced verify callbacks for `overlap_hours` more (72 by default); 0 ends all earlier keys at once.
        APPROVAL_NEEDED, and the change waits, if keys or switches of an account with `change_approval` change, or the keys of one
        that channels of an app with `channel_approval` have or had. `approved`: a second operator has approved it, for the account
        with this `version`.
        """
        self._identity.require_operator(caller)
        account = await self._keys.load(number)
        if version is not None and account.version != version:
            raise accounts_errors.account_changed()
        self._check(changes.get("name", account.name), changes.get("remark", account.remark))
        if overlap_hours is not None and not 0 <= overlap_hours <= _MOST_HOURS:
            raise invalid([Violation("overlap_hours", f"must be 0 to {_MOST_HOURS}")])
        overlap = OVERLAP if overlap_hours is None else timedelta(hours=overlap_hours)
        wanted = replace(
            account, name=changes.get("name", account.name), remark=changes.get("remark", account.remark),
            enabled=changes.get("enabled", account.enabled),
            change_approval=changes.get("change_approval", account.change_approval),
        )  # fmt: skip
        secrets: Collection[str] = ()
        if config is not None:
            spec = self._spec(account.family, message)
            secrets = spec.secret_fields
            wanted = self._keys.with_keys(spec, wanted, await self._new_keys(spec, account, config), overlap)
        elif overlap_hours == 0:
            wanted = replace(wanted, earlier_keys=[])
        try:
            await self._store(caller, account, wanted, approved)
        except NeedsApprovalError as needed:
            before, after = changed(audited(account), needed.after)
            request = {
                "changes": dict(changes), "message": message, "config": config and dict(config), "overlap_hours": overlap_hours,
                "version": account.version,
            }  # fmt: skip
            shown = {"before": before, "after": after}
            raise await self._approvals.request(
                caller, Wanted(ApprovalKind.ACCOUNT, account.number, request, shown, secrets=secrets)
            ) from None
        self._gateway.channels.forget_account(account.id)
        return self.view(await self._keys.load(number))

    async def _store(self, caller: Caller, account: PayAccount, wanted: PayAccount, approved: Approved | None) -> None:
        async with self._context.database.transaction() as connection:
            if approved is not None:
                await self._approvals.take(connection, approved)
            elif account.change_approval and _guarded(account) != _guarded(wanted):
                raise NeedsApprovalError(audited(wanted))
            await account_rows.lock_account(connection, account.id)
            if account.enabled and not wanted.enabled:
                await self._refuse_unsettled(connection, account)
            other_keys = _keys_of(account) != _keys_of(wanted)
            if approved is None and other_keys and await app_rows.lock_channel_approval(connection, None, account.id):
                raise NeedsApprovalError(audited(wanted))
            if not await account_rows.update_account(connection, wanted, self._context.now()):
                raise accounts_errors.account_changed()
            act = Act("PayAccountService/UpdatePayAccount", account.number)
            await record(connection, caller, act, audited(account), audited(wanted) | (approved.audited if approved else {}))
            if approved is not None:
                await self._approvals.record(connection, approved)

    async def _new_keys(self, spec: ChannelSpec, account: PayAccount, config: Mapping[str, str]) -> dict[str, str]:
        """The checked configuration after an update, in clear text. Every channel that has or had the account must work with it:
        its earlier payments can still be paid and refunded."""
        given, wrong = self._given(spec, config)
        stored = self._keys.clear_account(account)
        keep = {*spec.secret_fields, *spec.identity_fields}
        merged = {name: value for name, value in stored.items() if name in keep} | given
        merged |= {name: stored[name] for name in merged if name in stored and same_value(stored[name], merged[name])}
        fixed = [name for name in spec.identity_fields if merged.get(name) != stored.get(name)]
        if fixed:
            raise accounts_errors.account_identity_fixed(account, fixed)
        await self._keys.refuse_invalid(spec, merged, wrong, whole=False)
        if not spec.identity_fields and spec.identity(merged) != account.identity:
            raise accounts_errors.account_identity_fixed(account, ["config"])
        async with self._context.database.connection() as connection:
            uses = await channel_rows.list_account_bindings(connection, account.id)
        for code, binding in uses:
            own = self._context.registry.get(code)
            if own is not None:
                await self._keys.refuse_invalid(own, {**merged, **self._keys.clear_binding(binding)})
        return merged

    async def _refuse_unsettled(self, connection: Any, account: PayAccount) -> None:
        if unsettled := await account_rows.count_unsettled(connection, account.id):
            raise accounts_errors.account_unsettled(account, unsettled)

    async def delete(self, caller: Caller, number: str) -> None:
        """Delete an account that no channel has or had. ACCOUNT_UNSETTLED, with numbers, if money is on its way over it."""
        self._identity.require_operator(caller)
        account = await self._keys.load(number)
        try:
            async with self._context.database.transaction() as connection:
                await account_rows.lock_account(connection, account.id)
                await self._refuse_unsettled(connection, account)
                await account_rows.delete_account(connection, account.id)
                await record(connection, caller, Act("PayAccountService/DeletePayAccount", account.number), audited(account), {})
        except ForeignKeyViolation:
            raise accounts_errors.account_in_use(account) from None

    async def get(self, caller: Caller, number: str) -> AccountView:
        """Read by id."""
        self._identity.require_operator(caller)
        return self.view(await self._keys.load(number))

    async def uses(self, caller: Caller, number: str) -> list[PayChannel]:
        """The channels whose current account this is."""
        self._identity.require_operator(caller)
        account = await self._keys.load(number)
        async with self._context.database.connection() as connection:
            return [channel for channel, _ in await channel_rows.list_current_bindings(connection, account.id)]

    async def search(self, caller: Caller, family: str, pager: Pager) -> Page[AccountView]:
        """List accounts, newest first."""
        self._identity.require_operator(caller)
        where = ("accounts", family)
        async with self._context.database.connection() as connection:
            rows = await account_rows.list_accounts(connection, limit=pager.size + 1, before=pager.before(where), family=family)
        page = pager.page(rows, where)
        return Page([self.view(account) for account in page.items], page.next_token)
