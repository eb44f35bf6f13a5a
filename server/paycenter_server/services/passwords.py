"""Passwords of operators: Argon2id in the threads that sign, one at a time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from paycenter_server.domain.callers import Caller
from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.operators import PASSWORD_MAX, PASSWORD_MIN, PayOperator
from paycenter_server.domain.sessions import NAME_DELAYS
from paycenter_server.domain.validation import Check
from paycenter_server.services import operators_errors
from paycenter_server.services.context import Context
from paycenter_server.storage import operators as operator_rows
from paycenter_server.storage import sessions as session_rows

T = TypeVar("T")
# OWASP Password Storage Cheat Sheet: 19 MiB, two iterations, one lane. The stored text names them, so that they can be raised.
_MEMORY_KIB = 19_456
_ITERATIONS = 2
_MOST_WAITING = 16


class TooManyPasswordsError(Exception):
    """More passwords wait to be checked than can be checked soon."""


def hashed(password: str) -> str:
    """The text that is stored: `$argon2id$v=19$m=…,t=…,p=…$salt$hash`. It takes tens of milliseconds."""
    derive = Argon2id(salt=secrets.token_bytes(16), length=32, iterations=_ITERATIONS, lanes=1, memory_cost=_MEMORY_KIB)
    return derive.derive_phc_encoded(_bytes(password))


def _same(password: str, stored: str) -> bool:
    try:
        Argon2id.verify_phc_encoded(_bytes(password), stored)
    except InvalidKey:
        return False
    return True


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "replace")


def new_password() -> str:
    """A password that somebody is given to log in with once."""
    return secrets.token_urlsafe(15)


def check_password(check: Check, field: str, password: str, name: str) -> None:
    """A new password: 12 to 256 characters, and not the name of the operator."""
    check.text(field, password, PASSWORD_MAX, minimum=PASSWORD_MIN)
    if name and name.lower() in password.lower() and len(password) < 2 * PASSWORD_MIN:
        check.fail(field, "must not contain your name")


# What the password of a name that does not exist is compared with, so that the answer takes as long.
@cache
def _nobody() -> str:
    return hashed(secrets.token_urlsafe(15))


class Passwords:
    """Hashes and checks passwords. One at a time, so that logins leave a thread to the signatures of payments."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._one = asyncio.Semaphore(1)
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """The text that is stored."""
        return await self._run(lambda: hashed(password))

    async def matches(self, password: str, stored: str | None) -> bool:
        """Whether it is the password. It takes as long if there is none."""
        same = await self._run(lambda: _same(password[: PASSWORD_MAX + 1], stored or _nobody()))
        return same and stored is not None

    async def confirm(self, caller: Caller, field: str, password: str) -> PayOperator:
        """The operator of the caller, if it is its password; INVALID_FIELD otherwise.

        A failure counts as a failed login of the name.
        """
        async with self._context.database.connection() as connection:
            operator = await operator_rows.get_operator(connection, caller.operator_id) if caller.operator_id else None
            if operator is None:
                raise operators_errors.operator_not_found()
            subject = f"name:{operator.name}"
            attempt = await session_rows.begin_login(connection, subject, NAME_DELAYS)
        if not attempt.allowed:
            raise invalid([Violation(field, f"was wrong too often; wait {attempt.wait:.0f} seconds")])
        try:
            same = await self.matches(password, operator.password_hash)
        except TooManyPasswordsError:
            raise invalid([Violation(field, "cannot be checked now; try again in a moment")]) from None
        if not same:
            raise invalid([Violation(field, "is wrong")])
        async with self._context.database.connection() as connection:
            await session_rows.take_back_failure(connection, subject)
        return operator

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= _MOST_WAITING:
            raise TooManyPasswordsError
        self._waiting += 1
        try:
            async with self._one:
                return await self._context.in_thread(work)
        finally:
            self._waiting -= 1
