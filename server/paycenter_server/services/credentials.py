"""Administration of the credentials of apps and of operators."""

from __future__ import annotations

import secrets
from datetime import datetime

from paycenter_server.domain.apps import PayApp
from paycenter_server.domain.credentials import Credential, new_credential
from paycenter_server.domain.validation import Check
from paycenter_server.services import errors
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.secrets import hash_secret, new_secret
from paycenter_server.storage import credentials as credential_rows
from paycenter_server.storage.database import Database


def make_credential(app: PayApp | None, name: str, now: datetime) -> tuple[Credential, str]:
    """A credential of the app, or of an operator if `app` is None, and its secret, which is not stored."""
    secret = new_secret()
    key_id = ("app_" if app else "op_") + secrets.token_hex(8)
    return new_credential(key_id, hash_secret(secret), now, app, name), secret


def check_operator_name(name: str) -> None:
    """INVALID_FIELD unless the name of an operator credential has 1 to 64 characters, none of them a control character."""
    check = Check()
    check.text("name", name, 64, minimum=1)
    check.done()


async def create_operator(database: Database, now: datetime, name: str) -> tuple[str, str]:
    """A new operator credential (key id and secret). INVALID_FIELD for a wrong name."""
    check_operator_name(name)
    credential, secret = make_credential(None, name, now)
    async with database.connection() as connection:
        await credential_rows.insert_credential(connection, credential)
    return credential.key_id, secret


class Credentials:
    """Create, list and disable credentials. A disabled credential stays in the list."""

    def __init__(self, context: Context, identity: Identity) -> None:
        self._context = context
        self._identity = identity

    async def create_operator(self, name: str) -> tuple[str, str]:
        """Create an operator credential (key id and secret). Only the command line calls it, not the API."""
        return await create_operator(self._context.database, self._context.now(), name)

    async def list_operators(self, caller: Caller) -> list[Credential]:
        """List the credentials of the operators, oldest first."""
        self._identity.require_operator(caller)
        async with self._context.database.connection() as connection:
            return await credential_rows.list_credentials(connection, None)

    async def disable_operator(self, caller: Caller, key_id: str) -> Credential:
        """Disable an operator's credential. CREDENTIAL_LAST for the last enabled one, CREDENTIAL_NOT_FOUND if there is none."""
        self._identity.require_operator(caller)
        async with self._context.database.transaction() as transaction:
            credentials = await credential_rows.lock_operator_credentials(transaction)
            found = next((one for one in credentials if one.key_id == key_id), None)
            if found is None:
                raise errors.credential_not_found("ListOperatorCredentials")
            if found.enabled and not any(one.enabled for one in credentials if one.key_id != key_id):
                raise errors.last_credential()
            await credential_rows.disable_credential(transaction, None, key_id)
            disabled = await credential_rows.get_credential(transaction, key_id)
        self._identity.forget(key_id)
        assert disabled is not None
        return disabled

    async def create(self, caller: Caller, app_key: str, name: str) -> tuple[Credential, str]:
        """Create another credential of an app, so that a service can change its credential without an interruption."""
        self._identity.require_operator(caller)
        check = Check()
        check.text("name", name, 64)
        check.done()
        app = await self._identity.app_of(caller, app_key)
        credential, secret = make_credential(app, name, self._context.now())
        async with self._context.database.connection() as connection:
            await credential_rows.insert_credential(connection, credential)
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
        async with self._context.database.connection() as connection:
            if not await credential_rows.disable_credential(connection, app.id, key_id):
                raise errors.credential_not_found("ListAppCredentials")
            credential = await credential_rows.get_credential(connection, key_id)
        self._identity.forget(key_id)
        assert credential is not None
        return credential
