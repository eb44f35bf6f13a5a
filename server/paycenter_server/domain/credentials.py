"""Credentials of apps and operators."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.apps import PayApp


@dataclass(frozen=True, slots=True)
class Credential:
    """A key id and the hash of its secret. `app_id` is None for operators."""

    key_id: str
    secret_hash: bytes = field(repr=False)
    app_id: UUID | None
    app_key: str | None
    name: str
    enabled: bool
    create_time: datetime


def new_credential(key_id: str, secret_hash: bytes, now: datetime, app: PayApp | None, name: str) -> Credential:
    """Build an enabled credential of an app, or of an operator if `app` is None."""
    return Credential(
        key_id=key_id,
        secret_hash=secret_hash,
        app_id=app.id if app else None,
        app_key=app.app_key if app else None,
        name=name,
        enabled=True,
        create_time=now,
    )
