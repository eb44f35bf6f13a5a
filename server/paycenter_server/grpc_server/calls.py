"""What every call of the services needs besides its method: admission, credentials, deadline, errors and log.

It is a generic handler and not an interceptor of gRPC, which would cost a coroutine for each call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from paycenter_server.domain.audit import set_origin
from paycenter_server.domain.errors import PayCenterError, Reason, Violation, invalid
from paycenter_server.domain.events import set_actor
from paycenter_server.domain.roles import app_may_call, disabled_app_may_call
from paycenter_server.grpc_server.audit import is_administrative, may_be_administrative, named_object
from paycenter_server.grpc_server.errors import CODES, server_stopping, to_status
from paycenter_server.services.context import deadline
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.limits import OPERATORS, UNKNOWN, Admission, Place, place
from paycenter_server.services.turns import Turns
from paycenter_server.storage.database import retryable_error
from paycenter_server.telemetry import begin_request, usable_id

log = structlog.get_logger(__name__)
_OURS = "/paycenter.v1."
_MANY_ROWS = frozenset({
    "ListPayOrders", "ListPayRefunds", "ListPayNotifications", "ListPayCases", "ListAuditEntries", "GetPayOrderTimeline",
    "ResendPayNotifications",
})  # fmt: skip
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_Ending = tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]
_caller: ContextVar[Caller] = ContextVar("paycenter_caller")


class _Headers:
    """What is read of the metadata of a call."""

    __slots__ = ("authorization", "request_id")

    def __init__(self, metadata: Iterable[Any] | None) -> None:
        self.authorization: str | None = None
        self.request_id: Any = None
        for key, value in metadata or ():
            if key == "authorization":
                self.authorization = value if isinstance(value, str) else None
            elif key == "x-request-id":
                self.request_id = value


class _AfterOthers:
    """To be awaited as `asyncio.sleep(0)`, without its two coroutines."""

    def __await__(self) -> Generator[Any, Any, None]:
        return iter((None,))  # type: ignore[return-value]


_AFTER_OTHERS = _AfterOthers()
_headers: ContextVar[_Headers | None] = ContextVar("paycenter_headers", default=None)


def current_caller() -> Caller:
    """The caller of the method that this task handles."""
    return _caller.get()


class Calls(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Handles every exception, because grpc.aio sends the text of an unhandled one to the caller."""

    def __init__(self, identity: Identity, admission: Admission) -> None:
        self._identity = identity
        self._admission = admission
        self.turns = Turns()
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._refusing = False
        self._refused = 0
        self._log = log.bind()  # looked up once, for the line of every call

    async def refuse_calls(self, quiet: float, at_most: float) -> None:
        """Refuse every new call with SERVER_STOPPING. Returns when none has arrived for `quiet` seconds, or after `at_most`.

        grpc.aio cancels a call that arrives after `stop()` and before the client has read the GOAWAY frame. Clients that were
        refused wait before they call again, so few or no calls arrive in that time.
        """
        self._refusing = True
        loop = asyncio.get_running_loop()
        end = loop.time() + at_most
        seen = -1
        while seen != self._refused and loop.time() < end:
            seen = self._refused
            await asyncio.sleep(quiet)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a call, and whether the call is begun. None for methods of other services (health, reflection).

        gRPC calls it in the task of the call, when it has read the headers: a call that is refused here costs least. It takes its
        place when its message is there, because the message may never come.
        """
        wrapped = self._wrapped.get(handler_call_details.method)
        if wrapped is None or self._refusing:
            return wrapped  # while it refuses, the method does that, also if there is no place for the call
        headers = _Headers(handler_call_details.invocation_metadata)
        known = self._identity.known(headers.authorization) if headers.authorization else None
        try:
            self._admission.check(known, verified=known is not None or self._is_verified(headers))
        except PayCenterError as error:
            return self._refusal(error, headers)
        _headers.set(headers)
        return wrapped

    def _is_verified(self, headers: _Headers) -> bool:
        """Whether the credential of a call was verified before."""
        return headers.authorization is not None and self._identity.last_known(headers.authorization) is not None

    def _refusal(self, error: PayCenterError, headers: _Headers) -> grpc.RpcMethodHandler[Any, Any]:
        """What answers a call that is not begun. As a handler of streams it does not wait for the message of the request."""
        known = self._identity.last_known(headers.authorization) if headers.authorization else None

        async def refuse(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            del requests
            await self._refuse(context, _ending(error, usable_id(headers.request_id)), known)

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _refuse(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        ending: _Ending,
        caller: Caller | None,
        note: Callable[[], None] | None = None,
    ) -> None:
        """Answer TOO_MANY_CALLS, or that the credential is none. `note`: writes a line to the log, unless there are so many that
        they are counted."""
        with self._admission.refusal(caller.app_id or OPERATORS if caller else UNKNOWN, counted=note is None) as refusal:
            if note is not None and not refusal.many:
                note()
            if refusal.seconds and not self._refusing:
                # Half of the time that the caller waits, so that it is told why.
                remaining = context.time_remaining()
                await asyncio.sleep(refusal.seconds if remaining is None else min(refusal.seconds, remaining / 2))
        await context.abort(*ending)

    def wrap(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[..., Awaitable[Any]]:
        """The behaviour of a unary method with everything that every call needs. It takes the bytes of the request, the
        context, and, if they are not protobuf, what parses them and what makes the answer of the message.
        """
        many_rows = method.rpartition("/")[2] in _MANY_ROWS
        name, deserialize, serialize = method.removeprefix(_OURS), handler.request_deserializer, handler.response_serializer
        administrative = may_be_administrative(name)
        for_apps, for_disabled_apps = app_may_call(name), disabled_app_may_call(name)
        behaviour: Callable[[Any, Any], Awaitable[Any]] | None = handler.unary_unary
        assert behaviour is not None
        assert deserialize is not None
        assert serialize is not None

        async def call(
            raw: bytes,
            context: grpc.aio.ServicerContext[Any, Any],
            parse: Callable[[bytes], Any] = deserialize,
            render: Callable[[Any], bytes] = serialize,
        ) -> Any:
            loop = asyncio.get_running_loop()
            started = loop.time()
            remaining = context.time_remaining()
            deadline.set(None if remaining is None or remaining > 86_400 else started + remaining)
            peer = context.peer()
            headers = _headers.get() or _Headers(context.invocation_metadata())
            taken: Place | None = None
            source = begin_request(headers.request_id, peer)
            set_origin(source)
            caller = request = answer = rendered = None
            # Not the caller of the headers: the message may come at any time after them.
            known = self._identity.known(headers.authorization) if headers.authorization else None
            failure: PayCenterError | None = None
            outcome = "CANCELLED"
            try:
                if self._refusing:
                    self._refused += 1
                    raise server_stopping()
                taken = self._admission.begin(verified=known is not None or self._is_verified(headers))
                place.set(taken)
                caller = known or await self._identity.authenticate(headers.authorization)
                self._admission.charge(taken, caller.app_id)
                _caller.set(caller)
                set_actor(caller.actor)
                if caller.is_operator or not for_apps or not (for_disabled_apps or self._identity.known_app(caller, "")):
                    await self._identity.require(caller, name)
                request = _parsed(raw, parse)
                if many_rows:
                    async with self.turns.of(caller.app_id, taken.waiting_for_turn):
                        answer = await behaviour(request, context)
                else:
                    answer = await behaviour(request, context)
                rendered = render(answer)
                outcome = "OK"
            except PayCenterError as error:
                failure = error
            except asyncio.CancelledError:
                log.info("call_cancelled", method=name, key_id=caller.key_id if caller else "")
                raise
            except Exception as error:
                failure = _unexpected(error, name, source.request_id)
            finally:
                if taken is not None:
                    taken.end()
                outcome = failure.reason.value if failure else outcome
                seconds = loop.time() - started
                if administrative and caller is not None and is_administrative(name, caller):
                    about = named_object(request, answer)
                    log.info("administration", method=name, key_id=caller.key_id, object=about, outcome=outcome, ms=_ms(seconds))
            if failure is None:
                self._log.debug("call", method=name, key_id=caller.key_id if caller else "", ms=seconds * 1000)
                # Calls whose shared statement has ended go on one after the other. The answers of all are made before the first is
                # sent: code and data that are used again at once are still in the caches of the processor.
                await _AFTER_OTHERS
                return rendered
            reason, ending = failure.reason, _ending(failure, source.request_id)
            # gRPC keeps the exception of `abort`, and with it this frame, until the garbage collector finds both; a late refusal
            # waits as well. What the caller has sent must not stay for so long.
            raw, request, answer, failure = b"", None, None, None
            if reason is Reason.TOO_MANY_CALLS:
                return await self._refuse(context, ending, caller)
            note = partial(
                log.info, "call_failed", method=name, key_id=caller.key_id if caller else "", reason=outcome, ms=_ms(seconds)
            )
            if CODES[reason] is grpc.StatusCode.UNAUTHENTICATED:
                return await self._refuse(context, ending, None, note)
            note()
            return await context.abort(*ending)

        # Without a deserializer: gRPC would send the text of its exception to the caller.
        self._wrapped[method] = grpc.unary_unary_rpc_method_handler(call)
        return call


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _parsed(raw: bytes, parse: Callable[[bytes], Any]) -> Any:
    """The request; INVALID_FIELD if it is none, or if a text holds a NUL, which no text column can store."""
    try:
        request = parse(raw)
    except DecodeError:
        raise invalid([Violation("request", "is not a message of this method")]) from None
    # In JSON a NUL is written as an escape.
    if (b"\0" in raw or b"\\u0000" in raw) and (fields := _with_nul(request, "")):
        raise invalid([Violation(field, "must not hold control characters") for field in fields])
    return request


def _with_nul(message: Message, prefix: str) -> list[str]:
    found = []
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if isinstance(value, Mapping):
            found += [path] if any("\0" in f"{key}{item}" for key, item in value.items()) else []
        elif isinstance(value, Message):
            found += _with_nul(value, f"{path}.")
        elif isinstance(value, str) and "\0" in value:
            found.append(path)
    return found


def _unexpected(error: Exception, method: str, request_id: str) -> PayCenterError:
    if (known := retryable_error(error)) is not None:
        log.warning(known.reason.value.lower(), method=method, why=f"{type(error).__name__}: {error}"[:300])
        return known
    log.exception("internal_error", method=method)
    return PayCenterError(
        Reason.INTERNAL,
        f"An internal error; the server's log has it under request id {request_id}. Read the resource before trying again.",
    )


def _ending(error: PayCenterError, request_id: str) -> _Ending:
    """The code, the message and the trailers of a call that has failed, cut to what gRPC sends."""
    status = to_status(error, request_id)
    trailing: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    if error.retry_after is not None:
        # gRPC clients with a retry policy wait for this time.
        trailing.append(("grpc-retry-pushback-ms", str(int(error.retry_after * 1000)).encode()))
    return _CODES[status.code], status.message, tuple(trailing)
