"""Server reflection in both versions. grpcio-reflection has v1alpha only; v1 has the same messages in another package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

_V1ALPHA = "grpc.reflection.v1alpha"
_V1 = "grpc.reflection.v1"
_FILE = "grpc/reflection/v1/reflection.proto"

# Clients ask for the types of error details by name: the module puts them into the pool that reflection reads.
ERROR_DETAILS = error_details_pb2.DESCRIPTOR.name


def _describe_v1() -> None:
    """Add the descriptor of v1 to the pool that reflection reads."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_FILE)
    except KeyError:
        file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
        file.name, file.package = _FILE, _V1
        for field in (field for message in file.message_type for field in message.field if field.type_name):
            field.type_name = field.type_name.replace(f".{_V1ALPHA}.", f".{_V1}.")
        for method in file.service[0].method:
            method.input_type = method.input_type.replace(f".{_V1ALPHA}.", f".{_V1}.")
            method.output_type = method.output_type.replace(f".{_V1ALPHA}.", f".{_V1}.")
        pool.AddSerializedFile(file.SerializeToString())


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Serve the descriptors of these services, and of reflection itself."""
    _describe_v1()
    servicer: Any = ReflectionServicer((*services, f"{_V1}.ServerReflection", f"{_V1ALPHA}.ServerReflection"))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler(f"{_V1}.ServerReflection", {"ServerReflectionInfo": handler})
    server.add_generic_rpc_handlers((generic,))
