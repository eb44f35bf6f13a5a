"""Authentication and authorization of callers."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from paycenter_server.domain.apps import PayApp
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.credentials import Credential
from paycenter_server.domain.errors import PayCenterError, Violation, invalid
from paycenter_server.domain.operators import PayOperator
from paycenter_server.domain.roles import Role, app_may_call, disabled_app_may_call, may_call
from paycenter_server.services import apps_errors, credentials_errors, operators_errors
from paycenter_server.services.apps_cache import AppCache
from paycenter_server.services.audit import Act, Refusals
from paycenter_server.services.context import Context
from paycenter_server.services.kept import Kept
from paycenter_server.services.secrets import same_secret
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage import credentials as credential_rows
from paycenter_server.storage import operators as operator_rows
from paycenter_server.storage.database import Connection
from paycenter_server.telemetry import Sampled

__all__ = ["Caller", "Identity", "operator_caller"]

log = structlog.get_logger(__name__)
_FRESH_SECONDS = 5.0
LOGGED_A_SECOND = 100
"""Lines about refused credentials. Without a limit a stranger could fill the disk."""


# What is kept for later calls. Otherwise one credential, written with ever more spaces, would displace all others.
_CANONICAL = re.compile(r"(?i:Basic) [A-Za-z0-9+/]+={0,2}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,15}")


_logged = Sampled("login_failures_not_logged", LOGGED_A_SECOND, 1)


def _log_failure(key_id: str, why: str) -> None:
    """The request id and the peer's address are in the line too. `why` is not for the caller."""
    if _logged.permits():
        log.info("login_failed", key_id=key_id[:64], why=why)


def _parsed(authorization: str) -> tuple[str, str]:
    """Key id and secret of `Basic base64(key_id:secret)`. Whatever else was sent is named, unless it may be a secret."""
    scheme, space, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        named = scheme if space and _SCHEME.fullmatch(scheme) else ""
        _log_failure("", f"scheme {named}" if named else "no scheme")
        raise credentials_errors.authorization_scheme(named)
    try:
        key_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        _log_failure("", "not base64 of key_id:secret")
        raise credentials_errors.authorization_malformed()
    if not key_id or len(key_id) > 64 or "\0" in key_id:
        _log_failure(key_id, "no key id")
        raise credentials_errors.credentials_invalid()
    return key_id, secret


async def operator_caller(
    connection: Connection, operator: PayOperator, key_id: str, credential: Credential | None = None
) -> Caller:
    """An operator as a caller, by a session or by a credential, whose limits apply too."""
    role, keys, everything = operator.role, tuple(operator.app_keys), not operator.app_keys
    if credential is not None:
        role = role.limited_to(Role(credential.role) if credential.role else None)
        if credential.app_keys:
            keys = tuple(key for key in credential.app_keys if everything or key in keys)
            everything = False
    scope = None if everything else frozenset((await operator_rows.app_ids(connection, keys)).values())
    return Caller(
        key_id, None, "", role, operator.id, operator.name, scope, keys,
        expire_time=credential.expire_time if credential else None,
        must_change_password=credential is None and operator.must_change_password,
    )  # fmt: skip


