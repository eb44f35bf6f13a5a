"""PayOperatorService."""

from __future__ import annotations

from typing import Any

from paycenter.v1 import pay_operator_service_pb2 as pb
from paycenter.v1.pay_operator_service_pb2_grpc import PayOperatorServiceServicer

from paycenter_server.domain.credentials import CredentialLimits
from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.operators import PayOperator
from paycenter_server.domain.roles import Role
from paycenter_server.grpc_server.calls import current_caller
from paycenter_server.grpc_server.convert import enum_value, read_time, stamp
from paycenter_server.services.credentials import Credentials, OperatorCredential
from paycenter_server.services.operators import NewOperator, Operators
from paycenter_server.services.paging import Pager
from paycenter_server.services.sessions import ListedSession, Sessions

_ROLE_NUMBERS = {role: pb.OperatorRole.Value(f"OPERATOR_ROLE_{role.name}") for role in Role}
ROLES: dict[int, str] = {number: role.value for role, number in _ROLE_NUMBERS.items()}


def operator_message(operator: PayOperator) -> pb.PayOperator:
    """An operator, without password and secrets."""
    return pb.PayOperator(
        id=operator.number,
        name=operator.name,
        role=_ROLE_NUMBERS[operator.role],
        app_keys=operator.app_keys,
        enabled=operator.enabled,
        has_password=operator.password_hash is not None,
        must_change_password=operator.must_change_password,
        has_totp=operator.totp_secret is not None,
        create_time=stamp(operator.create_time),
        update_time=stamp(operator.update_time),
    )


def session_message(listed: ListedSession) -> pb.OperatorSession:
    """A session, without its token."""
    session = listed.session
    return pb.OperatorSession(
        id=session.number, operator_name=listed.operator_name, peer=session.peer, agent=session.agent,
        create_time=stamp(session.create_time), used_time=stamp(session.used_time),
    )  # fmt: skip


def credential_message(item: OperatorCredential) -> pb.OwnCredential:
    """A credential, without its secret."""
    one = item.credential
    return pb.OwnCredential(
        key_id=one.key_id, name=one.name, enabled=one.enabled, app_keys=one.app_keys,
        role=_ROLE_NUMBERS[Role(one.role)] if one.role else pb.OperatorRole.OPERATOR_ROLE_UNSPECIFIED,
        expire_time=stamp(one.expire_time), create_time=stamp(one.create_time),
    )  # fmt: skip


class OperatorServicer(PayOperatorServiceServicer):
    """Converts messages, and calls the use cases for operators."""

    def __init__(self, operators: Operators, sessions: Sessions, credentials: Credentials) -> None:
        self._operators = operators
        self._sessions = sessions
        self._credentials = credentials

    async def CreatePayOperator(self, request: pb.CreatePayOperatorRequest, context: Any) -> pb.CreatePayOperatorResponse:
        """See the proto."""
        role = enum_value(Role, "role", request.role, ROLES)
        if role is None:
            raise invalid([Violation("role", "must be set")])
        created = await self._operators.create(current_caller(), NewOperator(request.name, role, request.app_keys))
        return pb.CreatePayOperatorResponse(pay_operator=operator_message(created.operator), password=created.password)

    async def UpdatePayOperator(self, request: pb.UpdatePayOperatorRequest, context: Any) -> pb.UpdatePayOperatorResponse:
        """See the proto."""
        changes: dict[str, Any] = {}
        role = enum_value(Role, "role", request.role, ROLES)
        if role is not None:
            changes["role"] = role
        if request.change_apps:
            changes["app_keys"] = list(request.app_keys)
        elif request.app_keys:
            raise invalid([Violation("app_keys", "has no effect without change_apps")])
        if request.HasField("enabled"):
            changes["enabled"] = request.enabled
        operator = await self._operators.update(current_caller(), request.id, changes)
        return pb.UpdatePayOperatorResponse(pay_operator=operator_message(operator))

    async def ListPayOperators(self, request: pb.ListPayOperatorsRequest, context: Any) -> pb.ListPayOperatorsResponse:
        """See the proto."""
        page = await self._operators.search(current_caller(), Pager(request.page_size, request.page_token))
        return pb.ListPayOperatorsResponse(
            pay_operators=[operator_message(item) for item in page.items], next_page_token=page.next_token
        )

    async def ResetPassword(self, request: pb.ResetPasswordRequest, context: Any) -> pb.ResetPasswordResponse:
        """See the proto."""
        done = await self._operators.reset_password(current_caller(), request.id)
        return pb.ResetPasswordResponse(pay_operator=operator_message(done.operator), password=done.password)

    async def UnlockPayOperator(self, request: pb.UnlockPayOperatorRequest, context: Any) -> pb.UnlockPayOperatorResponse:
        """See the proto."""
        operator = await self._operators.unlock(current_caller(), request.id)
        return pb.UnlockPayOperatorResponse(pay_operator=operator_message(operator))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        """See the proto."""
        return pb.ListSessionsResponse(sessions=[session_message(one) for one in await self._sessions.list_all(current_caller())])

    async def RevokeSession(self, request: pb.RevokeSessionRequest, context: Any) -> pb.RevokeSessionResponse:
        """See the proto."""
        await self._sessions.revoke(current_caller(), request.id)
        return pb.RevokeSessionResponse()

    async def ListOwnSessions(self, request: pb.ListOwnSessionsRequest, context: Any) -> pb.ListOwnSessionsResponse:
        """See the proto."""
        return pb.ListOwnSessionsResponse(
            sessions=[session_message(one) for one in await self._sessions.list_own(current_caller())]
        )

    async def RevokeOwnSession(self, request: pb.RevokeOwnSessionRequest, context: Any) -> pb.RevokeOwnSessionResponse:
        """See the proto."""
        await self._sessions.revoke_own(current_caller(), request.id)
        return pb.RevokeOwnSessionResponse()

    async def CreateOwnCredential(self, request: pb.CreateOwnCredentialRequest, context: Any) -> pb.CreateOwnCredentialResponse:
        """See the proto."""
        role = enum_value(Role, "role", request.role, ROLES)
        limits = CredentialLimits(role, tuple(request.app_keys), read_time(request, "expire_time"))
        credential, secret = await self._credentials.create_own(current_caller(), request.name, limits)
        return pb.CreateOwnCredentialResponse(credential=credential_message(credential), key_secret=secret)

    async def ListOwnCredentials(self, request: pb.ListOwnCredentialsRequest, context: Any) -> pb.ListOwnCredentialsResponse:
        """See the proto."""
        credentials = await self._credentials.list_own(current_caller())
        return pb.ListOwnCredentialsResponse(credentials=[credential_message(item) for item in credentials])

    async def DisableOwnCredential(self, request: pb.DisableOwnCredentialRequest, context: Any) -> pb.DisableOwnCredentialResponse:
        """See the proto."""
        credential = await self._credentials.disable_own(current_caller(), request.key_id)
        return pb.DisableOwnCredentialResponse(credential=credential_message(credential))
