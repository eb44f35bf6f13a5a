"""Administration of the credentials of apps and of operators."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from paycenter_server.domain.apps import PayApp
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.credentials import NO_LIMITS, Credential, CredentialLimits, new_credential
from paycenter_server.domain.operators import PayOperator, new_operator
from paycenter_server.domain.roles import Role
from paycenter_server.domain.validation import Check
from paycenter_server.services import credentials_errors, operators_errors
from paycenter_server.services.audit import Act, record
from paycenter_server.services.context import Context, KeyGenerator
from paycenter_server.services.identity import Identity
from paycenter_server.services.operators import check_apps, check_operator_name, give_password, make_password
from paycenter_server.services.operators_totp import own_id
from paycenter_server.services.secrets import hash_secret, new_secret
from paycenter_server.storage import credentials as credential_rows
from paycenter_server.storage import operators as operator_rows
from paycenter_server.storage.database import Database

COMMAND_LINE = Caller("command line", None, "")


@dataclass(frozen=True, slots=True)
class OperatorCredential:
    """A credential of an operator, and the operator's name."""

    credential: Credential
    operator_name: str


def make_credential(
    owner: PayApp | PayOperator, name: str, now: datetime, limits: CredentialLimits = NO_LIMITS
) -> tuple[Credential, str]:
    """A credential of an app or of an operator, and its secret, which is not stored."""
    secret = new_secret()
    key_id = ("app_" if isinstance(owner, PayApp) else "op_") + secrets.token_hex(8)
    return new_credential(key_id, hash_secret(secret), now, owner, name, limits), secret


def audited(credential: Credential) -> dict[str, Any]:
    """What the audit keeps of a credential: not its secret, nor the hash of that."""
    return {
        "key_id": credential.key_id,
        "name": credential.name,
        "enabled": credential.enabled,
        "role": credential.role,
        "app_keys": list(credential.app_keys),
        "expire_time": credential.expire_time.isoformat() if credential.expire_time else None,
    }


async def create_operator(database: Database, now: datetime, name: str) -> tuple[str, str]:
    """A new credential (key id and secret) of the operator with this name, who becomes an admin if it does not exist yet.

    INVALID_FIELD for a wrong name. Only the command line calls it: whoever can read the settings may do everything.
    """
    check_operator_name(name)
    fresh = new_operator(KeyGenerator().next(now, secrets.randbits(74)), now, name, Role.ADMIN, [], None)
    async with database.transaction() as transaction:
        operator = await operator_rows.get_operator_by_name(transaction, name)
        if operator is None:
            await operator_rows.insert_operator(transaction, fresh)
        credential, secret = make_credential(operator or fresh, name, now)
        await credential_rows.insert_credential(transaction, credential)
        act = Act("paycenter operator", (operator or fresh).number)
        await record(transaction, COMMAND_LINE, act, None, {"name": name, "created": operator is None, "key_id": credential.key_id})
    return credential.key_id, secret


async def give_operator_password(database: Database, now: datetime, name: str) -> str:
    """A one-time password of the operator with this name, who becomes an admin if it does not exist yet. It enables the operator,
    removes its authenticator and ends its sessions: the way back in for who has lost password or authenticator."""
    check_operator_name(name)
    password, stored = make_password()
    fresh = new_operator(KeyGenerator().next(now, secrets.randbits(74)), now, name, Role.ADMIN, [], stored)
    async with database.transaction() as transaction:
        known = await operator_rows.get_operator_by_name(transaction, name)
        if known is None:
            await operator_rows.insert_operator(transaction, fresh)
        operator = await operator_rows.lock_operator(transaction, (known or fresh).id) or fresh
        await give_password(transaction, replace(operator, enabled=True), stored, now)
        after = {"name": name, "created": known is None, "password": "one-time"}
        await record(transaction, COMMAND_LINE, Act("paycenter operator", operator.number), None, after)
    return password


