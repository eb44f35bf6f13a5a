"""The second factor of a login: time-based codes of an authenticator, and recovery codes."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, field, replace
from uuid import UUID

from paycenter_server.domain.callers import Caller
from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.operators import PayOperator, totp_address, totp_step
from paycenter_server.services import operators_errors
from paycenter_server.services.audit import Act, record
from paycenter_server.services.context import Context
from paycenter_server.services.passwords import Passwords
from paycenter_server.services.secrets import SecretBox
from paycenter_server.storage import operators as operator_rows
from paycenter_server.storage.database import Transaction, read_time

_ACT = "PayOperatorService/ChangeOwnTotp"
_RECOVERY_CODES = 8


@dataclass(frozen=True, slots=True)
class NewTotp:
    """What an authenticator needs. It is valid only after a code has confirmed it."""

    secret: str = field(repr=False)
    address: str = field(repr=False)


def own_id(caller: Caller) -> UUID:
    """The operator of a caller. OPERATOR_NOT_FOUND for a program, which is none."""
    if caller.operator_id is None:
        raise operators_errors.operator_not_found()
    return caller.operator_id


def _place(operator_id: UUID) -> str:
    return f"pay_operator:{operator_id}:totp"


def open_secret(box: SecretBox, operator: PayOperator, sealed: str | None) -> bytes:
    """The secret of the operator's authenticator."""
    return base64.b32decode(box.open(sealed or "", _place(operator.id)))


def hash_recovery_code(code: str) -> str:
    """How a recovery code is kept. It has 80 random bits, so a fast hash is enough."""
    return hashlib.sha256(b"paycenter recovery " + code.strip().lower().encode("utf-8", "replace")).hexdigest()


class Totp:
    """Sets up, confirms and removes the authenticator of the caller, who states the password again for it."""

    def __init__(self, context: Context, passwords: Passwords) -> None:
        self._context = context
        self._passwords = passwords

    async def is_set(self, caller: Caller) -> bool:
        """Whether the caller's login needs a code."""
        async with self._context.database.connection() as connection:
            operator = await operator_rows.get_operator(connection, own_id(caller))
        return operator is not None and operator.totp_secret is not None

    async def begin(self, caller: Caller, password: str) -> NewTotp:
        """A new secret, which waits to be confirmed. The current one stays valid until then."""
        await self._passwords.confirm(caller, "password", password)
        secret = secrets.token_bytes(20)
        text = base64.b32encode(secret).decode()
        async with self._context.database.transaction() as transaction:
            operator = await self._locked(transaction, caller)
            sealed = self._context.box.seal(text, _place(operator.id))
            await operator_rows.update_operator(transaction, replace(operator, totp_pending=sealed), self._context.now())
        return NewTotp(text, totp_address(secret, operator.name))

    async def confirm(self, caller: Caller, code: str) -> list[str]:
        """Use the new secret from now on. INVALID_FIELD for a wrong code. The recovery codes, which are shown only once."""
        codes = [secrets.token_hex(10) for _ in range(_RECOVERY_CODES)]
        async with self._context.database.transaction() as transaction:
            operator = await self._locked(transaction, caller)
            if operator.totp_pending is None:
                raise invalid([Violation("code", "belongs to no new authenticator; begin again")])
            time = await read_time(transaction)
            secret = open_secret(self._context.box, operator, operator.totp_pending)
            step = totp_step(secret, "".join(code.split()), time.timestamp())
            if step is None:
                raise invalid([Violation("code", "is wrong; enter the one that the authenticator shows now")])
            confirmed = replace(
                operator, totp_secret=operator.totp_pending, totp_pending=None, totp_step=step,
                recovery_codes=[hash_recovery_code(one) for one in codes],
            )  # fmt: skip
            await operator_rows.update_operator(transaction, confirmed, self._context.now())
            before = {"totp": operator.totp_secret is not None, "recovery_codes": len(operator.recovery_codes)}
            await record(transaction, caller, Act(_ACT, operator.number), before, {"totp": True, "recovery_codes": len(codes)})
        return codes

    async def remove(self, caller: Caller, password: str) -> None:
        """Log in without a code from now on."""
        await self._passwords.confirm(caller, "password", password)
        async with self._context.database.transaction() as transaction:
            operator = await self._locked(transaction, caller)
            without = replace(operator, totp_secret=None, totp_pending=None, recovery_codes=[])
            await operator_rows.update_operator(transaction, without, self._context.now())
            await record(
                transaction, caller, Act(_ACT, operator.number), {"totp": operator.totp_secret is not None}, {"totp": False}
            )

    @staticmethod
    async def _locked(transaction: Transaction, caller: Caller) -> PayOperator:
        operator = await operator_rows.lock_operator(transaction, own_id(caller))
        if operator is None:
            raise operators_errors.operator_not_found()
        return operator
