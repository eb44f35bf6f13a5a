"""Logins and sessions of operators. Sessions and failed logins are in the database, so that all processes share them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from enum import StrEnum

import structlog

from paycenter_server.domain.audit import clean
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.operators import NAME_MAX, PayOperator, totp_step
from paycenter_server.domain.roles import Role
from paycenter_server.domain.sessions import AGENT_MAX, NAME_DELAYS, PEER_DELAYS, PEER_MAX, PaySession
from paycenter_server.services import credentials_errors, operators_errors
from paycenter_server.services.audit import Act, Refusals, record
from paycenter_server.services.context import Context
from paycenter_server.services.identity import operator_caller
from paycenter_server.services.operators_totp import hash_recovery_code, open_secret, own_id
from paycenter_server.services.passwords import Passwords, TooManyPasswordsError
from paycenter_server.services.secrets import hash_secret
from paycenter_server.storage import operators as operator_rows
from paycenter_server.storage import sessions as session_rows
from paycenter_server.storage.database import WriteConnection, read_time

log = structlog.get_logger(__name__)
_TOKEN_LENGTH = 43


class LoginProblem(StrEnum):
    """Why a login was refused. WRONG: name, password or code; which of them is not said."""

    WRONG = "wrong"
    TOO_MANY = "too_many"


@dataclass(frozen=True, slots=True)
class Session:
    """A logged-in operator. `csrf`: the token that every form of the session contains."""

    caller: Caller
    operator_name: str
    csrf: str = field(repr=False)
    role: Role
    number: str
    must_change_password: bool


@dataclass(frozen=True, slots=True)
class ListedSession:
    """A session with the name of its operator."""

    session: PaySession
    operator_name: str


def csrf_token(token: str) -> str:
    """The CSRF token of a session. Only who has the session's token can compute it."""
    return base64.urlsafe_b64encode(hmac.new(token.encode(), b"paycenter csrf", hashlib.sha256).digest()).decode().rstrip("=")


