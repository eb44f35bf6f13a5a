"""Configurations of accounts and channels: which part belongs to which, sealing, and the plan of a change."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from paycenter_server.channels.addresses import GATEWAY_FIELD, is_public_gateway, without_credentials
from paycenter_server.channels.specs import ChannelSpec, Scope
from paycenter_server.domain.accounts import PayAccount, new_account
from paycenter_server.domain.channels import PayBinding
from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.services import accounts_errors
from paycenter_server.services.context import Context
from paycenter_server.storage import accounts as account_rows
from paycenter_server.storage import channels as channel_rows
from paycenter_server.storage.database import Transaction

OVERLAP = timedelta(hours=72)
"""How long the keys before a change verify callbacks and answers. WeChat Pay and Alipay repeat a callback for about 25 hours."""
IDENTITY_MAX = 255


class RacedError(Exception):
    """Another call has created or changed the account since it was read. The caller makes its plan again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an inline configuration means: the account of the channel, and the values of the way in clear text.

    `stored`: the account as it was read; None if it is to be inserted.
    """

    account: PayAccount
    stored: PayAccount | None
    way: Mapping[str, str]


def account_place(account_id: UUID, name: str) -> str:
    """The place to which a secret of an account is bound."""
    return f"pay_account:{account_id}:{name}"


def binding_place(binding_id: UUID, name: str) -> str:
    """The place to which a secret of a binding is bound."""
    return f"pay_binding:{binding_id}:{name}"


def same_value(one: str, other: str) -> bool:
    """Whether two values are the same except for white space, which differs where keys are pasted."""
    return "".join(one.split()) == "".join(other.split())


def shown(config: Mapping[str, Any]) -> dict[str, str]:
    """The fields that may be shown: no secrets, and no credentials in addresses."""
    return {
        name: without_credentials(value) if name == GATEWAY_FIELD else value
        for name, value in config.items()
        if not isinstance(value, dict)
    }


def secret_names(config: Mapping[str, Any]) -> list[str]:
    """The names of the secrets that are set, sorted."""
    return sorted(name for name, value in config.items() if isinstance(value, dict))


def audited_config(config: Mapping[str, Any]) -> dict[str, str]:
    """A configuration as the audit keeps it. The digest of a sealed secret tells that it changed, and nothing else."""
    sealed = {name: value["sealed"] for name, value in config.items() if isinstance(value, dict)}
    return shown(config) | {name: f"sealed {hashlib.sha256(text.encode()).hexdigest()[:12]}" for name, text in sealed.items()}


class Keys:
    """Opens and seals configurations, and plans their changes."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def clear_account(self, account: PayAccount, config: Mapping[str, Any] | None = None) -> dict[str, str]:
        """The configuration of an account (or one of its earlier ones) in clear text, for use inside the process only."""
        stored = account.config if config is None else config
        return {name: self._clear(value, account_place(account.id, name)) for name, value in stored.items()}

    def clear_binding(self, binding: PayBinding) -> dict[str, str]:
        """The values of the way in clear text, for use inside the process only."""
        return {name: self._clear(value, binding_place(binding.id, name)) for name, value in binding.config.items()}

    def _clear(self, value: Any, place: str) -> str:
        return self._context.box.open(value["sealed"], place) if isinstance(value, dict) else str(value)

    def seal_account(self, spec: ChannelSpec, account_id: UUID, config: Mapping[str, str]) -> dict[str, Any]:
        """The configuration of an account as it is stored."""
        return self._sealed(spec, config, lambda name: account_place(account_id, name))

    def seal_binding(self, spec: ChannelSpec, binding_id: UUID, config: Mapping[str, str]) -> dict[str, Any]:
        """The values of the way as they are stored."""
        return self._sealed(spec, config, lambda name: binding_place(binding_id, name))

    def _sealed(self, spec: ChannelSpec, config: Mapping[str, str], place: Any) -> dict[str, Any]:
        return {
            name: {"sealed": self._context.box.seal(value, place(name))} if name in spec.secret_fields else value
            for name, value in config.items()
        }

    async def refuse_invalid(
        self, spec: ChannelSpec, config: Mapping[str, str], wrong: Sequence[Violation] = (), *, whole: bool = True
    ) -> None:
        """INVALID_FIELD names every invalid field, and those in `wrong`. `whole`: account and way; otherwise the account alone."""
        check = spec.check if whole else spec.check_account
        # Parsing keys takes tens of milliseconds, so it runs in a thread.
        found = await self._context.in_thread(lambda: list(check(config)))
        named = [*wrong, *(Violation(f"config.{violation.field}", violation.description) for violation in found)]
        gateway = config.get(GATEWAY_FIELD, "")
        if self._context.options.production and gateway and not is_public_gateway(gateway):
            why = "must be a public https address in production: not this machine, private or link-local, and without credentials"
            named = [one for one in named if one.field != f"config.{GATEWAY_FIELD}"]
            named.append(Violation(f"config.{GATEWAY_FIELD}", why))
        if named:
            raise invalid(named)

    async def load(self, number: str) -> PayAccount:
        """Read an account by its number. ACCOUNT_NOT_FOUND if there is none."""
        key = decode(Prefix.ACCOUNT, number)
        async with self._context.database.connection() as connection:
            account = await account_rows.get_account(connection, key) if key else None
        if account is None:
            raise accounts_errors.account_not_found()
        return account

    async def plan(
        self,
        spec: ChannelSpec,
        number: str,
        config: Mapping[str, str],
        current: tuple[PayAccount, PayBinding] | None = None,
        scope: Collection[UUID] | None = None,
    ) -> Plan:
        """Find the account of an inline configuration, or build it.

        `number`: the account to use; "" finds it by its identity. `current`: those of the channel that is changed. The fields of an
        account that exists must be absent or the same, except in the current account of the channel, whose keys are changed.
        `scope`: the apps of the caller. ACCOUNT_NOT_FOUND if the account is used by others too; None means all apps.
        """
        known = {item.name for item in spec.config_fields}
        wrong = [Violation(f"config.{name}", "is not a field of this channel") for name in config if name not in known]
        given = {name: value for name, value in config.items() if value and name in known}
        keys, way = spec.of_scope(given, Scope.ACCOUNT), spec.of_scope(given, Scope.ATTEMPT, Scope.CHANNEL)
        if current is not None:
            before = self.clear_binding(current[1])
            way = {**{name: value for name, value in before.items() if name in spec.secret_fields}, **way}
        account = await self._account_of(spec, number, keys, way, current[0] if current else None, wrong)
        if account is not None and scope is not None:
            await self._refuse_of_others(account, scope)
        if account is None:
            await self.refuse_invalid(spec, {**keys, **way}, wrong)
            return Plan(self._new_account(spec, keys, way), None, way)
        stored = self.clear_account(account)
        changed = {name: value for name, value in keys.items() if not same_value(stored.get(name, ""), value)}
        if current is None or account.id != current[0].id:
            why = f"the account {account.number} has another value; leave it empty, or change it with UpdatePayAccount"
            wrong += [Violation(f"config.{name}", why) for name in changed if name in stored]
        elif fixed := [name for name in changed if name in spec.identity_fields]:
            raise accounts_errors.account_identity_fixed(account, fixed)
        await self.refuse_invalid(spec, {**stored, **changed, **way}, wrong)
        return Plan(self.with_keys(spec, account, {**stored, **changed}), account, way)

    async def _refuse_of_others(self, account: PayAccount, scope: Collection[UUID]) -> None:
        async with self._context.database.connection() as connection:
            apps = await channel_rows.apps_of_account(connection, account.id)
        if not apps or not apps <= set(scope):
            raise accounts_errors.account_not_found()

    async def _account_of(
        self,
        spec: ChannelSpec,
        number: str,
        keys: Mapping[str, str],
        way: Mapping[str, str],
        current: PayAccount | None,
        wrong: Sequence[Violation],
    ) -> PayAccount | None:
        """The account of this configuration; None if it is not stored yet."""
        if number:
            account = await self.load(number)
            if account.family != spec.family:
                why = f"is an account of {account.family}; the channel code {spec.code!r} needs one of {spec.family}"
                raise invalid([*wrong, Violation("account_id", why)])
            return account
        if spec.identity_fields:
            if current is not None and not any(keys.get(name) for name in spec.identity_fields):
                return current
            identity = spec.identity(keys)
        else:
            # The codec states the identity, so the configuration must be complete. Secrets of this account may be left empty.
            kept = (
                {name: value for name, value in self.clear_account(current).items() if name in spec.secret_fields}
                if current
                else {}
            )
            await self.refuse_invalid(spec, {**kept, **keys, **way}, wrong)
            identity = spec.identity({**kept, **keys, **way})
        if current is not None and identity == current.identity:
            return current
        async with self._context.database.connection() as connection:
            return await account_rows.get_account_by_identity(connection, spec.family, identity)

    def _new_account(self, spec: ChannelSpec, keys: Mapping[str, str], way: Mapping[str, str]) -> PayAccount:
        now = self._context.now()
        key, identity = self._context.new_key(now), spec.identity({**keys, **way})
        if len(identity) > IDENTITY_MAX:
            raise invalid([Violation("config", f"the identity of the account is longer than {IDENTITY_MAX} characters")])
        config = self.seal_account(spec, key, keys)
        return new_account(key, now, family=spec.family, identity=identity, name=identity[:64], remark="", config=config)

    def with_keys(
        self, spec: ChannelSpec, account: PayAccount, config: Mapping[str, str], overlap: timedelta = OVERLAP
    ) -> PayAccount:
        """The account with this configuration. Values that replace others leave those valid for callbacks during the overlap."""
        stored = self.clear_account(account)
        if config == stored:
            return account if overlap else replace(account, earlier_keys=[])
        # What has not changed keeps its envelope.
        sealed = self.seal_account(spec, account.id, {name: value for name, value in config.items() if stored.get(name) != value})
        now: datetime = self._context.now()
        merged = {name: sealed.get(name, account.config.get(name)) for name in config}
        replaces = any(config.get(name) != value for name, value in stored.items())
        if not replaces and overlap:
            return replace(account, config=merged)
        return account.with_keys(merged, now, now + overlap)

    async def store(self, transaction: Transaction, plan: Plan) -> None:
        """Insert or change the account of a plan. RacedError if another call was first."""
        now = self._context.now()
        if plan.stored is None:
            done = await account_rows.insert_account(transaction, plan.account)
        else:
            done = plan.account is plan.stored or await account_rows.update_account(transaction, plan.account, now)
        if not done:
            raise RacedError
