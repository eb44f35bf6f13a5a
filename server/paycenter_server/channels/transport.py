"""The only outbound channel I/O.

`Transport` is a port: tests may replace it with a channel that answers wrongly or not at all. A failure after bytes may have been
sent is a TransportUnclearError; the caller stores UNKNOWN, never a failure (rule 2). A failure before that is a NotSentError: the
channel has not received the request.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import aiohttp

from paycenter_server.channels.protocol import ClientCertificate, HttpRequest, HttpResponse
from paycenter_server.deadlines import Deadlines
from paycenter_server.domain.guard import refuse_in_transaction
from paycenter_server.host_names import HostNames
from paycenter_server.http_requests import Answer, Client, PoolRequests, Requests, UnreadableError, small_socket

MAX_ANSWER = 256 * 1024
"""Bytes. The largest answers, certificates, have some 20 KiB. They are read on the event loop: 4 MiB took a second of it."""
_CONNECT_SECONDS = 5.0


class TransportUnclearError(Exception):
    """There is no usable answer: time-out, reset, or an answer that is too large. The text states which."""


class NotSentError(TransportUnclearError):
    """The request was not sent: no such host, connection refused, failed TLS handshake, or an invalid address."""


class Transport(Protocol):
    """Sends one request to a channel."""

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        """The answer within these seconds, with any status; TransportUnclearError or NotSentError otherwise."""
        ...


def client_context(certificate: ClientCertificate) -> ssl.SSLContext:
    """A TLS context with a client certificate. OpenSSL needs a file, which is in memory, so that no key is on disk."""
    context = ssl.create_default_context()
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, certificate.certificate.rstrip() + b"\n" + certificate.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


def _failure(error: Exception, url: str, seconds: float) -> TransportUnclearError:
    """The error for a failure, which depends on whether the request may have been sent."""
    host = urlsplit(url).hostname if "://" in url else None
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        unknown = error.os_error.errno == socket.EAI_NONAME
        return NotSentError(
            f"no such host: {host}" if unknown else f"{host} cannot be resolved now: {error.os_error.strerror}"[:300]
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return NotSentError(f"the certificate of {host} is not trusted: {error.certificate_error}"[:300])
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return NotSentError(f"the TLS handshake with {host} failed: {error.os_error}"[:300])
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return NotSentError(f"connection refused by {host}" if refused else f"no connection to {host}: {error.os_error}"[:300])
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return NotSentError(f"no connection to {host} in time")
    if isinstance(error, TimeoutError):
        return TransportUnclearError(f"no answer within {seconds:g} s")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return TransportUnclearError("the connection was closed before an answer came")
    if isinstance(error, ConnectionResetError):
        return TransportUnclearError("the connection was reset before the whole answer came")
    if isinstance(error, UnreadableError):
        return TransportUnclearError(str(error)[:300])
    if isinstance(error, aiohttp.ClientPayloadError):
        return TransportUnclearError("the connection was closed before the whole answer came, or the answer cannot be decoded")
    if isinstance(error, aiohttp.ClientResponseError):
        return TransportUnclearError(f"the answer is not HTTP: {error.message}"[:300])
    if isinstance(error, ValueError):  # headers and address are checked before anything is sent
        return NotSentError(f"the request cannot be sent: {error or type(error).__name__}"[:300])
    return TransportUnclearError(f"{type(error).__name__}: {error}".removesuffix(": ")[:300])


class AiohttpTransport:
    """One pool of connections for all channels. Redirects are not followed, because the channels' APIs have none."""

    def __init__(self, requests: Callable[..., Requests] = PoolRequests) -> None:
        """`requests`: for tests."""
        # URLs are sent byte for byte as given, because they were signed.
        self._names = HostNames()
        self._client = Client(self._connector, encoded=True, connect_seconds=_CONNECT_SECONDS, first=requests)
        self._contexts: WeakKeyDictionary[ClientCertificate, ssl.SSLContext] = WeakKeyDictionary()
        self._limits = lru_cache(maxsize=8)(Deadlines)  # nearly all calls have the same one

    def _tls(self, certificate: ClientCertificate | None) -> ssl.SSLContext | bool:
        if certificate is None:
            return True
        context = self._contexts.get(certificate)
        if context is None:
            context = self._contexts[certificate] = client_context(certificate)
        return context

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        """See Transport. URL and body are sent byte for byte as given."""
        refuse_in_transaction()
        try:
            with self._limits(seconds).next():
                answer = await self._send(request)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise _failure(error, request.url, seconds) from error
        if len(answer.body) > MAX_ANSWER:
            raise TransportUnclearError(f"the answer is larger than {MAX_ANSWER} bytes")
        return HttpResponse(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.body)

    async def _send(self, request: HttpRequest) -> Answer:
        tls = self._tls(request.client_certificate)
        arguments = (request.method, request.url, request.headers, request.body, MAX_ANSWER + 1, tls)
        try:
            return await self._client.send(*arguments)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            # A connection that was idle may have been closed by the channel when the request arrived (RFC 9112, 9.3.1).
            if request.method != "GET" or isinstance(error, aiohttp.ClientConnectorError):
                raise
            lost = error
        try:
            return await self._client.send(*arguments)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            # No connection for the repetition: that says nothing about the first request, which was sent.
            raise lost from None

    def _connector(self) -> aiohttp.TCPConnector:
        # No limit, also not by host, which all accounts of a family share: one account that hangs must not delay the others. The
        # gateway limits the calls of each.
        return aiohttp.TCPConnector(limit=0, keepalive_timeout=30, resolver=self._names.resolver(), socket_factory=small_socket)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
