"""Accounts: a merchant's identity at a channel family, with its keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.ids import Prefix, encode

MOST_EARLIER_KEYS = 5


@dataclass(frozen=True, slots=True)
class PayAccount:
    """An account. `identity` (WeChat Pay: the mchid; Alipay: the app_id) is unique within the family and never changes.

    Secrets in `config` are sealed, never clear text. `earlier_keys`: the configurations before the last changes of keys, each as
    {"until": ISO time, "config": configuration}; until then they still verify and decrypt callbacks and answers.
    `change_approval`: changes of keys and switches need a second operator.
    """

    id: UUID
    family: str
    identity: str
    name: str
    enabled: bool
    remark: str
    config: Mapping[str, Any] = field(repr=False)
    earlier_keys: Sequence[Mapping[str, Any]] = field(repr=False)
    create_time: datetime
    update_time: datetime
    version: int
    change_approval: bool

    @property
    def number(self) -> str:
        """The id in its printed form."""
        return encode(Prefix.ACCOUNT, self.id)

    def valid_earlier_keys(self, now: datetime) -> list[Mapping[str, Any]]:
        """The earlier keys that are still valid, the last ones first."""
        return [entry for entry in self.earlier_keys if datetime.fromisoformat(entry["until"]) > now]

    def with_keys(self, config: Mapping[str, Any], now: datetime, until: datetime) -> PayAccount:
        """With another configuration. The present one stays valid for callbacks until `until`; a time that is not in the future
        ends it, and all earlier ones, at once."""
        kept = [{"until": until.isoformat(), "config": dict(self.config)}, *self.valid_earlier_keys(now)]
        return replace(self, config=config, earlier_keys=kept[:MOST_EARLIER_KEYS] if until > now else [])


def new_account(
    key: UUID, now: datetime, *, family: str, identity: str, name: str, remark: str, config: Mapping[str, Any]
) -> PayAccount:
    """Build an enabled account. Secrets in `config` are sealed."""
    return PayAccount(
        id=key,
        family=family,
        identity=identity,
        name=name,
        enabled=True,
        remark=remark,
        config=config,
        earlier_keys=[],
        create_time=now,
        update_time=now,
        version=1,
        change_approval=False,
    )


@dataclass(frozen=True, slots=True)
class Unsettled:
    """The numbers of attempts and refunds of an account that are not settled yet, and of its cases about money that are open."""

    attempts: int
    refunds: int
    cases: int

    def __bool__(self) -> bool:
        return bool(self.attempts or self.refunds or self.cases)
