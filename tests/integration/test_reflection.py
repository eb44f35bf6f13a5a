"""`buf curl` knows the server by reflection alone: its methods, its messages, and the details of its errors."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2
from support.grpc_rig import Rig, open_rig
from support.system import PayCenterSystem

BUF = Path(sys.executable).with_name("buf")


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


async def buf_curl(rig: Rig, path: str, *arguments: str, protocol: str = "grpc-v1") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        BUF, "curl", "--reflect", "--reflect-protocol", protocol, "--protocol", "grpc", "--http2-prior-knowledge", *arguments,
        f"http://{rig.target}{path}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, out.decode(), err.decode()


async def call(rig: Rig, method: str, request: dict[str, Any], *arguments: str) -> tuple[int, str, str]:
    authorization = ("-H", f"authorization: {rig.system.secrets['shop:authorization']}")
    return await buf_curl(rig, f"/paycenter.v1.{method}", *authorization, "-d", json.dumps(request), *arguments)


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
async def test_the_methods_are_listed(rig: Rig, protocol: str) -> None:
    code, out, err = await buf_curl(rig, "", "--list-methods", protocol=protocol)
    assert code == 0, err
    methods = set(out.split())
    assert {
        "paycenter.v1.PayOrderService/CreatePayOrder", "grpc.health.v1.Health/Check",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    } <= methods  # fmt: skip


async def test_a_call(rig: Rig) -> None:
    order = await rig.order()
    code, out, err = await call(rig, "PayOrderService/GetPayOrder", {"id": order.id})
    assert code == 0, err
    assert json.loads(out)["payOrder"]["merchantOrderId"] == order.merchant_order_id


async def described(rig: Rig, symbols: list[str]) -> DescriptorPool:
    """A pool of what reflection v1 tells about these symbols, and of nothing else."""
    pool = DescriptorPool()
    async with rig.bare() as channel:
        ask = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
        files: dict[str, FileDescriptorProto] = {}
        async for answer in ask(iter(requests)):
            for text in answer.file_descriptor_response.file_descriptor_proto:
                file = FileDescriptorProto.FromString(text)
                files[file.name] = file

    def add(file: FileDescriptorProto) -> None:
        for name in file.dependency:
            add(files[name])
        pool.Add(file)

    for file in files.values():
        add(file)
    return pool


async def details(rig: Rig, method: str, request: dict[str, Any]) -> dict[str, Any]:
    """The details of an error. buf shows them as bytes (its JSON resolves no types); reflection tells how to read them."""
    code, _, err = await call(rig, method, request)
    assert code != 0
    shown = {detail["type"]: detail["value"] for detail in json.loads(err)["details"]}
    pool = await described(rig, list(shown))
    found = {}
    for name, value in shown.items():
        message = GetMessageClass(pool.FindMessageTypeByName(name)).FromString(base64.b64decode(value + "=="))
        found[name] = MessageToDict(message, descriptor_pool=pool)
    return found


async def test_the_details_of_errors_can_be_read_by_reflection(rig: Rig) -> None:
    wrong = await details(rig, "PayOrderService/CreatePayOrder", {"merchantOrderId": "M"})
    assert wrong["google.rpc.ErrorInfo"]["reason"] == "INVALID_FIELD"
    assert wrong["google.rpc.ErrorInfo"]["metadata"]["request_id"]
    fields = {item["field"] for item in wrong["google.rpc.BadRequest"]["fieldViolations"]}
    assert fields == {"subject", "amount", "user_ip"}
    order = await rig.order()
    request = {"id": order.id, "channelCode": "mock", "channelExtras": {"behaviour": "lost"}}
    unclear = await details(rig, "PayOrderService/SubmitPayOrder", request)
    assert unclear["google.rpc.RetryInfo"] == {"retryDelay": "3s"}


async def test_reflection_v1_describes_itself(rig: Rig) -> None:
    pool = await described(rig, ["grpc.reflection.v1.ServerReflection"])
    (method,) = pool.FindServiceByName("grpc.reflection.v1.ServerReflection").methods
    assert method.input_type.full_name == "grpc.reflection.v1.ServerReflectionRequest"
    kinds = {field.message_type.file.package for field in method.output_type.fields if field.message_type is not None}
    assert kinds == {"grpc.reflection.v1"}