class Sessions:
    """Logs operators in and out, and lists and ends their sessions."""

    def __init__(self, context: Context, passwords: Passwords) -> None:
        self._context = context
        self._passwords = passwords
        self._refusals = Refusals(context.database)

    async def login(self, name: str, password: str, code: str, peer: str, agent: str) -> str | LoginProblem:
        """The token of a new session, or why there is none. `code`: of an authenticator, or a recovery code; "" if none was given.

        The login counts as failed before the password is checked. After some failures of a name or a peer each further login has to
        wait longer, whether there is such an operator or not.
        """
        name, peer, agent = clean(name, NAME_MAX + 1), clean(peer, PEER_MAX), clean(agent, AGENT_MAX)
        subjects = (f"peer:{peer}", f"name:{name}")
        async with self._context.database.connection() as connection:
            for subject, delays in zip(subjects, (PEER_DELAYS, NAME_DELAYS), strict=True):
                attempt = await session_rows.begin_login(connection, subject, delays)
                if not attempt.allowed:
                    log.info("login_refused", name=name, subject=subject.partition(":")[0], wait=round(attempt.wait))
                    return LoginProblem.TOO_MANY
            operator = await operator_rows.get_operator_by_name(connection, name)
        usable = operator is not None and operator.enabled
        try:
            right = await self._passwords.matches(password, operator.password_hash if operator and usable else None)
        except TooManyPasswordsError:
            await self._take_back(subjects)
            return LoginProblem.TOO_MANY
        token = secrets.token_urlsafe(32)
        if operator is None or not right or not await self._begin(operator, token, code, peer, agent, subjects):
            await self._refusals.record(Caller(name, None, ""), Act("login", name), credentials_errors.credentials_invalid())
            return LoginProblem.WRONG
        return token

    async def _begin(self, known: PayOperator, token: str, code: str, peer: str, agent: str, subjects: tuple[str, str]) -> bool:
        """Insert the session. False if the code is wrong, or the operator was disabled or got another password meanwhile."""
        now = self._context.now()
        key = self._context.new_key(now)
        async with self._context.database.transaction() as transaction:
            operator = await operator_rows.lock_operator(transaction, known.id)
            if operator is None or not operator.enabled or operator.password_hash != known.password_hash:
                return False
            if operator.totp_secret is not None and not await self.code_is_right(transaction, operator, code):
                return False
            await session_rows.insert_session(transaction, key, operator.id, hash_secret(token), peer, agent)
            await session_rows.take_back_failure(transaction, subjects[0])
            await session_rows.forget_failures(transaction, subjects[1])
            caller = await operator_caller(transaction, operator, operator.name)
            after = {"session": PaySession(key, operator.id, peer, agent, now, now, None).number, "agent": agent}
            await record(transaction, caller, Act("login", operator.number), None, after)
        return True

    async def code_is_right(self, connection: WriteConnection, operator: PayOperator, code: str) -> bool:
        """Whether a code of the authenticator is right and was not used before, or a recovery code is left; it is used up."""
        secret = open_secret(self._context.box, operator, operator.totp_secret)
        code = "".join(code.split())
        time = await read_time(connection)
        step = totp_step(secret, code, time.timestamp())
        if step is not None:
            return await operator_rows.use_totp_step(connection, operator.id, step)
        return bool(code) and await operator_rows.use_recovery_code(connection, operator.id, hash_recovery_code(code))

    async def _take_back(self, subjects: tuple[str, str]) -> None:
        async with self._context.database.connection() as connection:
            for subject in subjects:
                await session_rows.take_back_failure(connection, subject)

    async def session(self, token: str) -> Session | None:
        """The session of a token; None if it has ended or there is none. It notes that the session was used."""
        if len(token) != _TOKEN_LENGTH or not token.isascii():
            return None
        async with self._context.database.connection() as connection:
            stored = await session_rows.use_session(connection, hash_secret(token))
            operator = await operator_rows.get_operator(connection, stored.operator_id) if stored is not None else None
            if stored is None or operator is None or not operator.enabled:
                return None
            caller = await operator_caller(connection, operator, operator.name)
        return Session(
            caller, operator.name, csrf_token(token), caller.role, stored.number, must_change_password=caller.must_change_password
        )

    async def logout(self, token: str) -> None:
        """End the session of a token."""
        current = await self.session(token)
        if current is not None:
            await self._revoke(current.caller, current.number, current.caller)

    async def list_all(self, caller: Caller) -> list[ListedSession]:
        """List the sessions of all operators, newest first."""
        return await self._list(caller, own=False)

    async def list_of(self, caller: Caller, operator: PayOperator) -> list[ListedSession]:
        """List the sessions of one operator, newest first."""
        async with self._context.database.connection() as connection:
            sessions = await session_rows.list_sessions(connection, operator.id)
        return [ListedSession(one, operator.name) for one in sessions]

    async def list_own(self, caller: Caller) -> list[ListedSession]:
        """List the caller's own sessions, newest first."""
        return await self._list(caller, own=True)

    async def _list(self, caller: Caller, *, own: bool) -> list[ListedSession]:
        operator_id = own_id(caller) if own else None
        async with self._context.database.connection() as connection:
            sessions = await session_rows.list_sessions(connection, operator_id)
            names = {}
            for key in {one.operator_id for one in sessions}:
                operator = await operator_rows.get_operator(connection, key)
                names[key] = operator.name if operator is not None else ""
        return [ListedSession(one, names[one.operator_id]) for one in sessions]

    async def revoke(self, caller: Caller, number: str) -> None:
        """End a session. SESSION_NOT_FOUND if there is none."""
        await self._revoke(caller, number, None)

    async def revoke_own(self, caller: Caller, number: str) -> None:
        """End a session of the caller. SESSION_NOT_FOUND also for that of another operator."""
        await self._revoke(caller, number, caller)

    async def _revoke(self, caller: Caller, number: str, owner: Caller | None) -> None:
        key = decode(Prefix.SESSION, number)
        async with self._context.database.transaction() as transaction:
            revoked = None
            if key is not None:
                revoked = await session_rows.revoke_session(transaction, key, own_id(owner) if owner is not None else None)
            if revoked is None:
                raise operators_errors.session_not_found()
            await record(transaction, caller, Act("PayOperatorService/RevokeSession", number))
