"""Credentials of apps and operators."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.apps import PayApp
from paycenter_server.domain.operators import PayOperator
from paycenter_server.domain.roles import Role


@dataclass(frozen=True, slots=True)
class Credential:
    """A key id and the hash of its secret. It belongs to an app or to an operator.

    `role`, `app_keys` and `expire_time` limit a credential of an operator: to a role, to some apps, and to a time. None and empty
    limit nothing.
    """

    key_id: str
    secret_hash: bytes = field(repr=False)
    app_id: UUID | None
    app_key: str | None
    name: str
    enabled: bool
    create_time: datetime
    operator_id: UUID | None
    role: str | None
    app_keys: list[str]
    expire_time: datetime | None


@dataclass(frozen=True, slots=True)
class CredentialLimits:
    """What limits a new credential of an operator."""

    role: Role | None = None
    app_keys: tuple[str, ...] = ()
    expire_time: datetime | None = None


NO_LIMITS = CredentialLimits()


def new_credential(
    key_id: str,
    secret_hash: bytes,
    now: datetime,
    owner: PayApp | PayOperator,
    name: str,
    limits: CredentialLimits = NO_LIMITS,
) -> Credential:
    """Build an enabled credential of an app or of an operator."""
    app = owner if isinstance(owner, PayApp) else None
    return Credential(
        key_id=key_id,
        secret_hash=secret_hash,
        app_id=app.id if app else None,
        app_key=app.app_key if app else None,
        name=name,
        enabled=True,
        create_time=now,
        operator_id=None if app else owner.id,
        role=limits.role.value if limits.role else None,
        app_keys=list(limits.app_keys),
        expire_time=limits.expire_time,
    )
