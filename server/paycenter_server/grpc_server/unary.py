"""The methods of the gRPC server for a transport other than gRPC: the same handlers behind the same `Calls`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.grpc_server.calls import Calls
from paycenter_server.grpc_server.errors import to_status


class CallError(Exception):
    """A call that has failed, with what a gRPC client gets as `grpc-status-details-bin`."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


class _Context:
    """Of `grpc.aio.ServicerContext` what `Calls` uses. The methods themselves use nothing of it."""

    def __init__(self, metadata: Mapping[str, str], peer: str, timeout: float | None) -> None:
        self._metadata = tuple(metadata.items())
        self._peer = peer
        self._end = None if timeout is None else asyncio.get_running_loop().time() + timeout

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._metadata

    def peer(self) -> str:
        return self._peer

    def time_remaining(self) -> float | None:
        return None if self._end is None else self._end - asyncio.get_running_loop().time()

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Sequence[tuple[str, Any]]) -> NoReturn:
        del code, details
        raise CallError(Status.FromString(dict(trailing)["grpc-status-details-bin"]))


@dataclass(frozen=True, slots=True)
class Method:
    """A unary method: the classes of its messages, and its handler behind `Calls`."""

    request: type[Message]
    response: type[Message]
    handler: Callable[[bytes, Any, Callable[[bytes], Any], Callable[[Any], bytes]], Any]


class Unary:
    """Takes servicers as a `grpc.Server` does. `methods` has all by path, such as `/paycenter.v1.PayOrderService/GetPayOrder`."""

    def __init__(self, calls: Calls, services: Sequence[ServiceDescriptor]) -> None:
        self.methods: dict[str, Method] = {}
        self._calls = calls
        self._services = {service.full_name: service for service in services}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler[Any, Any]]) -> None:
        """The same methods as those of `add_registered_method_handlers`."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        """Called by the generated code with the methods of a service."""
        for method in self._services[service].methods:
            path, handler = f"/{service}/{method.name}", handlers[method.name]
            self.methods[path] = Method(
                message_factory.GetMessageClass(method.input_type),
                message_factory.GetMessageClass(method.output_type),
                self._calls.wrap(path, handler),
            )

    async def call(
        self,
        method: Method,
        raw: bytes,
        parse: Callable[[bytes], Message],
        render: Callable[[Any], bytes],
        *,
        metadata: Mapping[str, str],
        peer: str,
        timeout: float | None,
    ) -> bytes:
        """What `render` makes of the response. `parse` raises DecodeError or PayCenterError; `timeout` in seconds.

        Raises CallError.
        """
        context = _Context(metadata, peer, timeout)
        try:
            async with asyncio.timeout(timeout):
                # A task of its own: what is known of a call is in context variables, and a connection has one task for all.
                answer: bytes = await asyncio.create_task(method.handler(raw, context, parse, render))
                return answer
        except TimeoutError:
            late = PayCenterError(
                Reason.DEADLINE_EXCEEDED, "The deadline passed; the call may still have an effect. Read the resource."
            )
            raise CallError(to_status(late, metadata.get("x-request-id", ""))) from None
