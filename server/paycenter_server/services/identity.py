"""Authentication and authorization of callers."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from dataclasses import dataclass
from uuid import UUID

import structlog

from paycenter_server.domain.apps import PayApp
from paycenter_server.domain.credentials import Credential
from paycenter_server.domain.events import Actor, ActorKind
from paycenter_server.services import errors
from paycenter_server.services.context import Context
from paycenter_server.services.secrets import same_secret
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage import credentials as credential_rows

log = structlog.get_logger(__name__)
_FRESH_SECONDS = 5.0
_MAX_CACHED = 10_000


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,15}")


def _log_failure(key_id: str, why: str) -> None:
    """The request id and the peer's address are in the line too. `why` is not for the caller."""
    log.info("login_failed", key_id=key_id[:64], why=why)


def _parsed(authorization: str) -> tuple[str, str]:
    """Key id and secret of `Basic base64(key_id:secret)`. Whatever else was sent is named, unless it may be a secret."""
    scheme, space, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        named = scheme if space and _SCHEME.fullmatch(scheme) else ""
        _log_failure("", f"scheme {named}" if named else "no scheme")
        raise errors.authorization_scheme(named)
    try:
        key_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        _log_failure("", "not base64 of key_id:secret")
        raise errors.authorization_malformed()
    if not key_id or len(key_id) > 64 or "\0" in key_id:
        _log_failure(key_id, "no key id")
        raise errors.credentials_invalid()
    return key_id, secret


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of a credential: an app (its id and key), or an operator (None and "")."""

    key_id: str
    app_id: UUID | None
    app_key: str

    @property
    def is_operator(self) -> bool:
        """Whether the caller is an operator."""
        return self.app_id is None

    @property
    def actor(self) -> Actor:
        """The caller as the event ledger names it."""
        return Actor(ActorKind.OPERATOR if self.is_operator else ActorKind.APP, self.key_id)


class Identity:
    """Checks credentials. A verified credential is cached for 5 seconds, so disabling it takes effect within that time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[str, tuple[float, Caller]] = {}

    async def authenticate(self, authorization: str | None) -> Caller:
        """The caller of an `authorization` value: `Basic base64(key_id:secret)`, as in HTTP."""
        if not authorization:
            _log_failure("", "no credentials")
            raise errors.credentials_missing()
        now = asyncio.get_running_loop().time()
        known = self._known.get(authorization)
        if known is not None and now - known[0] < _FRESH_SECONDS:
            return known[1]
        caller = await self._check(authorization)
        if len(self._known) >= _MAX_CACHED:
            self._known.clear()
        self._known[authorization] = (now, caller)
        return caller

    def forget(self, key_id: str) -> None:
        """Read a credential again at its next use in this process, because it has changed."""
        for authorization in [known for known, (_, caller) in self._known.items() if caller.key_id == key_id]:
            del self._known[authorization]

    async def _check(self, authorization: str) -> Caller:
        key_id, secret = _parsed(authorization)
        async with self._context.database.connection() as connection:
            credential: Credential | None = await credential_rows.get_credential(connection, key_id)
        if credential is None or not same_secret(secret, credential.secret_hash) or not credential.enabled:
            known = "wrong secret" if credential and credential.enabled else "disabled"
            _log_failure(key_id, known if credential else "unknown key id")
            raise errors.credentials_invalid()
        return Caller(credential.key_id, credential.app_id, credential.app_key or "")

    async def app_of(self, caller: Caller, app_key: str, *, enabled: bool = False) -> PayApp:
        """The app of a call: the caller's own, or the one that an operator names.

        `enabled`: the app must be enabled, because the call takes a new payment.
        """
        if not caller.is_operator and app_key and app_key != caller.app_key:
            raise errors.another_app(caller.app_key, app_key)
        key = caller.app_key or app_key
        async with self._context.database.connection() as connection:
            app = await app_rows.get_app(connection, key)
        if app is None:
            raise errors.app_not_found(key)
        if enabled and not app.enabled:
            raise errors.app_disabled(key)
        return app

    async def list_scope(self, caller: Caller, app_key: str) -> UUID | None:
        """The app to which a list is limited; None for all apps, which operators may list."""
        if caller.is_operator and not app_key:
            return None
        return (await self.app_of(caller, app_key)).id

    def require_operator(self, caller: Caller) -> None:
        """PERMISSION_DENIED if the caller is an app."""
        if not caller.is_operator:
            raise errors.operators_only()

    def owns(self, caller: Caller, app_id: UUID) -> bool:
        """Whether the caller may access objects of this app."""
        return caller.is_operator or caller.app_id == app_id
