"""The errors about operators, their roles and their sessions."""

from __future__ import annotations

from paycenter_server.domain.callers import Caller
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.roles import PERMISSIONS


def role_may_not(caller: Caller, method: str) -> PayCenterError:
    """The role of an operator, or its limitation to some apps, does not allow a method."""
    if caller.must_change_password:
        return PayCenterError(
            Reason.PERMISSION_DENIED, "Change your password first; an administrator has set the one that you have."
        )
    roles = PERMISSIONS[method].roles if method in PERMISSIONS else frozenset()
    who = f"The role {caller.role.value!r}"
    if caller.role in roles:
        who += f" limited to the apps {', '.join(caller.scope_keys)}"
    return PayCenterError(
        Reason.PERMISSION_DENIED,
        f"{who[:160]} may not call {method}; ask an admin for a role that may, or to do it.",
        metadata={"method": method, "role": caller.role.value},
    )


def operator_not_found() -> PayCenterError:
    """There is no such operator."""
    return PayCenterError(Reason.OPERATOR_NOT_FOUND, "There is no such operator; ListPayOperators lists the existing ones.")


def operator_exists(name: str) -> PayCenterError:
    """Another operator has the name."""
    return PayCenterError(
        Reason.OPERATOR_EXISTS, f"There is an operator {name!r} already; choose another name, or update that one."
    )


def last_admin() -> PayCenterError:
    """The last enabled admin without limits keeps the role."""
    return PayCenterError(
        Reason.OPERATOR_LAST_ADMIN,
        "This is the last enabled admin of all apps; give another operator that role before you disable or limit this one.",
    )


def session_not_found() -> PayCenterError:
    """There is no such session, it has ended, or it is another operator's."""
    return PayCenterError(Reason.SESSION_NOT_FOUND, "There is no such session, or it has ended; list the sessions again.")
