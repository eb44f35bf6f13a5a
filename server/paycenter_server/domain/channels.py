"""Channels: an app's ways to pay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.apps import PayApp
from paycenter_server.domain.ids import Prefix, encode


@dataclass(frozen=True, slots=True)
class PayChannel:
    """An app's way to pay over an account, which its current binding names."""

    id: UUID
    app_id: UUID
    app_key: str
    code: str
    enabled: bool
    fee_rate_ppm: int
    remark: str
    binding_id: UUID
    create_time: datetime
    update_time: datetime
    version: int

    @property
    def number(self) -> str:
        """The id in its printed form, which is part of the callback URLs."""
        return encode(Prefix.CHANNEL, self.id)


@dataclass(frozen=True, slots=True)
class PayBinding:
    """A channel's use of an account, with the values that belong to the way to pay (WeChat Pay: the appid).

    A channel has one current binding and keeps the earlier ones, because attempts are settled by the binding that they began with.
    Secrets in `config` are sealed.
    """

    id: UUID
    channel_id: UUID
    account_id: UUID
    config: Mapping[str, Any] = field(repr=False)
    create_time: datetime
    update_time: datetime
    version: int


def new_channel(
    key: UUID, now: datetime, app: PayApp, *, code: str, enabled: bool, fee_rate_ppm: int, remark: str, binding_id: UUID
) -> PayChannel:
    """Build a channel of an app."""
    return PayChannel(
        id=key,
        app_id=app.id,
        app_key=app.app_key,
        code=code,
        enabled=enabled,
        fee_rate_ppm=fee_rate_ppm,
        remark=remark,
        binding_id=binding_id,
        create_time=now,
        update_time=now,
        version=1,
    )


def new_binding(key: UUID, now: datetime, channel_id: UUID, account_id: UUID, config: Mapping[str, Any]) -> PayBinding:
    """Build a binding. Secrets in `config` are sealed."""
    return PayBinding(
        id=key, channel_id=channel_id, account_id=account_id, config=config, create_time=now, update_time=now, version=1
    )
