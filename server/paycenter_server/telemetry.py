"""Logs: one JSON object a line (or readable lines in development), also those of libraries. Secrets are never logged."""

from __future__ import annotations

import logging
import os
import sys
import time
from contextvars import ContextVar

import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# Where aiohttp defines the errors for requests that are no HTTP.
_CLIENT_ERRORS = ("aiohttp.http_exceptions", "aiohttp.web_protocol")


class _ClientErrors(logging.Filter):
    """What a client of the sidecar sent wrong is one line without a traceback: anybody can send it."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        while error is not None and type(error).__module__ not in _CLIENT_ERRORS:
            error = error.__cause__ or error.__context__
        if error is not None:
            why = " ".join(str(error).split())[:200]
            record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}: {why}", ()
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


def configure_logging(format_: str, level: str) -> None:
    """For this process: structlog's loggers, and those of the standard library, which libraries use, from WARNING on."""
    console = format_ == "console"
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=False) if console else structlog.processors.JSONRenderer()
    )
    shared: list[structlog.typing.Processor] = [
        add_request,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_LEVELS[level], logging.WARNING))
    logging.captureWarnings(True)
    server = logging.getLogger("aiohttp.server")
    server.filters[:] = [_ClientErrors()]
    if not console:
        # gRPC's C core writes lines of its own format; what goes wrong there also fails a call or a start.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def usable_id(given: object) -> str:
    """The given request id if it is short printable ASCII, else a new one."""
    if isinstance(given, str) and 0 < len(given) <= 64 and given.isascii() and given.isprintable() and " " not in given:
        return given
    return os.urandom(16).hex()


class Request:
    """A call. `peer`: the address of its caller."""

    __slots__ = ("_given", "_request_id", "peer")

    def __init__(self, given: object, peer: str) -> None:
        self._given = given
        self._request_id = ""
        self.peer = peer

    @property
    def request_id(self) -> str:
        """The caller's identifier if it is short printable ASCII, else a new one. It is made when it is first asked for."""
        if not self._request_id:
            self._request_id = usable_id(self._given)
        return self._request_id


_request: ContextVar[Request | None] = ContextVar("paycenter_request", default=None)


def begin_request(given: object, peer: str) -> Request:
    """The call that this task handles. `given`: what the caller has sent to identify it.

    Its identifier and the peer's address are in every log line of this task, and of the tasks that it starts.
    """
    request = Request(given, peer)
    _request.set(request)
    return request


def add_request(logger: object, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A processor of structlog that names the call of the task."""
    request = _request.get()
    if request is not None:
        event.setdefault("request_id", request.request_id)
        event.setdefault("peer", request.peer)
    return event


class Sampled:
    """What is written `most` times in each period of so many seconds. When a later period begins, a line of this name says how many
    more there were."""

    def __init__(self, name: str, most: int, seconds: float) -> None:
        self._name = name
        self._most = most
        self._seconds = seconds
        self._begun = float("-inf")
        self._number = 0

    def permits(self) -> bool:
        """Count one more. Whether it is to be written."""
        now = time.monotonic()
        if now - self._begun >= self._seconds:
            if self._number > self._most:
                structlog.get_logger(__name__).warning(self._name, number=self._number - self._most)
            self._begun, self._number = now, 0
        self._number += 1
        return self._number <= self._most
