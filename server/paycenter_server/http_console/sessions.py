"""Sessions of the console: who is logged in.

`Sessions` is the port. `OperatorSessions` accepts operators by name and password; their sessions are in the database
(`services/sessions.py`). `CredentialSessions` accepts an operator's API credential and keeps sessions in the memory of this
process. They end when it stops, and several processes of the console do not share them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from paycenter_server.domain.callers import Caller
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.services.identity import Identity
from paycenter_server.services.sessions import LoginProblem
from paycenter_server.services.sessions import Sessions as StoredSessions

log = structlog.get_logger(__name__)

IDLE_SECONDS = 30 * 60.0
LIFE_SECONDS = 12 * 3600.0
WINDOW_SECONDS = 300.0
MOST_FAILURES = 10
"""Failed logins in WINDOW_SECONDS, by name and by address, after which further ones are refused without a check."""
_MOST_SESSIONS = 10_000
DEVELOPMENT_NAME = "dev"


@dataclass(frozen=True, slots=True)
class Session:
    """A logged-in operator. `csrf`: the token that every form of the session contains. `number`: "" for a session in memory."""

    caller: Caller
    operator_name: str
    csrf: str = field(repr=False)
    number: str = ""


class Sessions(Protocol):
    """A port: logins and sessions. A token is what the browser keeps in its cookie."""

    async def login(self, name: str, password: str, code: str, peer: str, agent: str) -> str | LoginProblem:
        """The token of a new session, or why there is none. `code`: of an authenticator, "" if none was given."""
        ...

    async def session(self, token: str) -> Session | None:
        """The session of a token; None if it has ended or there is none."""
        ...

    async def logout(self, token: str) -> None:
        """End the session of a token."""
        ...


@dataclass(slots=True)
class _Entry:
    session: Session
    authorization: str
    begun: float
    used: float


class CredentialSessions:
    """Sessions of operators who log in with the key id and the secret of their API credential.

    `once`: a password of the name "dev" for one login, of `paycenter dev`. The credential is checked again with each request, so a
    disabled one ends its sessions within the time for which `Identity` keeps it.
    """

    def __init__(self, identity: Identity, *, once: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._identity = identity
        self._once = once
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._failures: dict[str, list[float]] = {}

    def accepts(self, name: str) -> bool:
        """Whether the name is a key id, which no operator's name looks like, or that of `paycenter dev`."""
        return name.startswith("op_") or (name == DEVELOPMENT_NAME and bool(self._once))

    async def login(self, name: str, password: str, code: str, peer: str, agent: str) -> str | LoginProblem:
        """See `Sessions`. `code` is ignored: API credentials have none."""
        now = self._clock()
        marks = (f"name:{name[:64]}", f"peer:{peer}")
        if any(self._recent(mark, now) >= MOST_FAILURES for mark in marks):
            log.warning("console_login_refused", name=name[:64], peer=peer, why="too many failed logins")
            return LoginProblem.TOO_MANY
        authorization = ""
        if name == DEVELOPMENT_NAME and self._once and hmac.compare_digest(password.encode(), self._once.encode()):
            self._once = ""
            caller = Caller(DEVELOPMENT_NAME, None, "")
        else:
            authorization = _basic(name, password)
            try:
                caller = await self._identity.authenticate(authorization)
            except PayCenterError as error:
                if error.reason not in (Reason.CREDENTIALS_INVALID, Reason.CREDENTIALS_MISSING):
                    raise
                return self._failed(marks, now)
            if not caller.is_operator:
                return self._failed(marks, now)
        self._trim(now)
        token = secrets.token_urlsafe(32)
        session = Session(caller, caller.key_id, secrets.token_urlsafe(24))
        self._entries[_hashed(token)] = _Entry(session, authorization, now, now)
        log.info("console_login", name=caller.key_id, peer=peer, agent=agent[:200])
        return token

    async def session(self, token: str) -> Session | None:
        """See `Sessions`. It also notes that the session was used."""
        entry, now = self._entries.get(_hashed(token)), self._clock()
        if entry is None:
            return None
        if self._over(entry, now):
            del self._entries[_hashed(token)]
            return None
        if entry.authorization:
            try:
                await self._identity.authenticate(entry.authorization)
            except PayCenterError as error:
                if error.reason is not Reason.CREDENTIALS_INVALID:
                    raise
                self._entries.pop(_hashed(token), None)
                return None
        entry.used = now
        return entry.session

    async def logout(self, token: str) -> None:
        """See `Sessions`."""
        self._entries.pop(_hashed(token), None)

    def _failed(self, marks: tuple[str, ...], now: float) -> LoginProblem:
        if len(self._failures) > _MOST_SESSIONS:
            self._failures = {mark: times for mark, times in self._failures.items() if now - times[-1] < WINDOW_SECONDS}
        for mark in marks:
            self._failures.setdefault(mark, []).append(now)
        return LoginProblem.WRONG

    def _recent(self, mark: str, now: float) -> int:
        times = [at for at in self._failures.get(mark, []) if now - at < WINDOW_SECONDS]
        if times:
            self._failures[mark] = times
        else:
            self._failures.pop(mark, None)
        return len(times)

    @staticmethod
    def _over(entry: _Entry, now: float) -> bool:
        return now - entry.used > IDLE_SECONDS or now - entry.begun > LIFE_SECONDS

    def _trim(self, now: float) -> None:
        for mark in [mark for mark, entry in self._entries.items() if self._over(entry, now)]:
            del self._entries[mark]
        while len(self._entries) >= _MOST_SESSIONS:
            del self._entries[next(iter(self._entries))]


class OperatorSessions:
    """Sessions of operators: people by name and password, programs and `paycenter dev` by `credentials`."""

    def __init__(self, stored: StoredSessions, credentials: CredentialSessions) -> None:
        self._stored = stored
        self._credentials = credentials

    async def login(self, name: str, password: str, code: str, peer: str, agent: str) -> str | LoginProblem:
        """See `Sessions`."""
        if self._credentials.accepts(name):
            return await self._credentials.login(name, password, code, peer, agent)
        return await self._stored.login(name, password, code, peer, agent)

    async def session(self, token: str) -> Session | None:
        """See `Sessions`."""
        known = await self._credentials.session(token)
        if known is not None:
            return known
        found = await self._stored.session(token)
        return Session(found.caller, found.operator_name, found.csrf, found.number) if found is not None else None

    async def logout(self, token: str) -> None:
        """See `Sessions`."""
        if await self._credentials.session(token) is not None:
            await self._credentials.logout(token)
        else:
            await self._stored.logout(token)


def _hashed(token: str) -> str:
    """Only hashes are kept, so that the memory of the process holds no token that could be used."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode("utf-8", "replace")).decode()
