"""Operators: people who administer PayCenter."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote
from uuid import UUID

from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.roles import Role

TOTP_SECONDS = 30
_TOTP_DIGITS = 6
NAME_MAX = 64
PASSWORD_MIN = 12
PASSWORD_MAX = 256


@dataclass(frozen=True, slots=True)
class PayOperator:
    """An operator. `app_keys`: the apps that it is limited to; empty means all.

    `password_hash`: None if it has no password. `totp_secret` is sealed; `totp_pending` is one that is not confirmed yet.
    `totp_step`: the last time step whose code was used. `recovery_codes`: the hashes of those that are left.
    """

    id: UUID
    name: str
    role: Role
    app_keys: list[str]
    enabled: bool
    password_hash: str | None = field(repr=False)
    must_change_password: bool
    totp_secret: str | None = field(repr=False)
    totp_pending: str | None = field(repr=False)
    totp_step: int
    recovery_codes: list[str] = field(repr=False)
    create_time: datetime
    update_time: datetime

    @property
    def number(self) -> str:
        """The id in its printed form."""
        return encode(Prefix.OPERATOR, self.id)


def new_operator(key: UUID, now: datetime, name: str, role: Role, app_keys: list[str], password_hash: str | None) -> PayOperator:
    """Build an enabled operator. A password that somebody else has chosen must be changed at the first login."""
    return PayOperator(
        id=key,
        name=name,
        role=role,
        app_keys=app_keys,
        enabled=True,
        password_hash=password_hash,
        must_change_password=password_hash is not None,
        totp_secret=None,
        totp_pending=None,
        totp_step=0,
        recovery_codes=[],
        create_time=now,
        update_time=now,
    )


def totp_code(secret: bytes, step: int) -> str:
    """The code of a time step (RFC 6238 with SHA-1 and 6 digits, which every authenticator supports)."""
    digest = hmac.new(secret, step.to_bytes(8, "big"), hashlib.sha1).digest()
    offset = digest[-1] & 15
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return str(number % 10**_TOTP_DIGITS).zfill(_TOTP_DIGITS)


def totp_step(secret: bytes, code: str, seconds: float) -> int | None:
    """The time step to which a code belongs, one earlier and one later than that of the time included; None if to none of them."""
    now = int(seconds) // TOTP_SECONDS
    found = None
    for step in (now - 1, now, now + 1):
        if hmac.compare_digest(totp_code(secret, step).encode(), code.encode("utf-8", "replace")):
            found = step
    return found


def totp_address(secret: bytes, name: str) -> str:
    """The address for an authenticator, which shows it as a QR code."""
    text = base64.b32encode(secret).decode().rstrip("=")
    return f"otpauth://totp/{quote(f'PayCenter:{name}')}?secret={text}&issuer=PayCenter"