class Identity:
    """Checks credentials. A verified credential is cached for 5 seconds, so disabling it takes effect within that time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._credentials = Kept(context, self._check, seconds=_FRESH_SECONDS, keeps=_CANONICAL.fullmatch)
        self.known: Callable[[str], Caller | None] = self._credentials.known
        """The caller of an `authorization` value if it was verified within the last 5 seconds."""
        self.last_known: Callable[[str], Caller | None] = self._credentials.last_known
        """The caller whose credential this was when it was last verified. It proves nothing now."""
        self._refusals = Refusals(context.database)
        self._apps = AppCache(context)

    async def authenticate(self, authorization: str | None) -> Caller:
        """The caller of an `authorization` value: `Basic base64(key_id:secret)`, as in HTTP. Calls that arrive with the same one
        are checked together."""
        caller = await self._credentials.get(authorization) if authorization else None
        if caller is None:
            _log_failure("", "no credentials")
            raise credentials_errors.credentials_missing()
        return caller

    def forget(self, key_id: str) -> None:
        """Read a credential again at its next use in this process, because it has changed."""
        self._credentials.forget_those(lambda caller: caller.key_id == key_id)

    def forget_operator(self, operator_id: UUID) -> None:
        """Read the credentials of an operator again at their next use in this process, because the operator has changed."""
        self._credentials.forget_those(lambda caller: caller.operator_id == operator_id)

    async def _check(self, authorization: str) -> Caller:
        key_id, secret = _parsed(authorization)
        async with self._context.database.connection() as connection:
            credential = await credential_rows.get_credential(connection, key_id)
            why = await self._refusal(connection, credential, secret)
            if credential is not None and not why:
                if credential.operator_id is None:
                    return Caller(credential.key_id, credential.app_id, credential.app_key or "")
                operator = await operator_rows.get_operator(connection, credential.operator_id)
                if operator is not None and operator.enabled:
                    return await operator_caller(connection, operator, credential.key_id, credential)
                why = "operator disabled"
        _log_failure(key_id, why)
        error = credentials_errors.credentials_invalid()
        await self._refusals.record(Caller(key_id, None, ""), Act("authenticate", key_id), error)
        raise error

    async def _refusal(self, connection: Connection, credential: Credential | None, secret: str) -> str:
        """Why a credential is refused, "" if it is not. For the log, not for the caller."""
        if credential is None:
            return "unknown key id"
        right = same_secret(secret, credential.secret_hash)
        if not credential.enabled:
            return "disabled"
        if not right:
            return "wrong secret"
        if credential.expire_time is not None and await credential_rows.has_expired(connection, credential.key_id):
            return "expired"
        return ""

    async def require(self, caller: Caller, method: str) -> None:
        """PERMISSION_DENIED unless the table of roles lets the caller call the method (without the package). A refusal is recorded.
        APP_DISABLED if the caller's app is disabled and the method is none of those that it may still call.

        The console calls it for each action. The gRPC server calls it for each method, unless the table lets apps call that and
        `known_app` knows the caller's to be enabled.
        """
        if caller.is_operator:
            limited = caller.scope is not None
            allowed = may_call(method, caller.role, limited=limited, must_change_password=caller.must_change_password)
        else:
            allowed = app_may_call(method)
        if allowed:
            if not caller.is_operator and not disabled_app_may_call(method):
                await self.app_of(caller, "", enabled=True, cached=True)
            return
        error: PayCenterError = (
            operators_errors.role_may_not(caller, method) if caller.is_operator else credentials_errors.operators_only()
        )
        await self._refusals.record(caller, Act(method), error)
        raise error

    def forget_app(self, app_key: str) -> None:
        """Read an app again at its next use in this process, because it has changed."""
        self._apps.forget(app_key)

    def known_app(self, caller: Caller, app_key: str) -> PayApp | None:
        """What `app_of` returns for an enabled app and a call of its own, if the app was read within the last second. None says
        nothing."""
        if caller.app_id is None or (app_key and app_key != caller.app_key):
            return None
        app = self._apps.known(caller.app_key)
        return app if app is not None and app.enabled and app.id == caller.app_id else None

    async def app_of(self, caller: Caller, app_key: str, *, enabled: bool = False, cached: bool = False) -> PayApp:
        """The app of a call: the caller's own, or the one that an operator names.

        `enabled`: the app must be enabled, because the call takes a new payment. `cached`: as it was at most a second ago.
        """
        if not caller.is_operator and app_key and app_key != caller.app_key:
            raise credentials_errors.another_app(caller.app_key, app_key)
        key = caller.app_key or app_key
        if caller.is_operator and caller.scope is not None and key not in caller.scope_keys:
            raise apps_errors.app_not_found(key)
        if cached:
            app = await self._apps.get(key)
        else:
            async with self._context.database.connection() as connection:
                app = await app_rows.get_app(connection, key)
        if app is None or not caller.may_access(app.id):
            raise apps_errors.app_not_found(key)
        if enabled and not app.enabled:
            raise apps_errors.app_disabled(key)
        return app

    async def list_scope(self, caller: Caller, app_key: str) -> UUID | None:
        """The app to which a list is limited; None for all apps, which operators may list.

        An operator that is limited to several apps must name one of them.
        """
        if caller.is_operator and not app_key:
            if caller.scope is None:
                return None
            app_key = self._only_app(caller.scope_keys)
        return (await self.app_of(caller, app_key)).id

    @staticmethod
    def _only_app(app_keys: Sequence[str]) -> str:
        if len(app_keys) != 1:
            raise invalid([Violation("app_key", f"must name one of the apps that you may access: {', '.join(app_keys) or 'none'}")])
        return app_keys[0]

    def require_operator(self, caller: Caller) -> None:
        """PERMISSION_DENIED if the caller is an app."""
        if not caller.is_operator:
            raise credentials_errors.operators_only()

    def owns(self, caller: Caller, app_id: UUID | None) -> bool:
        """Whether the caller may access objects of this app."""
        return caller.may_access(app_id)
