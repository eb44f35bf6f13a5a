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
    """An app's way to pay over an account. Secrets in `config` are sealed, never clear text."""

    id: UUID
    app_id: UUID
    app_key: str
    code: str
    enabled: bool
    fee_rate_ppm: int
    remark: str
    config: Mapping[str, Any] = field(repr=False)
    create_time: datetime
    update_time: datetime
    version: int

    @property
    def number(self) -> str:
        """The id in its printed form, which is part of the callback URLs."""
        return encode(Prefix.CHANNEL, self.id)


def new_channel(
    key: UUID, now: datetime, app: PayApp, *, code: str, enabled: bool, fee_rate_ppm: int, remark: str, config: Mapping[str, Any]
) -> PayChannel:
    """Build a channel of an app. Secrets in `config` are sealed."""
    return PayChannel(
        id=key,
        app_id=app.id,
        app_key=app.app_key,
        code=code,
        enabled=enabled,
        fee_rate_ppm=fee_rate_ppm,
        remark=remark,
        config=config,
        create_time=now,
        update_time=now,
        version=1,
    )
