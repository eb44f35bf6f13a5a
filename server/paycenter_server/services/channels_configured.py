"""Configured channels: the rows of a channel over an account, with the codec that its keys build."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from uuid import UUID

import structlog

from paycenter_server.channels.crypto import CryptoError
from paycenter_server.channels.protocol import Codec
from paycenter_server.channels.specs import ChannelSpec
from paycenter_server.domain.accounts import PayAccount
from paycenter_server.domain.channels import PayBinding, PayChannel
from paycenter_server.services import channels_errors
from paycenter_server.services.accounts_keys import Keys
from paycenter_server.services.channels_cache import ChannelCache
from paycenter_server.services.context import Context
from paycenter_server.storage import accounts as account_rows
from paycenter_server.storage import channels as channel_rows
from paycenter_server.storage.database import retryable_error
from paycenter_server.telemetry import Sampled

log = structlog.get_logger(__name__)

_FRESH_SECONDS = 1.0
_LOGGED_A_SECOND = 10
_logged = Sampled("unusable_bindings_not_logged", _LOGGED_A_SECOND, 1)


@dataclass
class ConfiguredChannel:
    """A channel over one account: the rows, the spec of its code, and the codec for this binding.

    `earlier`: codecs with the account's earlier keys, and until when they are valid. They only read callbacks and answers.
    """

    channel: PayChannel
    binding: PayBinding
    account: PayAccount
    spec: ChannelSpec
    codec: Codec
    loaded: float
    earlier: list[tuple[datetime, Codec]] = field(default_factory=list)
    key_fetches: dict[timedelta, datetime] = field(default_factory=dict)
    fetching: asyncio.Task[bool] | None = None

    def differing_fact(self, facts: Mapping[str, str], now: datetime, *, identity: bool = False) -> str:
        """The first fact of a message that is not that of this account; "" if it names the account.

        `identity`: only the merchant is compared. Facts that change with the keys (Alipay's seller_id) may also be those of earlier
        keys that are still valid.
        """
        differing = self._differing_fact(self.codec, facts, identity)
        if differing and any(now < until and not self._differing_fact(codec, facts, identity) for until, codec in self.earlier):
            return ""
        return differing

    def _differing_fact(self, codec: Codec, facts: Mapping[str, str], identity: bool) -> str:
        for name, ours in (self.spec.identity_facts(codec) if identity else codec.account).items():
            if facts.get(name) != ours:
                return name
        return ""

    @property
    def current(self) -> bool:
        """Whether new payments of the channel are made over this account."""
        return self.channel.binding_id == self.binding.id


class ConfiguredChannels:
    """Codecs by binding. Rows are read again after a second. Keys are parsed again only if account or binding have changed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._keys = Keys(context)
        self._known: dict[UUID, ConfiguredChannel] = {}
        self._unusable: dict[UUID, tuple[float, str]] = {}
        """When the codec of a binding could not be made, and the code of its channel."""
        self._building: dict[UUID, asyncio.Lock] = {}
        self._rows = ChannelCache(context)
        self._changes = 0

    async def get(self, channel_id: UUID) -> ConfiguredChannel:
        """The channel over its current account. CHANNEL_NOT_FOUND if there is none."""
        async with self._context.database.connection() as connection:
            channel = await channel_rows.get_channel(connection, channel_id)
        if channel is None:
            raise channels_errors.channel_not_found()
        return await self.bound(channel.binding_id)

    async def of_code(self, app_id: UUID, code: str) -> PayChannel | None:
        """The channel of an app as it was at most a second ago, enabled or not; None if there is none."""
        return await self._rows.channel(app_id, code)

    async def all_of(self, channel_id: UUID, *, again: bool = False) -> list[ConfiguredChannel]:
        """The channel over every account that it has or had and whose keys can be read, the current one first, as it was at most a
        second ago; with `again` as it is now. CHANNEL_NOT_FOUND if there is no channel."""
        bindings = (None if again else self._rows.known_bindings(channel_id)) or await self._rows.bindings(channel_id, again=again)
        if not bindings:
            raise channels_errors.channel_not_found()
        usable, failure = [], None
        for binding_id in bindings:
            # One account whose keys cannot be read must not stop the callbacks of the others.
            try:
                usable.append(self._fresh(binding_id) or await self.bound(binding_id))
            except Exception as error:
                if retryable_error(error) is not None:
                    raise
                if _logged.permits():
                    log.error("binding_unusable", channel_id=channel_id, binding_id=binding_id, why=f"{error}"[:300])
                failure = failure or error
        if not usable and failure is not None:
            raise failure
        return usable

    async def bound(self, binding_id: UUID) -> ConfiguredChannel:
        """The channel over the account of this binding, disabled or not, because its payments are settled. CHANNEL_NOT_FOUND if
        there is none."""
        if (fresh := self._fresh(binding_id)) is not None:
            return fresh
        async with self._building.setdefault(binding_id, asyncio.Lock()):
            if (fresh := self._fresh(binding_id)) is not None:
                return fresh
            known, now, changes = self._known.get(binding_id), monotonic(), self._changes
            failed, code = self._unusable.get(binding_id, (float("-inf"), ""))
            if now - failed < _FRESH_SECONDS:
                raise channels_errors.account_unusable(code)
            async with self._context.database.connection() as connection:
                binding = await channel_rows.get_binding(connection, binding_id)
                channel = await channel_rows.get_channel(connection, binding.channel_id) if binding else None
                account = await account_rows.get_account(connection, binding.account_id) if binding else None
            if binding is None or channel is None or account is None:
                self._known.pop(binding_id, None)
                raise channels_errors.channel_not_found()
            if known is not None and (known.account.version, known.binding.version) == (account.version, binding.version):
                known.loaded, known.channel = self._loaded(now, changes), channel
                return known
            spec = self._context.registry.get(channel.code)
            if spec is None:
                raise channels_errors.channel_not_installed(channel.code)
            try:
                # In a thread: an account may have many certificates, and several earlier keys.
                codec, earlier = await self._context.in_thread(lambda: self._build(spec, account, binding))
            except Exception as error:
                # Not again for each callback and each row of a job: it takes as long as if it did not fail.
                self._unusable[binding_id] = self._loaded(now, changes), channel.code
                names = {"account": account.number, "channel": channel.number}
                if isinstance(error, CryptoError):  # of a sealed secret or the key in it; it says what to correct
                    log.error("account_unusable", **names, why=str(error))
                else:
                    log.exception("account_unusable", **names)
                raise channels_errors.account_unusable(channel.code) from error
            self._unusable.pop(binding_id, None)
            built = ConfiguredChannel(channel, binding, account, spec, codec, self._loaded(now, changes), earlier)
            self._known[binding_id] = built
            return built

    def _fresh(self, binding_id: UUID) -> ConfiguredChannel | None:
        known = self._known.get(binding_id)
        return known if known is not None and monotonic() - known.loaded < _FRESH_SECONDS else None

    def _loaded(self, now: float, changes: int) -> float:
        """`now`, unless what was read then may have changed since."""
        return now if changes == self._changes else float("-inf")

    def _build(self, spec: ChannelSpec, account: PayAccount, binding: PayBinding) -> tuple[Codec, list[tuple[datetime, Codec]]]:
        """The codec with the present keys, and those with earlier keys."""
        keys, way = self._keys.clear_account(account), self._keys.clear_binding(binding)
        earlier = [
            (datetime.fromisoformat(entry["until"]), {**keys, **self._keys.clear_account(account, entry["config"])})
            for entry in account.valid_earlier_keys(self._context.now())
        ]
        return spec.build({**keys, **way}), [(until, spec.build({**before, **way})) for until, before in earlier]

    def forget(self, channel_id: UUID) -> None:
        """Read the rows of the channel again at its next use in this process, because they have changed."""
        self._forget(lambda known: known.channel.id == channel_id)

    def forget_account(self, account_id: UUID) -> None:
        """Read the rows of every channel over this account again at their next use in this process."""
        self._forget(lambda known: known.account.id == account_id)

    def _forget(self, which: Callable[[ConfiguredChannel], bool]) -> None:
        self._changes += 1
        self._unusable.clear()
        self._rows.forget()
        for known in self._known.values():
            if which(known):
                known.loaded = float("-inf")

    def clear_config(self, configured: ConfiguredChannel) -> Mapping[str, str]:
        """The whole configuration with its secrets in clear text, for use inside the process only."""
        return {**self._keys.clear_account(configured.account), **self._keys.clear_binding(configured.binding)}
