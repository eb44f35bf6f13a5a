"""PayCredentialService."""

from __future__ import annotations

from typing import Any

from paycenter.v1 import pay_credential_service_pb2 as pb
from paycenter.v1.pay_credential_service_pb2_grpc import PayCredentialServiceServicer

from paycenter_server.domain.credentials import Credential
from paycenter_server.grpc_server.calls import current_caller
from paycenter_server.grpc_server.convert import stamp
from paycenter_server.services.credentials import Credentials, OperatorCredential


def app_credential_message(credential: Credential) -> pb.AppCredential:
    """An app's credential, without its secret."""
    return pb.AppCredential(
        key_id=credential.key_id, name=credential.name, enabled=credential.enabled, create_time=stamp(credential.create_time)
    )


def operator_credential_message(item: OperatorCredential) -> pb.OperatorCredential:
    """An operator's credential, without its secret."""
    credential = item.credential
    return pb.OperatorCredential(
        key_id=credential.key_id, name=credential.name, enabled=credential.enabled, create_time=stamp(credential.create_time),
        operator_name=item.operator_name, role=credential.role or "", app_keys=credential.app_keys,
        expire_time=stamp(credential.expire_time),
    )  # fmt: skip


class CredentialServicer(PayCredentialServiceServicer):
    """Converts messages, and calls the use cases for credentials."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def CreateAppCredential(self, request: pb.CreateAppCredentialRequest, context: Any) -> pb.CreateAppCredentialResponse:
        """See the proto."""
        credential, secret = await self._credentials.create(current_caller(), request.app_key, request.name)
        return pb.CreateAppCredentialResponse(credential=app_credential_message(credential), key_secret=secret)

    async def ListAppCredentials(self, request: pb.ListAppCredentialsRequest, context: Any) -> pb.ListAppCredentialsResponse:
        """See the proto."""
        credentials = await self._credentials.list_of_app(current_caller(), request.app_key)
        return pb.ListAppCredentialsResponse(credentials=[app_credential_message(item) for item in credentials])

    async def DisableAppCredential(self, request: pb.DisableAppCredentialRequest, context: Any) -> pb.DisableAppCredentialResponse:
        """See the proto."""
        credential = await self._credentials.disable(current_caller(), request.app_key, request.key_id)
        return pb.DisableAppCredentialResponse(credential=app_credential_message(credential))

    async def ListOperatorCredentials(
        self, request: pb.ListOperatorCredentialsRequest, context: Any
    ) -> pb.ListOperatorCredentialsResponse:
        """See the proto."""
        credentials = await self._credentials.list_operators(current_caller())
        return pb.ListOperatorCredentialsResponse(credentials=[operator_credential_message(item) for item in credentials])

    async def DisableOperatorCredential(
        self, request: pb.DisableOperatorCredentialRequest, context: Any
    ) -> pb.DisableOperatorCredentialResponse:
        """See the proto."""
        credential = await self._credentials.disable_operator(current_caller(), request.key_id)
        return pb.DisableOperatorCredentialResponse(credential=operator_credential_message(credential))