class Credentials:
    """Create, list and disable credentials. A disabled credential stays in the list."""

    def __init__(self, context: Context, identity: Identity) -> None:
        self._context = context
        self._identity = identity

    async def create_operator(self, name: str) -> tuple[str, str]:
        """Create an operator credential (key id and secret). Only the command line calls it, not the API."""
        return await create_operator(self._context.database, self._context.now(), name)

    async def list_operators(self, caller: Caller) -> list[OperatorCredential]:
        """List the credentials of the operators, oldest first."""
        self._identity.require_operator(caller)
        async with self._context.database.connection() as connection:
            credentials = await credential_rows.list_credentials(connection, None)
            names = await operator_rows.names(connection)
        return [OperatorCredential(one, names.get(one.operator_id, "") if one.operator_id else "") for one in credentials]

    async def disable_operator(self, caller: Caller, key_id: str) -> OperatorCredential:
        """Disable an operator's credential. CREDENTIAL_LAST for the last enabled one, CREDENTIAL_NOT_FOUND if there is none."""
        self._identity.require_operator(caller)
        async with self._context.database.transaction() as transaction:
            credentials = await credential_rows.lock_operator_credentials(transaction)
            found = next((one for one in credentials if one.key_id == key_id), None)
            if found is None:
                raise credentials_errors.credential_not_found("ListOperatorCredentials")
            if found.enabled and not await credential_rows.another_is_usable(transaction, key_id):
                raise credentials_errors.last_credential()
            await credential_rows.disable_credential(transaction, None, key_id)
            names = await operator_rows.names(transaction)
            disabled = replace(found, enabled=False)
            act = Act("PayCredentialService/DisableOperatorCredential", key_id)
            await record(transaction, caller, act, audited(found), audited(disabled))
        self._identity.forget(key_id)
        return OperatorCredential(disabled, names.get(found.operator_id, "") if found.operator_id else "")

    async def create_own(self, caller: Caller, name: str, limits: CredentialLimits) -> tuple[OperatorCredential, str]:
        """Create a credential of the caller, which may do at most what the caller may: its role, its apps, and until its end."""
        check = Check()
        check.text("name", name, 64, minimum=1)
        now = self._context.now()
        if limits.role is not None and not caller.role.covers(limits.role):
            check.fail("role", f"is more than your own, {caller.role.value}")
        if limits.expire_time is not None and limits.expire_time <= now:
            check.fail("expire_time", "must be in the future")
        if caller.scope is not None and (beyond := [key for key in limits.app_keys if key not in caller.scope_keys]):
            check.fail("app_keys", f"you may not access {', '.join(beyond)[:200]}")
        async with self._context.database.connection() as connection:
            await check_apps(connection, check, limits.app_keys)
        if caller.scope is not None and not caller.scope_keys:
            check.fail("app_keys", "you may access no app")
        check.done()
        ends = [end for end in (limits.expire_time, caller.expire_time) if end is not None]
        keys = tuple(sorted(set(limits.app_keys or caller.scope_keys)))
        effective = CredentialLimits(limits.role or caller.role, keys, min(ends, default=None))
        async with self._context.database.transaction() as transaction:
            operator = await operator_rows.lock_operator(transaction, own_id(caller))
            if operator is None or not operator.enabled:
                raise operators_errors.operator_not_found()
            credential, secret = make_credential(operator, name, now, effective)
            await credential_rows.insert_credential(transaction, credential)
            act = Act("PayOperatorService/CreateOwnCredential", credential.key_id)
            await record(transaction, caller, act, None, audited(credential))
        return OperatorCredential(credential, operator.name), secret

    async def list_own(self, caller: Caller) -> list[OperatorCredential]:
        """List the caller's own credentials, oldest first."""
        async with self._context.database.connection() as connection:
            credentials = await credential_rows.list_credentials(connection, None, own_id(caller))
        return [OperatorCredential(one, caller.operator_name) for one in credentials]

    async def disable_own(self, caller: Caller, key_id: str) -> OperatorCredential:
        """Disable a credential of the caller. CREDENTIAL_NOT_FOUND also for that of another operator."""
        if key_id not in {one.credential.key_id for one in await self.list_own(caller)}:
            raise credentials_errors.credential_not_found("ListOwnCredentials")
        return await self.disable_operator(caller, key_id)

    async def create(self, caller: Caller, app_key: str, name: str) -> tuple[Credential, str]:
        """Create another credential of an app, so that a service can change its credential without an interruption."""
        self._identity.require_operator(caller)
        check = Check()
        check.text("name", name, 64)
        check.done()
        app = await self._identity.app_of(caller, app_key)
        credential, secret = make_credential(app, name, self._context.now())
        async with self._context.database.transaction() as transaction:
            await credential_rows.insert_credential(transaction, credential)
            act = Act("PayCredentialService/CreateAppCredential", credential.key_id, app_key)
            await record(transaction, caller, act, None, audited(credential))
        return credential, secret

    async def list_of_app(self, caller: Caller, app_key: str) -> list[Credential]:
        """List the credentials of an app, oldest first."""
        self._identity.require_operator(caller)
        app = await self._identity.app_of(caller, app_key)
        async with self._context.database.connection() as connection:
            return await credential_rows.list_credentials(connection, app.id)

    async def disable(self, caller: Caller, app_key: str, key_id: str) -> Credential:
        """Disable a credential of an app. It takes effect at once in this process and within 5 seconds in others."""
        self._identity.require_operator(caller)
        app = await self._identity.app_of(caller, app_key)
        async with self._context.database.transaction() as transaction:
            before = await credential_rows.get_credential(transaction, key_id)
            if before is None or not await credential_rows.disable_credential(transaction, app.id, key_id):
                raise credentials_errors.credential_not_found("ListAppCredentials")
            credential = replace(before, enabled=False)
            act = Act("PayCredentialService/DisableAppCredential", key_id, app_key)
            await record(transaction, caller, act, audited(before), audited(credential))
        self._identity.forget(key_id)
        return credential
