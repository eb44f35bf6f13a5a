"""Authorization: missing and wrong credentials, apps that call operators' services, and public services."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from paycenter.v1 import pay_app_service_pb2 as app_pb
from paycenter.v1 import pay_channel_service_pb2 as channel_pb
from paycenter.v1 import pay_credential_service_pb2 as credential_pb
from paycenter.v1 import pay_order_service_pb2 as order_pb
from paycenter.v1.pay_order_service_pb2_grpc import PayOrderServiceStub
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.services.identity import Identity
from support.grpc_rig import Rig, fails, key_of, open_rig, raw_call, refused
from support.system import PayCenterSystem
from support.waiting import eventually

SERVICES = ("PayAppService", "PayChannelService", "PayNotificationService", "PayOrderService", "PayRefundService")


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


async def test_without_credentials(rig: Rig) -> None:
    async with rig.bare() as channel:
        for metadata in ((), (("authorization", ""),), (("authorization-bin", b"x"),)):
            error = await refused(PayOrderServiceStub(channel).GetPayOrder(order_pb.GetPayOrderRequest(id="O"), metadata=metadata))
            assert (error.code, error.info.reason, error.info.domain) == (
                grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING", "paycenter",
            )  # fmt: skip


async def test_with_wrong_credentials(rig: Rig) -> None:
    key_id, secret = key_of(rig.system)
    wrong = [
        basic(f"{key_id}:{secret}x"), basic(f"{key_id}:"), basic(key_id), basic(f":{secret}"), basic(f"nobody:{secret}"),
        basic(f"{'k' * 65}:{secret}"), basic("\0:x"), basic(f"{key_id}\0:{secret}"), basic("\U0001f600:\U0001f600"), "Basic",
        "Basic !!!", "Bearer abc", f"Basic {key_id}:{secret}", "Basic /////w==", basic(f"{key_id}:{secret}")[:-1] + " ",
        basic(f"{key_id.upper()}:{secret}"), basic(f"{key_id}: {secret}"), "x" * 3000,
    ]  # fmt: skip
    async with rig.bare() as channel:
        stub = PayOrderServiceStub(channel)
        for authorization in wrong:
            error = await refused(
                stub.GetPayOrder(order_pb.GetPayOrderRequest(id="O"), metadata=(("authorization", authorization),))
            )
            assert (error.code, error.info.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"), authorization
            assert secret not in str(error)
        for authorization, sentence in (
            ("Bearer abc", "The authorization scheme 'Bearer' is not supported; "),
            (f"Bearer {basic(f'{key_id}:{secret}')[6:]}", "The authorization scheme 'Bearer' is not supported; "),
            (f"Token {secret}", "The authorization scheme 'Token' is not supported; "),
            (f"{key_id}:{secret}", "The authorization metadata has no scheme; "),
            (f"{secret} x", "The authorization metadata has no scheme; "),
            (f"Basic {key_id}:{secret}", "The text after `Basic` is not base64 of `key_id:secret`; "),
            (basic(key_id), "The text after `Basic` is not base64 of `key_id:secret`; "),
        ):
            error = await refused(
                stub.GetPayOrder(order_pb.GetPayOrderRequest(id="O"), metadata=(("authorization", authorization),))
            )
            assert error.text == sentence + (
                "send `authorization: Basic base64(key_id:secret)` metadata; the client library does it for you."
            )
            assert secret not in str(error)
        # The scheme's name is not case sensitive (RFC 9110).
        metadata = (("authorization", basic(f"{key_id}:{secret}").replace("Basic", "basic")),)
        error = await refused(stub.GetPayOrder(order_pb.GetPayOrderRequest(id="O"), metadata=metadata))
        assert error.info.reason == "ORDER_NOT_FOUND"


def admin_calls(rig: Rig) -> list[Any]:
    apps, channels, credentials = rig.shop.apps, rig.shop.channels, rig.shop.credentials
    channel = rig.system.channels["mock"]
    return [
        apps.CreatePayApp(app_pb.CreatePayAppRequest(app_key="new", name="n")),
        apps.UpdatePayApp(app_pb.UpdatePayAppRequest(app_key="shop", enabled=False)),
        apps.DeletePayApp(app_pb.DeletePayAppRequest(app_key="shop")),
        apps.ListPayApps(app_pb.ListPayAppsRequest()),
        credentials.CreateAppCredential(credential_pb.CreateAppCredentialRequest(app_key="shop", name="x")),
        credentials.ListAppCredentials(credential_pb.ListAppCredentialsRequest(app_key="shop")),
        credentials.DisableAppCredential(credential_pb.DisableAppCredentialRequest(app_key="shop", key_id="k")),
        apps.RotateNotificationSecret(app_pb.RotateNotificationSecretRequest(app_key="shop")),
        channels.CreatePayChannel(channel_pb.CreatePayChannelRequest(app_key="shop", code="mock")),
        channels.UpdatePayChannel(channel_pb.UpdatePayChannelRequest(id=channel, enabled=False)),
        channels.DeletePayChannel(channel_pb.DeletePayChannelRequest(id=channel)),
        channels.GetPayChannel(channel_pb.GetPayChannelRequest(id=channel)),
        channels.ListPayChannels(channel_pb.ListPayChannelsRequest(app_key="shop")),
    ]


async def test_an_app_cannot_call_the_operators_services(rig: Rig) -> None:
    for call in admin_calls(rig):
        async with fails("PERMISSION_DENIED", grpc.StatusCode.PERMISSION_DENIED):
            await call
    assert await rig.system.value("SELECT enabled FROM pay_app")
    async with fails("PERMISSION_DENIED"):
        await rig.shop.list_channel_codes(app_key="other")
    async with fails("PERMISSION_DENIED"):
        await rig.order(app_key="other")
    assert (await rig.order(app_key="shop")).app_key == "shop"


async def test_health_needs_no_credentials(rig: Rig) -> None:
    async with rig.bare() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", *(f"paycenter.v1.{service}" for service in SERVICES)):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert info.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_needs_no_credentials(rig: Rig, version: str) -> None:
    async with rig.bare() as channel:
        if version == "v1alpha":
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        else:
            call = channel.stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="paycenter.v1.PayOrderService"),
        ]
        listed, file = [answer async for answer in call(iter(asked))]
        names = {item.name for item in listed.list_services_response.service}
        assert {f"paycenter.v1.{service}" for service in SERVICES} <= names
        assert {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"} <= names
        assert file.file_descriptor_response.file_descriptor_proto
        # Every listed service can be described, or tools that read the list fail.
        for name in names:
            (answer,) = [
                answer async for answer in call(iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)]))
            ]
            assert answer.HasField("file_descriptor_response"), name


async def test_a_method_that_is_not_there(rig: Rig) -> None:
    async with rig.bare() as channel:
        for method in ("/paycenter.v1.PayOrderService/Nothing", "/paycenter.v1.Nobody/Nothing", "/nothing"):
            with pytest.raises(grpc.aio.AioRpcError) as info:
                await raw_call(channel, method)(b"")
            assert info.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_what_is_kept_of_credentials(system: PayCenterSystem) -> None:
    """Of each one entry, of the oldest none where there are many, and none of one that is refused now."""
    identity = Identity(system.services.context)
    kept = identity._credentials
    kept._most = 2
    first = system.secrets["shop:authorization"]
    await identity.authenticate(first.replace(" ", "   "))
    assert not kept._known, "another spelling of a credential"
    others = []
    for name in ("Lin", "Wei"):
        key_id, secret = await system.services.credentials.create_operator(name)
        others.append((key_id, basic(f"{key_id}:{secret}")))
    for authorization in (first, others[0][1], others[1][1]):
        await identity.authenticate(authorization)
    assert list(kept._known) == [others[0][1], others[1][1]]
    await identity.authenticate(first.replace(" ", "   "))
    assert len(kept._known) == 2, "another spelling displaces none"
    await identity.authenticate(first)
    assert list(kept._known) == [others[1][1], first]
    for again in (first, others[1][1]):
        kept._known[again] = (float("-inf"), kept._known[again][1])
        await identity.authenticate(again)
        assert len(kept._known) == 2, "one that is verified again displaces none"
    assert list(kept._known) == [first, others[1][1]], "it is the youngest"
    await system.rows("UPDATE pay_credential SET enabled = false WHERE key_id = $1", others[1][0])
    kept._known[others[1][1]] = (float("-inf"), kept._known[others[1][1]][1])
    with pytest.raises(PayCenterError):
        await identity.authenticate(others[1][1])
    assert list(kept._known) == [first], "it is none that was verified"


async def test_a_change_while_a_credential_is_checked(system: PayCenterSystem) -> None:
    """What was read before it is neither kept, nor given to calls that come after it."""
    identity, authorization = Identity(system.services.context), system.secrets["shop:authorization"]
    async with system.services.context.database.transaction() as held:
        await held.execute("LOCK TABLE pay_credential IN ACCESS EXCLUSIVE MODE")
        before = asyncio.ensure_future(identity.authenticate(authorization))
        (earlier,) = await eventually(lambda: tuple(identity._credentials._reading.values()))
        identity.forget(key_of(system)[0])
        after = asyncio.ensure_future(identity.authenticate(authorization))
        (later,) = await eventually(lambda: tuple(identity._credentials._reading.values()))
        assert later is not earlier
    assert await before == await after
    assert identity._credentials._known[authorization][1] is later.result()
    assert not identity._credentials._reading
    identity.forget(key_of(system)[0])
    async with system.services.context.database.transaction() as held:
        await held.execute("LOCK TABLE pay_credential IN ACCESS EXCLUSIVE MODE")
        alone = asyncio.ensure_future(identity.authenticate(authorization))
        await eventually(lambda: identity._credentials._reading)
        identity.forget(key_of(system)[0])
    await alone
    assert not identity._credentials._known


async def test_a_cancelled_call_does_not_end_the_check_for_others(system: PayCenterSystem) -> None:
    identity, authorization = Identity(system.services.context), system.secrets["shop:authorization"]
    async with system.services.context.database.transaction() as held:
        await held.execute("LOCK TABLE pay_credential IN ACCESS EXCLUSIVE MODE")
        first, second = (asyncio.ensure_future(identity.authenticate(authorization)) for _ in range(2))
        await eventually(lambda: identity._credentials._reading)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    assert (await second).app_key == "shop"
