"""Administration of operators, and an operator's own password."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from paycenter_server.domain.callers import Caller
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.operators import NAME_MAX, PayOperator, new_operator
from paycenter_server.domain.roles import Role
from paycenter_server.domain.validation import Check
from paycenter_server.services import operators_errors
from paycenter_server.services.audit import Act, record
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Identity
from paycenter_server.services.paging import Page, Pager
from paycenter_server.services.passwords import Passwords, check_password, hashed, new_password
from paycenter_server.storage import operators as operator_rows
from paycenter_server.storage import sessions as session_rows
from paycenter_server.storage.database import Connection, Transaction, UniqueViolation

_SERVICE = "PayOperatorService"
# Key ids begin like this, and the event ledger names sessions by the operator's name.
_KEY_IDS = ("op_", "app_")


@dataclass(frozen=True, slots=True)
class NewOperator:
    """The values of a create request. `app_keys`: the apps that it is limited to; empty means all."""

    name: str
    role: Role
    app_keys: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class OneTimePassword:
    """An operator and its new password, which is shown only once and must be changed at the first login."""

    operator: PayOperator
    password: str = field(repr=False)


def check_operator_name(name: str) -> None:
    """INVALID_FIELD unless the name has 1 to 64 characters, none of them a control character, and does not look like a key id."""
    check = Check()
    _check_name(check, name)
    check.done()


def _check_name(check: Check, name: str) -> None:
    check.text("name", name, NAME_MAX, minimum=1)
    if name.startswith(_KEY_IDS):
        check.fail("name", "must not begin like a key id (op_, app_)")


def audited(operator: PayOperator) -> dict[str, Any]:
    """What the audit keeps of an operator: no password, no secret."""
    return {
        "name": operator.name,
        "role": operator.role.value,
        "app_keys": list(operator.app_keys),
        "enabled": operator.enabled,
        "must_change_password": operator.must_change_password,
        "totp": operator.totp_secret is not None,
    }


class Operators:
    """Create, read and change operators, and reset their passwords."""

    def __init__(self, context: Context, identity: Identity, passwords: Passwords) -> None:
        self._context = context
        self._identity = identity
        self._passwords = passwords

    async def create(self, caller: Caller, new: NewOperator) -> OneTimePassword:
        """Create an operator. OPERATOR_EXISTS if the name is taken."""
        self._identity.require_operator(caller)
        check = Check()
        _check_name(check, new.name)
        keys = sorted(set(new.app_keys))
        async with self._context.database.connection() as connection:
            await check_apps(connection, check, keys)
        check.done()
        password, now = new_password(), self._context.now()
        operator = new_operator(self._context.new_key(now), now, new.name, new.role, keys, await self._passwords.hash(password))
        try:
            async with self._context.database.transaction() as transaction:
                await self._check_admin(transaction, caller)
                await operator_rows.insert_operator(transaction, operator)
                act = Act(f"{_SERVICE}/CreatePayOperator", operator.number)
                await record(transaction, caller, act, None, audited(operator))
        except UniqueViolation:
            raise operators_errors.operator_exists(new.name) from None
        return OneTimePassword(operator, password)

    async def update(self, caller: Caller, number: str, changes: Mapping[str, Any]) -> PayOperator:
        """Change `role`, `app_keys` or `enabled`. OPERATOR_LAST_ADMIN if no other enabled admin of all apps were left.

        Disabling ends the sessions and credentials of the operator: at once in this process, within 5 seconds in others.
        """
        self._identity.require_operator(caller)
        values = dict(changes)
        if "app_keys" in values:
            values["app_keys"] = sorted(set(values["app_keys"]))
            check = Check()
            async with self._context.database.connection() as connection:
                await check_apps(connection, check, values["app_keys"])
            check.done()
        now = self._context.now()
        async with self._context.database.transaction() as transaction:
            admins = await self._check_admin(transaction, caller)
            operator = await self._locked(transaction, number)
            wanted = replace(operator, **values)
            if not _is_admin(wanted) and {one.id for one in admins} == {operator.id}:
                raise operators_errors.last_admin()
            await operator_rows.update_operator(transaction, wanted, now)
            if not wanted.enabled:
                await session_rows.revoke_sessions(transaction, operator.id)
            act = Act(f"{_SERVICE}/UpdatePayOperator", operator.number)
            await record(transaction, caller, act, audited(operator), audited(wanted))
        self._identity.forget_operator(operator.id)
        return replace(wanted, update_time=now)

    async def reset_password(self, caller: Caller, number: str) -> OneTimePassword:
        """Set a new password, which must be changed at the next login, remove the authenticator, and end every session."""
        self._identity.require_operator(caller)
        password, now = new_password(), self._context.now()
        stored = await self._passwords.hash(password)
        async with self._context.database.transaction() as transaction:
            await self._check_admin(transaction, caller)
            operator = await self._locked(transaction, number)
            wanted = await give_password(transaction, operator, stored, now)
            act = Act(f"{_SERVICE}/ResetPassword", operator.number)
            await record(transaction, caller, act, audited(operator), audited(wanted) | {"password": "reset"})
        return OneTimePassword(wanted, password)

    async def unlock(self, caller: Caller, number: str) -> PayOperator:
        """Forget the failed logins of an operator's name, so that it can log in at once. The password stays."""
        self._identity.require_operator(caller)
        async with self._context.database.transaction() as transaction:
            await self._check_admin(transaction, caller)
            operator = await self._locked(transaction, number)
            await session_rows.forget_failures(transaction, f"name:{operator.name}")
            await record(transaction, caller, Act(f"{_SERVICE}/UnlockPayOperator", operator.number))
        return operator

    async def change_own_password(self, caller: Caller, current: str, new: str) -> None:
        """Change the caller's password. It ends every session of the caller, also this one."""
        check = Check()
        check_password(check, "new_password", new, caller.operator_name)
        if new == current:
            check.fail("new_password", "must not be the current one")
        check.done()
        known = await self._passwords.confirm(caller, "current_password", current)
        stored, now = await self._passwords.hash(new), self._context.now()
        async with self._context.database.transaction() as transaction:
            operator = await operator_rows.lock_operator(transaction, known.id)
            if operator is None or not operator.enabled or operator.password_hash != known.password_hash:
                raise operators_errors.operator_not_found()
            wanted = replace(operator, password_hash=stored, must_change_password=False)
            await operator_rows.update_operator(transaction, wanted, now)
            await session_rows.revoke_sessions(transaction, operator.id)
            act = Act(f"{_SERVICE}/ChangeOwnPassword", operator.number)
            await record(transaction, caller, act, audited(operator), audited(wanted) | {"password": "changed"})

    async def search(self, caller: Caller, pager: Pager) -> Page[PayOperator]:
        """List operators, newest first."""
        self._identity.require_operator(caller)
        async with self._context.database.connection() as connection:
            rows = await operator_rows.list_operators(connection, limit=pager.size + 1, before=pager.before("operators"))
        return pager.page(rows, "operators")

    async def get(self, caller: Caller, number: str) -> PayOperator:
        """One operator. OPERATOR_NOT_FOUND if there is none."""
        self._identity.require_operator(caller)
        key = decode(Prefix.OPERATOR, number)
        async with self._context.database.connection() as connection:
            operator = await operator_rows.get_operator(connection, key) if key is not None else None
        if operator is None:
            raise operators_errors.operator_not_found()
        return operator

    async def waits(self, caller: Caller, operators: Sequence[PayOperator]) -> dict[str, datetime]:
        """Of these operators the names that have to wait before their next login, because earlier ones failed, and until when."""
        self._identity.require_operator(caller)
        async with self._context.database.connection() as connection:
            found = await session_rows.blocked(connection, [f"name:{one.name}" for one in operators])
        return {subject.partition(":")[2]: until for subject, until in found.items()}

    @staticmethod
    async def _check_admin(transaction: Transaction, caller: Caller) -> list[PayOperator]:
        """The enabled admins of all apps, locked. PERMISSION_DENIED if the caller is not one of them any more."""
        admins = await operator_rows.lock_admins(transaction)
        if caller.operator_id is not None and caller.operator_id not in {one.id for one in admins}:
            raise operators_errors.role_may_not(caller, f"{_SERVICE}/UpdatePayOperator")
        return admins

    @staticmethod
    async def _locked(transaction: Transaction, number: str) -> PayOperator:
        key = decode(Prefix.OPERATOR, number)
        operator = await operator_rows.lock_operator(transaction, key) if key is not None else None
        if operator is None:
            raise operators_errors.operator_not_found()
        return operator


def _is_admin(operator: PayOperator) -> bool:
    return operator.role is Role.ADMIN and operator.enabled and not operator.app_keys


async def check_apps(connection: Connection, check: Check, app_keys: Sequence[str]) -> None:
    """Each key must be that of an app."""
    known = await operator_rows.app_ids(connection, app_keys)
    for key in app_keys:
        if key not in known:
            check.fail("app_keys", f"there is no app {key[:64]!r}")


async def give_password(transaction: Transaction, operator: PayOperator, stored: str, now: datetime) -> PayOperator:
    """Store a password that the operator must change, and end its sessions. The operator is locked."""
    wanted = replace(
        operator, password_hash=stored, must_change_password=True, totp_secret=None, totp_pending=None, recovery_codes=[]
    )
    await operator_rows.update_operator(transaction, wanted, now)
    await session_rows.revoke_sessions(transaction, operator.id)
    await session_rows.forget_failures(transaction, f"name:{operator.name}")
    return wanted


def make_password() -> tuple[str, str]:
    """A one-time password, and the text that is stored of it."""
    password = new_password()
    return password, hashed(password)
