"""The calls of a stub with credentials, a deadline and typed errors, by a wrapper around the stub's channel.

Interceptors of gRPC are not used, because they need a task per call in asyncio and cannot change the error of a blocking call.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

import grpc
from grpc import aio

from paycenter._options import Options
from paycenter._status import from_rpc_error

Pairs = Iterable[tuple[str, str | bytes]]


class _Base:
    def __init__(self, call: Any, options: Options) -> None:
        self._call = call
        self._timeout = options.timeout
        self._metadata = options.metadata

    def _begin(
        self, how: Callable[..., Any], request: Any, timeout: float | None, metadata: Pairs | None, more: dict[str, Any]
    ) -> Any:
        return how(
            request,
            timeout=self._timeout if timeout is None else timeout,
            metadata=(*self._metadata, *(metadata or ())),
            **more,
        )


class BlockingCall(_Base):
    """A replacement of `grpc.UnaryUnaryMultiCallable`. `timeout` is in seconds; None means the client's default."""

    def __call__(self, request: Any, timeout: float | None = None, metadata: Pairs | None = None, **more: Any) -> Any:
        """The response. Raises PayCenterError."""
        try:
            return self._begin(self._call, request, timeout, metadata, more)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def with_call(self, request: Any, timeout: float | None = None, metadata: Pairs | None = None, **more: Any) -> Any:
        """The response and the call. Raises PayCenterError."""
        try:
            return self._begin(self._call.with_call, request, timeout, metadata, more)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def future(self, request: Any, timeout: float | None = None, metadata: Pairs | None = None, **more: Any) -> Any:
        """The future of gRPC, which raises `grpc.RpcError`."""
        return self._begin(self._call.future, request, timeout, metadata, more)


class AsyncCall(_Base):
    """A replacement of `grpc.aio.UnaryUnaryMultiCallable`."""

    def __call__(self, request: Any, timeout: float | None = None, metadata: Pairs | None = None, **more: Any) -> Running:
        """A call whose await returns the response or raises PayCenterError."""
        return Running(self._begin(self._call, request, timeout, metadata, more))


class Running:
    """A `grpc.aio.UnaryUnaryCall` that raises typed errors when it is awaited."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._call.__await__())
        except aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class Wrapped:
    """A replacement of a channel, from which a stub is created."""

    def __init__(self, channel: Any, options: Options, kind: type[BlockingCall] | type[AsyncCall]) -> None:
        self._channel = channel
        self._options = options
        self._kind = kind

    def unary_unary(self, *arguments: Any, **named: Any) -> BlockingCall | AsyncCall:
        """The method of a channel that a generated stub calls."""
        return self._kind(self._channel.unary_unary(*arguments, **named), self._options)
