"""PayCredentialService: operators see and end each other's credentials; the last one stays."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import grpc
import pytest
from paycenter import AsyncPayCenter
from paycenter.v1 import pay_app_service_pb2 as app_pb
from paycenter.v1 import pay_credential_service_pb2 as pb
from support.grpc_rig import Rig, fails, open_rig
from support.locks import transaction, waiting_for_lock
from support.system import PayCenterSystem


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


async def operator(rig: Rig, name: str) -> tuple[str, AsyncPayCenter]:
    key_id, secret = await rig.system.services.credentials.create_operator(name)
    return key_id, AsyncPayCenter(f"127.0.0.1:{rig.server.port}", key_id=key_id, key_secret=secret, attempts=1)


async def test_operators_are_listed_without_secrets(rig: Rig) -> None:
    key_id, _ = await operator(rig, "Lin")
    listed = (await rig.op.credentials.ListOperatorCredentials(pb.ListOperatorCredentialsRequest())).credentials
    assert [(one.name, one.enabled) for one in listed] == [("test", True), ("Lin", True)]
    assert listed[1].key_id == key_id
    assert [one.operator_name for one in listed] == ["test", "Lin"]
    assert {field.name for field in pb.OperatorCredential.DESCRIPTOR.fields} == {
        "key_id", "name", "enabled", "create_time", "operator_name", "role", "app_keys", "expire_time",
    }  # fmt: skip
    assert all(one.create_time.seconds for one in listed)


async def test_a_disabled_operator_is_out_at_once_and_stays_in_the_list(rig: Rig) -> None:
    key_id, other = await operator(rig, "Lin")
    await other.apps.ListPayApps(app_pb.ListPayAppsRequest())
    done = await rig.op.credentials.DisableOperatorCredential(pb.DisableOperatorCredentialRequest(key_id=key_id))
    assert (done.credential.key_id, done.credential.enabled) == (key_id, False)
    async with fails("CREDENTIALS_INVALID", grpc.StatusCode.UNAUTHENTICATED):
        await other.apps.ListPayApps(app_pb.ListPayAppsRequest())
    again = await rig.op.credentials.DisableOperatorCredential(pb.DisableOperatorCredentialRequest(key_id=key_id))
    assert not again.credential.enabled
    listed = (await rig.op.credentials.ListOperatorCredentials(pb.ListOperatorCredentialsRequest())).credentials
    assert [one.enabled for one in listed] == [True, False]
    await other.close()


async def test_the_last_operator_cannot_disable_itself(rig: Rig) -> None:
    (own,) = (await rig.op.credentials.ListOperatorCredentials(pb.ListOperatorCredentialsRequest())).credentials
    async with fails("CREDENTIAL_LAST", grpc.StatusCode.FAILED_PRECONDITION):
        await rig.op.credentials.DisableOperatorCredential(pb.DisableOperatorCredentialRequest(key_id=own.key_id))
    await rig.op.apps.ListPayApps(app_pb.ListPayAppsRequest())


@pytest.mark.parametrize("unusable", ["expired", "operator disabled"])
async def test_a_credential_that_cannot_be_used_does_not_count(rig: Rig, unusable: str) -> None:
    (own,) = (await rig.op.credentials.ListOperatorCredentials(pb.ListOperatorCredentialsRequest())).credentials
    key_id, other = await operator(rig, "Lin")
    if unusable == "expired":
        await rig.system.value("UPDATE pay_credential SET expire_time = now() WHERE key_id = $1", key_id)
    else:
        await rig.system.value("UPDATE pay_operator SET enabled = false WHERE name = 'Lin'")
    async with fails("CREDENTIAL_LAST", grpc.StatusCode.FAILED_PRECONDITION):
        await rig.op.credentials.DisableOperatorCredential(pb.DisableOperatorCredentialRequest(key_id=own.key_id))
    await other.close()


async def test_two_operators_cannot_disable_each_other_at_once(rig: Rig) -> None:
    key_id, other = await operator(rig, "Lin")
    (own, _) = (await rig.op.credentials.ListOperatorCredentials(pb.ListOperatorCredentialsRequest())).credentials
    await other.apps.ListPayApps(app_pb.ListPayAppsRequest())  # both are known to the server before the race
    async with transaction(rig.system) as held:
        await held.execute("SELECT 1 FROM pay_credential FOR UPDATE")
        requests = ((rig.op, key_id), (other, own.key_id))
        calls = [
            asyncio.ensure_future(client.credentials.DisableOperatorCredential(pb.DisableOperatorCredentialRequest(key_id=key)))
            for client, key in requests
        ]
        await waiting_for_lock(rig.system, calls)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(result, "reason", "") for result in results].count("CREDENTIAL_LAST") == 1
    assert await rig.system.value("SELECT count(*) FROM pay_credential WHERE app_id IS NULL AND enabled") == 1
    await other.close()


async def test_only_operators_and_only_what_there_is(rig: Rig) -> None:
    app_key_id = await rig.system.value("SELECT key_id FROM pay_credential WHERE app_id IS NOT NULL")
    for key_id in ("op_0", "", app_key_id):
        async with fails("CREDENTIAL_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
            await rig.op.credentials.DisableOperatorCredential(pb.DisableOperatorCredentialRequest(key_id=key_id))
    async with fails("PERMISSION_DENIED", grpc.StatusCode.PERMISSION_DENIED):
        await rig.shop.credentials.ListOperatorCredentials(pb.ListOperatorCredentialsRequest())
    async with fails("PERMISSION_DENIED", grpc.StatusCode.PERMISSION_DENIED):
        await rig.shop.credentials.DisableOperatorCredential(pb.DisableOperatorCredentialRequest(key_id="x"))


async def test_a_call_whose_message_comes_after_the_revocation_is_refused(rig: Rig) -> None:
    """Its headers came before. There is no bound for the time between the two."""
    key_id, secret = await rig.system.services.credentials.create_operator("Lin")
    metadata = (("authorization", "Basic " + base64.b64encode(f"{key_id}:{secret}".encode()).decode()),)
    path, request = "/paycenter.v1.PayAppService/ListPayApps", app_pb.ListPayAppsRequest()
    serialize = app_pb.ListPayAppsRequest.SerializeToString
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.server.port}") as channel:
        await channel.unary_unary(path, serialize, None)(request, metadata=metadata)
        call = channel.stream_unary(path, serialize, None)(None, metadata=metadata)
        # Its headers come before those of the next call of the connection.
        await channel.unary_unary(path, serialize, None)(request, metadata=metadata)
        await rig.op.credentials.DisableOperatorCredential(pb.DisableOperatorCredentialRequest(key_id=key_id))
        await call.write(request)
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
