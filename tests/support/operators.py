"""No tests: operators with a role, their credentials and their logins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from paycenter_server.bootstrap import Services
from paycenter_server.domain.audit import AuditEntry
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.credentials import CredentialLimits
from paycenter_server.domain.operators import PayOperator, new_operator
from paycenter_server.domain.roles import Role
from paycenter_server.services.identity import operator_caller
from paycenter_server.services.operators import NewOperator
from paycenter_server.services.passwords import hashed
from paycenter_server.services.sessions import Session
from paycenter_server.storage import audit as audit_rows
from paycenter_server.storage import operators as operator_rows

from support.system import OPERATOR, PayCenterSystem

PASSWORD = "correct horse battery staple"
PEER = "203.0.113.7"


@dataclass
class Person:
    """An operator with a password of its own, and a caller as its session has it."""

    operator: PayOperator
    caller: Caller
    password: str

    @property
    def name(self) -> str:
        return self.operator.name

    @property
    def number(self) -> str:
        return self.operator.number


async def person(system: PayCenterSystem, name: str, role: Role = Role.ADMIN, app_keys: Sequence[str] = ()) -> Person:
    """A new operator who has changed the one-time password."""
    services = system.services
    made = await services.operators.create(OPERATOR, NewOperator(name, role, app_keys))
    token = await services.sessions.login(name, made.password, "", PEER, "test")
    opened = await services.sessions.session(token)
    assert opened is not None
    assert opened.must_change_password
    await services.operators.change_own_password(opened.caller, made.password, PASSWORD)
    async with services.context.database.connection() as connection:
        caller = await operator_caller(connection, made.operator, name)
    return Person(made.operator, _with_password(caller), PASSWORD)


async def add_admin(system: PayCenterSystem, name: str) -> None:
    """An admin with the password PASSWORD. Its hash is computed once, because that is slow."""
    context = system.services.context
    now = context.now()
    fresh = new_operator(context.new_key(now), now, name, Role.ADMIN, [], _stored())
    async with context.database.connection() as connection:
        await operator_rows.insert_operator(connection, replace(fresh, must_change_password=False))


@cache
def _stored() -> str:
    return hashed(PASSWORD)


def _with_password(caller: Caller) -> Caller:
    return replace(caller, must_change_password=False)


async def key_of_person(system: PayCenterSystem, one: Person, limits: CredentialLimits | None = None) -> tuple[str, str]:
    """Key id and secret of a new credential of the operator."""
    made, secret = await system.services.credentials.create_own(one.caller, "key", limits or CredentialLimits())
    return made.credential.key_id, secret


async def log_in(services: Services, one: Person, code: str = "", password: str = "", peer: str = PEER) -> Any:
    """The token of a new session, or the problem."""
    return await services.sessions.login(one.name, password or one.password, code, peer, "test")


async def session_of(services: Services, token: str) -> Session:
    """The session of a token, which must be valid."""
    found = await services.sessions.session(token)
    assert found is not None
    return found


async def audit_end(system: PayCenterSystem) -> int:
    """The number of the last row of the audit."""
    return int(await system.value("SELECT last_id FROM pay_audit_head"))


async def audited(system: PayCenterSystem, after: int) -> list[AuditEntry]:
    """The rows of the audit after a number."""
    async with system.services.context.database.connection() as connection:
        return await audit_rows.read_after(connection, after, 1000)
